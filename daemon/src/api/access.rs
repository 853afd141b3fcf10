//! Who may ask: over the unix socket root, the daemon's own user and the group; over loopback whoever holds the token
//! or a session made with it. Never says why not; `guard.rs` does.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write as _},
    net::SocketAddr,
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use axum::http::{HeaderMap, header};

use super::secrets::{Credential, Refused, Secrets, fresh};
use crate::clock::Clock;

/// The session's cookie.
pub(super) const COOKIE: &str = "linnet_session";
/// Members of this group may use the unix socket.
pub(super) const GROUP: &str = "linnet";
/// Shortest token that is taken from the file: 128 bits as hexadecimal digits.
const TOKEN_LENGTH_MIN: usize = 32;

/// Who is at the other end of a connection.
#[derive(Clone, Copy, Debug)]
pub(super) enum Peer {
    /// A process, over the unix socket.
    Unix {
        /// Its user.
        uid: u32,
        /// Whether that user is a member of [`GROUP`].
        in_group: bool,
    },
    /// Someone on this host.
    Tcp {
        /// The address that was connected to.
        local: SocketAddr,
    },
}

/// What may be exchanged for what, and the time that decides it.
#[derive(Debug)]
pub struct Access {
    clock: Arc<Clock>,
    own_uid: u32,
    secrets: Mutex<Secrets>,
}

impl Access {
    /// Reads the token file of the run folder, or makes it.
    pub fn new(run_dir: &Path, clock: Arc<Clock>) -> io::Result<Self> {
        let secrets = Mutex::new(Secrets::new(&token(&run_dir.join("token"))?));
        Ok(Self { clock, own_uid: nix::unistd::geteuid().as_raw(), secrets })
    }

    /// A login that can be exchanged for a session once.
    #[must_use]
    pub fn one_time_login(&self) -> String {
        self.secrets().login(self.clock.monotonic_ns())
    }

    /// Exchanges a token or a login for a session's secret.
    pub(super) fn exchange(&self, presented: Credential<'_>) -> Result<String, Refused> {
        self.secrets().exchange(presented, self.clock.monotonic_ns())
    }

    /// Ends the session of a request, if it has one.
    pub(super) fn end(&self, headers: &HeaderMap) {
        if let Some(session) = cookie(headers) {
            self.secrets().end_session(session);
        }
    }

    /// Whether this peer may ask, with what it sent along.
    pub(super) fn admits(&self, peer: Peer, headers: &HeaderMap) -> bool {
        match peer {
            Peer::Unix { uid, in_group } => uid == 0 || uid == self.own_uid || in_group,
            Peer::Tcp { .. } => {
                bearer(headers).is_some_and(|token| self.secrets().is_token(token))
                    || cookie(headers).is_some_and(|session| {
                        self.secrets().use_session(session, self.clock.monotonic_ns())
                    })
            }
        }
    }

    fn secrets(&self) -> MutexGuard<'_, Secrets> {
        self.secrets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The token in the file; a new one where there is no file. One that could be guessed or read by others is refused.
fn token(path: &Path) -> io::Result<String> {
    match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Ok(mut file) => {
            let token = fresh("linnet_");
            writeln!(file, "{token}")?;
            return Ok(token);
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(error),
    }
    let mode = fs::metadata(path)?.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(refused(path, &format!("its mode is {mode:03o}; make it 600")));
    }
    let token = fs::read_to_string(path)?.trim().to_owned();
    if token.len() < TOKEN_LENGTH_MIN {
        let why = format!(
            "it has no token of at least {TOKEN_LENGTH_MIN} characters; remove it to have a new one made"
        );
        return Err(refused(path, &why));
    }
    Ok(token)
}

fn refused(path: &Path, why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("cannot use `{}`: {why}", path.display()))
}

/// The token of `Authorization: Bearer TOKEN` (RFC 6750); the scheme's case does not matter (RFC 9110).
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(token)
}

fn cookie(headers: &HeaderMap) -> Option<&str> {
    let cookies = headers.get(header::COOKIE)?.to_str().ok()?;
    cookies.split("; ").find_map(|pair| pair.strip_prefix(COOKIE)?.strip_prefix('='))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn access(folder: &Path) -> io::Result<Access> {
        Access::new(folder, Arc::new(Clock::new()))
    }

    fn headers(name: header::HeaderName, value: &str) -> HeaderMap {
        HeaderMap::from_iter([(name, value.parse().unwrap())])
    }

    #[test]
    fn the_socket_is_for_root_the_own_user_and_the_group() {
        let folder = tempfile::tempdir().unwrap();
        let access = access(folder.path()).unwrap();
        let none = HeaderMap::new();
        let own = nix::unistd::geteuid().as_raw();
        for (uid, in_group, admitted) in
            [(0, false, true), (own, false, true), (65_534, true, true), (65_534, false, false)]
        {
            let peer = Peer::Unix { uid, in_group };
            assert_eq!(access.admits(peer, &none), admitted, "{peer:?}");
        }
        let token = fs::read_to_string(folder.path().join("token")).unwrap();
        let bearer = headers(header::AUTHORIZATION, &format!("Bearer {}", token.trim()));
        let peer = Peer::Unix { uid: 65_534, in_group: false };
        assert!(!access.admits(peer, &bearer), "the token is for loopback");
    }

    #[test]
    fn loopback_is_for_the_token_and_for_sessions() {
        let folder = tempfile::tempdir().unwrap();
        let access = access(folder.path()).unwrap();
        let peer = Peer::Tcp { local: "127.0.0.1:8470".parse().unwrap() };
        assert!(!access.admits(peer, &HeaderMap::new()));
        let token = fs::read_to_string(folder.path().join("token")).unwrap();
        let token = token.trim();
        for (value, admitted) in [
            (format!("Bearer {token}"), true),
            (format!("bearer {token}"), true),
            (format!("Basic {token}"), false),
            (format!("Bearer {token}0"), false),
            ("Bearer ".to_owned(), false),
            (token.to_owned(), false),
        ] {
            let headers = headers(header::AUTHORIZATION, &value);
            assert_eq!(access.admits(peer, &headers), admitted, "{value}");
        }
        let session = access.exchange(Credential::Token(token)).unwrap();
        let with_session = headers(header::COOKIE, &format!("a=1; {COOKIE}={session}; b=2"));
        assert!(access.admits(peer, &with_session));
        access.end(&with_session);
        assert!(!access.admits(peer, &with_session));
        assert!(!access.admits(peer, &headers(header::COOKIE, &format!("{COOKIE}="))));
    }

    #[test]
    fn the_token_is_kept_and_only_for_the_owner() {
        let folder = tempfile::tempdir().unwrap();
        access(folder.path()).unwrap();
        let path = folder.path().join("token");
        let first = fs::read_to_string(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        access(folder.path()).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), first);
    }

    #[test]
    fn a_token_that_is_empty_or_open_to_others_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        fs::write(&path, "\n").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        let error = access(folder.path()).unwrap_err().to_string();
        assert!(error.contains("remove it"), "{error}");
        fs::write(&path, fresh("linnet_")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let error = access(folder.path()).unwrap_err().to_string();
        assert!(error.contains("640") && error.contains("make it 600"), "{error}");
    }
}
