//! Runs the configurations of deploy/ with the real proxies. A missing proxy fails these tests: `scripts/stack install
//! nginx haproxy` installs it.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use futures::StreamExt as _;
use seckill::app::Role;
use seckill::config::{Config, Mode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpSocket;
use tokio_tungstenite::connect_async;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;

use crate::harness::ports::free_address;
use crate::harness::{TestShop, certificate, config, eventually, migrated, open, remove, token};
use crate::stream_client::{EventStream, ticket};

/// How many buyers click at once.
const CLICKERS: usize = 4;

/// A proxy of the machine, running a configuration of deploy/ with other ports.
struct Proxy {
    process: Child,
    address: SocketAddr,
    /// Where it speaks TLS.
    secured: SocketAddr,
    folder: PathBuf,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
        drop(std::fs::remove_dir_all(&self.folder));
    }
}

fn program(name: &str) -> PathBuf {
    let folders = ["/usr/sbin", "/usr/bin", "/usr/local/sbin", "/usr/local/bin"];
    let found = folders.map(|folder| Path::new(folder).join(name)).into_iter().find(|path| path.exists());
    found.unwrap_or_else(|| panic!("{name} is missing: run `scripts/stack install nginx haproxy`"))
}

/// Reads a configuration of deploy/ with the ports and the files of this test in it.
fn deployed(path: &str, own: &[(&str, String)], fronts: &[&TestShop; 2]) -> String {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy").join(path);
    let mut text = std::fs::read_to_string(file).expect("a configuration");
    let mut put = |from: &str, to: &str| {
        assert!(text.contains(from), "{path} has no {from:?}");
        text = text.replace(from, to);
    };
    own.iter().for_each(|(from, to)| put(from, to));
    for (n, front) in fronts.iter().enumerate() {
        put(&format!("127.0.0.1:808{n}"), &front.shopper.to_string());
        if path.starts_with("haproxy") {
            put(&format!("port 909{n}"), &format!("port {}", front.admin.port()));
        }
    }
    text
}

fn folder_of(name: &str, fronts: &[&TestShop; 2]) -> PathBuf {
    let folder = std::env::temp_dir().join(format!("seckill-{name}-{}", fronts[0].shopper.port()));
    std::fs::create_dir_all(&folder).expect("a folder");
    folder
}

fn nginx(fronts: &[&TestShop; 2]) -> Proxy {
    let folder = folder_of("nginx", fronts);
    let (address, secured) = (free_address(), free_address());
    let own = [
        ("listen 80;", format!("listen {address};")),
        ("listen 443 ", format!("listen {secured} ")),
        ("/etc/nginx/shop.pem", certificate("server.pem")),
        ("/etc/nginx/shop.key", certificate("server.key")),
    ];
    let server = deployed("nginx/seckill.conf", &own, fronts);
    let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
    let temporary: String = temporary.map(|kind| format!("{kind}_temp_path {kind};\n")).concat();
    let main = format!(
        "daemon off; master_process off; pid nginx.pid; error_log error.log;\nevents {{}}\n\
         http {{ access_log off;\n{temporary}{server}\n}}\n"
    );
    std::fs::write(folder.join("nginx.conf"), main).expect("written");
    let mut command = Command::new(program("nginx"));
    command.arg("-p").arg(&folder).args(["-e", "error.log", "-c", "nginx.conf"]);
    Proxy { process: started(command, &folder), address, secured, folder }
}

fn haproxy(fronts: &[&TestShop; 2]) -> Proxy {
    let folder = folder_of("haproxy", fronts);
    let (address, secured) = (free_address(), free_address());
    let own = [
        ("bind :443 ", format!("bind {secured} ")),
        ("bind 127.0.0.1:80\n", format!("bind {address}\n")),
        ("/etc/haproxy/shop.pem", certificate("server-and-key.pem")),
    ];
    let text = deployed("haproxy/haproxy.cfg", &own, fronts);
    let file = folder.join("haproxy.cfg");
    std::fs::write(&file, text).expect("written");
    let checked = Command::new(program("haproxy")).arg("-c").arg("-f").arg(&file).output().expect("it runs");
    let said =
        String::from_utf8_lossy(&checked.stderr).into_owned() + &String::from_utf8_lossy(&checked.stdout);
    assert!(checked.status.success() && !said.contains("WARNING"), "{said}");
    let mut command = Command::new(program("haproxy"));
    command.arg("-db").arg("-f").arg(&file);
    Proxy { process: started(command, &folder), address, secured, folder }
}

fn started(mut command: Command, folder: &Path) -> Child {
    let log = std::fs::File::create(folder.join("log")).expect("a log");
    command.stdout(Stdio::null()).stderr(log).stdin(Stdio::null());
    command.spawn().expect("the proxy starts")
}

/// Sends a request from an address of this machine on a connection of its own; the whole answer, or why there is none.
async fn ask(from: Ipv4Addr, to: SocketAddr, head: &str, body: &str) -> Result<String, String> {
    let exchange = async {
        let socket = TcpSocket::new_v4()?;
        socket.bind(SocketAddr::from((from, 0)))?;
        let mut stream = socket.connect(to).await?;
        let length = body.len();
        let request =
            format!("{head}\r\nHost: shop\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await?;
        std::io::Result::Ok(String::from_utf8_lossy(&answer).into_owned())
    };
    let answer =
        tokio::time::timeout(Duration::from_secs(20), exchange).await.map_err(|late| late.to_string())?;
    answer.map_err(|error| error.to_string())
}

fn status(answer: &Result<String, String>) -> u16 {
    let line = answer.as_ref().ok().and_then(|answer| answer.split(' ').nth(1));
    line.and_then(|code| code.parse().ok()).unwrap_or(0)
}

async fn buy(from: Ipv4Addr, proxy: SocketAddr, user: &str, more: &str) -> Result<String, String> {
    let head = format!(
        "POST /api/v1/sales/drop/orders HTTP/1.1\r\nAuthorization: Bearer {}\r\nIdempotency-Key: k1\r\n\
         Content-Type: application/json{more}",
        token(user)
    );
    ask(from, proxy, &head, r#"{"sku_id":"phone","quantity":1}"#).await
}

/// Starts two fronts over the same stores, the first one with a writer.
async fn two_fronts(flags: &[(&str, &str)]) -> (Config, TestShop, TestShop) {
    let mut config = config(Mode::Distributed, flags);
    config.http.trusted_proxies = vec![IpAddr::from(Ipv4Addr::LOCALHOST).into()];
    migrated(&config).await;
    let first = TestShop::start_on(config.clone(), open(&config).await, Role::All).await;
    let second = TestShop::start_on(config.clone(), open(&config).await, Role::Api).await;
    first.open_sale("drop", 1, &[("phone", 100_000)]).await;
    let sale = "/api/v1/sales/drop";
    eventually("both sell", async || {
        let live = async |shop: &TestShop| shop.get("alice", sale).await.text.contains("\"live\"");
        live(&first).await && live(&second).await
    })
    .await;
    (config, first, second)
}

async fn is_up(proxy: &Proxy) {
    let time = "GET /api/v1/time HTTP/1.1";
    eventually("the proxy serves", async || {
        status(&ask(Ipv4Addr::LOCALHOST, proxy.address, time, "").await) == 200
    })
    .await;
}

/// Ten clients of one proxy have ten limits, and what they write about themselves is not believed.
async fn clients_are_told_apart(start: fn(&[&TestShop; 2]) -> Proxy) {
    let limit = [("limits.address_per_s", "1"), ("limits.address_burst", "2")];
    let (config, first, mut second) = two_fronts(&limit).await;
    let proxy = start(&[&first, &second]);
    is_up(&proxy).await;
    for n in 0..10 {
        let from = Ipv4Addr::new(127, 0, 1, n + 1);
        let answer = buy(from, proxy.address, &format!("u{n}"), "").await;
        assert_eq!(status(&answer), 202, "each has an address of its own: {answer:?}");
    }
    let mut refused = 0;
    for n in 0..20 {
        let spoofed = format!("\r\nX-Forwarded-For: 203.0.113.{n}\r\nForwarded: for=203.0.113.{n}");
        let answer = buy(Ipv4Addr::new(127, 0, 2, 1), proxy.address, &format!("v{n}"), &spoofed).await;
        refused += usize::from(status(&answer) == 429);
    }
    assert!(refused >= 5, "a client chose its address: {refused} of 20 refused");
    drop(proxy);
    second.stop().await;
    first.finish().await;
    remove(&config).await;
}

/// A front goes away while a crowd buys, and nobody notices.
async fn a_front_that_goes_away_costs_no_purchase(start: fn(&[&TestShop; 2]) -> Proxy) {
    let (config, first, mut second) = two_fronts(&[]).await;
    let proxy = start(&[&first, &second]);
    is_up(&proxy).await;
    let (is_over, bought) = (AtomicBool::new(false), AtomicUsize::new(0));
    let click = async |clicker: usize| {
        let mut failures = Vec::new();
        for n in 0.. {
            if is_over.load(Ordering::SeqCst) {
                break;
            }
            let answer = buy(Ipv4Addr::LOCALHOST, proxy.address, &format!("c{clicker}-{n}"), "").await;
            if status(&answer) == 202 {
                bought.fetch_add(1, Ordering::SeqCst);
            } else {
                failures.push(answer);
            }
        }
        failures
    };
    let more = async |wanted: usize| {
        let before = bought.load(Ordering::SeqCst);
        eventually("the crowd goes on", async || bought.load(Ordering::SeqCst) >= before + wanted).await;
    };
    let restart = async {
        more(50).await;
        second.leave().await;
        more(50).await;
        second.stop().await;
        more(50).await;
        is_over.store(true, Ordering::SeqCst);
    };
    let clicks = futures::future::join_all((0..CLICKERS).map(click));
    let (failures, ()) = tokio::join!(clicks, restart);
    let failures: Vec<_> = failures.into_iter().flatten().collect();
    assert!(failures.is_empty(), "{} purchases failed: {:?}", failures.len(), failures.first());
    drop(proxy);
    first.finish().await;
    remove(&config).await;
}

#[tokio::test(flavor = "multi_thread", crate = "crate::ending")]
async fn nginx_tells_clients_apart() {
    Box::pin(clients_are_told_apart(nginx)).await;
}

#[tokio::test(flavor = "multi_thread", crate = "crate::ending")]
async fn haproxy_tells_clients_apart() {
    Box::pin(clients_are_told_apart(haproxy)).await;
}

#[tokio::test(flavor = "multi_thread", crate = "crate::ending")]
async fn behind_nginx_a_front_that_goes_away_costs_no_purchase() {
    Box::pin(a_front_that_goes_away_costs_no_purchase(nginx)).await;
}

#[tokio::test(flavor = "multi_thread", crate = "crate::ending")]
async fn behind_haproxy_a_front_that_goes_away_costs_no_purchase() {
    Box::pin(a_front_that_goes_away_costs_no_purchase(haproxy)).await;
}

#[tokio::test(flavor = "multi_thread", crate = "crate::ending")]
async fn nginx_keeps_what_everybody_may_see_and_no_refusal() {
    let (config, first, mut second) = two_fronts(&[]).await;
    let proxy = nginx(&[&first, &second]);
    is_up(&proxy).await;
    let read =
        async |path: &str| ask(Ipv4Addr::LOCALHOST, proxy.address, &format!("GET {path} HTTP/1.1"), "").await;
    assert_eq!(status(&read("/api/v1/sales/later").await), 404);
    first.open_sale("later", 1, &[("phone", 1)]).await;
    // Were the refusal kept, this would outlast the test's patience.
    eventually("the sale is seen as soon as it is published", async || {
        status(&read("/api/v1/sales/later").await) == 200
    })
    .await;
    // A client cannot put an answer where another page's is kept.
    let origin = "GET /api/v1/sales HTTP/1.1\r\nOrigin: /later";
    assert_eq!(status(&ask(Ipv4Addr::LOCALHOST, proxy.address, origin, "").await), 200);
    let later = read("/api/v1/sales/later").await.expect("an answer");
    assert!(later.contains(r#"{"id":"later""#) && !later.contains(r#"{"sales":"#), "{later}");
    let request_id =
        |answer: &str| answer.lines().find_map(|line| line.strip_prefix("x-request-id: ")).map(str::to_owned);
    eventually("a second reader gets the first one's answer", async || {
        let (one, two) = (read("/api/v1/sales/later").await, read("/api/v1/sales/later").await);
        let ids = [one, two].map(|answer| request_id(&answer.unwrap_or_default()));
        ids[0].is_some() && ids[0] == ids[1]
    })
    .await;
    drop(proxy);
    second.stop().await;
    first.finish().await;
    remove(&config).await;
}

/// Events come through a proxy as they happen, however it buffers answers, and so do the messages of a WebSocket.
async fn streams_come_through(start: fn(&[&TestShop; 2]) -> Proxy) {
    let (config, first, mut second) = two_fronts(&[]).await;
    let proxy = start(&[&first, &second]);
    is_up(&proxy).await;
    // The ticket of one front serves at the other.
    let query = format!("sale=drop&ticket={}", ticket(&first, "ada").await);
    let mut stream = EventStream::open(proxy.address, &query, &[]).await.expect("a stream");
    assert_eq!(stream.next().await.expect("an event").name, "sale");
    let query = format!("sale=drop&ticket={}", ticket(&second, "ada").await);
    let url = format!("ws://{}/api/v1/ws?{query}", proxy.address);
    let mut request = url.into_client_request().expect("a request");
    let origin = format!("http://{}", proxy.address).parse().expect("a header");
    request.headers_mut().insert("Origin", origin);
    let (mut socket, _) = connect_async(request).await.expect("a socket");
    let bought = first.buy("ada", "drop", "phone", "k").await.json()["id"].clone();
    let order = bought.as_str().expect("an id");
    stream.order(order, "awaiting_payment").await;
    loop {
        let message = socket.next().await.expect("it is open").expect("it is open").into_data();
        if String::from_utf8_lossy(&message).contains("awaiting_payment") {
            break;
        }
    }
    drop((stream, socket, proxy));
    second.stop().await;
    first.finish().await;
    remove(&config).await;
}

#[tokio::test(flavor = "multi_thread", crate = "crate::ending")]
async fn streams_come_through_nginx() {
    Box::pin(streams_come_through(nginx)).await;
}

#[tokio::test(flavor = "multi_thread", crate = "crate::ending")]
async fn streams_come_through_haproxy() {
    Box::pin(streams_come_through(haproxy)).await;
}

/// Runs curl, which must trust the certificate. Answers what it prints: version and status first, and the body.
fn curl(proxy: &Proxy, ca: &str, path: &str, args: &[&str]) -> Result<String, String> {
    let url = format!("https://{}{path}", proxy.secured);
    let mut command = Command::new(program("curl"));
    command.args([
        "-sS",
        "--max-time",
        "20",
        "--cacert",
        &certificate(ca),
        "-w",
        "%{stderr}version=%{http_version} ",
    ]);
    let done = command.args(args).arg(url).stdin(Stdio::null()).output().expect("curl");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let said = text(&done.stderr) + &text(&done.stdout);
    // What never ends is ended by its time.
    if done.status.success() || done.status.code() == Some(28) { Ok(said) } else { Err(said) }
}

/// Shoppers come with TLS and HTTP/2 or 1.1, buy, and hear of it.
async fn tls_ends_at_the_proxy(start: fn(&[&TestShop; 2]) -> Proxy) {
    let (config, first, mut second) = two_fronts(&[]).await;
    let proxy = start(&[&first, &second]);
    is_up(&proxy).await;
    for (version, begins) in [("--http2", "version=2 "), ("--http1.1", "version=1.1 ")] {
        let bearer = format!("Authorization: Bearer {}", token(version));
        let key = format!("Idempotency-Key: k{version}");
        let body = r#"{"sku_id":"phone","quantity":1}"#;
        let args = [version, "-H", &bearer, "-H", &key, "--json", body];
        let bought = curl(&proxy, "ca.pem", "/api/v1/sales/drop/orders", &args).expect("an answer");
        assert!(bought.contains(begins) && bought.contains("\"id\""), "{bought}");
    }
    let path = format!("/api/v1/stream?sale=drop&ticket={}", ticket(&first, "ada").await);
    let heard = curl(&proxy, "ca.pem", &path, &["--http2", "--max-time", "2", "-N"]).expect("a stream");
    assert!(heard.contains("version=2 ") && heard.contains("event: sale"), "{heard}");
    let path = format!("/api/v1/ws?sale=drop&ticket={}", ticket(&first, "ada").await);
    let origin = format!("Origin: https://{}", proxy.secured);
    let upgrade = ["Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", &origin];
    let mut args =
        vec!["--http1.1", "--max-time", "2", "-i", "-H", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="];
    args.extend(upgrade.iter().flat_map(|header| ["-H", header]));
    let socket = curl(&proxy, "ca.pem", &path, &args).expect("a socket");
    assert!(socket.contains("101 "), "{socket}");
    let stranger = curl(&proxy, "other-ca.pem", "/api/v1/time", &[]).expect_err("it is not trusted");
    assert!(stranger.contains("certificate"), "{stranger}");
    drop(proxy);
    second.stop().await;
    first.finish().await;
    remove(&config).await;
}

#[tokio::test(flavor = "multi_thread", crate = "crate::ending")]
async fn tls_ends_at_nginx() {
    Box::pin(tls_ends_at_the_proxy(nginx)).await;
}

#[tokio::test(flavor = "multi_thread", crate = "crate::ending")]
async fn tls_ends_at_haproxy() {
    Box::pin(tls_ends_at_the_proxy(haproxy)).await;
}
