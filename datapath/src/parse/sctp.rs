//! SCTP: the ports, and which chunks the packet bundles (RFC 9260, section 3). What is in a chunk is not read.

use crate::{
    bytes::{PacketBytes, be16},
    hint::{forget, opaque},
    outcome::Outcome,
    parse::{Headers, REACH_MAX, WHOLE, missing, transport},
};

pub(crate) const PROTOCOL: u32 = 132;

/// Chunks of one packet that are read. Control chunks come before DATA, and one packet seldom has three of them.
pub const CHUNKS_MAX: usize = 8;

/// Opens an association.
pub const INIT: u8 = 1;
/// Answers INIT.
pub const INIT_ACK: u8 = 2;
/// Asks whether the path works.
pub const HEARTBEAT: u8 = 4;
/// Answers HEARTBEAT.
pub const HEARTBEAT_ACK: u8 = 5;
/// Ends the association at once.
pub const ABORT: u8 = 6;
/// Begins its orderly end.
pub const SHUTDOWN: u8 = 7;
/// Answers SHUTDOWN.
pub const SHUTDOWN_ACK: u8 = 8;
/// Reports an error.
pub const ERROR: u8 = 9;
/// Answers INIT ACK.
pub const COOKIE_ECHO: u8 = 10;
/// Answers COOKIE ECHO.
pub const COOKIE_ACK: u8 = 11;
/// Answers SHUTDOWN ACK.
pub const SHUTDOWN_COMPLETE: u8 = 14;
/// In `Headers::chunks`: DATA, and every other type that changes no state.
pub const OTHER: u8 = 15;

/// Chunks that come alone (RFC 9260, 3.2).
const ALONE: u32 = 1 << INIT | 1 << INIT_ACK | 1 << SHUTDOWN_COMPLETE;
/// Chunks that nothing may come before.
const FIRST: u32 = ALONE | 1 << COOKIE_ECHO | 1 << COOKIE_ACK;

const HEADER: u32 = 12;
const CHUNK_HEADER: u32 = 4;

#[inline(always)]
pub(crate) fn parse<P: PacketBytes>(packet: &P, headers: &mut Headers) -> Result<Outcome, Outcome> {
    transport::ports(packet, headers, Outcome::MalformedSctp)?;
    headers.header_len = headers.offset + HEADER;
    headers.payload_len = headers.transport_len.saturating_sub(HEADER);
    if headers.transport_len < HEADER {
        return Ok(Outcome::MalformedSctp);
    }
    headers.transport_len += headers.offset;
    headers.offset += HEADER;
    Ok(chunks(packet, headers))
}

/// Reads the chunk headers between `offset` and `transport_len`, which is here where the packet ends, as far as
/// [`REACH_MAX`]. A bundle that
/// RFC 9260 forbids leaves no chunks, as it means nothing to conntrack.
#[inline(always)]
fn chunks<P: PacketBytes>(packet: &P, headers: &mut Headers) -> Outcome {
    let mut shift = 0;
    headers.bundle = 0;
    while shift < CHUNKS_MAX * 8 {
        let headers = forget(headers);
        let offset = headers.offset;
        if offset + CHUNK_HEADER > headers.transport_len || offset > REACH_MAX {
            break;
        }
        let Some(chunk) = packet.at::<{ CHUNK_HEADER as usize }>(offset as usize) else {
            return missing(headers, offset, CHUNK_HEADER, Outcome::MalformedSctp);
        };
        let length = be16(chunk, 2);
        let beyond = offset + length > headers.transport_len && headers.fragment == WHOLE;
        if length < CHUNK_HEADER || beyond {
            return Outcome::MalformedSctp;
        }
        let kind = if chunk[0].wrapping_sub(1) < OTHER - 1 { chunk[0] } else { OTHER };
        let headers = forget(headers);
        let bundle = headers.bundle;
        if bundle & ALONE != 0 || (bundle != 0 && FIRST & 1 << kind != 0) {
            headers.chunks = 0;
            break;
        }
        headers.bundle = bundle | 1 << kind;
        headers.chunks |= u64::from(kind) << shift;
        headers.offset = offset + length.next_multiple_of(4);
        // The counter is hidden from the optimiser, which would else repeat the loop's body eight times.
        shift = opaque(shift + 8);
    }
    Outcome::Tracked
}
