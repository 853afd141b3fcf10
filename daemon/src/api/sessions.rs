//! `/sessions`: a token or a one-time login becomes a cookie.

use axum::{
    Json,
    extract::{State, rejection::JsonRejection},
    http::{HeaderMap, StatusCode, header},
    response::{AppendHeaders, IntoResponse},
};
use serde::Deserialize;

use super::{ApiError, ApiState, access::COOKIE};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Login {
    token: Option<String>,
    login: Option<String>,
}

pub(super) async fn create(
    State(state): State<ApiState>,
    body: Result<Json<Login>, JsonRejection>,
) -> Result<impl IntoResponse, ApiError> {
    let Json(login) = body.map_err(|error| {
        let detail =
            format!("{}; send {{\"token\": \"..\"}} or {{\"login\": \"..\"}}", error.body_text());
        ApiError::new(StatusCode::BAD_REQUEST, "invalid_body", detail)
    })?;
    let session = state.access.exchange(login.token.as_deref(), login.login.as_deref())?;
    let cookie = format!("{COOKIE}={session}; Path=/; HttpOnly; SameSite=Strict; Max-Age=43200");
    Ok((StatusCode::CREATED, AppendHeaders([(header::SET_COOKIE, cookie)]), "{}"))
}

pub(super) async fn end(State(state): State<ApiState>, headers: HeaderMap) -> impl IntoResponse {
    state.access.end(&headers);
    let cookie = format!("{COOKIE}=; Path=/; HttpOnly; SameSite=Strict; Max-Age=0");
    (StatusCode::NO_CONTENT, AppendHeaders([(header::SET_COOKIE, cookie)]))
}
