//! `/diagnoses`: what is wrong with the flows that are kept, as far as their counters tell.

use axum::{
    Json,
    extract::{Path, State},
};
use serde_json::{Value, json};

use super::{ApiError, ApiState, flows};
use crate::diagnosis::{DIAGNOSES_MAX, Survey, diagnose, view};

pub(super) async fn list(State(state): State<ApiState>) -> Json<Value> {
    let mut survey = Survey::with_diagnoses_max(DIAGNOSES_MAX);
    state.flows.for_each(|record| survey.add(record, None));
    let (mut diagnoses, total) = survey.finish();
    // The most confident first, and of these the latest.
    diagnoses.sort_by_key(|diagnosis| std::cmp::Reverse((diagnosis.confidence, diagnosis.to_ns)));
    let naming = state.board.naming.latest();
    let views: Vec<_> =
        diagnoses.iter().take(DIAGNOSES_MAX).map(|found| view(found, &naming)).collect();
    Json(json!({ "diagnoses": views, "total": total, "loss": state.loss() }))
}

pub(super) async fn of_flow(
    State(state): State<ApiState>,
    Path(id): Path<String>,
) -> Result<Json<Value>, ApiError> {
    let flow = flows::named(&state, &id)?;
    let naming = state.board.naming.latest();
    let views: Vec<_> = diagnose(&flow, None).iter().map(|found| view(found, &naming)).collect();
    Ok(Json(json!({ "diagnoses": views, "loss": state.loss() })))
}
