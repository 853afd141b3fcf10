//! What a handler may touch.

use std::sync::Arc;

use metrics_exporter_prometheus::PrometheusHandle;

use super::{Access, Commenting};
use crate::{
    board::Board,
    capture::CaptureManager,
    flow::{EventStore, FlowTable},
    rules::Rules,
};

/// The handles of the running daemon; cheap to clone.
#[derive(Clone)]
pub struct ApiState {
    /// Flows.
    pub flows: Arc<FlowTable>,
    /// Flagged segments.
    pub events: Arc<EventStore>,
    /// What the sweeps publish.
    pub board: Arc<Board>,
    /// Captures.
    pub captures: Arc<CaptureManager>,
    /// Who has one with comments.
    pub commenting: Commenting,
    /// What is tracked.
    pub rules: Arc<Rules>,
    /// Who may ask.
    pub access: Arc<Access>,
    /// Metrics as text.
    pub metrics: PrometheusHandle,
}

impl std::fmt::Debug for ApiState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ApiState")
    }
}
