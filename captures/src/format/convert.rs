//! Classic pcap out of a capture of linnet's, piece by piece, as it comes.
//! Never holds more than a block and a piece, and never mixes link types: it fails at the second one.
//!
//! What a classic file has no place for is left out: interfaces, directions, queues, comments, statistics.

use std::io::{self, BufRead, ErrorKind, Read, Seek};

use thiserror::Error;

use super::pcap::{self, PcapError, PcapWriter, Resolution};
use super::read::stream::{Blocks, Content, INTERFACES_MAX, StreamError};
use crate::{LinkType, Snaplen};

/// Type of an interface's description, and the bytes before its link type.
const INTERFACE: [u8; 4] = [1, 0, 0, 0];
const HEAD_LEN: usize = 10;

/// A capture on its way into classic pcap.
#[derive(Debug)]
pub struct Converter {
    resolution: Resolution,
    blocks: Blocks,
    /// Link type and snaplen of the interfaces, once there is one.
    file: Option<(LinkType, Snaplen)>,
    /// Whether the file's header has been given.
    begun: bool,
}

impl Converter {
    /// Begins a file with times in this unit.
    pub fn new(resolution: Resolution) -> Self {
        Self { resolution, blocks: Blocks::default(), file: None, begun: false }
    }

    /// Takes the next bytes of the pcapng, and appends what they come to to `out`. After an error `out` has what came
    /// before it.
    pub fn convert(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Result<(), ConvertError> {
        self.blocks.push(bytes);
        while let Some(block) = self.blocks.next_block()? {
            match block.content {
                Content::Interface { link_type, snaplen } => match self.file {
                    None => {
                        // One without a limit has the largest.
                        let snaplen = Snaplen::try_new(snaplen).unwrap_or(Snaplen::WHOLE);
                        self.file = Some((link_type, snaplen));
                    }
                    Some((first, _)) if first == link_type => {}
                    Some((first, _)) => return Err(ConvertError::LinkTypes(first, link_type)),
                },
                Content::Packet(packet) => {
                    let (link_type, snaplen) = self.file.ok_or(ConvertError::NoInterface)?;
                    if !self.begun {
                        self.begun = true;
                        header(self.resolution, link_type, snaplen, out)?;
                    }
                    pcap::record(out, self.resolution, snaplen, packet)?;
                }
                Content::Section | Content::Statistics(_) | Content::Other => {}
            }
        }
        // Not before all interfaces of the beginning were seen, so that nothing is written of what is refused.
        if let (false, Some((link_type, snaplen))) = (self.begun, self.file) {
            self.begun = true;
            header(self.resolution, link_type, snaplen, out)?;
        }
        Ok(())
    }

    /// Whether the capture ends here between two blocks, and was one.
    pub fn finish(&self) -> Result<(), ConvertError> {
        self.blocks.finish()?;
        if self.begun { Ok(()) } else { Err(ConvertError::NoInterface) }
    }
}

fn header(
    resolution: Resolution,
    link_type: LinkType,
    snaplen: Snaplen,
    out: &mut Vec<u8>,
) -> Result<(), PcapError> {
    PcapWriter::new(out, link_type, snaplen, resolution).map(drop)
}

/// The link types of the interfaces that the first `length` bytes of a capture of linnet's describe, each once, in
/// their order. Reads heads of blocks only, and past long ones not even that.
pub fn link_types(
    input: &mut io::BufReader<impl Read + Seek>,
    length: u64,
) -> io::Result<Vec<LinkType>> {
    let mut found = Vec::new();
    let mut left = length;
    while left >= HEAD_LEN as u64 && !input.fill_buf()?.is_empty() {
        let mut head = [0; HEAD_LEN];
        input.read_exact(&mut head)?;
        let [.., a, b, c, d, low, high] = head;
        let len = u64::from(u32::from_le_bytes([a, b, c, d]));
        let behind = len.checked_sub(HEAD_LEN as u64).filter(|_| len <= left);
        let behind = behind.and_then(|behind| i64::try_from(behind).ok());
        let behind = behind.ok_or_else(|| {
            let place = length - left;
            let what = format!("the capture's file is damaged at byte {place}");
            io::Error::new(ErrorKind::InvalidData, what)
        })?;
        let link_type = LinkType(u16::from_le_bytes([low, high]));
        if head.starts_with(&INTERFACE)
            && !found.contains(&link_type)
            && found.len() < INTERFACES_MAX
        {
            found.push(link_type);
        }
        input.seek_relative(behind)?;
        left -= len;
    }
    Ok(found)
}

/// Why a capture cannot be a classic file.
#[derive(Debug, Error)]
pub enum ConvertError {
    /// Its interfaces differ.
    #[error(
        "the capture has interfaces of link types {0} and {1}, and a pcap file has room for one; \
         take pcapng, or capture on one interface"
    )]
    LinkTypes(LinkType, LinkType),
    /// It has a packet, or its end, before any interface.
    #[error("the capture describes no interface, so its link type is not known; take pcapng")]
    NoInterface,
    /// It is none of linnet's, or broken.
    #[error(transparent)]
    Stream(#[from] StreamError),
    /// A packet does not fit the format.
    #[error(transparent)]
    Pcap(#[from] PcapError),
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::pcapng::{PcapngWriter, SectionHeader};
    use crate::{CapturedPacket, InterfaceDescription};
    use std::io::{BufReader, Cursor};

    fn capture(link_types: &[LinkType]) -> Vec<u8> {
        let mut writer = PcapngWriter::new(Vec::new(), &SectionHeader::default()).unwrap();
        for link_type in link_types {
            writer.interface(&InterfaceDescription::new(*link_type, 4)).unwrap();
            writer.packet(&CapturedPacket::new(1_000_002_003, b"abcdef")).unwrap();
        }
        writer.into_inner()
    }

    #[test]
    fn a_capture_in_pieces_is_the_file_that_the_writer_makes() {
        let (resolution, packet) =
            (Resolution::Nanoseconds, CapturedPacket::new(1_000_002_003, b"abcdef"));
        let snaplen = Snaplen::try_new(4).unwrap();
        let mut writer = PcapWriter::new(Vec::new(), LinkType::RAW, snaplen, resolution).unwrap();
        writer.packet(&packet).unwrap();
        writer.packet(&packet).unwrap();
        let expected = writer.into_inner();
        for size in [1, 7, 1_000] {
            let (mut converter, mut out) = (Converter::new(resolution), Vec::new());
            for piece in capture(&[LinkType::RAW, LinkType::RAW]).chunks(size) {
                converter.convert(piece, &mut out).unwrap();
            }
            converter.finish().unwrap();
            assert_eq!(out, expected, "{size}");
        }
    }

    #[test]
    fn a_second_link_type_is_refused_behind_what_came_before() {
        let mut out = Vec::new();
        let mut converter = Converter::new(Resolution::Microseconds);
        let mixed = capture(&[LinkType::ETHERNET, LinkType::RAW]);
        let error = converter.convert(&mixed, &mut out).unwrap_err();
        assert!(matches!(error, ConvertError::LinkTypes(LinkType::ETHERNET, LinkType::RAW)));
        assert_eq!(out.len(), 24 + 16 + 4, "one record");
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

    #[test]
    fn what_describes_no_interface_is_no_capture() {
        let mut out = Vec::new();
        let mut converter = Converter::new(Resolution::Microseconds);
        converter.convert(&capture(&[]), &mut out).unwrap();
        assert!(matches!(converter.finish().unwrap_err(), ConvertError::NoInterface));
        assert!(out.is_empty());
    }
}
