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

/// The commands that change the stores themselves, with the action of the row that each leaves in the audit log. Its
/// test is in `tests/it/by_hand.rs`, or where the command is tried.
const BY_HAND: &[(&str, &str)] = &[
    ("import", "create"),
    ("key create", "key_create"),
    ("migrate", "migrate"),
    ("position move", "position_move"),
    #[cfg(feature = "distributed")]
    ("recover mysql", "mysql_recover"),
    ("views rebuild", "views_rebuild"),
];

/// The commands that change nothing of a shop, or only serve one.
const CHANGES_NOTHING: &[&str] = &[
    "completions",
    "config check",
    "config explain",
    "config init",
    "config show",
    #[cfg(feature = "embedded")]
    "demo",
    "doctor",
    "export",
    "load",
    "man",
    "notify test",
    "openapi",
    "position show",
    "provider",
    "serve",
    "token mint",
];

#[test]
fn every_command_asks_the_admin_api_or_leaves_a_row_itself_or_changes_nothing() {
    fn leaves(command: &clap::Command, path: &str, over_api: bool, found: &mut Vec<String>) {
        let over_api = over_api || command.get_arguments().any(|argument| argument.get_id() == "api_key");
        let subs: Vec<_> = command.get_subcommands().collect();
        if subs.is_empty() && !over_api {
            found.push(path.trim_start().to_owned());
        }
        subs.iter().for_each(|sub| leaves(sub, &format!("{path} {}", sub.get_name()), over_api, found));
    }
    let mut found = Vec::new();
    leaves(&Cli::command(), "", false, &mut found);
    let mut known: Vec<&str> = BY_HAND.iter().map(|(command, _)| *command).collect();
    known.extend(CHANGES_NOTHING);
    found.sort_unstable();
    known.sort_unstable();
    // What goes over the admin API is walked by its routes: tests/it/conformance/changes.rs.
    assert_eq!(found, known);
}
