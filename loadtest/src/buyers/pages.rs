//! The payment pages of the simulated provider. A page stands on another address than the shop, so it has connections
//! of its own.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http_body_util::Full;
use hyper::Request;
use hyper::body::Bytes;
use hyper::header::{CONTENT_TYPE, HOST, HeaderValue};
use tokio::sync::Mutex;

use super::ending::Fault;
use crate::client::{Client, NoReply, Reply, Target};

/// The most addresses of payment pages in one run.
const PROVIDERS_MAX: usize = 4;
/// The pause before a button is pressed again that nobody has answered.
const AGAIN: Duration = Duration::from_millis(200);
/// The title of a page that is closed. Every other page leaves it to the order what came of it.
const CLOSED: &str = "<h1>Closed</h1>";
const BUTTON: &[u8] = b"action=pay";
const STEP: &str = "page";

/// What a page shows after its button was pressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shown {
    /// The provider has heard it. The order says what came of it.
    Pressed,
    /// The page is closed, or not there any more.
    Closed,
}

/// How connections to payment pages are made.
#[derive(Debug, Clone, Copy)]
pub struct Reach {
    /// Whether a page may be on another machine.
    pub allow_remote: bool,
    /// The most connections to one address.
    pub connections_max: usize,
    /// The number of source addresses.
    pub sources: u32,
    /// The longest wait for one answer.
    pub timeout: Duration,
}

/// The payment pages.
pub struct Pages {
    reach: Reach,
    /// The pools of connections, by `host:port`.
    clients: Mutex<BTreeMap<String, Arc<Client>>>,
}

impl Pages {
    /// Makes pages without any connection.
    pub fn new(reach: Reach) -> Self {
        Self { reach, clients: Mutex::default() }
    }

    /// Presses the button "pay" of a page, again and again until the provider answers.
    ///
    /// # Errors
    /// When the address is not allowed, or there is no usable answer before `until`.
    pub async fn press(&self, url: &str, until: Instant) -> Result<Shown, Fault> {
        let (authority, path) = parts(url).ok_or_else(|| Fault::new(STEP, "address_not_http"))?;
        let client = self.client(authority).await?;
        loop {
            let why = match send(&client, Request::post(path), BUTTON).await {
                Ok(Reply { status: 404 | 410, .. }) => return Ok(Shown::Closed),
                Ok(reply) if reply.status == 200 => return Ok(shown(&reply.body)),
                Ok(Reply { status: 300..=399, .. }) => return Ok(look(&client, path).await),
                Ok(Reply { status: status @ (429 | 503 | 504), .. }) => format!("http_{status}"),
                Ok(reply) => return Err(Fault::new(STEP, format!("http_{}", reply.status))),
                Err(NoReply::NotSent(why) | NoReply::Unknown(why)) => why.to_owned(),
            };
            if Instant::now() + AGAIN >= until {
                return Err(Fault::new(STEP, why));
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    async fn client(&self, authority: &str) -> Result<Arc<Client>, Fault> {
        let mut clients = self.clients.lock().await;
        if let Some(client) = clients.get(authority) {
            return Ok(client.clone());
        }
        if clients.len() >= PROVIDERS_MAX {
            return Err(Fault::new(STEP, "too_many_addresses"));
        }
        let target = Target::resolve(&format!("http://{authority}"), self.reach.allow_remote).await;
        let target = target.map_err(|_| Fault::new(STEP, "address_refused"))?;
        let Reach { connections_max, sources, timeout, .. } = self.reach;
        let client = Arc::new(Client::new(target, connections_max, sources, timeout));
        clients.insert(authority.to_owned(), client.clone());
        Ok(client)
    }
}

/// Splits an address into host and port, and the path.
fn parts(url: &str) -> Option<(&str, &str)> {
    let rest = url.strip_prefix("http://")?;
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    Some((authority, if path.is_empty() { "/" } else { path }))
}

async fn send(
    client: &Client,
    request: hyper::http::request::Builder,
    body: &'static [u8],
) -> Result<Reply, NoReply> {
    let form = HeaderValue::from_static("application/x-www-form-urlencoded");
    let request = request.header(HOST, client.host()).header(CONTENT_TYPE, form);
    match request.body(Full::new(Bytes::from_static(body))) {
        Ok(request) => client.send(request).await.result,
        Err(_) => Err(NoReply::NotSent("invalid_address")),
    }
}

/// Looks at a page whose button was pressed. When there is no answer, the order tells as well.
async fn look(client: &Client, path: &str) -> Shown {
    match client.get(path, None).await.result {
        Ok(Reply { status: 404 | 410, .. }) => Shown::Closed,
        Ok(reply) => shown(&reply.body),
        Err(_) => Shown::Pressed,
    }
}

fn shown(page: &Bytes) -> Shown {
    let is_closed = String::from_utf8_lossy(page).contains(CLOSED);
    if is_closed { Shown::Closed } else { Shown::Pressed }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pages() -> Pages {
        let timeout = Duration::from_secs(5);
        Pages::new(Reach { allow_remote: false, connections_max: 2, sources: 2, timeout })
    }

    #[test]
    fn an_address_has_a_host_and_a_path() {
        assert_eq!(parts("http://127.0.0.1:1/pay/x"), Some(("127.0.0.1:1", "/pay/x")));
        assert_eq!(parts("http://localhost"), Some(("localhost", "/")));
        assert_eq!(parts("https://127.0.0.1/pay/x"), None);
    }

    #[tokio::test]
    async fn nobody_pays_on_another_machine_without_being_told_to() {
        let until = Instant::now() + Duration::from_secs(5);
        let refused = pages().press("http://192.0.2.1/pay/x", until).await;
        assert_eq!(refused, Err(Fault::new(STEP, "address_refused")));
        let refused = pages().press("https://127.0.0.1/pay/x", until).await;
        assert_eq!(refused, Err(Fault::new(STEP, "address_not_http")));
    }
}
