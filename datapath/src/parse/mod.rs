//! From bytes to headers: one pass, bounded in depth, that never reads beyond the capture.
//!
//! The result lives in [`Headers`], which the kernel keeps in a per-CPU map rather than on the stack: the verifier
//! does not follow map memory, and each [`forget`] between the layers lets it merge the paths that lead there.

pub mod icmp;
mod ipv4;
mod ipv6;
mod link;
#[cfg(not(target_arch = "bpf"))]
mod offline_link;
pub mod tcp;
mod transport;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::{
    bytes::PacketBytes,
    flow_key::FlowKey,
    frame::{Frame, NO_VLAN},
    hint::{forget, store},
    outcome::Outcome,
};

/// What one frame says about its flow. Every field is set by [`parse`]; nothing is kept from the frame before.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Headers {
    /// The canonical key.
    pub key: FlowKey,
    /// Which endpoint of the key sent it: 0 lower, 1 upper.
    pub sender: u32,
    /// Bytes of transport payload; valid where `analyzable` is not 0 or the protocol has no options.
    pub payload_len: u32,
    /// 1 where sequence, acknowledgment, window and flags of a whole TCP segment are known.
    pub analyzable: u32,
    /// TCP sequence number.
    pub sequence: u32,
    /// TCP acknowledgment number.
    pub acknowledgment: u32,
    /// TCP window as in the header.
    pub window: u32,
    /// TCP flags ([`tcp`]).
    pub tcp_flags: u32,
    /// Window scale option plus one, at most 15; 0 without the option.
    pub window_scale_plus_one: u32,
    /// Timestamp value (RFC 7323), 0 without the option.
    pub timestamp: u32,
    /// Timestamp echo reply.
    pub timestamp_echo: u32,
    /// `OPTION_*` bits of the options present.
    pub options: u32,
    /// IPv4 identification, 0 for IPv6.
    pub ip_id: u32,
    /// Offset of the transport payload: the bytes of headers of each segment of a super-packet.
    pub header_len: u32,
    /// Classes of this segment ([`crate::tcp::classes`]), set by the tracker.
    pub classes: u32,
    /// What was counted about the frame: [`Outcome`] as a number. Kept here rather than in a register, where the
    /// verifier would walk the rest of the program once for each value.
    pub outcome: u32,

    // Cursor of the parser.
    pub(crate) offset: u32,
    pub(crate) ethertype: u32,
    pub(crate) protocol: u32,
    pub(crate) transport_len: u32,
    pub(crate) fragment: u32,
    pub(crate) option_offset: u32,
    /// [`Frame::original_len`], here for the verifier's sake: comparisons would teach it bounds of a register, and it
    /// would walk what follows once for each of them.
    pub(crate) original_len: u32,
}

#[cfg(not(target_arch = "bpf"))]
impl Headers {
    /// What was counted about the frame.
    pub fn outcome(&self) -> Outcome {
        Outcome::from_u32(self.outcome).expect("the pipeline stores outcomes only")
    }
}

/// `Headers::fragment`: the packet is whole.
pub(crate) const WHOLE: u32 = 0;
/// The first fragment: it has the ports but not the whole payload.
pub(crate) const FIRST_FRAGMENT: u32 = 1;
/// A later fragment: it has no ports.
pub(crate) const LATER_FRAGMENT: u32 = 2;

/// Reads one frame into `headers`.
///
/// `Ok` means that the key is complete: the frame belongs to a flow, whatever the outcome in `headers`. `Err` means
/// that it does not, and why.
#[inline(always)]
pub fn parse<P: PacketBytes>(
    packet: &P,
    frame: &Frame,
    headers: &mut Headers,
) -> Result<(), Outcome> {
    reset(frame, headers);
    link::parse(packet, frame.link, headers)?;
    let headers = forget(headers);
    if headers.ethertype == link::IPV4 {
        ipv4::parse(packet, headers)?;
    } else if headers.ethertype == link::IPV6 {
        ipv6::parse(packet, headers)?;
    } else {
        return Err(Outcome::NotIp);
    }
    let headers = forget(headers);
    if headers.fragment == LATER_FRAGMENT {
        return Err(Outcome::FragmentWithoutFirst);
    }
    headers.outcome = transport::parse(packet, headers)? as u32;
    let headers = forget(headers);
    headers.sender = headers.key.canonicalize() as u32;
    Ok(())
}

/// Forgets the frame before. Field by field: a whole-struct copy would pass through the 512 bytes of BPF stack.
#[inline(always)]
fn reset(frame: &Frame, headers: &mut Headers) {
    store(&mut headers.payload_len, 0);
    store(&mut headers.analyzable, 0);
    store(&mut headers.sequence, 0);
    store(&mut headers.acknowledgment, 0);
    store(&mut headers.window, 0);
    store(&mut headers.tcp_flags, 0);
    store(&mut headers.window_scale_plus_one, 0);
    store(&mut headers.timestamp, 0);
    store(&mut headers.timestamp_echo, 0);
    store(&mut headers.options, 0);
    store(&mut headers.ip_id, 0);
    store(&mut headers.classes, 0);
    store(&mut headers.offset, 0);
    store(&mut headers.original_len, frame.original_len);
    store(&mut headers.fragment, WHOLE);
    store(&mut headers.key.lower_port, 0);
    store(&mut headers.key.upper_port, 0);
    store(&mut headers.key.flags, 0);
    store(&mut headers.key.observation_point, frame.point);
    store(&mut headers.key.vni, 0);
    let vlan = if frame.vlan == NO_VLAN { 0 } else { (frame.vlan & 0xfff) as u16 };
    store(&mut headers.key.vlan, vlan);
}

/// Why `needed` bytes at `offset` are absent: the frame was cut when captured, or it contradicts itself.
#[inline(always)]
pub(crate) const fn missing(
    headers: &Headers,
    offset: u32,
    needed: u32,
    malformed: Outcome,
) -> Outcome {
    if offset.saturating_add(needed) > headers.original_len {
        malformed
    } else {
        Outcome::Truncated
    }
}
