//! The program in processes of their own, over the stores of a test.

use std::fs::File;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use seckill::config::Config;

use super::ports::free_address;
use super::{SECRET, eventually};
use crate::client::call;

/// Makes a command of the binary over the stores of `config`.
pub fn program(config: &Config) -> Command {
    let sections = [
        ("BACKEND__MODE", config.backend.mode.as_str().to_owned()),
        ("REDIS__KEY_PREFIX", config.redis.key_prefix.clone()),
        ("REDIS__URL", config.redis.url.clone()),
        ("REDIS__RESPONSE_TIMEOUT_MS", config.redis.response_timeout_ms.to_string()),
        ("MYSQL__DATABASE_PREFIX", config.mysql.database_prefix.clone()),
        ("KAFKA__TOPIC", config.kafka.topic.clone()),
        ("KAFKA__EVENTS_TOPIC", config.kafka.events_topic.clone()),
        ("KAFKA__GROUP", config.kafka.group.clone()),
        ("EMBEDDED__FOLDER", config.embedded.folder.display().to_string()),
        ("SHARDS__SHARDS", config.shards.shards.to_string()),
        ("SHARDS__PARTITIONS", config.shards.partitions.to_string()),
        ("LOG__FILTER", "off".to_owned()),
    ];
    let mut command = Command::new(env!("CARGO_BIN_EXE_seckill"));
    command.current_dir(env!("CARGO_MANIFEST_DIR")).env("SECKILL_CONFIG", "config/distributed.toml");
    command.envs(sections.map(|(key, value)| (format!("SECKILL__{key}"), value)));
    command
}

/// A process that serves. It dies as a killed one does, and with the test.
pub struct Process {
    child: Child,
    /// Where it serves shoppers; a worker serves none.
    pub shopper: SocketAddr,
    /// Where it serves operators.
    pub admin: SocketAddr,
    /// What it writes to standard error.
    log: PathBuf,
}

impl Process {
    /// Starts one of a role with settings of its own (`LOG__FILTER`), and waits until it is ready.
    pub async fn start(config: &Config, role: &str, settings: &[(&str, &str)]) -> Self {
        let (shopper, admin) = (free_address(), free_address());
        let mut command = program(config);
        command.args(["serve", "--role", role, "--admin-bind", &admin.to_string()]);
        command.args(["--bind", &shopper.to_string()]);
        command.env("SECKILL__AUTH__HS256_SECRET", SECRET);
        command.envs(settings.iter().map(|(key, value)| (format!("SECKILL__{key}"), *value)));
        let log = std::env::temp_dir().join(format!("seckill-{}-{}.log", std::process::id(), admin.port()));
        let stderr = File::create(&log).expect("a file for the log");
        let child = command.stdin(Stdio::null()).stderr(stderr).spawn().expect("the binary starts");
        let this = Self { child, shopper, admin, log };
        eventually("the process is ready", async || {
            tokio::net::TcpStream::connect(admin).await.is_ok()
                && call(admin, "GET", "/readyz", &[], "").await.status == 200
        })
        .await;
        this
    }

    /// Starts a worker.
    pub async fn worker(config: &Config) -> Self {
        Self::start(config, "worker", &[]).await
    }

    /// Answers the number of the process.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Answers what it has written to standard error.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).expect("the log")
    }

    /// Asks it to end, as a supervisor does, and waits until it has. Answers its exit code.
    pub fn stop(&mut self) -> Option<i32> {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).expect("a number of a process"));
        kill(pid, Signal::SIGTERM).expect("it lives");
        self.child.wait().expect("it ends").code()
    }

    /// Kills it.
    pub fn kill(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        drop(std::fs::remove_file(&self.log));
    }
}
