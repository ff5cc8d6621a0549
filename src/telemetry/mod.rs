//! What the gateway says about itself: metrics and the log.

pub mod metrics;
