//! One AF_PACKET socket of one interface: opened with CAP_NET_RAW, read without. Puts the tag back that the kernel keeps
//! outside of a frame's bytes. Never sends, and never puts an interface into promiscuous mode.

use std::{
    io,
    mem::{MaybeUninit, size_of},
    os::fd::{AsFd, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
};

use captures::Snaplen;
use datapath::Direction;

/// Bytes of a VLAN tag, and of the addresses in front of it.
const TAG: usize = 4;
const TAG_LEN: u32 = 4;
const ADDRESSES: usize = 12;
/// Bytes of `struct virtio_net_hdr`; where its type and its segment size are in there.
const VNET: usize = 10;
const VNET_TYPE: usize = 1;
const VNET_SEGMENT_SIZE: usize = 4;
/// `VIRTIO_NET_HDR_GSO_NONE`.
const NO_GSO: u8 = 0;
/// `AF_PACKET` and `ETH_P_ALL` (include/linux/socket.h, include/uapi/linux/if_ether.h) as an address has them.
const FAMILY: libc::sa_family_t = 17;
const EVERY_PROTOCOL: u16 = 3;
/// Type of a tag of which the kernel tells only the rest.
const TAG_TYPE: u16 = 0x8100;
/// Room for both control messages, with their headers, in words.
const CONTROL_WORDS: usize = 32;
/// `sll_ifindex` of a socket whose interface has gone.
const NO_INTERFACE: i32 = -1;

/// A socket to read packets from.
#[derive(Debug)]
pub struct PacketSocket(OwnedFd);

/// Where packets are read to.
#[derive(Debug)]
pub struct PacketBuffer {
    /// Room for a tag, then the frame.
    bytes: Box<[u8]>,
    vnet: [u8; VNET],
    control: [u64; CONTROL_WORDS],
}

/// A packet as it is on the wire, or a super-packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet<'a> {
    /// Its bytes from the link's header on, with its tag.
    pub data: &'a [u8],
    /// How many there are in all.
    pub original_len: u32,
    /// The kernel's time, unix ns; absent where it gave none.
    pub wall_ns: Option<u64>,
    /// Which way it passed the interface.
    pub direction: Direction,
    /// Payload bytes of each wire packet of a super-packet; 0 of any other.
    pub segment_size: u32,
}

/// What came of reading.
#[derive(Debug, PartialEq, Eq)]
pub enum Received<'a> {
    /// A packet.
    Packet(Packet<'a>),
    /// One that the kernel cannot describe (a super-packet of SCTP), and has dropped.
    Unreadable,
    /// There is none.
    Nothing,
}

/// Whether more can come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It can, if only when the interface is up again.
    Bound,
    /// The interface has gone, and another one of its name is not this one.
    Gone,
}

impl Default for PacketBuffer {
    fn default() -> Self {
        let bytes = vec![0; TAG + Snaplen::MAX as usize].into();
        Self { bytes, vnet: [0; VNET], control: [0; CONTROL_WORDS] }
    }
}

impl AsFd for PacketSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl From<PacketSocket> for OwnedFd {
    fn from(socket: PacketSocket) -> Self {
        socket.0
    }
}

impl From<OwnedFd> for PacketSocket {
    fn from(socket: OwnedFd) -> Self {
        Self(socket)
    }
}

impl PacketSocket {
    /// Opens one in the calling thread's namespace. Only from the last call on can there be packets in it, and all of them
    /// are of this interface.
    pub(super) fn open(ifindex: u32) -> io::Result<Self> {
        let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
        // SAFETY: no pointers. Protocol 0 takes no packet.
        let fd = unsafe { libc::socket(libc::AF_PACKET, kind, 0) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel has just made this descriptor, and nobody else knows it.
        let socket = Self(unsafe { OwnedFd::from_raw_fd(fd) });
        socket.set(libc::SOL_PACKET, libc::PACKET_AUXDATA, 1)?;
        socket.set(libc::SOL_PACKET, libc::PACKET_VNET_HDR, 1)?;
        socket.set(libc::SOL_SOCKET, libc::SO_TIMESTAMPNS, 1)?;
        socket.bind(ifindex)?;
        Ok(socket)
    }

    /// Makes room for so many bytes of packets.
    pub(super) fn make_room(&self, room_bytes: u32) -> io::Result<()> {
        let room = i32::try_from(room_bytes).unwrap_or(i32::MAX);
        // Beyond the host's limit only with CAP_NET_ADMIN.
        self.set(libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, room)
            .or_else(|_| self.set(libc::SOL_SOCKET, libc::SO_RCVBUF, room))
    }

    fn set(&self, level: libc::c_int, option: libc::c_int, value: libc::c_int) -> io::Result<()> {
        let length = length::<libc::c_int>();
        let value = std::ptr::from_ref(&value).cast();
        // SAFETY: the kernel reads `length` bytes of `value`, which outlives the call.
        let done = unsafe { libc::setsockopt(self.0.as_raw_fd(), level, option, value, length) };
        if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    fn bind(&self, ifindex: u32) -> io::Result<()> {
        // SAFETY: all-zero bytes are a valid `sockaddr_ll`.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = FAMILY;
        address.sll_protocol = EVERY_PROTOCOL.to_be();
        address.sll_ifindex = i32::try_from(ifindex).unwrap_or(i32::MAX);
        let (pointer, length) =
            (std::ptr::from_ref(&address).cast(), length::<libc::sockaddr_ll>());
        // SAFETY: the kernel reads `length` bytes of `address`, which outlives the call.
        let done = unsafe { libc::bind(self.0.as_raw_fd(), pointer, length) };
        if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    /// Reads a packet, if there is one.
    pub fn receive<'a>(&self, buffer: &'a mut PacketBuffer) -> io::Result<Received<'a>> {
        let PacketBuffer { bytes, vnet, control } = buffer;
        let mut parts = [
            libc::iovec { iov_base: vnet.as_mut_ptr().cast(), iov_len: VNET },
            libc::iovec { iov_base: bytes[TAG..].as_mut_ptr().cast(), iov_len: bytes.len() - TAG },
        ];
        let mut from = MaybeUninit::<libc::sockaddr_ll>::zeroed();
        // SAFETY: all-zero bytes are a valid `msghdr`.
        let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
        message.msg_name = from.as_mut_ptr().cast();
        message.msg_namelen = length::<libc::sockaddr_ll>();
        message.msg_iov = parts.as_mut_ptr();
        message.msg_iovlen = parts.len();
        message.msg_control = control.as_mut_ptr().cast();
        message.msg_controllen = size_of_val(control);
        let flags = libc::MSG_DONTWAIT | libc::MSG_TRUNC;
        // SAFETY: `message` points at memory that is as long as it says, and that outlives the call.
        let read = unsafe { libc::recvmsg(self.0.as_raw_fd(), &raw mut message, flags) };
        let Ok(read) = usize::try_from(read) else {
            let error = io::Error::last_os_error();
            return match error.raw_os_error() {
                Some(libc::EAGAIN | libc::EINTR) => Ok(Received::Nothing),
                // The interface has gone down, or away: told once.
                Some(libc::ENETDOWN) => Ok(Received::Nothing),
                Some(libc::EINVAL) => Ok(Received::Unreadable),
                _ => Err(error),
            };
        };
        // SAFETY: zeroed, and then filled by the kernel; every pattern of bytes is a valid `sockaddr_ll`.
        let from = unsafe { from.assume_init() };
        let said = Said::of(&message);
        let whole = read.saturating_sub(VNET);
        let held = whole.min(bytes.len() - TAG);
        let segment_size =
            if vnet[VNET_TYPE] == NO_GSO { 0 } else { number(vnet, VNET_SEGMENT_SIZE).into() };
        let original = said.length.max(u32::try_from(whole).unwrap_or(u32::MAX));
        let (data, added) = with_tag(&mut bytes[..TAG + held], said.tag);
        Ok(Received::Packet(Packet {
            data,
            original_len: original.saturating_add(added),
            wall_ns: said.wall_ns,
            direction: match from.sll_pkttype {
                libc::PACKET_OUTGOING => Direction::Egress,
                _ => Direction::Ingress,
            },
            segment_size,
        }))
    }

    /// Packets offered to the socket, and those of them that found no room, since this was asked for the last time.
    pub fn statistics(&self) -> io::Result<(u64, u64)> {
        let mut counted = libc::tpacket_stats { tp_packets: 0, tp_drops: 0 };
        let mut length = length::<libc::tpacket_stats>();
        let into = std::ptr::from_mut(&mut counted).cast();
        let (level, option) = (libc::SOL_PACKET, libc::PACKET_STATISTICS);
        let socket = self.0.as_raw_fd();
        // SAFETY: the kernel writes at most `length` bytes to `counted`, and both outlive the call.
        let done = unsafe { libc::getsockopt(socket, level, option, into, &raw mut length) };
        if done != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok((counted.tp_packets.into(), counted.tp_drops.into()))
    }

    /// Whether its interface is there.
    pub fn standing(&self) -> io::Result<Standing> {
        let mut address = MaybeUninit::<libc::sockaddr_ll>::zeroed();
        let mut length = length::<libc::sockaddr_ll>();
        let into = address.as_mut_ptr().cast();
        // SAFETY: the kernel writes at most `length` bytes to `address`, and both outlive the call.
        let done = unsafe { libc::getsockname(self.0.as_raw_fd(), into, &raw mut length) };
        if done != 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: zeroed, and then filled by the kernel; every pattern of bytes is a valid `sockaddr_ll`.
        let address = unsafe { address.assume_init() };
        Ok(if address.sll_ifindex == NO_INTERFACE { Standing::Gone } else { Standing::Bound })
    }
}

/// What the kernel says beside a packet.
#[derive(Clone, Copy, Debug, Default)]
struct Said {
    length: u32,
    tag: Option<[u16; 2]>,
    wall_ns: Option<u64>,
}

impl Said {
    fn of(message: &libc::msghdr) -> Self {
        let mut said = Self::default();
        // SAFETY: `message` is as recvmsg has left it, with its control messages in place.
        let mut next = unsafe { libc::CMSG_FIRSTHDR(message) };
        // SAFETY: these macros give null or a whole header inside of the control messages.
        while let Some(header) = unsafe { next.as_ref() } {
            // SAFETY: the data follow the header.
            let data = unsafe { libc::CMSG_DATA(next) };
            match (header.cmsg_level, header.cmsg_type) {
                (libc::SOL_PACKET, libc::PACKET_AUXDATA) => {
                    // SAFETY: a message of this type holds one; it may be unaligned.
                    said.auxiliary(unsafe {
                        data.cast::<libc::tpacket_auxdata>().read_unaligned()
                    });
                }
                (libc::SOL_SOCKET, libc::SCM_TIMESTAMPNS) => {
                    // SAFETY: a message of this type holds one; it may be unaligned.
                    let time = unsafe { data.cast::<libc::timespec>().read_unaligned() };
                    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
                    let nanos = u64::try_from(time.tv_nsec).unwrap_or(0);
                    said.wall_ns = Some(seconds.saturating_mul(1_000_000_000) + nanos);
                }
                _ => {}
            }
            // SAFETY: as above.
            next = unsafe { libc::CMSG_NXTHDR(message, next) };
        }
        said
    }

    fn auxiliary(&mut self, said: libc::tpacket_auxdata) {
        self.length = said.tp_len;
        let is = |flag: u32| said.tp_status & flag != 0;
        if is(libc::TP_STATUS_VLAN_VALID) {
            let known = is(libc::TP_STATUS_VLAN_TPID_VALID);
            let kind = if known { said.tp_vlan_tpid } else { TAG_TYPE };
            self.tag = Some([kind, said.tp_vlan_tci]);
        }
    }
}

/// The frame behind the room for a tag, with it; and the bytes that this adds.
fn with_tag(bytes: &mut [u8], tag: Option<[u16; 2]>) -> (&[u8], u32) {
    let (Some([kind, control]), true) = (tag, bytes.len() >= TAG + ADDRESSES) else {
        return (&bytes[TAG..], 0);
    };
    bytes.copy_within(TAG..TAG + ADDRESSES, 0);
    bytes[ADDRESSES..ADDRESSES + 2].copy_from_slice(&kind.to_be_bytes());
    bytes[ADDRESSES + 2..ADDRESSES + TAG].copy_from_slice(&control.to_be_bytes());
    (bytes, TAG_LEN)
}

/// A number of `struct virtio_net_hdr`, which a host writes in its own order.
fn number(bytes: &[u8; VNET], at: usize) -> u16 {
    u16::from_ne_bytes([bytes[at], bytes[at + 1]])
}

fn length<T>() -> libc::socklen_t {
    libc::socklen_t::try_from(size_of::<T>()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_goes_between_addresses_and_type() {
        let mut bytes: Vec<u8> = (0..30).collect();
        let (frame, added) = with_tag(&mut bytes, Some([0x88a8, 0x0064]));
        let expected: Vec<u8> = (4..16).chain([0x88, 0xa8, 0x00, 0x64]).chain(16..30).collect();
        assert_eq!((frame, added), (&expected[..], 4));
        let mut bytes: Vec<u8> = (0..30).collect();
        let (frame, added) = with_tag(&mut bytes, None);
        assert_eq!((frame.len(), frame[0], added), (26, 4, 0));
        // What has no room for the addresses has none for a tag.
        assert_eq!(with_tag(&mut [0; 10], Some([1, 2])), (&[0; 6][..], 0));
    }

    /// A datagram over loopback is read both ways, dated, and counted; without CAP_NET_RAW there is nothing to read.
    #[test]
    fn a_datagram_over_loopback_is_read_both_ways() {
        let lo = nix::net::if_::if_nametoindex("lo").unwrap();
        let socket = match PacketSocket::open(lo) {
            Ok(socket) => socket,
            Err(error) => {
                assert_eq!(error.kind(), io::ErrorKind::PermissionDenied, "{error}");
                return;
            }
        };
        let (receiver, sender) = (
            std::net::UdpSocket::bind("127.0.0.1:0").unwrap(),
            std::net::UdpSocket::bind("127.0.0.1:0").unwrap(),
        );
        let word = b"linnet reads its own datagram";
        sender.send_to(word, receiver.local_addr().unwrap()).unwrap();
        receiver.recv_from(&mut [0; 64]).unwrap();
        let (mut buffer, mut ways) = (PacketBuffer::default(), Vec::new());
        let mut read = 0;
        while let Received::Packet(packet) = socket.receive(&mut buffer).unwrap() {
            read += 1;
            if packet.data.ends_with(word) {
                assert_eq!(packet.original_len as usize, packet.data.len());
                assert!(packet.wall_ns.is_some() && packet.segment_size == 0);
                ways.push(packet.direction);
            }
        }
        assert_eq!(ways, [Direction::Egress, Direction::Ingress]);
        let (offered, lost) = socket.statistics().unwrap();
        assert!(offered >= read && lost == 0, "{offered} offered, {read} read, {lost} lost");
        assert_eq!(socket.standing().unwrap(), Standing::Bound);
    }

    #[test]
    fn the_segment_size_is_where_the_header_has_it() {
        let header = [0, 1, 0, 0, 0xb4, 0x05, 0, 0, 0, 0];
        assert_eq!(
            u32::from(number(&header, VNET_SEGMENT_SIZE)),
            u32::from(u16::from_ne_bytes([0xb4, 0x05]))
        );
    }
}
