//! Backends: what the ports stand on. Only `app` (and the test harness) opens one.

pub mod distributed;
