//! Payment providers. There is one client, which speaks Stripe's API, and a simulator that understands what the client
//! says (docs/adr/0021-payments.md).

pub mod simulator;
pub mod stripe;
