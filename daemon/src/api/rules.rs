//! `/rules`: the list in force, shown and replaced as a whole.

use std::sync::Arc;

use axum::{Json, body::Bytes, extract::State, http::StatusCode};
use serde_json::{Value, json};

use super::{ApiError, ApiState};
use crate::rules::{InForce, RuleError, RulesError, read_json};

pub(super) async fn list(State(state): State<ApiState>) -> Json<Value> {
    let mut answer = shown(&state.rules.in_force());
    answer["loss"] = json!(state.loss());
    Json(answer)
}

pub(super) async fn set(
    State(state): State<ApiState>,
    body: Bytes,
) -> Result<Json<Value>, ApiError> {
    let rules = read_json(&body).map_err(RulesError::from)?;
    let in_force = Arc::clone(&state.rules);
    // It waits for the kernel, where it holds up nobody else.
    let done = tokio::task::spawn_blocking(move || in_force.set(rules)).await;
    let in_force =
        done.map_err(|_panic| ApiError::of_status(StatusCode::INTERNAL_SERVER_ERROR))??;
    Ok(Json(shown(&in_force)))
}

fn shown(in_force: &InForce) -> Value {
    json!({ "generation": in_force.generation, "rules": in_force.rules })
}

impl From<RulesError> for ApiError {
    fn from(error: RulesError) -> Self {
        let detail = error.to_string();
        match error {
            RulesError::Rule(RuleError::NoList(_)) => {
                Self::new(StatusCode::BAD_REQUEST, "invalid_body", detail)
            }
            RulesError::Rule(error @ (RuleError::Field { .. } | RuleError::Twice(_))) => {
                Self::field(error.place(), detail)
            }
            RulesError::Unavailable(_) => {
                Self::new(StatusCode::SERVICE_UNAVAILABLE, "rules_unavailable", detail)
            }
            RulesError::Failed(error) if error.is_of_the_attacher() => Self::attacher_gone(detail),
            RulesError::Failed(_) => {
                tracing::error!(%detail, "rules were not put in force");
                Self::new(StatusCode::INTERNAL_SERVER_ERROR, "rules_failed", detail)
            }
        }
    }
}
