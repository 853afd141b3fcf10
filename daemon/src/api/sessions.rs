//! `/sessions`: a token or a one-time login becomes a cookie.

use axum::{
    Json,
    extract::{State, rejection::JsonRejection},
    http::{HeaderMap, StatusCode, header},
    response::{AppendHeaders, IntoResponse},
};
use metrics::counter;
use serde::Deserialize;
use serde_json::json;

use super::{
    ApiError, ApiState,
    access::COOKIE,
    secrets::{Credential, Refused, SESSION_S},
};
use crate::metrics::AUTH_FAILURES;

/// `{"token": ".."}` or `{"login": ".."}`.
#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Presented {
    Token(String),
    Login(String),
}

pub(super) async fn create(
    State(state): State<ApiState>,
    body: Result<Json<Presented>, JsonRejection>,
) -> Result<impl IntoResponse, ApiError> {
    let Json(presented) = body.map_err(|error| {
        let detail =
            format!("{}; send {{\"token\": \"..\"}} or {{\"login\": \"..\"}}", error.body_text());
        ApiError::new(StatusCode::BAD_REQUEST, "invalid_body", detail)
    })?;
    let credential = match &presented {
        Presented::Token(token) => Credential::Token(token),
        Presented::Login(login) => Credential::Login(login),
    };
    let session = state.access.exchange(credential).map_err(refuse)?;
    let cookie = cookie(&session, SESSION_S);
    Ok((StatusCode::CREATED, AppendHeaders([(header::SET_COOKIE, cookie)]), Json(json!({}))))
}

pub(super) async fn end(State(state): State<ApiState>, headers: HeaderMap) -> impl IntoResponse {
    state.access.end(&headers);
    (StatusCode::NO_CONTENT, AppendHeaders([(header::SET_COOKIE, cookie("", 0))]))
}

fn cookie(session: &str, max_age_s: u64) -> String {
    format!("{COOKIE}={session}; Path=/; HttpOnly; SameSite=Strict; Max-Age={max_age_s}")
}

fn refuse(refused: Refused) -> ApiError {
    counter!(AUTH_FAILURES, "reason" => "login").increment(1);
    match refused {
        Refused::Wrong => ApiError::new(
            StatusCode::UNAUTHORIZED,
            "unauthorized",
            "this token or login is not valid; a login can be used once, the token is in the file `token` of the run folder",
        ),
        Refused::TooMany { retry_after_s } => {
            let detail = format!("too many wrong logins; try again in {retry_after_s} s");
            ApiError::new(StatusCode::TOO_MANY_REQUESTS, "too_many_logins", detail)
                .retry_after(retry_after_s)
        }
    }
}
