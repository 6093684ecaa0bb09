//! Reads values whose form the sections' types alone do not check.

use std::net::IpAddr;
use std::path::PathBuf;

use ipnet::IpNet;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

/// Reads a text; `None` for an empty one.
///
/// # Errors
/// When the value is no text.
pub fn text<'de, D: Deserializer<'de>>(input: D) -> Result<Option<String>, D::Error> {
    Ok(Some(String::deserialize(input)?).filter(|text| !text.is_empty()))
}

/// Reads addresses and networks.
///
/// # Errors
/// When an entry is neither.
pub fn networks<'de, D: Deserializer<'de>>(input: D) -> Result<Vec<IpNet>, D::Error> {
    let network = |text: String| {
        let read = text.parse::<IpNet>().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from));
        let rule = "must be an address or a network, such as 10.0.0.5 or 10.0.0.0/8";
        read.map(|network| network.trunc()).ok_or_else(|| D::Error::custom(format!("{text:?} {rule}")))
    };
    Vec::deserialize(input)?.into_iter().map(network).collect()
}

/// Reads origins as browsers write them in the header `Origin`, which is compared as text.
///
/// # Errors
/// When an entry is no origin.
pub fn origins<'de, D: Deserializer<'de>>(input: D) -> Result<Vec<String>, D::Error> {
    let origins = Vec::<String>::deserialize(input)?;
    for origin in &origins {
        let is_any = origin == "*" && origins.len() == 1;
        if !is_any && !is_origin(origin) {
            let rule = "must be an origin as browsers send it, such as https://shop.example or http://localhost:3000 \
                        (lower case, no path), or * alone";
            return Err(D::Error::custom(format!("{origin:?} {rule}")));
        }
    }
    Ok(origins)
}

/// Reads host names, which are compared with the header `Host` without its port.
///
/// # Errors
/// When an entry is no name.
pub fn hosts<'de, D: Deserializer<'de>>(input: D) -> Result<Vec<String>, D::Error> {
    let hosts = Vec::<String>::deserialize(input)?;
    let is_name = |host: &&String| {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || b"-.".contains(&b);
        !host.is_empty() && !host.ends_with('.') && host.bytes().all(allowed)
    };
    match hosts.iter().find(|host| !is_name(host)) {
        Some(host) => Err(D::Error::custom(format!(
            "{host:?} must be a host name without scheme, port and path, such as ops.shop.example"
        ))),
        None => Ok(hosts),
    }
}

/// Answers whether a text is an origin as browsers write it: scheme, host, and a port that is not the scheme's own.
fn is_origin(text: &str) -> bool {
    let (scheme, rest) = text.split_once("://").unwrap_or(("", text));
    let own_port = match scheme {
        "https" => 443,
        "http" => 80,
        _ => return false,
    };
    let (host, port) = match rest.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (rest, None),
    };
    let is_port =
        |port: &str| port.parse::<u16>().is_ok_and(|number| number != own_port && number.to_string() == port);
    let is_name = |host: &str| {
        let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-.".contains(&b);
        !host.is_empty() && host.bytes().all(allowed)
    };
    let is_host = match host.strip_prefix('[').and_then(|inside| inside.strip_suffix(']')) {
        Some(inside) => inside.parse::<std::net::Ipv6Addr>().is_ok(),
        None => is_name(host),
    };
    is_host && port.is_none_or(is_port)
}

/// Reads the path of a file; `None` for an empty text.
///
/// # Errors
/// When the value is no text.
pub fn path<'de, D: Deserializer<'de>>(input: D) -> Result<Option<PathBuf>, D::Error> {
    Ok(text(input)?.map(PathBuf::from))
}

/// Answers whether what an address answers can be believed.
pub fn is_safe_source(url: &str) -> bool {
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    let authority = rest.split(['/', '?', '#']).next().unwrap_or("");
    let host = match authority.strip_prefix('[') {
        Some(v6) => v6.split(']').next().unwrap_or(""),
        None => authority.split(':').next().unwrap_or(""),
    };
    let is_here = host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
    !host.is_empty() && !authority.contains('@') && (scheme == "https" || scheme == "http" && is_here)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_read_from_where_nobody_can_change_them() {
        for url in [
            "https://idp.example/keys",
            "https://idp.example:8443/keys?v=1",
            "http://localhost:8080/keys",
            "http://127.0.0.1/keys",
            "http://[::1]:80/keys",
        ] {
            assert!(is_safe_source(url), "{url}");
        }
        for url in [
            "http://idp.example/keys",
            "http://localhost.idp.example/keys",
            "http://127.0.0.1@idp.example/keys",
            "https://idp.example@idp.example/keys",
            "ftp://idp.example/keys",
            "idp.example/keys",
            "https:///keys",
            "",
        ] {
            assert!(!is_safe_source(url), "{url}");
        }
    }
}
