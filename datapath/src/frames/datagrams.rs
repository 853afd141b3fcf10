//! Fragments put together: tshark reads what they carry in the frame that completes them. Never holds more than
//! [`DATAGRAMS_MAX`] datagrams that are not complete.

use std::{collections::HashMap, vec, vec::Vec};

use crate::{
    bytes::{be16, be32},
    flow_key::KEY_IPV6,
    parse::Headers,
};

/// Datagrams in pieces; then all of them are forgotten.
const DATAGRAMS_MAX: usize = 1 << 12;
/// Pieces of one datagram, which are eight bytes at least; one of which there are more is forgotten.
const PIECES_MAX: usize = 1 << 13;
/// Greatest payload of a datagram that was sent in fragments.
const PAYLOAD_MAX: usize = 0xffff;

const IPV6_HEADER: usize = 40;
const FRAGMENT_HEADER: u8 = 44;

/// What became of a fragment.
pub(super) enum Added {
    /// Its bytes were not all captured: it stands for itself.
    No,
    /// More are to come.
    Held,
    /// It was the last one that was missing: the datagram, as if it had never been in fragments.
    Complete(Vec<u8>),
}

/// The datagrams in pieces.
#[derive(Debug, Default)]
pub(super) struct Datagrams {
    incomplete: HashMap<Name, Datagram>,
}

/// Source and destination, identification, protocol, and the VLAN where that says whose private addresses they are.
type Name = (Vec<u8>, u32, u8, u16);

/// Pieces by their offset, and the length of the payload, once the last one is there.
#[derive(Debug, Default)]
struct Datagram {
    pieces: Vec<(usize, Vec<u8>)>,
    length: Option<usize>,
}

/// One fragment.
struct Piece<'a> {
    name: Name,
    /// The header of the whole, but for its length.
    header: Vec<u8>,
    payload: &'a [u8],
    offset: usize,
    is_last: bool,
}

impl Datagrams {
    /// Takes the fragment that `headers` were read of.
    pub(super) fn add(&mut self, packet: &[u8], headers: &Headers) -> Added {
        let vlan = headers.key.vlan;
        let piece = packet.get(headers.network as usize..).and_then(|network| {
            if headers.key.flags & KEY_IPV6 == 0 {
                Piece::of_ipv4(network, vlan)
            } else {
                Piece::of_ipv6(network)
            }
        });
        let Some(Piece { name, header, payload, offset, is_last }) = piece else {
            return Added::No;
        };
        if offset + payload.len() > PAYLOAD_MAX {
            return Added::No;
        }
        if self.incomplete.len() >= DATAGRAMS_MAX && !self.incomplete.contains_key(&name) {
            self.incomplete.clear();
        }
        let datagram = self.incomplete.entry(name.clone()).or_default();
        if is_last {
            datagram.length = Some(offset + payload.len());
        }
        datagram.pieces.push((offset, payload.to_vec()));
        if datagram.pieces.len() > PIECES_MAX {
            self.incomplete.remove(&name);
            return Added::Held;
        }
        let Some(whole) = datagram.whole() else { return Added::Held };
        self.incomplete.remove(&name);
        Added::Complete(with_length(header, &whole))
    }
}

impl Datagram {
    /// The payload, if no piece of it is missing. Of pieces that overlap the earlier bytes count.
    fn whole(&mut self) -> Option<Vec<u8>> {
        let length = self.length?;
        self.pieces.sort_by_key(|(offset, _)| *offset);
        let mut whole = Vec::with_capacity(length);
        for (offset, bytes) in &self.pieces {
            let known = whole.len().checked_sub(*offset)?;
            whole.extend_from_slice(bytes.get(known..).unwrap_or_default());
        }
        whole.truncate(length);
        (whole.len() == length).then_some(whole)
    }
}

impl<'a> Piece<'a> {
    fn of_ipv4(network: &'a [u8], vlan: u16) -> Option<Self> {
        const MORE_FRAGMENTS: u32 = 0x2000;
        const FRAGMENT_OFFSET: u32 = 0x1fff;
        let header_len = usize::from(*network.first()? & 0xf) * 4;
        let mut header = network.get(..header_len.max(20))?.to_vec();
        let payload = network.get(header_len..be16(&header, 2) as usize)?;
        let fragment = be16(&header, 6);
        let is_private = is_private(&header[12..16]) || is_private(&header[16..20]);
        let vlan = if is_private { vlan } else { 0 };
        let name = (header[12..20].to_vec(), be16(&header, 4), header[9], vlan);
        header[6..8].fill(0);
        Some(Self {
            name,
            header,
            payload,
            offset: (fragment & FRAGMENT_OFFSET) as usize * 8,
            is_last: fragment & MORE_FRAGMENTS == 0,
        })
        .filter(|piece| !piece.payload.is_empty())
    }

    /// Headers before the one that says it is a fragment belong to each piece, and are left out of the whole.
    fn of_ipv6(network: &'a [u8]) -> Option<Self> {
        let mut header = network.get(..IPV6_HEADER)?.to_vec();
        let end = IPV6_HEADER + be16(&header, 4) as usize;
        let (mut at, mut next) = (IPV6_HEADER, header[6]);
        while next != FRAGMENT_HEADER {
            let extension = network.get(at..at + 2)?;
            next = extension[0];
            at += (usize::from(extension[1]) + 1) * 8;
        }
        let extension = network.get(at..at + 8)?;
        let fragment = be16(extension, 2);
        header[6] = extension[0];
        Some(Self {
            name: (header[8..IPV6_HEADER].to_vec(), be32(extension, 4), extension[0], 0),
            header,
            payload: network.get(at + 8..end)?,
            offset: (fragment & 0xfff8) as usize,
            is_last: fragment & 1 == 0,
        })
        .filter(|piece| !piece.payload.is_empty())
    }
}

/// RFC 1918 and RFC 3927.
fn is_private(address: &[u8]) -> bool {
    matches!(address, [10, ..] | [172, 16..=31, ..] | [192, 168, ..] | [169, 254, ..])
}

/// Header and payload with the length that they have together.
fn with_length(header: Vec<u8>, payload: &[u8]) -> Vec<u8> {
    let (at, length) = match header[0] >> 4 {
        4 => (2, header.len() + payload.len()),
        _ => (4, payload.len()),
    };
    // 0 stands for what the frame has room for.
    let length = u16::try_from(length).unwrap_or(0);
    let mut whole = vec![];
    whole.extend_from_slice(&header);
    whole[at..at + 2].copy_from_slice(&length.to_be_bytes());
    whole.extend_from_slice(payload);
    whole
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Frame, Ktime, PacketBytes as _, parse};

    /// 20 bytes of IPv4 in front of a piece of a payload.
    fn piece(offset: u8, more: bool, payload: &[u8]) -> Vec<u8> {
        let length = u8::try_from(20 + payload.len()).unwrap();
        let flags = if more { 0x20 } else { 0 };
        let mut packet =
            vec![0x45, 0, 0, length, 0, 7, flags, offset, 64, 253, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
        packet.extend_from_slice(payload);
        packet
    }

    fn add(datagrams: &mut Datagrams, packet: &[u8]) -> Added {
        let mut headers = Headers::default();
        let frame = Frame { link: crate::Link::RawIp, ..Frame::plain(Ktime(1), 60) };
        let _pending = parse::parse(&packet, &frame, &mut headers);
        assert_eq!(headers.network, 0, "{:?}", packet.at::<1>(0));
        datagrams.add(packet, &headers)
    }

    #[test]
    fn pieces_in_any_order_make_the_datagram() {
        let mut datagrams = Datagrams::default();
        let (first, last) = (piece(0, true, &[1; 8]), piece(1, false, &[2; 3]));
        for order in [[&first, &last], [&last, &first]] {
            assert!(matches!(add(&mut datagrams, order[0]), Added::Held));
            let Added::Complete(whole) = add(&mut datagrams, order[1]) else { panic!("complete") };
            assert_eq!(whole[20..], [1, 1, 1, 1, 1, 1, 1, 1, 2, 2, 2]);
            assert_eq!((be16(&whole, 2), be16(&whole, 6)), (31, 0));
        }
    }

    #[test]
    fn a_piece_that_was_cut_stands_for_itself() {
        let first = piece(0, true, &[1; 8]);
        assert!(matches!(add(&mut Datagrams::default(), &first[..27]), Added::No));
    }
}
