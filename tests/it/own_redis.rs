//! A Redis of one test's own. It is a process that the test may kill, start again on the same data, or pause, without
//! touching the shared stack.
//!
//! Invariants: what was answered survives [`OwnRedis::kill`], and nothing is left when the server is dropped.

use std::fs::{self, File};
use std::io::Write as _;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rand::Rng;

/// The ports of these servers. They are below the ports that the system gives to clients, so that nobody takes ours
/// while a server is down. A cluster's bus listens 10,000 above, and that is below them too.
const PORTS: std::ops::Range<u16> = 20_000..22_700;
const BUS_ABOVE: u16 = 10_000;

/// How long a server may take to answer after its start: loading a test's data takes well below a second.
const START_MAX: Duration = Duration::from_secs(30);

pub struct OwnRedis {
    child: Option<Child>,
    folder: PathBuf,
    port: u16,
    args: Vec<String>,
}

impl OwnRedis {
    /// Starts an empty server on a free loopback port, and waits until it answers. `args` are added to its command
    /// line, such as `&["--cluster-enabled", "yes"]`.
    pub async fn start(args: &[&str]) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name = format!("seckill-redis-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let folder = std::env::temp_dir().join(name);
        // A process that had the same number and was killed may have left this folder.
        drop(fs::remove_dir_all(&folder));
        fs::create_dir_all(&folder).expect("a folder of its own");
        let args = args.iter().map(|&arg| arg.to_owned()).collect();
        let mut redis = Self { child: None, folder, port: free_port(), args };
        redis.start_again().await;
        redis
    }

    pub fn url(&self) -> String {
        format!("redis://{}", self.address())
    }

    pub fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port))
    }

    /// Starts a replica of this server, and waits until it has everything.
    pub async fn replica(&self) -> Self {
        let replica = Self::start(&["--replicaof", "127.0.0.1", &self.port.to_string()]).await;
        let began = Instant::now();
        loop {
            let mut info = redis::cmd("INFO");
            let info = info.arg("replication").query_async::<String>(&mut replica.connection().await).await;
            if info.is_ok_and(|info| info.contains("master_link_status:up")) {
                return replica;
            }
            assert!(began.elapsed() < START_MAX, "the replica never has everything");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Makes a replica a server of its own, as it is now.
    pub async fn promote(&self) {
        let mut promote = redis::cmd("REPLICAOF");
        let done = promote.arg("NO").arg("ONE").query_async(&mut self.connection().await).await;
        let () = done.expect("promoted");
    }

    /// Takes the port of a server that was killed.
    pub async fn take_port_of(&mut self, killed: &Self) {
        assert!(killed.child.is_none(), "kill it first");
        let mut set = redis::cmd("CONFIG");
        let set = set.arg("SET").arg("port").arg(killed.port);
        let () = set.query_async(&mut self.connection().await).await.expect("the port is free");
        self.port = killed.port;
    }

    /// Opens a connection beside those of the product, for what only a test does.
    pub async fn connection(&self) -> redis::aio::MultiplexedConnection {
        let client = redis::Client::open(self.url()).expect("an address");
        let settings = redis::AsyncConnectionConfig::new().set_response_timeout(Some(START_MAX));
        client.get_multiplexed_async_connection_with_config(&settings).await.expect("a connection")
    }

    /// Ends the process at once (SIGKILL). Its data and its port stay.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            // When the child has ended already, the error is of no interest.
            drop(child.kill());
            drop(child.wait());
        }
    }

    /// Starts the server on the same data and port after [`Self::kill`], and waits until everything is loaded.
    pub async fn start_again(&mut self) {
        assert!(self.child.is_none(), "kill it first");
        self.repair();
        let log = File::create(self.folder.join("redis.log")).expect("a log file");
        let port = self.port.to_string();
        let child = Command::new("redis-server")
            .args(["--bind", "127.0.0.1", "--port", &port, "--daemonize", "no"])
            // `no` means that a write is handed to the system before it is answered, and that it is never flushed. A
            // killed process leaves its pages to the system. A flush would guard only against the loss of the machine,
            // and on a busy disk it made the longest test take 54 s instead of 14 s.
            .args(["--appendonly", "yes", "--appendfsync", "no", "--save", ""])
            .args(&self.args)
            .current_dir(&self.folder)
            .stdin(Stdio::null())
            .stdout(log)
            .spawn()
            .unwrap_or_else(|error| panic!("redis-server: {error}. `scripts/stack up` installs it."));
        self.child = Some(child);
        let began = Instant::now();
        while !self.answers().await {
            let ended = self.child.as_mut().expect("just started").try_wait().expect("a child");
            assert!(ended.is_none(), "redis-server ended ({ended:?}):\n{}", self.log());
            assert!(began.elapsed() < START_MAX, "redis-server never answers:\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Takes a transaction out of the append-only file that the kill cut short. Redis 7.0 ignores it at the next start
    /// and leaves its beginning in the file; the start after that runs it together with what came behind it.
    fn repair(&self) {
        let manifest = self.folder.join("appendonlydir/appendonly.aof.manifest");
        if !manifest.exists() {
            return;
        }
        let mut check = Command::new("redis-check-aof")
            .arg("--fix")
            .arg(&manifest)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("redis-check-aof: {error}. `scripts/stack up` installs it."));
        // It asks before it changes a file. When there is nothing to ask it has ended already.
        drop(check.stdin.take().expect("piped").write_all(b"y\n"));
        assert!(check.wait().expect("a child").success(), "the append-only file cannot be repaired");
    }

    /// Cuts off the end of what the server has kept, after [`Self::kill`]: `bytes`, or all that there is.
    pub fn truncate(&self, bytes: u64) {
        assert!(self.child.is_none(), "kill it first");
        let files = fs::read_dir(self.data()).expect("data").map(|file| file.expect("a file").path());
        let newest = files.filter(|file| file.extension().is_some_and(|end| end == "aof")).max();
        let file = fs::OpenOptions::new().write(true).open(newest.expect("a file")).expect("opened");
        let length = file.metadata().expect("a length").len();
        file.set_len(length.saturating_sub(bytes)).expect("cut");
    }

    /// Removes everything that the server has kept, after [`Self::kill`].
    pub fn lose_data(&self) {
        assert!(self.child.is_none(), "kill it first");
        drop(fs::remove_dir_all(self.data()));
    }

    /// Copies everything that the server has kept until now.
    pub fn keep_copy(&self) {
        copy(&self.data(), &self.folder.join("copy"));
    }

    /// Puts the copy in place of what the server has kept since, after [`Self::kill`].
    pub fn restore_copy(&self) {
        self.lose_data();
        copy(&self.folder.join("copy"), &self.data());
    }

    fn data(&self) -> PathBuf {
        self.folder.join("appendonlydir")
    }

    /// Pauses the process (SIGSTOP): connections stay open and nothing is answered.
    pub fn pause(&self) {
        self.signal("-STOP");
    }

    /// Resumes the process after [`Self::pause`].
    pub fn resume(&self) {
        self.signal("-CONT");
    }

    fn signal(&self, name: &str) {
        let child = self.child.as_ref().expect("a running server").id().to_string();
        let sent = Command::new("kill").args([name, &child]).status().expect("kill runs");
        assert!(sent.success(), "kill {name}: {sent}");
    }

    async fn answers(&self) -> bool {
        let client = redis::Client::open(self.url()).expect("an address");
        let Ok(mut connection) = client.get_multiplexed_async_connection().await else {
            return false;
        };
        redis::cmd("PING").query_async::<String>(&mut connection).await.is_ok()
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.join("redis.log")).unwrap_or_default()
    }
}

impl Drop for OwnRedis {
    fn drop(&mut self) {
        self.kill();
        drop(fs::remove_dir_all(&self.folder));
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a folder");
    for file in fs::read_dir(from).expect("data") {
        let file = file.expect("a file");
        fs::copy(file.path(), to.join(file.file_name())).expect("copied");
    }
}

fn free_port() -> u16 {
    let is_free = |port: u16| TcpListener::bind(("127.0.0.1", port)).is_ok();
    let mut ports = std::iter::repeat_with(|| rand::rng().random_range(PORTS)).take(1000);
    ports.find(|&port| is_free(port) && is_free(port + BUS_ABOVE)).expect("a free port")
}
