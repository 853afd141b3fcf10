//! The TCP header (RFC 9293) and the options that the analysis needs.

use crate::{
    bytes::{PacketBytes, be16, be32, wire16},
    hint::{forget, store},
    outcome::Outcome,
    parse::{Headers, WHOLE, missing, transport},
};

/// No more data from the sender.
pub const FIN: u32 = 0x01;
/// Synchronize sequence numbers.
pub const SYN: u32 = 0x02;
/// Reset the connection.
pub const RST: u32 = 0x04;
/// Push.
pub const PSH: u32 = 0x08;
/// The acknowledgment field is significant.
pub const ACK: u32 = 0x10;

/// `Headers::options`: timestamps (RFC 7323).
pub const OPTION_TIMESTAMPS: u32 = 1 << 0;
/// Selective acknowledgment permitted (RFC 2018).
pub const OPTION_SACK_PERMITTED: u32 = 1 << 1;
/// Selective acknowledgment blocks.
pub const OPTION_SACK: u32 = 1 << 2;

/// Options read from one header; 40 bytes hold at most as many.
pub const OPTIONS_MAX: u32 = 40;

const HEADER_MIN: u32 = 20;
/// NOP, NOP, timestamps of length 10: the layout of nearly every data segment (RFC 7323, appendix A).
const ALIGNED_TIMESTAMPS: u32 = 0x0101_080a;

/// Bytes of a block of a selective acknowledgment.
const BLOCK_LEN: u32 = 8;

const END: u8 = 0;
const NOP: u8 = 1;
#[cfg(not(target_arch = "bpf"))]
const SEGMENT_MAX: u8 = 2;
const WINDOW_SCALE: u8 = 3;
const SACK_PERMITTED: u8 = 4;
const SACK: u8 = 5;
const TIMESTAMPS: u8 = 8;
/// Greatest shift that a receiver may use (RFC 7323, 2.3).
const WINDOW_SCALE_MAX: u32 = 14;

#[inline(always)]
pub(crate) fn parse<P: PacketBytes>(packet: &P, headers: &mut Headers) -> Result<Outcome, Outcome> {
    let offset = headers.offset;
    let Some(tcp) = packet.at::<{ HEADER_MIN as usize }>(offset as usize) else {
        transport::ports(packet, headers, Outcome::MalformedTcp)?;
        return Ok(missing(headers, offset, HEADER_MIN, Outcome::MalformedTcp));
    };
    headers.key.lower_port = wire16(tcp, 0);
    headers.key.upper_port = wire16(tcp, 2);
    headers.sequence = be32(tcp, 4);
    headers.acknowledgment = be32(tcp, 8);
    headers.tcp_flags = u32::from(tcp[13]);
    headers.window = be16(tcp, 14);
    let header_len = u32::from(tcp[12] >> 4) * 4;
    if header_len < HEADER_MIN {
        return Ok(Outcome::MalformedTcp);
    }
    if header_len > headers.transport_len {
        return Ok(if headers.fragment == WHOLE {
            Outcome::MalformedTcp
        } else {
            Outcome::Tracked
        });
    }
    headers.header_len = offset + header_len;
    headers.payload_len = headers.transport_len - header_len;
    // The sequence space that a first fragment covers is not known.
    headers.analyzable = if headers.fragment == WHOLE { 1 } else { 0 };
    if header_len > HEADER_MIN {
        find_options(packet, header_len, headers);
    }
    Ok(Outcome::Tracked)
}

/// Reads the options: at once where they are the timestamps of nearly every data segment.
#[inline(always)]
fn find_options<P: PacketBytes>(packet: &P, header_len: u32, headers: &mut Headers) {
    let start = headers.offset + HEADER_MIN;
    if header_len == HEADER_MIN + 12
        && let Some(option) = packet.at::<12>(start as usize)
        && be32(option, 0) == ALIGNED_TIMESTAMPS
    {
        headers.timestamp = be32(option, 4);
        headers.timestamp_echo = be32(option, 8);
        headers.options = OPTION_TIMESTAMPS;
        return;
    }
    headers.option_offset = start;
    packet.tcp_options(forget(headers));
}

/// Reads options; what is cut off or contradicts its length ends the reading, as in every stack.
#[inline(always)]
pub fn options<P: PacketBytes + ?Sized>(packet: &P, headers: &mut Headers) {
    store(&mut headers.selective_len, 0);
    each_option(packet, headers);
    let headers = forget(headers);
    if headers.options & OPTION_SACK != 0 {
        selective(packet, headers);
    }
}

#[inline(always)]
fn each_option<P: PacketBytes + ?Sized>(packet: &P, headers: &mut Headers) {
    let mut read = 0;
    while read < OPTIONS_MAX {
        let at = headers.option_offset;
        if at + 1 >= headers.header_len {
            return;
        }
        let Some(head) = packet.at::<2>(at as usize) else { return };
        let length = match head[0] {
            END => return,
            NOP => 1,
            _ => u32::from(head[1]),
        };
        if length == 0 || (head[0] != NOP && length < 2) || at + length > headers.header_len {
            return;
        }
        option(packet, at, head[0], length, headers);
        headers.option_offset = at + length;
        read += 1;
        forget(headers);
    }
}

#[inline(always)]
fn option<P: PacketBytes + ?Sized>(
    packet: &P,
    at: u32,
    kind: u8,
    length: u32,
    headers: &mut Headers,
) {
    if kind == TIMESTAMPS && length == 10 {
        if let Some(option) = packet.at::<10>(at as usize) {
            headers.timestamp = be32(option, 2);
            headers.timestamp_echo = be32(option, 6);
            headers.options |= OPTION_TIMESTAMPS;
        }
    } else if kind == WINDOW_SCALE && length == 3 {
        if let Some(option) = packet.at::<3>(at as usize) {
            let shift = u32::from(option[2]);
            let shift = if shift > WINDOW_SCALE_MAX { WINDOW_SCALE_MAX } else { shift };
            headers.window_scale_plus_one = shift + 1;
        }
    } else if kind == SACK_PERMITTED {
        headers.options |= OPTION_SACK_PERMITTED;
    } else if kind == SACK {
        headers.options |= OPTION_SACK;
        headers.selective_offset = at + 2;
        headers.selective_len = (length - 2) / BLOCK_LEN;
    }
    #[cfg(not(target_arch = "bpf"))]
    if kind == SEGMENT_MAX
        && length == 4
        && let Some(option) = packet.at::<4>(at as usize)
    {
        headers.segment_max_plus_one = be16(option, 2) + 1;
    }
}

/// Blocks of a selective acknowledgment (RFC 2018, 3), as far as they can be read.
#[inline(always)]
fn selective<P: PacketBytes + ?Sized>(packet: &P, headers: &mut Headers) {
    macro_rules! each {
        ($($block:literal)*) => {
            $({
                let headers = forget(headers);
                if headers.selective_len > $block {
                    let at = headers.selective_offset + $block * BLOCK_LEN;
                    let Some(edges) = packet.at::<8>(at as usize) else {
                        headers.selective_len = $block;
                        return;
                    };
                    headers.selective[$block] = [be32(edges, 0), be32(edges, 4)];
                }
            })*
        };
    }
    each!(0 1 2 3);
}
