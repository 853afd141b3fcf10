//! How much of a capture file is whole: walks its blocks from one length to the next. Never looks into a packet.

use std::io::{self, BufReader, ErrorKind, Read, Seek as _};

/// Read at a time.
const BUFFER: usize = 256 * 1024;
/// Longest block that linnet writes: a packet of 256 KiB with its options, rounded up.
const BLOCK_MAX: u32 = 8 * 1024 * 1024;
/// Type and length in front of a block's body, and the length behind it.
const HEAD_LEN: usize = 8;
const FRAME_LEN: u32 = 12;
const SECTION_HEADER: u32 = 0x0a0d_0d0a;
const ENHANCED_PACKET: u32 = 6;

/// What a file holds up to its last whole block.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Whole {
    /// Bytes of whole blocks.
    pub(super) bytes: u64,
    /// Packets in them.
    pub(super) packets: u64,
}

/// Walks a file that linnet wrote (one little-endian section) from its start to the first block that is not whole.
pub(super) fn whole_blocks(file: impl Read + io::Seek) -> io::Result<Whole> {
    let mut reader = BufReader::with_capacity(BUFFER, file);
    let mut whole = Whole::default();
    loop {
        let mut head = [0; HEAD_LEN];
        if !filled(&mut reader, &mut head)? {
            return Ok(whole);
        }
        let [kind, length] = [0, 4].map(|at| {
            u32::from_le_bytes(head[at..at + 4].try_into().expect("the head has eight bytes"))
        });
        let begins_file = whole.bytes == 0;
        let plausible = (FRAME_LEN..=BLOCK_MAX).contains(&length)
            && length.is_multiple_of(4)
            && begins_file == (kind == SECTION_HEADER);
        if !plausible {
            return Ok(whole);
        }
        reader.seek_relative(i64::from(length - FRAME_LEN))?;
        let mut trailer = [0; 4];
        if !filled(&mut reader, &mut trailer)? || u32::from_le_bytes(trailer) != length {
            return Ok(whole);
        }
        whole.bytes += u64::from(length);
        whole.packets += u64::from(kind == ENHANCED_PACKET);
    }
}

/// Whether there was enough to fill `bytes`.
fn filled(reader: &mut impl Read, bytes: &mut [u8]) -> io::Result<bool> {
    match reader.read_exact(bytes) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use captures::{
        CapturedPacket, InterfaceDescription, LinkType, Snaplen,
        format::pcapng::{self, SectionHeader},
    };

    use super::*;

    /// A file of `packets` packets, and where each of its blocks ends.
    fn file(packets: u64) -> (Vec<u8>, Vec<usize>) {
        let mut bytes = Vec::new();
        let mut ends = Vec::new();
        pcapng::section_header(&mut bytes, &SectionHeader::default());
        ends.push(bytes.len());
        let interface = InterfaceDescription::new(LinkType::ETHERNET, 65_536);
        pcapng::interface_description(&mut bytes, &interface);
        ends.push(bytes.len());
        for number in 0..packets {
            let data = vec![7; 60 + usize::try_from(number).unwrap()];
            let packet = CapturedPacket::new(number, &data);
            pcapng::enhanced_packet(&mut bytes, &packet, Snaplen::WHOLE);
            ends.push(bytes.len());
        }
        (bytes, ends)
    }

    #[test]
    fn a_file_cut_anywhere_is_whole_up_to_the_last_block_before() {
        let (bytes, ends) = file(3);
        for cut in 0..=bytes.len() {
            let blocks = ends.iter().filter(|end| **end <= cut).count();
            let expected = Whole {
                bytes: ends[..blocks].last().map_or(0, |end| *end as u64),
                packets: blocks.saturating_sub(2) as u64,
            };
            assert_eq!(whole_blocks(Cursor::new(&bytes[..cut])).unwrap(), expected, "cut at {cut}");
        }
    }

    #[test]
    fn what_is_no_block_ends_the_walk() {
        let (mut bytes, ends) = file(2);
        let good = ends[2];
        for (at, value) in [(good + 4, 0xff), (good + 4, 3), (ends[3] - 4, 0xff)] {
            let before = std::mem::replace(&mut bytes[at], value);
            let whole = whole_blocks(Cursor::new(&bytes)).unwrap();
            assert_eq!(whole, Whole { bytes: good as u64, packets: 1 });
            bytes[at] = before;
        }
        assert_eq!(whole_blocks(Cursor::new(b"not a capture at all")).unwrap(), Whole::default());
    }
}
