//! What is told of every server: its clock, and why it could not be asked.

use std::net::IpAddr;

use crate::domain::check::Checks;
use crate::ports::StoreError;

/// How far a server's clock may be from that of this process, in ms, before somebody should look.
const CLOCK_WARNING_MS: i64 = 500;
/// How far it may be before buyers are refused, or tokens expire, at the wrong time.
const CLOCK_ERROR_MS: i64 = 5000;

/// Adds what a server's clock says. It was asked between the two times here.
pub fn compare_clocks(checks: &mut Checks, theirs_ms: i64, (asked_ms, heard_ms): (i64, i64)) {
    let ahead_ms = theirs_ms - (asked_ms + heard_ms) / 2;
    let detail = match ahead_ms {
        0.. => format!("its clock is {ahead_ms} ms ahead of this machine's"),
        behind => format!("its clock is {} ms behind this machine's", behind.saturating_neg()),
    };
    let fix =
        "set both clocks by NTP: sales open by the clock of Redis, tokens expire by that of this machine";
    match ahead_ms.saturating_abs() {
        CLOCK_ERROR_MS.. => checks.need("clock", false, detail, fix),
        away => checks.want("clock", away < CLOCK_WARNING_MS, detail, fix),
    }
}

/// Reads the host of `host:port`.
pub fn host_of(address: &str) -> String {
    address.rsplit_once(':').map_or(address, |(host, _)| host).trim_matches(['[', ']']).to_owned()
}

/// Says whether one of a server's hosts is reached without TLS over a network. `switch` is what turns TLS on.
pub fn of_privacy(checks: &mut Checks, hosts: impl IntoIterator<Item = String>, is_tls: bool, switch: &str) {
    let is_here = |host: &String| {
        host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
    };
    let away = hosts.into_iter().find(|host| !is_here(host));
    let detail = match (is_tls, &away) {
        (true, _) => "goes over TLS".to_owned(),
        (false, None) => "goes without TLS, and stays on this machine".to_owned(),
        (false, Some(host)) => format!("goes without TLS over a network, to {host}"),
    };
    let fix = format!(
        "set {switch}, unless nobody else is in that network: passwords and orders can be read there"
    );
    checks.want("privacy", is_tls || away.is_none(), detail, fix);
}

/// Reads the first two numbers of a version; 0 for what is no number.
pub fn version_of(text: &str) -> (u32, u32) {
    let mut numbers = text.split(['.', '-']).map(|part| part.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

/// Says why a server could not be asked.
pub fn why(error: &StoreError) -> String {
    format!("{}: {}", error.context, error.source)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::check::Level;

    #[test]
    fn what_can_be_read_in_a_network_is_told() {
        for (addresses, is_tls, level) in [
            (&["127.0.0.1:6379", "[::1]:6379", "localhost:1"][..], false, Level::Ok),
            (&["10.0.0.5:6379"], true, Level::Ok),
            (&["localhost:9092", "10.0.0.5:9092"], false, Level::Warning),
            (&["mysql.shop.example:3306"], false, Level::Warning),
        ] {
            let mut checks = Checks::of("redis");
            of_privacy(&mut checks, addresses.iter().map(|address| host_of(address)), is_tls, "mysql.tls");
            assert_eq!(checks.found()[0].level, level, "{addresses:?}");
        }
    }

    #[test]
    fn a_clock_that_is_off_is_told_in_both_directions() {
        for (theirs_ms, level, words) in [
            (10_000, Level::Ok, "0 ms ahead"),
            (10_499, Level::Ok, "499 ms ahead"),
            (9_500, Level::Warning, "500 ms behind"),
            (14_999, Level::Warning, "4999 ms ahead"),
            (5_000, Level::Error, "5000 ms behind"),
        ] {
            let mut checks = Checks::of("redis");
            compare_clocks(&mut checks, theirs_ms, (9_900, 10_100));
            let found = checks.found();
            let [check] = &found[..] else { panic!("{found:?}") };
            assert_eq!((check.level, check.name.as_ref()), (level, "redis.clock"), "{theirs_ms}");
            assert!(
                check.detail.contains(words) && (check.fix.is_some() == (level != Level::Ok)),
                "{check:?}"
            );
        }
    }
}
