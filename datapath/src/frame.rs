//! What a hook knows about a frame besides its bytes. Filled by the doors and by the replay; read by the pipeline.

use crate::time::Ktime;

/// Which way a frame passed the interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u32)]
pub enum Direction {
    /// Received by the interface.
    Ingress = 0,
    /// Sent by the interface.
    Egress = 1,
}

/// What the first byte of a frame belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Link {
    /// An Ethernet header.
    Ethernet = 0,
    /// An IPv4 or IPv6 header (tun, WireGuard, `LINKTYPE_RAW`).
    RawIp = 1,
    /// A link type that the datapath does not read.
    Unsupported = 2,
    /// A four-byte address family in host or network order (`LINKTYPE_NULL`, `LINKTYPE_LOOP`). This and the rest
    /// occur in files only.
    #[cfg(not(target_arch = "bpf"))]
    Null = 3,
    /// Linux cooked capture, version 1.
    #[cfg(not(target_arch = "bpf"))]
    LinuxSll = 4,
    /// Linux cooked capture, version 2.
    #[cfg(not(target_arch = "bpf"))]
    LinuxSll2 = 5,
    /// PPP, with or without HDLC's address and control.
    #[cfg(not(target_arch = "bpf"))]
    Ppp = 6,
    /// A PPPoE header without the Ethernet header before it.
    #[cfg(not(target_arch = "bpf"))]
    PppEther = 7,
    /// Cisco's HDLC framing.
    #[cfg(not(target_arch = "bpf"))]
    CiscoHdlc = 8,
    /// FDDI.
    #[cfg(not(target_arch = "bpf"))]
    Fddi = 9,
    /// Linux's netfilter log: attributes, one of which is the packet.
    #[cfg(not(target_arch = "bpf"))]
    Nflog = 10,
}

#[cfg(not(target_arch = "bpf"))]
impl Link {
    /// The name in every answer.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ethernet => "ethernet",
            Self::RawIp => "raw_ip",
            Self::Unsupported => "unsupported",
            Self::Null => "null",
            Self::LinuxSll => "linux_sll",
            Self::LinuxSll2 => "linux_sll2",
            Self::Ppp => "ppp",
            Self::PppEther => "ppp_ether",
            Self::CiscoHdlc => "cisco_hdlc",
            Self::Fddi => "fddi",
            Self::Nflog => "nflog",
        }
    }
}

/// `Frame::vlan` of a frame without a tag in its metadata.
pub const NO_VLAN: u32 = u32::MAX;

/// One frame as its hook saw it.
#[derive(Clone, Copy, Debug)]
pub struct Frame {
    /// When the hook saw it.
    pub now: Ktime,
    /// Observation point id; 0 offline.
    pub point: u32,
    /// Which way it passed the interface.
    pub direction: Direction,
    /// What the first byte belongs to.
    pub link: Link,
    /// Bytes on the link, which the captured bytes may fall short of. For a super-packet: of the whole, with one
    /// set of headers. A tag kept in metadata is included.
    pub original_len: u32,
    /// Wire packets that this frame stands for (`gso_segs`); 0 where the hook does not know.
    pub segments: u32,
    /// Payload bytes of each of them (`gso_size`); 0 where it is not a super-packet.
    pub segment_size: u32,
    /// VLAN id that the hook keeps outside of the bytes, or [`NO_VLAN`].
    pub vlan: u32,
    /// 1 where it is on its way out of a socket of this host: nothing can have changed its order yet, or made a copy.
    pub from_socket: u32,
}

impl Frame {
    /// A plain received frame on Ethernet, as a file or an XDP hook holds it.
    #[must_use]
    pub const fn plain(now: Ktime, original_len: u32) -> Self {
        Self {
            now,
            point: 0,
            direction: Direction::Ingress,
            link: Link::Ethernet,
            original_len,
            segments: 1,
            segment_size: 0,
            vlan: NO_VLAN,
            from_socket: 0,
        }
    }
}
