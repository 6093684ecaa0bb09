//! `seckill doctor` on servers whose variables are wrong.

use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::binary::command;
use crate::harness::Servers;
use crate::world::{Loss, World};

/// How long it may take, also when a server hangs.
const DONE_WITHIN: Duration = Duration::from_secs(20);

/// Answers the level of a check, and the exit code.
fn level(world: &World, check: &str) -> (String, Option<i32>) {
    let mut command = command(&world.config);
    command.args(["doctor", "-o", "json"]).stdout(Stdio::piped()).stderr(Stdio::null());
    let began = Instant::now();
    let done = command.output().expect("the binary runs");
    assert!(began.elapsed() < DONE_WITHIN, "{check}: it took {:?}", began.elapsed());
    let answer: Value = serde_json::from_slice(&done.stdout).expect("JSON");
    let found = answer["checks"].as_array().expect("a list").iter().find(|found| found["name"] == check);
    let level = found.map_or("not there", |found| found["level"].as_str().expect("a level"));
    (level.to_owned(), done.status.code())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_the_variables_of_mysql_is_told() {
    let world = World::new(&[]).await;
    let database = Servers::of(&world.config);
    for (name, wrong, right, check, expected) in [
        ("read_only", "ON", "OFF", "mysql-0.read_only", "error"),
        ("innodb_flush_log_at_trx_commit", "2", "1", "mysql-0.flush", "error"),
        ("max_allowed_packet", "1048576", "67108864", "mysql-0.packet", "error"),
        ("max_connections", "20", "200", "mysql-0.connections", "error"),
        ("max_prepared_stmt_count", "100", "16382", "mysql-0.prepared_statements", "warning"),
        ("sql_mode", "''", "'STRICT_TRANS_TABLES'", "mysql-0.sql_mode", "warning"),
        ("innodb_lock_wait_timeout", "1", "50", "mysql-0.lock_wait", "warning"),
    ] {
        database.execute(0, &format!("SET GLOBAL {name} = {right}")).await;
        let (before, _) = level(&world, check);
        database.execute(0, &format!("SET GLOBAL {name} = {wrong}")).await;
        let (found, code) = level(&world, check);
        database.execute(0, &format!("SET GLOBAL {name} = {right}")).await;
        assert_eq!((before.as_str(), found.as_str()), ("ok", expected), "{name}");
        assert!(expected != "error" || code == Some(4), "{name}: {code:?}");
    }
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_gone_or_hangs_is_told_and_the_others_are_looked_at() {
    let mut world = World::new(&[]).await;
    for (server, check, other) in [
        ("redis", "redis.reached", "mysql-0.reached"),
        ("mysql-b", "mysql-1.reached", "mysql-0.reached"),
        ("kafka", "kafka.reached", "redis.reached"),
    ] {
        for loss in [Loss::Frozen, Loss::Cut] {
            world.lose(server, loss);
            assert_eq!(level(&world, check), ("error".to_owned(), Some(4)), "{server} {loss:?}");
            assert_eq!(level(&world, other).0, "ok", "{server} {loss:?}");
            world.restore();
        }
    }
    world.finish().await;
}
