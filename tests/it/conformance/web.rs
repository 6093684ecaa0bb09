//! What programs and people see of the contract: a client that a kept generator makes of it, and its pages in a
//! browser. `scripts/stack install web-tests chromium` installs what these need.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use seckill::config::Mode;

use crate::harness::ports::free_address;
use crate::harness::process::Process;
use crate::harness::{API_KEY, Books, READ_ONLY_KEY, TestShop, temporary, token};
use crate::provider::paying_shop;

in_both_modes!(
    a_generated_client_buys_and_pays_and_gives_up,
    the_pages_of_the_contracts_work_without_other_servers,
    shoppers_buy_and_pay_in_a_browser,
    a_page_of_another_origin_buys_only_when_it_may,
    a_promoter_runs_a_sale_in_a_browser,
    an_engineer_sees_what_is_out_of_order_in_a_browser,
);

const SOURCES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/web");
const FILES: [&str; 10] = [
    "package.json",
    "tsconfig.json",
    "browser.ts",
    "client.ts",
    "console.ts",
    "cors.ts",
    "docs.ts",
    "minutes.ts",
    "ops.ts",
    "shop.ts",
];
/// How long a program may run, in seconds.
const LIMIT: &str = "180";

/// A folder with the programs of `tests/web`, compiled. It is removed at the end.
pub struct Programs(PathBuf);

impl Programs {
    /// Generates the client from the contract that a listener serves, and compiles everything.
    pub async fn of(shopper: SocketAddr) -> Self {
        let packages = Path::new(env!("CARGO_MANIFEST_DIR")).join(".stack/dist/web/node_modules");
        assert!(packages.exists(), "packages are missing: run `scripts/stack install web-tests chromium`");
        let this = Self(temporary(&format!("web-{shopper}")));
        std::fs::create_dir_all(&this.0).expect("a folder");
        for file in FILES {
            std::fs::copy(Path::new(SOURCES).join(file), this.0.join(file)).expect("a copy");
        }
        std::os::unix::fs::symlink(&packages, this.0.join("node_modules")).expect("a link");
        let contract = format!("http://{shopper}/openapi.json");
        this.run("openapi-typescript", &[&contract, "-o", "shopper.ts"], &[]).await;
        this.run("tsc", &["-p", "."], &[]).await;
        this
    }

    /// Runs a tool of the packages, which must succeed.
    pub async fn run(&self, tool: &str, args: &[&str], settings: &[(&str, &str)]) {
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
    let bearer = token("ada");
    let settings = [("SHOP", origin.as_str()), ("TOKEN", bearer.as_str())];
    tokio::select! {
        () = programs.run("node", &["client.js"], &settings) => (),
        () = provider.tells() => unreachable!("it has no end"),
    }
    assert_eq!((shop.stage().orders("paid").await, shop.stage().orders("cancelled").await), (1, 1));
    shop.finish_with(Books::Audited).await;
}

async fn the_pages_of_the_contracts_work_without_other_servers(mode: Mode) {
    let shop = TestShop::start(mode).await;
    shop.open_sale("drop", 1, &[("phone", 5)]).await;
    let programs = Programs::of(shop.shopper).await;
    let (public, admin) = (format!("http://{}", shop.shopper), format!("http://{}", shop.admin));
    let shots = shots(mode);
    let settings = [("SHOP", public.as_str()), ("ADMIN", &admin), ("KEY", API_KEY), ("SHOTS", &shots)];
    programs.run("node", &["docs.js"], &settings).await;
    shop.finish().await;
}

/// Answers the folder of the screenshots, which stay for people to look at.
pub fn shots(mode: Mode) -> String {
    let shots = Path::new(env!("CARGO_TARGET_TMPDIR")).join("screenshots").join(mode.as_str());
    std::fs::create_dir_all(&shots).expect("a folder");
    shots.to_str().expect("text").to_owned()
}

async fn shoppers_buy_and_pay_in_a_browser(mode: Mode) {
    let address = free_address().to_string();
    let back = format!("http://{address}/shop?order={{order}}");
    let (shop, provider) = paying_shop(mode, &[("http.bind", &address), ("payment.return_url", &back)]).await;
    shop.let_anybody_buy();
    let programs = Programs::of(shop.shopper).await;
    let (public, admin) = (format!("http://{address}"), format!("http://{}", shop.admin));
    let (pay, shots) = (format!("http://{}", provider.simulator.address), shots(mode));
    let settings =
        [("SHOP", public.as_str()), ("ADMIN", &admin), ("PAY", &pay), ("KEY", API_KEY), ("SHOTS", &shots)];
    tokio::select! {
        () = programs.run("node", &["shop.js"], &settings) => (),
        () = provider.tells() => unreachable!("it has no end"),
    }
    shop.finish_with(Books::Audited).await;
}

async fn a_page_of_another_origin_buys_only_when_it_may(mode: Mode) {
    let (good, bad) = (format!("http://{}", free_address()), format!("http://{}", free_address()));
    let shop = TestShop::start_with(mode, &[("http.cors_origins", &good)]).await;
    shop.open_sale("drop", 1, &[("phone", 5)]).await;
    let programs = Programs::of(shop.shopper).await;
    let (public, bearer) = (format!("http://{}", shop.shopper), token("ada"));
    let settings = [("SHOP", public.as_str()), ("GOOD", &good), ("BAD", &bad), ("TOKEN", &bearer)];
    programs.run("node", &["cors.js"], &settings).await;
    assert_eq!(shop.stage().orders("awaiting_payment").await, 1);
    shop.finish().await;
}

async fn a_promoter_runs_a_sale_in_a_browser(mode: Mode) {
    let shop = TestShop::start(mode).await;
    shop.let_anybody_buy();
    let programs = Programs::of(shop.shopper).await;
    let (public, admin) = (format!("http://{}", shop.shopper), format!("http://{}", shop.admin));
    let shots = shots(mode);
    let settings = [
        ("SHOP", public.as_str()),
        ("ADMIN", &admin),
        ("KEY", API_KEY),
        ("VIEWER", READ_ONLY_KEY),
        ("SHOTS", &shots),
    ];
    programs.run("node", &["console.js"], &settings).await;
    shop.finish().await;
}

async fn an_engineer_sees_what_is_out_of_order_in_a_browser(mode: Mode) {
    let shop = TestShop::start(mode).await;
    // Of the embedded mode there is one process.
    let worker = match mode {
        Mode::Distributed => Some(Process::worker(&shop.config).await),
        Mode::Embedded => None,
    };
    shop.let_anybody_buy();
    let programs = Programs::of(shop.shopper).await;
    let (public, admin) = (format!("http://{}", shop.shopper), format!("http://{}", shop.admin));
    let (shots, id) = (shots(mode), worker.as_ref().map_or(String::new(), |worker| worker.id().to_string()));
    let settings =
        [("SHOP", public.as_str()), ("ADMIN", &admin), ("KEY", API_KEY), ("WORKER", &id), ("SHOTS", &shots)];
    programs.run("node", &["ops.js"], &settings).await;
    shop.finish().await;
}
