//! seckill: a flash-sale backend. One purchase passes `http` → `purchase` → `backend` → `worker`.

pub mod app;
pub mod backend;
pub mod chance;
pub mod cli;
pub mod clock;
pub mod config;
pub mod domain;
pub mod http;
pub mod metrics;
pub mod ports;
pub mod purchase;
pub mod shutdown;
pub mod telemetry;
pub mod transfer;
pub mod worker;
