//! A capture as classic pcap, converted while it is sent. Never has more of it in memory than a block and a piece, and
//! never begins a file that the first interfaces already rule out.

use std::{
    fs,
    io::{self, BufReader, Seek as _},
};

use axum::{
    body::{Body, Bytes},
    http::StatusCode,
    response::{IntoResponse as _, Response},
};
use captures::{
    LinkType,
    format::{
        Format,
        convert::{ConvertError, Converter},
        pcap::Resolution,
        read::stream,
    },
};
use futures_util::{Stream, StreamExt as _, stream::try_unfold};

use super::{CHUNK, describe, unreadable};
use crate::{
    api::ApiError,
    capture::{CaptureError, CaptureView},
};

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

/// The answer with what the capture's bytes come to.
pub(super) fn answer(
    view: &CaptureView,
    resolution: Resolution,
    stored: impl Stream<Item = io::Result<Bytes>> + Send + 'static,
) -> Response {
    let body = Body::from_stream(converted(stored, Converter::new(resolution)));
    (describe(view, Format::Pcap), body).into_response()
}

/// What is converted, as it comes. Where it cannot go on, the body breaks off behind what came before, so that nobody
/// takes it for whole.
fn converted(
    stored: impl Stream<Item = io::Result<Bytes>> + Send + 'static,
    converter: Converter,
) -> impl Stream<Item = io::Result<Bytes>> + Send {
    let begin = (Box::pin(stored), converter, Ok(()));
    try_unfold(begin, |(mut stored, mut converter, so_far)| async move {
        so_far.map_err(|error: ConvertError| {
            tracing::warn!(%error, "a capture could not be converted further");
            io::Error::other(error)
        })?;
        while let Some(piece) = stored.next().await {
            let mut out = Vec::new();
            let so_far = converter.convert(&piece?, &mut out);
            if !out.is_empty() || so_far.is_err() {
                return Ok(Some((Bytes::from(out), (stored, converter, so_far))));
            }
        }
        converter.finish().map_err(io::Error::other)?;
        Ok(None)
    })
}
