//! How far into a packet a filter looks, so that the kernel copies no more than filter and file need. Never guesses
//! low: where a program computes its own offsets, the answer is that there is no bound.

use captures::Filter;

/// Longest IPv4 header, the most that `ldxb 4*([k]&0xf)` puts into X.
const HEADER_MAX: u32 = 60;

// Classes, modes and codes of classic BPF (pcap-filter's target; linux/bpf_common.h).
const CLASS: u16 = 0x07;
const LD: u16 = 0x00;
const LDX: u16 = 0x01;
const MISC: u16 = 0x07;
const MODE: u16 = 0xe0;
const ABSOLUTE: u16 = 0x20;
const INDIRECT: u16 = 0x40;
const HEADER_LENGTH: u16 = 0xa0;
const IMMEDIATE: u16 = 0x00;
const TXA: u16 = 0x80;
/// Widest load.
const WORD: u32 = 4;

/// Bytes from the start of a packet that decide whether `filter` matches; `None` where there is no bound.
pub(super) fn reach(filter: &Filter) -> Option<u32> {
    let (mut end, mut offset_max, mut indirect) = (0_u32, 0_u32, false);
    for instruction in filter.instructions() {
        let (code, k) = (instruction.code, instruction.k);
        match (code & CLASS, code & MODE) {
            (LD, ABSOLUTE) => end = end.max(k.saturating_add(WORD)),
            (LD, INDIRECT) => {
                indirect = true;
                end = end.max(k.saturating_add(WORD));
            }
            (LDX, HEADER_LENGTH) => {
                end = end.max(k.saturating_add(1));
                offset_max = offset_max.max(HEADER_MAX);
            }
            (LDX, IMMEDIATE) => offset_max = offset_max.max(k),
            // X from the length, from scratch memory or from A: anything.
            (LDX, _) => offset_max = u32::MAX,
            (MISC, _) if code & TXA == 0 => offset_max = u32::MAX,
            _ => {}
        }
    }
    let end = if indirect { end.saturating_add(offset_max) } else { end };
    (end < u32::MAX).then_some(end)
}

#[cfg(test)]
mod tests {
    use captures::{Libpcap, LinkType, Snaplen};

    use super::*;

    fn reach_of(expression: &str) -> Option<u32> {
        let libpcap = Libpcap::load().expect("these tests need libpcap0.8");
        reach(&libpcap.compile(expression, LinkType::ETHERNET, Snaplen::WHOLE).unwrap())
    }

    #[test]
    fn header_filters_look_at_headers() {
        assert!(reach_of("").is_some_and(|bytes| bytes == 0));
        assert!(reach_of("ip").is_some_and(|bytes| (14..=18).contains(&bytes)));
        assert!(reach_of("tcp port 80").is_some_and(|bytes| (60..=128).contains(&bytes)));
        assert!(reach_of("tcp[13] & 2 != 0").is_some_and(|bytes| (60..=128).contains(&bytes)));
    }

    #[test]
    fn computed_offsets_have_no_bound() {
        assert_eq!(reach_of("tcp[((tcp[12:1] & 0xf0) >> 2):4] = 0x47455420"), None);
    }
}
