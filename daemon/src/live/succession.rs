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
        AddressFamily, SendFlags, SocketAddrUnix, SocketFlags, SocketType, accept_with, bind,
        connect, listen, send, socket_with,
        sockopt::{Timeout, set_socket_timeout, socket_peercred},
    },
    process::{Pid, PidfdFlags, pidfd_open},
};

use super::{
    Server,
    handover::MAPS,
    holders, remote,
    wire::{self, MESSAGE_MAX, Reader, WireError, Writer},
};

/// Name of the socket in the run folder.
const SOCKET: &str = "attacher.sock";
/// How long a daemon waits for an attacher's word: nothing has to be done for it.
const WORD_MAX: Duration = Duration::from_secs(2);
/// How long an attacher waits for the daemon's: others may have come before it.
const ANSWER_MAX: Duration = Duration::from_secs(7);
/// Attachers that wait at once.
const WAITING_MAX: i32 = 4;

/// What attacher and daemon have to have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kinship {
    /// Of program, configuration, arguments and the rings of captured packets.
    fingerprint: u64,
    /// The kernel's ids of the maps that a daemon reads.
    maps: [u32; MAPS.len()],
}

impl Kinship {
    /// Of this process.
    pub(super) fn new(config: &str, maps: [u32; MAPS.len()], rings: &[u32]) -> io::Result<Self> {
        // The file that runs, also after another one was put in its place.
        let program = fs::metadata("/proc/self/exe")?;
        let mut hasher = DefaultHasher::new();
        (program.dev(), program.ino(), program.size(), program.mtime(), program.mtime_nsec())
            .hash(&mut hasher);
        config.hash(&mut hasher);
        rings.hash(&mut hasher);
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
        let named = |error: io::Error| {
            io::Error::other(format!("`{}`: {error}; remove what is there", path.display()))
        };
        match fs::remove_file(&path) {
            Err(error) if error.kind() == io::ErrorKind::IsADirectory => {
                fs::remove_dir(&path).map_err(named)?;
            }
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(named(error)),
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
                // It only looked who is here.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {}
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
        limit(attacher, WORD_MAX)?;
        let kinship = word(attacher, Kinship::take)?;
        let agreed = kinship == self.kinship;
        let answer = wire::message(0, |writer| {
            writer.u8(u8::from(agreed));
            Ok(())
        });
        send(attacher, &answer.map_err(io::Error::other)?, SendFlags::NOSIGNAL)?;
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
    path: PathBuf,
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
            let pid = socket_peercred(reach(&path)?)?.pid;
            let process = pidfd_open(pid, PidfdFlags::empty())?;
            // The number may have been another's by then, whatever the socket says.
            if !holders::is_daemon_of(pid, owner) || holders::has_ended(&process, Duration::ZERO)? {
                return Err(io::Error::other("it is no daemon of linnet's user"));
            }
            Ok(Self { path: path.clone(), process, pid })
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

    /// Whether it listens for HTTP at a port.
    #[must_use]
    pub fn listens_at(&self, port: u16) -> bool {
        holders::listens_at(self.pid, port)
    }

    /// Its process, to be ended.
    #[must_use]
    pub fn into_process(self) -> OwnedFd {
        self.process
    }

    /// Becomes its attacher, if the two fit; else it is to be ended.
    pub fn adopt(self, kinship: &Kinship) -> Result<(Server, OwnedFd), OwnedFd> {
        // Only now: a daemon does not wait for an attacher that takes its time.
        let asked = || -> io::Result<Option<Server>> {
            let socket = reach(&self.path)?;
            if socket_peercred(&socket)?.pid != self.pid {
                return Err(io::Error::other("another one listens there by now"));
            }
            let hello = wire::message(0, |writer| {
                kinship.put(writer);
                Ok(())
            });
            send(&socket, &hello.map_err(io::Error::other)?, SendFlags::NOSIGNAL)?;
            match word(&socket, |reader| reader.u8())? {
                1 => Server::of(socket).map(Some),
                _ => Ok(None),
            }
        };
        match asked() {
            Ok(Some(server)) => Ok((server, self.process)),
            Ok(None) => {
                tracing::info!(
                    "the daemon of an attacher that died is of another program, configuration or set of maps"
                );
                Err(self.process)
            }
            Err(error) => {
                tracing::warn!(%error, "the daemon of an attacher that died does not answer");
                Err(self.process)
            }
        }
    }
}

/// Connects, in bounded time also where nobody accepts.
fn reach(path: &Path) -> io::Result<OwnedFd> {
    let socket = open()?;
    limit(&socket, ANSWER_MAX)?;
    connect(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(socket)
}

fn open() -> io::Result<OwnedFd> {
    Ok(socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?)
}

fn limit(socket: &OwnedFd, most: Duration) -> io::Result<()> {
    for timeout in [Timeout::Recv, Timeout::Send] {
        set_socket_timeout(socket, timeout, Some(most))?;
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
        // As a daemon does.
        fs::write("/proc/self/comm", "linnet").unwrap();
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
        fs::create_dir(folder.path().join(SOCKET)).unwrap();
        assert!(Survivor::find(folder.path(), own_uid()).is_none());
        let succession = listening(folder.path());
        assert!(Survivor::find(folder.path(), own_uid() + 1).is_none());
        drop(succession);
        assert!(Survivor::find(folder.path(), own_uid()).is_none(), "nobody listens any more");
        // The next one takes the name over.
        listening(folder.path());
        close(folder.path());
        assert!(!folder.path().join(SOCKET).exists());
        fs::create_dir_all(folder.path().join(SOCKET).join("x")).unwrap();
        let (ours, _theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        let error = Succession::listen(folder.path(), &ours.into(), kinship(1)).unwrap_err();
        assert!(error.to_string().contains("attacher.sock"), "{error}");
    }

    #[test]
    fn who_says_nothing_or_nonsense_is_not_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let succession = listening(folder.path());
        let path = folder.path().join(SOCKET);
        let waiting = std::thread::spawn(move || succession.next().map(drop));
        let silent = reach(&path).unwrap();
        let noisy = reach(&path).unwrap();
        send(&noisy, b"nonsense", SendFlags::NOSIGNAL).unwrap();
        let survivor = Survivor::find(folder.path(), own_uid()).unwrap();
        assert!(survivor.adopt(&kinship(1)).is_ok());
        waiting.join().unwrap().unwrap();
        drop((silent, noisy));
    }

    #[test]
    fn where_nobody_accepts_the_wait_has_an_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(SOCKET);
        let socket = open().unwrap();
        bind(&socket, &SocketAddrUnix::new(&path).unwrap()).unwrap();
        listen(&socket, 0).unwrap();
        let _first = reach(&path).unwrap();
        let short = open().unwrap();
        limit(&short, Duration::from_millis(50)).unwrap();
        let refused = connect(&short, &SocketAddrUnix::new(&path).unwrap()).unwrap_err();
        assert_eq!(refused, rustix::io::Errno::AGAIN);
    }
}
