//! What the kernel knows about a connection (`TCP_INFO`), as the endpoint's truth. Never invents a
//! field that the kernel did not fill: that is zero.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsRawFd;

use serde::Serialize;

/// Enough for the fields below; older kernels fill less.
const INFO_BYTES: usize = 256;

/// One end of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct TcpFacts {
    /// This end.
    pub local: SocketAddr,
    /// The other end.
    pub peer: SocketAddr,
    /// Segments sent and not acknowledged yet; where 0, none of them can be sent again.
    pub unacked: u32,
    /// Smallest round-trip time seen, in microseconds.
    pub min_rtt_us: u32,
    /// Smoothed round-trip time, in microseconds.
    pub srtt_us: u32,
    /// Segments sent again, over the whole life.
    pub total_retrans: u32,
    /// Segments sent.
    pub segs_out: u32,
    /// Segments received.
    pub segs_in: u32,
    /// Segments with data sent, retransmissions included.
    pub data_segs_out: u32,
    /// Segments with data received.
    pub data_segs_in: u32,
    /// Bytes sent again.
    pub bytes_retrans: u64,
    /// Duplicate selective ACKs received: the other end had it already.
    pub dsack_dups: u32,
    /// Times this end saw its own segments reordered.
    pub reord_seen: u32,
}

impl TcpFacts {
    /// Asks the kernel.
    pub fn of(stream: &TcpStream) -> io::Result<Self> {
        let (local, peer) = (stream.local_addr()?, stream.peer_addr()?);
        let mut info = [0_u8; INFO_BYTES];
        let mut length = libc::socklen_t::try_from(INFO_BYTES).unwrap_or(0);
        // SAFETY: the buffer is writable for `length` bytes, and the kernel writes no more than
        // that.
        let answer = unsafe {
            let (fd, value) = (stream.as_raw_fd(), info.as_mut_ptr().cast());
            libc::getsockopt(fd, libc::IPPROTO_TCP, libc::TCP_INFO, value, &raw mut length)
        };
        if answer != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Self::parse(&info, local, peer))
    }

    /// Offsets of `struct tcp_info` in linux/tcp.h, which only ever grows at its end.
    fn parse(info: &[u8; INFO_BYTES], local: SocketAddr, peer: SocketAddr) -> Self {
        let word =
            |at: usize| u32::from_ne_bytes([info[at], info[at + 1], info[at + 2], info[at + 3]]);
        let long = |at: usize| {
            let bytes: [u8; 8] = info[at..at + 8].try_into().expect("8 bytes were taken");
            u64::from_ne_bytes(bytes)
        };
        Self {
            local,
            peer,
            unacked: word(24),
            srtt_us: word(68),
            total_retrans: word(100),
            segs_out: word(136),
            segs_in: word(140),
            min_rtt_us: word(148),
            data_segs_in: word(152),
            data_segs_out: word(156),
            bytes_retrans: long(208),
            dsack_dups: word(216),
            reord_seen: word(220),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_offsets_are_those_of_the_kernels_structure() {
        let end_of = |field: usize, bytes: usize| field + bytes;
        assert_eq!(std::mem::offset_of!(libc::tcp_info, tcpi_unacked), 24);
        assert_eq!(std::mem::offset_of!(libc::tcp_info, tcpi_rtt), 68);
        assert_eq!(std::mem::offset_of!(libc::tcp_info, tcpi_total_retrans), 100);
        assert!(end_of(220, 4) <= INFO_BYTES);
    }
}
