//! Reads a sale's buckets in Redis. Large hashes are scanned and never read in one piece, because the server has one
//! thread.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, bail};
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, ConnectionInfo, FromRedisValue, IntoConnectionInfo, cmd};

use crate::config::Config;
use crate::evidence::{BucketFacts, Hold, SaleFacts};
use crate::ids::OrderId;

const RESPONSE_TIMEOUT: Duration = Duration::from_secs(10);
const SCAN_COUNT: usize = 1000;
/// The keys of a bucket.
const PARTS: [&str; 11] = [
    "gate",
    "stock",
    "buyers",
    "orders",
    "outbox",
    "outbox_orders",
    "set_aside",
    "moves",
    "received",
    "unpaid",
    "references",
];

/// Connects to Redis.
///
/// # Errors
/// When Redis cannot be reached.
pub async fn connect(config: &Config) -> anyhow::Result<MultiplexedConnection> {
    let mut info = config.redis_url.as_str().into_connection_info().context("redis.url")?;
    if !config.redis_password.is_empty() {
        let settings = info.redis_settings().clone().set_password(&config.redis_password);
        info = info.set_redis_settings(settings);
    }
    let options = AsyncConnectionConfig::new()
        .set_response_timeout(Some(RESPONSE_TIMEOUT))
        .set_connection_timeout(Some(RESPONSE_TIMEOUT));
    let client = opened(info, config)?;
    let connection = client.get_multiplexed_async_connection_with_config(&options).await;
    // The URL may hold a password.
    connection.with_context(|| format!("cannot connect to Redis at {}", client.get_connection_info().addr()))
}

#[cfg(feature = "tls")]
fn opened(info: ConnectionInfo, config: &Config) -> anyhow::Result<Client> {
    if !matches!(info.addr(), redis::ConnectionAddr::TcpTls { .. }) {
        return Client::open(info).context("redis.url");
    }
    let crate::config::TlsFiles { ca, own } = &config.redis_tls;
    let read = |path: &std::path::PathBuf| std::fs::read(path).with_context(|| path.display().to_string());
    let own =
        own.as_ref().map(|(certificate, key)| anyhow::Ok((read(certificate)?, read(key)?))).transpose()?;
    let client_tls = own.map(|(client_cert, client_key)| redis::ClientTlsConfig { client_cert, client_key });
    let root_cert = ca.as_ref().map(read).transpose()?;
    Client::build_with_tls(info, redis::TlsCertificates { client_tls, root_cert }).context("redis.url")
}

#[cfg(not(feature = "tls"))]
fn opened(info: ConnectionInfo, _: &Config) -> anyhow::Result<Client> {
    Client::open(info).context("redis.url")
}

fn key(config: &Config, sale: &str, bucket: u16, part: &str) -> String {
    format!("{}{{{sale}.{bucket}}}:{part}", config.key_prefix)
}

/// Counts the entries of all outboxes of a sale.
///
/// # Errors
/// When Redis cannot be read.
pub async fn outbox_len(
    config: &Config,
    connection: &mut MultiplexedConnection,
    sale: &SaleFacts,
) -> anyhow::Result<u64> {
    let mut sum = 0;
    for bucket in 0..sale.buckets {
        let len: u64 =
            cmd("XLEN").arg(key(config, &sale.id, bucket, "outbox")).query_async(connection).await?;
        sum += len;
    }
    Ok(sum)
}

/// Reads all buckets of a sale, by number. A bucket without a gate is `None`; of a settled sale, one without any key.
///
/// # Errors
/// When Redis cannot be read, or a hold is not what `reserve.lua` writes.
pub async fn read(config: &Config, sale: &SaleFacts) -> anyhow::Result<Vec<Option<BucketFacts>>> {
    let mut connection = connect(config).await?;
    let mut buckets = Vec::new();
    for bucket in 0..sale.buckets {
        let named = |part: &str| key(config, &sale.id, bucket, part);
        let gate: BTreeMap<String, String> =
            cmd("HGETALL").arg(named("gate")).query_async(&mut connection).await?;
        let is_absent = match sale.is_settled() {
            true => {
                let keys = PARTS.map(named);
                cmd("EXISTS").arg(&keys).query_async::<i64>(&mut connection).await? == 0
            }
            false => gate.is_empty(),
        };
        if is_absent {
            buckets.push(None);
            continue;
        }
        let holds: Vec<(Vec<u8>, String)> = scan(&mut connection, &named("orders")).await?;
        let holds = holds.into_iter().map(|(id, value)| hold(&id, &value)).collect::<anyhow::Result<_>>()?;
        let outbox_orders: Option<i64> =
            cmd("GET").arg(named("outbox_orders")).query_async(&mut connection).await?;
        buckets.push(Some(BucketFacts {
            gate,
            stock: cmd("HGETALL").arg(named("stock")).query_async(&mut connection).await?,
            buyers: scan(&mut connection, &named("buyers")).await?.into_iter().collect(),
            holds,
            outbox: cmd("XLEN").arg(named("outbox")).query_async(&mut connection).await?,
            outbox_orders: outbox_orders.unwrap_or(0),
            set_aside: cmd("XLEN").arg(named("set_aside")).query_async(&mut connection).await?,
        }));
    }
    Ok(buckets)
}

async fn scan<F, V>(connection: &mut MultiplexedConnection, key: &str) -> anyhow::Result<Vec<(F, V)>>
where
    F: FromRedisValue + Send,
    V: FromRedisValue + Send,
{
    let mut found = Vec::new();
    let mut cursor: u64 = 0;
    loop {
        let (next, page): (u64, Vec<(F, V)>) =
            cmd("HSCAN").arg(key).arg(cursor).arg("COUNT").arg(SCAN_COUNT).query_async(connection).await?;
        found.extend(page);
        if next == 0 {
            return Ok(found);
        }
        cursor = next;
    }
}

/// Reads a hold: `state|fingerprint|quantity|reserved_ms|sku|user`.
fn hold(id: &[u8], value: &str) -> anyhow::Result<(OrderId, Hold)> {
    let id = OrderId::from_slice(id).context("a field of the orders hash is not an order id")?;
    // The user is last, and may have a bar of its own.
    let fields: Vec<&str> = value.splitn(6, '|').collect();
    let [state, fingerprint, quantity, _reserved_ms, sku, user] = fields.as_slice() else {
        bail!("the hold of {id} is not what reserve.lua writes: {value:?}");
    };
    // A hold whose units went back on sale has its letter in upper case.
    let letter = state.chars().next().unwrap_or('?');
    let hold = Hold {
        state: letter.to_ascii_lowercase(),
        released: letter.is_ascii_uppercase(),
        fingerprint: (*fingerprint).to_owned(),
        quantity: quantity.parse().with_context(|| format!("the hold of {id}: quantity {quantity:?}"))?,
        sku: (*sku).to_owned(),
        user: (*user).to_owned(),
    };
    Ok((id, hold))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hold_reads_as_reserve_lua_writes_it() {
        let (_, held) = hold(&[7; 16], "q|0123456789abcdef|2|1778803200000|phone-x|u-1").expect("a hold");
        assert_eq!(
            (held.state, held.quantity, held.sku.as_str(), held.user.as_str()),
            ('q', 2, "phone-x", "u-1")
        );
        let (_, held) =
            hold(&[7; 16], "q|0123456789abcdef|2|1778803200000|phone-x|auth0|64a1").expect("a hold");
        assert_eq!((held.user.as_str(), held.released), ("auth0|64a1", false));
        let (_, held) = hold(&[7; 16], "X|0123456789abcdef|2|1778803200000|phone-x|u-1").expect("a hold");
        assert_eq!((held.state, held.released), ('x', true));
        assert!(hold(&[7; 16], "q|2").is_err());
        assert!(hold(&[7; 3], "q|0123456789abcdef|2|1|x|u").is_err());
    }
}
