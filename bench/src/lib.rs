//! Every performance claim of linnet, and the machinery that measures it. Nothing else may state a number without a line in
//! `RESULTS.md`.

#![allow(
    clippy::result_large_err,
    reason = "an error ends the measurement; none lies on a path that is measured"
)]

pub mod beside;
pub mod capture_beside;
pub mod door;
pub mod error;
pub mod filters;
pub mod frames;
pub mod gates;
pub mod machine;
pub mod measure;
pub mod report;
pub mod results;
pub mod rules;
pub mod throughput;
pub mod turn;

pub use error::BenchError;
