//! What a shop does, whatever it stands on.

mod admin;
mod broken_clients;
mod crowds;
pub mod http_errors;
mod purchases;
