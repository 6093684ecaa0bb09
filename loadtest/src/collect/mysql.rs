//! Reads the MySQL servers: the directory, and for each server one consistent snapshot of every control and shard
//! database on it. So the ledger and the orders of an instance are of one moment.
//!
//! Shard databases are found by their names, and not computed. A row that stands where nobody looks is the kind of
//! fault that the audit is for.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use anyhow::{Context, bail};
use futures::future::try_join_all;
use sqlx::mysql::{MySqlConnectOptions, MySqlConnection, MySqlSslMode};
use sqlx::{ConnectOptions, Connection, Executor};

use super::mysql_fields::{fetch, number, text};
use super::{mysql_events, mysql_payments as money, mysql_rows as rows};
use crate::config::{Config, TlsFiles};
use crate::evidence::{
    Action, Claim, EventFacts, InstanceBooks, ItemFacts, Move, OrderRow, OrphanRow, PaymentRow, Place,
    RefundRow, SaleFacts,
};
use crate::ids::OrderId;

/// What all instances hold of one sale.
#[derive(Debug, Default)]
pub struct Instances {
    /// Order rows.
    pub rows: Vec<OrderRow>,
    /// Claims.
    pub claims: Vec<Claim>,
    /// Moves of the orders.
    pub moves: Vec<Move>,
    /// Events of the orders.
    pub events: EventFacts,
    /// Payments of the orders.
    pub payments: Vec<PaymentRow>,
    /// Refunds of the orders.
    pub refunds: Vec<RefundRow>,
    /// Captures that no payment explains, of all sales.
    pub orphans: Vec<OrphanRow>,
    /// Orders of other sales that have payments.
    pub other_sales: BTreeSet<OrderId>,
    /// Control databases, by instance number.
    pub books: Vec<InstanceBooks>,
}

async fn connect(config: &Config, server: &str) -> anyhow::Result<MySqlConnection> {
    let Some((host, port)) = server.rsplit_once(':') else {
        bail!("mysql.instances: {server} is not host:port")
    };
    let port = port.parse().with_context(|| format!("mysql.instances: {server} is not host:port"))?;
    let options = MySqlConnectOptions::new()
        .host(host.trim_matches(['[', ']']))
        .port(port)
        .username(&config.mysql_user)
        .password(&config.mysql_password);
    let options = match &config.mysql_tls {
        None => options.ssl_mode(MySqlSslMode::Disabled),
        Some(TlsFiles { ca, own }) => {
            let mut options = options.ssl_mode(MySqlSslMode::VerifyIdentity);
            if let Some(ca) = ca {
                options = options.ssl_ca(ca);
            }
            match own {
                Some((certificate, key)) => options.ssl_client_cert(certificate).ssl_client_key(key),
                None => options,
            }
        }
    };
    options.connect().await.with_context(|| format!("cannot connect to MySQL at {server}"))
}

/// Reads a sale as the directory defines it. `None` means that there is no such sale.
///
/// # Errors
/// When the directory cannot be read.
pub async fn sale(config: &Config, sale: &str) -> anyhow::Result<Option<SaleFacts>> {
    let first = config.instances.first().context("mysql.instances is empty")?;
    let mut connection = connect(config, first).await?;
    let directory = format!("{}directory", config.database_prefix);
    let query = format!(
        "SELECT s.state, s.starts_ms, s.ends_ms, s.buyer_limit, s.buckets, COALESCE(e.epoch, 1), \
         s.payment_window_ms, CAST(UNIX_TIMESTAMP(NOW(3)) * 1000 AS SIGNED), s.unpaid_max \
         FROM {directory}.sales s LEFT JOIN {directory}.epochs e ON e.sale_id = s.sale_id WHERE s.sale_id = ?"
    );
    let found = fetch(&mut connection, query, &[sale]).await?;
    let Some(row) = found.first() else { return Ok(None) };
    let mut facts = SaleFacts {
        id: sale.to_owned(),
        state: text(row, 0)?,
        starts_ms: number(row, 1)?,
        ends_ms: number(row, 2)?,
        buyer_limit: number(row, 3)?,
        unpaid_max: number(row, 8)?,
        buckets: u16::try_from(number(row, 4)?).context("sales.buckets is not a u16")?,
        epoch: number(row, 5)?,
        rebuilt: BTreeMap::new(),
        payment_window_ms: number(row, 6)?,
        items: Vec::new(),
        actions: Vec::new(),
        read_ms: number(row, 7)?,
    };
    let query = format!("SELECT bucket, epoch FROM {directory}.bucket_epochs WHERE sale_id = ?");
    for row in fetch(&mut connection, query, &[sale]).await? {
        let bucket = u16::try_from(number(&row, 0)?).context("bucket_epochs.bucket is not a u16")?;
        facts.rebuilt.insert(bucket, number(&row, 1)?);
    }
    let query = format!(
        "SELECT sku_id, stock, unit_price, currency FROM {directory}.items WHERE sale_id = ? ORDER BY sku_id"
    );
    for row in fetch(&mut connection, query, &[sale]).await? {
        facts.items.push(ItemFacts {
            sku: text(&row, 0)?,
            stock: number(&row, 1)?,
            unit_price: number(&row, 2)?,
            currency: text(&row, 3)?,
        });
    }
    let query = format!(
        "SELECT CAST(UNIX_TIMESTAMP(at) * 1000 AS SIGNED), action FROM {directory}.audit_log WHERE sale_id = ? \
         ORDER BY id"
    );
    for row in fetch(&mut connection, query, &[sale]).await? {
        facts.actions.push(Action { at_ms: number(&row, 0)?, word: text(&row, 1)? });
    }
    connection.close().await?;
    Ok(Some(facts))
}

/// Reads everything that the instances hold of a sale. The servers are read side by side.
///
/// # Errors
/// When a server cannot be read or lacks one of its databases.
pub async fn instances(config: &Config, sale: &str) -> anyhow::Result<Instances> {
    let mut servers: BTreeMap<&str, Vec<u16>> = BTreeMap::new();
    for (instance, server) in (0u16..).zip(&config.instances) {
        servers.entry(server).or_default().push(instance);
    }
    let readings = servers.iter().map(|(server, instances)| read_server(config, server, instances, sale));
    let mut all = Instances::default();
    let mut books = BTreeMap::new();
    for reading in try_join_all(readings).await? {
        all.rows.extend(reading.rows);
        all.claims.extend(reading.claims);
        all.moves.extend(reading.moves);
        all.events.add(reading.events);
        all.payments.extend(reading.payments);
        all.refunds.extend(reading.refunds);
        all.orphans.extend(reading.orphans);
        all.other_sales.extend(reading.other_sales);
        books.extend(reading.books);
    }
    all.books = books.into_values().collect();
    Ok(all)
}

#[derive(Default)]
struct ServerReading {
    rows: Vec<OrderRow>,
    claims: Vec<Claim>,
    moves: Vec<Move>,
    events: EventFacts,
    payments: Vec<PaymentRow>,
    refunds: Vec<RefundRow>,
    orphans: Vec<OrphanRow>,
    other_sales: Vec<OrderId>,
    books: BTreeMap<u16, InstanceBooks>,
}

async fn read_server(
    config: &Config,
    server: &str,
    instances: &[u16],
    sale: &str,
) -> anyhow::Result<ServerReading> {
    let mut connection = connect(config, server).await?;
    let shards = shards_on(config, &mut connection).await?;
    for shard in (0..config.layout.shards).filter(|s| instances.contains(&config.layout.instance_of(*s))) {
        if !shards.contains_key(&shard) {
            bail!("{server} has no database for shard {shard}: run `seckill migrate`");
        }
    }
    connection.execute("SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ").await?;
    connection.execute("START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY").await?;
    let mut reading = ServerReading::default();
    for instance in instances {
        let control = format!("{}control_{instance:02}", config.database_prefix);
        let books = rows::books(&mut connection, &control, sale, &config.topic).await?;
        reading.books.insert(*instance, books);
        mysql_events::read(&mut connection, &control, sale, &mut reading.events).await?;
    }
    if config.instances.first().is_some_and(|first| first == server) {
        let directory = format!("{}directory", config.database_prefix);
        reading.orphans = money::orphans(&mut connection, &directory).await?;
    }
    let name: Arc<str> = server.into();
    for (shard, tables) in &shards {
        let place = Place { server: name.clone(), shard: *shard };
        let database = format!("{}shard_{shard:04}", config.database_prefix);
        for yyyymm in tables {
            let found = rows::orders(&mut connection, &database, *yyyymm, &place, sale).await?;
            reading.rows.extend(found);
        }
        reading.claims.extend(rows::claims(&mut connection, &database, &place, sale).await?);
        reading.moves.extend(rows::moves(&mut connection, &database, tables, &place, sale).await?);
        reading.payments.extend(money::payments(&mut connection, &database, tables, &place, sale).await?);
        reading.refunds.extend(money::refunds(&mut connection, &database, tables, &place, sale).await?);
        reading.other_sales.extend(money::other_sales(&mut connection, &database, tables, sale).await?);
    }
    connection.execute("COMMIT").await?;
    connection.close().await?;
    Ok(reading)
}

/// Lists the shard databases on a server, with the months of their orders tables.
async fn shards_on(
    config: &Config,
    connection: &mut MySqlConnection,
) -> anyhow::Result<BTreeMap<u16, Vec<u32>>> {
    let query = "SELECT CAST(table_schema AS CHAR(200)), CAST(table_name AS CHAR(200)) FROM information_schema.tables";
    let mut shards: BTreeMap<u16, Vec<u32>> = BTreeMap::new();
    for row in fetch(connection, query.to_owned(), &[]).await? {
        let (schema, table) = (text(&row, 0)?, text(&row, 1)?);
        let shard = schema.strip_prefix(&config.database_prefix).and_then(|name| name.strip_prefix("shard_"));
        let Some(shard) = shard.filter(|digits| digits.len() == 4).and_then(|digits| digits.parse().ok())
        else {
            continue;
        };
        let months = shards.entry(shard).or_default();
        months.extend(table.strip_prefix("orders_").and_then(|month| month.parse::<u32>().ok()));
    }
    Ok(shards)
}

/// Reads the order writers' stored positions again and again, over kept connections.
pub struct Positions {
    /// Instance number and its server's connection.
    connections: Vec<(usize, MySqlConnection)>,
}

impl Positions {
    /// Connects to every instance.
    ///
    /// # Errors
    /// When an instance cannot be reached.
    pub async fn connect(config: &Config) -> anyhow::Result<Self> {
        let connecting = config.instances.iter().map(|server| connect(config, server));
        Ok(Self { connections: try_join_all(connecting).await?.into_iter().enumerate().collect() })
    }

    /// Reads the next offset of every partition.
    ///
    /// # Errors
    /// When an instance cannot be read.
    pub async fn read(&mut self, config: &Config) -> anyhow::Result<BTreeMap<u16, i64>> {
        let mut positions = BTreeMap::new();
        for (instance, connection) in &mut self.connections {
            let table = format!("{}control_{instance:02}.consumer_positions", config.database_prefix);
            let query = format!("SELECT part, next_offset FROM {table} WHERE topic = ?");
            for row in fetch(connection, query, &[&config.topic]).await? {
                positions.insert(u16::try_from(number(&row, 0)?)?, number(&row, 1)?);
            }
        }
        Ok(positions)
    }

    /// Counts the orders of a sale whose units wait to go back on sale.
    ///
    /// # Errors
    /// When an instance cannot be read.
    pub async fn releases(&mut self, config: &Config, sale: &str) -> anyhow::Result<i64> {
        let mut releases = 0;
        for (instance, connection) in &mut self.connections {
            let table = format!("{}control_{instance:02}.release_outbox", config.database_prefix);
            let query = format!("SELECT COUNT(*) FROM {table} WHERE sale_id = ?");
            for row in fetch(connection, query, &[sale]).await? {
                releases += number(&row, 0)?;
            }
        }
        Ok(releases)
    }
}

/// Reads the ids of all orders of a sale, wherever they stand.
///
/// # Errors
/// As [`instances`].
pub async fn order_ids(config: &Config, sale: &str) -> anyhow::Result<BTreeSet<OrderId>> {
    Ok(instances(config, sale).await?.rows.into_iter().map(|row| row.id).collect())
}
