//! Classic pcap out of a capture of linnet's, piece by piece, as it comes.
//! Never holds more than a block and a piece, and never mixes link types: it fails at the second one.
//!
//! What a classic file has no place for is left out: interfaces, directions, queues, comments, statistics.

use thiserror::Error;

use super::pcap::{self, PcapError, PcapWriter, Resolution};
use super::read::stream::{Blocks, Content, StreamError};
use crate::{LinkType, Snaplen};

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
    fn what_describes_no_interface_is_no_capture() {
        let mut out = Vec::new();
        let mut converter = Converter::new(Resolution::Microseconds);
        converter.convert(&capture(&[]), &mut out).unwrap();
        assert!(matches!(converter.finish().unwrap_err(), ConvertError::NoInterface));
        assert!(out.is_empty());
    }
}
