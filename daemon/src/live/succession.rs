//! How the next attacher finds the daemon of one that died: the daemon listens in its run folder, and the two go on
//! together if they are of one program, configuration and set of maps. Everything else ends the daemon, so that a new one
//! is started. Neither end hands a descriptor over.

use std::{
    collections::hash_map::DefaultHasher,
    fs,
    hash::{Hash as _, Hasher as _},
    io,
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::fs::MetadataExt as _,
    },
    path::{Path, PathBuf},
    time::Duration,
};

use nix::sys::stat::{Mode, umask};
use rustix::{
    net::{
        AddressFamily, SocketAddrUnix, SocketFlags, SocketType, accept_with, bind, connect, listen,
        send, socket_with,
        sockopt::{Timeout, set_socket_timeout, socket_peercred},
    },
    process::{Pid, PidfdFlags, pidfd_open},
};

use super::{
    Server,
    handover::MAPS,
    remote,
    wire::{self, MESSAGE_MAX, Reader, WireError, Writer},
};

/// Name of the socket in the run folder.
const SOCKET: &str = "attacher.sock";
/// How long either waits for the other's word: nothing has to be done for it.
const WORD_MAX: Duration = Duration::from_secs(2);
/// Attachers that wait at once.
const WAITING_MAX: i32 = 4;

/// What attacher and daemon have to have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kinship {
    /// Of program, configuration and arguments.
    fingerprint: u64,
    /// The kernel's ids of the maps that a daemon reads.
    maps: [u32; MAPS.len()],
}

impl Kinship {
    /// Of this process.
    pub(super) fn new(config: &str, maps: [u32; MAPS.len()]) -> io::Result<Self> {
        // The file that runs, also after another one was put in its place.
        let program = fs::metadata("/proc/self/exe")?;
        let mut hasher = DefaultHasher::new();
        (program.dev(), program.ino(), program.size(), program.mtime(), program.mtime_nsec())
            .hash(&mut hasher);
        config.hash(&mut hasher);
        // The name that it was started by, and what makes it a daemon.
        let arguments = std::env::args_os().skip(1).filter(|it| it != super::HANDED_OVER);
        arguments.for_each(|argument| argument.hash(&mut hasher));
        Ok(Self { fingerprint: hasher.finish(), maps })
    }

    fn put(&self, writer: &mut Writer) {
        writer.u64(self.fingerprint);
        self.maps.iter().for_each(|id| writer.u32(*id));
    }

    fn take(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        let (fingerprint, mut maps) = (reader.u64()?, [0; MAPS.len()]);
        for id in &mut maps {
            *id = reader.u32()?;
        }
        Ok(Self { fingerprint, maps })
    }
}

/// Where a daemon waits for its next attacher.
#[derive(Debug)]
pub struct Succession {
    socket: OwnedFd,
    kinship: Kinship,
    /// Whose the attacher has to be.
    owner: u32,
}

impl Succession {
    /// Listens in the run folder, for attachers of the user whose attacher is at the other end of `attacher`.
    pub fn listen(run_dir: &Path, attacher: &OwnedFd, kinship: Kinship) -> io::Result<Self> {
        let path = run_dir.join(SOCKET);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        let socket = open()?;
        let before = umask(Mode::from_bits_truncate(0o177));
        let bound = bind(&socket, &SocketAddrUnix::new(&path)?);
        umask(before);
        bound?;
        listen(&socket, WAITING_MAX)?;
        let owner = socket_peercred(attacher)?.uid.as_raw();
        Ok(Self { socket, kinship, owner })
    }

    /// Waits for an attacher that this daemon can go on with.
    pub fn next(&self) -> io::Result<OwnedFd> {
        loop {
            let attacher = accept_with(&self.socket, SocketFlags::CLOEXEC)?;
            match self.agree(&attacher) {
                Ok(true) => return Ok(attacher),
                Ok(false) => {
                    tracing::warn!("another linnet was started, which will take this one's place")
                }
                Err(error) => tracing::warn!(%error, "who wanted to be the next attacher is not"),
            }
        }
    }

    fn agree(&self, attacher: &OwnedFd) -> io::Result<bool> {
        let owner = socket_peercred(attacher)?.uid.as_raw();
        if owner != self.owner && owner != 0 {
            return Err(io::Error::other(format!("it is the user {owner}'s")));
        }
        limit(attacher)?;
        let kinship = word(attacher, Kinship::take)?;
        let agreed = kinship == self.kinship;
        let answer = wire::message(0, |writer| {
            writer.u8(u8::from(agreed));
            Ok(())
        });
        send(attacher, &answer.map_err(io::Error::other)?, rustix::net::SendFlags::NOSIGNAL)?;
        Ok(agreed)
    }
}

/// Takes the name away again.
pub fn close(run_dir: &Path) {
    // Where it has gone already there is nothing to do.
    let _gone = fs::remove_file(run_dir.join(SOCKET));
}

/// A daemon that lives on without its attacher.
#[derive(Debug)]
pub struct Survivor {
    socket: OwnedFd,
    process: OwnedFd,
    pid: Pid,
}

impl Survivor {
    /// Its number.
    #[must_use]
    pub const fn pid(&self) -> Pid {
        self.pid
    }

    /// The one of this run folder, if there is one and it is that user's.
    pub fn find(run_dir: &Path, owner: u32) -> Option<Self> {
        let path: PathBuf = run_dir.join(SOCKET);
        let found = || -> io::Result<Self> {
            let socket = open()?;
            connect(&socket, &SocketAddrUnix::new(&path)?)?;
            let peer = socket_peercred(&socket)?;
            if peer.uid.as_raw() != owner {
                return Err(io::Error::other(format!("it is the user {}'s", peer.uid.as_raw())));
            }
            limit(&socket)?;
            // The process cannot be another one: the socket is still its own below.
            let process = pidfd_open(peer.pid, PidfdFlags::empty())?;
            Ok(Self { socket, process, pid: peer.pid })
        };
        match found() {
            Ok(survivor) => Some(survivor),
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
                ) =>
            {
                None
            }
            Err(error) => {
                tracing::warn!(%error, socket = %path.display(), "cannot speak to whoever listens there");
                None
            }
        }
    }

    /// Becomes its attacher, if the two fit; else it is to be ended.
    pub fn adopt(self, kinship: &Kinship) -> Result<(Server, OwnedFd), OwnedFd> {
        let asked = || -> io::Result<bool> {
            let hello = wire::message(0, |writer| {
                kinship.put(writer);
                Ok(())
            });
            send(
                &self.socket,
                &hello.map_err(io::Error::other)?,
                rustix::net::SendFlags::NOSIGNAL,
            )?;
            Ok(word(&self.socket, |reader| reader.u8())? == 1)
        };
        match asked() {
            Ok(true) => match Server::of(self.socket) {
                Ok(server) => Ok((server, self.process)),
                Err(error) => {
                    tracing::warn!(%error, "cannot speak to the daemon that lives on");
                    Err(self.process)
                }
            },
            Ok(false) => Err(self.process),
            Err(error) => {
                tracing::warn!(%error, "the daemon that lives on does not answer");
                Err(self.process)
            }
        }
    }
}

fn open() -> io::Result<OwnedFd> {
    Ok(socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?)
}

fn limit(socket: &OwnedFd) -> io::Result<()> {
    for timeout in [Timeout::Recv, Timeout::Send] {
        set_socket_timeout(socket, timeout, Some(WORD_MAX))?;
    }
    Ok(())
}

/// The other's next word.
fn word<T>(
    socket: &OwnedFd,
    take: impl FnOnce(&mut Reader<'_>) -> Result<T, WireError>,
) -> io::Result<T> {
    let mut buffer = vec![0; MESSAGE_MAX];
    let length = remote::receive(socket.as_fd(), &mut buffer, rustix::net::RecvFlags::empty())?
        .ok_or(io::ErrorKind::UnexpectedEof)?
        .map_err(io::Error::other)?;
    wire::read(&buffer[..length], take).1.map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kinship(fingerprint: u64) -> Kinship {
        Kinship { fingerprint, maps: [7; MAPS.len()] }
    }

    fn own_uid() -> u32 {
        rustix::process::getuid().as_raw()
    }

    fn listening(folder: &Path) -> Succession {
        let (ours, _theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        Succession::listen(folder, &ours.into(), kinship(1)).unwrap()
    }

    #[test]
    fn two_that_fit_go_on_together_and_others_do_not() {
        let folder = tempfile::tempdir().unwrap();
        let succession = listening(folder.path());
        let waiting = std::thread::spawn(move || succession.next().map(drop));
        for other in [kinship(2), Kinship { maps: [8; MAPS.len()], ..kinship(1) }] {
            let survivor = Survivor::find(folder.path(), own_uid()).unwrap();
            assert!(survivor.adopt(&other).is_err());
        }
        let survivor = Survivor::find(folder.path(), own_uid()).unwrap();
        assert!(survivor.adopt(&kinship(1)).is_ok());
        waiting.join().unwrap().unwrap();
    }

    #[test]
    fn a_name_without_a_daemon_is_none_and_another_users_daemon_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        assert!(Survivor::find(folder.path(), own_uid()).is_none());
        let succession = listening(folder.path());
        assert!(Survivor::find(folder.path(), own_uid() + 1).is_none());
        drop(succession);
        assert!(Survivor::find(folder.path(), own_uid()).is_none(), "nobody listens any more");
        // The next one takes the name over.
        listening(folder.path());
        close(folder.path());
        assert!(!folder.path().join(SOCKET).exists());
    }

    #[test]
    fn who_says_nothing_or_nonsense_is_not_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let succession = listening(folder.path());
        let waiting = std::thread::spawn(move || succession.next().map(drop));
        let silent = Survivor::find(folder.path(), own_uid()).unwrap();
        let noisy = Survivor::find(folder.path(), own_uid()).unwrap();
        send(&noisy.socket, b"nonsense", rustix::net::SendFlags::NOSIGNAL).unwrap();
        // Longer than the silent one is listened to.
        let survivor = Survivor::find(folder.path(), own_uid()).unwrap();
        set_socket_timeout(&survivor.socket, Timeout::Recv, Some(4 * WORD_MAX)).unwrap();
        assert!(survivor.adopt(&kinship(1)).is_ok());
        waiting.join().unwrap().unwrap();
        drop((silent, noisy));
    }
}
