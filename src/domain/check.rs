//! Checks: what was looked at before it matters, how much it matters, and what helps.

use std::borrow::Cow;

use serde::Serialize;

/// How much a check matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// All is well.
    Ok,
    /// It works as it is, and somebody should look.
    Warning,
    /// It does not work as it is, or loses something.
    Error,
}

impl Level {
    /// Answers the word of the level in JSON and in tables.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

/// What came of one check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    /// The word of what was looked at. That of `seckill doctor` begins with the component: `redis.eviction`.
    pub name: Cow<'static, str>,
    /// How much it matters.
    pub level: Level,
    /// What was found, in a sentence.
    pub detail: String,
    /// What helps; `None` where nothing has to.
    pub fix: Option<Cow<'static, str>>,
}

impl Check {
    /// All is well.
    pub fn ok(name: impl Into<Cow<'static, str>>, detail: impl Into<String>) -> Self {
        Self { name: name.into(), level: Level::Ok, detail: detail.into(), fix: None }
    }

    /// It works as it is, and somebody should look.
    pub fn warning(
        name: impl Into<Cow<'static, str>>,
        detail: impl Into<String>,
        fix: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self { name: name.into(), level: Level::Warning, detail: detail.into(), fix: Some(fix.into()) }
    }

    /// It does not work as it is, or loses something.
    pub fn error(
        name: impl Into<Cow<'static, str>>,
        detail: impl Into<String>,
        fix: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self { name: name.into(), level: Level::Error, detail: detail.into(), fix: Some(fix.into()) }
    }
}

/// The checks of one component, whose name stands before theirs.
#[derive(Debug)]
pub struct Checks {
    of: String,
    found: Vec<Check>,
}

impl Checks {
    /// Begins the checks of a component: `redis`, `mysql-0`.
    pub fn of(component: impl Into<String>) -> Self {
        Self { of: component.into(), found: Vec::new() }
    }

    /// Adds a check. It is well when `ill` is `None`; else that says the level and what helps.
    pub fn add(&mut self, name: &str, detail: impl Into<String>, ill: Option<(Level, Cow<'static, str>)>) {
        let (level, fix) = ill.map_or((Level::Ok, None), |(level, fix)| (level, Some(fix)));
        let name = Cow::Owned(format!("{}.{name}", self.of));
        self.found.push(Check { name, level, detail: detail.into(), fix });
    }

    /// Adds a check that is an error unless `is_well`.
    pub fn need(
        &mut self,
        name: &str,
        is_well: bool,
        detail: impl Into<String>,
        fix: impl Into<Cow<'static, str>>,
    ) {
        self.add(name, detail, (!is_well).then(|| (Level::Error, fix.into())));
    }

    /// Adds a check that is a warning unless `is_well`.
    pub fn want(
        &mut self,
        name: &str,
        is_well: bool,
        detail: impl Into<String>,
        fix: impl Into<Cow<'static, str>>,
    ) {
        self.add(name, detail, (!is_well).then(|| (Level::Warning, fix.into())));
    }

    /// Ends the checks of the component.
    pub fn found(self) -> Vec<Check> {
        self.found
    }
}
