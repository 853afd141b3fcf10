//! `/status`, `/version`, `/interfaces`, health and metrics: what the board shows.

use std::sync::{Arc, atomic::Ordering};

use axum::{
    Json,
    extract::State,
    http::{StatusCode, header},
    response::IntoResponse,
};
use serde_json::{Value, json};

use super::{ApiError, ApiState};
use crate::{
    board::{Board, StatusView},
    metrics,
};

/// Prometheus's text format.
const EXPOSITION: &str = "text/plain; version=0.0.4; charset=utf-8";

pub(super) async fn version() -> Json<Value> {
    Json(json!({
        "name": "linnet",
        "version": env!("CARGO_PKG_VERSION"),
        "api": "v1",
        "datapath_abi": datapath::layout::ABI_VERSION,
        "datapath_layout": format!("{:016x}", datapath::layout::LAYOUT_HASH),
        "datapath_built": crate::live::not_built_reason().is_none(),
    }))
}

pub(super) async fn status(State(state): State<ApiState>) -> Json<Value> {
    let status: Arc<StatusView> = state.board.status.latest();
    Json(json!({ "status": &*status, "loss": state.loss() }))
}

pub(super) async fn interfaces(State(state): State<ApiState>) -> Json<Value> {
    let interfaces = state.board.interfaces.latest();
    Json(json!({ "interfaces": &*interfaces, "loss": state.loss() }))
}

pub(super) async fn services(State(state): State<ApiState>) -> Json<Value> {
    let services = state.board.services.latest();
    Json(json!({ "services": &*services, "loss": state.loss() }))
}

pub(super) async fn metrics(State(state): State<ApiState>) -> impl IntoResponse {
    metrics::publish(&state.board, &state.events);
    (
        [(header::CONTENT_TYPE, EXPOSITION)],
        state.metrics.render()
            + &metrics::of_interfaces(&state.board)
            + &metrics::of_events(&state.board, &state.events),
    )
}

/// Well while every part works.
pub(super) async fn health(State(state): State<ApiState>) -> Result<&'static str, ApiError> {
    healthy(&state.board)
}

/// Ready once the first sweep has been published.
pub(super) async fn ready(State(state): State<ApiState>) -> Result<&'static str, ApiError> {
    let ok = healthy(&state.board)?;
    if state.board.status.latest().sweep.count == 0 {
        let detail = "the first sweep has not ended yet; try again in a second";
        let status = StatusCode::SERVICE_UNAVAILABLE;
        return Err(ApiError::new(status, "starting", detail).retry_after(1));
    }
    Ok(ok)
}

fn healthy(board: &Board) -> Result<&'static str, ApiError> {
    if board.attacher_gone.load(Ordering::Relaxed) {
        let detail = "the attacher has died: what is watched is counted on, but interfaces are not followed, and captures and rules wait; start `linnet run` again, which goes on with this daemon";
        return Err(ApiError::attacher_gone(detail));
    }
    let Some(part) = board.dead.get() else { return Ok("ok\n") };
    let detail = format!("{part} has failed and stands still; see the log, and restart linnet");
    Err(ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "part_failed", detail))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dead_part_makes_the_daemon_unwell() {
        let board = Board::default();
        assert!(healthy(&board).is_ok());
        board.dead.set("the replay").unwrap();
        let problem = healthy(&board).unwrap_err().render("/healthz", "1");
        assert_eq!(problem.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert!(include_str!("../../../docs/api.md").contains("| `part_failed` | 503 |"));
    }
}
