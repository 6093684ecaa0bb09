//! The host names under which the operators' listener answers. A page that has a name of its own lead to this listener
//! would read what it tells without a key ("DNS rebinding"). Such a name belongs to somebody, so it has a dot: names
//! without one, which only a local resolver knows, are no danger, and neither are addresses.

use std::net::{Ipv4Addr, Ipv6Addr};

use actix_web::Error;
use actix_web::body::{BoxBody, MessageBody};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::header::HOST;
use actix_web::middleware::Next;
use actix_web::web::Data;

use crate::http::Context;
use crate::http::middleware::refused;
use crate::http::problem::{Code, Problem};

/// Refuses requests for another host than ours, which none of our pages makes.
///
/// # Errors
/// As the rest of the application. The refusal is a response here.
pub async fn known(
    request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<BoxBody>, Error> {
    let host = request.headers().get(HOST).map(|host| host.to_str().unwrap_or_default());
    let hosts = request.app_data::<Data<Context>>().map_or(&[][..], |context| &context.admin_hosts);
    if host.is_none_or(|host| is_known(host, hosts)) {
        return Ok(next.call(request).await?.map_into_boxed_body());
    }
    let problem = Problem::new(Code::MisdirectedRequest).detail(
        "The operators' listener answers for addresses, for names without a dot, and for those of `admin.hosts`: add the \
         name that you use.",
    );
    Ok(refused(request, problem))
}

/// Answers whether a `Host` is an address, a name without a dot, or one of the names.
fn is_known(host: &str, hosts: &[String]) -> bool {
    let is_port = |port: &str| port.bytes().all(|byte| byte.is_ascii_digit());
    let name = match host.rsplit_once(':') {
        Some((name, port)) if is_port(port) => name,
        _ => host,
    };
    let bracketed = name.strip_prefix('[').and_then(|name| name.strip_suffix(']'));
    if let Some(address) = bracketed {
        return address.parse::<Ipv6Addr>().is_ok();
    }
    let is_local =
        !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
    is_local || name.parse::<Ipv4Addr>().is_ok() || hosts.iter().any(|known| known.eq_ignore_ascii_case(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_names_of_the_list_are_known() {
        let hosts = ["ops.shop.example".to_owned()];
        for known in [
            "localhost",
            "shop-a:9090",
            "OPS.shop.example",
            "127.0.0.1:9090",
            "10.0.0.7",
            "[::1]:9090",
            "ops.shop.example:80",
        ] {
            assert!(is_known(known, &hosts), "{known}");
        }
        for other in [
            "",
            "evil.example",
            "evil.example:9090",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "::1",
            "localhost:9090:80",
            "[localhost]",
            "127.1",
        ] {
            assert!(!is_known(other, &hosts), "{other}");
        }
    }
}
