//! A receiver of webhooks and notifications, which takes what it gets, or does not.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// One call.
#[derive(Debug, Clone)]
pub struct Call {
    headers: BTreeMap<String, String>,
    pub body: Vec<u8>,
}

impl Call {
    /// Returns a header's value; an empty text when it did not come.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }
}

#[derive(Default)]
struct State {
    status: u16,
    hangs: bool,
    offered: Vec<String>,
    taken: Vec<Call>,
}

/// A listener of one address. It ends with the test.
pub struct Receiver {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
    /// Whether answers are given.
    answers: watch::Sender<bool>,
    _tasks: JoinSet<()>,
}

impl Receiver {
    /// Starts one that answers 200.
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound");
        let state = Arc::new(Mutex::new(State { status: 200, ..State::default() }));
        let (answers, given) = watch::channel(true);
        let shared = state.clone();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(serve(stream, shared.clone(), given.clone()));
            }
        });
        Self { address, state, answers, _tasks: tasks }
    }

    pub fn url(&self) -> String {
        format!("http://{}/hook", self.address)
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().expect("sound")
    }

    /// Answers this from now on. Only what is answered 2xx is taken.
    pub fn answer(&self, status: u16) {
        self.state().status = status;
    }

    /// Answers nothing any more.
    pub fn hang(&self) {
        self.state().hangs = true;
    }

    /// Takes what comes, and keeps its answers back.
    pub fn hold_answers(&self) {
        self.answers.send_replace(false);
    }

    /// Gives the answers that were kept back, and those to come.
    pub fn give_answers(&self) {
        self.answers.send_replace(true);
    }

    /// Counts all calls.
    pub fn calls(&self) -> usize {
        self.state().offered.len()
    }

    /// Returns the ids of all calls, taken or not, in order.
    pub fn offered(&self) -> Vec<String> {
        self.state().offered.clone()
    }

    /// Returns what was taken, in order.
    pub fn taken(&self) -> Vec<Call> {
        self.state().taken.clone()
    }

    /// Returns the ids of what was taken.
    pub fn ids(&self) -> BTreeSet<String> {
        self.taken().iter().map(|call| call.header("seckill-event-id").to_owned()).collect()
    }
}

async fn serve(mut stream: TcpStream, state: Arc<Mutex<State>>, mut given: watch::Receiver<bool>) {
    let mut read = Vec::new();
    while let Some((call, rest)) = next(&mut stream, read).await {
        read = rest;
        let status = {
            let mut state = state.lock().expect("sound");
            state.offered.push(call.header("seckill-event-id").to_owned());
            if state.hangs {
                None
            } else {
                if (200..300).contains(&state.status) {
                    state.taken.push(call);
                }
                Some(state.status)
            }
        };
        let Some(status) = status else { std::future::pending().await };
        if given.wait_for(|is_given| *is_given).await.is_err() {
            return;
        }
        let answer = format!("HTTP/1.1 {status} x\r\nContent-Length: 0\r\n\r\n");
        if stream.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
    }
}

/// Reads the next call, and what came behind it; `None` at the end.
async fn next(stream: &mut TcpStream, mut read: Vec<u8>) -> Option<(Call, Vec<u8>)> {
    loop {
        if let Some(end) = read.windows(4).position(|window| window == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&read[..end]).into_owned();
            let headers: BTreeMap<String, String> = head
                .lines()
                .skip(1)
                .filter_map(|line| line.split_once(':'))
                .map(|(name, value)| (name.to_lowercase(), value.trim().to_owned()))
                .collect();
            let length = headers.get("content-length").and_then(|text| text.parse().ok()).unwrap_or(0);
            let (begin, whole) = (end + 4, end + 4 + length);
            if read.len() >= whole {
                let rest = read.split_off(whole);
                return Some((Call { headers, body: read.split_off(begin) }, rest));
            }
        }
        let mut more = [0; 4096];
        match stream.read(&mut more).await {
            Ok(0) | Err(_) => return None,
            Ok(size) => read.extend_from_slice(&more[..size]),
        }
    }
}
