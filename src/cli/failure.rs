//! Writes a failure for a person: every cause once, and what helps.

use crate::app::CannotListen;
#[cfg(feature = "embedded")]
use crate::backend::embedded::InUse;
use crate::ports::StoreError;

/// Writes an error and its causes, from the outermost on. It leaves out whether a change of a store took effect, which
/// is for logs.
pub fn text(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain() {
        let words = match cause.downcast_ref::<StoreError>() {
            Some(failed) => failed.context.to_owned(),
            None => cause.to_string(),
        };
        // The text of some errors repeats their cause.
        if text.is_empty() {
            text = words;
        } else if !text.ends_with(&words) {
            text = format!("{text}: {words}");
        }
    }
    text
}

/// Says what a person can do about an error, when we know.
pub fn hint(error: &anyhow::Error) -> Option<String> {
    error.chain().find_map(|cause| {
        #[cfg(feature = "embedded")]
        if cause.downcast_ref::<InUse>().is_some() {
            return Some(
                "a data folder is used by one process at a time: end that one, or name another folder with --data"
                    .to_owned(),
            );
        }
        let listen = cause.downcast_ref::<CannotListen>()?;
        if listen.source.kind() != std::io::ErrorKind::AddrInUse {
            return None;
        }
        let flag = match listen.key {
            "http.bind" => "--bind",
            "admin.bind" => "--admin-bind",
            flag => flag,
        };
        let free = std::net::SocketAddr::new(listen.address.ip(), listen.address.port().wrapping_add(1));
        Some(format!("another process has this port: choose one with {flag}, such as {flag} {free}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ports::{Effect, ErrorKind};

    #[test]
    fn a_cause_is_said_once() {
        let failed = StoreError {
            kind: ErrorKind::Unavailable,
            effect: Effect::NotApplied,
            context: "open data folder",
            source: "x is in use".into(),
        };
        assert_eq!(text(&anyhow::Error::new(failed)), "open data folder: x is in use");
        let repeating = anyhow::anyhow!("no such file").context("cannot read a: no such file");
        assert_eq!(text(&repeating), "cannot read a: no such file");
    }

    #[test]
    fn a_taken_port_names_its_flag() {
        let taken = |key| CannotListen {
            address: "127.0.0.1:8080".parse().expect("an address"),
            key,
            source: std::io::ErrorKind::AddrInUse.into(),
        };
        let hint = |key| hint(&anyhow::Error::new(taken(key))).expect("a hint");
        assert!(hint("http.bind").ends_with("--bind 127.0.0.1:8081"), "{}", hint("http.bind"));
        assert!(hint("admin.bind").ends_with("--admin-bind 127.0.0.1:8081"));
        assert!(super::hint(&anyhow::anyhow!("something else")).is_none());
    }
}
