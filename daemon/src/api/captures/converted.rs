//! A capture as something else than what is stored, made while it is sent: classic pcap, or with comments. Never has more
//! of it in memory than a block and a piece, and never begins a file that the first interfaces already rule out.

use std::{
    fs,
    io::{self, BufReader, Seek as _},
    sync::Arc,
};

use axum::{
    body::{Body, Bytes},
    http::StatusCode,
    response::{IntoResponse as _, Response},
};
use captures::{
    LinkType,
    format::{Format, annotate::Annotator, convert::Converter, pcap::Resolution, read::stream},
};
use futures_util::{Stream, StreamExt as _, stream::try_unfold};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{CHUNK, describe, unreadable};
use crate::{
    api::ApiError,
    capture::{CaptureError, CaptureView},
    verdict_comments::VerdictComments,
};

/// Answers with comments at a time: each follows the flows of its capture by itself.
const COMMENTED_MAX: usize = 4;

/// The file again, from its start, if the capture has one link type so far. Waits for the disk where it holds up
/// nobody else.
pub(super) async fn of_one_link_type(
    file: fs::File,
    view: &CaptureView,
) -> Result<fs::File, ApiError> {
    let bytes = view.bytes;
    let looked = tokio::task::spawn_blocking(move || look(file, bytes)).await;
    let looked = looked.map_err(|panic| CaptureError::Failed(panic.into()))?;
    let (file, link_types) = looked.map_err(unreadable)?;
    if let [_, _, ..] = link_types[..] {
        return Err(mixed(&link_types));
    }
    Ok(file)
}

fn look(file: fs::File, bytes: u64) -> io::Result<(fs::File, Vec<LinkType>)> {
    let mut input = BufReader::with_capacity(CHUNK, file);
    let link_types = stream::link_types(&mut input, bytes)?;
    let mut file = input.into_inner();
    file.rewind()?;
    Ok((file, link_types))
}

fn mixed(link_types: &[LinkType]) -> ApiError {
    let names: Vec<_> = link_types.iter().map(ToString::to_string).collect();
    let detail = format!(
        "the capture has interfaces of link types {}, and a pcap file has room for one; take `format=pcapng`, or \
         capture on one interface",
        names.join(" and ")
    );
    ApiError::new(StatusCode::CONFLICT, "mixed_link_types", detail)
}

/// Makes something else of a capture's bytes, as they come. After an error `out` has what came before it.
trait Conversion: Send + 'static {
    fn convert(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> io::Result<()>;
    /// Whether the capture may end here.
    fn finish(&self) -> io::Result<()>;
}

impl Conversion for Converter {
    fn convert(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
        self.convert(bytes, out).map_err(io::Error::other)
    }

    fn finish(&self) -> io::Result<()> {
        self.finish().map_err(io::Error::other)
    }
}

/// Who may have a capture with comments, now.
#[derive(Clone, Debug)]
pub struct Commenting(Arc<Semaphore>);

impl Default for Commenting {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(COMMENTED_MAX)))
    }
}

impl Commenting {
    /// One more, if there is a place.
    pub(super) fn begin(&self) -> Result<Commented, ApiError> {
        let place = Arc::clone(&self.0).try_acquire_owned().map_err(|_| {
            let detail = format!(
                "{COMMENTED_MAX} captures are sent with comments already; wait until one of these answers ends, or leave \
                 `verdicts` out"
            );
            ApiError::new(StatusCode::CONFLICT, "too_many_commented", detail)
        })?;
        Ok(Commented { annotator: Annotator::new(VerdictComments::new()), _place: place })
    }
}

/// Puts comments on packets, in one of the places for that.
pub(super) struct Commented {
    annotator: Annotator<VerdictComments>,
    _place: OwnedSemaphorePermit,
}

impl Conversion for Commented {
    fn convert(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
        self.annotator.annotate(bytes, out).map_err(io::Error::other)
    }

    fn finish(&self) -> io::Result<()> {
        self.annotator.finish().map_err(io::Error::other)
    }
}

/// The answer as classic pcap.
pub(super) fn as_pcap(
    view: &CaptureView,
    resolution: Resolution,
    stored: impl Stream<Item = io::Result<Bytes>> + Send + 'static,
) -> Response {
    let body = Body::from_stream(converted(stored, Converter::new(resolution)));
    (describe(view, Format::Pcap), body).into_response()
}

/// The answer as pcapng with comments.
pub(super) fn with_comments(
    view: &CaptureView,
    commented: Commented,
    stored: impl Stream<Item = io::Result<Bytes>> + Send + 'static,
) -> Response {
    let body = Body::from_stream(converted(stored, commented));
    (describe(view, Format::Pcapng), body).into_response()
}

/// What is converted, as it comes. Where it cannot go on, the body breaks off behind what came before, so that nobody
/// takes it for whole.
fn converted(
    stored: impl Stream<Item = io::Result<Bytes>> + Send + 'static,
    conversion: impl Conversion,
) -> impl Stream<Item = io::Result<Bytes>> + Send {
    let begin = (Box::pin(stored), conversion, Ok(()));
    try_unfold(begin, |(mut stored, mut conversion, so_far)| async move {
        so_far.inspect_err(|error: &io::Error| {
            tracing::warn!(%error, "a capture could not be converted further");
        })?;
        while let Some(piece) = stored.next().await {
            let mut out = Vec::new();
            let so_far = conversion.convert(&piece?, &mut out);
            if !out.is_empty() || so_far.is_err() {
                return Ok(Some((Bytes::from(out), (stored, conversion, so_far))));
            }
        }
        conversion.finish()?;
        Ok(None)
    })
}
