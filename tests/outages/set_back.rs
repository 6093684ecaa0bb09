//! A MySQL instance is restored from a backup that was taken under load, or replaced by a replica that was behind. The
//! processes are the real binary, and so are the backup, the replica and the recovery.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use seckill::config::Config;
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, MySqlConnection, Row as _};

use crate::binary::{Load, Process, add_key, assert_all_written, command};
use crate::client::{call, try_call};
use crate::harness::{Servers, Stage as _, eventually, open_sale, place, sale_body};
use crate::proxy::Weather;
use crate::world::{Loss, MYSQL, World};

/// Stock of the SKUs of which one instance needs more than its own half.
const SCARCE: u32 = 40;

/// Where the stack keeps what it has downloaded and made.
fn stack_folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(".stack")
}

/// Finds a program of MySQL: that which the stack has unpacked, or that of the distribution.
fn program(name: &str) -> Command {
    let unpacked = stack_folder().join("dist/mysql/bin").join(name);
    Command::new(if unpacked.exists() { unpacked } else { PathBuf::from(name) })
}

fn account(command: &mut Command, config: &Config, port: u16) {
    let password = config.mysql.password.expose();
    command.args(["--no-defaults", "--protocol=TCP", "--host=127.0.0.1", &format!("--port={port}")]);
    command.args([&format!("--user={}", config.mysql.user), &format!("--password={password}")]);
}

fn databases(world: &World, at: usize) -> Vec<String> {
    let servers = world.database();
    let mut names: Vec<String> = if at == 0 { vec![servers.directory()] } else { Vec::new() };
    let all = servers.controls().into_iter().chain(servers.shards());
    names.extend(all.filter(|(instance, _)| *instance == at).map(|(_, name)| name));
    names
}

/// Backs up an instance as a person does, while it is used.
fn dump(world: &World, at: usize) -> PathBuf {
    let file = std::env::temp_dir().join(format!("{}.sql", world.config.kafka.topic));
    let mut command = program("mysqldump");
    account(&mut command, &world.config, MYSQL[at]);
    command.args(["--single-transaction", "--no-tablespaces", "--set-gtid-purged=OFF"]);
    command.args([&format!("--result-file={}", file.display()), "--databases"]).args(databases(world, at));
    let output = command.output().expect("mysqldump runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    file
}

/// Puts a backup back. What the databases had is gone.
async fn restore(world: &World, at: usize, file: &PathBuf) {
    let mut connection = connect(&world.config, MYSQL[at]).await;
    for name in databases(world, at) {
        let drop = format!("DROP DATABASE {name}");
        connection.execute(AssertSqlSafe(drop)).await.expect("dropped");
    }
    let mut command = program("mysql");
    account(&mut command, &world.config, MYSQL[at]);
    command.stdin(Stdio::from(std::fs::File::open(file).expect("the backup")));
    let output = command.output().expect("mysql runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    std::fs::remove_file(file).expect("removed");
}

async fn connect(config: &Config, port: u16) -> MySqlConnection {
    let (user, password) = (&config.mysql.user, config.mysql.password.expose());
    MySqlConnection::connect(&format!("mysql://{user}:{password}@127.0.0.1:{port}?ssl-mode=DISABLED"))
        .await
        .expect("MySQL")
}

/// Runs the command of a person who recovers an instance. Answers its exit code and what it prints.
fn recover(config: &Config, at: usize, arguments: &[&str]) -> (Option<i32>, String) {
    let mut command = command(config);
    command.args(["recover", "mysql", &at.to_string()]).args(arguments);
    let output = command.stdout(Stdio::piped()).stderr(Stdio::piped()).output().expect("the binary runs");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout) + &text(&output.stderr))
}

/// Buys `count` units of a SKU for users of an instance, and waits until they have rows.
async fn take(world: &World, front: &Process, (sku, at): (&str, u16), count: usize) -> Vec<String> {
    let mut orders = Vec::new();
    for user in world.users_of(at, count) {
        let body = format!(r#"{{"sku_id":"{sku}","quantity":1}}"#);
        let answer = place(front.shopper, &user, "scarce", ("k", &body), &[]).await;
        assert_eq!(answer.status, 202, "{answer:?}");
        orders.push(answer.json()["id"].as_str().expect("an id").to_owned());
    }
    orders
}

async fn sum_at(database: &Servers, at: usize, column: &str, table: &str) -> i64 {
    let (_, control) = &database.controls()[at];
    let text = format!("SELECT CAST(COALESCE(SUM({column}), 0) AS SIGNED) FROM {control}.{table}");
    database.number(at, &text).await
}

async fn rows_at(database: &Servers, at: usize) -> i64 {
    sum_at(database, at, "next_offset", "consumer_positions").await
}

/// Reads how many events of an instance the topic has, and how often its watermark has grown.
async fn told_at(database: &Servers, at: usize) -> (i64, i64) {
    let told = sum_at(database, at, "next_number", "event_readers WHERE reader = 'topic'").await;
    (told, sum_at(database, at, "mark", "watermark").await)
}

/// Sells under load, sets an instance back by `set_back`, and asserts that nobody uses it until it was recovered, and
/// that nothing is lost or sold twice then. `copy` begins what `set_back` ends; the load goes on between them. Answers
/// what the commands print.
async fn is_recovered<T>(
    world: &mut World,
    at: usize,
    copy: impl AsyncFnOnce(&mut World) -> T,
    set_back: impl AsyncFnOnce(&mut World, T),
) -> String {
    add_key(&world.config).await;
    let front = Process::start(&world.config, "api").await;
    let _worker = Process::start(&world.config, "worker").await;
    open_sale(front.admin, sale_body("drop", 1, &[("phone", 1_000_000)])).await;
    open_sale(front.admin, sale_body("scarce", 1, &[("bag", SCARCE), ("pen", SCARCE)])).await;
    let load = Load::start(front.shopper, "u", 4);
    let database = world.database();
    eventually("orders flow", async || database.orders("awaiting_payment").await > 300).await;
    let copied = copy(world).await;
    let (told, mark) = told_at(&database, at).await;
    // After the copy the instance gives units of one SKU, and takes some of the other.
    let (here, there) = (u16::try_from(at).expect("small"), u16::try_from(1 - at).expect("small"));
    let scarce =
        [take(world, &front, ("bag", there), 30).await, take(world, &front, ("pen", here), 30).await]
            .concat();
    eventually("orders flow on, and the shop has seen the instance since", async || {
        let now = told_at(&database, at).await;
        now.0 > told + 300 && now.1 > mark + 2
    })
    .await;
    set_back(world, copied).await;
    let verbose = async || try_call(front.admin, "GET", "/readyz?verbose", &[], "").await;
    eventually("the process has seen it", async || {
        verbose().await.is_some_and(|answer| answer.text.contains(&format!("mysql-{at} was set back")))
    })
    .await;
    let written = rows_at(&database, at).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(rows_at(&database, at).await, written, "nothing is written before it was recovered");

    let (code, looked) = recover(&world.config, at, &[]);
    assert_eq!(code, Some(0), "{looked}");
    assert!(looked.contains("nothing was changed"), "{looked}");
    for lost in ["orders without a row", "grants that it took", "grants that it gave"] {
        let line = looked.lines().find(|line| line.starts_with(lost)).expect("a line of the table");
        assert!(!line.ends_with(" 0"), "{looked}");
    }
    let (code, done) = recover(&world.config, at, &["--apply", "--reason", "the disk broke"]);
    assert!(code == Some(0) && done.contains("is used again within a second"), "{done}");
    eventually("it is written again", async || rows_at(&database, at).await > written).await;
    let mut accepted = load.stop().await;
    accepted.extend(scarce);
    assert_all_written(&world.config, &accepted).await;
    let stock = call(front.shopper, "GET", "/api/v1/sales/drop", &[], "").await;
    assert_eq!(stock.status, 200, "{stock:?}");
    looked + &done
}

async fn a_backup_is_restored(at: usize) -> String {
    let mut world = World::new(&[]).await;
    let part = ["mysql-a", "mysql-b"][at];
    let set_back = async |world: &mut World, file: PathBuf| {
        world.lose(part, Loss::Killed);
        // Nobody gets to the server before it has the backup.
        world.mysql[at].set(Weather::Cut);
        world.restore();
        restore(world, at, &file).await;
        world.mysql[at].set(Weather::Fair);
    };
    let copy = async |world: &mut World| tokio::task::block_in_place(|| dump(world, at));
    let printed = Box::pin(is_recovered(&mut world, at, copy, set_back)).await;
    world.finish().await;
    printed
}

#[tokio::test(flavor = "multi_thread")]
async fn the_instance_with_the_directory_is_restored_from_a_backup_under_load() {
    println!("{}", a_backup_is_restored(0).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_instance_is_restored_from_a_backup_under_load() {
    println!("{}", a_backup_is_restored(1).await);
}

/// A replica of the second instance, on a copy of its data. It ends with the test.
struct Replica {
    folder: PathBuf,
    child: Option<Child>,
}

impl Replica {
    fn words(&self, port: u16) -> Vec<String> {
        let specification = std::fs::read_to_string(stack_folder().join("outages/conf/mysql-b"));
        let own = ["--datadir=", "--port=", "--pid-file=", "--server-id=", "#"];
        let mut words: Vec<String> = specification
            .expect("the stack's own specification")
            .lines()
            .filter(|word| !own.iter().any(|own| word.starts_with(own)))
            .map(str::to_owned)
            .collect();
        let folder = self.folder.display();
        words.extend([
            format!("--datadir={folder}/data"),
            format!("--port={port}"),
            format!("--pid-file={folder}/pid"),
            "--server-id=77".to_owned(),
            "--skip-replica-start".to_owned(),
        ]);
        words
    }

    async fn run(&mut self, config: &Config, port: u16) {
        self.end();
        let words = self.words(port);
        let log = std::fs::File::create(self.folder.join("log")).expect("a log");
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        self.child = Some(command.spawn().expect("mysqld runs"));
        let (user, password) = (&config.mysql.user, config.mysql.password.expose());
        let url = format!("mysql://{user}:{password}@127.0.0.1:{port}?ssl-mode=DISABLED");
        eventually("the replica answers", async || MySqlConnection::connect(&url).await.is_ok()).await;
    }

    fn end(&mut self) {
        if let Some(mut child) = self.child.take() {
            drop(child.kill());
            drop(child.wait());
        }
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        self.end();
        drop(std::fs::remove_dir_all(&self.folder));
    }
}

/// Where the replica listens before it takes over.
const REPLICA: u16 = 23308;

/// Copies the second instance, and follows it from there on.
async fn follow_the_second(world: &mut World) -> Replica {
    let folder = std::env::temp_dir().join(format!("{}-replica", world.config.kafka.topic));
    let mut replica = Replica { folder, child: None };
    std::fs::create_dir_all(&replica.folder).expect("a folder");
    world.lose("mysql-b", Loss::Killed);
    let data = replica.folder.join("data");
    let mut copy = Command::new("cp");
    copy.arg("-a").arg(stack_folder().join("outages/data/mysql-b")).arg(&data);
    assert!(copy.status().expect("cp runs").success());
    std::fs::remove_file(data.join("auto.cnf")).expect("a server of its own");
    world.restore();
    let mut source = connect(&world.config, MYSQL[1]).await;
    let status = sqlx::query("SHOW BINARY LOG STATUS").fetch_one(&mut source).await.expect("a binary log");
    let (file, position): (String, u64) = (status.get(0), status.get(1));
    replica.run(&world.config, REPLICA).await;
    let (user, password) = (&world.config.mysql.user, world.config.mysql.password.expose());
    let mut connection = connect(&world.config, REPLICA).await;
    for text in [
        format!(
            "CHANGE REPLICATION SOURCE TO SOURCE_HOST = '127.0.0.1', SOURCE_PORT = {}, SOURCE_USER = '{user}', \
             SOURCE_PASSWORD = '{password}', SOURCE_LOG_FILE = '{file}', SOURCE_LOG_POS = {position}, \
             GET_SOURCE_PUBLIC_KEY = 1",
            MYSQL[1]
        ),
        "START REPLICA".to_owned(),
    ] {
        connection.execute(AssertSqlSafe(text)).await.expect("a replica");
    }
    replica
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_was_behind_takes_over() {
    let mut world = World::new(&[]).await;
    let mut replica = follow_the_second(&mut world).await;
    let config = world.config.clone();
    let copy = async |_: &mut World| {
        let mut connection = connect(&config, REPLICA).await;
        connection.execute("STOP REPLICA SQL_THREAD").await.expect("it falls behind");
    };
    let set_back = async |world: &mut World, ()| {
        world.mysql[1].set(Weather::Cut);
        world.lose("mysql-b", Loss::Killed);
        let mut connection = connect(&config, REPLICA).await;
        connection.execute("STOP REPLICA").await.expect("it follows no longer");
        connection.execute("RESET REPLICA ALL").await.expect("it is no replica any more");
        replica.run(&config, MYSQL[1]).await;
        world.mysql[1].set(Weather::Fair);
    };
    println!("{}", Box::pin(is_recovered(&mut world, 1, copy, set_back)).await);
    drop(replica);
    world.finish().await;
}
