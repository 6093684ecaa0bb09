//! A shop for tests. It is one TCP listener that does the same with every request.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

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
