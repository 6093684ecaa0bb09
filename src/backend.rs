//! Backends: what the ports stand on. Only `app` (and the test harness) opens one.

#[cfg(feature = "distributed")]
pub mod distributed;
#[cfg(feature = "embedded")]
pub mod embedded;
pub mod migrations;
mod multi_row;
mod readable;
mod subscription_change;

#[cfg(not(any(feature = "distributed", feature = "embedded")))]
compile_error!("a backend is needed: build with the feature `distributed`, `embedded` or both");
