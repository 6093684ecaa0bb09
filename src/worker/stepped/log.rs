//! An order log in memory with two members. It loses appends, hands partitions over at any time, breaks its readers,
//! and leaves records out once, as the real client does after a look-up that comes late.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;

use crate::chance::Chance;
use crate::domain::batch_plan::LogRecord;
use crate::domain::{LogId, OrderId, OrderRecord, Part, ShardMap};
use crate::ports::{LogEvent, LogIdentity, Offsets, OrderLog, OrderLogReader, StoreError, StoreResult, Wake};

/// Stands for Kafka.
pub struct Log {
    map: ShardMap,
    chance: Chance,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    parts: Vec<Vec<Vec<u8>>>,
    /// The member that has each partition.
    owners: BTreeMap<Part, u64>,
    /// Members in the order in which they joined; the older of the two is replaced when a third joins.
    members: Vec<u64>,
    joined: u64,
    mail: BTreeMap<u64, VecDeque<LogEvent>>,
    /// The offsets at which records were left out.
    left_out: BTreeSet<(Part, i64)>,
    is_calm: bool,
}

impl Log {
    /// Makes an empty log.
    pub fn new(map: ShardMap, chance: Chance) -> Self {
        let parts = map.all_parts().map(|_| Vec::new()).collect();
        Self { map, chance, state: Arc::new(Mutex::new(State { parts, ..State::default() })) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("never poisoned")
    }

    /// Hands a partition to the `nth` of the present members.
    pub fn give(&self, part: Part, nth: u64) {
        let mut state = self.lock();
        let members = state.members.len();
        if let Some(member) =
            state.members.get(usize::try_from(nth).expect("small") % members.max(1)).copied()
        {
            state.give(part, member);
        }
    }

    /// Ends all faults.
    pub fn calm(&self) {
        self.lock().is_calm = true;
    }

    /// Counts the records of every partition.
    pub fn lengths(&self) -> Vec<i64> {
        self.lock().parts.iter().map(|part| i64::try_from(part.len()).expect("short")).collect()
    }
}

impl State {
    fn give(&mut self, part: Part, member: u64) {
        if self.owners.insert(part, member) == Some(member) {
            return;
        }
        for (other, mail) in &mut self.mail {
            let event =
                if *other == member { LogEvent::Assigned { part } } else { LogEvent::Revoked { part } };
            mail.push_back(event);
        }
    }

    fn leave(&mut self, member: u64) {
        self.members.retain(|other| *other != member);
        self.mail.remove(&member);
        let orphans: Vec<Part> =
            self.owners.iter().filter(|(_, owner)| **owner == member).map(|(part, _)| *part).collect();
        for part in orphans {
            self.owners.remove(&part);
            if let Some(heir) = self.members.first().copied() {
                self.give(part, heir);
            }
        }
    }
}

#[async_trait]
impl OrderLog for Log {
    async fn append(&self, order: OrderId, payload: Vec<u8>) -> StoreResult<()> {
        let dice = self.chance.number() % 8;
        let mut state = self.lock();
        let part = usize::from(self.map.part_of(order.shard()).number());
        if dice == 0 && !state.is_calm {
            return Err(StoreError::broken("append", "lost"));
        }
        state.parts[part].push(payload);
        if dice == 1 && !state.is_calm {
            return Err(StoreError::broken("append", "appended, and the answer lost"));
        }
        Ok(())
    }

    async fn append_imported(&self, _: &[OrderRecord]) -> StoreResult<()> {
        Ok(())
    }

    async fn identity(&self) -> StoreResult<LogIdentity> {
        let id = LogId::new([1; 16]).expect("not zeros");
        Ok(LogIdentity { id, parts: self.map.parts().into() })
    }

    async fn offsets_in_reach(&self, parts: &[Part]) -> StoreResult<Offsets> {
        let lengths = self.lengths();
        Ok(parts.iter().map(|part| (*part, 0..lengths[usize::from(part.number())])).collect())
    }

    async fn flush(&self, _: Duration) -> StoreResult<()> {
        Ok(())
    }

    fn reader(&self, _: Wake) -> StoreResult<Box<dyn OrderLogReader>> {
        let mut state = self.lock();
        state.joined += 1;
        let member = state.joined;
        state.members.push(member);
        state.mail.insert(member, VecDeque::new());
        for part in self.map.all_parts() {
            if !state.owners.contains_key(&part) {
                state.give(part, member);
            }
        }
        let (log, chance) = (self.state.clone(), self.chance.clone());
        Ok(Box::new(Reader {
            member,
            log,
            chance,
            next: BTreeMap::new(),
            paused: Vec::new(),
            sought: Vec::new(),
        }))
    }
}

struct Reader {
    member: u64,
    log: Arc<Mutex<State>>,
    chance: Chance,
    next: BTreeMap<Part, i64>,
    paused: Vec<Part>,
    sought: Vec<Part>,
}

#[async_trait]
impl OrderLogReader for Reader {
    async fn take(&mut self, limit: usize) -> StoreResult<Vec<LogEvent>> {
        let (dice, few) = (self.chance.number() % 30, self.chance.number() % 6);
        let mut state = self.log.lock().expect("never poisoned");
        if dice == 0 && !state.is_calm {
            return Err(StoreError::broken("take", "the client is beyond repair"));
        }
        let mut events: Vec<LogEvent> = state.mail.entry(self.member).or_default().drain(..).collect();
        events.extend(self.sought.drain(..).map(|part| LogEvent::Sought { part }));
        for event in &events {
            if let LogEvent::Assigned { part } | LogEvent::Revoked { part } = event {
                self.next.remove(part);
            }
        }
        for (part, next) in &mut self.next {
            if state.owners.get(part) != Some(&self.member) || self.paused.contains(part) {
                continue;
            }
            let State { parts, left_out, is_calm, .. } = &mut *state;
            let records = &parts[usize::from(part.number())];
            let ahead = *next + 2;
            // A late look-up does this: the reader goes on further ahead, and a later record shows the gap. That never
            // happens twice in one place.
            let is_seen = ahead < i64::try_from(records.len()).expect("short");
            if dice == 1 && !*is_calm && is_seen && left_out.insert((*part, *next)) {
                *next = ahead;
            }
            let from = usize::try_from(*next).expect("an offset").min(records.len());
            for payload in records[from..].iter().take(limit.min(usize::try_from(few).expect("small"))) {
                let order = OrderRecord::decode(payload);
                let record = LogRecord { offset: *next, payload: payload.clone(), order };
                events.push(LogEvent::Record { part: *part, record });
                *next += 1;
            }
        }
        Ok(events)
    }

    fn seek(&mut self, part: Part, offset: i64) {
        self.paused.retain(|paused| *paused != part);
        self.next.insert(part, offset);
        self.sought.push(part);
    }

    fn pause(&mut self, part: Part) {
        self.paused.push(part);
    }

    fn resume(&mut self, part: Part) {
        self.paused.retain(|paused| *paused != part);
    }

    fn publish_position(&mut self, _: Part, _: i64) {}

    async fn leave(self: Box<Self>) {}
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.log.lock().expect("never poisoned").leave(self.member);
    }
}
