//! Subscriptions: operators say where events are sent, and follow how that goes.

use super::{Failure, Shop};
use crate::domain::operator::Subject;
use crate::domain::stored_event::FIRST_NUMBER;
use crate::domain::subscription::{
    NewSubscription, Subscription, SubscriptionChange, SubscriptionId, SubscriptionState,
};
use crate::domain::{Change, EventNumbers};
use crate::ports::ReaderMover;

/// A subscription, and how many events it has not had.
#[derive(Debug)]
pub struct SubscriptionNow {
    /// The subscription.
    pub subscription: Subscription,
    /// Events that were not sent yet.
    pub unread: i64,
}

/// The answer to who wants a subscription.
#[derive(Debug)]
pub enum Subscribed {
    /// It stands.
    Done(Box<Subscription>),
    /// Nothing may be sent to the address, and why.
    NotAllowed(String),
    /// There are as many as there may be.
    TooMany,
}

/// What an operator wants of a subscription.
#[derive(Debug, Clone)]
pub enum SubscriptionAction {
    /// Nothing more is sent.
    Pause,
    /// Events are sent again, from where it was.
    Resume,
    /// It gets this secret, and the one before holds as well.
    Rotate(String),
    /// Everything is sent again from these numbers on; a partition that is not named begins with the oldest event.
    Replay(EventNumbers),
    /// It is removed.
    Remove,
}

impl Shop {
    /// Reads all subscriptions, oldest first.
    ///
    /// # Errors
    /// When they could not be read.
    pub async fn subscriptions(&self) -> Result<Vec<SubscriptionNow>, Failure> {
        let all = self.ports.subscriptions.all().await.map_err(Failure::of_read)?;
        let mut now = Vec::with_capacity(all.len());
        for subscription in all {
            let mut unread = 0;
            for at in self.ports.events.instances() {
                let backlog = self.ports.events.backlog(at, &subscription.id.reader()).await;
                unread += backlog.map_err(Failure::of_read)?.len();
            }
            now.push(SubscriptionNow { subscription, unread });
        }
        Ok(now)
    }

    /// Makes a subscription with an id and a secret that nobody has had. It is noted in the audit log, without the
    /// secret.
    ///
    /// # Errors
    /// When a component failed. Nothing is sent to the address then, or it stands and can be removed.
    pub async fn subscribe(
        &self,
        new: NewSubscription,
        (id, secret): (SubscriptionId, String),
        change: &Change,
    ) -> Result<Subscribed, Failure> {
        if let Err(why) = self.outbound.check(&new.url) {
            return Ok(Subscribed::NotAllowed(why));
        }
        let subject = Subject::Subscription { subscription: id.clone(), url: Some(new.url.clone()) };
        self.ports.audit_log.note(change, &subject).await?;
        if !new.from_oldest {
            self.begin_at_the_end(&id).await?;
        }
        let subscription = Subscription {
            id,
            url: new.url,
            kinds: new.kinds,
            secret,
            previous_secret: None,
            state: SubscriptionState::Active,
            why: String::new(),
            created_ms: self.clock.now_ms(),
            failing_since_ms: None,
        };
        if !self.ports.subscriptions.add(&subscription).await? {
            return Ok(Subscribed::TooMany);
        }
        Ok(Subscribed::Done(Box::new(subscription)))
    }

    /// Notes where the events end now, before the subscription is there that begins with the next ones.
    async fn begin_at_the_end(&self, id: &SubscriptionId) -> Result<(), Failure> {
        for at in self.ports.events.instances() {
            let backlog = self.ports.events.backlog(at, &id.reader()).await.map_err(Failure::of_read)?;
            self.ports.events.move_reader(at, ReaderMover::Other(&id.reader()), &backlog.ends).await?;
        }
        Ok(())
    }

    /// Does what an operator wants of a subscription. Answers `false` when there is none of this id. Idempotent, but
    /// for a new secret; every call is noted in the audit log.
    ///
    /// # Errors
    /// When a component failed. Repeating it finishes it.
    pub async fn act_on_subscription(
        &self,
        id: &SubscriptionId,
        action: &SubscriptionAction,
        change: &Change,
    ) -> Result<bool, Failure> {
        let subject = Subject::Subscription { subscription: id.clone(), url: None };
        self.ports.audit_log.note(change, &subject).await?;
        let subscriptions = &self.ports.subscriptions;
        match action {
            SubscriptionAction::Pause => {
                let why = format!("by {}: {}", change.actor, change.reason);
                Ok(subscriptions.change(id, &SubscriptionChange::Pause(why)).await?)
            }
            SubscriptionAction::Resume => Ok(subscriptions.change(id, &SubscriptionChange::Resume).await?),
            SubscriptionAction::Rotate(secret) => {
                Ok(subscriptions.change(id, &SubscriptionChange::Rotate(secret.clone())).await?)
            }
            SubscriptionAction::Remove => Ok(subscriptions.remove(id).await?),
            SubscriptionAction::Replay(from) => self.send_again(id, from).await,
        }
    }

    /// Sends everything again from some numbers on.
    async fn send_again(&self, id: &SubscriptionId, from: &EventNumbers) -> Result<bool, Failure> {
        let all = self.ports.subscriptions.all().await.map_err(Failure::of_read)?;
        if !all.iter().any(|subscription| subscription.id == *id) {
            return Ok(false);
        }
        for at in self.ports.events.instances() {
            let backlog = self.ports.events.backlog(at, &id.reader()).await.map_err(Failure::of_read)?;
            let wanted = backlog.ends.iter().map(|(part, end)| {
                let first = from.get(part).copied().unwrap_or(FIRST_NUMBER);
                (*part, first.clamp(FIRST_NUMBER, *end))
            });
            self.ports.events.move_reader(at, ReaderMover::Other(&id.reader()), &wanted.collect()).await?;
        }
        Ok(true)
    }
}
