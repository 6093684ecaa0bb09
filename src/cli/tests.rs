//! What the documents say of the command line is there.

use std::path::Path;

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser};

use super::Cli;

/// Lists the Markdown files below a folder.
fn documents(folder: &Path, found: &mut Vec<String>) {
    for entry in std::fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            documents(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "md") {
            found.push(std::fs::read_to_string(&path).expect("a text"));
        }
    }
}

/// Lists the command lines of a document: those of code blocks, and those within the text and its tables.
fn lines_of(document: &str) -> Vec<String> {
    let mut lines = Vec::new();
    for (index, part) in document.split("```").enumerate() {
        if index % 2 == 1 {
            let begins = |line: &&str| line.starts_with("seckill ") && !line.starts_with("seckill 0.");
            let bare = part.lines().map(|line| line.trim().trim_start_matches("$ "));
            let bare = bare.map(|line| line.strip_prefix("target/debug/").unwrap_or(line));
            lines.extend(bare.filter(begins).map(|line| line.split("  ").next().unwrap_or(line).to_owned()));
            continue;
        }
        let quoted = part.split('`').skip(1).step_by(2).map(|code| code.replace('\n', " "));
        lines.extend(quoted.filter(|code| code.starts_with("seckill ")));
        let rows = part.lines().filter_map(|line| line.strip_prefix("| `"));
        let rows = rows.filter_map(|row| row.split('`').next());
        let commands = Cli::command();
        let is_command = |row: &&str| {
            let word = row.split([' ', '\\']).next().unwrap_or_default();
            row.contains(' ') && commands.get_subcommands().any(|command| command.get_name() == word)
        };
        lines.extend(rows.filter(is_command).map(|row| format!("seckill {row}")));
    }
    lines
}

/// Makes the words of a command line: of alternatives the first one, and an example of what is to be put in.
fn words(line: &str) -> Vec<String> {
    let line = line.split(" # ").next().unwrap_or(line).replace("\\|", "|").replace(['[', ']', '(', ')'], "");
    let mut words: Vec<String> = Vec::new();
    let mut is_quoted = false;
    for word in line.split_whitespace() {
        if !is_quoted {
            let word = word.split('|').next().unwrap_or(word).trim_end_matches(['…', ',', '.']);
            let is_name = word.len() > 1
                && word != "OPTIONS"
                && word.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'_');
            words.push(if is_name { "1".to_owned() } else { word.replace("A:P", "127.0.0.1:1") });
        }
        is_quoted ^= word.matches(['"', '\'']).count() % 2 == 1;
    }
    words.retain(|word| !word.is_empty() && word != "OPTIONS");
    words
}

#[test]
fn every_command_line_of_the_documents_is_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut texts = vec![std::fs::read_to_string(root.join("README.md")).expect("a text")];
    documents(&root.join("docs"), &mut texts);
    let lines: Vec<String> = texts.iter().flat_map(|text| lines_of(text)).collect();
    assert!(lines.len() > 90, "{}", lines.len());
    let is_wrong = |line: &&String| match Cli::try_parse_from(words(line)) {
        Ok(_) => false,
        // A line may name a group of commands, or leave out what has to be given.
        Err(error) => matches!(error.kind(), ErrorKind::InvalidSubcommand | ErrorKind::UnknownArgument),
    };
    let wrong: Vec<&String> = lines.iter().filter(is_wrong).collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

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
