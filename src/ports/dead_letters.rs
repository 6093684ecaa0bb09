//! Dead letters, as operators look at them and decide about them.

use async_trait::async_trait;

use super::store_error::StoreResult;
use crate::domain::record::Poison;
use crate::domain::{DeadLetter, DeadLetterId, Decision, LetterQuery, LetterState, OrderRecord, Sales};

/// What became of one record that was decided apart from the order log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Redecided {
    /// Its order was written now, and came to this.
    Written(Decision),
    /// Its order has a row already: nothing was changed.
    Known,
    /// It can still not become an order: nothing was changed.
    Poison(Poison),
}

/// The records that could not become orders. A record that becomes a dead letter a second time is the same one.
#[async_trait]
pub trait DeadLetters: Send + Sync {
    /// Reads dead letters, ascending by id. A row that this version cannot read is counted and passed over.
    async fn list(&self, query: &LetterQuery) -> StoreResult<Vec<DeadLetter>>;

    /// Reads one; `None` when there is none of this id.
    async fn read(&self, id: DeadLetterId) -> StoreResult<Option<DeadLetter>>;

    /// Notes what became of an open one. Answers `false` when it is not open any more, and changes nothing then.
    async fn decide(&self, id: DeadLetterId, state: LetterState) -> StoreResult<bool>;

    /// Decides one record again, apart from the order log, with `sales` as they are today. The position stays where it
    /// is. Idempotent.
    ///
    /// # Errors
    /// After any error the caller may repeat it: an order is written once.
    async fn write_apart(&self, record: &OrderRecord, sales: &Sales) -> StoreResult<Redecided>;

    /// Counts the open ones of all instances.
    async fn open(&self) -> StoreResult<u64>;
}
