//! The two sockets: how they come to be, and who is at the other end of a connection. Never serves anything.

use std::{
    fs,
    io::{self, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    os::unix::{
        fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _},
        net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
    time::Duration,
};

use nix::{
    errno::Errno,
    unistd::{Gid, Group, Uid, User},
};

use super::access::{GROUP, Peer};

/// How every answer names who gives it.
pub(super) const SERVER: &str = "linnet";
/// How long another server may take to say who it is.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);
/// How much of what it says is read: its headers.
const ANSWER_MAX: usize = 4 * 1024;
/// In how many pieces it may come.
const READS_MAX: usize = 4;
/// Connections that may wait to be accepted.
const WAITING_MAX: i32 = 1_024;
/// The socket's name in the run folder.
const SOCKET: &str = "api.sock";
/// The same until it has its permissions; as long as the other, since addresses of sockets are short.
const UNFINISHED: &str = ".api.new";

/// The sockets, bound but not yet served. The unix socket's file goes with them.
#[derive(Debug)]
pub struct Bound {
    pub(super) tcp: TcpListener,
    pub(super) unix: UnixListener,
    /// Where the unix socket is.
    pub path: PathBuf,
    /// Where browsers go.
    pub address: SocketAddr,
}

impl Drop for Bound {
    fn drop(&mut self) {
        // A folder that is gone has no socket.
        let _gone = fs::remove_file(&self.path);
    }
}

/// A socket that cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Someone else has the port.
    #[error(
        "cannot listen on {0}: the port is taken; see by whom with `ss -ltnp 'sport = :{port}'`, or choose another one with --listen 127.0.0.1:PORT",
        port = .0.port()
    )]
    PortTaken(SocketAddr),
    /// Another daemon has the port.
    #[error(
        "cannot listen on {0}: another linnet serves there; stop it, or choose another port with --listen 127.0.0.1:PORT"
    )]
    PortOfLinnet(SocketAddr),
    /// The TCP address, for another reason.
    #[error(
        "cannot listen on {address}: {source}; choose another one with --listen 127.0.0.1:PORT"
    )]
    Tcp {
        /// Which.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The unix socket.
    #[error("cannot listen on `{path}`: {source}; name another folder with --run-dir")]
    Unix {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Another daemon answers there.
    #[error("another linnet answers on `{0}`; stop it, or give this one a --run-dir of its own")]
    InUse(PathBuf),
}

/// The TCP address. To be had first: what cannot be had leaves nothing behind.
pub fn bind_tcp(address: SocketAddr) -> Result<TcpListener, BindError> {
    debug_assert!(address.ip().is_loopback(), "`Config` lets no other pass");
    match TcpListener::bind(address) {
        Ok(listener) => {
            // More may wait than std allows; where that is refused its own number does.
            let _fewer = rustix::net::listen(&listener, WAITING_MAX);
            Ok(listener)
        }
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            let linnet = is_linnet(address).unwrap_or(false);
            Err(if linnet {
                BindError::PortOfLinnet(address)
            } else {
                BindError::PortTaken(address)
            })
        }
        Err(source) => Err(BindError::Tcp { address, source }),
    }
}

/// The unix socket beside it.
pub fn bind(run_dir: &Path, tcp: TcpListener) -> Result<Bound, BindError> {
    let path = run_dir.join(SOCKET);
    if UnixStream::connect(&path).is_ok() {
        return Err(BindError::InUse(path));
    }
    let bound = || {
        let address = tcp.local_addr()?;
        tcp.set_nonblocking(true)?;
        let unix = bind_unix(run_dir, &path)?;
        unix.set_nonblocking(true)?;
        Ok(Bound { tcp, unix, path: path.clone(), address })
    };
    bound().map_err(|source| BindError::Unix { path: path.clone(), source })
}

/// Whether a linnet serves there. Whoever does not say so in time is another.
fn is_linnet(address: SocketAddr) -> io::Result<bool> {
    let mut stream = TcpStream::connect_timeout(&address, ANSWER_TIMEOUT)?;
    stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
    stream.set_write_timeout(Some(ANSWER_TIMEOUT))?;
    let request = format!("GET /healthz HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let (mut answer, mut buffer) = (Vec::new(), [0; ANSWER_MAX]);
    for _ in 0..READS_MAX {
        match stream.read(&mut buffer)? {
            0 => break,
            length => answer.extend_from_slice(&buffer[..length]),
        }
    }
    let answer = String::from_utf8_lossy(&answer).to_ascii_lowercase();
    Ok(answer.contains(&format!("\r\nserver: {SERVER}\r\n")))
}

/// A socket that is never there without its permissions: made under another name, then renamed into place, which
/// also replaces an earlier run's that nobody answers on.
fn bind_unix(run_dir: &Path, path: &Path) -> io::Result<UnixListener> {
    match fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => {
            return Err(io::Error::other("there is a file that is no socket; remove it"));
        }
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let unfinished = run_dir.join(UNFINISHED);
    match fs::remove_file(&unfinished) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let unix = UnixListener::bind(&unfinished)?;
    fs::set_permissions(&unfinished, fs::Permissions::from_mode(0o660))?;
    if let Some(group) = group() {
        match nix::unistd::chown(&unfinished, None, Some(group.gid)) {
            // Whoever is no member cannot give it to the group.
            Err(Errno::EPERM) if !nix::unistd::geteuid().is_root() => {}
            other => other?,
        }
        // Of a folder that is for root's group alone, as linnet makes it: else the members could not reach the socket.
        let folder = fs::metadata(run_dir)?;
        if folder.gid() == 0 && folder.permissions().mode() & 0o011 == 0o010 {
            nix::unistd::chown(run_dir, None, Some(group.gid))?;
        }
    }
    fs::rename(&unfinished, path)?;
    Ok(unix)
}

/// The group that may use the socket, where there is one.
fn group() -> Option<Group> {
    Group::from_name(GROUP).unwrap_or_else(|error| {
        tracing::warn!(%error, group = GROUP, "cannot look up the group; only root may use the socket");
        None
    })
}

/// Who is at the other end; a peer that cannot be named is nobody. Groups are looked up beside the async threads.
pub(super) fn unix_peer(
    stream: &tokio::net::UnixStream,
) -> impl Future<Output = Option<Peer>> + use<> {
    let credentials = stream.peer_cred().ok();
    async move {
        let (uid, gid) = credentials.map(|peer| (peer.uid(), peer.gid()))?;
        let in_group = uid != 0
            && tokio::task::spawn_blocking(move || is_member(uid, gid)).await.unwrap_or(false);
        Some(Peer::Unix { uid, in_group })
    }
}

fn is_member(uid: u32, gid: u32) -> bool {
    let Some(group) = group() else { return false };
    group.gid == Gid::from_raw(gid)
        || User::from_uid(Uid::from_raw(uid))
            .ok()
            .flatten()
            .is_some_and(|user| user.gid == group.gid || group.mem.contains(&user.name))
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use super::*;

    const ANY: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

    fn bound(folder: &Path, address: SocketAddr) -> Result<Bound, BindError> {
        bind(folder, bind_tcp(address)?)
    }

    #[test]
    fn the_socket_is_for_owner_and_group() {
        let folder = tempfile::tempdir().unwrap();
        let bound = bound(folder.path(), ANY).unwrap();
        let mode = fs::metadata(&bound.path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o660);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing else is left");
    }

    #[test]
    fn a_socket_that_answers_is_left_alone_and_a_dead_one_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let first = bound(folder.path(), ANY).unwrap();
        assert!(matches!(bound(folder.path(), ANY), Err(BindError::InUse(_))));
        let path = first.path.clone();
        drop(first);
        assert!(!path.exists(), "the file goes with the socket");
        // As a daemon that was killed leaves it.
        drop(UnixListener::bind(&path).unwrap());
        assert!(bound(folder.path(), ANY).is_ok());
    }

    #[test]
    fn a_file_that_is_no_socket_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(SOCKET);
        fs::write(&path, "mine").unwrap();
        assert!(matches!(bound(folder.path(), ANY), Err(BindError::Unix { .. })));
        assert_eq!(fs::read_to_string(path).unwrap(), "mine");
    }

    #[test]
    fn a_taken_port_says_what_to_do() {
        let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let first = bound(folders[0].path(), ANY).unwrap();
        let second = bound(folders[1].path(), first.address);
        let error = second.map(|_| ()).unwrap_err();
        assert!(matches!(error, BindError::PortTaken(_)), "{error}");
        assert!(error.to_string().contains("--listen"));
        assert_eq!(fs::read_dir(folders[1].path()).unwrap().count(), 0, "no socket is left");
    }
}
