//! A simulated payment provider of one test's own, and events that a test signs itself.

use std::net::SocketAddr;

use seckill::app::RunningSimulator;
use seckill::clock::Clock;
use seckill::config::{Mode, Secret};
use seckill::provider::simulator::{Events, sign};
use seckill::shutdown::Tasks;
use serde_json::{Value, json};

use crate::client::{Answer, call};
use crate::harness::{TestShop, token};

const PROVIDER_KEY: &str = "sk_test_a-key-of-the-tests";
pub const WEBHOOK_SECRET: &str = "whsec_a-secret-of-the-tests";
pub const PREVIOUS_SECRET: &str = "whsec_the-secret-before-it";
pub const WEBHOOK: &str = "/api/v1/webhooks/payments";
pub const DEPLOYMENT: &str = "shop-of-the-tests";

/// A provider that sends its events when the test says so.
pub struct Provider {
    pub simulator: RunningSimulator,
    pub events: Events,
}

/// A payment event as the provider would send it.
pub struct Event<'a> {
    pub id: &'a str,
    pub payment: &'a str,
    pub amount: i64,
    pub currency: &'a str,
    pub capture: &'a str,
}

impl Event<'_> {
    /// Makes the event of a session that was paid.
    pub fn completed(&self) -> Value {
        let metadata = json!({ "seckill_payment": self.payment, "seckill_deployment": DEPLOYMENT });
        json!({
            "id": self.id, "type": "checkout.session.completed", "livemode": false,
            "data": { "object": {
                "id": "cs_test_1", "status": "complete", "payment_status": "paid", "metadata": metadata,
                "amount_total": self.amount, "currency": self.currency, "payment_intent": self.capture,
            } },
        })
    }
}

/// Starts a provider.
pub fn simulator() -> RunningSimulator {
    let tasks = Tasks::on_current_runtime();
    let bind = ("127.0.0.1:0".parse().expect("an address"), "a test");
    RunningSimulator::start(bind, None, &Secret::new(PROVIDER_KEY), Clock::System, &tasks)
        .expect("a simulator")
}

/// Answers the settings of a shop that takes its money through the provider at `url`. Its unpaid orders do not expire
/// by themselves.
pub fn paying(url: &str) -> Vec<(&str, &str)> {
    vec![
        ("payment.provider", "simulator"),
        ("payment.simulator_is_play_money", "true"),
        ("payment.provider_url", url),
        ("payment.api_key", PROVIDER_KEY),
        ("payment.webhook_secret", WEBHOOK_SECRET),
        ("payment.webhook_previous_secret", PREVIOUS_SECRET),
        ("payment.deployment", DEPLOYMENT),
        ("payment.return_url", "https://shop.example/orders/{order}"),
        ("payment.expiry", "off"),
    ]
}

/// Starts a shop that takes its money through a provider of its own.
pub async fn paying_shop(mode: Mode, flags: &[(&str, &str)]) -> (TestShop, Provider) {
    let simulator = simulator();
    let url = format!("http://{}", simulator.address);
    let mut all = paying(&url);
    all.extend(flags);
    let shop = TestShop::start_with(mode, &all).await;
    let provider = Provider::of(simulator, &shop);
    (shop, provider)
}

impl Provider {
    /// Has a provider tell a shop what happens.
    pub fn of(simulator: RunningSimulator, shop: &TestShop) -> Self {
        let secret = Secret::new(WEBHOOK_SECRET);
        let events = simulator.events(&format!("http://{}{WEBHOOK}", shop.shopper), &secret);
        Self { simulator, events: events.expect("a sender") }
    }

    /// Tells the shop what happens, again and again.
    pub async fn tells(&self) {
        loop {
            self.events.run_once().await;
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    }

    /// Presses a button on a payment page, as a buyer does in a browser.
    pub async fn press(&self, page: &str, button: &str) -> Answer {
        let path = page.strip_prefix(&format!("http://{}", self.simulator.address)).expect("its own page");
        let headers = [("Content-Type", "application/x-www-form-urlencoded")];
        call(self.simulator.address, "POST", path, &headers, format!("action={button}")).await
    }

    /// Answers the captures of the provider's books, oldest first, as `(payment, amount, paid back)`.
    pub fn books(&self) -> Vec<(String, i64, i64)> {
        let (status, list) =
            self.simulator.books().get("payment_intents", &[("limit".to_owned(), "100".to_owned())]);
        assert_eq!(status, 200);
        let entry = |intent: &Value| {
            let number = |value: &Value| value.as_i64().expect("a number");
            let payment = intent["metadata"]["seckill_payment"].as_str().unwrap_or_default().to_owned();
            let refunded = number(&intent["latest_charge"]["amount_refunded"]);
            (payment, number(&intent["amount_received"]), refunded)
        };
        list["data"].as_array().expect("a list").iter().rev().map(entry).collect()
    }
}

/// Sends an event of the test's own to a shop, signed now with its secret.
pub async fn tell(shopper: SocketAddr, event: &Value) -> Answer {
    let body = event.to_string();
    let signature = sign(&Secret::new(WEBHOOK_SECRET), Clock::System.now_ms() / 1000, body.as_bytes());
    send_event(shopper, &signature, body).await
}

/// Sends a body with a signature, as if it were an event.
pub async fn send_event(shopper: SocketAddr, signature: &str, body: String) -> Answer {
    let headers = [("Stripe-Signature", signature), ("Content-Type", "application/json")];
    call(shopper, "POST", WEBHOOK, &headers, body).await
}

impl TestShop {
    /// Buys one phone of `drop`, and waits until it can be paid. Returns the order's id.
    pub async fn unpaid(&self, user: &str, key: &str) -> String {
        let bought = self.buy(user, "drop", "phone", key).await;
        assert_eq!(bought.status, 202, "{bought:?}");
        let order = bought.json()["id"].as_str().expect("an id").to_owned();
        assert_eq!(self.decided(user, &order).await["status"], "awaiting_payment");
        order
    }

    /// Changes an order as its buyer: `pay` or `cancel`.
    pub async fn act(&self, user: &str, order: &str, what: &str) -> Answer {
        let bearer = format!("Bearer {}", token(user));
        let headers = [("Authorization", bearer.as_str()), ("Idempotency-Key", "a")];
        call(self.shopper, "POST", &format!("/api/v1/orders/{order}/{what}"), &headers, "").await
    }

    /// Opens a payment, and returns its id and the address of its page.
    pub async fn payment(&self, user: &str, order: &str) -> (String, String) {
        let opened = self.act(user, order, "pay").await;
        assert!(matches!(opened.status, 200 | 201), "{opened:?}");
        let payment = opened.json()["payment"].clone();
        let text = |member: &str| payment[member].as_str().expect("text").to_owned();
        (text("id"), text("redirect_url"))
    }

    pub async fn status(&self, user: &str, order: &str) -> Value {
        self.get(user, &format!("/api/v1/orders/{order}")).await.json()["status"].clone()
    }
}
