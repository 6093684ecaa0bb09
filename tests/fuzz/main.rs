//! Fuzzing. Whatever bytes come in, each parser answers, keeps its documented bounds, and agrees with an independent
//! reading of the same bytes. docs/fuzzing.md says how to run this for long.

mod config;
mod engine;
mod event;
mod grammar;
mod json;
mod mutation;
mod record;
mod request;
mod token;
