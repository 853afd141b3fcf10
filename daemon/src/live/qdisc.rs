//! The clsact qdisc of an interface of the calling thread's namespace: making it, and removing it again. Must never
//! remove one that a filter is in.

use std::{io, mem::size_of, os::fd::AsRawFd as _};

use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, socket,
};

/// `clsact` as a handle, and where it hangs (include/uapi/linux/pkt_sched.h).
const CLSACT_HANDLE: u32 = 0xffff_0000;
const CLSACT_PARENT: u32 = 0xffff_fff1;
/// Its two directions, as parents of filters.
const DIRECTIONS: [u32; 2] = [0xffff_fff2, 0xffff_fff3];
/// Bytes of `struct nlmsghdr`.
const HEADER: usize = 16;
/// Bytes of a request: that and `struct tcmsg`.
const REQUEST: u32 = 16 + 20;
/// `NLM_F_REQUEST` with `NLM_F_ACK` and `NLM_F_DUMP` (include/uapi/linux/netlink.h).
const WITH_ACK: u16 = 0x005;
const DUMP: u16 = 0x301;
/// Longest answer that is read at once; the kernel's own dumps are at most this long.
const ANSWER_MAX: usize = 32 * 1024;

/// Removes the qdisc where no filter is in it, ours or another's; returns whether it did. An interface without one
/// has nothing to remove.
pub(super) fn remove_if_empty(ifindex: u32) -> io::Result<bool> {
    for parent in DIRECTIONS {
        if has_filters(ifindex, parent)? {
            return Ok(false);
        }
    }
    let request = message(libc::RTM_DELQDISC, WITH_ACK, ifindex, CLSACT_HANDLE, CLSACT_PARENT);
    let mut refused = None;
    ask(&request, |kind, body| {
        if i32::from(kind) == libc::NLMSG_ERROR {
            refused = error_of(body);
        }
        false
    })?;
    match refused.as_ref().and_then(io::Error::raw_os_error) {
        None => Ok(true),
        // No such qdisc, or no such interface.
        Some(libc::ENOENT | libc::EINVAL | libc::ENODEV) => Ok(false),
        Some(code) => Err(io::Error::from_raw_os_error(code)),
    }
}

fn has_filters(ifindex: u32, parent: u32) -> io::Result<bool> {
    let request = message(libc::RTM_GETTFILTER, DUMP, ifindex, 0, parent);
    let (mut found, mut refused) = (false, None);
    ask(&request, |kind, body| {
        found |= kind == libc::RTM_NEWTFILTER;
        match i32::from(kind) {
            libc::NLMSG_DONE => false,
            libc::NLMSG_ERROR => {
                refused = error_of(body);
                false
            }
            _ => true,
        }
    })?;
    refused.map_or(Ok(found), Err)
}

/// A request about one interface: `struct nlmsghdr` and `struct tcmsg`.
fn message(kind: u16, flags: u16, ifindex: u32, handle: u32, parent: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend(REQUEST.to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    // Sequence number and port: one question for each socket.
    bytes.extend([0; 8]);
    // Family and padding.
    bytes.extend([0; 4]);
    for word in [ifindex, handle, parent, 0] {
        bytes.extend(word.to_ne_bytes());
    }
    bytes
}

/// Sends a request and shows each message of the answer to `visit`, which returns whether more are to come.
fn ask(request: &[u8], mut visit: impl FnMut(u16, &[u8]) -> bool) -> io::Result<()> {
    let family = AddressFamily::Netlink;
    let socket = socket(family, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkRoute)?;
    sendto(socket.as_raw_fd(), request, &NetlinkAddr::new(0, 0), MsgFlags::empty())?;
    let mut answer = vec![0; ANSWER_MAX];
    loop {
        let length = recv(socket.as_raw_fd(), &mut answer, MsgFlags::empty())?;
        let mut rest = &answer[..length];
        while let Some((header, _)) = rest.split_first_chunk::<HEADER>() {
            let [a, b, c, d, kind @ .., _, _, _, _, _, _, _, _, _, _] = *header;
            let length = u32::from_ne_bytes([a, b, c, d]) as usize;
            let body = rest.get(HEADER..length).ok_or(io::ErrorKind::UnexpectedEof)?;
            if !visit(u16::from_ne_bytes(kind), body) {
                return Ok(());
            }
            rest = rest.get(length.next_multiple_of(size_of::<u32>())..).unwrap_or_default();
        }
    }
}

/// What an error message carries; 0 is an acknowledgement.
fn error_of(body: &[u8]) -> Option<io::Error> {
    let code = i32::from_ne_bytes(*body.first_chunk()?);
    (code != 0).then(|| io::Error::from_raw_os_error(-code))
}
