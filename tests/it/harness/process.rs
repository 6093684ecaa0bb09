//! The program in processes of their own, over the stores of a test.

use std::process::{Child, Command, Stdio};

use seckill::config::Config;

use super::eventually;
use super::ports::free_address;
use crate::client::call;

/// Makes a command of the binary over the stores of `config`.
pub fn program(config: &Config) -> Command {
    let sections = [
        ("BACKEND__MODE", config.backend.mode.as_str().to_owned()),
        ("REDIS__KEY_PREFIX", config.redis.key_prefix.clone()),
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

/// A worker that dies as a killed one does, and with the test.
pub struct Worker {
    child: Child,
}

impl Worker {
    /// Starts one, and waits until it is ready.
    pub async fn start(config: &Config) -> Self {
        let admin = free_address();
        let mut command = program(config);
        command.args(["serve", "--role", "worker", "--admin-bind", &admin.to_string()]);
        let child = command.stdin(Stdio::null()).stderr(Stdio::null()).spawn().expect("the binary starts");
        let this = Self { child };
        eventually("the worker is ready", async || {
            tokio::net::TcpStream::connect(admin).await.is_ok()
                && call(admin, "GET", "/readyz", &[], "").await.status == 200
        })
        .await;
        this
    }

    /// Answers the number of the process.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Kills it.
    pub fn kill(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.kill();
    }
}
