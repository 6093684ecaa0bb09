//! These tests read the keys of a provider that answers what they say, over a real connection.

use std::sync::atomic::AtomicUsize;

use futures::FutureExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;
use crate::http::auth::{Cause, TokenRules};
use crate::shutdown::Tasks;

/// A key whose private half nobody has: tokens under its id fail by their signature, and not by an unknown key.
const SET: &str = r#"{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"k1","x":"pqdFGc_JBsRliUWzTgZLMq-VvnZAf96zG74hnweyWmo"}]}"#;

/// An identity provider on this machine.
struct Provider {
    url: String,
    answer: Arc<std::sync::Mutex<String>>,
    asked: Arc<AtomicUsize>,
}

fn ok(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len())
}

impl Provider {
    async fn start(answer: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let url = format!("http://{}/keys", listener.local_addr().expect("an address"));
        let provider = Self { url, answer: Arc::new(answer.into()), asked: Arc::default() };
        let (answer, asked) = (provider.answer.clone(), provider.asked.clone());
        Tasks::on_current_runtime().spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                asked.fetch_add(1, Ordering::SeqCst);
                let text = answer.lock().expect("no panic").clone();
                let mut request = [0; 1024];
                let _ = stream.read(&mut request).await;
                let _ = stream.write_all(text.as_bytes()).await;
            }
        });
        provider
    }

    fn answers(&self, answer: String) {
        *self.answer.lock().expect("no panic") = answer;
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

struct Reader {
    keys: Arc<PublishedKeys>,
    tokens: Arc<Tokens>,
    clock: Clock,
}

impl Reader {
    fn of(auth: &AuthConfig) -> Self {
        let clock = Clock::manual(1_900_000_000_000);
        let rules = TokenRules {
            audience: "seckill".to_owned(),
            issuer: None,
            leeway_s: 5,
            device_claim: None,
            verified_max: 100,
        };
        let tokens = Arc::new(Tokens::new(Vec::new(), &rules, clock.clone()));
        let keys = PublishedKeys::of(auth, &tokens, &clock).expect("a reader").expect("a source");
        Self { keys, tokens, clock }
    }

    fn of_url(url: &str) -> Self {
        Self::of(&AuthConfig { jwks_url: Some(url.to_owned()), ..auth() })
    }

    async fn learn(&self) -> bool {
        self.keys.clone().learn(Tasks::on_current_runtime()).await
    }

    /// Answers whether the set is in use.
    fn knows_the_key(&self) -> bool {
        // {"alg":"EdDSA","kid":"k1"}, {}, and a signature of zeros.
        let token = format!("Bearer eyJhbGciOiJFZERTQSIsImtpZCI6ImsxIn0.e30.{}", "A".repeat(86));
        match self.tokens.shopper(Some(&token)) {
            Err(Cause::UnknownKey) => false,
            Err(Cause::Signature) => true,
            other => panic!("{other:?}"),
        }
    }
}

fn auth() -> AuthConfig {
    crate::config::load_with(None, &[], &[]).expect("the defaults").config.auth
}

fn with_secret() -> AuthConfig {
    let secret =
        ("SECKILL__AUTH__HS256_SECRET".to_owned(), "a secret of the tests, 32 bytes or more".to_owned());
    crate::config::load_with(None, &[secret], &[]).expect("a configuration").config.auth
}

#[tokio::test]
async fn a_crowd_with_made_up_key_ids_costs_the_provider_one_read_in_ten_seconds() {
    let provider = Provider::start(ok(SET)).await;
    let reader = Reader::of_url(&provider.url);
    assert!(!reader.knows_the_key());
    reader.keys.read_first().await.expect("read");
    assert!(reader.knows_the_key());
    for _ in 0..100 {
        reader.learn().await;
    }
    assert_eq!(provider.asked(), 1, "it was read a moment ago");
    reader.clock.advance_ms(10_000);
    for _ in 0..100 {
        reader.learn().await;
    }
    assert_eq!(provider.asked(), 2);
}

#[tokio::test]
async fn the_last_keys_stay_while_the_provider_answers_anything_else() {
    let provider = Provider::start(ok(SET)).await;
    let reader = Reader::of_url(&provider.url);
    reader.keys.read_first().await.expect("read");
    for answer in [
        "HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n".to_owned(),
        format!("HTTP/1.1 302 Found\r\nLocation: {}\r\nContent-Length: 0\r\n\r\n", provider.url),
        ok("<html>"),
        ok(r#"{"keys":[]}"#),
        ok(&"x".repeat(SET_BYTES_MAX + 1)),
        String::new(),
    ] {
        let before = provider.asked();
        provider.answers(answer.clone());
        reader.clock.advance_ms(10_000);
        assert!(reader.learn().await, "the last keys stay: {answer:.60}");
        assert_eq!(provider.asked(), before + 1, "{answer:.60}");
        assert!(reader.knows_the_key(), "{answer:.60}");
        assert_eq!(reader.keys.check().await, Ok(()), "the last keys do: {answer:.60}");
    }
    provider.answers(ok(&SET.replace("k1", "k2")));
    reader.clock.advance_ms(10_000);
    reader.keys.run_once().await.expect("read");
    let asked = provider.asked();
    reader.clock.advance_ms(299_000);
    reader.keys.run_once().await.expect("nothing to do");
    assert_eq!(provider.asked(), asked, "after a good read there is time");
    assert!(!reader.knows_the_key(), "a withdrawn key is forgotten");
}

#[tokio::test]
async fn a_provider_that_is_down_at_the_start_is_asked_again_and_a_bad_file_ends_it() {
    let reader = Reader::of_url("http://127.0.0.1:1/keys");
    reader.keys.read_first().await.expect("no error");
    assert!(reader.keys.check().await.is_err_and(|fault| !fault.still_works));
    assert_eq!(reader.keys.run_once().await.expect("not yet").done, 0);
    reader.clock.advance_ms(10_000);
    assert!(reader.keys.run_once().await.is_err(), "it is asked again as soon as it may be");
    assert_eq!(reader.keys.period(), REST);
    let beside = AuthConfig { jwks_url: Some("http://127.0.0.1:1/keys".to_owned()), ..with_secret() };
    assert!(Reader::of(&beside).keys.check().await.is_err_and(|fault| fault.still_works), "the secret does");
    let file = std::env::temp_dir().join(format!("seckill-jwks-{}", std::process::id()));
    let reader = Reader::of(&AuthConfig { jwks_file: Some(file.clone()), ..auth() });
    let words = reader.keys.read_first().await.expect_err("there is none").to_string();
    assert!(words.contains("auth.jwks_file"), "{words}");
    std::fs::write(&file, SET).expect("written");
    reader.keys.read_first().await.expect("read");
    assert!(reader.knows_the_key());
    std::fs::remove_file(&file).expect("removed");
}

#[tokio::test]
async fn a_client_that_hangs_up_does_not_end_the_read_that_it_began() {
    let provider = Provider::start(ok(SET)).await;
    let reader = Reader::of_url(&provider.url);
    // The read begins with the first poll, and its caller goes.
    assert_eq!(reader.learn().now_or_never(), None);
    assert!(reader.learn().await, "the next one waits for it");
    assert_eq!(provider.asked(), 1);
    assert!(reader.knows_the_key());
}
