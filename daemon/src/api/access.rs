//! Who may ask: root over the unix socket, and whoever holds the token or a session made with it over loopback.

use std::{
    collections::HashMap,
    fs::OpenOptions,
    io::{self, Read as _, Write as _},
    net::SocketAddr,
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use axum::{
    extract::{ConnectInfo, Request, State},
    http::{HeaderMap, StatusCode, header},
    middleware::Next,
    response::Response,
};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use super::{ApiError, ApiState};
use crate::clock::Clock;

/// Sessions at a time; the oldest goes first.
const SESSIONS_MAX: usize = 64;
/// How long a session lives.
const SESSION_NS: u64 = 12 * 3_600 * 1_000_000_000;
/// How long a one-time login may be used.
const LOGIN_NS: u64 = 600 * 1_000_000_000;
/// Wrong logins per minute before all are refused for the rest of it.
const FAILURES_MAX: u32 = 20;
const MINUTE_NS: u64 = 60 * 1_000_000_000;
/// The session's cookie.
pub const COOKIE: &str = "linnet_session";

type Digest = [u8; 32];

/// Who is at the other end of a connection.
#[derive(Clone, Debug)]
pub enum Peer {
    /// The unix socket, with the peer's user id.
    Unix(u32),
    /// Loopback.
    Tcp(SocketAddr),
}

/// The secrets, as digests.
#[derive(Debug)]
pub struct Access {
    clock: Arc<Clock>,
    token: Digest,
    own_uid: u32,
    logins: Mutex<HashMap<Digest, u64>>,
    sessions: Mutex<HashMap<Digest, u64>>,
    failures: Mutex<(u64, u32)>,
}

fn digest(secret: &str) -> Digest {
    Sha256::digest(secret).into()
}

/// 256 random bits as text.
fn secret(prefix: &str) -> String {
    let bytes: [u8; 32] = rand::random();
    bytes.iter().fold(prefix.to_owned(), |text, byte| format!("{text}{byte:02x}"))
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Access {
    /// Reads the token file of the run folder, or makes it.
    pub fn new(run_dir: &Path, clock: Arc<Clock>) -> io::Result<Self> {
        let path = run_dir.join("token");
        let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
        let token = match made {
            Ok(mut file) => {
                let token = secret("linnet_");
                writeln!(file, "{token}")?;
                token
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                let mut token = String::new();
                std::fs::File::open(&path)?.read_to_string(&mut token)?;
                token.trim().to_owned()
            }
            Err(error) => return Err(error),
        };
        Ok(Self {
            clock,
            token: digest(&token),
            own_uid: nix::unistd::geteuid().as_raw(),
            logins: Mutex::default(),
            sessions: Mutex::default(),
            failures: Mutex::default(),
        })
    }

    /// A login that can be exchanged for a session once.
    #[must_use]
    pub fn one_time_login(&self) -> String {
        let login = secret("");
        locked(&self.logins).insert(digest(&login), self.clock.monotonic_ns() + LOGIN_NS);
        login
    }

    fn is_token(&self, token: &str) -> bool {
        digest(token).ct_eq(&self.token).into()
    }

    /// Exchanges a token or a one-time login for a session's secret.
    pub fn exchange(&self, token: Option<&str>, login: Option<&str>) -> Result<String, ApiError> {
        let now_ns = self.clock.monotonic_ns();
        let mut failures = locked(&self.failures);
        if now_ns.saturating_sub(failures.0) > MINUTE_NS {
            *failures = (now_ns, 0);
        }
        if failures.1 >= FAILURES_MAX {
            let detail = "too many wrong logins; wait a minute";
            return Err(ApiError::new(StatusCode::TOO_MANY_REQUESTS, "too_many_logins", detail));
        }
        let known = token.is_some_and(|token| self.is_token(token))
            || login.is_some_and(|login| {
                locked(&self.logins).remove(&digest(login)).is_some_and(|end| end > now_ns)
            });
        if !known {
            failures.1 += 1;
            let detail = "this token or login is not valid; a login can be used once, the token is in the file `token` of the run folder";
            return Err(ApiError::new(StatusCode::UNAUTHORIZED, "unauthorized", detail));
        }
        drop(failures);
        let session = secret("");
        let mut sessions = locked(&self.sessions);
        sessions.retain(|_, end| *end > now_ns);
        if sessions.len() >= SESSIONS_MAX {
            let oldest = sessions.iter().min_by_key(|(_, end)| **end).map(|(key, _)| *key);
            oldest.and_then(|oldest| sessions.remove(&oldest));
        }
        sessions.insert(digest(&session), now_ns + SESSION_NS);
        Ok(session)
    }

    /// Ends a session.
    pub fn end(&self, headers: &HeaderMap) {
        if let Some(session) = cookie(headers) {
            locked(&self.sessions).remove(&digest(session));
        }
    }

    fn allows(&self, peer: &Peer, headers: &HeaderMap) -> bool {
        match peer {
            Peer::Unix(uid) => *uid == 0 || *uid == self.own_uid,
            Peer::Tcp(_) => {
                let bearer = headers
                    .get(header::AUTHORIZATION)
                    .and_then(|value| value.to_str().ok())
                    .and_then(|value| value.strip_prefix("Bearer "));
                bearer.is_some_and(|token| self.is_token(token))
                    || cookie(headers).is_some_and(|session| {
                        let now_ns = self.clock.monotonic_ns();
                        let sessions = locked(&self.sessions);
                        sessions.get(&digest(session)).is_some_and(|end| *end > now_ns)
                    })
            }
        }
    }
}

fn cookie(headers: &HeaderMap) -> Option<&str> {
    let cookies = headers.get(header::COOKIE)?.to_str().ok()?;
    cookies.split("; ").find_map(|pair| pair.strip_prefix(COOKIE)?.strip_prefix('='))
}

/// Lets a request through that has the right to ask.
pub(super) async fn require(
    State(state): State<ApiState>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    if state.access.allows(&peer, request.headers()) {
        return Ok(next.run(request).await);
    }
    Err(match peer {
        Peer::Unix(_) => ApiError::new(
            StatusCode::FORBIDDEN,
            "forbidden",
            "the unix socket is for root and the daemon's own user",
        ),
        Peer::Tcp(_) => ApiError::new(
            StatusCode::UNAUTHORIZED,
            "unauthorized",
            "send `Authorization: Bearer TOKEN` (the file `token` of the run folder has it), or log in",
        ),
    })
}

/// Refuses what another site's page makes a browser send, and names that resolve to loopback (DNS rebinding).
pub(super) async fn same_site(
    ConnectInfo(peer): ConnectInfo<Peer>,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    if let Peer::Tcp(local) = peer {
        check_site(local, request.headers())?;
    }
    Ok(next.run(request).await)
}

fn check_site(local: SocketAddr, headers: &HeaderMap) -> Result<(), ApiError> {
    let refuse = |detail: &str| Err(ApiError::new(StatusCode::FORBIDDEN, "cross_site", detail));
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let ours = |host: &str| {
        let port = local.port();
        host == local.to_string()
            || ["localhost", "127.0.0.1", "[::1]"]
                .iter()
                .any(|name| host == format!("{name}:{port}"))
    };
    if !text("host").is_some_and(ours) {
        return refuse("the Host header names another machine; use 127.0.0.1 or localhost");
    }
    if let Some(origin) = text("origin")
        && !origin.strip_prefix("http://").is_some_and(ours)
    {
        return refuse("requests of another site's pages are refused");
    }
    let other_site = matches!(text("sec-fetch-site"), Some("cross-site" | "same-site"));
    if other_site && text("sec-fetch-mode") != Some("navigate") {
        return refuse("requests of another site's pages are refused");
    }
    Ok(())
}
