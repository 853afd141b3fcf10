//! A tun or tap device that takes super-packets, as a virtual machine's network card would hand them over, and the
//! super-packets. Lives in a namespace of the lab, and ends with its value.

use std::{
    fs::{File, OpenOptions},
    io::Write as _,
    os::fd::AsRawFd as _,
};

use lab::Namespace;

/// `TUNSETIFF` (include/uapi/linux/if_tun.h).
const TUNSETIFF: libc::Ioctl = 0x4004_54ca;
/// `struct virtio_net_hdr` and its numbers (include/uapi/linux/virtio_net.h).
const NEEDS_CSUM: u8 = 1;
const GSO_TCPV4: u8 = 1;
const GSO_TCPV6: u8 = 4;
const GSO_UDP_L4: u8 = 5;

const TCP: u8 = 6;
const UDP: u8 = 17;

#[derive(Debug)]
pub(crate) struct Tun(File);

impl Tun {
    /// Makes `name` in the namespace and brings it up: with Ethernet headers, or without.
    pub(crate) fn open(namespace: &Namespace, name: &str, is_tap: bool) -> Self {
        let kind = if is_tap { libc::IFF_TAP } else { libc::IFF_TUN };
        let flags = kind | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
        let mut ifr_name = [0; libc::IFNAMSIZ];
        for (to, from) in ifr_name.iter_mut().zip(name.bytes()) {
            *to = libc::c_char::from_ne_bytes([from]);
        }
        let ifr_flags = libc::c_short::try_from(flags).unwrap();
        let file = namespace.run(|| {
            let ifr_ifru = libc::__c_anonymous_ifr_ifru { ifru_flags: ifr_flags };
            let request = libc::ifreq { ifr_name, ifr_ifru };
            let file = OpenOptions::new().read(true).write(true).open("/dev/net/tun").unwrap();
            // SAFETY: the request is a whole ifreq, and lives through the call.
            let made = unsafe { libc::ioctl(file.as_raw_fd(), TUNSETIFF, &raw const request) };
            assert_eq!(made, 0, "{name}: {}", std::io::Error::last_os_error());
            file
        });
        let up = ["link", "set", "dev", name, "addrgenmode", "none", "up"];
        assert!(namespace.command("ip").args(up).status().unwrap().success());
        Self(file.unwrap())
    }

    /// Hands one super-packet to the kernel, as if it had come in here.
    pub(crate) fn write(&mut self, packet: &SuperPacket) -> std::io::Result<()> {
        let bytes = [packet.virtio_header().as_slice(), &packet.frame()].concat();
        self.0.write(&bytes).map(|written| assert_eq!(written, bytes.len()))
    }
}

/// A packet to be cut into segments, with everything that decides how long they are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SuperPacket {
    /// Of an Ethernet frame to this address; `None` is a packet without a link header.
    pub(crate) to: Option<[u8; 6]>,
    pub(crate) vlan: Option<u16>,
    pub(crate) is_v6: bool,
    pub(crate) is_udp: bool,
    pub(crate) source_port: u16,
    pub(crate) payload: usize,
    /// Payload of each segment; `None` is a packet that is none of many.
    pub(crate) segment: Option<u16>,
}

impl SuperPacket {
    pub(crate) fn segments(&self) -> u64 {
        self.segment.map_or(1, |segment| self.payload.div_ceil(usize::from(segment)) as u64)
    }

    fn link_len(&self) -> usize {
        self.to.map_or(0, |_| 14) + self.vlan.map_or(0, |_| 4)
    }

    fn transport_at(&self) -> usize {
        self.link_len() + if self.is_v6 { 40 } else { 20 }
    }

    /// Everything that each segment repeats.
    pub(crate) fn headers_len(&self) -> usize {
        self.transport_at() + if self.is_udp { 8 } else { 32 }
    }

    /// Bytes of it as one packet.
    pub(crate) fn bytes(&self) -> u64 {
        (self.headers_len() + self.payload) as u64
    }

    /// Bytes of all its segments.
    pub(crate) fn wire_bytes(&self) -> u64 {
        self.bytes() + (self.segments() - 1) * self.headers_len() as u64
    }

    fn virtio_header(&self) -> [u8; 10] {
        let mut header = [0; 10];
        let Some(segment) = self.segment else { return header };
        let kind = match (self.is_udp, self.is_v6) {
            (true, _) => GSO_UDP_L4,
            (false, true) => GSO_TCPV6,
            (false, false) => GSO_TCPV4,
        };
        let number = |length: usize| u16::try_from(length).unwrap().to_ne_bytes();
        header[..2].copy_from_slice(&[NEEDS_CSUM, kind]);
        header[2..4].copy_from_slice(&number(self.headers_len()));
        header[4..6].copy_from_slice(&segment.to_ne_bytes());
        header[6..8].copy_from_slice(&number(self.transport_at()));
        header[8..].copy_from_slice(&number(if self.is_udp { 6 } else { 16 }));
        header
    }

    /// From 10.99.0.2 to 10.88.0.9, or the same in fd99:: and fd88::. The transport's checksum stays open.
    fn frame(&self) -> Vec<u8> {
        let mut frame = Vec::new();
        let ethertype: [u8; 2] = if self.is_v6 { [0x86, 0xdd] } else { [0x08, 0x00] };
        if let Some(to) = self.to {
            frame.extend(to);
            frame.extend([2, 0, 0, 0x99, 0, 2]);
            if let Some(vlan) = self.vlan {
                frame.extend([0x81, 0x00]);
                frame.extend(vlan.to_be_bytes());
            }
            frame.extend(ethertype);
        }
        let transport = self.headers_len() - self.transport_at() + self.payload;
        let protocol = if self.is_udp { UDP } else { TCP };
        frame.extend(if self.is_v6 {
            ipv6(protocol, transport)
        } else {
            ipv4(protocol, transport).to_vec()
        });
        frame.extend(self.source_port.to_be_bytes());
        frame.extend(443_u16.to_be_bytes());
        if self.is_udp {
            frame.extend(u16::try_from(transport).unwrap().to_be_bytes());
            frame.extend([0, 0]);
        } else {
            frame.extend([0, 0, 0, 1, 0, 0, 0, 1, 0x80, 0x10, 0x01, 0xf5, 0, 0, 0, 0]);
            frame.extend([1, 1, 8, 10, 0, 0, 0, 7, 0, 0, 0, 9]);
        }
        frame.resize(frame.len() + self.payload, 0x55);
        frame
    }
}

fn ipv4(protocol: u8, transport: usize) -> [u8; 20] {
    let [high, low] = u16::try_from(20 + transport).unwrap().to_be_bytes();
    let mut header =
        [0x45, 0, high, low, 0, 1, 0x40, 0, 64, protocol, 0, 0, 10, 99, 0, 2, 10, 88, 0, 9];
    let words = header.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])));
    let sum: u32 = words.sum();
    let folded = u16::try_from((sum & 0xffff) + (sum >> 16)).unwrap();
    header[10..12].copy_from_slice(&(!folded).to_be_bytes());
    header
}

fn ipv6(protocol: u8, transport: usize) -> Vec<u8> {
    let mut header = vec![0x60, 0, 0, 0];
    header.extend(u16::try_from(transport).unwrap().to_be_bytes());
    header.extend([protocol, 64]);
    for (prefix, host) in [(0x99, 2), (0x88, 9)] {
        header.extend([0xfd, prefix, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, host]);
    }
    header
}
