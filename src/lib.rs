//! seckill: a flash-sale backend. One purchase passes `http` → `shop` → `backend` → `worker`.

pub mod app;
pub mod backend;
pub mod chance;
pub mod cli;
pub mod clock;
pub mod config;
pub mod domain;
pub mod http;
pub mod memory;
pub mod metrics;
pub mod outbound;
pub mod ports;
pub mod provider;
pub mod shop;
pub mod shutdown;
pub mod telemetry;
pub mod trace;
pub mod transfer;
pub mod worker;
