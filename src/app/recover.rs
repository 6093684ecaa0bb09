//! Recovers a MySQL instance that was set back: of what the other instances, the topic of events, Redis and the payment
//! provider know. Source: docs/adr/0025-an-instance-that-was-set-back.md.

use anyhow::{Context as _, ensure};
use serde::Serialize;

use super::open::backend_settings;
use super::till::till;
use crate::backend::distributed::recover::{Found, LostOrders, Recoverer};
use crate::clock::Clock;
use crate::config::Config;
use crate::domain::calendar::rfc3339;
use crate::domain::operator::Subject;
use crate::domain::payment::{PaymentPage, PaymentState};
use crate::domain::watermark::SetBack;
use crate::domain::{
    Capture, Change, ExportedPayment, Mover, Order, OrderId, OrderMove, OrderState, Part, PaymentId,
    PaymentRequest, Sales,
};
use crate::memory::guards::Guards;
use crate::ports::{Moved, StoreResult, Taken};
use crate::shop::Till;

/// How much further back than the watermark is read, in ms: servers' clocks differ, and events wait to be passed on.
const EARLIER_MS: i64 = 10 * 60_000;
/// How much further back the provider is asked, in ms: a payment page lives for a day.
const PAGES_EARLIER_MS: i64 = 25 * 3_600_000;

/// What a recovery is asked to do.
#[derive(Debug, Clone)]
pub struct Wish {
    /// The number of the instance.
    pub instance: u16,
    /// From when on something may be missing, in ms since 1970; `None` for the time of the watermark.
    pub since_ms: Option<i64>,
    /// Why it is recovered. Without a reason nothing is changed.
    pub apply: Option<String>,
}

/// What was missing, and what was done about it.
#[derive(Debug, Default, Serialize)]
pub struct Recovered {
    /// Why the instance is set back; `None` when it is not.
    pub set_back: Option<SetBack>,
    /// From when on was looked, ms since 1970.
    pub since_ms: i64,
    /// Whether what was missing was brought back, and the instance is used again.
    pub applied: bool,
    /// Orders without a row.
    pub rows: usize,
    /// Steps of orders that have rows.
    pub steps: usize,
    /// Steps that began with money, and those after them.
    pub paid_steps: usize,
    /// Payments without a row.
    pub payments: usize,
    /// Captures that had not been taken.
    pub captures: usize,
    /// Grants that it took and has no row of.
    pub grants_taken: usize,
    /// Grants that it gave and has no row of.
    pub grants_given: usize,
    /// Buckets whose epochs the directory did not know.
    pub epochs: usize,
    /// Sales whose last changes the directory did not know.
    pub sales: usize,
    /// Buckets that are rebuilt.
    pub buckets: usize,
    /// What only a person can bring together, each in a sentence.
    pub unclear: Vec<String>,
}

/// A recovery that is under way.
struct Recovery<'a> {
    stores: Recoverer,
    till: Option<Till>,
    done: Recovered,
    tell: &'a dyn Fn(&str),
}

/// Steps of orders that wait for what the provider says.
type Paid = Vec<(OrderId, Vec<OrderMove<'static>>)>;

/// Looks what an instance has lost, and brings it back when the wish says why. `tell` is told each step.
///
/// # Errors
/// When a server cannot be reached, or there is no such instance. What was done until then stands, and the instance
/// stays shut until a repetition is done.
pub async fn recover_mysql(config: &Config, wish: Wish, tell: &dyn Fn(&str)) -> anyhow::Result<Recovered> {
    let stores = Recoverer::new(&backend_settings(config)?, wish.instance, Clock::System).await?;
    let found = stores.look().await?;
    let done = Recovered { set_back: found.set_back, ..Recovered::default() };
    let till = till(&config.payment, &Guards::default(), &Clock::System)?;
    let mut recovery = Recovery { stores, till, done, tell };
    if found.set_back.is_none() && wish.since_ms.is_none() {
        tell(&format!(
            "mysql-{} has all that the shop has seen of it. When you know that it was set back and used since, say when \
             the backup was taken: --since TIME",
            wish.instance
        ));
        return Ok(recovery.done);
    }
    recovery.done.since_ms = match (wish.since_ms, &found.watermark) {
        (Some(since_ms), _) => since_ms,
        (None, Some(watermark)) if watermark.at_ms > 0 => watermark.at_ms - EARLIER_MS,
        (None, _) => anyhow::bail!("the instance does not say how old its data are: say it, --since TIME"),
    };
    tell(&format!("looking from {} on", rfc3339(recovery.done.since_ms)));
    match wish.apply {
        None => recovery.find().await?,
        Some(reason) => {
            ensure!((1..=200).contains(&reason.chars().count()), "--reason must have 1 to 200 characters");
            recovery.apply(&found, reason).await?;
        }
    }
    Ok(recovery.done)
}

impl Recovery<'_> {
    fn say(&self, what: &str) {
        (self.tell)(what);
    }

    /// Compares everything, and changes nothing.
    async fn find(&mut self) -> anyhow::Result<()> {
        let sales = self.compare_directory(false).await?;
        let lost = self.stores.compare_grants().await?;
        (self.done.grants_taken, self.done.grants_given) = (lost.taken.len(), lost.given.len());
        for part in self.stores.parts() {
            let (found, _) = self.compare_part(part, &sales).await?;
            self.done.rows += found.rows.len();
            self.done.steps += found.steps.iter().map(|(_, steps)| steps.len()).sum::<usize>();
            self.done.paid_steps += found.paid.iter().map(|(_, steps)| steps.len()).sum::<usize>();
        }
        self.bring_money(false).await
    }

    async fn apply(&mut self, found: &Found, reason: String) -> anyhow::Result<()> {
        let change = Change::by_hand("mysql_recover", &reason);
        self.say("keeping everybody else from the instance");
        self.stores.shut().await?;
        let sales = self.compare_directory(true).await?;
        self.stores.open_pools(&sales).await?;
        let lost = self.stores.compare_grants().await?;
        (self.done.grants_taken, self.done.grants_given) = (lost.taken.len(), lost.given.len());
        self.stores.take_again(&lost).await?;
        let (mut rows, mut numbers, mut paid) = (Vec::new(), Vec::new(), Paid::new());
        for part in self.stores.parts() {
            let (found, next) = self.compare_part(part, &sales).await?;
            numbers.push((part, next));
            // What ends orders comes first: it frees what others need.
            self.done.steps += self.stores.take_steps(found.steps).await?;
            rows.push((part, found.rows));
            paid.extend(found.paid);
        }
        // What needs units of orders that are made now is tried again after them.
        self.stores.adjust_again(&sales).await?;
        let short = self.stores.give_again(&lost).await?;
        self.done.unclear.extend(short);
        for (part, records) in rows {
            let (made, unclear) = self.stores.make_rows(part, records, &sales).await?;
            self.done.rows += made;
            self.done.unclear.extend(unclear);
        }
        self.done.unclear.extend(self.stores.adjust_again(&sales).await?);
        self.bring_money(true).await?;
        for (order, steps) in paid {
            self.take_paid(order, steps).await?;
        }
        for (part, next) in numbers {
            self.stores.number_from(part, next).await?;
        }
        self.done.buckets = self.stores.shut_buckets(&sales).await?;
        let subject = Subject::Recovery { instance: self.stores.at.number(), since_ms: self.done.since_ms };
        self.stores.audit_log.note(&change, &subject).await?;
        self.stores.open(found.known).await?;
        self.done.applied = true;
        Ok(())
    }

    /// Compares the directory with the gates, if the instance has it, and answers the sales.
    async fn compare_directory(&mut self, apply: bool) -> anyhow::Result<Sales> {
        let sales = self.stores.sales().await?;
        if !self.stores.has_directory() {
            return Ok(sales);
        }
        let behind = self.stores.behind(&sales).await?;
        (self.done.epochs, self.done.sales) = (behind.epochs.len(), behind.sales.len());
        self.done.unclear.extend(behind.unclear.iter().cloned());
        if !apply {
            return Ok(sales);
        }
        self.stores.catch_up(&behind).await?;
        Ok(self.stores.sales().await?)
    }

    /// Compares a partition with what the topic tells of it. Answers with it the number that the next event may have.
    async fn compare_part(&mut self, part: Part, sales: &Sales) -> anyhow::Result<(LostOrders, i64)> {
        self.say(&format!("reading the events of partition {}", part.number()));
        let told = self.stores.told(part, self.done.since_ms).await?;
        let next = self.stores.next_numbers().await?.get(&part).copied().unwrap_or(1);
        if let Some(first) = told.first.filter(|first| *first > next) {
            self.done.unclear.push(format!(
                "partition {}: the topic has not the events {next} to {} any more",
                part.number(),
                first - 1
            ));
        }
        let mut found = self.stores.compare(&told, sales).await?;
        self.done.unclear.append(&mut found.unclear);
        Ok((found, told.next))
    }

    /// Compares the provider's pages and captures with the payments of the instance. Payments that have no row get one,
    /// and captures that were not taken are.
    async fn bring_money(&mut self, apply: bool) -> anyhow::Result<()> {
        let Some(till) = &self.till else { return Ok(()) };
        let (stores, done) = (&self.stores, &mut self.done);
        let since_ms = done.since_ms - PAGES_EARLIER_MS;
        (self.tell)("asking the payment provider");
        let is_ours = |deployment: &Option<String>| deployment.as_ref() == Some(&till.terms.deployment);
        let mut after = None;
        loop {
            let (page, next) = till.provider.pages(since_ms, after).await.context(ASKED)?;
            for open in page.into_iter().filter(|open| is_ours(&open.deployment)) {
                bring_payment(stores, till, (&open.payment, Some(open.page)), apply, done).await?;
            }
            match next {
                Some(next) => after = Some(next),
                None => break,
            }
        }
        after = None;
        loop {
            let (page, next) = till.provider.captures(since_ms, after).await.context(ASKED)?;
            for booked in page.into_iter().filter(|booked| is_ours(&booked.deployment)) {
                take_capture(stores, till, booked.capture, apply, done).await?;
            }
            match next {
                Some(next) => after = Some(next),
                None => return Ok(()),
            }
        }
    }

    /// Takes the steps of an order that was paid, as far as the provider has not done it.
    async fn take_paid(&mut self, id: OrderId, steps: Vec<OrderMove<'static>>) -> StoreResult<()> {
        for step in steps {
            let Some(order) = self.stores.orders.order(id).await? else { return Ok(()) };
            let mover = Mover { by: step.by.clone(), why: step.why.clone() };
            if step.to == OrderState::Refunded.as_str() {
                let moved = self.stores.refunds.refund_order(id, !step.withheld, &mover).await?;
                self.done.paid_steps += usize::from(matches!(moved, Moved::Done { .. }));
            } else if order.state.as_str() == step.from {
                self.done
                    .unclear
                    .push(format!("{id} was paid, and the payment provider shows no capture of it"));
                self.done.paid_steps += self.stores.take_steps(vec![(order, vec![step])]).await?;
            }
        }
        Ok(())
    }
}

const ASKED: &str = "the payment provider has to say what was paid";

/// Takes a capture of the instance's orders that was not taken.
async fn take_capture(
    stores: &Recoverer,
    till: &Till,
    capture: Capture,
    apply: bool,
    done: &mut Recovered,
) -> anyhow::Result<()> {
    let known = (capture.payment.as_str(), None);
    let Some((id, state)) = bring_payment(stores, till, known, apply, done).await? else { return Ok(()) };
    if state == PaymentState::Captured {
        return Ok(());
    }
    done.captures += 1;
    if apply && stores.captures.take(None, id, &capture).await? == Taken::Unknown {
        done.unclear.push(format!("{id} was captured twice"));
    }
    Ok(())
}

/// Makes the row of a payment of the instance's orders that has none. Answers its id and the state of its row; `None`
/// for another payment, and where there is nothing that it could belong to.
async fn bring_payment(
    stores: &Recoverer,
    till: &Till,
    (payment, page): (&str, Option<PaymentPage>),
    apply: bool,
    done: &mut Recovered,
) -> anyhow::Result<Option<(PaymentId, PaymentState)>> {
    let Ok(id) = PaymentId::parse(payment) else { return Ok(None) };
    if !stores.has(id.order) {
        return Ok(None);
    }
    let payments = stores.payments.of(id.order).await?;
    if let Some(payment) = payments.iter().find(|payment| payment.request.id == id) {
        return Ok(Some((id, payment.state)));
    }
    done.payments += 1;
    if apply {
        let Some(order) = stores.orders.order(id.order).await? else {
            done.unclear.push(format!("{id} is known to the payment provider, and its order has no row"));
            return Ok(None);
        };
        stores.archive.restore_payments(&[row(till, id, &order, page)?]).await?;
    }
    Ok(Some((id, PaymentState::Open)))
}

/// Makes the row of a payment that the provider knows.
fn row(
    till: &Till,
    id: PaymentId,
    order: &Order,
    page: Option<PaymentPage>,
) -> anyhow::Result<ExportedPayment> {
    let amount = order.amount().context("an order whose amount is too large was paid")?;
    let due_ms = order.expires_ms.unwrap_or(order.accepted_ms);
    let request = PaymentRequest {
        id,
        deployment: till.terms.deployment.clone(),
        amount,
        description: PaymentRequest::description(order),
        created_ms: order.accepted_ms,
        due_ms,
        expires_ms: due_ms,
        return_url: till.terms.return_url.replace("{order}", &order.id.to_string()),
    };
    let (reference, url) = page.map(|page| (page.reference, page.url)).unzip();
    Ok(ExportedPayment {
        state: PaymentState::Open,
        request,
        reference,
        url,
        capture: None,
        refund: None,
        events: Vec::new(),
        node: None,
    })
}
