//! Shops for tests. Each is one TCP listener: [`FakeShop`] does the same with every request, and [`ScriptedShop`]
//! answers by a script.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::task::TaskTracker;

/// What the shop does with every request.
#[derive(Debug, Clone, Copy)]
pub enum Does {
    /// Answers with a status and a body.
    Answer(u16, &'static str),
    /// Answers, then closes the connection without having said so.
    AnswerAndClose(u16, &'static str),
    /// Closes the connection without an answer.
    HangUp,
    /// Never answers.
    Nothing,
}

/// A shop for tests.
pub struct FakeShop {
    /// The listener's address.
    pub address: SocketAddr,
    /// The number of connections that were accepted.
    pub connections: Arc<AtomicUsize>,
}

impl FakeShop {
    /// Opens a shop on a free port.
    pub async fn open(does: Does) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let connections = Arc::new(AtomicUsize::new(0));
        let counted = connections.clone();
        let tasks = TaskTracker::new();
        tasks.clone().spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                counted.fetch_add(1, Ordering::SeqCst);
                tasks.spawn(serve(stream, does));
            }
        });
        Self { address, connections }
    }
}

async fn serve(mut stream: TcpStream, does: Does) {
    let mut buffer = [0; 4096];
    // The tests' requests fit one segment.
    while let Ok(1..) = stream.read(&mut buffer).await {
        let (status, body) = match does {
            Does::Answer(status, body) | Does::AnswerAndClose(status, body) => (status, body),
            Does::HangUp => return,
            Does::Nothing => continue,
        };
        let length = body.len();
        let answer = format!("HTTP/1.1 {status} X\r\ncontent-length: {length}\r\n\r\n{body}");
        if stream.write_all(answer.as_bytes()).await.is_err() || matches!(does, Does::AnswerAndClose(..)) {
            return;
        }
    }
}

/// The status of a script for closing the connection without an answer.
pub const HANG_UP: u16 = 0;

/// Answers a request with a status and a body. It gets the method and the path, such as `GET /x`, and how often the
/// same was asked before.
type Script = dyn Fn(&str, usize) -> (u16, String) + Send + Sync;

/// A shop for tests that answers by a script.
pub struct ScriptedShop {
    /// The listener's address.
    pub address: SocketAddr,
    /// Every method and path that was asked for, in that order.
    asked: Arc<Mutex<Vec<String>>>,
}

impl ScriptedShop {
    /// Opens a shop on a free port.
    pub async fn open(script: impl Fn(&str, usize) -> (u16, String) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let asked: Arc<Mutex<Vec<String>>> = Arc::default();
        let script: Arc<Script> = Arc::new(script);
        let noted = asked.clone();
        let tasks = TaskTracker::new();
        tasks.clone().spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tasks.spawn(serve_script(stream, script.clone(), noted.clone()));
            }
        });
        Self { address, asked }
    }

    /// Counts how often each method and path was asked for.
    pub fn counts(&self) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for asked in self.asked.lock().expect("no code panics while holding it").iter() {
            *counts.entry(asked.clone()).or_default() += 1;
        }
        counts
    }
}

async fn serve_script(mut stream: TcpStream, script: Arc<Script>, noted: Arc<Mutex<Vec<String>>>) {
    let mut buffer = [0; 4096];
    while let Ok(length @ 1..) = stream.read(&mut buffer).await {
        let request = String::from_utf8_lossy(&buffer[..length]);
        let asked = request.split(' ').take(2).collect::<Vec<_>>().join(" ");
        let before = {
            let mut noted = noted.lock().expect("no code panics while holding it");
            noted.push(asked.clone());
            noted.iter().filter(|other| **other == asked).count() - 1
        };
        let (status, body) = script(&asked, before);
        if status == HANG_UP {
            return;
        }
        let length = body.len();
        let answer = format!("HTTP/1.1 {status} X\r\ncontent-length: {length}\r\n\r\n{body}");
        if stream.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
    }
}
