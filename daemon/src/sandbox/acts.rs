//! What the daemon must not be able to do, tried: each act is harmless where it is not refused.

use std::{
    fs::File,
    io,
    net::{Ipv4Addr, SocketAddr, TcpStream},
    time::Duration,
};

use nix::{
    errno::Errno,
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
    sys::ptrace,
    unistd::{Pid, execv},
};

use crate::live;

/// A port of loopback where nobody listens: tcpmux.
const NOBODY: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 1);

/// One of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// Reading /etc/shadow.
    ReadShadow,
    /// Running a program.
    Exec,
    /// Looking into another process.
    Ptrace,
    /// Connecting to somewhere.
    Connect,
    /// Making a BPF map.
    MapCreate,
    /// Loading a BPF program.
    ProgLoad,
    /// Mounting something.
    Mount,
    /// Making namespaces, and with them privileges.
    Unshare,
}

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The kernel refused it, for want of a permission.
    Refused(i32),
    /// It was done, or failed for another reason.
    Allowed,
    /// There is nothing to do it to.
    Absent,
}

impl Act {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::ReadShadow,
        Self::Exec,
        Self::Ptrace,
        Self::Connect,
        Self::MapCreate,
        Self::ProgLoad,
        Self::Mount,
        Self::Unshare,
    ];

    /// As in messages.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::ReadShadow => "open /etc/shadow",
            Self::Exec => "exec",
            Self::Ptrace => "ptrace",
            Self::Connect => "outgoing TCP connect",
            Self::MapCreate => "bpf MAP_CREATE",
            Self::ProgLoad => "bpf PROG_LOAD",
            Self::Mount => "mount",
            Self::Unshare => "unshare",
        }
    }

    /// Tries it.
    #[must_use]
    pub fn attempt(self) -> Verdict {
        let done = match self {
            Self::ReadShadow => match File::open("/etc/shadow") {
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Verdict::Absent,
                other => other.map(drop),
            },
            // No such program: where exec is allowed it is not found.
            Self::Exec => errno(execv(c"/nowhere/linnet", &[c"linnet"])),
            // No such process.
            Self::Ptrace => errno(ptrace::attach(Pid::from_raw(0))),
            Self::Connect => TcpStream::connect_timeout(&NOBODY, Duration::from_secs(1)).map(drop),
            Self::MapCreate => live::try_map_create(),
            Self::ProgLoad => live::try_prog_load(),
            // No such file system.
            Self::Mount => {
                errno(mount(None::<&str>, "/", Some("linnet"), MsFlags::empty(), None::<&str>))
            }
            Self::Unshare => errno(unshare(CloneFlags::CLONE_NEWIPC)),
        };
        let error = done.err().and_then(|error| error.raw_os_error());
        match error {
            Some(code @ (libc::EPERM | libc::EACCES)) => Verdict::Refused(code),
            _ => Verdict::Allowed,
        }
    }
}

fn errno<T>(result: Result<T, Errno>) -> io::Result<()> {
    result.map(drop).map_err(io::Error::from)
}
