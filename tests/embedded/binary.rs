//! Runs the real binary on a data folder.

#![expect(clippy::disallowed_methods, reason = "who reads what a process says ends with that process")]

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use seckill::config::Mode;

use crate::client::try_call;
use crate::harness::{SECRET, config, eventually, temporary};

/// A folder of one test's own, which is removed at the end of the test.
pub struct Folder(pub PathBuf);

impl Folder {
    /// Names a folder and makes nothing: the product makes its folder.
    pub fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        Self(temporary(&format!("folder-{}-{number}", std::process::id())))
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}

/// Makes the configuration of a folder, with which a test looks into it.
pub fn config_of(folder: &Path) -> seckill::config::Config {
    config(Mode::Embedded, &[("embedded.folder", folder.to_str().expect("text"))])
}

/// Gives a command what every run of the binary gets: a secret, few shards, no rate limits, and no variables of the
/// caller.
pub fn settings(command: &mut Command) -> &mut Command {
    command
        .env_remove("SECKILL_CONFIG")
        .env("SECKILL__AUTH__HS256_SECRET", SECRET)
        .env("SECKILL__SHARDS__SHARDS", "4")
        .env("SECKILL__SHARDS__PARTITIONS", "2")
        .env("SECKILL__LIMITS__USER_PER_S", "0")
        .env("SECKILL__LIMITS__ADDRESS_PER_S", "0")
        .env("SECKILL__CATALOG__REFRESH_MS", "100")
        .env("SECKILL__SHUTDOWN__NOTICE_MS", "0")
        .env("SECKILL__LOG__FILTER", "error")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
}

pub fn command(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_seckill"));
    settings(&mut command).args(arguments).args(["--mode", "embedded", "--data"]).arg(folder);
    command
}

pub const SERVE: [&str; 5] = ["serve", "--bind", "127.0.0.1:0", "--admin-bind", "127.0.0.1:0"];

/// Runs a command to its end. Returns exit code, stdout and stderr.
pub fn run(mut command: Command) -> (Option<i32>, String, String) {
    let output = command.output().expect("the binary runs");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

/// A running shop.
pub struct Process {
    child: Child,
    pub shopper: SocketAddr,
    pub admin: SocketAddr,
}

impl Process {
    /// Starts a shop on a folder and waits until it is ready.
    pub async fn serve(folder: &Path) -> Self {
        Self::start(command(folder, &SERVE)).await
    }

    /// Starts a shop and waits until it is ready.
    ///
    /// # Panics
    /// With what the process printed, when it ends instead of serving.
    pub async fn start(mut command: Command) -> Self {
        let mut child = command.spawn().expect("the binary starts");
        let stderr = child.stderr.take().expect("a pipe");
        let (shopper, admin) = tokio::task::block_in_place(|| addresses(stderr));
        let process = Self { child, shopper, admin };
        eventually("the process is ready", async || process.is_ready().await).await;
        process
    }

    pub async fn is_ready(&self) -> bool {
        try_call(self.admin, "GET", "/readyz", &[], "").await.is_some_and(|answer| answer.status == 200)
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Kills the process (kill -9).
    pub fn kill(mut self) {
        self.child.kill().expect("killed");
        self.child.wait().expect("ended");
    }

    /// Ends the process by SIGTERM, and returns its status.
    pub fn stop(mut self) -> ExitStatus {
        let sent = Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status();
        assert!(sent.expect("kill runs").success());
        let began = Instant::now();
        let status = self.child.wait().expect("ended");
        assert!(began.elapsed() < Duration::from_secs(20), "{:?} to stop", began.elapsed());
        status
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // The child ends even when the test failed half-way. When it has ended already, the error is of no interest.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Reads the addresses on which the process says that it listens. Reading goes on in the background, so that the
/// process never waits for a reader.
fn addresses(stderr: ChildStderr) -> (SocketAddr, SocketAddr) {
    let mut lines = BufReader::new(stderr).lines().map_while(Result::ok);
    let (mut said, mut found) = (Vec::new(), Vec::new());
    for line in lines.by_ref() {
        let address: Option<SocketAddr> =
            line.split_once("http://").and_then(|(_, rest)| rest.split('/').next()?.parse().ok());
        found.extend(address);
        said.push(line);
        if let [shopper, admin] = found[..] {
            std::thread::spawn(move || lines.for_each(drop));
            return (shopper, admin);
        }
    }
    panic!("it does not serve:\n{}", said.join("\n"))
}

/// Makes an operator's key as a person does, before anybody serves.
pub fn make_key(folder: &Path) -> String {
    let (code, key, said) = run(command(folder, &["key", "create", "--name", "tester"]));
    assert_eq!(code, Some(0), "{said}");
    key
}
