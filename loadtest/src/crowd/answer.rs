//! What the answer to a click says.

use serde::Deserialize;
use serde_json::Value;

use crate::client::{NoReply, Reply};
use crate::journal::Class;

/// The parts of an answer that matter.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The HTTP status; 0 without an answer.
    pub http_status: u16,
    /// The class of the answer.
    pub class: Class,
    /// The problem's code, or the tool's own word when there is no answer.
    pub code: Option<String>,
    /// The order's id.
    pub order_id: Option<String>,
    /// The order's state.
    pub order_status: Option<String>,
    /// The time of acceptance.
    pub accepted_at: Option<String>,
    /// After which time the shop wants to be asked about the order.
    pub poll_after_ms: Option<u64>,
    /// After which time the same click may have another answer.
    pub retry_after_ms: Option<u64>,
}

#[derive(Deserialize)]
struct Body {
    id: Option<String>,
    /// The order's state, or the number of a problem's HTTP status.
    status: Option<Value>,
    code: Option<String>,
    accepted_at: Option<String>,
    poll_after_ms: Option<u64>,
    retry_after_ms: Option<u64>,
}

impl Answer {
    /// Reads an answer.
    pub fn of(result: Result<Reply, NoReply>) -> Self {
        let without = |class, why: &str| Self {
            http_status: 0,
            class,
            code: Some(why.to_owned()),
            order_id: None,
            order_status: None,
            accepted_at: None,
            poll_after_ms: None,
            retry_after_ms: None,
        };
        let reply = match result {
            Ok(reply) => reply,
            Err(NoReply::NotSent(why)) => return without(Class::Error, why),
            Err(NoReply::Unknown(why)) => return without(Class::Unknown, why),
        };
        let Ok(body) = serde_json::from_slice::<Body>(&reply.body) else {
            return Self { http_status: reply.status, ..without(Class::Error, "unreadable_body") };
        };
        Self {
            http_status: reply.status,
            class: Class::of_answer(reply.status, body.code.as_deref(), reply.replayed),
            code: body.code,
            order_id: body.id,
            order_status: body.status.and_then(|status| status.as_str().map(str::to_owned)),
            accepted_at: body.accepted_at,
            poll_after_ms: body.poll_after_ms,
            retry_after_ms: body.retry_after_ms,
        }
    }

    /// Returns whether the click never left this machine.
    pub fn is_unsent(&self) -> bool {
        self.http_status == 0 && self.class == Class::Error
    }
}

#[cfg(test)]
mod tests {
    use hyper::body::Bytes;

    use super::*;

    fn reply(status: u16, body: &'static str, replayed: bool) -> Answer {
        Answer::of(Ok(Reply { status, replayed, body: Bytes::from_static(body.as_bytes()) }))
    }

    #[test]
    fn an_accepted_answer_carries_its_order() {
        let answer =
            reply(202, r#"{"id":"ord_1","status":"queued","final":false,"poll_after_ms":40}"#, false);
        assert_eq!(answer.class, Class::Won);
        assert_eq!(answer.order_id.as_deref(), Some("ord_1"));
        assert_eq!((answer.order_status.as_deref(), answer.poll_after_ms), (Some("queued"), Some(40)));
    }

    #[test]
    fn a_problem_carries_its_code_and_a_broken_body_is_an_error() {
        let answer = reply(409, r#"{"status":409,"code":"sold_out"}"#, false);
        assert_eq!((answer.class, answer.code.as_deref()), (Class::SoldOut, Some("sold_out")));
        assert_eq!(answer.order_status, None);
        let broken = reply(202, "<html>", false);
        assert_eq!((broken.class, broken.is_unsent()), (Class::Error, false));
    }

    #[test]
    fn no_answer_is_an_error_only_when_nothing_was_sent() {
        let unsent = Answer::of(Err(NoReply::NotSent("connect_failed")));
        assert_eq!((unsent.class, unsent.is_unsent()), (Class::Error, true));
        let unknown = Answer::of(Err(NoReply::Unknown("timeout")));
        assert_eq!((unknown.class, unknown.is_unsent()), (Class::Unknown, false));
    }
}
