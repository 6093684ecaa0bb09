//! Whatever bytes come in: each parser answers, keeps its documented bounds, and agrees with a reading of the
//! same bytes that knows nothing of the product's. docs/fuzzing.md says how to run it for long.

mod config;
mod engine;
mod grammar;
mod json;
mod mutation;
mod record;
mod request;
mod token;
