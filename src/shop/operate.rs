//! Operates a sale: creates and patches it, and takes it through its life from publication to the end. Every change is
//! a row of the audit log, in the change's own transaction.

use super::{Failure, Shop};
use crate::domain::operator::Subject;
use crate::domain::sale::{InvalidSale, SaleAction};
use crate::domain::{Access, Change, Item, Money, Sale, SaleId, SaleState};
use crate::ports::{Placed, StoreResult};

/// The answer to a change.
#[derive(Debug)]
pub enum Changed {
    /// The change stands, or stood before. This is the sale as it is now.
    Done(Sale),
    /// There is no such sale.
    Unknown,
    /// The definition has a fault.
    Invalid(InvalidSale),
    /// A sale of this id exists.
    Taken,
    /// The sale was changed since the caller read it.
    VersionMoved,
    /// The change is not allowed in the sale's state.
    NotAllowed {
        /// The state that the sale is in.
        state: SaleState,
        /// The actions that are allowed in it.
        allowed: Vec<SaleAction>,
    },
    /// The sale's end has passed, so that nobody could buy.
    Over {
        /// The end, ms since 1970.
        ends_ms: i64,
    },
    /// The databases have no orders table for the month in which the sale starts.
    MonthMissing {
        /// The month, as the table's name has it.
        yyyymm: u32,
    },
}

/// New values for some fields of a sale. `None` keeps the value.
#[derive(Debug, Default)]
pub struct Patch {
    /// The name.
    pub name: Option<String>,
    /// Opening, ms since 1970.
    pub starts_ms: Option<i64>,
    /// Closing, ms since 1970.
    pub ends_ms: Option<i64>,
    /// Most live units of one buyer.
    pub buyer_limit: Option<u32>,
    /// Most orders that one buyer may leave unpaid.
    pub unpaid_max: Option<u32>,
    /// What a purchase needs beside its buyer.
    pub access: Option<Access>,
    /// How long an order waits for its payment, in ms.
    pub payment_window_ms: Option<i64>,
    /// The number of buckets.
    pub buckets: Option<u16>,
    /// All items, which replace the old ones.
    pub items: Option<Vec<Item>>,
}

impl Shop {
    /// Reads one sale from the directory; `None` when there is none of that id.
    ///
    /// # Errors
    /// When the directory could not be read.
    pub async fn sale(&self, id: &SaleId) -> Result<Option<Sale>, Failure> {
        self.ports.sales.sale(id).await.map_err(Failure::of_read)
    }

    /// Reads all sales from the directory, ascending by start.
    ///
    /// # Errors
    /// When the directory could not be read.
    pub async fn sales(&self) -> Result<Vec<Sale>, Failure> {
        self.ports.sales.sales().await.map_err(Failure::of_read)
    }

    /// Creates a sale as a draft of version 1 and epoch 1, whatever `sale` says of these.
    ///
    /// # Errors
    /// When the directory failed. After an unknown outcome the sale may exist.
    pub async fn create_sale(&self, mut sale: Sale, change: &Change) -> Result<Changed, Failure> {
        sale.state = SaleState::Draft;
        (sale.version, sale.epoch) = (1, 1);
        if let Err(invalid) = self.check(&sale) {
            return Ok(Changed::Invalid(invalid));
        }
        sale.items.sort_unstable_by(|a, b| a.sku_id.cmp(&b.sku_id));
        if !self.ports.sales.create(&sale, change).await? {
            return Ok(Changed::Taken);
        }
        self.memory.catalog.put(sale.clone());
        Ok(Changed::Done(sale))
    }

    /// Patches a sale that is not in Redis yet. `if_versions` are the versions that the caller knows, of which the sale
    /// must have one; `None` patches any version.
    ///
    /// # Errors
    /// When the directory failed.
    pub async fn patch_sale(
        &self,
        id: &SaleId,
        patch: Patch,
        if_versions: Option<&[u64]>,
        change: &Change,
    ) -> Result<Changed, Failure> {
        let Some(old) = self.sale(id).await? else {
            return Ok(Changed::Unknown);
        };
        if if_versions.is_some_and(|versions| !versions.contains(&old.version)) {
            return Ok(Changed::VersionMoved);
        }
        if !old.state.is_editable() {
            return Ok(Changed::NotAllowed { state: old.state, allowed: old.state.allowed() });
        }
        let mut sale = Sale {
            name: patch.name.unwrap_or(old.name),
            starts_ms: patch.starts_ms.unwrap_or(old.starts_ms),
            ends_ms: patch.ends_ms.unwrap_or(old.ends_ms),
            buyer_limit: patch.buyer_limit.unwrap_or(old.buyer_limit),
            unpaid_max: patch.unpaid_max.unwrap_or(old.unpaid_max),
            access: patch.access.unwrap_or(old.access),
            payment_window_ms: patch.payment_window_ms.unwrap_or(old.payment_window_ms),
            buckets: patch.buckets.unwrap_or(old.buckets),
            items: patch.items.unwrap_or(old.items),
            version: old.version + 1,
            ..old
        };
        if let Err(invalid) = self.check(&sale) {
            return Ok(Changed::Invalid(invalid));
        }
        sale.items.sort_unstable_by(|a, b| a.sku_id.cmp(&b.sku_id));
        self.replace(sale, old.version, change).await
    }

    /// Checks a definition, its items in the order in which the caller gave them: that it is sound, and that the
    /// provider takes what the smallest and the largest order would cost.
    pub(super) fn check(&self, sale: &Sale) -> Result<(), InvalidSale> {
        sale.validate(self.map.shards())?;
        if sale.access.purchase_token && self.settings.token_keys.is_none() {
            let detail = "needs auth.purchase_token_secret, which is not set".to_owned();
            return Err(InvalidSale { pointer: "/access/purchase_token".to_owned(), detail });
        }
        let Some(till) = &self.till else { return Ok(()) };
        for (index, item) in sale.items.iter().enumerate().filter(|(_, item)| item.price.amount() > 0) {
            for units in [1, sale.buyer_limit] {
                let amount = item.price.amount().saturating_mul(i64::from(units));
                let refusal = match Money::new(amount, item.price.currency()) {
                    Ok(price) => till.provider.refusal(&price),
                    Err(_) => Some("is too much for an order".to_owned()),
                };
                if let Some(why) = refusal {
                    let detail = format!("{units} of it cannot be paid: {why}");
                    return Err(InvalidSale { pointer: format!("/items/{index}/price"), detail });
                }
            }
        }
        Ok(())
    }

    /// Takes a sale through its life. To repeat an action is harmless: it brings Redis and the pools to the state that
    /// the sale already has. A half-done action is finished in this way. `if_versions` are as for [`Self::patch_sale`].
    ///
    /// # Errors
    /// When a component failed. The caller repeats the action.
    pub async fn advance_sale(
        &self,
        id: &SaleId,
        action: SaleAction,
        if_versions: Option<&[u64]>,
        change: &Change,
    ) -> Result<Changed, Failure> {
        // When two operators do the same, the slower one finds it done when it looks again.
        match self.try_advance(id, action, if_versions, change).await? {
            Changed::VersionMoved => self.try_advance(id, action, if_versions, change).await,
            changed => Ok(changed),
        }
    }

    async fn try_advance(
        &self,
        id: &SaleId,
        action: SaleAction,
        if_versions: Option<&[u64]>,
        change: &Change,
    ) -> Result<Changed, Failure> {
        let Some(old) = self.sale(id).await? else {
            return Ok(Changed::Unknown);
        };
        // A sale is settled in another way ([`Self::settle`]).
        let Some(state) = old.state.after(action).filter(|state| *state != SaleState::Settled) else {
            return Ok(Changed::NotAllowed { state: old.state, allowed: old.state.allowed() });
        };
        // A repetition finds the version that it has made itself, and finishes what was cut off.
        if state != old.state && if_versions.is_some_and(|versions| !versions.contains(&old.version)) {
            return Ok(Changed::VersionMoved);
        }
        let preheating = action == SaleAction::Preheat;
        let begins = state != old.state && matches!(action, SaleAction::Publish | SaleAction::Preheat);
        if begins && old.ends_ms <= self.now_ms() {
            return Ok(Changed::Over { ends_ms: old.ends_ms });
        }
        if begins && let Err(invalid) = self.check(&old) {
            return Ok(Changed::Invalid(invalid));
        }
        let holds_month = async |month| self.ports.orders.holds_month(month).await.map_err(Failure::of_read);
        if preheating && !holds_month(old.month()).await? {
            return Ok(Changed::MonthMissing { yyyymm: old.month().yyyymm() });
        }
        // The directory comes first. From here on the definition is frozen, so what is put in place is what it says.
        // Until all of it is in place, nothing is sold, and a repetition of the action goes on.
        let changed = if state == old.state {
            let subject = Subject::Sale(Box::new(old.clone()));
            self.ports.audit_log.note(change, &subject).await?;
            Changed::Done(old)
        } else {
            let version = old.version;
            self.replace(Sale { state, version: version + 1, ..old }, version, change).await?
        };
        let Changed::Done(sale) = changed else { return Ok(changed) };
        self.bring_about(sale, preheating).await.map(Changed::Done)
    }

    /// Brings pools and inventory to the state that the directory says.
    async fn bring_about(&self, mut sale: Sale, preheating: bool) -> Result<Sale, Failure> {
        let stands = format!("sale {} is {} in the directory, and stays so", sale.id, sale.state.as_str());
        let placed = if preheating { self.put_in_place(&mut sale).await } else { Ok(Vec::new()) };
        let placed = placed
            .map_err(|error| Failure::applied_partly(&stands, "its stock is not all in place", error))?;
        let set = self.ports.gates.set_gates(&sale, &placed).await;
        set.map_err(|error| Failure::applied_partly(&stands, "its gates do not all say so", error))?;
        Ok(sale)
    }

    /// Preheats a published sale without an operator, or finishes a preheat. Idempotent.
    ///
    /// # Errors
    /// Why the sale is not in place, in words for operators.
    pub async fn preheat_by_itself(&self, id: &SaleId) -> Result<(), String> {
        let change = Change {
            actor: "seckill".to_owned(),
            action: SaleAction::Preheat.as_str(),
            reason: "it starts soon".to_owned(),
            request_id: "-".to_owned(),
        };
        let preheated = match self.sale(id).await {
            // What is finished was noted when it began.
            Ok(Some(sale)) if sale.state == SaleState::Preheated && !sale.in_place => {
                self.bring_about(sale, true).await.map(Changed::Done)
            }
            Ok(Some(sale)) if sale.state == SaleState::Published => {
                self.advance_sale(id, SaleAction::Preheat, None, &change).await
            }
            Ok(_) => return Ok(()),
            Err(failure) => Err(failure),
        };
        match preheated {
            Ok(Changed::MonthMissing { yyyymm }) => {
                Err(format!("the orders tables of {yyyymm} are missing: run `seckill migrate`"))
            }
            Ok(Changed::Invalid(invalid)) => Err(format!("{} {}", invalid.pointer, invalid.detail)),
            // Whatever else came between, an operator did it, and was told.
            Ok(_) => Ok(()),
            Err(Failure::AppliedPartly { detail }) => Err(detail),
            Err(Failure::Unavailable | Failure::OutcomeUnknown) => {
                Err("a component does not answer".to_owned())
            }
        }
    }

    /// Opens the pools, then puts the stock into the inventory, bucket by bucket, and notes that it is in place. From
    /// then on units may be sold, so a sale that is in place is not put in place again, whatever the inventory has
    /// lost. Answers how the buckets were put in place, when their gates may be opened for it.
    async fn put_in_place(&self, sale: &mut Sale) -> StoreResult<Vec<Placed>> {
        self.ports.ledger.open_pools(sale).await?;
        // Another operator may have been quicker, and may be selling already.
        let is_in_place = self.ports.sales.sale(&sale.id).await?.is_some_and(|sale| sale.in_place);
        let mut placed = Vec::new();
        if !is_in_place {
            placed = self.ports.gates.preheat(sale).await?;
            if !self.ports.sales.mark_in_place(sale).await? {
                // What was put in place here may have been sold from and lost since. It is rebuilt then.
                placed.clear();
            }
        }
        sale.in_place = true;
        self.memory.catalog.put(sale.clone());
        Ok(placed)
    }

    async fn replace(&self, sale: Sale, expected: u64, change: &Change) -> Result<Changed, Failure> {
        if !self.ports.sales.replace(&sale, expected, change).await? {
            return Ok(Changed::VersionMoved);
        }
        self.memory.catalog.put(sale.clone());
        Ok(Changed::Done(sale))
    }
}
