//! The pcapng encoder: section headers, interfaces, packets, statistics, byte by byte.
//! Never buffers between blocks and never writes half of one itself: a block is encoded whole, then
//! handed over.
//!
//! Layout: `draft-ietf-opsawg-pcapng` (IETF, 2026). Every block is little endian, times are
//! nanoseconds since 1970 (`if_tsresol` 9). `pcap-file` can write pcapng too, but encodes each
//! block twice to learn its length, allocates per option, and has no `epb_packetid` or `epb_queue`.

mod options;
#[cfg(test)]
mod tests;

use std::io::{self, Write};

use crate::packet::{COMMENTS_MAX, Snaplen};
use crate::{CapturedPacket, Direction, InterfaceDescription};
pub use options::OPTION_MAX;
pub(super) use options::Options;

/// What a section says about where it was captured.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SectionHeader {
    /// Hardware of the capturing machine.
    pub hardware: Option<String>,
    /// Its operating system.
    pub os: Option<String>,
    /// The program that writes the file, with its version.
    pub application: Option<String>,
}

/// Counters of one interface at one moment (Interface Statistics Block).
///
/// The names are pcapng's; what linnet puts into each is said here, since the standard leaves room.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct InterfaceStatistics {
    /// Index of the interface in its section.
    pub interface: u32,
    /// When these counters were read, nanoseconds since 1970.
    pub time_ns: u64,
    /// When the capture began (`isb_starttime`).
    pub start_ns: Option<u64>,
    /// When it ended (`isb_endtime`); only the last statistics of an interface have it.
    pub end_ns: Option<u64>,
    /// Packets the interface received (`isb_ifrecv`).
    pub received: Option<u64>,
    /// Packets the interface itself dropped (`isb_ifdrop`).
    pub dropped: Option<u64>,
    /// Packets that matched the capture's filter (`isb_filteraccept`).
    pub filter_accepted: Option<u64>,
    /// Packets lost between the hook and the file (`isb_osdrop`).
    pub os_dropped: Option<u64>,
    /// Packets written to this file (`isb_usrdeliv`).
    pub delivered: Option<u64>,
}

/// Appends a section header; it ends the section before it, whose interfaces no longer count.
pub fn section_header(out: &mut Vec<u8>, header: &SectionHeader) {
    block(out, 0x0a0d_0d0a, |out| {
        put32(out, 0x1a2b_3c4d);
        out.extend_from_slice(&[1, 0, 0, 0]);
        // The section's length is not known before its end.
        out.extend_from_slice(&(-1_i64).to_le_bytes());
        let mut options = Options::new(out);
        options.text(2, header.hardware.as_deref());
        options.text(3, header.os.as_deref());
        options.text(4, header.application.as_deref());
        options.end();
    });
}

/// Appends an interface; the first of a section is number 0.
pub fn interface_description(out: &mut Vec<u8>, interface: &InterfaceDescription) {
    block(out, 1, |out| {
        out.extend_from_slice(&interface.link_type.0.to_le_bytes());
        out.extend_from_slice(&[0, 0]);
        put32(out, interface.snaplen);
        let mut options = Options::new(out);
        options.text(2, interface.name.as_deref());
        options.text(3, interface.description.as_deref());
        options.bytes(9, &[9]);
        options.filter(11, interface.filter.as_deref());
        options.text(12, interface.os.as_deref());
        options.text(15, interface.hardware.as_deref());
        options.end();
    });
}

/// Appends a packet of interface `packet.interface`, which the section must have described.
///
/// Captured bytes beyond `snaplen` are left out ([`Snaplen::WHOLE`] is what Wireshark reads at
/// most). An original length below the captured one, which readers refuse, is raised to it.
/// Of more than [`COMMENTS_MAX`] comments the last one written says how many are missing.
pub fn enhanced_packet(out: &mut Vec<u8>, packet: &CapturedPacket<'_>, snaplen: Snaplen) {
    let data = snaplen.cut(&packet.data);
    let captured_len = u32::try_from(data.len()).unwrap_or(Snaplen::MAX);
    block(out, 6, |out| {
        put32(out, packet.interface);
        put_time(out, packet.time_ns);
        put32(out, captured_len);
        put32(out, packet.original_len.max(packet.captured_len()));
        out.extend_from_slice(data);
        pad(out, data.len());
        let mut options = Options::new(out);
        if let Some(direction) = packet.direction {
            let flags: u32 = match direction {
                Direction::Inbound => 1,
                Direction::Outbound => 2,
            };
            options.bytes(2, &flags.to_le_bytes());
        }
        options.number(4, packet.drop_count);
        options.number(5, packet.packet_id);
        if let Some(queue) = packet.queue {
            options.bytes(6, &queue.to_le_bytes());
        }
        comments(&mut options, packet);
        options.end();
    });
}

fn comments(options: &mut Options<'_>, packet: &CapturedPacket<'_>) {
    if packet.comments.len() <= COMMENTS_MAX {
        for comment in &packet.comments {
            options.text(1, Some(comment));
        }
        return;
    }
    let written = COMMENTS_MAX - 1;
    for comment in &packet.comments[..written] {
        options.text(1, Some(comment));
    }
    let missing = packet.comments.len() - written;
    options.text(1, Some(&format!("{missing} more comments are left out")));
}

/// Appends statistics of an interface that the section has described.
pub fn interface_statistics(out: &mut Vec<u8>, statistics: &InterfaceStatistics) {
    block(out, 5, |out| {
        put32(out, statistics.interface);
        put_time(out, statistics.time_ns);
        let mut options = Options::new(out);
        options.time(2, statistics.start_ns);
        options.time(3, statistics.end_ns);
        options.number(4, statistics.received);
        options.number(5, statistics.dropped);
        options.number(6, statistics.filter_accepted);
        options.number(7, statistics.os_dropped);
        options.number(8, statistics.delivered);
        options.end();
    });
}

/// Writes a block's frame around what `body` appends, which must be a multiple of 4 bytes.
pub(super) fn block(out: &mut Vec<u8>, block_type: u32, body: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    put32(out, block_type);
    put32(out, 0);
    body(out);
    debug_assert!((out.len() - start).is_multiple_of(4), "a block body is padded by its writer");
    // Longest: a packet of 256 KiB and 64 comments and 10 other options of 64 KiB each.
    let len = u32::try_from(out.len() - start + 4).unwrap_or(u32::MAX);
    out[start + 4..start + 8].copy_from_slice(&len.to_le_bytes());
    put32(out, len);
}

fn put32(out: &mut Vec<u8>, value: u32) {
    out.extend_from_slice(&value.to_le_bytes());
}

/// A time in two words, the high one first.
fn put_time(out: &mut Vec<u8>, time_ns: u64) {
    let bytes = time_ns.to_le_bytes();
    out.extend_from_slice(&bytes[4..]);
    out.extend_from_slice(&bytes[..4]);
}

/// The zeros that bring `len` bytes to a multiple of 4.
fn pad(out: &mut Vec<u8>, len: usize) {
    out.extend_from_slice(&[0; 3][..len.wrapping_neg() & 3]);
}

/// Writes blocks to a sink, each in one `write_all`, and counts the bytes of whole blocks.
///
/// After an error the sink may hold part of a block beyond [`PcapngWriter::whole_bytes`]; cut it
/// there and the file is good.
#[derive(Debug)]
pub struct PcapngWriter<W> {
    sink: W,
    block: Vec<u8>,
    whole_bytes: u64,
}

impl<W: Write> PcapngWriter<W> {
    /// Begins a section in `sink`.
    pub fn new(sink: W, header: &SectionHeader) -> io::Result<Self> {
        let mut writer = Self { sink, block: Vec::new(), whole_bytes: 0 };
        writer.write(|out| section_header(out, header))?;
        Ok(writer)
    }

    /// Describes the section's next interface, from number 0.
    pub fn interface(&mut self, interface: &InterfaceDescription) -> io::Result<()> {
        self.write(|out| interface_description(out, interface))
    }

    /// Writes a packet of an interface that has been described.
    pub fn packet(&mut self, packet: &CapturedPacket<'_>) -> io::Result<()> {
        self.write(|out| enhanced_packet(out, packet, Snaplen::WHOLE))
    }

    /// Writes statistics of an interface that has been described.
    pub fn statistics(&mut self, statistics: &InterfaceStatistics) -> io::Result<()> {
        self.write(|out| interface_statistics(out, statistics))
    }

    /// Bytes of the blocks that are in the sink as a whole.
    pub fn whole_bytes(&self) -> u64 {
        self.whole_bytes
    }

    /// Gives the sink back.
    pub fn into_inner(self) -> W {
        self.sink
    }

    fn write(&mut self, encode: impl FnOnce(&mut Vec<u8>)) -> io::Result<()> {
        self.block.clear();
        encode(&mut self.block);
        self.sink.write_all(&self.block)?;
        self.whole_bytes += self.block.len() as u64;
        Ok(())
    }
}
