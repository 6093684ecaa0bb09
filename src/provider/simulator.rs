//! A payment provider that plays: it speaks the part of Stripe's API that [`super::stripe`] uses, has a page on which a
//! buyer pays or not, keeps books, and sends signed events. No real money moves. `src/http/simulator` serves it.
//!
//! It is as strict as what it plays: a key that comes with another request is refused, a page lives from half an hour
//! to a day, and what is paid back cannot be paid back twice.

mod books;
mod events;

pub use books::{Action, Answer, Books, Page};
pub use events::{Events, Faults, sign};
