//! The handlers of the operators' listener.

pub mod access;
pub mod audit;
pub mod breakers;
pub mod changes;
pub mod configuration;
pub mod dead_letters;
pub mod events;
pub mod health;
pub mod hosts;
pub mod keys;
pub mod nodes;
pub mod order_export;
pub mod order_search;
pub mod orders;
pub mod payments;
pub mod preflight;
pub mod process;
pub mod profiles;
pub mod reconcile;
pub mod rules;
pub mod sale_bodies;
pub mod sale_report;
pub mod sales;
pub mod sessions;
pub mod stock;
pub mod switches;
pub mod views;
pub mod webhooks;

use access::{change, operator};

pub use crate::domain::Scope;
