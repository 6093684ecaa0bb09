//! Sends purchases through the real router over the real backend, in one thread, so that instructions can be counted.
//!
//! The background tasks of a front (catalog, pace, upkeep of the metrics) do not run, so that the count does not depend
//! on how long the requests take. callgrind collects inside [`measured_requests`], whose name `benches/run` knows.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use actix_web::body::MessageBody;
use actix_web::dev::{Service, ServiceFactory, ServiceRequest, ServiceResponse};
use actix_web::http::StatusCode;
use actix_web::rt::{System, SystemRunner};
use actix_web::test::{TestRequest, init_service};
use actix_web::{App, Error, middleware::from_fn, web};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, encode};
use metrics_exporter_prometheus::PrometheusHandle;
use seckill::clock::Clock;
use seckill::config::Config;
use seckill::domain::purchase_token::{self, Bound, TokenKeys};
use seckill::domain::rule::{Rule, RuleSet, RuleTerms};
use seckill::domain::{DeviceId, RuleId, Sale, SaleId, UserId};
use seckill::http::auth::{TokenKey, TokenRules, Tokens};
use seckill::http::client_address::{ClientAddresses, ForwardedHeader};
use seckill::http::straight::straight;
use seckill::http::{Context, middleware, router};
use seckill::memory::Memory;
use seckill::memory::order_cache::OrderCache;
use seckill::memory::rulebook::Rulebook;
use seckill::memory::streams::Streams;
use seckill::metrics::STAGE_DURATION;
use seckill::outbound::HttpOutbound;
use seckill::ports::Outbound;
use seckill::shop::{Settings, Shop};
use seckill::shutdown::Tasks;
use seckill::trace::Recorder;
use serde_json::json;
use tokio::sync::mpsc;

use crate::{fixture, slices};

/// Buyers who are refused again and again.
const REFUSED_BUYERS: usize = 100;
/// Spans for which there is room: all of them.
const SPANS_MAX: usize = 100_000;
/// The most looks for the sold-out flag.
const FLAG_LOOKS_MAX: usize = 200;

struct Front {
    system: SystemRunner,
    context: web::Data<Context>,
    metrics: PrometheusHandle,
    sale: Sale,
    secret: String,
    audience: String,
}

/// Counts N refusals by the sold-out flag. The tokens of the buyers have been verified before.
pub fn refused(config: &Config, requests: usize, traced_per_million: Option<u32>) -> anyhow::Result<()> {
    let (sender, _spans) = mpsc::channel(SPANS_MAX);
    if let Some(per_million) = traced_per_million {
        let recorder = Recorder::new(per_million, u32::MAX, Duration::MAX, sender, Clock::System);
        anyhow::ensure!(recorder.install(), "there is a recorder");
    }
    let front = Front::open(config, 1)?;
    let service = front.system.block_on(init_service(app(front.context.clone())));
    let first = front.status(&service, front.click(0)?.to_request())?;
    anyhow::ensure!(first == StatusCode::ACCEPTED, "the only unit was not sold: {first}");
    let mut looks = 0;
    loop {
        let asked = front.reservations();
        for buyer in 1..=REFUSED_BUYERS {
            let status = front.status(&service, front.click(buyer)?.to_request())?;
            anyhow::ensure!(status == StatusCode::CONFLICT, "not refused: {status}");
        }
        if front.reservations() == asked {
            break;
        }
        looks += 1;
        anyhow::ensure!(looks < FLAG_LOOKS_MAX, "the sold-out flag is never set");
        let pause = Duration::from_millis(20);
        front.system.block_on(async { tokio::time::sleep(pause).await });
    }
    let asked = front.reservations();
    let click = |n| Ok(front.click(1 + n % REFUSED_BUYERS)?.to_request());
    let mut clicks = (0..requests).map(click).collect::<anyhow::Result<Vec<_>>>()?;
    measured_requests(&mut || {
        front.system.block_on(send(&service, std::mem::take(&mut clicks), StatusCode::CONFLICT))
    })?;
    anyhow::ensure!(front.reservations() == asked, "a refusal asked Redis");
    slices::say(&json!({ "refused": requests }))
}

/// Counts N refusals by a limit, while the clock stands still: by the configuration's, of one purchase a second for
/// each buyer, or by the rules of a file.
pub fn throttled(config: &Config, requests: usize, rules: Option<&Path>) -> anyhow::Result<()> {
    let mut config = config.clone();
    (config.limits.user_per_s, config.limits.user_burst) = if rules.is_some() { (0, 0) } else { (1, 1) };
    (config.limits.address_per_s, config.limits.address_burst) = (0, 0);
    let rules = rules.map(rules_of).transpose()?.unwrap_or_default();
    let front = Front::open_at(&config, 1_000_000, Clock::manual(Clock::System.now_ms()), rules)?;
    let service = front.system.block_on(init_service(app(front.context.clone())));
    for buyer in 0..REFUSED_BUYERS {
        // A buyer's first purchase passes, and its token is verified. What Redis answers does not matter here.
        front.status(&service, front.click(buyer)?.to_request())?;
    }
    let click = |n| Ok(front.click(n % REFUSED_BUYERS)?.to_request());
    let mut clicks = (0..requests).map(click).collect::<anyhow::Result<Vec<_>>>()?;
    measured_requests(&mut || {
        front.system.block_on(send(&service, std::mem::take(&mut clicks), StatusCode::TOO_MANY_REQUESTS))
    })?;
    slices::say(&json!({ "throttled": requests }))
}

/// Reads rules of traffic from a file that has their terms by id.
fn rules_of(path: &Path) -> anyhow::Result<RuleSet> {
    let terms: BTreeMap<String, RuleTerms> = serde_json::from_slice(&std::fs::read(path)?)?;
    let rule = |(id, terms): (String, _)| anyhow::Ok(Rule { id: RuleId::parse(&id)?, terms, version: 1 });
    Ok(RuleSet { version: 1, rules: terms.into_iter().map(rule).collect::<Result<_, _>>()? })
}

/// Counts N acceptances, each of a buyer who was never seen. They are reserved in Redis and acknowledged by Kafka.
pub fn accepted(config: &Config, requests: usize) -> anyhow::Result<()> {
    let front = Front::open(config, 1_000_000)?;
    let service = front.system.block_on(init_service(app(front.context.clone())));
    // These purchases pay for what happens once: connections, the script, the producer's metadata.
    for buyer in 0..20 {
        let status = front.status(&service, front.click(buyer)?.to_request())?;
        anyhow::ensure!(status == StatusCode::ACCEPTED, "not accepted: {status}");
    }
    let click = |n| Ok(front.click(100 + n)?.to_request());
    let mut clicks = (0..requests).map(click).collect::<anyhow::Result<Vec<_>>>()?;
    measured_requests(&mut || {
        front.system.block_on(send(&service, std::mem::take(&mut clicks), StatusCode::ACCEPTED))
    })?;
    slices::say(&json!({ "accepted": requests }))
}

/// Counts N checks of the purchase tokens of as many buyers.
pub fn checked_token(requests: usize) -> anyhow::Result<()> {
    let keys = TokenKeys { current: purchase_token::TokenKey::new(1, &[7; 32]), previous: None };
    let (sale, device) =
        (SaleId::parse("friday-drop")?, DeviceId::parse("0123456789abcdef0123456789abcdef")?);
    let users: Vec<UserId> =
        (0..requests).map(|n| UserId::parse(&format!("buyer-{n:010}"))).collect::<Result<_, _>>()?;
    let bound = |user| Bound { user, sale: &sale, device: Some(&device) };
    let tokens: Vec<String> = users.iter().map(|user| keys.issue(bound(user), 0, i64::MAX)).collect();
    measured_requests(&mut || {
        for (user, token) in users.iter().zip(&tokens) {
            anyhow::ensure!(keys.check(token, bound(user), 1, 0).is_ok(), "not its own token");
        }
        Ok(())
    })?;
    slices::say(&json!({ "checked-token": requests }))
}

/// Runs what is counted: everything that happens on this thread while the requests are answered one after another. The
/// name of this function must stay plain, without type arguments, and the function must not be inlined.
#[inline(never)]
fn measured_requests(work: &mut dyn FnMut() -> anyhow::Result<()>) -> anyhow::Result<()> {
    // The call must not be the last act of the function. Leaving it would then be a jump, which callgrind does not see.
    std::hint::black_box(work())
}

/// Sends the requests one after another.
async fn send<S, R, B>(service: &S, clicks: Vec<R>, wanted: StatusCode) -> anyhow::Result<()>
where
    S: Service<R, Response = ServiceResponse<B>, Error = Error>,
    B: MessageBody,
{
    for click in clicks {
        let status = answer(service, click).await?;
        anyhow::ensure!(status == wanted, "answered {status}");
    }
    Ok(())
}

async fn answer<S, R, B>(service: &S, click: R) -> anyhow::Result<StatusCode>
where
    S: Service<R, Response = ServiceResponse<B>, Error = Error>,
    B: MessageBody,
{
    let response = service.call(click).await.map_err(|error| anyhow::anyhow!("{error}"))?;
    Ok(response.status())
}

impl Front {
    fn open(config: &Config, stock: u32) -> anyhow::Result<Self> {
        Self::open_at(config, stock, Clock::System, RuleSet::default())
    }

    fn open_at(config: &Config, stock: u32, clock: Clock, rules: RuleSet) -> anyhow::Result<Self> {
        let system = System::new();
        let metrics = seckill::metrics::install()?;
        let sale = fixture::sale(&format!("callgrind-{}", Clock::System.now_ms()), stock)?;
        let secret = config.auth.hs256_secret.expose().to_owned();
        let audience = config.auth.audience.clone();
        let context = system.block_on(async {
            let ports = fixture::open(config).await?;
            let placed = ports.gates.preheat(&sale).await?;
            ports.gates.set_gates(&sale, &placed).await?;
            let tasks = Tasks::on_current_runtime();
            let map = config.shard_map()?;
            let rulebook = Rulebook::new(config.limits.rates(), true, Arc::default());
            let memory = Memory::new(
                map,
                rulebook,
                Arc::default(),
                OrderCache::new(0),
                Streams::of_nobody(clock.clone()),
            );
            memory.rules.take(rules, Clock::System.now_ms());
            memory.catalog.put(sale.clone());
            let outbound: Arc<dyn Outbound> = Arc::new(HttpOutbound::new(&config.events, Clock::System)?);
            let shop =
                Shop::new((ports, None, outbound), memory, settings(config), map, clock.clone(), tasks);
            let key = DecodingKey::from_secret(secret.as_bytes());
            let key = TokenKey { kid: None, algorithm: Algorithm::HS256, key };
            let token_rules = TokenRules {
                audience: config.auth.audience.clone(),
                issuer: config.auth.issuer.clone(),
                leeway_s: config.auth.leeway_s,
                device_claim: None,
                verified_max: config.auth.verified_tokens_max,
            };
            anyhow::Ok(Context {
                admin_hosts: Vec::new(),
                process: String::new(),
                figures: Arc::default(),
                tasks: Arc::new(Vec::new),
                take_profile: None,
                demo: OnceLock::new(),
                origins: Vec::new(),
                reload: OnceLock::new(),
                shop,
                tokens: Arc::new(Tokens::new(vec![key], &token_rules, clock.clone())),
                learn_keys: None,
                addresses: ClientAddresses::new(Vec::new(), ForwardedHeader::XForwardedFor),
                device_header: None,
                body_timeout_ms: config.http.body_timeout_ms,
                webhook_body_bytes_max: config.payment.webhook_body_bytes_max,
                clock,
                metrics: metrics.clone(),
            })
        })?;
        Ok(Self { system, context: web::Data::new(context), metrics, sale, secret, audience })
    }

    fn click(&self, buyer: usize) -> anyhow::Result<TestRequest> {
        let claims = json!({
            "sub": format!("buyer-{buyer:010}"), "aud": self.audience, "exp": 4_000_000_000_u32,
        });
        let key = EncodingKey::from_secret(self.secret.as_bytes());
        let token = encode(&Header::new(Algorithm::HS256), &claims, &key)?;
        Ok(TestRequest::post()
            .uri(&format!("/api/v1/sales/{}/orders", self.sale.id))
            .peer_addr(([127, 0, 0, 1], 1).into())
            .insert_header(("Authorization", format!("Bearer {token}")))
            .insert_header(("Idempotency-Key", format!("key-{buyer:010}")))
            .insert_header(("Content-Type", "application/json"))
            .set_payload(format!(r#"{{"sku_id":"{}","quantity":1}}"#, fixture::SKU)))
    }

    fn status<S, R, B>(&self, service: &S, click: R) -> anyhow::Result<StatusCode>
    where
        S: Service<R, Response = ServiceResponse<B>, Error = Error>,
        B: MessageBody,
    {
        self.system.block_on(answer(service, click))
    }

    /// Reads how many purchases have gone to Redis so far.
    fn reservations(&self) -> String {
        let series = format!("{STAGE_DURATION}_count{{stage=\"reserve\"}}");
        let rendered = self.metrics.render();
        rendered.lines().find(|line| line.starts_with(&series)).unwrap_or_default().to_owned()
    }
}

/// Makes the application of `shopper_server` in src/app/servers.rs.
fn app(
    context: web::Data<Context>,
) -> App<
    impl ServiceFactory<
        ServiceRequest,
        Config = (),
        Response = ServiceResponse<impl MessageBody>,
        Error = Error,
        InitError = (),
    >,
> {
    App::new()
        .app_data(context)
        .wrap(from_fn(straight))
        .wrap(from_fn(middleware::around))
        .configure(router::shopper_routes)
}

fn settings(config: &Config) -> Settings {
    let admission = &config.admission;
    Settings {
        in_flight_max: admission.in_flight_max,
        reserve_batch_max: admission.reserve_batch_max,
        sold_out_recheck: Duration::from_millis(admission.sold_out_recheck_ms),
        opening_skew_ms: admission.opening_skew_ms,
        append_wait_ms: admission.append_wait_ms,
        outbox_orders_max: admission.outbox_orders_max,
        token_keys: None,
        down_after_ms: 1500,
        wait_s_max: admission.wait_s_max,
        waiters_max: admission.waiters_max,
        logged_per_million: config.log.orders_per_million,
        overdue: None,
    }
}
