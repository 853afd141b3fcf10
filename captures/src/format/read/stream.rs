//! A pcapng stream that linnet wrote, as whole blocks, while it comes in pieces of any length.
//! Never waits for more, never keeps more than one block and one piece, and never gives half a block.
//!
//! [`super::PacketReader`] reads everybody's files and pulls; this is pushed to, and takes only what
//! `pcapng.rs` writes: little endian, nanoseconds.

use std::io::{self, BufRead as _, ErrorKind, Read, Seek};

use thiserror::Error;

use super::block::{Block as Framed, FRAME_LEN, HEAD_LEN, Head, SECTION_HEADER};
use super::bytes::Endian;
use super::error::Damage;
use super::options::Options;
use super::sections::{ENHANCED_PACKET, INTERFACE_DESCRIPTION, INTERFACE_STATISTICS};
use crate::LinkType;
use crate::format::pcapng::InterfaceStatistics;

/// Longest block that is taken; the longest that `pcapng.rs` writes has 5 MiB.
pub const BLOCK_BYTES_MAX: usize = 8 << 20;

/// Most interfaces that are kept of a stream; a capture has at most a quarter of them.
pub const INTERFACES_MAX: usize = 1_024;

/// Blocks out of pieces.
#[derive(Debug, Default)]
pub struct Blocks {
    buffer: Vec<u8>,
    /// Bytes of the buffer that have been given.
    given: usize,
    /// Place in the stream of the first byte that has not.
    offset: u64,
}

/// One whole block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block<'a> {
    /// All of its bytes.
    pub bytes: &'a [u8],
    /// Place in the stream of the first of them.
    pub offset: u64,
    /// What it says.
    pub content: Content<'a>,
}

/// What a block says, as far as it is of use here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content<'a> {
    /// A section begins.
    Section,
    /// The section's next interface.
    Interface {
        /// What its packets start with.
        link_type: LinkType,
        /// Most bytes kept of each.
        snaplen: u32,
    },
    /// A packet.
    Packet(StreamedPacket<'a>),
    /// Counters of an interface.
    Statistics(InterfaceStatistics),
    /// Anything else, to be passed on or over.
    Other,
}

/// A packet of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamedPacket<'a> {
    /// Number of its interface in the section.
    pub interface: u32,
    /// Nanoseconds since 1970.
    pub time_ns: u64,
    /// Bytes it had on the wire.
    pub original_len: u32,
    /// The captured bytes.
    pub data: &'a [u8],
    /// Its options as they are written, with their end.
    pub options: &'a [u8],
}

/// The stream is broken, or is none of linnet's.
#[derive(Debug, Error)]
#[error(
    "the capture's stream is damaged at byte {offset}: {what}; see that both ends are of one version"
)]
pub struct StreamError {
    /// Place in the stream where the block begins.
    pub offset: u64,
    /// What is wrong with it.
    pub what: Damage,
}

impl Blocks {
    /// Takes the next bytes of the stream.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.drain(..self.given);
        self.given = 0;
        self.buffer.extend_from_slice(bytes);
    }

    /// The next block, or `None` until more bytes come.
    pub fn next_block(&mut self) -> Result<Option<Block<'_>>, StreamError> {
        let offset = self.offset;
        let damaged = |what| StreamError { offset, what };
        let rest = &self.buffer[self.given..];
        if rest.len() < FRAME_LEN {
            return Ok(None);
        }
        let head = Head::read(Endian::Little, rest).map_err(damaged)?;
        let len = head.padded_len;
        if len > BLOCK_BYTES_MAX {
            let max = BLOCK_BYTES_MAX as u64;
            return Err(damaged(Damage::BlockTooLong { len: len as u64, max }));
        }
        let Some(bytes) = rest.get(..len) else { return Ok(None) };
        let content = head.block(bytes).and_then(content).map_err(damaged)?;
        self.given += len;
        self.offset += len as u64;
        Ok(Some(Block { bytes, offset, content }))
    }

    /// Whether the stream ends here between two blocks.
    pub fn finish(&self) -> Result<(), StreamError> {
        let rest = &self.buffer[self.given..];
        if rest.is_empty() {
            return Ok(());
        }
        let wanted = Head::read(Endian::Little, rest).map_or(FRAME_LEN, |head| head.padded_len);
        let missing = wanted.saturating_sub(rest.len()) as u64;
        Err(StreamError { offset: self.offset, what: Damage::CutShort { missing } })
    }
}

impl StreamedPacket<'_> {
    /// Where a further option may stand: behind the last one in `options`, before what ends them.
    pub(in crate::format) fn options_end(&self) -> Result<usize, Damage> {
        let mut options = Options::new(Endian::Little, self.options);
        loop {
            let before = options.left();
            if options.next_option()?.is_none() {
                return Ok(self.options.len() - before);
            }
        }
    }
}

/// The link types of the interfaces that the first `length` bytes of such a stream in a file describe, each once, in
/// their order. Reads heads of blocks only, and past long ones not even that.
pub fn link_types(
    input: &mut io::BufReader<impl Read + Seek>,
    length: u64,
) -> io::Result<Vec<LinkType>> {
    let mut found = Vec::new();
    let mut left = length;
    while left >= FRAME_LEN as u64 && !input.fill_buf()?.is_empty() {
        let mut start = [0; FRAME_LEN];
        input.read_exact(&mut start)?;
        let head = Head::read(Endian::Little, &start).ok();
        let whole = head.filter(|head| head.padded_len as u64 <= left);
        let head = whole.ok_or_else(|| {
            let place = length - left;
            let what = format!("the capture's file is damaged at byte {place}");
            io::Error::new(ErrorKind::InvalidData, what)
        })?;
        let link_type = LinkType(Endian::Little.u16(&start, HEAD_LEN).unwrap_or_default());
        if head.block_type == INTERFACE_DESCRIPTION
            && !found.contains(&link_type)
            && found.len() < INTERFACES_MAX
        {
            found.push(link_type);
        }
        let behind = i64::try_from(head.padded_len - FRAME_LEN);
        input.seek_relative(behind.map_err(io::Error::other)?)?;
        left -= head.padded_len as u64;
    }
    Ok(found)
}

fn content(block: Framed<'_>) -> Result<Content<'_>, Damage> {
    Ok(match block.block_type {
        SECTION_HEADER if block.endian != Endian::Little => {
            return Err(Damage::ByteOrder(block.endian.u32(block.body, 0).unwrap_or_default()));
        }
        SECTION_HEADER => Content::Section,
        INTERFACE_DESCRIPTION => interface(block)?,
        ENHANCED_PACKET => {
            let (data, options) = block.split(20, block.u32(12)?)?;
            Content::Packet(StreamedPacket {
                interface: block.u32(0)?,
                time_ns: block.ticks(4)?,
                original_len: block.u32(16)?,
                data,
                options,
            })
        }
        INTERFACE_STATISTICS => Content::Statistics(statistics(block)?),
        _ => Content::Other,
    })
}

fn interface(block: Framed<'_>) -> Result<Content<'_>, Damage> {
    let mut options = Options::new(block.endian, block.from(8)?);
    while let Some((code, value)) = options.next_option()? {
        // Another unit of time is not written.
        if code == 9 && value != [9] {
            let len = u16::try_from(value.len()).unwrap_or(u16::MAX);
            return Err(Damage::OptionLength { code, len });
        }
    }
    Ok(Content::Interface { link_type: LinkType(block.u16(0)?), snaplen: block.u32(4)? })
}

fn statistics(block: Framed<'_>) -> Result<InterfaceStatistics, Damage> {
    let mut read = InterfaceStatistics {
        interface: block.u32(0)?,
        time_ns: block.ticks(4)?,
        ..InterfaceStatistics::default()
    };
    let mut options = Options::new(block.endian, block.from(12)?);
    while let Some((code, value)) = options.next_option()? {
        let field = match code {
            2 => &mut read.start_ns,
            3 => &mut read.end_ns,
            4 => &mut read.received,
            5 => &mut read.dropped,
            6 => &mut read.filter_accepted,
            7 => &mut read.os_dropped,
            8 => &mut read.delivered,
            _ => continue,
        };
        let number = block.endian.u64(value, 0);
        // Times have their high word first.
        *field = if code <= 3 { number.map(|time| time.rotate_left(32)) } else { number };
    }
    Ok(read)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::pcapng::{PcapngWriter, SectionHeader};
    use crate::{CapturedPacket, InterfaceDescription};
    use std::io::{BufReader, Cursor};

    const STATISTICS: InterfaceStatistics = InterfaceStatistics {
        interface: 0,
        time_ns: 1 << 40,
        start_ns: Some(1 << 41),
        end_ns: Some((1 << 42) + 7),
        received: Some(1),
        dropped: None,
        filter_accepted: Some(2),
        os_dropped: Some(3),
        delivered: Some(4),
    };

    fn stream() -> Vec<u8> {
        let mut writer = PcapngWriter::new(Vec::new(), &SectionHeader::default()).unwrap();
        writer.interface(&InterfaceDescription::new(LinkType::RAW, 96)).unwrap();
        let mut packet = CapturedPacket::new((1 << 33) + 5, b"abcde");
        packet.original_len = 1500;
        packet.queue = Some(1);
        writer.packet(&packet).unwrap();
        writer.statistics(&STATISTICS).unwrap();
        writer.into_inner()
    }

    #[test]
    fn pieces_of_any_length_come_to_the_same_blocks() {
        let stream = stream();
        for size in [1, 3, 12, 50, stream.len()] {
            let (mut blocks, mut bytes, mut number) = (Blocks::default(), Vec::new(), 0);
            for piece in stream.chunks(size) {
                blocks.push(piece);
                while let Some(block) = blocks.next_block().unwrap() {
                    let packet = StreamedPacket {
                        interface: 0,
                        time_ns: (1 << 33) + 5,
                        original_len: 1500,
                        data: b"abcde",
                        options: &[6, 0, 4, 0, 1, 0, 0, 0, 0, 0, 0, 0],
                    };
                    let expected = [
                        Content::Section,
                        Content::Interface { link_type: LinkType::RAW, snaplen: 96 },
                        Content::Packet(packet),
                        Content::Statistics(STATISTICS),
                    ];
                    assert_eq!(block.content, expected[number], "{size}");
                    assert_eq!(block.offset, bytes.len() as u64);
                    bytes.extend_from_slice(block.bytes);
                    number += 1;
                }
            }
            blocks.finish().unwrap();
            assert_eq!((number, &bytes), (4, &stream), "{size}");
        }
    }

    #[test]
    fn a_stream_that_ends_in_a_block_is_cut_short() {
        let stream = stream();
        let mut blocks = Blocks::default();
        blocks.push(&stream[..stream.len() - 5]);
        while blocks.next_block().unwrap().is_some() {}
        let error = blocks.finish().unwrap_err();
        assert_eq!(error.what, Damage::CutShort { missing: 5 });
    }

    #[test]
    fn what_is_none_of_linnets_streams_is_refused() {
        let mut blocks = Blocks::default();
        blocks.push(&[0; 64]);
        assert!(blocks.next_block().is_err());
        let mut microseconds = stream();
        let at = microseconds.windows(5).position(|bytes| bytes == [9, 0, 1, 0, 9]).unwrap();
        microseconds[at + 4] = 6;
        let mut blocks = Blocks::default();
        blocks.push(&microseconds);
        assert!(blocks.next_block().is_ok());
        assert!(blocks.next_block().is_err());
    }

    /// A packet on an interface of each link type.
    fn capture(link_types: &[LinkType]) -> Vec<u8> {
        let mut writer = PcapngWriter::new(Vec::new(), &SectionHeader::default()).unwrap();
        for link_type in link_types {
            writer.interface(&InterfaceDescription::new(*link_type, 4)).unwrap();
            writer.packet(&CapturedPacket::new(1_000_002_003, b"abcdef")).unwrap();
        }
        writer.into_inner()
    }

    #[test]
    fn link_types_are_found_wherever_they_are_described() {
        let mixed = capture(&[LinkType::ETHERNET, LinkType::RAW, LinkType::ETHERNET]);
        let length = mixed.len() as u64;
        let mut input = BufReader::with_capacity(16, Cursor::new(&mixed));
        let found = link_types(&mut input, length).unwrap();
        assert_eq!(found, [LinkType::ETHERNET, LinkType::RAW]);
        let half = capture(&[LinkType::ETHERNET]).len() as u64;
        let mut input = BufReader::new(Cursor::new(&mixed));
        assert_eq!(link_types(&mut input, half).unwrap(), [LinkType::ETHERNET]);
        let mut input = BufReader::new(Cursor::new(&mixed));
        assert!(link_types(&mut input, length - 1).is_err(), "it ends in a block");
    }
}
