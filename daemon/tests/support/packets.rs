//! Packets as a capture file has them. Only reads.

use std::path::Path;

use captures::{Format, PacketReader};

/// A packet of a file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Packet {
    pub(crate) time_ns: u64,
    pub(crate) original_len: u32,
    pub(crate) data: Vec<u8>,
}

/// The format of a file, and all of its packets.
pub(crate) fn read(path: &Path) -> (Format, Vec<Packet>) {
    let mut reader = PacketReader::open(path).unwrap();
    let mut packets = Vec::new();
    while let Some(read) = reader.next_packet().unwrap() {
        packets.push(Packet {
            time_ns: read.packet.time_ns,
            original_len: read.packet.original_len,
            data: read.packet.data.into_owned(),
        });
    }
    (reader.format(), packets)
}

/// The packets alone.
pub(crate) fn packets(path: &Path) -> Vec<Packet> {
    read(path).1
}
