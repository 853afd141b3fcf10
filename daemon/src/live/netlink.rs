//! rtnetlink as far as linnet needs it: questions with their answers, and news of links. A socket speaks of the
//! network namespace in which it was opened, whatever thread uses it, and keeps that namespace alive.

use std::{
    io,
    os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd},
};

use nix::{
    errno::Errno,
    sys::socket::{
        AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, sendto,
        setsockopt, socket, sockopt::RcvBuf,
    },
};

/// `NLM_F_REQUEST` with `NLM_F_ACK` and `NLM_F_DUMP` (include/uapi/linux/netlink.h).
pub(super) const WITH_ACK: u16 = 0x005;
pub(super) const DUMP: u16 = 0x301;
/// `NLM_F_DUMP_INTR`: what is dumped has changed meanwhile.
const INTERRUPTED: u16 = 0x10;
/// `RTMGRP_LINK`: interfaces that come, go and change.
const LINKS: u32 = 1;
/// Bytes of `struct nlmsghdr`, and of the header of an attribute.
const HEADER: usize = 16;
const ATTRIBUTE: usize = 4;
/// Longest message that is read at once; the kernel's own dumps are at most this long.
const MESSAGE_MAX: usize = 32 * 1024;
/// Bytes of news that may wait; what does not fit is lost, and the loss is told.
const NEWS_BYTES_MAX: usize = 256 * 1024;
/// Messages that are read before something else is done.
const NEWS_MAX: usize = 1_024;

/// A socket of one namespace.
#[derive(Debug)]
pub(super) struct Socket(OwnedFd);

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Socket {
    /// One for questions.
    pub(super) fn open() -> io::Result<Self> {
        Self::with(SockFlag::SOCK_CLOEXEC)
    }

    /// One that hears of links.
    pub(super) fn of_links() -> io::Result<Self> {
        let socket = Self::with(SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK)?;
        setsockopt(&socket.0, RcvBuf, &NEWS_BYTES_MAX)?;
        bind(socket.0.as_raw_fd(), &NetlinkAddr::new(0, LINKS))?;
        Ok(socket)
    }

    fn with(flags: SockFlag) -> io::Result<Self> {
        let route = SockProtocol::NetlinkRoute;
        Ok(Self(socket(AddressFamily::Netlink, SockType::Raw, flags, route)?))
    }

    /// Sends a request and shows each message of the answer to `visit`, up to its end or the kernel's refusal. An
    /// answer that was changed while it was given is an `Interrupted`.
    pub(super) fn ask(&self, request: &[u8], mut visit: impl FnMut(u16, &[u8])) -> io::Result<()> {
        sendto(self.0.as_raw_fd(), request, &NetlinkAddr::new(0, 0), MsgFlags::empty())?;
        let mut bytes = vec![0; MESSAGE_MAX];
        let mut changed = false;
        loop {
            let length = recv(self.0.as_raw_fd(), &mut bytes, MsgFlags::empty())?;
            for message in messages(&bytes[..length]) {
                let Message { kind, flags, body } = message?;
                changed |= flags & INTERRUPTED != 0;
                match i32::from(kind) {
                    libc::NLMSG_DONE if changed => return Err(io::ErrorKind::Interrupted.into()),
                    libc::NLMSG_DONE => return Ok(()),
                    libc::NLMSG_ERROR => return error_of(body).map_or(Ok(()), Err),
                    _ => visit(kind, body),
                }
            }
        }
    }

    /// Shows what has come since the last time to `visit`; returns whether something was lost.
    pub(super) fn news(&self, mut visit: impl FnMut(u16, &[u8])) -> io::Result<bool> {
        let mut bytes = vec![0; MESSAGE_MAX];
        let mut lost = false;
        for _ in 0..NEWS_MAX {
            match recv(self.0.as_raw_fd(), &mut bytes, MsgFlags::empty()) {
                Ok(length) => {
                    for message in messages(&bytes[..length]) {
                        let Message { kind, body, .. } = message?;
                        visit(kind, body);
                    }
                }
                Err(Errno::EAGAIN) => break,
                Err(Errno::ENOBUFS) => lost = true,
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(lost)
    }
}

/// A request: `struct nlmsghdr`, and what it is about.
pub(super) fn request(kind: u16, flags: u16, body: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER + body.len());
    let length = u32::try_from(HEADER + body.len()).unwrap_or(u32::MAX);
    bytes.extend(length.to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    // Sequence number and port: one question at a time on each socket.
    bytes.extend([0; 8]);
    bytes.extend(body);
    bytes
}

struct Message<'a> {
    kind: u16,
    flags: u16,
    body: &'a [u8],
}

/// The messages that were read at once.
fn messages(mut rest: &[u8]) -> impl Iterator<Item = io::Result<Message<'_>>> {
    std::iter::from_fn(move || {
        let [a, b, c, d, k, l, f, g, ..] = *rest.first_chunk::<HEADER>()?;
        let length = u32::from_ne_bytes([a, b, c, d]) as usize;
        let Some(body) = rest.get(HEADER..length) else {
            rest = &[];
            return Some(Err(io::ErrorKind::UnexpectedEof.into()));
        };
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        let (kind, flags) = (u16::from_ne_bytes([k, l]), u16::from_ne_bytes([f, g]));
        Some(Ok(Message { kind, flags, body }))
    })
}

/// Attributes by their type, without the flags that it may carry.
pub(super) fn attributes(mut rest: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let [a, b, k, l] = *rest.first_chunk::<ATTRIBUTE>()?;
        let length = usize::from(u16::from_ne_bytes([a, b]));
        let value = rest.get(ATTRIBUTE..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((u16::from_ne_bytes([k, l]) & 0x3fff, value))
    })
}

/// The attribute's first four bytes as a number.
pub(super) fn number(value: &[u8]) -> Option<u32> {
    value.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes))
}

/// The attribute's bytes up to their zero.
pub(super) fn text(value: &[u8]) -> &[u8] {
    value.split(|byte| *byte == 0).next().unwrap_or_default()
}

/// What an error message carries; 0 is an acknowledgement.
fn error_of(body: &[u8]) -> Option<io::Error> {
    let code = i32::from_ne_bytes(*body.first_chunk()?);
    (code != 0).then(|| io::Error::from_raw_os_error(-code))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_end_where_they_say_and_damage_ends_them() {
        let bytes = [5, 0, 3, 0, b'x', 0, 0, 0, 8, 0, 4, 0x80, 1, 0, 0, 0, 200, 0, 1, 0];
        let found: Vec<_> = attributes(&bytes).collect();
        assert_eq!(found, [(3, &b"x"[..]), (4, &[1, 0, 0, 0][..])]);
        assert_eq!((number(found[1].1), text(b"eth0\0\0")), (Some(1), &b"eth0"[..]));
    }

    #[test]
    fn a_message_that_is_longer_than_what_was_read_is_an_error() {
        let mut bytes = request(libc::RTM_NEWLINK, 0, &[1, 2, 3, 4]);
        assert_eq!(messages(&bytes).flatten().map(|it| it.body.len()).sum::<usize>(), 4);
        bytes.truncate(18);
        assert!(messages(&bytes).next().unwrap().is_err());
    }
}
