//! What pinned maps say about themselves, for whoever finds them: maps of another layout are not to be read.

use core::mem::offset_of;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::{
    ABI_VERSION, Again, CaptureConfig, CaptureCounts, CaptureGap, CaptureRecord, CaptureSlot,
    CaptureTotals, EVENTS_MAX, Encapsulation, EndedFlow, Event, EventHead, FlowEntry, FlowHead,
    Half, Hole, HookCounters, IcmpErrors, Kept, NetworkKey, Opened, Outstanding, Passed, Point,
    RegisterRow, RttHistogram, RulePair, RuleRow, RulesConfig, SeenBefore, ServiceRtt, Trail,
    Trouble, TroubleSide, Untracked, VerdictCounts,
};
use crate::flow_key::FlowKey;

/// The one element of the map `META`.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct Meta {
    /// [`ABI_VERSION`] of who made the maps.
    pub abi_version: u64,
    /// [`LAYOUT_HASH`] of who made them.
    pub layout_hash: u64,
}

impl Meta {
    /// Of this build.
    pub const OURS: Self = Self { abi_version: ABI_VERSION as u64, layout_hash: LAYOUT_HASH };
}

/// FNV-1a, 64 bits.
const FNV_OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
const FNV_PRIME: u64 = 0x0100_0000_01b3;

const fn byte(hash: u64, byte: u8) -> u64 {
    (hash ^ byte as u64).wrapping_mul(FNV_PRIME)
}

const fn text(mut hash: u64, text: &str) -> u64 {
    let bytes = text.as_bytes();
    let mut index = 0;
    while index < bytes.len() {
        hash = byte(hash, bytes[index]);
        index += 1;
    }
    hash
}

const fn number(mut hash: u64, number: usize) -> u64 {
    let bytes = (number as u64).to_le_bytes();
    let mut index = 0;
    while index < bytes.len() {
        hash = byte(hash, bytes[index]);
        index += 1;
    }
    hash
}

/// Hashes names, places and sizes. A field that is not listed here does not compile.
macro_rules! hash_of {
    ($($layout:ident { $($field:ident),+ $(,)? })+) => {{
        let mut hash = FNV_OFFSET;
        $(
            const _: fn($layout) = |layout| {
                let $layout { $($field: _),+ } = layout;
            };
            hash = number(text(hash, stringify!($layout)), size_of::<$layout>());
            $(hash = number(text(hash, stringify!($field)), offset_of!($layout, $field));)+
        )+
        hash
    }};
}

/// Hash of every layout that kernel and user space share.
pub const LAYOUT_HASH: u64 = number(LAYOUTS, EVENTS_MAX as usize);

const LAYOUTS: u64 = hash_of! {
    FlowKey { lower, upper, lower_port, upper_port, protocol, flags, vlan, observation_point, vni }
    FlowEntry { head, halves, encapsulation, icmp, service, _pad, verdicts, answered_ns, trails }
    FlowHead {
        first_seen_ns, syn_ns, handshake_rtt_ns, lock, state, originator, bits, contended,
    }
    Half {
        packets, bytes, skbs, payload_bytes, last_seen_ns, next_sequence, contiguous,
        last_acknowledgment, window, duplicate_acks, last_classes, window_scale, bits, flags_seen,
        rules, outstanding, range_left, range_right, next_sequence_ns, classes, base_sequence,
        rtt_buckets, rtt_samples, rtt_min_ticks, rtt_max_ticks, rtt_last_ticks,
    }
    Outstanding { start, end, sent_ticks }
    Encapsulation { parent_tag, id, kind, _pad }
    IcmpErrors { count, last, _pad }
    VerdictCounts { counts }
    Trail {
        passed, next, acknowledged, unsure_before, sent_us, told_us, newest_timestamp, newest_ip_id,
        highest_ip_id, bits, run, duplicates, _pad,
    }
    Passed { hash, ticks }
    Trouble { first_seen_ns, sides }
    TroubleSide { holes, timer_start, timer_silence_us, selective_end, bits, forgotten, again }
    Hole { start, end, opened }
    Opened { us, timestamp, ip_id, timestamped }
    Again { start, end, what }
    Event {
        key, first_seen_ns, time_ns, sequence, acknowledgment, payload_len, window, classes, verdict,
        segments, bytes, silence_us, tcp_flags, sender, _pad,
    }
    EventHead { produced, _pad }
    EndedFlow { key, first_seen_ns }
    HookCounters { seen, outcomes, packets, bytes, created, promoted, contended, rtt }
    RttHistogram { buckets }
    ServiceRtt { from_originator, from_responder }
    Point { id, link, _pad }
    RuleRow { words }
    RulePair { own, peer }
    NetworkKey { bits, set, ipv6, _pad, address }
    RulesConfig { generation, _pad, changes }
    Untracked { decided, _pad }
    CaptureConfig { reach, views, payload_max, ring_bytes }
    CaptureSlot { deadline_ns, packets_max, bytes_max, packets, bytes, snaplen, payload_max }
    CaptureCounts { matched, produced, over_budget, lost_ring, lost_copy }
    CaptureRecord {
        time_ns, captures, packet_id, original_len, captured_len, queue, header_len, point,
        direction, kind, flags, vlan_tci, vlan_protocol, _pad,
    }
    CaptureGap { record, lost }
    CaptureTotals { offered, lost }
    Kept { since_ns, closed, aged, evicted, forgotten, before }
    SeenBefore { name, seen }
    RegisterRow { incarnation, namespace_cookie, state, ifindex, hooks, filters, name, namespace }
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_renamed_or_moved_field_changes_the_hash() {
        assert_ne!(text(FNV_OFFSET, "lower"), text(FNV_OFFSET, "upper"));
        assert_ne!(number(FNV_OFFSET, 8), number(FNV_OFFSET, 16));
        assert_ne!(number(FNV_OFFSET, 608), number(FNV_OFFSET, 608 + 256));
    }
}
