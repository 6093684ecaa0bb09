//! The stores that a recovery works on.
//!
//! Invariant: nobody else uses the instance until [`Recoverer::open`]. Every step is idempotent, so that a recovery
//! that was cut off is repeated from its beginning.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use redis::cmd;
use sqlx::{AssertSqlSafe, Connection as _, MySqlConnection};

use crate::backend::distributed::kafka_told::{self, Told};
use crate::backend::distributed::migrate;
use crate::backend::distributed::mysql::{Guarded, Mysql, failed};
use crate::backend::distributed::mysql_adjustments::MysqlAdjustments;
use crate::backend::distributed::mysql_archive::MysqlArchive;
use crate::backend::distributed::mysql_audit_log::MysqlAuditLog;
use crate::backend::distributed::mysql_captures::MysqlCaptures;
use crate::backend::distributed::mysql_guard::{self, THIS_SERVER};
use crate::backend::distributed::mysql_ledger::MysqlLedger;
use crate::backend::distributed::mysql_order_store::MysqlOrderStore;
use crate::backend::distributed::mysql_payments::MysqlPayments;
use crate::backend::distributed::mysql_refunds::MysqlRefunds;
use crate::backend::distributed::mysql_sale_store::MysqlSaleStore;
use crate::backend::distributed::mysql_shares::set_share;
use crate::backend::distributed::mysql_text::NOW_MS;
use crate::backend::distributed::redis_books::RedisBooks;
use crate::backend::distributed::redis_link::RedisLink;
use crate::backend::distributed::settings::Settings;
use crate::backend::distributed::watermarks::RedisWatermarks;
use crate::clock::Clock;
use crate::config::KafkaConfig;
use crate::domain::watermark::{SetBack, Watermark};
use crate::domain::{Adjustment, Instance, OrderId, Part, Sale, SaleState, Sales};
use crate::ports::{
    Archive, AuditLog, Captures, ErrorKind, Ledger, Orders, Payments, Refunds, SaleStore, StoreError,
    StoreResult,
};

/// What every step of a recovery is called in its errors.
pub const CONTEXT: &str = "recover an instance";
/// How long after an instance was shut every process has seen that it is: a look takes place every second, and takes no
/// longer than a read.
const SEEN_WITHIN: Duration = Duration::from_secs(3);

/// Recovers one instance.
pub struct Recoverer {
    /// The instance.
    pub at: Instance,
    /// The payments.
    pub payments: Arc<dyn Payments>,
    /// The captures.
    pub captures: Arc<dyn Captures>,
    /// The refunds.
    pub refunds: Arc<dyn Refunds>,
    /// The orders.
    pub orders: Arc<dyn Orders>,
    /// Puts payments in place.
    pub archive: Arc<dyn Archive>,
    /// The audit log.
    pub audit_log: Arc<dyn AuditLog>,
    sale_store: Arc<dyn SaleStore>,
    ledger: Arc<dyn Ledger>,
    /// The pools, which lead to an instance that was set back, too.
    pub(super) mysql: Arc<Mysql>,
    /// The inventory.
    pub(super) redis: Arc<RedisLink>,
    kafka: KafkaConfig,
    clock: Clock,
}

/// What an instance says of itself, and what the shop has seen of it.
#[derive(Debug, Clone)]
pub struct Found {
    /// Its watermark; `None` when it has none.
    pub watermark: Option<Watermark>,
    /// The highest watermark that was seen; 0 for none.
    pub known: i64,
    /// Why it is set back; `None` when it is not.
    pub set_back: Option<SetBack>,
}

impl Recoverer {
    /// Opens what a recovery works on. All instances must be there.
    ///
    /// # Errors
    /// When a server cannot be reached, the databases are not of this version, or there is no such instance.
    pub async fn new(settings: &Settings, at: u16, clock: Clock) -> StoreResult<Self> {
        let (config, map, topic) = (&settings.mysql, settings.map, &settings.kafka.topic);
        let at = map.all_instances().find(|instance| instance.number() == at).ok_or_else(|| {
            StoreError::broken(CONTEXT, format!("there are the instances 0 to {}", map.instances() - 1))
        })?;
        let mysql = Arc::new(Mysql::new(config, map, topic, Guarded::No, clock.clone())?);
        migrate::check_directory(&mysql).await?;
        Ok(Self {
            at,
            payments: Arc::new(MysqlPayments::new(mysql.clone())),
            captures: Arc::new(MysqlCaptures::new(mysql.clone())),
            refunds: Arc::new(MysqlRefunds::new(mysql.clone())),
            orders: Arc::new(MysqlOrderStore::new(mysql.clone())),
            archive: Arc::new(MysqlArchive { mysql: mysql.clone() }),
            audit_log: Arc::new(MysqlAuditLog::new(mysql.clone())),
            sale_store: Arc::new(MysqlSaleStore::new(mysql.clone())),
            ledger: Arc::new(MysqlLedger::new(mysql.clone())),
            redis: Arc::new(RedisLink::new(&settings.redis, clock.clone())?),
            kafka: settings.kafka.clone(),
            mysql,
            clock,
        })
    }

    fn table(&self) -> String {
        format!("{}.watermark", self.mysql.control(self.at))
    }

    /// Looks at the instance, and changes nothing.
    ///
    /// # Errors
    /// When Redis or the instance cannot be asked.
    pub async fn look(&self) -> StoreResult<Found> {
        RedisWatermarks::new(self.mysql.clone(), self.redis.clone()).exchange().await?;
        let known = self.mysql.guard(self.at).known();
        let mut connection = self.connect().await?;
        let watermark = mysql_guard::read(&self.table(), &mut connection).await;
        let watermark = watermark.map_err(|error| failed(CONTEXT, error))?;
        let set_back = SetBack::of(watermark.as_ref(), known);
        Ok(Found { watermark, known, set_back })
    }

    async fn connect(&self) -> StoreResult<MySqlConnection> {
        let options = self.mysql.pool(self.at).connect_options();
        MySqlConnection::connect_with(&options).await.map_err(|error| failed(CONTEXT, error))
    }

    async fn execute(&self, text: String) -> StoreResult<u64> {
        let done = sqlx::query(AssertSqlSafe(text)).execute(self.mysql.pool(self.at)).await;
        Ok(done.map_err(|error| failed(CONTEXT, error))?.rows_affected())
    }

    /// Keeps everybody else from the instance, and waits until all have seen it.
    ///
    /// # Errors
    /// When the instance cannot be changed.
    pub async fn shut(&self) -> StoreResult<()> {
        self.execute(format!("UPDATE {} SET server = ''", self.table())).await?;
        self.clock.sleep(SEEN_WITHIN).await;
        Ok(())
    }

    /// Lets everybody use the instance again: its data are written on this server, and newer than all that was seen.
    ///
    /// # Errors
    /// When the instance cannot be changed.
    pub async fn open(&self, known: i64) -> StoreResult<()> {
        let text = format!(
            "INSERT INTO {} (one, server, mark, at_ms) VALUES (1, {THIS_SERVER}, {known} + 1, {NOW_MS}) \
             ON DUPLICATE KEY UPDATE server = VALUES(server), mark = GREATEST(mark, VALUES(mark)), \
             at_ms = VALUES(at_ms)",
            self.table()
        );
        // No number that a writer remembers is one that comes now.
        let fences =
            format!("UPDATE {}.consumer_positions SET fences = fences + 1000", self.mysql.control(self.at));
        self.execute(fences).await?;
        self.execute(text).await.map(drop)
    }

    /// Reads all sales.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub async fn sales(&self) -> StoreResult<Sales> {
        Ok(self.sale_store.sales().await?.into_iter().map(|sale| (sale.id.clone(), sale)).collect())
    }

    /// Makes the pools and ledgers that sales have lost.
    ///
    /// # Errors
    /// When an instance cannot be changed.
    pub async fn open_pools(&self, sales: &Sales) -> StoreResult<()> {
        for sale in sales.values().filter(|sale| sale.in_place) {
            self.ledger.open_pools(sale).await?;
        }
        Ok(())
    }

    /// Does the instance's part of adjustments of stock again that it has lost. Answers those that cannot be done now,
    /// because orders have the units, in sentences.
    ///
    /// # Errors
    /// When a store fails.
    pub async fn adjust_again(&self, sales: &Sales) -> StoreResult<Vec<String>> {
        let rows = MysqlAdjustments::new(self.mysql.clone());
        let mut left = Vec::new();
        for sale in sales.values().filter(|sale| sale.in_place && sale.state != SaleState::Settled) {
            for begun in rows.listed(&sale.id).await? {
                let Adjustment { sku_id, after, .. } = &begun.adjustment;
                let share = self.mysql.map.shares_of(sku_id, *after).find(|(at, _)| *at == self.at);
                let Some((at, stock)) = share else { continue };
                match set_share(&self.mysql, &sale.id, sku_id, begun.share(at, stock)).await {
                    Ok(()) => {}
                    Err(error) if error.kind == ErrorKind::Conflict => {
                        left.push(format!(
                            "the stock of {sku_id} of {} is not made smaller here: {error}",
                            sale.id
                        ));
                        break;
                    }
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(left)
    }

    /// Answers whether an order belongs to the instance.
    pub fn has(&self, order: OrderId) -> bool {
        self.mysql.map.holds(order.shard()) && self.mysql.map.instance_of(order.shard()) == self.at
    }

    /// Lists the partitions of the instance.
    pub fn parts(&self) -> Vec<Part> {
        let map = self.mysql.map;
        map.all_parts().filter(|part| map.instance_of_part(*part) == self.at).collect()
    }

    /// Reads what the topic of events has of a partition since a time, in ms since 1970. Without a topic it is nothing.
    ///
    /// # Errors
    /// When the topic cannot be read to its end.
    pub async fn told(&self, part: Part, since_ms: i64) -> StoreResult<Told> {
        if self.kafka.events_topic.is_empty() {
            return Ok(Told::default());
        }
        let kafka = self.kafka.clone();
        let read = move || kafka_told::read_since(&kafka, part, since_ms);
        let read = tokio::task::spawn_blocking(read).await;
        read.map_err(|error| StoreError::broken(CONTEXT, error.to_string()))?
    }

    /// Reads the number that the next event of each partition gets.
    ///
    /// # Errors
    /// When the instance cannot be read.
    pub async fn next_numbers(&self) -> StoreResult<BTreeMap<Part, i64>> {
        let text = "SELECT CAST(part AS SIGNED), next_number FROM {control}.event_logs";
        let rows: Vec<(i64, i64)> = sqlx::query_as(self.mysql.control_sql(self.at, text))
            .fetch_all(self.mysql.pool(self.at))
            .await
            .map_err(|error| failed(CONTEXT, error))?;
        let part = |number: i64| u16::try_from(number).ok().map(Part::new);
        Ok(rows.into_iter().filter_map(|(number, next)| Some((part(number)?, next))).collect())
    }

    /// Gives what comes next in a partition no number that the topic has. The steps that were taken again have told the
    /// same events under the same numbers before, if in another order.
    ///
    /// # Errors
    /// When the instance cannot be changed.
    pub async fn number_from(&self, part: Part, next: i64) -> StoreResult<()> {
        let text = format!(
            "UPDATE {}.event_logs SET next_number = GREATEST(next_number, {next}) WHERE part = {}",
            self.mysql.control(self.at),
            part.number()
        );
        self.execute(text).await.map(drop)
    }

    /// Closes all buckets of the sales that sell, so that they are rebuilt of what the databases have. Answers how
    /// many.
    ///
    /// # Errors
    /// When Redis fails.
    pub async fn shut_buckets(&self, sales: &Sales) -> StoreResult<usize> {
        let books = RedisBooks::new(self.redis.clone());
        let mut shut = 0;
        let now_ms = self.clock.now_ms();
        let sells = |sale: &&Sale| sale.in_place && sale.state.gate().is_some() && now_ms < sale.ends_ms;
        for sale in sales.values().filter(sells) {
            for bucket in sale.bucket_ids() {
                let mut read = cmd("HGET");
                read.arg(self.redis.keys(&bucket).gate).arg("epoch");
                let epoch: Option<u32> = self.redis.command(CONTEXT, &read).await?;
                if let Some(epoch) = epoch {
                    shut += usize::from(books.shut(&bucket, epoch, "set_back").await?);
                }
            }
        }
        Ok(shut)
    }
}
