//! Daemons that hold a pinned map: one whose attacher died reads and clears the tables, so that a second one beside it
//! would count wrongly, and the maps stay for as long as it lives. Found by the kernel's account of their descriptors.

use std::{
    ffi::CString,
    fs, io,
    os::{
        fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
    time::Duration,
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::live::batch;

/// `BPF_OBJ_GET` (include/uapi/linux/bpf.h).
const OBJ_GET: libc::c_int = 7;
/// The name that a daemon gives itself.
const NAME: &str = "linnet\n";
/// How long a process that was killed may take to be gone.
const KILLED_MAX: Duration = Duration::from_secs(5);

/// Says what the kernel says about what is pinned, whatever it is (`/proc/PID/fdinfo`).
pub(in crate::live) fn account_of(pin: &Path) -> io::Result<String> {
    let fd = open(pin)?;
    fs::read_to_string(format!("/proc/self/fdinfo/{}", fd.as_raw_fd()))
}

/// Opens what is pinned, whatever it is.
pub(in crate::live) fn open(pin: &Path) -> io::Result<OwnedFd> {
    // `union bpf_attr`, the member for pins.
    #[repr(C)]
    struct PathAttr {
        path: u64,
        descriptor: u32,
        flags: u32,
    }
    let name = CString::new(pin.as_os_str().as_bytes()).map_err(io::Error::other)?;
    let mut attr = PathAttr { path: name.as_ptr() as u64, descriptor: 0, flags: 0 };
    let fd = batch::bpf_fd(OBJ_GET, &mut attr)?;
    // SAFETY: the kernel has just made this descriptor, and nobody else knows of it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A field of such an account; empty where it has none.
pub(in crate::live) fn field<'a>(account: &'a str, name: &str) -> &'a str {
    let mut lines = account.lines();
    lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).unwrap_or_default().trim()
}

/// Ends every daemon that holds the map that is pinned there, but one; returns how many.
pub fn end_holders(pin: &Path, but: Option<Pid>, most: Duration) -> usize {
    let id = account_of(pin).map(|account| field(&account, "map_id").to_owned());
    let Some(id) = id.ok().filter(|id| !id.is_empty()) else { return 0 };
    let mut ended = 0;
    for pid in processes() {
        if Some(pid) == but || pid.as_raw_nonzero().get().cast_unsigned() == std::process::id() {
            continue;
        }
        // From here on the number means this process.
        let Ok(process) = pidfd_open(pid, PidfdFlags::empty()) else { continue };
        if is_daemon_with(pid, &id) {
            tracing::info!(pid = %pid, "ending a daemon that was left without its attacher");
            match end_process(&process, most) {
                Ok(()) => ended += 1,
                Err(error) => tracing::warn!(%error, pid = %pid, "it was not ended"),
            }
        }
    }
    ended
}

fn processes() -> Vec<Pid> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pid = |entry: fs::DirEntry| Pid::from_raw(entry.file_name().to_str()?.parse().ok()?);
    entries.filter_map(pid).collect()
}

/// Whether a process is a daemon by its name, and that user's.
pub(in crate::live) fn is_daemon_of(pid: Pid, owner: u32) -> bool {
    let read = |file: &str| fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
    let status = read("status");
    let uid = field(&status, "Uid").split_whitespace().next();
    read("comm") == NAME && uid.and_then(|uid| uid.parse().ok()) == Some(owner)
}

/// Whether a process of this network namespace listens at a TCP port.
pub(in crate::live) fn listens_at(pid: Pid, port: u16) -> bool {
    /// `TCP_LISTEN` (include/net/tcp_states.h).
    const LISTEN: &str = "0A";
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"].map(fs::read_to_string);
    let inode = |line: &str| {
        let fields: Vec<_> = line.split_whitespace().collect();
        let (_, at) = fields.get(1)?.rsplit_once(':')?;
        let is_it = u16::from_str_radix(at, 16) == Ok(port) && fields.get(3) == Some(&LISTEN);
        is_it.then(|| format!("socket:[{}]", fields.get(9).unwrap_or(&"")))
    };
    let tables = tables.iter().flatten();
    let sockets: Vec<_> = tables.flat_map(|table| table.lines().filter_map(inode)).collect();
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    let mut targets = descriptors.filter_map(|entry| fs::read_link(entry.path()).ok());
    targets.any(|target| sockets.iter().any(|socket| target.as_os_str() == socket.as_str()))
}

fn is_daemon_with(pid: Pid, map: &str) -> bool {
    let of = |file: &str| format!("/proc/{pid}/{file}");
    if !fs::read_to_string(of("comm")).is_ok_and(|name| name == NAME) {
        return false;
    }
    let entries = fs::read_dir(of("fdinfo")).into_iter().flatten().flatten();
    let mut accounts = entries.filter_map(|entry| fs::read_to_string(entry.path()).ok());
    accounts.any(|account| field(&account, "map_id") == map)
}

/// Ends a process in order, or else by force.
pub fn end_process(process: &OwnedFd, most: Duration) -> io::Result<()> {
    signal(process, Signal::TERM);
    if !has_ended(process, most)? {
        tracing::warn!("the daemon does not end: killing it");
        kill_process(process)?;
    }
    Ok(())
}

/// Ends a process at once, and waits for that.
pub fn kill_process(process: &OwnedFd) -> io::Result<()> {
    signal(process, Signal::KILL);
    has_ended(process, KILLED_MAX).map(drop)
}

/// Sends a signal to a process that may have ended.
pub fn signal(process: &OwnedFd, signal: Signal) {
    // One that has ended needs none.
    let _ended = pidfd_send_signal(process, signal);
}

/// Whether a process has ended, or does within a time.
pub fn has_ended(process: &OwnedFd, most: Duration) -> io::Result<bool> {
    use std::os::fd::AsFd as _;
    let most = PollTimeout::try_from(most).unwrap_or(PollTimeout::MAX);
    match poll(&mut [PollFd::new(process.as_fd(), PollFlags::POLLIN)], most) {
        Ok(ready) => Ok(ready > 0),
        Err(Errno::EINTR) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_is_what_stands_behind_its_name() {
        let account = "pos:\t0\nmap_type:\t1\nmap_id:\t77\n";
        assert_eq!(
            (field(account, "map_id"), field(account, "map"), field(account, "x")),
            ("77", "", "")
        );
    }

    #[test]
    fn who_listens_at_a_port_is_known() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let own = rustix::process::getpid();
        assert!(listens_at(own, port));
        drop(listener);
        assert!(!listens_at(own, port));
    }

    #[test]
    fn what_is_pinned_nowhere_is_held_by_nobody() {
        assert_eq!(end_holders(Path::new("/sys/fs/bpf/no-such-pin"), None, Duration::ZERO), 0);
    }
}
