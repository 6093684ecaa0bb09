//! The load tool's command. It parses the command line, runs the command, and exits with the code of its verdict.

use std::process::ExitCode;

use clap::Parser;
use loadtest::cli::Cli;
use loadtest::command;

const FAILED: u8 = 1;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("loadtest: cannot start: {error}");
            return ExitCode::from(FAILED);
        }
    };
    match runtime.block_on(command::execute(cli)) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("loadtest: {error:#}");
            ExitCode::from(FAILED)
        }
    }
}
