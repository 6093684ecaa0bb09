//! A TCP proxy that a test can make slow, or whose connections it can cut.

#![expect(clippy::disallowed_methods, reason = "a proxy's tasks end with its test's runtime")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};

/// What a proxy does with the bytes that come in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weather {
    Fair,
    /// Everything that the server sends comes this much later.
    Slow(Duration),
    /// Connections that stand are cut, and new ones are closed at once.
    Cut,
}

pub struct Proxy {
    pub address: SocketAddr,
    weather: watch::Sender<Weather>,
    /// How many answers to COMMIT are still to be lost.
    commits_to_lose: Arc<AtomicUsize>,
    /// How many connections and questions came from the client.
    calls: Arc<AtomicUsize>,
    listening: JoinHandle<()>,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.listening.abort();
    }
}

impl Proxy {
    /// Starts a proxy that listens on `port` (0 = any) and passes everything on to `server`.
    pub async fn start(port: u16, server: SocketAddr) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", port)).await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let (weather, forecast) = watch::channel(Weather::Fair);
        let commits_to_lose = Arc::new(AtomicUsize::new(0));
        let calls = Arc::new(AtomicUsize::new(0));
        let (lose, count) = (commits_to_lose.clone(), calls.clone());
        let listening = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::Relaxed);
                if *forecast.borrow() != Weather::Cut {
                    tokio::spawn(pass(client, server, forecast.clone(), (lose.clone(), count.clone())));
                }
            }
        });
        Self { address, weather, commits_to_lose, calls, listening }
    }

    pub fn set(&self, weather: Weather) {
        self.weather.send_replace(weather);
    }

    /// Counts the connections and questions that have come from the client.
    pub fn calls(&self) -> usize {
        self.calls.load(Ordering::Relaxed)
    }

    /// Loses one answer: the next COMMIT reaches the server, and then the connection is cut.
    pub fn lose_answer_to_commit(&self) {
        self.commits_to_lose.store(1, Ordering::SeqCst);
    }

    pub fn is_answer_lost(&self) -> bool {
        self.commits_to_lose.load(Ordering::SeqCst) == 0
    }
}

async fn pass(
    client: TcpStream,
    server: SocketAddr,
    forecast: watch::Receiver<Weather>,
    (commits_to_lose, calls): (Arc<AtomicUsize>, Arc<AtomicUsize>),
) {
    let Ok(upstream) = TcpStream::connect(server).await else { return };
    drop(client.set_nodelay(true).and(upstream.set_nodelay(true)));
    let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), upstream.into_split());
    let mut until_cut = forecast.clone();
    tokio::select! {
        () = ask(from_client, to_server, commits_to_lose, calls) => {}
        () = answer(from_server, to_client, forecast) => {}
        _ = until_cut.wait_for(|weather| *weather == Weather::Cut) => {}
    }
}

/// Passes bytes from the client to the server. It ends, and the connection with it, when the answer to a COMMIT is to
/// be lost.
async fn ask(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    commits_to_lose: Arc<AtomicUsize>,
    calls: Arc<AtomicUsize>,
) {
    let mut chunk = vec![0; 65_536];
    while let Ok(size @ 1..) = from.read(&mut chunk).await {
        calls.fetch_add(1, Ordering::Relaxed);
        let is_commit = chunk[..size].windows(6).any(|word| word == b"COMMIT");
        let lose = is_commit && commits_to_lose.swap(0, Ordering::SeqCst) > 0;
        if to.write_all(&chunk[..size]).await.is_err() || lose {
            return;
        }
    }
}

/// Passes bytes from the server to the client. A delay keeps the answers in order, and it delays each of them once.
async fn answer(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, forecast: watch::Receiver<Weather>) {
    let (sender, mut due) = mpsc::unbounded_channel::<(Instant, Vec<u8>)>();
    let read = async move {
        let mut chunk = vec![0; 65_536];
        while let Ok(size @ 1..) = from.read(&mut chunk).await {
            let delay = match *forecast.borrow() {
                Weather::Slow(delay) => delay,
                Weather::Fair | Weather::Cut => Duration::ZERO,
            };
            if sender.send((Instant::now() + delay, chunk[..size].to_vec())).is_err() {
                return;
            }
        }
    };
    let write = async move {
        while let Some((at, chunk)) = due.recv().await {
            sleep_until(at).await;
            if to.write_all(&chunk).await.is_err() {
                return;
            }
        }
    };
    tokio::join!(read, write);
}
