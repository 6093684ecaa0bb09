//! Every command says what it does.

use clap::CommandFactory;

use super::Cli;

#[test]
fn every_command_says_what_it_does() {
    fn silent(command: &clap::Command, path: &str, found: &mut Vec<String>) {
        for sub in command.get_subcommands() {
            let path = format!("{path} {}", sub.get_name());
            if sub.get_about().is_none() {
                found.push(path.clone());
            }
            silent(sub, &path, found);
        }
    }
    let mut found = Vec::new();
    Cli::command().debug_assert();
    silent(&Cli::command(), "seckill", &mut found);
    assert!(found.is_empty(), "{found:?}");
}
