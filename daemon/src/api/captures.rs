//! `/captures`: one at a time; its file, and the same file as it grows.

use std::{io, sync::Arc, time::Duration};

use axum::{
    Json,
    body::{Body, Bytes},
    extract::{Path, State, rejection::JsonRejection},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use captures::StopReason;
use futures_util::stream;
use serde_json::{Value, json};
use tokio::io::AsyncReadExt as _;

use super::{ApiError, ApiState};
use crate::capture::{CaptureManager, CaptureRequest, CaptureView};

/// Bytes sent at a time.
const CHUNK: usize = 64 * 1024;
/// How long a live stream waits at the end of the file.
const TAIL_WAIT: Duration = Duration::from_millis(50);
/// RFC draft-ietf-opsawg-pcapng.
const PCAPNG: &str = "application/x-pcapng";

pub(super) async fn list(State(state): State<ApiState>) -> Json<Value> {
    Json(json!({ "captures": state.captures.list(), "loss": &*state.board.loss.latest() }))
}

pub(super) async fn start(
    State(state): State<ApiState>,
    body: Result<Json<CaptureRequest>, JsonRejection>,
) -> Result<impl IntoResponse, ApiError> {
    let Json(request) = body.map_err(|error| {
        ApiError::new(StatusCode::BAD_REQUEST, "invalid_body", error.body_text())
    })?;
    let manager = Arc::clone(&state.captures);
    // Compiling a filter may look names up, and starting the stage enters namespaces.
    let capture =
        tokio::task::spawn_blocking(move || manager.start(request)).await.map_err(|error| {
            ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "capture_failed", error.to_string())
        })??;
    let location = [(header::LOCATION, format!("/api/v1/captures/{}", capture.id))];
    Ok((StatusCode::CREATED, location, Json(json!({ "capture": capture }))))
}

pub(super) async fn one(
    State(state): State<ApiState>,
    Path(id): Path<String>,
) -> Result<Json<Value>, ApiError> {
    Ok(Json(json!({ "capture": state.captures.get(&id)? })))
}

pub(super) async fn stop(
    State(state): State<ApiState>,
    Path(id): Path<String>,
) -> Result<Json<Value>, ApiError> {
    Ok(Json(json!({ "capture": state.captures.stop(&id, StopReason::UserRequest)? })))
}

pub(super) async fn remove(
    State(state): State<ApiState>,
    Path(id): Path<String>,
) -> Result<StatusCode, ApiError> {
    state.captures.remove(&id)?;
    Ok(StatusCode::NO_CONTENT)
}

/// The file as it is now.
pub(super) async fn file(
    State(state): State<ApiState>,
    Path(id): Path<String>,
) -> Result<Response, ApiError> {
    let (file, view) = state.captures.open(&id)?;
    let length = file.metadata().map_err(unreadable)?.len();
    let body = Body::from_stream(follow(tokio::fs::File::from_std(file), length, None));
    let mut headers = pcapng(&view);
    headers.insert(header::CONTENT_LENGTH, length.into());
    Ok((headers, body).into_response())
}

/// The file from its start until the capture ends.
pub(super) async fn live(
    State(state): State<ApiState>,
    Path(id): Path<String>,
) -> Result<Response, ApiError> {
    let (file, view) = state.captures.open(&id)?;
    let headers = pcapng(&view);
    let tail = Some((Arc::clone(&state.captures), id));
    let body = Body::from_stream(follow(tokio::fs::File::from_std(file), u64::MAX, tail));
    Ok((headers, body).into_response())
}

fn pcapng(view: &CaptureView) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static(PCAPNG));
    let name = format!("attachment; filename=\"linnet-{}.pcapng\"", view.id);
    if let Ok(name) = name.parse() {
        headers.insert(header::CONTENT_DISPOSITION, name);
    }
    headers
}

fn unreadable(error: io::Error) -> ApiError {
    ApiError::new(
        StatusCode::INTERNAL_SERVER_ERROR,
        "capture_failed",
        format!("the file cannot be read: {error}"),
    )
}

type Tail = Option<(Arc<CaptureManager>, String)>;

/// Up to `left` bytes of the file; with a tail, also what is still to come.
fn follow(
    file: tokio::fs::File,
    left: u64,
    tail: Tail,
) -> impl futures_util::Stream<Item = io::Result<Bytes>> {
    stream::try_unfold((file, left, tail), |(mut file, left, tail)| async move {
        loop {
            // Asked before reading, so that what was written before the end is read after it.
            let ended = tail.as_ref().is_none_or(|(manager, id)| {
                manager.get(id).map_or(true, |view| view.state != "running")
            });
            let mut chunk = vec![0; CHUNK.min(usize::try_from(left).unwrap_or(CHUNK))];
            let read = file.read(&mut chunk).await?;
            if read > 0 {
                chunk.truncate(read);
                return Ok(Some((Bytes::from(chunk), (file, left - read as u64, tail))));
            }
            if ended {
                return Ok(None);
            }
            tokio::time::sleep(TAIL_WAIT).await;
        }
    })
}
