//! `/captures`: their files, and the same files as they grow. Never sends half a block of one that grows.

mod converted;
mod part;

use std::{
    fs,
    io::{self, SeekFrom},
    sync::Arc,
};

use axum::{
    Json,
    body::{Body, Bytes},
    extract::{Path, State, rejection::JsonRejection},
    http::{HeaderMap, StatusCode, Uri, header},
    response::{IntoResponse, Response},
};
use captures::{
    StopReason,
    format::{Export, Format, pcap::Resolution},
};
use futures_util::stream;
use serde_json::{Value, json};
use tokio::{
    fs::File,
    io::{AsyncReadExt as _, AsyncSeekExt as _},
};
use tokio_util::io::ReaderStream;

pub use self::converted::Commenting;
use self::part::Wanted;
use super::{
    ApiError, ApiState,
    parameters::{self, Parameters},
};
use crate::{
    capture::{CaptureError, CaptureManager, CaptureRequest, CaptureState, CaptureView, Reading},
    verdict_comments::{NOT_IN_PCAP, Verdicts},
};

/// Bytes sent at a time.
const CHUNK: usize = 64 * 1024;

pub(super) async fn list(State(state): State<ApiState>) -> Json<Value> {
    Json(json!({ "captures": state.captures.list(), "loss": state.loss() }))
}

pub(super) async fn start(
    State(state): State<ApiState>,
    body: Result<Json<CaptureRequest>, JsonRejection>,
) -> Result<impl IntoResponse, ApiError> {
    let Json(request) = body.map_err(|error| {
        ApiError::new(StatusCode::BAD_REQUEST, "invalid_body", error.body_text())
    })?;
    let capture = waiting(&state, move |captures| captures.start(request)).await?;
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
    let stop = move |captures: &CaptureManager| captures.stop(&id, StopReason::UserRequest);
    Ok(Json(json!({ "capture": waiting(&state, stop).await? })))
}

pub(super) async fn remove(
    State(state): State<ApiState>,
    Path(id): Path<String>,
) -> Result<StatusCode, ApiError> {
    waiting(&state, move |captures| captures.remove(&id)).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// The file as it is at this moment, or a part of it; all of it where something else is made of it.
pub(super) async fn file(
    State(state): State<ApiState>,
    Path(id): Path<String>,
    uri: Uri,
    request: HeaderMap,
) -> Result<Response, ApiError> {
    let shape = Shape::wanted(&uri)?;
    let (file, view) = waiting(&state, move |captures| captures.open(&id)).await?;
    let bytes = view.bytes;
    let whole = |file| ReaderStream::with_capacity(File::from_std(file).take(bytes), CHUNK);
    match shape {
        Shape::Stored => stored(file, &view, &request).await,
        Shape::Pcap(resolution) => {
            let file = converted::of_one_link_type(file, &view).await?;
            Ok(converted::as_pcap(&view, resolution, whole(file)))
        }
        Shape::Commented => {
            Ok(converted::with_comments(&view, state.commenting.begin()?, whole(file)))
        }
    }
}

/// As much of the file as the request wants.
async fn stored(
    file: fs::File,
    view: &CaptureView,
    request: &HeaderMap,
) -> Result<Response, ApiError> {
    let etag = part::etag(view);
    let mut headers = describe(view, Format::Pcapng);
    set(&mut headers, header::ACCEPT_RANGES, "bytes");
    set(&mut headers, header::ETAG, &etag);
    let (status, first, length) = match part::wanted(request, &etag, view.bytes) {
        Wanted::Unchanged => return Ok((StatusCode::NOT_MODIFIED, headers).into_response()),
        Wanted::Outside => return Ok(outside(view)),
        Wanted::Whole => (StatusCode::OK, 0, view.bytes),
        Wanted::Part { first, last } => {
            let range = format!("bytes {first}-{last}/{}", view.bytes);
            set(&mut headers, header::CONTENT_RANGE, &range);
            (StatusCode::PARTIAL_CONTENT, first, last - first + 1)
        }
    };
    let mut file = File::from_std(file);
    file.seek(SeekFrom::Start(first)).await.map_err(unreadable)?;
    headers.insert(header::CONTENT_LENGTH, length.into());
    let body = Body::from_stream(ReaderStream::with_capacity(file.take(length), CHUNK));
    Ok((status, headers, body).into_response())
}

/// The file from its start until the capture ends.
pub(super) async fn live(
    State(state): State<ApiState>,
    Path(id): Path<String>,
    uri: Uri,
) -> Result<Response, ApiError> {
    let shape = Shape::wanted(&uri)?;
    let reading = state.captures.read(&id);
    let (file, view) = waiting(&state, move |captures| captures.open(&id)).await?;
    let growing = |file| follow(Follower { file: File::from_std(file), sent: 0, reading });
    match shape {
        Shape::Stored => {
            let mut headers = describe(&view, Format::Pcapng);
            set(&mut headers, header::ACCEPT_RANGES, "none");
            Ok((headers, Body::from_stream(growing(file))).into_response())
        }
        Shape::Pcap(resolution) => {
            let file = converted::of_one_link_type(file, &view).await?;
            Ok(converted::as_pcap(&view, resolution, growing(file)))
        }
        Shape::Commented => {
            Ok(converted::with_comments(&view, state.commenting.begin()?, growing(file)))
        }
    }
}

/// As what a capture is wanted.
#[derive(Clone, Copy, Debug)]
enum Shape {
    /// The pcapng as it is.
    Stored,
    /// Classic pcap.
    Pcap(Resolution),
    /// The pcapng with verdicts in comments.
    Commented,
}

impl Shape {
    fn wanted(uri: &Uri) -> Result<Self, ApiError> {
        let parameters = Parameters::read(uri, &["format", "verdicts"])?;
        let format = parameters.text("format").map(|text| parameters::value("format", text));
        let verdicts = parameters.text("verdicts").map(|text| parameters::value("verdicts", text));
        let format = format.transpose()?.unwrap_or_default();
        match (format, verdicts.transpose()?.unwrap_or_default()) {
            (Export::Pcapng, Verdicts::None) => Ok(Self::Stored),
            (Export::Pcapng, Verdicts::Comment) => Ok(Self::Commented),
            (Export::Pcap(resolution), Verdicts::None) => Ok(Self::Pcap(resolution)),
            (Export::Pcap(_), Verdicts::Comment) => {
                let detail = format!("`verdicts=comment` with `format={format}`: {NOT_IN_PCAP}");
                Err(ApiError::parameter("verdicts", detail))
            }
        }
    }
}

/// What waits for the disk, the kernel or the capture's thread, where it holds up nobody else.
async fn waiting<T: Send + 'static>(
    state: &ApiState,
    work: impl FnOnce(&CaptureManager) -> Result<T, CaptureError> + Send + 'static,
) -> Result<T, ApiError> {
    let captures = Arc::clone(&state.captures);
    let done = tokio::task::spawn_blocking(move || work(&captures)).await;
    Ok(done.map_err(|panic| CaptureError::Failed(panic.into()))??)
}

fn describe(view: &CaptureView, format: Format) -> HeaderMap {
    let mut headers = HeaderMap::new();
    set(&mut headers, header::CONTENT_TYPE, format.media_type());
    let name = format!("attachment; filename=\"linnet-{}.{}\"", view.id, format.extension());
    set(&mut headers, header::CONTENT_DISPOSITION, &name);
    headers
}

/// Sets a header that is made of digits, ids and fixed words.
fn set(headers: &mut HeaderMap, name: header::HeaderName, value: &str) {
    if let Ok(value) = value.parse() {
        headers.insert(name, value);
    }
}

fn outside(view: &CaptureView) -> Response {
    let detail = format!("the file has {} bytes, of which none are in the range", view.bytes);
    let problem = ApiError::new(StatusCode::RANGE_NOT_SATISFIABLE, "range_not_satisfiable", detail);
    let mut response = problem.into_response();
    set(response.headers_mut(), header::CONTENT_RANGE, &format!("bytes */{}", view.bytes));
    response
}

fn unreadable(error: io::Error) -> ApiError {
    CaptureError::Failed(error.into()).into()
}

/// A reader of a growing file.
struct Follower {
    file: File,
    sent: u64,
    reading: Reading,
}

impl Follower {
    /// As far as the file may be read, and whether there will be more. A capture that has been removed has ended.
    fn end(&mut self) -> (u64, bool) {
        let view = self.reading.view();
        view.map_or((u64::MAX, false), |view| (view.bytes, view.state == CaptureState::Running))
    }
}

/// What is there, and what comes, until the capture ends.
fn follow(follower: Follower) -> impl futures_util::Stream<Item = io::Result<Bytes>> {
    stream::try_unfold(follower, |mut follower| async move {
        loop {
            let (end, grows) = follower.end();
            let left = usize::try_from(end.saturating_sub(follower.sent)).unwrap_or(CHUNK);
            let mut chunk = vec![0; left.min(CHUNK)];
            let read = follower.file.read(&mut chunk).await?;
            if read > 0 {
                chunk.truncate(read);
                follower.sent += read as u64;
                return Ok(Some((Bytes::from(chunk), follower)));
            }
            // A recorder that is gone changes nothing more.
            if !grows || !follower.reading.changed().await {
                return Ok(None);
            }
        }
    })
}
