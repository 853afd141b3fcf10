//! Which record layout a classic file has: three exist behind two magic numbers.
//! Never changes what is read; it looks ahead at the first records and leaves them in place.
//!
//! Alexey Kuznetsov's libpcap patches of 1999 added fields to the record header. One of them kept
//! the standard magic (Red Hat 6.1), two share 0xa1b2cd34 with different layouts (SuSE 6.3). The
//! only way to tell is to try the layouts on the first records and count what looks wrong, which
//! is what wiretap does too.

use std::io::{Read, Result};

use super::bytes::{Endian, index};
use super::source::Source;

/// Records looked at, as wiretap does.
const RECORDS_TRIED: usize = 3;

/// Layout of the record header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Variant {
    /// Time, captured length, original length: 16 bytes.
    Standard,
    /// Plus interface index, protocol, packet type and a byte of padding: 24 bytes.
    Patched,
    /// Plus four bytes more of debugging counters and padding: 28 bytes.
    PatchedSmp,
}

impl Variant {
    /// Bytes of the record header.
    pub(super) fn header_len(self) -> usize {
        match self {
            Self::Standard => 16,
            Self::Patched => 24,
            Self::PatchedSmp => 28,
        }
    }
}

/// What the file header says that a plausible record must agree with.
#[derive(Clone, Copy, Debug)]
pub(super) struct Expectation {
    pub(super) endian: Endian,
    pub(super) snaplen: u32,
    pub(super) captured_len_max: u32,
}

impl Expectation {
    /// The layout behind the standard magic: standard, unless that fits badly and the patched one
    /// fits perfectly. wiretap takes the least bad; a file that is damaged in its first records
    /// would then be read as garbage.
    pub(super) fn choose_standard<R: Read>(self, source: &mut Source<R>) -> Result<Variant> {
        if self.misfits(Variant::Standard, source)? > 0
            && self.misfits(Variant::Patched, source)? == 0
        {
            return Ok(Variant::Patched);
        }
        Ok(Variant::Standard)
    }

    /// The layout behind the patched magic: whichever fits better, the shorter one when equal.
    pub(super) fn choose_patched<R: Read>(self, source: &mut Source<R>) -> Result<Variant> {
        let patched = self.misfits(Variant::Patched, source)?;
        if patched > 0 && self.misfits(Variant::PatchedSmp, source)? < patched {
            return Ok(Variant::PatchedSmp);
        }
        Ok(Variant::Patched)
    }

    /// How many things look wrong in the first records when read in this layout.
    fn misfits<R: Read>(self, variant: Variant, source: &mut Source<R>) -> Result<u32> {
        let mut misfits = 0;
        let mut at = 0;
        for _ in 0..RECORDS_TRIED {
            let body = at + variant.header_len();
            let have = source.fill(body)?;
            if have == at {
                break;
            }
            let Some(header) = source.bytes().get(at..body) else {
                return Ok(misfits + 1);
            };
            let Some((wrong, captured_len)) = self.header_misfits(variant, header) else {
                return Ok(misfits + 1);
            };
            misfits += wrong;
            if captured_len > self.captured_len_max {
                break;
            }
            at = body + index(captured_len);
            if source.fill(at)? < at {
                return Ok(misfits + 1);
            }
        }
        Ok(misfits)
    }

    fn header_misfits(self, variant: Variant, header: &[u8]) -> Option<(u32, u32)> {
        let endian = self.endian;
        let fraction = endian.u32(header, 4)?;
        let captured_len = endian.u32(header, 8)?;
        let original_len = endian.u32(header, 12)?;
        let mut wrong = u32::from(fraction >= 1_000_000)
            + u32::from(captured_len > self.captured_len_max)
            + u32::from(captured_len > self.snaplen)
            + u32::from(original_len > 128 * 1024 * 1024)
            + u32::from(captured_len > original_len);
        match variant {
            Variant::Standard => {}
            Variant::Patched | Variant::PatchedSmp => {
                let interface = endian.u32(header, 16)?;
                let protocol = endian.u16(header, 20)?;
                let packet_type = *header.get(22)?;
                // Ethertypes, Linux's ETH_P_ values below them, and 0; PACKET_HOST to _LOOPBACK.
                let protocol_known = matches!(protocol, 0..=0x17 | 0x60 | 0x200 | 0x400 | 0x600..);
                wrong += u32::from(interface > 10_000)
                    + u32::from(!protocol_known)
                    + u32::from(packet_type > 4);
            }
        }
        Some((wrong, captured_len))
    }
}
