//! `/` and its files, from the `webui` crate.

use axum::{
    extract::Path,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};

use super::ApiError;

pub(super) async fn index() -> Result<Response, ApiError> {
    respond("index.html")
}

pub(super) async fn asset(Path(name): Path<String>) -> Result<Response, ApiError> {
    respond(&name)
}

fn respond(name: &str) -> Result<Response, ApiError> {
    let asset = webui::asset(name)
        .ok_or_else(|| ApiError::not_found(format!("there is no file `{name}`")))?;
    let headers = [(header::CONTENT_TYPE, asset.content_type), (header::CACHE_CONTROL, "no-cache")];
    Ok((StatusCode::OK, headers, asset.bytes).into_response())
}
