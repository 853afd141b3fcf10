//! Classic pcap: a header of 24 bytes, then records.
//! Never trusts the header's snaplen: files hold longer packets, and tshark reads them.

use std::borrow::Cow;
use std::io::Read;

use pcap_file::pcap::PcapParser;

use super::bytes::{Endian, index};
use super::error::{Damage, Fault};
use super::source::Source;
use super::variant::{Expectation, Variant};
use crate::{CapturedPacket, InterfaceDescription, LinkType};

/// Bytes needed to recognise a file.
pub(super) const MAGIC_LEN: usize = 4;
const HEADER_LEN: usize = 24;

/// Upper half of the link field: FCS length and its flag, which do not change what packets there
/// are. The bits between must be zero (`pcap-savefile(5)`).
const LINK_RESERVED: u32 = 0x03ff_0000;

/// What the first four bytes say.
#[derive(Clone, Copy, Debug)]
pub(super) struct Magic {
    endian: Endian,
    kind: MagicKind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum MagicKind {
    Microseconds,
    Nanoseconds,
    /// 0xa1b2cd34: microseconds and one of the patched record layouts.
    Patched,
}

impl Magic {
    pub(super) fn recognise(bytes: &[u8]) -> Option<Self> {
        [Endian::Little, Endian::Big].into_iter().find_map(|endian| {
            let kind = match endian.u32(bytes, 0)? {
                0xa1b2_c3d4 => MagicKind::Microseconds,
                0xa1b2_3c4d => MagicKind::Nanoseconds,
                0xa1b2_cd34 => MagicKind::Patched,
                _ => return None,
            };
            Some(Self { endian, kind })
        })
    }
}

/// Order of the two lengths in a record header, which changed with version 2.3.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lengths {
    CapturedFirst,
    OriginalFirst,
    /// Version 2.3 was written in both orders; the captured length is the smaller one.
    SmallerIsCaptured,
}

impl Lengths {
    /// Source: libpcap's `sf-pcap.c`; 543 is what DG/UX's tcpdump wrote.
    fn of_version(major: u16, minor: u16) -> Self {
        match (major, minor) {
            (2, 0..3) | (543, _) => Self::OriginalFirst,
            (2, 3) => Self::SmallerIsCaptured,
            _ => Self::CapturedFirst,
        }
    }
}

/// An open classic file.
#[derive(Debug)]
pub(super) struct Classic {
    endian: Endian,
    kind: MagicKind,
    link_type: LinkType,
    snaplen: u32,
    lengths: Lengths,
    /// Decodes standard records; the header it was made of has one of the magics it knows.
    parser: Option<PcapParser>,
    /// Told by the first records, once they are asked for.
    variant: Option<Variant>,
}

impl Classic {
    /// Reads the header that `magic` begins.
    pub(super) fn open<R: Read>(
        magic: Magic,
        source: &mut Source<R>,
    ) -> Result<(Self, InterfaceDescription), Fault> {
        let have = source.fill(HEADER_LEN)?;
        if have < HEADER_LEN {
            return Err(cut_short(0, HEADER_LEN - have));
        }
        let Magic { endian, kind } = magic;
        let header = source.take(HEADER_LEN);
        let (major, minor) = (field16(endian, header, 4), field16(endian, header, 6));
        let (snaplen, link) = (field32(endian, header, 16), field32(endian, header, 20));
        if major < 2 {
            return Err(Fault::Damage { offset: 0, what: Damage::Version { major, minor } });
        }
        if link & LINK_RESERVED != 0 {
            return Err(Fault::Damage { offset: 0, what: Damage::LinkTypeReserved(link) });
        }
        let link_type = LinkType(match endian {
            Endian::Little => field16(endian, header, 20),
            Endian::Big => field16(endian, header, 22),
        });
        let lengths = Lengths::of_version(major, minor);
        // Only the standard magic at version 2.4 and later hides a patched layout.
        let variant = match (kind, lengths) {
            (MagicKind::Microseconds | MagicKind::Patched, Lengths::CapturedFirst) => None,
            (MagicKind::Nanoseconds, _)
            | (_, Lengths::OriginalFirst | Lengths::SmallerIsCaptured) => Some(Variant::Standard),
        };
        let parser = PcapParser::new(header).ok().map(|(_, parser)| parser);
        let classic = Self { endian, kind, link_type, snaplen, lengths, parser, variant };
        Ok((classic, InterfaceDescription::new(link_type, snaplen)))
    }

    /// The next record, or `None` where the file ends between two.
    pub(super) fn next_record<'s, R: Read>(
        &mut self,
        source: &'s mut Source<R>,
    ) -> Result<Option<(LinkType, CapturedPacket<'s>)>, Fault> {
        let variant = self.variant(source)?;
        let offset = source.offset();
        let header_len = variant.header_len();
        let have = source.fill(header_len)?;
        if have == 0 {
            return Ok(None);
        }
        if have < header_len {
            return Err(cut_short(offset, header_len - have));
        }
        let (captured_len, original_len) = self.record_lengths(source.bytes());
        let max = self.link_type.captured_len_max();
        if captured_len > max {
            return Err(Fault::Damage {
                offset,
                what: Damage::PacketTooLong { captured_len, max },
            });
        }
        let record_len = header_len + index(captured_len);
        let have = source.fill(record_len)?;
        if have < record_len {
            return Err(cut_short(offset, record_len - have));
        }
        let record = source.take(record_len);
        let (seconds, fraction, data) = match (&self.parser, variant, self.lengths) {
            (Some(parser), Variant::Standard, Lengths::CapturedFirst) => {
                match parser.next_raw_packet(record) {
                    Ok((_, raw)) => (raw.ts_sec, raw.ts_frac, raw.data),
                    // The record is whole, which is all that pcap-file asks of a raw packet.
                    Err(_) => return Err(cut_short(offset, 0)),
                }
            }
            _ => (
                field32(self.endian, record, 0),
                field32(self.endian, record, 4),
                Cow::Borrowed(&record[header_len..]),
            ),
        };
        let nanos_per_fraction = match self.kind {
            MagicKind::Nanoseconds => 1,
            MagicKind::Microseconds | MagicKind::Patched => 1000,
        };
        // Neither product nor sum can overflow: both factors of each are 32 bits or less. A
        // fraction of a second and more is carried, as tshark does.
        let time_ns = u64::from(seconds) * 1_000_000_000 + u64::from(fraction) * nanos_per_fraction;
        let packet = CapturedPacket { data, original_len, ..CapturedPacket::new(time_ns, &[]) };
        Ok(Some((self.link_type, packet)))
    }

    fn variant<R: Read>(&mut self, source: &mut Source<R>) -> Result<Variant, Fault> {
        if let Some(variant) = self.variant {
            return Ok(variant);
        }
        let expectation = Expectation {
            endian: self.endian,
            snaplen: self.snaplen,
            captured_len_max: self.link_type.captured_len_max(),
        };
        let variant = match self.kind {
            MagicKind::Patched => expectation.choose_patched(source)?,
            MagicKind::Microseconds | MagicKind::Nanoseconds => {
                expectation.choose_standard(source)?
            }
        };
        self.variant = Some(variant);
        Ok(variant)
    }

    /// Captured and original length of the record whose header begins `bytes`.
    fn record_lengths(&self, bytes: &[u8]) -> (u32, u32) {
        let (first, second) = (field32(self.endian, bytes, 8), field32(self.endian, bytes, 12));
        match self.lengths {
            Lengths::CapturedFirst => (first, second),
            Lengths::OriginalFirst => (second, first),
            Lengths::SmallerIsCaptured => (first.min(second), first.max(second)),
        }
    }
}

fn cut_short(offset: u64, missing: usize) -> Fault {
    Fault::Damage { offset, what: Damage::CutShort { missing: missing as u64 } }
}

/// A field of a header that is there in full.
fn field32(endian: Endian, header: &[u8], at: usize) -> u32 {
    endian.u32(header, at).unwrap_or_default()
}

fn field16(endian: Endian, header: &[u8], at: usize) -> u16 {
    endian.u16(header, at).unwrap_or_default()
}
