//! A packet of a file as the datapath wants to see it: link type, lengths and time. Shared by `analyze` and replay.

use captures::{LinkType, format::read::ReadPacket};
use datapath::{Direction, Frame, Ktime, Link, frame::NO_VLAN};

/// LINKTYPE_* numbers that the datapath reads (www.tcpdump.org/linktypes.html).
mod linktype {
    pub(super) const NULL: u16 = 0;
    pub(super) const ETHERNET: u16 = 1;
    pub(super) const PPP: u16 = 9;
    pub(super) const FDDI: u16 = 10;
    /// DLT_RAW as some systems wrote it into files.
    pub(super) const RAW_BSD: u16 = 12;
    pub(super) const RAW_OPENBSD: u16 = 14;
    pub(super) const PPP_HDLC: u16 = 50;
    pub(super) const PPP_ETHER: u16 = 51;
    pub(super) const RAW: u16 = 101;
    pub(super) const C_HDLC: u16 = 104;
    pub(super) const LOOP: u16 = 108;
    pub(super) const LINUX_SLL: u16 = 113;
    pub(super) const IPV4: u16 = 228;
    pub(super) const IPV6: u16 = 229;
    pub(super) const NFLOG: u16 = 239;
    pub(super) const LINUX_SLL2: u16 = 276;
}

/// What the first byte of a packet with this link type belongs to.
#[must_use]
pub const fn link(link_type: LinkType) -> Link {
    match link_type.0 {
        linktype::ETHERNET => Link::Ethernet,
        linktype::RAW
        | linktype::RAW_BSD
        | linktype::RAW_OPENBSD
        | linktype::IPV4
        | linktype::IPV6 => Link::RawIp,
        linktype::NULL | linktype::LOOP => Link::Null,
        linktype::LINUX_SLL => Link::LinuxSll,
        linktype::LINUX_SLL2 => Link::LinuxSll2,
        linktype::PPP | linktype::PPP_HDLC => Link::Ppp,
        linktype::PPP_ETHER => Link::PppEther,
        linktype::C_HDLC => Link::CiscoHdlc,
        linktype::FDDI => Link::Fddi,
        linktype::NFLOG => Link::Nflog,
        _ => Link::Unsupported,
    }
}

/// The link type of what the kernel's hooks see.
#[must_use]
pub fn link_type(link: Link) -> LinkType {
    if link == Link::RawIp { LinkType::RAW } else { LinkType::ETHERNET }
}

/// Bytes of a packet on the wire, and of these in the file.
#[derive(Clone, Copy, Debug)]
pub struct Lengths {
    /// As the file says it.
    pub original_len: u32,
    /// That are there.
    pub captured_len: u32,
}

/// The frame of a packet that was read.
#[must_use]
pub fn frame(read: &ReadPacket<'_>) -> Frame {
    let (original_len, captured_len) = (read.packet.original_len, read.packet.captured_len());
    frame_of(read.link_type, read.packet.time_ns, Lengths { original_len, captured_len })
}

/// The frame of a packet of this link type and time.
#[must_use]
pub fn frame_of(link_type: LinkType, time_ns: u64, lengths: Lengths) -> Frame {
    Frame {
        now: Ktime(time_ns),
        point: 0,
        direction: Direction::Ingress,
        link: link(link_type),
        // Some files claim less than they hold; what is there was there.
        original_len: lengths.original_len.max(lengths.captured_len),
        segments: 1,
        segment_size: 0,
        vlan: NO_VLAN,
        from_socket: 0,
    }
}
