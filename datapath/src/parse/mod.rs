//! From bytes to headers: one pass, bounded in depth, that never reads beyond the capture.
//!
//! The result lives in [`Headers`], which the kernel keeps in a per-CPU map rather than on the stack: the verifier
//! does not follow map memory, and each [`forget`] between the layers lets it merge the paths that lead there.

pub mod fragment;
pub mod icmp;
mod ipv4;
mod ipv6;
mod link;
#[cfg(not(target_arch = "bpf"))]
mod offline_link;
pub mod sctp;
pub mod tcp;
mod transport;
pub mod tunnel;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::{
    bytes::PacketBytes,
    flow_key::FlowKey,
    frame::{Frame, NO_VLAN},
    hint::{forget, store},
    layout::Opened,
    outcome::Outcome,
};

/// Blocks of a selective acknowledgment that a header has room for.
pub const SELECTIVE_MAX: usize = 4;

/// What one frame says about its flow. Every field is set by [`parse`]; nothing is kept from the frame before.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Headers {
    /// The canonical key.
    pub key: FlowKey,
    /// [`tunnel::tag`] of the packet around this one; 0 for the outermost.
    pub parent_tag: u64,
    /// Types of the chunks of an SCTP packet ([`sctp`]), the first in the lowest byte; 0 where there is none.
    pub chunks: u64,
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
    /// Identification of IPv4, or of an IPv6 fragment; 0 for other packets of IPv6.
    pub ip_id: u32,
    /// Offset of the transport payload: the bytes of headers of each segment of a super-packet.
    pub header_len: u32,
    /// Kind of the encapsulation that leads here ([`tunnel`]); 0 for the outermost packet.
    pub tunnel: u32,
    /// Its id: network, key, session or endpoint; 0 without one.
    pub tunnel_id: u32,
    /// What is left to read: nothing, more headers of this packet, or the packet inside of it.
    pub pending: u32,
    /// Type (upper byte) and code of an ICMP error.
    pub icmp_error: u32,
    /// Classes of this segment ([`crate::tcp::classes`]), set by the tracker.
    pub classes: u32,
    /// What was counted about the frame: [`Outcome`] as a number. Kept here rather than in a register, where the
    /// verifier would walk the rest of the program once for each value.
    pub outcome: u32,
    /// Payload of each wire packet of a super-packet; 0 where it is none.
    pub segment_size: u32,
    /// 1 where it is on its way out of a socket of this host.
    pub from_socket: u32,
    /// Blocks of a selective acknowledgment from start to end, where `options` has one.
    pub selective: [[u32; 2]; SELECTIVE_MAX],
    /// How many of them there are.
    pub selective_len: u32,

    // The verdict on the segment ([`crate::tcp::verdict`]), where `unusual` is not 0.
    /// Whether the segment is for [`crate::tcp::verdict::notice`].
    pub(crate) unusual: u32,
    /// What is left to do on it.
    pub(crate) due: u32,
    /// What it is.
    pub verdict: u32,
    /// Wire packets of it that were sent again, or late.
    pub verdict_segments: u32,
    /// Bytes in them.
    pub verdict_bytes: u32,
    /// How long nobody had said anything before it, in units of 1,024 ns; where it was sent again.
    pub silence_us: u32,
    /// How long ago the same packet passed, in ticks of 64 ns.
    pub(crate) copied_ticks: u32,
    /// Whether it acknowledges something new.
    pub(crate) advanced: u32,
    /// Whether it acknowledges something selectively.
    pub(crate) told_more: u32,
    /// What was known of its place.
    pub(crate) coverage: u32,
    /// Since when, and by which packet: that opened the hole, or the last forgotten one.
    pub(crate) opened: Opened,
    /// What is left of a hole that it splits.
    pub(crate) split_start: u32,
    /// Its end.
    pub(crate) split_end: u32,

    // Cursor of the parser.
    pub(crate) offset: u32,
    pub(crate) ethertype: u32,
    pub(crate) protocol: u32,
    pub(crate) transport_len: u32,
    pub(crate) fragment: u32,
    pub(crate) option_offset: u32,
    pub(crate) selective_offset: u32,
    pub(crate) bundle: u32,
    /// [`Frame::original_len`], here for the verifier's sake: comparisons would teach it bounds of a register, and it
    /// would walk what follows once for each of them.
    pub(crate) original_len: u32,

    // For who cuts segments and puts fragments together, which the kernel does not.
    /// Where the network layer's header begins.
    #[cfg(not(target_arch = "bpf"))]
    pub(crate) network: u32,
    /// Where what carries the packet ends, as far as it says so.
    #[cfg(not(target_arch = "bpf"))]
    pub(crate) end: u32,
    /// Time to live, or hop limit.
    #[cfg(not(target_arch = "bpf"))]
    pub hops: u32,
    /// Type of service, or traffic class: the lower two bits are ECN's.
    #[cfg(not(target_arch = "bpf"))]
    pub traffic_class: u32,
    /// 1 where no router may fragment it: "don't fragment", or IPv6.
    #[cfg(not(target_arch = "bpf"))]
    pub unfragmentable: u32,
    /// Greatest segment that its sender takes, plus one; 0 without the option.
    #[cfg(not(target_arch = "bpf"))]
    pub segment_max_plus_one: u32,
    /// MTU that an ICMP error tells; 0 where it tells none.
    #[cfg(not(target_arch = "bpf"))]
    pub icmp_mtu: u32,
    #[cfg(not(target_arch = "bpf"))]
    pub(crate) _host_pad: u32,
}

#[cfg(not(target_arch = "bpf"))]
impl Headers {
    /// Offset of the network layer's header.
    #[must_use]
    pub const fn network_offset(&self) -> u32 {
        self.network
    }

    /// What was counted about the frame.
    pub fn outcome(&self) -> Outcome {
        Outcome::from_u32(self.outcome).expect("the pipeline stores outcomes only")
    }
}

/// Greatest offset at which a length found in a packet may make the next header begin. What has a fixed length, or
/// one of a few hundred bytes, may follow: at most six packets inside of each other, which is less than 4 KiB.
pub(crate) const REACH_MAX: u32 = 0x7000;

/// `Headers::fragment`: the packet is whole.
pub(crate) const WHOLE: u32 = 0;
/// The first fragment: it has the ports but not the whole payload.
pub(crate) const FIRST_FRAGMENT: u32 = 1;
/// A later fragment: it has no ports.
pub(crate) const LATER_FRAGMENT: u32 = 2;

/// `Headers::pending`: nothing is left to read.
pub const NOTHING: u32 = 0;
/// `Headers::pending`: the transport, since [`parse`] reads TCP and UDP in whole packets only.
pub const ANY_TRANSPORT: u32 = 250;
/// `Headers::pending`: everything, since headers lie where the door has to fetch them first.
pub const WHOLE_FRAME: u32 = 251;
/// `Headers::pending`: the packet that an ICMP error quotes, to find the flow that it is about.
pub const QUOTED_PACKET: u32 = 252;
/// `Headers::pending`: link headers beyond the first one, and all that follows. Smaller numbers are the tunnels that
/// the packet may be ([`tunnel`]).
pub const LINK_HEADERS: u32 = 253;
/// `Headers::pending`: extension headers, and all that follows.
pub const EXTENSION_HEADERS: u32 = 254;
/// `Headers::pending`: the ports of a later fragment, which only the table of fragments knows.
pub const FRAGMENT_PORTS: u32 = 255;

/// Reads one frame into `headers`, as far as nearly every frame goes: one link header, IP without extensions, ports.
///
/// `Ok` means that the key is complete: the frame belongs to a flow, whatever the outcome in `headers`. `Err` means
/// that it does not, and why. Either is not the last word where `pending` says that something is left for [`resume`].
#[inline(always)]
pub fn parse<P: PacketBytes>(
    packet: &P,
    frame: &Frame,
    headers: &mut Headers,
) -> Result<(), Outcome> {
    reset(frame, headers);
    link::first(packet, frame.link, headers)?;
    let headers = forget(headers);
    if link::is_link_header(headers.ethertype) {
        headers.pending = LINK_HEADERS;
        return Err(Outcome::NotIp);
    }
    network(packet, headers)?;
    let headers = forget(headers);
    if headers.ethertype == link::IPV6 && ipv6::is_extension(headers.protocol) {
        headers.pending = EXTENSION_HEADERS;
        return Err(Outcome::MalformedIpv6);
    }
    if !transport::is_common(headers) {
        headers.pending = ANY_TRANSPORT;
        return Err(Outcome::UnknownTransport);
    }
    let outcome = transport::common(packet, headers)?;
    complete(headers, outcome)
}

/// Forgets what was read, so that [`resume`] begins anew.
#[inline(always)]
pub(crate) fn restart(frame: &Frame, headers: &mut Headers) {
    reset(frame, headers);
    headers.pending = WHOLE_FRAME;
}

/// Goes on where [`parse`] or an earlier call stopped: with what is left of the packet's headers, or with the packet
/// inside of it, which `headers` then describe. As [`parse`].
#[inline(always)]
pub fn resume<P: PacketBytes>(
    packet: &P,
    frame: &Frame,
    headers: &mut Headers,
) -> Result<(), Outcome> {
    let pending = headers.pending;
    headers.pending = NOTHING;
    if pending != EXTENSION_HEADERS && pending != ANY_TRANSPORT {
        let vlan = headers.key.vlan;
        if pending == WHOLE_FRAME {
            link::first(packet, frame.link, headers)?;
        } else if pending == QUOTED_PACKET {
            icmp::enter_quoted(headers);
            start(forget(headers));
        } else if pending != LINK_HEADERS {
            tunnel::enter(packet, pending, headers)?;
            start(forget(headers));
        }
        link::rest(packet, forget(headers))?;
        let headers = forget(headers);
        if headers.tunnel != 0 {
            // The key has the outermost tag.
            headers.key.vlan = vlan;
        }
        network(packet, headers)?;
    }
    let headers = forget(headers);
    if headers.ethertype == link::IPV6 {
        ipv6::extensions(packet, headers)?;
    }
    any_transport(packet, forget(headers))
}

/// The network layer's fixed header.
#[inline(always)]
fn network<P: PacketBytes>(packet: &P, headers: &mut Headers) -> Result<(), Outcome> {
    if headers.ethertype == link::IPV4 {
        ipv4::parse(packet, headers)
    } else if headers.ethertype == link::IPV6 {
        ipv6::parse(packet, headers)
    } else {
        Err(Outcome::NotIp)
    }
}

/// The transport layer of any packet.
#[inline(always)]
fn any_transport<P: PacketBytes>(packet: &P, headers: &mut Headers) -> Result<(), Outcome> {
    if headers.fragment == LATER_FRAGMENT {
        fragment::later(headers);
        headers.pending = FRAGMENT_PORTS;
        return Err(Outcome::FragmentWithoutFirst);
    }
    let outcome = transport::parse(packet, headers)?;
    complete(headers, outcome)
}

/// Completes the key, once addresses and ports are known.
#[inline(always)]
fn complete(headers: &mut Headers, outcome: Outcome) -> Result<(), Outcome> {
    headers.outcome = outcome as u32;
    let headers = forget(headers);
    headers.sender = headers.key.canonicalize() as u32;
    Ok(())
}

/// Forgets the frame before. Field by field: a whole-struct copy would pass through the 512 bytes of BPF stack.
#[inline(always)]
fn reset(frame: &Frame, headers: &mut Headers) {
    start(headers);
    store(&mut headers.tunnel, 0);
    store(&mut headers.tunnel_id, 0);
    store(&mut headers.parent_tag, 0);
    store(&mut headers.pending, NOTHING);
    store(&mut headers.offset, 0);
    store(&mut headers.original_len, frame.original_len);
    store(&mut headers.segment_size, frame.segment_size);
    store(&mut headers.from_socket, frame.from_socket);
    #[cfg(not(target_arch = "bpf"))]
    store(&mut headers.end, frame.original_len);
    store(&mut headers.key.observation_point, frame.point);
    store(&mut headers.key.vni, 0);
    let vlan = if frame.vlan == NO_VLAN { 0 } else { (frame.vlan & 0xfff) as u16 };
    store(&mut headers.key.vlan, vlan);
}

/// Forgets what was read of another packet of the same frame.
#[inline(always)]
fn start(headers: &mut Headers) {
    store(&mut headers.chunks, 0);
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
    store(&mut headers.unusual, 0);
    #[cfg(not(target_arch = "bpf"))]
    store(&mut headers.segment_max_plus_one, 0);
    store(&mut headers.ip_id, 0);
    store(&mut headers.classes, 0);
    store(&mut headers.fragment, WHOLE);
    store(&mut headers.key.lower_port, 0);
    store(&mut headers.key.upper_port, 0);
    store(&mut headers.key.flags, 0);
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
