//! Doing things in another network namespace, on a thread that ends with it: `setns` is per thread. Only the network
//! changes: the file system, and with it bpffs, stays.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io,
    os::{fd::AsRawFd as _, unix::fs::MetadataExt as _},
    path::Path,
    sync::Arc,
};

use datapath::Link;
use nix::{
    errno::Errno,
    sched::{CloneFlags, setns},
};

use super::{LiveError, process};

/// Where `ip netns` keeps its namespaces.
pub(super) const NAMESPACES: &str = "/run/netns";

/// `SO_NETNS_COOKIE` (include/uapi/asm-generic/socket.h).
const SO_NETNS_COOKIE: libc::c_int = 71;

/// ARPHRD_* numbers of devices (include/uapi/linux/if_arp.h).
mod hardware {
    pub(super) const ETHERNET: u16 = 1;
    pub(super) const PPP: u16 = 512;
    pub(super) const TUNNEL: u16 = 768;
    pub(super) const TUNNEL6: u16 = 769;
    pub(super) const LOOPBACK: u16 = 772;
    pub(super) const SIT: u16 = 776;
    pub(super) const IP_GRE: u16 = 778;
    pub(super) const IP6_GRE: u16 = 823;
    pub(super) const RAW_IP: u16 = 519;
    pub(super) const NONE: u16 = 0xfffe;
}

/// Runs `work` in the namespace of that name, or here where there is none.
pub(super) fn within<T: Send>(
    name: Option<&str>,
    work: impl FnOnce() -> Result<T, LiveError> + Send,
) -> Result<T, LiveError> {
    let Some(name) = name else { return work() };
    let failed = |source: io::Error| LiveError::Namespace { name: name.to_owned(), source };
    let namespace = open(name).map_err(failed)?;
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            setns(&*namespace, CloneFlags::CLONE_NEWNET)
                .map_err(|errno| failed(io::Error::from(errno)))?;
            work()
        });
        match thread.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

/// The cookie of the calling thread's namespace, which no other of this boot has (`SO_NETNS_COOKIE`, kernel 5.14).
pub(super) fn cookie() -> Result<u64, LiveError> {
    let asked = || {
        let socket = rustix::net::socket(
            rustix::net::AddressFamily::INET,
            rustix::net::SocketType::DGRAM,
            None,
        )?;
        let (mut cookie, mut length) =
            (0_u64, libc::socklen_t::try_from(size_of::<u64>()).unwrap_or(8));
        // SAFETY: the kernel writes at most `length` bytes to `cookie`, and both outlive the call.
        let done = unsafe {
            libc::getsockopt(
                socket.as_raw_fd(),
                libc::SOL_SOCKET,
                SO_NETNS_COOKIE,
                std::ptr::from_mut(&mut cookie).cast(),
                &raw mut length,
            )
        };
        if done == 0 { Ok(cookie) } else { Err(io::Error::last_os_error()) }
    };
    asked().map_err(|source| LiveError::File {
        what: "ask for the cookie of",
        path: "the network namespace".into(),
        source,
    })
}

/// The namespace of that name, of that process, or of a record.
fn open(name: &str) -> io::Result<Arc<File>> {
    if let Some(pid) = process::pid_of(name) {
        return process::namespace(pid).map(|found| found.namespace);
    }
    match process::namespace_of_record(name) {
        Some(found) => found,
        None => File::open(Path::new(NAMESPACES).join(name)).map(Arc::new),
    }
}

/// Settles what the names by pid among these stand for, while this process has the privileges for it. Each has to be
/// there, and be one namespace only: no name of another one, and not watched by another name already.
pub(super) fn settle(names: &BTreeSet<Option<String>>) -> Result<(), LiveError> {
    let mut known = BTreeMap::new();
    let by_pid =
        |name: &&Option<String>| name.as_deref().is_some_and(|it| process::pid_of(it).is_some());
    let (by_pid, others): (Vec<_>, Vec<_>) = names.iter().partition(by_pid);
    // The others may come later.
    for name in others.into_iter().chain(by_pid) {
        let Some(by_pid) = name.as_deref().filter(|name| process::pid_of(name).is_some()) else {
            let found = match name {
                Some(name) => open(name),
                None => File::open("/proc/thread-self/ns/net").map(Arc::new),
            };
            if let Ok(identity) = found.and_then(|file| identity(&file)) {
                known.insert(identity, name.as_deref().unwrap_or("linnet's own"));
            }
            continue;
        };
        let failed = |source| LiveError::Namespace { name: by_pid.to_owned(), source };
        let refused = |why: String| failed(io::Error::other(why));
        if Path::new(NAMESPACES).join(by_pid).exists() {
            return Err(refused(format!(
                "it names a process, and {NAMESPACES} has a namespace of that name too: give that another name"
            )));
        }
        let identity = open(by_pid).and_then(|file| identity(&file)).map_err(failed)?;
        if let Some(other) = known.insert(identity, by_pid) {
            return Err(refused(format!("it is the same as `{other}`, which is watched already")));
        }
    }
    Ok(())
}

/// Device and inode: no other namespace has them while this one is held.
pub(super) fn identity(namespace: &File) -> io::Result<(u64, u64)> {
    let found = namespace.metadata()?;
    Ok((found.dev(), found.ino()))
}

/// What an interface of the calling thread's namespace is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Device {
    pub(super) ifindex: u32,
    pub(super) link: Link,
    pub(super) loopback: bool,
}

/// Looks an interface up.
pub(super) fn device(name: &str) -> Result<Device, LiveError> {
    let missing = || LiveError::NoInterface(name.to_owned());
    let ifindex = nix::net::if_::if_nametoindex(name).map_err(|_| missing())?;
    let hardware = hardware_type(name).map_err(|_| missing())?;
    let link = match hardware {
        hardware::ETHERNET | hardware::LOOPBACK => Link::Ethernet,
        hardware::NONE
        | hardware::PPP
        | hardware::RAW_IP
        | hardware::TUNNEL
        | hardware::TUNNEL6
        | hardware::SIT
        | hardware::IP_GRE
        | hardware::IP6_GRE => Link::RawIp,
        _ => Link::Unsupported,
    };
    Ok(Device { ifindex, link, loopback: hardware == hardware::LOOPBACK })
}

/// The name of an interface of the calling thread's namespace; `None` where there is no such interface.
pub(super) fn name_of(ifindex: u32) -> Result<Option<String>, LiveError> {
    match nix::net::if_::if_indextoname(ifindex) {
        Ok(name) => match name.into_string() {
            Ok(name) => Ok(Some(name)),
            Err(error) => Err(LiveError::Name {
                ifindex,
                name: error.into_cstring().to_bytes().escape_ascii().to_string(),
            }),
        },
        Err(Errno::ENXIO | Errno::ENODEV) => Ok(None),
        Err(errno) => Err(LiveError::File {
            what: "find the name of interface",
            path: ifindex.to_string().into(),
            source: errno.into(),
        }),
    }
}

/// The ARPHRD_* number, by ioctl: /sys shows the namespace that mounted it, not this thread's.
fn hardware_type(name: &str) -> io::Result<u16> {
    let request = ask(name.as_bytes(), libc::SIOCGIFHWADDR)?;
    // SAFETY: SIOCGIFHWADDR fills this member of the union.
    Ok(unsafe { request.ifr_ifru.ifru_hwaddr.sa_family })
}

/// One of the ioctls that answer about an interface by its name.
fn ask(name: &[u8], what: libc::Ioctl) -> io::Result<libc::ifreq> {
    let socket = nix::sys::socket::socket(
        nix::sys::socket::AddressFamily::Inet,
        nix::sys::socket::SockType::Datagram,
        nix::sys::socket::SockFlag::SOCK_CLOEXEC,
        None,
    )?;
    // SAFETY: all-zero bytes are a valid `ifreq`.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (slot, byte) in request.ifr_name.iter_mut().zip(name) {
        *slot = byte.cast_signed();
    }
    // SAFETY: the request outlives the call, and is what these ioctls read and fill.
    let done = unsafe { libc::ioctl(socket.as_raw_fd(), what, &mut request) };
    if done < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(request)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_device_is_known() {
        let device = device("lo").unwrap();
        assert_eq!(device.link, Link::Ethernet);
        assert!(device.loopback && device.ifindex > 0);
    }

    #[test]
    fn a_missing_device_is_named() {
        let error = device("no-such-dev").unwrap_err().to_string();
        assert!(error.contains("`no-such-dev`"), "{error}");
    }
}
