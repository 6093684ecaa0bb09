//! Writes a stream as messages of a WebSocket. Source: RFC 6455.

use std::future::poll_fn;
use std::pin::pin;

use actix_ws::{AggregatedMessage, AggregatedMessageStream, CloseCode, CloseReason, Closed, Session};
use futures::future::{Either, select};
use serde_json::json;
use serde_json::value::RawValue;

use super::bye::bye;
use crate::domain::stream::{End, Seen};
use crate::memory::streams::{Message, Stream};

/// The longest message of a client. It has nothing to say but pings.
const MESSAGE_BYTES_MAX: usize = 1024;
/// A client that has answered none of so many pings has gone.
const PINGS_MAX: u32 = 3;

/// Serves a stream until it ends, or its client goes. It lives on the thread of its connection, and ends with it.
pub fn serve(stream: Stream, session: Session, messages: actix_ws::MessageStream) {
    let messages = messages.max_frame_size(MESSAGE_BYTES_MAX).aggregate_continuations();
    let messages = messages.max_continuation_size(MESSAGE_BYTES_MAX);
    actix_web::rt::spawn(async move {
        // Whoever has gone is told nothing.
        drop(pump(&stream, session, messages).await);
    });
}

/// Sends what the stream tells, and answers pings.
async fn pump(
    stream: &Stream,
    mut session: Session,
    mut messages: AggregatedMessageStream,
) -> Result<(), Closed> {
    let mut unanswered = 0;
    loop {
        let told = pin!(poll_fn(|context| stream.poll(context)));
        match select(told, pin!(messages.recv())).await {
            Either::Left((Some((Message::Beat, _)), _)) => {
                unanswered += 1;
                if unanswered > PINGS_MAX {
                    stream.end(End::Slow);
                }
                session.ping(b"").await?;
            }
            Either::Left((Some((Message::Bye(end), _)), _)) => {
                let data = RawValue::from_string(bye(end).to_string()).expect("it is JSON");
                session.text(json!({ "event": "bye", "data": data }).to_string()).await?;
                let reason =
                    CloseReason { code: CloseCode::Away, description: Some(end.as_str().to_owned()) };
                return session.close(Some(reason)).await;
            }
            Either::Left((Some((message, seen)), _)) => session.text(written(&message, seen)).await?,
            Either::Left((None, _)) => return session.close(None).await,
            Either::Right((Some(Ok(AggregatedMessage::Ping(bytes))), _)) => session.pong(&bytes).await?,
            Either::Right((Some(Ok(AggregatedMessage::Close(_))) | None, _)) => {
                return session.close(None).await;
            }
            Either::Right((Some(Ok(_)), _)) => unanswered = 0,
            Either::Right((Some(Err(error)), _)) => {
                let reason = CloseReason { code: CloseCode::Protocol, description: Some(error.to_string()) };
                return session.close(Some(reason)).await;
            }
        }
    }
}

/// Writes an event as one message.
fn written(message: &Message, seen: Seen) -> String {
    let (Message::Sale(data) | Message::Stock(data) | Message::Order(data)) = message else {
        return String::new();
    };
    format!(r#"{{"event":"{}","id":"{seen}","data":{data}}}"#, message.name())
}
