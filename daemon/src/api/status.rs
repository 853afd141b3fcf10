//! `/status`, `/version`, `/interfaces`, health and metrics: what the board shows.

use std::sync::Arc;

use axum::{
    Json,
    extract::State,
    http::{StatusCode, header},
    response::IntoResponse,
};
use serde_json::{Value, json};

use super::{ApiError, ApiState};
use crate::{board::StatusView, metrics};

/// Prometheus's text format.
const EXPOSITION: &str = "text/plain; version=0.0.4; charset=utf-8";

pub(super) async fn version() -> Json<Value> {
    Json(json!({
        "name": "linnet",
        "version": env!("CARGO_PKG_VERSION"),
        "api": "v1",
        "datapath_abi": datapath::layout::ABI_VERSION,
        "datapath_built": crate::live::not_built_reason().is_none(),
    }))
}

pub(super) async fn status(State(state): State<ApiState>) -> Json<Value> {
    let status: Arc<StatusView> = state.board.status.latest();
    Json(json!({ "status": &*status, "loss": &*state.board.loss.latest() }))
}

pub(super) async fn interfaces(State(state): State<ApiState>) -> Json<Value> {
    let interfaces = state.board.interfaces.latest();
    Json(json!({ "interfaces": &*interfaces, "loss": &*state.board.loss.latest() }))
}

pub(super) async fn metrics(State(state): State<ApiState>) -> impl IntoResponse {
    metrics::publish(&state.board);
    ([(header::CONTENT_TYPE, EXPOSITION)], state.metrics.render())
}

pub(super) async fn health() -> &'static str {
    "ok\n"
}

/// Ready once the first sweep has been published.
pub(super) async fn ready(State(state): State<ApiState>) -> Result<&'static str, ApiError> {
    if state.board.status.latest().sweep.count == 0 {
        let detail = "the first sweep has not ended yet; try again in a second";
        let status = StatusCode::SERVICE_UNAVAILABLE;
        return Err(ApiError::new(status, "starting", detail).retry_after(1));
    }
    Ok("ok\n")
}
