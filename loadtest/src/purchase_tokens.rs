//! The purchase tokens of a crowd, for a sale that sells only with them. Each buyer gets one before the first click,
//! with a proof of work where the sale asks for one, and another one when it has expired.

use std::sync::{Arc, Mutex};

use anyhow::{Context, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures::stream::{StreamExt, TryStreamExt};
use http_body_util::Full;
use hyper::Request;
use hyper::body::Bytes;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderValue};
use serde::Deserialize;

use crate::client::Client;

/// How many buyers get their tokens at the same time.
const AT_ONCE: usize = 64;

/// The tokens of all buyers.
pub struct PurchaseTokens {
    path: String,
    /// By user number.
    texts: Vec<Mutex<String>>,
}

#[derive(Deserialize)]
struct Body {
    purchase_token: Option<String>,
    code: Option<String>,
    challenge: Option<altcha::Challenge>,
}

impl PurchaseTokens {
    /// Gets a token for each buyer. `bearers` are their `Authorization` headers.
    ///
    /// # Errors
    /// When one gets none.
    pub async fn fetch(client: &Arc<Client>, sale: &str, bearers: &[HeaderValue]) -> anyhow::Result<Self> {
        let path = format!("/api/v1/sales/{sale}/token");
        let texts = futures::stream::iter(bearers).map(async |bearer| one(client, &path, bearer).await);
        let texts: Vec<String> = texts.buffered(AT_ONCE).try_collect().await?;
        Ok(Self { path, texts: texts.into_iter().map(Mutex::new).collect() })
    }

    /// Adds a buyer's token to the body of a purchase, which is a JSON object.
    pub fn body(&self, purchase: &[u8], user: usize) -> Bytes {
        let token = self.texts[user].lock().expect("no code panics while holding it");
        // A token has nothing that JSON escapes.
        let member = format!(",\"purchase_token\":\"{token}\"}}");
        [purchase.strip_suffix(b"}").unwrap_or_default(), member.as_bytes()].concat().into()
    }

    /// Gets another token for a buyer.
    ///
    /// # Errors
    /// When there is none.
    pub async fn renew(&self, client: &Client, user: usize, bearer: &HeaderValue) -> anyhow::Result<()> {
        let text = one(client, &self.path, bearer).await?;
        *self.texts[user].lock().expect("no code panics while holding it") = text;
        Ok(())
    }
}

async fn one(client: &Client, path: &str, bearer: &HeaderValue) -> anyhow::Result<String> {
    let first = ask(client, path, bearer, None).await?;
    let body = match first.challenge {
        Some(challenge) => {
            let proof = tokio::task::spawn_blocking(move || solved(challenge)).await??;
            ask(client, path, bearer, Some(proof)).await?
        }
        None => first,
    };
    let code = body.code.unwrap_or_default();
    body.purchase_token.with_context(|| format!("POST {path} gave no token: {code}"))
}

async fn ask(
    client: &Client,
    path: &str,
    bearer: &HeaderValue,
    proof: Option<String>,
) -> anyhow::Result<Body> {
    let body = proof.map_or(Bytes::new(), |proof| serde_json::json!({ "proof": proof }).to_string().into());
    let request = Request::post(path)
        .header(HOST, client.host())
        .header(AUTHORIZATION, bearer)
        .header(CONTENT_TYPE, HeaderValue::from_static("application/json"))
        .body(Full::new(body))?;
    match client.send(request).await.result {
        Ok(reply) => {
            serde_json::from_slice(&reply.body).with_context(|| format!("POST {path}: unexpected body"))
        }
        Err(why) => bail!("POST {path}: {why:?}"),
    }
}

/// Solves a challenge, as the widget of a page would.
fn solved(challenge: altcha::Challenge) -> anyhow::Result<String> {
    let solution = altcha::solve_challenge(altcha::SolveChallengeOptions::new(&challenge))?;
    let solution = solution.context("a proof of work took too long")?;
    Ok(STANDARD.encode(serde_json::to_vec(&altcha::Payload { challenge, solution })?))
}
