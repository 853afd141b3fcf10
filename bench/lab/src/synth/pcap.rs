//! Writes classic pcap with nanosecond time and Ethernet frames (draft-ietf-opsawg-pcap). Never
//! reads.

use std::io::{self, Write};

use crate::clock::NANOS_PER_SEC;

const MAGIC_NANOSECONDS: u32 = 0xa1b2_3c4d;
const LINKTYPE_ETHERNET: u32 = 1;
const SNAPLEN: u32 = 262_144;

/// A pcap file in the making.
#[derive(Debug)]
pub(super) struct PcapWriter<W> {
    to: W,
}

impl<W: Write> PcapWriter<W> {
    /// Writes the file header.
    pub(super) fn new(mut to: W) -> io::Result<Self> {
        to.write_all(&MAGIC_NANOSECONDS.to_le_bytes())?;
        to.write_all(&2_u16.to_le_bytes())?;
        to.write_all(&4_u16.to_le_bytes())?;
        to.write_all(&[0; 8])?;
        to.write_all(&SNAPLEN.to_le_bytes())?;
        to.write_all(&LINKTYPE_ETHERNET.to_le_bytes())?;
        Ok(Self { to })
    }

    /// Writes one frame; `wall_ns` is since 1970 and before 2106.
    pub(super) fn frame(&mut self, wall_ns: u64, frame: &[u8]) -> io::Result<()> {
        let invalid = |_| io::Error::from(io::ErrorKind::InvalidInput);
        let seconds = u32::try_from(wall_ns / NANOS_PER_SEC).map_err(invalid)?;
        let nanos = u32::try_from(wall_ns % NANOS_PER_SEC).map_err(invalid)?;
        let length = u32::try_from(frame.len()).map_err(invalid)?;
        for word in [seconds, nanos, length, length] {
            self.to.write_all(&word.to_le_bytes())?;
        }
        self.to.write_all(frame)
    }

    /// Hands everything on.
    pub(super) fn finish(mut self) -> io::Result<()> {
        self.to.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_has_its_header_and_its_records() {
        let mut bytes = Vec::new();
        let mut writer = PcapWriter::new(&mut bytes).unwrap();
        writer.frame(3 * NANOS_PER_SEC + 5, &[9; 14]).unwrap();
        writer.finish().unwrap();
        assert_eq!(bytes.len(), 24 + 16 + 14);
        assert_eq!(bytes[..4], [0x4d, 0x3c, 0xb2, 0xa1]);
        assert_eq!(bytes[24..32], [3, 0, 0, 0, 5, 0, 0, 0]);
    }
}
