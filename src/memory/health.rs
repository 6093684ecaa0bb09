//! How the components fared when they were probed last.
//!
//! One probe that fails says little: a component is down only when it was not found well for a while. That keeps a
//! hiccup from taking processes out of service, and all of them at once.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use crate::clock::Moment;
use crate::ports::{Duty, Fault, Probe};

/// What is known of one component.
#[derive(Debug, Clone)]
pub struct Component {
    /// The duties that need it.
    pub duties: &'static [Duty],
    /// Whether the duties go on in part without it.
    pub is_one_of_several: bool,
    /// Whether it belongs to this process alone.
    pub is_own: bool,
    /// When it was found well last; `None` when it never was.
    pub well_at: Option<Moment>,
    /// What was wrong with it in the last probe; `None` when nothing was.
    pub fault: Option<Fault>,
}

/// The components of a process, by name.
#[derive(Default)]
pub struct Health {
    components: Mutex<BTreeMap<String, Component>>,
}

/// Whether a duty can be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ability {
    /// It can.
    Yes,
    /// It can in part; the words say what is missing.
    InPart(String),
    /// It cannot; the words say why.
    No(String),
}

impl Health {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Component>> {
        self.components.lock().expect("no code panics while holding it")
    }

    /// Notes the result of a probe, at the moment `now`.
    pub fn note(&self, probe: &dyn Probe, result: Result<(), Fault>, now: Moment) {
        let mut components = self.lock();
        let component = components.entry(probe.name()).or_insert_with(|| Component {
            duties: probe.duties(),
            is_one_of_several: probe.is_one_of_several(),
            is_own: probe.is_own(),
            well_at: None,
            fault: None,
        });
        let fault = result.err();
        if fault.as_ref().is_none_or(|fault| fault.still_works) {
            component.well_at = Some(now);
        }
        component.fault = fault;
    }

    /// Answers what is known of every component.
    pub fn components(&self) -> BTreeMap<String, Component> {
        self.lock().clone()
    }
}

impl Component {
    /// Answers what is wrong with a component that has not been found well for `down_after`; `None` while it is up.
    pub fn down(&self, now: Moment, down_after: Duration) -> Option<&str> {
        let is_up = self.well_at.is_some_and(|at| now.since(at) < down_after);
        let words = self.fault.as_ref().map_or("was not probed lately", |fault| fault.words.as_str());
        (!is_up).then_some(words)
    }
}

/// Answers whether a duty can be done with these components.
pub fn ability(
    duty: Duty,
    components: &BTreeMap<String, Component>,
    now: Moment,
    down_after: Duration,
) -> Ability {
    let needed = || components.iter().filter(|(_, component)| component.duties.contains(&duty));
    let several = || needed().map(|(_, component)| component).filter(|component| component.is_one_of_several);
    let are_all_down = several().all(|component| component.down(now, down_after).is_some());
    let mut said = Vec::new();
    let mut is_over = false;
    for (name, component) in needed() {
        match (component.down(now, down_after), &component.fault) {
            (Some(words), _) => {
                said.push(format!("{name} {words}"));
                is_over |= !component.is_one_of_several || are_all_down;
            }
            (None, Some(fault)) if fault.still_works => said.push(format!("{name} {}", fault.words)),
            (None, _) => {}
        }
    }
    match (said.is_empty(), is_over) {
        (true, _) => Ability::Yes,
        (false, true) => Ability::No(said.join("; ")),
        (false, false) => Ability::InPart(said.join("; ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;

    const DOWN_AFTER: Duration = Duration::from_millis(1500);

    fn component(duties: &'static [Duty], is_one_of_several: bool, well_at: Option<Moment>) -> Component {
        let fault = Some(Fault::down("does not answer"));
        Component { duties, is_one_of_several, is_own: false, well_at, fault }
    }

    #[test]
    fn one_hiccup_is_nothing_and_a_second_and_a_half_is() {
        let clock = Clock::manual(0);
        let redis = component(&[Duty::Buy], false, Some(clock.monotonic()));
        let components = BTreeMap::from([("redis".to_owned(), redis)]);
        clock.advance_ms(1499);
        assert_eq!(ability(Duty::Buy, &components, clock.monotonic(), DOWN_AFTER), Ability::Yes);
        clock.advance_ms(1);
        let no = Ability::No("redis does not answer".to_owned());
        assert_eq!(ability(Duty::Buy, &components, clock.monotonic(), DOWN_AFTER), no);
        assert_eq!(ability(Duty::Read, &components, clock.monotonic(), DOWN_AFTER), Ability::Yes);
    }

    #[test]
    fn without_one_of_several_a_duty_goes_on_in_part_and_without_all_it_does_not() {
        let clock = Clock::manual(0);
        clock.advance_ms(10_000);
        let now = clock.monotonic();
        let (up, down) = (component(&[Duty::Read], true, Some(now)), component(&[Duty::Read], true, None));
        let both = |one: &Component, other: &Component| {
            BTreeMap::from([("mysql-0".to_owned(), one.clone()), ("mysql-1".to_owned(), other.clone())])
        };
        let in_part = Ability::InPart("mysql-1 does not answer".to_owned());
        assert_eq!(ability(Duty::Read, &both(&up, &down), now, DOWN_AFTER), in_part);
        let no = Ability::No("mysql-0 does not answer; mysql-1 does not answer".to_owned());
        assert_eq!(ability(Duty::Read, &both(&down, &down), now, DOWN_AFTER), no);
    }
}
