//! Every operation of both contracts is called with requests that a kept tool makes of the contracts, good ones and bad
//! ones. `scripts/stack install schemathesis` installs it.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use seckill::config::Mode;
use seckill::http::router::{ADMIN_CONTRACT, SHOPPER_CONTRACT};

use crate::client::call;
use crate::harness::{API_KEY, TestShop, token};
use crate::provider::paying_shop;

in_both_modes!(
    the_shopper_contract_is_kept,
    the_admin_contract_is_kept,
    every_example_of_a_body_is_understood,
);

/// How many requests are made for each operation and kind of request, unless `CONTRACT_REQUESTS` has said at the
/// build.
const REQUESTS: &str = "40";

/// Calls all operations of a listener, but for those.
async fn hold(listener: SocketAddr, bearer: &str, without: &[&str]) {
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join(".stack/dist/schemathesis/bin/schemathesis");
    assert!(program.exists(), "schemathesis is missing: run `scripts/stack install schemathesis`");
    let mut command = Command::new(program);
    let rules = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/contract/schemathesis.toml");
    command.args(["--config-file", rules, "run", &format!("http://{listener}/openapi.json")]);
    command.args(["--header", &format!("Authorization: Bearer {bearer}")]);
    let requests = option_env!("CONTRACT_REQUESTS").unwrap_or(REQUESTS);
    command.args(["--max-examples", requests, "--seed", "7", "--no-color", "--workers", "1"]);
    // Scenarios hang on answers, which are others each time: they are for long runs.
    let is_long = option_env!("CONTRACT_REQUESTS").is_some();
    let phases = if is_long { "examples,coverage,fuzzing,stateful" } else { "examples,coverage,fuzzing" };
    command.args(["--request-timeout", "60", "--phases", phases]);
    command.args(without.iter().flat_map(|id| ["--exclude-operation-id", id]));
    command.current_dir(std::env::temp_dir());
    let done =
        tokio::task::spawn_blocking(move || command.output()).await.expect("no panic").expect("it runs");
    let told = String::from_utf8_lossy(&done.stdout);
    assert!(done.status.success(), "{told}{}", String::from_utf8_lossy(&done.stderr));
}

async fn the_shopper_contract_is_kept(mode: Mode) {
    let secret = ("auth.purchase_token_secret", "a secret of 32 bytes or more ……");
    let shop = TestShop::start_with(mode, &[secret]).await;
    shop.open_sale("friday-drop", 9, &[("phone-x", 1000)]).await;
    // It is not there without a payment provider, and payment_events tries it with one.
    hold(shop.shopper, &token("ada"), &["hear_payment_event"]).await;
    shop.finish().await;
}

async fn the_admin_contract_is_kept(mode: Mode) {
    let shop = TestShop::start(mode).await;
    shop.open_sale("friday-drop", 9, &[("phone-x", 1000)]).await;
    // These turn others off, which would be the answer to everything. `rules`, `breakers` and `greys` try them.
    hold(shop.admin, API_KEY, &["force_breaker", "put_switch"]).await;
    shop.finish().await;
}

/// Sends the example of every body that the contracts have. What it names may not be there; that it is understood is
/// what counts.
async fn every_example_of_a_body_is_understood(mode: Mode) {
    let secret = ("auth.purchase_token_secret", "a secret of 32 bytes or more ……");
    let (shop, _provider) = paying_shop(mode, &[secret]).await;
    shop.open_sale("friday-drop", 9, &[("phone-x", 1000)]).await;
    let mut executed = 0;
    for (contract, listener, bearer) in
        [(&SHOPPER_CONTRACT, shop.shopper, token("ada")), (&ADMIN_CONTRACT, shop.admin, API_KEY.to_owned())]
    {
        let bearer = format!("Bearer {bearer}");
        let headers = [
            ("Authorization", bearer.as_str()),
            ("Content-Type", "application/json"),
            ("Idempotency-Key", "k"),
        ];
        for (path, verbs) in contract["paths"].as_object().expect("paths") {
            for (verb, operation) in verbs.as_object().expect("verbs") {
                let example = &operation["requestBody"]["content"]["application/json"]["example"];
                if example.is_null() {
                    continue;
                }
                let order = "ord_00000000000000000000000000";
                let path = path
                    .replace("{sale}", "friday-drop")
                    .replace("{order}", order)
                    .replace("{letter}", "0-1");
                let path = path.replace("{action}", "publish").replace("{switch}", "no_new_sales");
                let path = path.replace("{dependency}", "redis").replace(['{', '}'], "");
                let answer = call(listener, &verb.to_uppercase(), &path, &headers, example.to_string()).await;
                assert!(
                    ![400, 405, 415, 422, 500].contains(&answer.status),
                    "{verb} {path} {example}: {answer:?}"
                );
                executed += 1;
            }
        }
    }
    assert!(executed > 25, "{executed}");
    shop.finish().await;
}
