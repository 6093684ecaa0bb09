//! Writes a stream as server-sent events.

use std::convert::Infallible;
use std::fmt::Write as _;
use std::pin::Pin;
use std::task::{Context, Poll};

use actix_web::body::{BodySize, MessageBody};
use actix_web::web::Bytes;

use super::bye::{RETRY_MS, bye};
use crate::chance::Chance;
use crate::domain::stream::Seen;
use crate::memory::streams::{Message, Stream};

/// About as many bytes are written at once.
const CHUNK_BYTES: usize = 16 * 1024;

/// The body of an answer that is a stream of events.
pub struct EventSource {
    stream: Stream,
    is_begun: bool,
}

impl EventSource {
    /// Makes the body of a stream.
    pub fn new(stream: Stream) -> Self {
        Self { stream, is_begun: false }
    }
}

impl MessageBody for EventSource {
    type Error = Infallible;

    fn size(&self) -> BodySize {
        BodySize::Stream
    }

    fn poll_next(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, Infallible>>> {
        let mut text = String::new();
        if !self.is_begun {
            self.is_begun = true;
            push(&mut text, format_args!("retry: {}\n\n", Chance::System.with_jitter(RETRY_MS)));
        }
        loop {
            match self.stream.poll(context) {
                Poll::Ready(Some((message, seen))) => push_event(&mut text, &message, seen),
                Poll::Ready(None) if text.is_empty() => return Poll::Ready(None),
                Poll::Pending if text.is_empty() => return Poll::Pending,
                _ => break,
            }
            if text.len() >= CHUNK_BYTES {
                break;
            }
        }
        Poll::Ready(Some(Ok(text.into())))
    }
}

fn push(text: &mut String, arguments: std::fmt::Arguments<'_>) {
    text.write_fmt(arguments).expect("a String takes everything");
}

/// Appends an event. A heartbeat is a comment, which no client sees.
fn push_event(text: &mut String, message: &Message, seen: Seen) {
    match message {
        Message::Beat => text.push_str(":\n\n"),
        Message::Bye(end) => push(text, format_args!("event: bye\ndata: {}\n\n", bye(*end))),
        Message::Sale(data) | Message::Stock(data) | Message::Order(data) => {
            push(text, format_args!("event: {}\nid: {seen}\ndata: {data}\n\n", message.name()));
        }
    }
}
