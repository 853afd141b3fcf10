//! ICMP (RFC 792) and ICMPv6 (RFC 4443): what a message and its answer have in common.
//!
//! A query and its answer share a key: the identifier stands for both ports and a class for the pair of types.
//! Every other message is its own one-way flow keyed by type and code. Community ID v1 pairs the same types.

use crate::{
    bytes::{PacketBytes, wire16},
    flow_key::{KEY_ICMP_ONE_WAY, KEY_ICMP_QUERY_SHIFT, KEY_ICMP_UPPER_ASKS, KEY_IPV6},
    outcome::Outcome,
    parse::{
        Headers, QUOTED_PACKET,
        link::{IPV4, IPV6},
        missing,
    },
};

/// Bytes that every message has.
const HEADER: u32 = 8;

/// One kind of query: its class in the key, and the types of question and answer.
#[derive(Clone, Copy, Debug)]
pub struct Query {
    /// 1 to 15, in the upper half of the key's flags.
    pub class: u8,
    /// Type of the question.
    pub request: u8,
    /// Type of the answer.
    pub reply: u8,
    /// Whether bytes 4 and 5 hold an identifier.
    pub has_identifier: bool,
}

const fn query(class: u8, request: u8, reply: u8, has_identifier: bool) -> Query {
    Query { class, request, reply, has_identifier }
}

/// Query types of ICMP.
pub const QUERIES_V4: [Query; 5] = [
    query(1, 8, 0, true),
    query(2, 13, 14, true),
    query(3, 15, 16, true),
    query(4, 17, 18, true),
    query(5, 10, 9, false),
];

/// Query types of ICMPv6: echo, router, neighbor, listener, node information, home agent.
pub const QUERIES_V6: [Query; 6] = [
    query(1, 128, 129, true),
    query(5, 133, 134, false),
    query(6, 135, 136, false),
    query(7, 130, 131, false),
    query(8, 139, 140, false),
    query(9, 144, 145, true),
];

/// Whether a type of a query class is the answer.
#[inline(always)]
const fn is_reply(ipv6: bool, kind: u8) -> bool {
    if ipv6 {
        matches!(kind, 129 | 131 | 134 | 136 | 140 | 145)
    } else {
        matches!(kind, 0 | 9 | 14 | 16 | 18)
    }
}

/// The class of a type (0: one-way) and whether it has an identifier.
#[inline(always)]
const fn classify(ipv6: bool, kind: u8) -> (u8, bool) {
    if ipv6 {
        match kind {
            128 | 129 => (1, true),
            133 | 134 => (5, false),
            135 | 136 => (6, false),
            130 | 131 => (7, false),
            139 | 140 => (8, false),
            144 | 145 => (9, true),
            _ => (0, false),
        }
    } else {
        match kind {
            0 | 8 => (1, true),
            13 | 14 => (2, true),
            15 | 16 => (3, true),
            17 | 18 => (4, true),
            9 | 10 => (5, false),
            _ => (0, false),
        }
    }
}

#[inline(always)]
pub(crate) fn parse<P: PacketBytes>(packet: &P, headers: &mut Headers) -> Result<Outcome, Outcome> {
    let offset = headers.offset;
    let Some(icmp) = packet.at::<{ HEADER as usize }>(offset as usize) else {
        return Err(missing(headers, offset, HEADER, Outcome::MalformedIcmp));
    };
    let ipv6 = headers.key.flags & KEY_IPV6 != 0;
    let (class, has_identifier) = classify(ipv6, icmp[0]);
    if class == 0 {
        headers.key.flags |= KEY_ICMP_ONE_WAY;
        headers.key.lower_port = u16::from(icmp[0]).to_be();
        headers.key.upper_port = u16::from(icmp[1]).to_be();
    } else {
        headers.key.flags |= class << KEY_ICMP_QUERY_SHIFT;
        if is_reply(ipv6, icmp[0]) {
            // The destination asked; source and destination still stand as lower and upper.
            headers.key.flags |= KEY_ICMP_UPPER_ASKS;
        }
        if has_identifier {
            headers.key.lower_port = wire16(icmp, 4);
            headers.key.upper_port = wire16(icmp, 4);
        }
    }
    headers.header_len = offset + HEADER;
    headers.payload_len = headers.transport_len.saturating_sub(HEADER);
    if is_error(ipv6, icmp[0]) {
        headers.icmp_error = u32::from(icmp[0]) << 8 | u32::from(icmp[1]);
        #[cfg(not(target_arch = "bpf"))]
        {
            headers.icmp_mtu = match (ipv6, icmp[0], icmp[1]) {
                // RFC 1191, 4; RFC 4443, 3.2.
                (false, 3, 4) => crate::bytes::be16(icmp, 6),
                (true, 2, _) => crate::bytes::be32(icmp, 4),
                _ => 0,
            };
        }
        headers.pending = QUOTED_PACKET;
    }
    Ok(Outcome::Tracked)
}

/// Sets the cursor to the packet that an error quotes: its start, of which the ports are enough.
#[inline(always)]
pub(crate) fn enter_quoted(headers: &mut Headers) {
    headers.tunnel = QUOTED_PACKET;
    headers.offset = headers.header_len;
    headers.ethertype = if headers.key.flags & KEY_IPV6 != 0 { IPV6 } else { IPV4 };
}

/// Whether a message of this type quotes the packet that it is about.
#[inline(always)]
const fn is_error(ipv6: bool, kind: u8) -> bool {
    if ipv6 { matches!(kind, 1..=4) } else { matches!(kind, 3 | 4 | 5 | 11 | 12) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tables_and_the_match_agree() {
        for (ipv6, table) in [(false, QUERIES_V4.as_slice()), (true, QUERIES_V6.as_slice())] {
            for query in table {
                let expected = (query.class, query.has_identifier);
                assert_eq!(classify(ipv6, query.request), expected);
                assert_eq!(classify(ipv6, query.reply), expected);
                assert!(is_reply(ipv6, query.reply) && !is_reply(ipv6, query.request));
            }
        }
        let classes: std::vec::Vec<u8> = (0..=255).map(|kind| classify(false, kind).0).collect();
        assert_eq!(classes.iter().filter(|class| **class != 0).count(), 2 * QUERIES_V4.len());
    }
}
