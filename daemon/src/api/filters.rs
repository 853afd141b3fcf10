//! `/filters`: what a capture filter comes to, without a capture. Never starts one.

use axum::{Json, extract::rejection::JsonRejection, http::StatusCode};
use serde_json::{Value, json};

use super::ApiError;
use crate::capture::{FilterRequest, explain};

pub(super) async fn validate(
    body: Result<Json<FilterRequest>, JsonRejection>,
) -> Result<Json<Value>, ApiError> {
    let Json(request) = body.map_err(|error| {
        ApiError::new(StatusCode::BAD_REQUEST, "invalid_body", error.body_text())
    })?;
    // A name in it asks the resolver, where it holds up nobody else.
    let done = tokio::task::spawn_blocking(move || explain(&request)).await;
    let view = done.map_err(|_panic| ApiError::of_status(StatusCode::INTERNAL_SERVER_ERROR))??;
    let mut answer = json!(view);
    answer["valid"] = json!(true);
    Ok(Json(answer))
}
