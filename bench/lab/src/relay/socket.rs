//! Packet sockets of the relay: frames in batches with the kernel's arrival time, VLAN tag and
//! offload header, frames out one by one. Never receives what the relay itself sent, and never
//! bypasses the interface's egress hooks.

use std::ffi::CString;
use std::io::{self, IoSliceMut};
use std::mem::{self, size_of};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr;

use crate::error::LabError;

/// Frames per system call.
const BATCH_MAX: usize = 32;
/// `struct virtio_net_hdr`, which the kernel puts before each frame.
const OFFLOAD_HEADER_BYTES: usize = 10;
/// Room for the largest super-packet and its link header.
const SLOT_BYTES: usize = OFFLOAD_HEADER_BYTES + 65_536 + 64;
/// What the kernel may hold for us while we are off the CPU: about 200 ms at 1 Gbit/s.
const RECEIVE_BUFFER_BYTES: libc::c_int = 32 << 20;
/// Room for the arrival time and the auxiliary data, in words so that it is aligned.
const CONTROL_WORDS: usize = 16;

/// One received frame and what the kernel said about it.
#[derive(Debug)]
pub(super) struct Received<'a> {
    /// The frame, without the VLAN tag that the kernel took out.
    bytes: &'a [u8],
    /// The tag that was taken out: TPID and TCI.
    vlan: Option<(u16, u16)>,
    /// Bytes per segment, where the frame is a super-packet of several.
    pub segment_bytes: Option<u16>,
    /// True where the transport checksum was left to the hardware.
    pub checksum_open: bool,
    /// CLOCK_REALTIME at which the frame entered the interface.
    pub arrival_wall_ns: Option<u64>,
    /// True where the frame did not fit.
    pub cut: bool,
}

impl Received<'_> {
    /// The frame as it was on the wire, tag included.
    pub(super) fn to_frame(&self) -> Vec<u8> {
        let mut frame = Vec::with_capacity(self.bytes.len() + 4);
        match (self.vlan, self.bytes.split_at_checked(12)) {
            (Some((tpid, tci)), Some((addresses, rest))) => {
                frame.extend_from_slice(addresses);
                frame.extend_from_slice(&tpid.to_be_bytes());
                frame.extend_from_slice(&tci.to_be_bytes());
                frame.extend_from_slice(rest);
            }
            _ => frame.extend_from_slice(self.bytes),
        }
        frame
    }
}

/// Receives every frame that enters an interface of the calling thread's namespace.
pub(super) struct Receiver {
    socket: OwnedFd,
    frames: Vec<u8>,
    control: [[u64; CONTROL_WORDS]; BATCH_MAX],
    dropped: u64,
}

impl Receiver {
    /// Opens the socket; the calling thread must be inside the namespace.
    pub(super) fn open(interface: &str) -> Result<Self, LabError> {
        let failed = |action| refused(action, interface);
        let socket = packet_socket().map_err(failed("open a packet socket"))?;
        let one: libc::c_int = 1;
        // Unforced, the size is capped by net.core.rmem_max; that is enough for slow labs.
        let forced = (libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, RECEIVE_BUFFER_BYTES);
        if set_option(&socket, forced).is_err() {
            let plain = (libc::SOL_SOCKET, libc::SO_RCVBUF, RECEIVE_BUFFER_BYTES);
            set_option(&socket, plain).map_err(failed("size the receive buffer"))?;
        }
        for (level, name, action) in [
            (libc::SOL_PACKET, libc::PACKET_IGNORE_OUTGOING, "ignore own frames"),
            (libc::SOL_PACKET, libc::PACKET_VNET_HDR, "ask for offload headers"),
            (libc::SOL_PACKET, libc::PACKET_AUXDATA, "ask for vlan tags"),
            (libc::SOL_SOCKET, libc::SO_TIMESTAMPNS, "ask for arrival times"),
        ] {
            set_option(&socket, (level, name, one)).map_err(failed(action))?;
        }
        let everything = u16::try_from(libc::ETH_P_ALL).unwrap_or(3);
        bind(&socket, interface, everything).map_err(failed("listen"))?;
        let frames = vec![0; SLOT_BYTES * BATCH_MAX];
        let control = [[0; CONTROL_WORDS]; BATCH_MAX];
        Ok(Self { socket, frames, control, dropped: 0 })
    }

    /// Hands every waiting frame of one batch to `each`, and returns how many there were. Never
    /// waits.
    pub(super) fn receive(&mut self, mut each: impl FnMut(&Received<'_>)) -> io::Result<usize> {
        let mut vectors: Vec<IoSliceMut<'_>> =
            self.frames.chunks_mut(SLOT_BYTES).map(IoSliceMut::new).collect();
        // SAFETY: an all-zero mmsghdr is a valid empty message.
        let mut messages: [libc::mmsghdr; BATCH_MAX] = unsafe { mem::zeroed() };
        for ((message, vector), control) in
            messages.iter_mut().zip(&mut vectors).zip(&mut self.control)
        {
            // IoSliceMut is guaranteed to have the layout of iovec.
            message.msg_hdr.msg_iov = ptr::from_mut(vector).cast();
            message.msg_hdr.msg_iovlen = 1;
            message.msg_hdr.msg_control = control.as_mut_ptr().cast();
            message.msg_hdr.msg_controllen = size_of::<[u64; CONTROL_WORDS]>();
        }
        let room = libc::c_uint::try_from(BATCH_MAX).unwrap_or(1);
        // SAFETY: every message points at buffers that live until the end of this function and are
        // not otherwise used.
        let count = unsafe {
            let fd = self.socket.as_raw_fd();
            libc::recvmmsg(fd, messages.as_mut_ptr(), room, libc::MSG_DONTWAIT, ptr::null_mut())
        };
        let Ok(count) = usize::try_from(count) else {
            let error = io::Error::last_os_error();
            let nothing = [io::ErrorKind::WouldBlock, io::ErrorKind::Interrupted];
            return if nothing.contains(&error.kind()) { Ok(0) } else { Err(error) };
        };
        for (message, slot) in messages.iter().take(count).zip(&vectors) {
            let length = usize::try_from(message.msg_len).unwrap_or(0);
            if let Some(bytes) = slot.get(..length) {
                each(&describe(bytes, &message.msg_hdr));
            }
        }
        Ok(count)
    }

    /// Frames the kernel had to drop since the start because we were too slow.
    pub(super) fn dropped(&mut self) -> u64 {
        let mut statistics = libc::tpacket_stats { tp_packets: 0, tp_drops: 0 };
        let mut length = libc::socklen_t::try_from(size_of::<libc::tpacket_stats>()).unwrap_or(0);
        // SAFETY: the option writes at most `length` bytes into a tpacket_stats that lives here;
        // reading it resets the counters.
        let answer = unsafe {
            let value = (&raw mut statistics).cast();
            let fd = self.socket.as_raw_fd();
            libc::getsockopt(fd, libc::SOL_PACKET, libc::PACKET_STATISTICS, value, &raw mut length)
        };
        if answer == 0 {
            self.dropped += u64::from(statistics.tp_drops);
        }
        self.dropped
    }

    pub(super) fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Sends frames out of an interface, through its egress hooks.
pub(super) struct Sender {
    socket: OwnedFd,
}

impl Sender {
    /// Opens the socket; the calling thread must be inside the namespace.
    pub(super) fn open(interface: &str) -> Result<Self, LabError> {
        let socket = packet_socket().map_err(refused("open a packet socket", interface))?;
        // Protocol 0: this socket receives nothing.
        bind(&socket, interface, 0).map_err(refused("send", interface))?;
        Ok(Self { socket })
    }

    /// Sends one whole frame.
    pub(super) fn send(&self, frame: &[u8]) -> io::Result<()> {
        // SAFETY: the pointer and length are those of a live slice.
        let sent =
            unsafe { libc::send(self.socket.as_raw_fd(), frame.as_ptr().cast(), frame.len(), 0) };
        if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}

fn refused(action: &'static str, interface: &str) -> impl FnOnce(io::Error) -> LabError {
    let interface = interface.to_owned();
    move |source| LabError::PacketSocket { action, interface, source }
}

fn packet_socket() -> io::Result<OwnedFd> {
    // Protocol 0 receives nothing until bind names one: no frame of another interface slips in
    // before. SAFETY: socket(2) takes no pointers.
    let fd = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor was just opened and belongs to nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn bind(socket: &OwnedFd, interface: &str, protocol: u16) -> io::Result<()> {
    let name = CString::new(interface).map_err(|_| io::ErrorKind::InvalidInput)?;
    // SAFETY: the name is a live C string.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    if index == 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: an all-zero sockaddr_ll is valid.
    let mut address: libc::sockaddr_ll = unsafe { mem::zeroed() };
    address.sll_family = u16::try_from(libc::AF_PACKET).unwrap_or(0);
    address.sll_protocol = protocol.to_be();
    address.sll_ifindex = libc::c_int::try_from(index).map_err(|_| io::ErrorKind::InvalidInput)?;
    let length = libc::socklen_t::try_from(size_of::<libc::sockaddr_ll>()).unwrap_or(0);
    // SAFETY: the address is a whole sockaddr_ll and `length` is its size.
    let answer = unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length) };
    if answer == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn set_option(
    socket: &OwnedFd,
    (level, name, value): (libc::c_int, libc::c_int, libc::c_int),
) -> io::Result<()> {
    let length = libc::socklen_t::try_from(size_of::<libc::c_int>()).unwrap_or(0);
    // SAFETY: the value is a live int and `length` is its size.
    let answer = unsafe {
        libc::setsockopt(socket.as_raw_fd(), level, name, (&raw const value).cast(), length)
    };
    if answer == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Reads the offload header and the control messages of one received frame.
fn describe<'a>(bytes: &'a [u8], header: &libc::msghdr) -> Received<'a> {
    const NEEDS_CHECKSUM: u8 = 1;
    let (offload, frame) = bytes.split_at_checked(OFFLOAD_HEADER_BYTES).unwrap_or((&[], bytes));
    let offload_byte = |at: usize| offload.get(at).copied().unwrap_or(0);
    let segment_bytes = u16::from_ne_bytes([offload_byte(4), offload_byte(5)]);
    let mut received = Received {
        bytes: frame,
        vlan: None,
        segment_bytes: (offload_byte(1) != 0).then_some(segment_bytes),
        checksum_open: offload_byte(0) & NEEDS_CHECKSUM != 0,
        arrival_wall_ns: None,
        cut: header.msg_flags & libc::MSG_TRUNC != 0,
    };
    // SAFETY: the kernel filled the control buffer of `header`, which is alive; CMSG_* stay within
    // msg_controllen, and each payload is read unaligned only where its length says that the whole
    // structure is there.
    unsafe {
        let mut control = libc::CMSG_FIRSTHDR(header);
        while !control.is_null() {
            let data = libc::CMSG_DATA(control);
            let payload = (*control).cmsg_len.saturating_sub(libc::CMSG_LEN(0) as usize);
            match ((*control).cmsg_level, (*control).cmsg_type) {
                (libc::SOL_SOCKET, libc::SCM_TIMESTAMPNS)
                    if payload >= size_of::<libc::timespec>() =>
                {
                    received.arrival_wall_ns = nanos(ptr::read_unaligned(data.cast()));
                }
                (libc::SOL_PACKET, libc::PACKET_AUXDATA)
                    if payload >= size_of::<libc::tpacket_auxdata>() =>
                {
                    received.vlan = vlan(&ptr::read_unaligned(data.cast()));
                }
                _ => {}
            }
            control = libc::CMSG_NXTHDR(header, control);
        }
    }
    received
}

fn nanos(time: libc::timespec) -> Option<u64> {
    let seconds = u64::try_from(time.tv_sec).ok()?;
    seconds.checked_mul(1_000_000_000)?.checked_add(u64::try_from(time.tv_nsec).ok()?)
}

fn vlan(data: &libc::tpacket_auxdata) -> Option<(u16, u16)> {
    let tpid = if data.tp_status & libc::TP_STATUS_VLAN_TPID_VALID == 0 {
        0x8100
    } else {
        data.tp_vlan_tpid
    };
    (data.tp_status & libc::TP_STATUS_VLAN_VALID != 0).then_some((tpid, data.tp_vlan_tci))
}
