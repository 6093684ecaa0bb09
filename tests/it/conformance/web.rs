//! What programs and people see of the contract: a client that a kept generator makes of it, and its pages in a
//! browser. `scripts/stack install web-tests chromium` installs what these need.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use seckill::config::Mode;

use crate::harness::{API_KEY, Books, TestShop, temporary, token};
use crate::provider::paying_shop;

in_both_modes!(
    a_generated_client_buys_and_pays_and_gives_up,
    the_pages_of_the_contracts_work_without_other_servers,
);

const SOURCES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/web");
/// How long a program may run, in seconds.
const LIMIT: &str = "120";

/// A folder with the programs of `tests/web`, compiled. It is removed at the end.
struct Programs(PathBuf);

impl Programs {
    /// Generates the client from the contract that a listener serves, and compiles everything.
    async fn of(shopper: SocketAddr) -> Self {
        let packages = Path::new(env!("CARGO_MANIFEST_DIR")).join(".stack/dist/web/node_modules");
        assert!(packages.exists(), "packages are missing: run `scripts/stack install web-tests chromium`");
        let this = Self(temporary(&format!("web-{shopper}")));
        std::fs::create_dir_all(&this.0).expect("a folder");
        for file in ["package.json", "tsconfig.json", "client.ts", "docs.ts"] {
            std::fs::copy(Path::new(SOURCES).join(file), this.0.join(file)).expect("a copy");
        }
        std::os::unix::fs::symlink(&packages, this.0.join("node_modules")).expect("a link");
        let contract = format!("http://{shopper}/openapi.json");
        this.run("openapi-typescript", &[&contract, "-o", "shopper.ts"], &[]).await;
        this.run("tsc", &["-p", "."], &[]).await;
        this
    }

    /// Runs a tool of the packages, which must succeed.
    async fn run(&self, tool: &str, args: &[&str], settings: &[(&str, &str)]) {
        let path =
            if tool == "node" { PathBuf::from("node") } else { self.0.join("node_modules/.bin").join(tool) };
        let mut command = Command::new("timeout");
        command.arg(LIMIT).arg(path).args(args).envs(settings.iter().copied());
        command.current_dir(&self.0).stdin(Stdio::null());
        let done = tokio::task::spawn_blocking(move || command.output()).await.expect("no panic");
        let Output { status, stdout, stderr } = done.expect("it runs");
        let (said, talk) = (String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
        assert!(status.success(), "{tool} {args:?}: {said}{talk}");
    }
}

impl Drop for Programs {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.0));
    }
}

async fn a_generated_client_buys_and_pays_and_gives_up(mode: Mode) {
    let (shop, provider) = paying_shop(mode, &[]).await;
    shop.open_sale("drop", 2, &[("phone", 5)]).await;
    let programs = Programs::of(shop.shopper).await;
    let origin = format!("http://{}", shop.shopper);
    let events = async {
        loop {
            provider.events.run_once().await;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let bearer = token("ada");
    let settings = [("SHOP", origin.as_str()), ("TOKEN", bearer.as_str())];
    tokio::select! {
        () = programs.run("node", &["client.js"], &settings) => (),
        () = events => unreachable!("it has no end"),
    }
    assert_eq!((shop.stage().orders("paid").await, shop.stage().orders("cancelled").await), (1, 1));
    shop.finish_with(Books::Audited).await;
}

async fn the_pages_of_the_contracts_work_without_other_servers(mode: Mode) {
    let shop = TestShop::start(mode).await;
    shop.open_sale("drop", 1, &[("phone", 5)]).await;
    let programs = Programs::of(shop.shopper).await;
    let shots = Path::new(env!("CARGO_TARGET_TMPDIR")).join("screenshots").join(mode.as_str());
    std::fs::create_dir_all(&shots).expect("a folder");
    let (public, admin) = (format!("http://{}", shop.shopper), format!("http://{}", shop.admin));
    let shots = shots.to_str().expect("text");
    let settings = [("SHOP", public.as_str()), ("ADMIN", &admin), ("KEY", API_KEY), ("SHOTS", shots)];
    programs.run("node", &["docs.js"], &settings).await;
    shop.finish().await;
}
