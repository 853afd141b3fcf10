//! The TCP segments of one frame, from the outside in, each cut to what the packet around it has room for. Never
//! decides about a class.

use std::vec::Vec;

use crate::{
    bytes::{PacketBytes, be32},
    frame::{Frame, Link},
    parse::{self, FIRST_FRAGMENT, FRAGMENT_PORTS, Headers, NOTHING, QUOTED_PACKET, WHOLE},
    pipeline::STEPS_MAX,
};

use super::{
    datagrams::{Added, Datagrams},
    route,
};

const TCP: u8 = 6;
const HEADER_MIN: u32 = 20;
/// Datagrams that a frame completes, each with the last piece of the next one; further ones are not read.
const COMPLETED_MAX: u32 = 4;

/// What there is of a segment's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HeaderFound {
    /// All of it.
    Whole,
    /// Options are missing: tshark classifies the segment and shows nothing of that.
    Cut,
    /// It says that it is shorter than a header is: as `Cut`, and nothing of the handshake counts.
    Bogus,
}

/// The options of one segment, as far as they were captured.
#[derive(Clone, Copy, Debug)]
pub(super) struct Options<'a>(&'a [u8]);

impl<'a> Options<'a> {
    /// Kind and contents of each.
    pub(super) fn each(self) -> impl Iterator<Item = (u8, &'a [u8])> {
        const END: u8 = 0;
        const NOP: u8 = 1;
        let mut left = self.0;
        std::iter::from_fn(move || {
            while let [NOP, rest @ ..] = left {
                left = rest;
            }
            let (&[kind, length], _) = left.split_first_chunk()?;
            let option = left.get(..usize::from(length)).filter(|_| kind != END)?;
            left = &left[option.len()..];
            Some((kind, option.get(2..)?))
        })
    }

    /// Left and right edge of each block of a selective acknowledgment (RFC 2018).
    pub(super) fn selective_acknowledgment(self) -> impl Iterator<Item = (u32, u32)> {
        const SACK: u8 = 5;
        let blocks = self.each().filter(|(kind, _)| *kind == SACK);
        blocks
            .flat_map(|(_, blocks)| blocks.chunks_exact(8))
            .map(|block| (be32(block, 0), be32(block, 4)))
    }
}

/// Calls `segment` with each TCP segment of the frame. `headers` is scratch space.
pub(super) fn walk(
    packet: &[u8],
    frame: &Frame,
    headers: &mut Headers,
    datagrams: &mut Datagrams,
    mut segment: impl FnMut(HeaderFound, Options<'_>, &mut Headers),
) {
    let mut completed = packets(packet, frame, headers, datagrams, &mut segment);
    for _datagram in 0..COMPLETED_MAX {
        let Some(datagram) = completed else { return };
        let original_len = u32::try_from(datagram.len()).unwrap_or(u32::MAX);
        let frame = Frame { link: Link::RawIp, original_len, ..*frame };
        completed = packets(&datagram, &frame, headers, datagrams, &mut segment);
    }
}

/// The same for the packets inside of each other in `packet`, up to a fragment. Returns the datagram that it completes.
fn packets(
    packet: &[u8],
    frame: &Frame,
    headers: &mut Headers,
    datagrams: &mut Datagrams,
    segment: &mut impl FnMut(HeaderFound, Options<'_>, &mut Headers),
) -> Option<Vec<u8>> {
    let mut parsed = parse::parse(&packet, frame, headers);
    for _step in 0..=STEPS_MAX {
        let is_quoted = headers.tunnel == QUOTED_PACKET;
        let is_later = headers.pending == FRAGMENT_PORTS;
        let is_first = headers.fragment == FIRST_FRAGMENT && parsed.is_ok();
        if !is_quoted && (is_first || is_later) {
            match datagrams.add(packet, headers) {
                Added::No if is_first => {}
                Added::No | Added::Held => return None,
                Added::Complete(datagram) => return Some(datagram),
            }
        }
        if parsed.is_ok() {
            if headers.key.protocol == TCP {
                tcp(packet, is_quoted, headers, segment);
            } else if headers.payload_len != 0 {
                let end = headers.header_len.saturating_add(headers.payload_len);
                headers.end = headers.end.min(end);
            }
        }
        if is_quoted || is_later || headers.pending == NOTHING {
            return None;
        }
        parsed = parse::resume(&packet, frame, headers);
    }
    None
}

/// Finds out how much of the segment there is, and cuts its payload where what carries it ends.
fn tcp(
    packet: &[u8],
    is_quoted: bool,
    headers: &mut Headers,
    segment: &mut impl FnMut(HeaderFound, Options<'_>, &mut Headers),
) {
    let start = headers.offset;
    let Some(header) = packet.at::<{ HEADER_MIN as usize }>(start as usize) else { return };
    let header_len = u32::from(header[12] >> 4) * 4;
    let reported = headers.transport_len.min(headers.end.saturating_sub(start));
    let found = if header_len < HEADER_MIN {
        HeaderFound::Bogus
    } else if header_len <= reported && packet.get((start + header_len) as usize - 1).is_some() {
        HeaderFound::Whole
    } else {
        HeaderFound::Cut
    };
    // The sequence numbers of a fragment, of what an ICMP error quotes, and of what is shorter than its header do not
    // count.
    let counts = headers.fragment == WHOLE && !is_quoted && header_len <= reported;
    headers.analyzable = u32::from(counts);
    headers.payload_len = reported.saturating_sub(header_len);
    route::follow(packet, headers);
    let captured = packet.len().min((start + header_len) as usize);
    let options = packet.get((start + HEADER_MIN) as usize..captured).unwrap_or_default();
    segment(found, Options(options), headers);
}
