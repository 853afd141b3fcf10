//! The appliance's process as a library: what `linnet` and the tests are made of.

pub mod analysis;
pub mod analyze;
pub mod api;
pub mod app;
pub mod attachment;
pub mod board;
pub mod capture;
pub mod cli;
pub mod client;
pub mod clock;
pub mod config;
pub mod diagnosis;
pub mod flow;
pub mod frames;
pub mod kernel;
pub mod live;
pub mod live_rules;
pub mod metrics;
pub mod offline;
pub mod past;
pub mod replay;
pub mod rules;
pub mod sandbox;
pub mod status;
pub mod supervisor;
pub mod sweep;
