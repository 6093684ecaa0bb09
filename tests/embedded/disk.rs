//! A disk is full or fails. Purchases are refused with words, nothing is taken or damaged, and the same process sells
//! again when the disk is well.
//!
//! The shop runs in a mount namespace of its own, on a small tmpfs. The tests see its folder through `/proc`.

use std::fs::{self, File};
use std::io::Write;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;

use crate::audit::assert_clean;
use crate::binary::{Folder, Process, settings};
use crate::client::{Answer, Line, call};
use crate::harness::{eventually, operate, token};
use crate::load::{Told, click, open_sale};

/// The size of the disk. It has room for the database of a few hundred orders, and a test can fill it quickly.
const ROOM: &str = "size=6m";

const STOCK: u32 = 100_000;

/// A shop on a disk of its own.
struct Shop {
    process: Process,
    /// The mount point in the shop's own namespace.
    folder: Folder,
    key: String,
}

impl Shop {
    async fn start() -> Self {
        let folder = Folder::new();
        fs::create_dir_all(folder.path()).expect("a mount point");
        let script = format!(
            "mount -t tmpfs -o {ROOM} tmpfs \"$1\" && trap '' XFSZ && \
             \"$0\" key create --name tester --mode embedded --data \"$1\" >\"$1/key\" && \
             exec \"$0\" serve --mode embedded --data \"$1\" --bind 127.0.0.1:0 --admin-bind 127.0.0.1:0"
        );
        let mut command = Command::new("unshare");
        settings(&mut command)
            .args(["-rm", "sh", "-c", &script, env!("CARGO_BIN_EXE_seckill")])
            .arg(folder.path());
        let process = Process::start(command).await;
        let mut shop = Self { process, folder, key: String::new() };
        shop.key = fs::read_to_string(shop.seen().join("key")).expect("a key").trim().to_owned();
        shop
    }

    /// Returns the path by which the test sees the folder.
    fn seen(&self) -> PathBuf {
        let inside = self.folder.path().strip_prefix("/").expect("absolute");
        PathBuf::from(format!("/proc/{}/root", self.process.id())).join(inside)
    }

    /// Writes until nothing more fits.
    fn fill(&self) {
        let mut ballast = File::create(self.seen().join("ballast")).expect("a file");
        for size in [65_536, 4096, 1] {
            while ballast.write_all(&vec![0; size]).is_ok() {}
        }
    }

    fn make_room(&self) {
        fs::remove_file(self.seen().join("ballast")).expect("removed");
    }

    /// Limits the size of files: from now on no write beyond `bytes` succeeds. `unlimited` lets all writes succeed
    /// again.
    fn limit_files(&self, bytes: &str) {
        let id = self.process.id().to_string();
        let set =
            Command::new("prlimit").args(["--pid", &id, &format!("--fsize={bytes}:unlimited")]).status();
        assert!(set.expect("prlimit runs").success());
    }

    /// Buys until a purchase is refused, and returns that refusal. The orders before it are noted in `told`.
    async fn buy_until_refused(&self, name: &str, told: &mut Vec<Told>) -> (String, Answer) {
        let mut line = Line::open(self.process.shopper).await.expect("a connection");
        for n in 0..2000 {
            let user = format!("{name}-{n}");
            let answer = click(&mut line, &user, "drop", "wait=0").await.expect("an answer");
            if answer.status >= 300 {
                return (user, answer);
            }
            let id = answer.json()["id"].as_str().expect("an id").to_owned();
            told.push(Told { user, sale: "drop".to_owned(), id });
        }
        panic!("2000 purchases and no refusal");
    }

    async fn stock(&self) -> Value {
        let answer = operate(self.process.admin, &self.key, "GET", "/sales/drop/stock", Value::Null).await;
        answer.json()["items"][0].clone()
    }

    /// Asserts that every write fails, that everybody is told so at once, and that reads go on.
    async fn assert_refusing(&self, told: &[Told], user: &str) {
        let before = self.stock().await;
        let mut line = Line::open(self.process.shopper).await.expect("a connection");
        for n in 0..30 {
            let other = format!("{user}-{n}");
            for asked in [user, &other] {
                let answer = click(&mut line, asked, "drop", "wait=0").await.expect("an answer");
                assert_eq!(answer.problem(), (503, "dependency_unavailable".to_owned()), "{answer:?}");
                assert_eq!(answer.json()["retryable"], true);
            }
        }
        assert_eq!(self.stock().await["available"], before["available"], "a refusal took a unit");
        eventually("the shop says that it is not ready", async || !self.process.is_ready().await).await;
        assert_eq!(call(self.process.admin, "GET", "/livez", &[], "").await.status, 200);
        if let Some(Told { user, id, .. }) = told.last() {
            let order = get(self.process.shopper, user, &format!("/api/v1/orders/{id}")).await;
            assert_eq!(order.status, 200, "{order:?}");
        }
    }

    /// Asserts that the disk is well again: the same process sells, also to those who were refused, and nothing was
    /// damaged.
    async fn assert_selling(&self, told: &mut Vec<Told>, refused: &str) {
        eventually("the shop is ready again", async || self.process.is_ready().await).await;
        let mut line = Line::open(self.process.shopper).await.expect("a connection");
        for user in [refused.to_owned(), format!("again-{refused}")] {
            let answer = click(&mut line, &user, "drop", "wait=5").await.expect("an answer");
            assert_eq!(answer.status, 201, "{answer:?}");
            let id = answer.json()["id"].as_str().expect("an id").to_owned();
            told.push(Told { user, sale: "drop".to_owned(), id });
        }
        let sold = i64::try_from(told.len()).expect("few");
        eventually("every order is written", async || self.stock().await["held"] == sold).await;
        assert_eq!(self.stock().await["available"], i64::from(STOCK) - sold, "a refusal holds a unit");
    }

    /// Ends the shop and audits what is on the disk. The mount lives as long as a file of it is open.
    async fn finish(self, told: &[Told]) {
        let disk = File::open(self.seen()).expect("a folder");
        let seen = PathBuf::from(format!("/proc/self/fd/{}", disk.as_raw_fd()));
        assert!(self.process.stop().success());
        let copy = Folder::new();
        fs::create_dir_all(copy.path()).expect("a folder");
        for file in fs::read_dir(&seen).expect("a folder") {
            let name = file.expect("a file").file_name();
            fs::copy(seen.join(&name), copy.path().join(&name)).expect("copied");
        }
        let process = Process::serve(copy.path()).await;
        assert_clean(copy.path(), told).await;
        assert!(process.stop().success());
    }
}

async fn get(shopper: SocketAddr, user: &str, path: &str) -> Answer {
    let bearer = format!("Bearer {}", token(user));
    call(shopper, "GET", path, &[("Authorization", &bearer)], "").await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_refuses_with_503_and_sells_on_when_there_is_room() {
    let shop = Shop::start().await;
    open_sale(shop.process.admin, &shop.key, "drop", STOCK).await;
    let mut told = Vec::new();
    for round in 0..3 {
        shop.fill();
        let (refused, answer) = shop.buy_until_refused(&format!("u{round}"), &mut told).await;
        assert_eq!(answer.problem(), (503, "dependency_unavailable".to_owned()), "{answer:?}");
        shop.assert_refusing(&told, &refused).await;
        shop.make_room();
        shop.assert_selling(&mut told, &refused).await;
    }
    shop.finish(&told).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_fails_refuses_with_503_and_sells_on_when_it_is_well() {
    let shop = Shop::start().await;
    open_sale(shop.process.admin, &shop.key, "drop", STOCK).await;
    let mut told = Vec::new();
    for round in 0..3 {
        shop.limit_files("64");
        let (refused, answer) = shop.buy_until_refused(&format!("u{round}"), &mut told).await;
        assert_eq!(answer.problem(), (503, "dependency_unavailable".to_owned()), "{answer:?}");
        shop.assert_refusing(&told, &refused).await;
        shop.limit_files("unlimited");
        shop.assert_selling(&mut told, &refused).await;
    }
    shop.finish(&told).await;
}
