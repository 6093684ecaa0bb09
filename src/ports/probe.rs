//! Asks whether a component does what it is needed for.

use async_trait::async_trait;

/// What a process does for others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Duty {
    /// Shoppers buy.
    Buy,
    /// Shoppers read their orders, and operators read and change sales.
    Read,
    /// Accepted orders get their rows.
    Write,
}

impl Duty {
    /// All duties.
    pub const ALL: [Self; 3] = [Self::Buy, Self::Read, Self::Write];

    /// Answers the duty's word in `/readyz`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Buy => "buy",
            Self::Read => "read",
            Self::Write => "write",
        }
    }

    /// Reads a duty's word; `None` for a word that is none.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|duty| duty.as_str() == text)
    }
}

/// What is wrong with a component.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// What the component does, in words that follow its name, as in "redis refuses scripts".
    pub words: String,
    /// Whether the component still does its part, and a person should look at it all the same.
    pub still_works: bool,
}

impl Fault {
    /// Makes the fault of a component that does not do its part.
    pub fn down(words: impl Into<String>) -> Self {
        Self { words: words.into(), still_works: false }
    }
}

/// Asks whether a component does what it is needed for, for `/readyz`.
#[async_trait]
pub trait Probe: Send + Sync {
    /// Answers the component's name in `/readyz?verbose`.
    fn name(&self) -> String;

    /// Answers the duties that need the component.
    fn duties(&self) -> &'static [Duty];

    /// Answers whether the duties go on in part while the component is down, because there are others like it.
    fn is_one_of_several(&self) -> bool {
        false
    }

    /// Answers whether the component belongs to this process alone. Without it, other processes should get its traffic.
    fn is_own(&self) -> bool {
        false
    }

    /// Has the component do what it is needed for, once, without changing anything.
    ///
    /// # Errors
    /// What is wrong with it.
    async fn check(&self) -> Result<(), Fault>;
}
