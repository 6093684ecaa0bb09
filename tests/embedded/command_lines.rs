//! Every command line of the documents does what it says, or says why it does not.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::Command;

use seckill::clock::Clock;
use serde_json::{Value, json};

use crate::binary::{Folder, Process, command, run, settings};
use crate::harness::{eventually, operate, rfc3339, sale_body, token};
use crate::load::open_sale;

/// What becomes of a command line here.
enum Expected {
    /// It ends with 0.
    Done,
    /// It ends with this code and says this.
    Refused(i32, &'static str),
    /// It serves until it is ended.
    Serves,
    /// Another test runs it.
    Elsewhere,
}

/// Command lines that do not end with 0 here, by their beginning.
const OTHERS: &[(&str, Expected)] = &[
    // tests/it and tests/outages run them apart, on servers.
    ("seckill serve --role api", Expected::Refused(1, "embedded mode is one process")),
    ("seckill serve --role worker", Expected::Refused(1, "embedded mode is one process")),
    ("seckill serve", Expected::Serves),
    ("seckill demo", Expected::Serves),
    ("seckill provider", Expected::Serves),
    // tests/outages/command_line.rs, on servers.
    ("seckill recover", Expected::Elsewhere),
    ("seckill import --config config/distributed.toml", Expected::Elsewhere),
    // scripts/load-smoke.
    ("seckill load", Expected::Elsewhere),
    // tests/embedded/reload.rs: the process has to have a file.
    ("seckill config reload", Expected::Elsewhere),
    ("seckill payments retry", Expected::Refused(1, "No refund of this id has failed.")),
    ("seckill payments settle", Expected::Refused(1, "No refund of this id has failed.")),
    ("seckill notify test", Expected::Refused(1, "notify.url")),
    ("seckill dead-letters show", Expected::Refused(1, "There is no such dead letter.")),
    ("seckill position move 1 --to 5", Expected::Refused(1, "the log has the offsets from 0 to")),
    ("seckill order refund", Expected::Refused(1, "are not as it was wanted")),
    // Nobody can pay.
    ("seckill sale preflight", Expected::Refused(4, "cannot sell as it is")),
];

/// Lists the Markdown files below a folder.
fn documents(folder: &Path, found: &mut Vec<String>) {
    let entries = fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path());
    let mut entries: Vec<_> = entries.collect();
    entries.sort();
    for path in entries {
        if path.is_dir() {
            documents(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "md") {
            found.push(fs::read_to_string(&path).expect("a text"));
        }
    }
}

/// Lists the command lines of a document: those of code blocks, and those within the text and its tables.
fn lines_of(document: &str, commands: &BTreeSet<String>) -> Vec<String> {
    let mut lines = Vec::new();
    for (index, part) in document.split("```").enumerate() {
        if index % 2 == 1 {
            let bare = part.lines().map(|line| line.trim().trim_start_matches("$ "));
            let bare = bare.map(|line| line.strip_prefix("target/debug/").unwrap_or(line));
            let begins = |line: &&str| line.starts_with("seckill ") && !line.starts_with("seckill 0.");
            lines.extend(bare.filter(begins).map(|line| line.split("  ").next().unwrap_or(line).to_owned()));
            continue;
        }
        let quoted = part.split('`').skip(1).step_by(2).map(|code| code.replace('\n', " "));
        lines.extend(quoted.filter(|code| code.starts_with("seckill ")));
        for row in part.lines().filter(|line| line.starts_with("| `")) {
            let cell = row.replace("\\|", "¦");
            let cell = cell.split('|').nth(1).unwrap_or_default().to_owned();
            let code = cell.split('`').skip(1).step_by(2).map(|code| code.replace('¦', "|"));
            let is_command = |code: &String| {
                commands.contains(code.split(' ').next().unwrap_or_default()) && code.contains(' ')
            };
            lines.extend(code.filter(is_command).map(|code| format!("seckill {code}")));
        }
    }
    lines
}

/// Makes the lines that a line stands for: one of each alternative, without brackets.
fn alternatives(line: &str) -> Vec<String> {
    let line = line.split(" # ").next().unwrap_or(line).replace("\\|", "|");
    let line = line.replace("ORDER…|--sale SALE [--sku S]", "ORDER").replace("LETTER…|--all", "LETTER");
    let line = line
        .replace("[OPTIONS]", "")
        .replace("\"…\"", "x")
        .replace(" …", " x")
        .replace(",…", "")
        .replace(['[', ']', '…'], "");
    let mut lines = vec![String::new()];
    for word in line.split_whitespace() {
        let choices: Vec<&str> = word.split('|').collect();
        lines = choices
            .iter()
            .flat_map(|choice| lines.iter().map(move |line| format!("{line} {choice}")))
            .collect();
    }
    lines.into_iter().map(|line| line.trim().to_owned()).collect()
}

/// A shop that serves, and one that does not.
struct World {
    served: Folder,
    process: Process,
    stopped: Folder,
    key: String,
    order: String,
    letter: String,
    node: String,
    webhook: String,
    spare_key: String,
}

/// Names the sale that a line is about.
fn sale_of(line: &str) -> &'static str {
    let is_of = |words: &[&str]| words.iter().any(|word| line.split(' ').any(|it| it == *word));
    if line == "seckill sale preheat SALE" {
        "drop"
    } else if is_of(&["publish", "preheat", "pause", "resume"]) || line.starts_with("seckill sale end SALE") {
        "next"
    } else if is_of(&["end", "settle", "report", "export", "views"]) {
        "over"
    } else {
        "drop"
    }
}

impl World {
    async fn new() -> Self {
        let (served, stopped) = (Folder::new(), Folder::new());
        let create = |folder: &Folder, name: &str| {
            run(command(folder.path(), &["key", "create", "--name", name, "--role", "admin"])).1
        };
        let (key, spare) = (create(&served, "tester"), create(&served, "spare"));
        assert!(!spare.is_empty());
        let other = create(&stopped, "tester");
        // A shop whose sale is over, for the commands that need the folder for themselves.
        let process = Process::serve(stopped.path()).await;
        open_sale(process.admin, &other, "over", 3).await;
        let ended = operate(process.admin, &other, "POST", "/sales/over/end", json!({ "reason": "x" })).await;
        assert_eq!(ended.status, 200);
        assert!(process.stop().success());
        let process = Process::serve(served.path()).await;
        open_sale(process.admin, &key, "drop", 10).await;
        open_sale(process.admin, &key, "over", 3).await;
        let ended = operate(process.admin, &key, "POST", "/sales/over/end", json!({ "reason": "x" })).await;
        assert_eq!(ended.status, 200);
        let draft =
            operate(process.admin, &key, "POST", "/sales", sale_body("next", 1, &[("phone", 1)])).await;
        assert_eq!(draft.status, 201);
        let rule = json!({ "kind": "token_bucket", "scope": "user", "match": { "route": "purchase" },
            "value": { "rate": 1000, "burst": 1000 }, "reason": "x" });
        assert_eq!(operate(process.admin, &key, "PUT", "/rules/walk", rule).await.status, 200);
        let bearer = format!("Bearer {}", token("ada"));
        let headers = [
            ("Authorization", bearer.as_str()),
            ("Content-Type", "application/json"),
            ("Idempotency-Key", "k"),
        ];
        let body = r#"{"sku_id":"phone","quantity":1}"#;
        let bought =
            crate::client::call(process.shopper, "POST", "/api/v1/sales/drop/orders", &headers, body).await;
        let order = bought.json()["id"].as_str().expect("an id").to_owned();
        let read = async |path: &str| operate(process.admin, &key, "GET", path, Value::Null).await.json();
        eventually("the order has a row", async || {
            read(&format!("/orders/{order}")).await["status"] == "awaiting_payment"
        })
        .await;
        let hook = json!({ "url": "https://shop.example/events", "kinds": ["paid"], "reason": "x" });
        let hook = operate(process.admin, &key, "POST", "/webhooks", hook).await.json();
        let text = |value: &Value| value.as_str().expect("text").to_owned();
        let keys = read("/keys").await;
        let spare = keys["keys"].as_array().expect("keys").iter().find(|key| key["name"] == "spare");
        let (node, spare_key) =
            (text(&read("/nodes").await["nodes"][0]["id"]), text(&spare.expect("it")["id"]));
        Self {
            letter: "0-1".to_owned(),
            webhook: text(&hook["id"]),
            served,
            process,
            stopped,
            key,
            order,
            node,
            spare_key,
        }
    }

    /// Fills in what a line leaves open.
    fn fill(&self, word: &str, before: &str, line: &str) -> String {
        let at = |later_ms: i64| rfc3339(Clock::System.now_ms() + later_ms);
        let file = |name: &str, text: String| {
            let path = self.served.path().with_extension(name);
            fs::write(&path, text).expect("written");
            path.to_str().expect("text").to_owned()
        };
        match word {
            "SALE" | "drop-1" => sale_of(line).to_owned(),
            "NEW" => "drop-2".to_owned(),
            "SKU" => "phone".to_owned(),
            "ORDER" => self.order.clone(),
            "LETTER" => self.letter.clone(),
            "NODE" => self.node.clone(),
            "WEBHOOK" => self.webhook.clone(),
            "KEY" => self.spare_key.clone(),
            "RULE" => "walk".to_owned(),
            "SWITCH" => "no_lists".to_owned(),
            "DEPENDENCY" => "folder".to_owned(),
            "URL" => "https://shop.example/events".to_owned(),
            "A:P" => "127.0.0.1:0".to_owned(),
            "UNITS" => "10".to_owned(),
            "N" | "PART" | "INSTANCE" | "1" => "1".to_owned(),
            "TIME" if before == "--starts-at" => at(86_400_000),
            "TIME" if before == "--ends-at" || before == "--until" => at(90_000_000),
            "TIME" => at(-86_400_000),
            "STATE" => "paid".to_owned(),
            "PREFIX" => "http".to_owned(),
            "S" if before == "--sale" => "drop".to_owned(),
            "S" => "phone".to_owned(),
            "OFFSET" => "0".to_owned(),
            "REASON" => "garbage".to_owned(),
            "FOLDER" if before != "--data" => {
                self.served.path().with_extension("man").to_str().expect("text").to_owned()
            }
            "FILE" if line.contains("rule") => file(
                "rule.json",
                json!({ "kind": "token_bucket", "scope": "user", "match": { "route": "purchase" },
                    "value": { "rate": 1000, "burst": 1000 } })
                .to_string(),
            ),
            "FILE" if line.contains("sale create") => {
                file("sale.json", sale_body("made", 1, &[("phone", 1)]).to_string())
            }
            "FILE" | "shop.jsonl" => {
                let path = self.stopped.path().with_extension("jsonl");
                if line.contains("export") {
                    // An export writes over nothing.
                    drop(fs::remove_file(&path));
                }
                path.to_str().expect("text").to_owned()
            }
            _ if line.starts_with("seckill demo") && before == "--data" => {
                self.served.path().with_extension("demo").to_str().expect("text").to_owned()
            }
            "shop" if before == "--data" => self.stopped.path().to_str().expect("text").to_owned(),
            "FOLDER" if before == "--data" => self.stopped.path().to_str().expect("text").to_owned(),
            _ => word.trim_matches(['"', '\'']).to_owned(),
        }
    }

    fn command(&self, line: &str) -> Command {
        let mut words: Vec<String> = Vec::new();
        let mut before = "";
        let mut quoted: Option<String> = None;
        for word in line.split_whitespace().skip(1) {
            match &mut quoted {
                Some(text) => {
                    text.push(' ');
                    text.push_str(word);
                }
                None if word.starts_with(['"', '\'']) => quoted = Some(word.to_owned()),
                None => words.push(self.fill(word, before, line)),
            }
            let quote = |text: &String| text.len() > 1 && text.ends_with(['"', '\'']);
            if let Some(text) = quoted.take_if(|text| quote(text)) {
                words.push(text.trim_matches(['"', '\'']).to_owned());
            }
            before = word;
        }
        let mut command = Command::new(env!("CARGO_BIN_EXE_seckill"));
        settings(&mut command)
            .args(words)
            .env("SECKILL_ADMIN", self.process.admin.to_string())
            .env("SECKILL_API_KEY", &self.key)
            .env("SECKILL__BACKEND__MODE", "embedded")
            .env("SECKILL__EMBEDDED__FOLDER", self.stopped.path())
            .env("SECKILL__HTTP__BIND", "127.0.0.1:0")
            .env("SECKILL__ADMIN__BIND", "127.0.0.1:0");
        if line.starts_with("seckill import") {
            // What was exported stands where it came from.
            command.env("SECKILL__EMBEDDED__FOLDER", self.stopped.path().with_extension("imported"));
        }
        if line.starts_with("seckill provider") {
            command
                .env("SECKILL__PAYMENT__API_KEY", "sk_test_of_the_documents")
                .env("SECKILL__PAYMENT__WEBHOOK_SECRET", "whsec_of_the_documents_of_32_bytes");
        }
        if line.ends_with(" -") {
            let rule = self.fill("FILE", "", "rule");
            command.stdin(fs::File::open(rule).expect("the rule"));
        }
        command
    }
}

/// Waits until a process says where it serves, and ends it.
///
/// # Errors
/// With what the process said, when it ends before.
fn serves(mut command: Command) -> Result<(), String> {
    let (reader, writer) = std::io::pipe().expect("a pipe");
    command.stdout(writer.try_clone().expect("a pipe")).stderr(writer);
    let mut child = command.spawn().expect("the binary starts");
    // The pipe ends with the process, when nobody else can write to it.
    drop(command);
    let mut said = Vec::new();
    let says_where = |line: &String| line.contains("http://") || line.contains("the sale opens in");
    let serves = BufReader::new(reader).lines().map_while(Result::ok).any(|line| {
        let is_it = says_where(&line);
        said.push(line);
        is_it
    });
    child.kill().expect("ended");
    child.wait().expect("ended");
    if serves { Ok(()) } else { Err(format!("it ended: {said:?}")) }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_command_line_of_the_documents_does_what_it_says() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let help = run(command(&std::env::temp_dir(), &["--help"])).1;
    let commands = help.lines().filter_map(|line| line.strip_prefix("  ")?.split_whitespace().next());
    let commands: BTreeSet<String> = commands.map(str::to_owned).collect();
    let mut texts = vec![fs::read_to_string(root.join("README.md")).expect("a text")];
    documents(&root.join("docs"), &mut texts);
    let mut lines: Vec<String> = Vec::new();
    for line in texts.iter().flat_map(|text| lines_of(text, &commands)).flat_map(|line| alternatives(&line)) {
        if !lines.contains(&line) {
            lines.push(line);
        }
    }
    assert!(lines.len() > 120, "{}", lines.len());
    let world = World::new().await;
    let mut wrong = Vec::new();
    for line in &lines {
        let other = OTHERS.iter().find(|(beginning, _)| line.starts_with(beginning));
        let expected = other.map_or(&Expected::Done, |(_, expected)| expected);
        let (code, says) = match expected {
            Expected::Elsewhere => continue,
            Expected::Serves => {
                wrong.extend(serves(world.command(line)).err().map(|why| format!("{line}: {why}")));
                continue;
            }
            Expected::Done => (0, ""),
            Expected::Refused(code, says) => (*code, *says),
        };
        let (found, out, said) = run(world.command(line));
        // A line of the text may leave out what has to be given, and is told what.
        let is_shortened = found == Some(2) && (said.contains("required") || said.contains("Usage"));
        if !is_shortened && (found != Some(code) || !(out.clone() + &said).contains(says)) {
            wrong.push(format!("{line}: {found:?} {out} {said}"));
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), lines.len(), wrong.join("\n\n"));
    for kind in ["imported", "man", "demo"] {
        drop(fs::remove_dir_all(world.stopped.path().with_extension(kind)));
        drop(fs::remove_dir_all(world.served.path().with_extension(kind)));
    }
    for (folder, kind) in
        [(&world.stopped, "jsonl"), (&world.served, "rule.json"), (&world.served, "sale.json")]
    {
        drop(fs::remove_file(folder.path().with_extension(kind)));
    }
    assert!(world.process.stop().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn every_list_is_printed_entry_by_entry() {
    let world = World::new().await;
    for (line, member) in [
        ("sale list", "sales"),
        ("stock show SALE", "items"),
        ("order list SALE", "orders"),
        ("audit", "rows"),
        ("node list", "nodes"),
        ("key list", "keys"),
        ("rule list", "rules"),
        ("switch list", "switches"),
        ("breaker list", "breakers"),
        ("webhooks list", "webhooks"),
    ] {
        let printed = |format: &str| {
            let (code, out, said) = run(world.command(&format!("seckill {line} -o {format}")));
            assert_eq!(code, Some(0), "{line}: {said}");
            out
        };
        let whole: Value = serde_json::from_str(&printed("json")).expect("JSON");
        let entries = whole[member].as_array().unwrap_or_else(|| panic!("{line}: {whole}"));
        assert!(!entries.is_empty(), "{line}");
        let lines: Vec<Value> = printed("ndjson")
            .lines()
            .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}")))
            .collect();
        assert_eq!(lines.len(), entries.len(), "{line}");
        let names =
            |entry: &Value| entry.as_object().map(|members| members.keys().cloned().collect::<Vec<_>>());
        assert_eq!(names(&lines[0]), names(&entries[0]), "{line}");
        // A table has a head and a row of each.
        assert_eq!(printed("table").lines().count(), entries.len() + 1, "{line}");
    }
    assert!(world.process.stop().success());
}
