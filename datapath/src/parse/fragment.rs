//! Fragments: only the first one has the ports, so it leaves them for the later ones. Never holds a payload back or
//! puts one together.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::{
    flow_key::FlowKey,
    parse::{FIRST_FRAGMENT, Headers},
    time::Ktime,
};

/// `FlowKey::flags` in the table of fragments: it was sent by the upper endpoint.
const FROM_UPPER: u8 = 1 << 3;

/// How long a first fragment's ports hold: the identification may come again. Linux gives fragments as long to
/// arrive (net.ipv4.ipfrag_time).
const HOLDS_NS: i64 = 30_000_000_000;

/// What a first fragment leaves.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct FirstFragment {
    /// When it was seen.
    seen_ns: u64,
    /// Ports of the flow's key, in wire order.
    lower_port: u16,
    upper_port: u16,
    _pad: u32,
}

impl FirstFragment {
    /// What the packet in `headers` leaves.
    #[inline(always)]
    #[must_use]
    pub const fn of(headers: &Headers, now: Ktime) -> Self {
        Self {
            seen_ns: now.0,
            lower_port: headers.key.lower_port,
            upper_port: headers.key.upper_port,
            _pad: 0,
        }
    }
}

/// Whether the packet is one that later fragments will ask for.
#[inline(always)]
pub(crate) const fn is_first(headers: &Headers) -> bool {
    headers.fragment == FIRST_FRAGMENT
}

/// A later fragment: its endpoints are known, its ports are not.
#[inline(always)]
pub(crate) fn later(headers: &mut Headers) {
    headers.key.protocol = (headers.protocol & 0xff) as u8;
    headers.header_len = headers.offset;
    headers.payload_len = headers.transport_len;
    headers.sender = headers.key.canonicalize() as u32;
}

/// Calls `look` with the key of the packet's datagram in the table of fragments. The key is made in place of the
/// flow's, for want of stack in the kernel.
#[inline(always)]
pub(crate) fn with_key<R>(headers: &mut Headers, look: impl FnOnce(&FlowKey) -> R) -> R {
    let key = &mut headers.key;
    let (ports, vni, flags) = ((key.lower_port, key.upper_port), key.vni, key.flags);
    (key.lower_port, key.upper_port) = (0, 0);
    key.vni = headers.ip_id;
    key.flags = flags | if headers.sender == 0 { 0 } else { FROM_UPPER };
    let found = look(key);
    (key.lower_port, key.upper_port) = ports;
    (key.vni, key.flags) = (vni, flags);
    found
}

/// Completes a later fragment by what the first one left; whether it still holds.
#[inline(always)]
pub(crate) fn complete(headers: &mut Headers, first: &FirstFragment, now: Ktime) -> bool {
    let age_ns = now.since(Ktime(first.seen_ns));
    if !(0..=HOLDS_NS).contains(&age_ns) {
        return false;
    }
    headers.key.lower_port = first.lower_port;
    headers.key.upper_port = first.upper_port;
    true
}
