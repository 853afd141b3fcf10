//! Writing classic pcap, through `pcap-file`.
//! Never writes what the format cannot hold: one link type, times from 1970 to 2106, bytes, nothing
//! else of a packet.

use std::io::{self, Write};
use std::time::Duration;

use byteorder_slice::LittleEndian;
use pcap_file::pcap::{
    PcapHeader, PcapPacket, PcapTsResolution, PcapWriteError, PcapWriter as Records, RawPcapPacket,
};
use pcap_file::{DataLink, Endianness};
use thiserror::Error;

use super::read::stream::StreamedPacket;
use crate::packet::Snaplen;
use crate::{CapturedPacket, LinkType};

/// Unit of a classic file's times.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Resolution {
    /// What every tool reads; nanoseconds are cut off.
    Microseconds,
    /// Magic 0xa1b23c4d, read by libpcap since 1.5 and by Wireshark.
    Nanoseconds,
}

/// Writes packets of one link type.
#[derive(Debug)]
pub struct PcapWriter<W: Write> {
    records: Records<W>,
}

impl<W: Write> PcapWriter<W> {
    /// Writes the file header to `sink`, little endian.
    pub fn new(
        sink: W,
        link_type: LinkType,
        snaplen: Snaplen,
        resolution: Resolution,
    ) -> Result<Self, PcapError> {
        let header = PcapHeader {
            snaplen: snaplen.bytes(),
            datalink: DataLink::from(u32::from(link_type.0)),
            ts_resolution: resolution.into(),
            endianness: Endianness::Little,
            ..PcapHeader::default()
        };
        let records = Records::with_header(sink, header).map_err(failed)?;
        Ok(Self { records })
    }

    /// Writes a packet, cut to the file's snaplen. Its interface, which the format has no place
    /// for, must be of the file's link type.
    pub fn packet(&mut self, packet: &CapturedPacket<'_>) -> Result<(), PcapError> {
        let CapturedPacket { time_ns, original_len, data, .. } = packet;
        let (time_ns, original_len) = (*time_ns, *original_len);
        let (interface, options) = (packet.interface, &[][..]);
        let packet = StreamedPacket { interface, time_ns, original_len, data, options };
        let record = raw(self.records.ts_resolution(), self.records.snaplen(), packet)?;
        self.records.write_raw_packet(&record).map_err(failed)?;
        Ok(())
    }

    /// Gives the sink back.
    pub fn into_inner(self) -> W {
        self.records.into_inner()
    }
}

/// Appends a record to a file of this unit and snaplen; what [`PcapWriter::packet`] writes, for a file that is handed
/// on in pieces.
pub(super) fn record(
    out: &mut Vec<u8>,
    resolution: Resolution,
    snaplen: Snaplen,
    packet: StreamedPacket<'_>,
) -> Result<(), PcapError> {
    let record = raw(resolution.into(), snaplen.bytes(), packet)?;
    record.write_to::<_, LittleEndian>(out).map_err(failed)?;
    Ok(())
}

/// The record of a packet, cut to the file's snaplen.
fn raw(
    resolution: PcapTsResolution,
    snaplen: u32,
    packet: StreamedPacket<'_>,
) -> Result<RawPcapPacket<'_>, PcapError> {
    let StreamedPacket { time_ns, original_len, data, .. } = packet;
    let captured_len = u32::try_from(data.len()).unwrap_or(u32::MAX);
    let kept = &data[..data.len().min(usize::try_from(snaplen).unwrap_or(usize::MAX))];
    let time = Duration::from_nanos(time_ns);
    let record = PcapPacket::new(time, original_len.max(captured_len), kept)
        .map_err(|_| PcapError::TimeOutOfRange { time_ns })?;
    Ok(record.into_raw_packet(resolution))
}

impl From<Resolution> for PcapTsResolution {
    fn from(resolution: Resolution) -> Self {
        match resolution {
            Resolution::Microseconds => Self::MicroSecond,
            Resolution::Nanoseconds => Self::NanoSecond,
        }
    }
}

/// Why a classic file could not be written.
#[derive(Debug, Error)]
pub enum PcapError {
    /// The sink refused bytes; the file may end in part of a record.
    #[error("cannot write the pcap file; check the space and the rights at its place")]
    Write(#[source] io::Error),
    /// The packet's time needs more than 32 bits of seconds.
    #[error(
        "cannot write a packet of {time_ns} ns since 1970 to a pcap file, which ends in 2106; write pcapng"
    )]
    TimeOutOfRange {
        /// The packet's time.
        time_ns: u64,
    },
}

fn failed(error: PcapWriteError) -> PcapError {
    match error {
        PcapWriteError::Io(source) | PcapWriteError::FieldWriteFailed(_, source) => {
            PcapError::Write(source)
        }
        // Lengths and times are checked before; pcap-file agreeing twice is not a failed write.
        PcapWriteError::Validation(error) => PcapError::Write(io::Error::other(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(resolution: Resolution, packets: &[CapturedPacket<'_>]) -> Result<Vec<u8>, PcapError> {
        let mut writer = PcapWriter::new(Vec::new(), LinkType::RAW, four_bytes(), resolution)?;
        for packet in packets {
            writer.packet(packet)?;
        }
        Ok(writer.into_inner())
    }

    fn four_bytes() -> Snaplen {
        Snaplen::try_new(4).unwrap()
    }

    #[test]
    fn packets_are_cut_to_the_snaplen_and_keep_their_original_length() {
        let packet = CapturedPacket::new(1_000_002_003, b"abcdef");
        let bytes = file(Resolution::Microseconds, &[packet]).unwrap();
        let header = b"\xd4\xc3\xb2\xa1\x02\0\x04\0\0\0\0\0\0\0\0\0\x04\0\0\0\x65\0\0\0";
        let record = b"\x01\0\0\0\x02\0\0\0\x04\0\0\0\x06\0\0\0abcd";
        assert_eq!(bytes, [&header[..], record].concat());
    }

    #[test]
    fn nanoseconds_are_kept_where_they_are_asked_for() {
        let packet = CapturedPacket::new(1_000_002_003, b"ab");
        let bytes = file(Resolution::Nanoseconds, &[packet]).unwrap();
        assert_eq!(bytes[..4], 0xa1b2_3c4d_u32.to_le_bytes());
        assert_eq!(bytes[28..32], 2003_u32.to_le_bytes());
    }

    #[test]
    fn a_record_in_pieces_is_the_writers() {
        let packet =
            CapturedPacket { original_len: 3, ..CapturedPacket::new(7_000_002_003, b"abcdef") };
        for resolution in [Resolution::Microseconds, Resolution::Nanoseconds] {
            let whole = file(resolution, std::slice::from_ref(&packet)).unwrap();
            let mut out = file(resolution, &[]).unwrap();
            let streamed = StreamedPacket {
                interface: 0,
                time_ns: packet.time_ns,
                original_len: 3,
                data: &packet.data,
                options: &[],
            };
            record(&mut out, resolution, four_bytes(), streamed).unwrap();
            assert_eq!(out, whole);
        }
    }

    #[test]
    fn times_after_2106_are_refused() {
        let packet = CapturedPacket::new((1 << 32) * 1_000_000_000, b"");
        let error = file(Resolution::Nanoseconds, &[packet]).unwrap_err();
        assert!(matches!(error, PcapError::TimeOutOfRange { .. }), "{error}");
    }
}
