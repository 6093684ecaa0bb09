//! Uses `seckill demo` as a person does: the tests run the real binary, read what it prints, and paste its lines.

use std::io::{BufRead, BufReader, Read};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use seckill::config::Mode;

use crate::conformance::web::{Programs, shots};

/// A folder for one test's folders. It is removed at the end of the test.
struct Place(PathBuf);

impl Place {
    fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name = format!("seckill-it-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).expect("a folder");
        Self(path)
    }

    fn folder(&self) -> PathBuf {
        self.0.join("shop")
    }

    /// Puts a copy of the binary there, with no file of the checkout beside it.
    fn take_the_binary(&self) {
        std::fs::copy(env!("CARGO_BIN_EXE_seckill"), self.0.join("seckill")).expect("a copy");
    }

    /// Answers the copy of the binary, or the built one when there is none.
    fn program(&self) -> PathBuf {
        let copy = self.0.join("seckill");
        if copy.exists() { copy } else { PathBuf::from(env!("CARGO_BIN_EXE_seckill")) }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.0));
    }
}

fn free_address() -> String {
    crate::harness::ports::free_address().to_string()
}

fn command(place: &Place, args: &[&str]) -> Command {
    let mut command = Command::new(place.program());
    command.current_dir(&place.0);
    // A folder that the demo makes belongs to the test, too.
    command.env_remove("SECKILL_CONFIG").env("TMPDIR", &place.0).arg("demo");
    if !args.contains(&"--provider-bind") {
        command.args(["--provider-bind", "127.0.0.1:0"]);
    }
    command.args(args);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// A running demo that has printed everything that it prints at its start.
struct Demo {
    child: Child,
    out: BufReader<ChildStdout>,
    said: String,
    ready_after: Duration,
}

impl Demo {
    fn start(place: &Place, args: &[&str]) -> Self {
        let folder = place.folder();
        let began = Instant::now();
        let mut child = command(place, args).arg("--data").arg(&folder).spawn().expect("the binary starts");
        let mut out = BufReader::new(child.stdout.take().expect("piped"));
        let mut said = String::new();
        while !said.contains("The same shop again") {
            let read = out.read_line(&mut said).expect("text");
            if read == 0 {
                let mut why = String::new();
                drop(child.stderr.take().expect("piped").read_to_string(&mut why));
                panic!("the demo ended: {why}");
            }
        }
        Self { child, out, said, ready_after: began.elapsed() }
    }

    fn at(place: &Place, addresses: &[String; 2], more: &[&str]) -> Self {
        let mut args = vec!["--bind", &addresses[0], "--admin-bind", &addresses[1]];
        args.extend(more);
        Self::start(place, &args)
    }

    /// Returns the lines that one would paste into a shell.
    fn lines(&self) -> Vec<&str> {
        let program = env!("CARGO_BIN_EXE_seckill");
        let is_pasted =
            |line: &&str| ["export ", "curl ", "ORDER=", program].iter().any(|start| line.starts_with(start));
        self.said.lines().filter(is_pasted).collect()
    }

    fn signal(&self, name: &str) {
        let sent = Command::new("kill").args([name, &self.child.id().to_string()]).status();
        assert!(sent.expect("kill runs").success());
    }

    /// Waits for the end. Returns the exit code, the rest of stdout, and stderr.
    fn ended(mut self) -> (Option<i32>, String, String) {
        let (mut rest, mut talk) = (String::new(), String::new());
        self.out.read_to_string(&mut rest).expect("text");
        self.child.stderr.take().expect("piped").read_to_string(&mut talk).expect("text");
        (self.child.wait().expect("a child").code(), rest, talk)
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        // The child ends even when the test failed half-way. When it has ended already, the error is of no interest.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Pastes lines into a shell, and returns what they printed.
fn paste(lines: &[&str]) -> String {
    let output = Command::new("sh").arg("-ec").arg(lines.join("\n")).output().expect("a shell");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{}{}", text(&output.stdout), text(&output.stderr));
    text(&output.stdout)
}

/// Tells whether a line is needed to look at the order that was bought.
fn is_of_order(line: &str) -> bool {
    let is_look = line.contains("/orders/$ORDER -H") && !line.contains("POST");
    line.starts_with("export TOKEN") || line.starts_with("ORDER=") || is_look
}

fn refused(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_demo_is_ready_within_a_second() {
    // A starved machine is no fault, so it is enough when one start in three is quick.
    let quick = (0..3).map(|_| {
        let place = Place::new();
        Demo::at(&place, &[free_address(), free_address()], &[]).ready_after
    });
    let tries: Vec<Duration> = quick.collect();
    assert!(tries.iter().any(|took| *took < Duration::from_secs(1)), "{tries:?}");
}

/// Plays what the README says of the first minutes: a browser goes where the demo says, buys and pays, and looks as the
/// promoter and as the engineer.
#[tokio::test(flavor = "multi_thread", crate = "crate::ending")]
async fn the_first_minutes_are_as_the_readme_says() {
    let readme = include_str!("../../README.md");
    let place = Place::new();
    place.take_the_binary();
    let (addresses, provider) = ([free_address(), free_address()], free_address());
    let demo = Demo::at(&place, &addresses, &["--opens-in", "3", "--provider-bind", &provider]);
    let after = |mark: &str| {
        let rest = demo.said.split(mark).nth(1).unwrap_or_else(|| panic!("no {mark}: {}", demo.said));
        rest.split_whitespace().next().expect("a word").to_owned()
    };
    for mark in ["  shop       http://", "  operators  http://", "export SECKILL_API_KEY=sk_"] {
        assert!(readme.contains(mark) && demo.said.contains(mark), "{mark}");
    }
    let (shop, console, key) = (after("  shop "), after("  operators "), after("export SECKILL_API_KEY="));
    assert_eq!(
        (shop.as_str(), console.as_str()),
        (
            format!("http://{}/shop", addresses[0]).as_str(),
            format!("http://{}/console", addresses[1]).as_str(),
        )
    );
    let (pay, shots) = (format!("http://{provider}"), shots(Mode::Embedded));
    let settings =
        [("PAY", pay.as_str()), ("SHOP", &shop), ("CONSOLE", &console), ("KEY", &key), ("SHOTS", &shots)];
    Programs::of(addresses[0].parse().expect("an address"))
        .await
        .run("node", &["minutes.js"], &settings)
        .await;
    demo.signal("-INT");
    let (code, _, talk) = demo.ended();
    assert_eq!(code, Some(0), "{talk}");
}

#[test]
fn what_a_demo_prints_works_when_it_is_pasted_and_after_a_kill_too() {
    let place = Place::new();
    let addresses = [free_address(), free_address()];
    let demo = Demo::at(&place, &addresses, &["--opens-in", "0", "--units", "3"]);
    assert!(demo.said.contains("found      nothing yet"), "{}", demo.said);
    let printed = paste(&demo.lines());
    assert!(printed.contains(r#""status":"awaiting_payment""#), "{printed}");
    assert!(printed.contains("phone-x  3           2          1"), "{printed}");
    assert!(printed.contains("ended"), "{printed}");
    // The buyer opens the page that the payment names, and presses the button.
    let page = printed.split("\"redirect_url\":\"").nth(1).and_then(|rest| rest.split('"').next());
    let pressed = paste(&[&format!("curl -sL -d action=pay {}", page.expect("a payment page"))]);
    assert!(pressed.contains("Paid") && pressed.contains("Play money"), "{pressed}");
    let own_order: Vec<&str> = demo.lines().into_iter().filter(|line| is_of_order(line)).collect();
    let began = Instant::now();
    while !paste(&own_order).contains(r#""status":"paid""#) {
        assert!(began.elapsed() < Duration::from_secs(10), "the order is never paid");
        std::thread::sleep(Duration::from_millis(50));
    }
    let before: Vec<String> = demo.lines().into_iter().map(str::to_owned).collect();
    demo.signal("-KILL");
    drop(demo);

    let demo = Demo::at(&place, &addresses, &[]);
    assert!(demo.said.contains("recovered 1 sale, 1 order; all of them written"), "{}", demo.said);
    assert!(
        demo.said.contains("drop-2: 100 units of phone-x, one per buyer, opens in 15 s"),
        "{}",
        demo.said
    );
    let pasted_again: Vec<&str> =
        before.iter().map(String::as_str).filter(|line| is_of_order(line)).collect();
    assert!(paste(&pasted_again).contains(r#""sale_id":"drop-1""#), "an old token still names its owner");
    let early = paste(&demo.lines());
    assert!(early.contains("sale_not_started"), "{early}");
    demo.signal("-INT");
    let (code, _, talk) = demo.ended();
    assert_eq!(code, Some(0), "{talk}");
    assert!(talk.contains("drained in"), "{talk}");
}

#[test]
fn a_rush_ends_with_the_verdict_as_its_exit_code() {
    let place = Place::new();
    let [bind, admin] = [free_address(), free_address()];
    let args = [
        "--rush",
        "--buyers",
        "400",
        "--units",
        "30",
        "--opens-in",
        "2",
        "--bind",
        &bind,
        "--admin-bind",
        &admin,
    ];
    let output = command(&place, &args).output().expect("the binary runs");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (said, talk) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(0), "{said}{talk}");
    let verdict = "PASS  drop-1: 30 accepted of 400 clicks, 30 persisted, 0 oversold, 0 violations\n";
    assert!(said.contains(verdict) && said.contains("78 rules, 0 violations"), "{said}{talk}");
    let made: Vec<PathBuf> = folders(&place.0);
    let name = made.first().and_then(|path| path.file_name()?.to_str());
    assert!(made.len() == 1 && name.is_some_and(|name| name.starts_with("seckill-demo-")), "{made:?}");
    assert!(made[0].join("drop-1-summary.json").exists());
}

#[test]
fn an_interrupted_rush_drains_and_has_no_verdict() {
    let place = Place::new();
    let demo = Demo::at(&place, &[free_address(), free_address()], &["--rush", "--buyers", "10"]);
    demo.signal("-INT");
    let (code, rest, talk) = demo.ended();
    assert_eq!(code, Some(1), "{talk}");
    assert!(
        !rest.contains("PASS") && talk.contains("no verdict") && talk.contains("drained in"),
        "{rest}{talk}"
    );
}

#[test]
fn a_second_demo_on_the_folder_is_refused_and_the_first_goes_on() {
    let place = Place::new();
    let demo = Demo::at(&place, &[free_address(), free_address()], &["--opens-in", "0"]);
    let output = command(&place, &["--data"]).arg(place.folder()).output().expect("the binary runs");
    let talk = refused(&output);
    let in_use = format!(
        "error: open data folder: {} is in use by process {}\n",
        place.folder().display(),
        demo.child.id()
    );
    assert!(talk.starts_with(&in_use), "said once: {talk}");
    assert!(talk.contains("hint: ") && talk.contains("--data"), "{talk}");
    assert!(paste(&demo.lines()).contains("awaiting_payment"));
}

#[test]
fn a_taken_port_names_its_flag_and_leaves_no_folder() {
    let place = Place::new();
    let holder = TcpListener::bind("127.0.0.1:0").expect("a port");
    let taken = holder.local_addr().expect("an address").to_string();
    let flags = [("--bind", "--admin-bind"), ("--admin-bind", "--bind"), ("--provider-bind", "--bind")];
    for (flag, other) in flags {
        let args = [flag, &taken, other, &free_address()];
        let talk = refused(&command(&place, &args).output().expect("the binary runs"));
        assert!(talk.contains(&format!("cannot listen on {taken}")), "{talk}");
        assert!(talk.contains(&format!("choose one with {flag}, ")), "{talk}");
    }
    drop(holder);
    assert_eq!(folders(&place.0), Vec::<PathBuf>::new());
}

fn folders(path: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(path).expect("a folder");
    entries.map(|entry| entry.expect("an entry").path()).collect()
}
