//! Interface descriptions of pcapng: their texts, and how their packets' times are counted.
//! Never refuses text: what is not UTF-8 is replaced, what is too much is left out.

use super::error::Damage;
use super::options::Options;
use crate::{InterfaceDescription, LinkType};

/// Most text kept of all the interface descriptions of a file; what exceeds it is left out.
pub(super) const TEXT_MAX: usize = 16 * 1024 * 1024;

const NANOS: u128 = 1_000_000_000;

/// What the packets of a section need to know of an interface.
#[derive(Debug)]
pub(super) struct SectionInterface {
    /// Index among all interfaces of the file.
    pub(super) number: u32,
    pub(super) link_type: LinkType,
    pub(super) snaplen: u32,
    ticks_per_second: u128,
    offset_s: i64,
}

impl SectionInterface {
    /// The time `ticks` stands for, exact to the nanosecond below it; before 1970 it is 0 and
    /// after 2554 it is the latest there is.
    ///
    /// tshark multiplies in 64 bits, so that above 18 GHz its fraction is wrong; this one is not.
    pub(super) fn time_ns(&self, ticks: u64) -> u64 {
        let ns = u128::from(ticks) * NANOS / self.ticks_per_second;
        let ns = ns.cast_signed() + i128::from(self.offset_s) * NANOS.cast_signed();
        u64::try_from(ns.max(0)).unwrap_or(u64::MAX)
    }
}

/// Reads the options of an Interface Description Block into `description`.
pub(super) fn describe(
    number: u32,
    mut description: InterfaceDescription,
    mut options: Options<'_>,
    mut text_left: usize,
) -> Result<(InterfaceDescription, SectionInterface), Damage> {
    let endian = options.endian;
    let mut resolution = None;
    let mut offset_s = None;
    let mut text = |slot: &mut Option<String>, value: &[u8]| {
        if slot.is_none() && value.len() <= text_left {
            let kept = String::from_utf8_lossy(value).into_owned();
            text_left = text_left.saturating_sub(kept.len());
            *slot = Some(kept);
        }
    };
    while let Some((code, value)) = options.next_option()? {
        match (code, value) {
            (2, _) => text(&mut description.name, value),
            (3, _) => text(&mut description.description, value),
            (9, [exponent]) => resolution = resolution.or(Some(*exponent)),
            (11, []) => return Err(Damage::OptionLength { code, len: 0 }),
            // The first byte tells text (0) from machine code (1).
            (11, [0, filter @ ..]) => text(&mut description.filter, filter),
            (12, _) => text(&mut description.os, value),
            (14, [_, _, _, _, _, _, _, _]) => offset_s = offset_s.or_else(|| endian.i64(value, 0)),
            (15, _) => text(&mut description.hardware, value),
            _ => {}
        }
    }
    let interface = SectionInterface {
        number,
        link_type: description.link_type,
        snaplen: description.snaplen,
        ticks_per_second: ticks_per_second(resolution.unwrap_or(6)),
        offset_s: offset_s.unwrap_or(0),
    };
    Ok((description, interface))
}

/// Bytes of text that `description` keeps.
pub(super) fn text_len(description: &InterfaceDescription) -> usize {
    let InterfaceDescription { link_type: _, snaplen: _, name, description, filter, hardware, os } =
        description;
    [name, description, filter, hardware, os].into_iter().flatten().map(String::len).sum()
}

/// Ticks per second of an `if_tsresol`: a power of ten, or of two where the top bit is set.
///
/// Above 10^38 and 2^127 it stays there: every 64-bit time is then in the first nanosecond.
fn ticks_per_second(resolution: u8) -> u128 {
    let exponent = u32::from(resolution & 0x7f);
    if resolution & 0x80 == 0 { 10_u128.saturating_pow(exponent) } else { 1 << exponent }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interface(resolution: u8, offset_s: i64) -> SectionInterface {
        SectionInterface {
            number: 0,
            link_type: LinkType::ETHERNET,
            snaplen: 0,
            ticks_per_second: ticks_per_second(resolution),
            offset_s,
        }
    }

    #[test]
    fn decimal_and_binary_ticks_become_nanoseconds() {
        assert_eq!(interface(6, 0).time_ns(1_700_000_000_000_001), 1_700_000_000_000_001_000);
        assert_eq!(interface(0, 0).time_ns(7), 7_000_000_000);
        assert_eq!(interface(12, 0).time_ns(1_700_000_999_999_999_999), 1_700_000_999_999_999);
        assert_eq!(interface(0x80 | 30, 0).time_ns(3 << 29), 1_500_000_000);
        assert_eq!(interface(0x80 | 63, 0).time_ns(u64::MAX), 1_999_999_999);
    }

    #[test]
    fn offsets_shift_whole_seconds_and_stop_at_both_ends_of_time() {
        assert_eq!(interface(6, 1000).time_ns(5_000_000), 1_005_000_000_000);
        assert_eq!(interface(6, -1000).time_ns(5_000_000), 0);
        assert_eq!(interface(0, i64::MAX).time_ns(u64::MAX), u64::MAX);
        assert_eq!(interface(0, i64::MIN).time_ns(0), 0);
    }

    #[test]
    fn resolutions_finer_than_64_bits_count_from_zero() {
        assert_eq!(interface(20, 0).time_ns(u64::MAX), 184_467_440);
        assert_eq!(interface(0x80 | 64, 1).time_ns(u64::MAX), 1_999_999_999);
        for resolution in [0x7f, 0xff] {
            assert_eq!(interface(resolution, 1).time_ns(u64::MAX), 1_000_000_000);
        }
    }
}
