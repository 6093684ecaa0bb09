//! Where a step stands in a trace that is recorded. Source: W3C Trace Context, level 1.

use std::fmt;
use std::num::{NonZeroU64, NonZeroU128};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The place of a step in a trace: the trace, and the step that others follow. As text it is a `traceparent` whose flag
/// says that the trace is recorded: 55 characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TraceContext {
    /// The trace.
    pub trace: NonZeroU128,
    /// The step.
    pub span: NonZeroU64,
}

/// What a `traceparent` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parent {
    /// Where the caller's step stands.
    pub context: TraceContext,
    /// Whether the caller records the trace.
    pub sampled: bool,
}

impl TraceContext {
    /// Writes the trace's id, as problems and lines of the log have it: 32 hexadecimal digits.
    pub fn trace_id(&self) -> String {
        format!("{:032x}", self.trace)
    }
}

impl Parent {
    /// Reads a `traceparent`; `None` for what is none. A later version than 00 may have more fields behind the flags.
    pub fn parse(text: &str) -> Option<Self> {
        let is_lower_hex =
            |part: &str| part.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        let mut parts = text.split('-');
        let mut part = |length| parts.next().filter(|part| part.len() == length && is_lower_hex(part));
        let (version, trace, span, flags) = (part(2)?, part(32)?, part(16)?, part(2)?);
        let has_more = parts.next().is_some();
        if version == "ff" || (version == "00" && has_more) {
            return None;
        }
        let trace = NonZeroU128::new(u128::from_str_radix(trace, 16).ok()?)?;
        let span = NonZeroU64::new(u64::from_str_radix(span, 16).ok()?)?;
        let flags = u8::from_str_radix(flags, 16).ok()?;
        Some(Self { context: TraceContext { trace, span }, sampled: flags & 1 == 1 })
    }
}

impl fmt::Display for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{:032x}-{:016x}-01", self.trace, self.span)
    }
}

impl Serialize for TraceContext {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Reads the trace of a stored value. What is none is passed over: no order is lost for the sake of its trace.
///
/// # Errors
/// When the value is no JSON.
pub fn read<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<TraceContext>, D::Error> {
    let value = serde_json::Value::deserialize(deserializer)?;
    Ok(value.as_str().and_then(Parent::parse).map(|parent| parent.context))
}

/// Does what [`read`] does, for what few have.
///
/// # Errors
/// As [`read`].
pub fn read_boxed<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Box<TraceContext>>, D::Error> {
    Ok(read(deserializer)?.map(Box::new))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_traceparent_is_read_as_the_standard_says() {
        let text = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let parent = Parent::parse(text).expect("a traceparent");
        assert_eq!((parent.context.to_string().as_str(), parent.sampled), (text, true));
        assert_eq!(parent.context.trace_id(), "4bf92f3577b34da6a3ce929d0e0e4736");
        let with = |version: &str, flags: &str| {
            Parent::parse(&format!("{version}-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-{flags}"))
        };
        assert!(with("00", "00").is_some_and(|parent| !parent.sampled));
        assert!(with("00", "03").is_some_and(|parent| parent.sampled));
        assert!(with("01", "01-more").is_some_and(|parent| parent.sampled));
        for none in
            [with("ff", "01"), with("00", "01-more"), with("00", "1"), with("0", "01"), with("00", "zz")]
        {
            assert_eq!(none, None);
        }
        for none in [
            "",
            "00",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e473-00f067aa0ba902b7-01",
        ] {
            assert_eq!(Parent::parse(none), None, "{none}");
        }
    }
}
