//! The token, one-time logins and sessions: what may be exchanged for what, and until when. Time is an argument.
//! Never keeps a secret itself, only its SHA-256.

use std::collections::HashMap;

use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

const SECOND_NS: u64 = 1_000_000_000;
/// Sessions at a time; the one unused for longest goes first.
const SESSIONS_MAX: usize = 64;
/// How long a session lives, s.
pub(super) const SESSION_S: u64 = 12 * 3_600;
/// How long a session may go unused, s.
const SESSION_IDLE_S: u64 = 30 * 60;
/// One-time logins that wait at a time; the oldest goes first.
const LOGINS_MAX: usize = 16;
/// How long a one-time login may be used, s.
const LOGIN_S: u64 = 600;
/// Wrong logins in a minute before all are refused for the rest of it.
const FAILURES_MAX: u32 = 20;
const MINUTE_NS: u64 = 60 * SECOND_NS;

type Digest = [u8; 32];

fn digest(secret: &str) -> Digest {
    Sha256::digest(secret).into()
}

/// 256 random bits as text.
pub(super) fn fresh(prefix: &str) -> String {
    let bytes: [u8; 32] = rand::random();
    bytes.iter().fold(prefix.to_owned(), |text, byte| format!("{text}{byte:02x}"))
}

/// What is presented for a session.
#[derive(Clone, Copy)]
pub(super) enum Credential<'a> {
    Token(&'a str),
    Login(&'a str),
}

/// Why there is no session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// Not a secret that is known, or one that was used or has expired.
    Wrong,
    /// Too many of those.
    TooMany {
        /// When to try again, s.
        retry_after_s: u64,
    },
}

#[derive(Debug)]
struct Session {
    ends_ns: u64,
    used_ns: u64,
}

/// The secrets, as digests.
#[derive(Debug)]
pub(super) struct Secrets {
    token: Digest,
    logins: HashMap<Digest, u64>,
    sessions: HashMap<Digest, Session>,
    minute_ns: u64,
    failures: u32,
}

impl Secrets {
    pub(super) fn new(token: &str) -> Self {
        Self {
            token: digest(token),
            logins: HashMap::new(),
            sessions: HashMap::new(),
            minute_ns: 0,
            failures: 0,
        }
    }

    /// A login that can be exchanged for a session once.
    pub(super) fn login(&mut self, now_ns: u64) -> String {
        self.logins.retain(|_, ends_ns| *ends_ns > now_ns);
        if self.logins.len() >= LOGINS_MAX {
            let oldest = self.logins.iter().min_by_key(|(_, ends_ns)| **ends_ns);
            if let Some(oldest) = oldest.map(|(digest, _)| *digest) {
                self.logins.remove(&oldest);
            }
        }
        let login = fresh("");
        self.logins.insert(digest(&login), now_ns + LOGIN_S * SECOND_NS);
        login
    }

    /// Exchanges what is presented for a session's secret.
    pub(super) fn exchange(
        &mut self,
        presented: Credential<'_>,
        now_ns: u64,
    ) -> Result<String, Refused> {
        if now_ns.saturating_sub(self.minute_ns) >= MINUTE_NS {
            (self.minute_ns, self.failures) = (now_ns, 0);
        }
        if self.failures >= FAILURES_MAX {
            let left_ns = MINUTE_NS - (now_ns - self.minute_ns);
            return Err(Refused::TooMany { retry_after_s: left_ns.div_ceil(SECOND_NS) });
        }
        let known = match presented {
            Credential::Token(token) => self.is_token(token),
            Credential::Login(login) => {
                self.logins.remove(&digest(login)).is_some_and(|ends_ns| ends_ns > now_ns)
            }
        };
        if !known {
            self.failures += 1;
            return Err(Refused::Wrong);
        }
        Ok(self.open_session(now_ns))
    }

    fn open_session(&mut self, now_ns: u64) -> String {
        self.sessions.retain(|_, session| session.is_open(now_ns));
        if self.sessions.len() >= SESSIONS_MAX {
            let idlest = self.sessions.iter().min_by_key(|(_, session)| session.used_ns);
            if let Some(idlest) = idlest.map(|(digest, _)| *digest) {
                self.sessions.remove(&idlest);
            }
        }
        let secret = fresh("");
        let session = Session { ends_ns: now_ns + SESSION_S * SECOND_NS, used_ns: now_ns };
        self.sessions.insert(digest(&secret), session);
        secret
    }

    /// Whether a session is open; it counts as used.
    pub(super) fn use_session(&mut self, secret: &str, now_ns: u64) -> bool {
        match self.sessions.get_mut(&digest(secret)) {
            Some(session) if session.is_open(now_ns) => {
                session.used_ns = now_ns;
                true
            }
            _ => false,
        }
    }

    /// Ends a session.
    pub(super) fn end_session(&mut self, secret: &str) {
        self.sessions.remove(&digest(secret));
    }

    /// Whether this is the token, in a time that does not depend on how much of it is right.
    pub(super) fn is_token(&self, token: &str) -> bool {
        digest(token).ct_eq(&self.token).into()
    }
}

impl Session {
    const fn is_open(&self, now_ns: u64) -> bool {
        now_ns < self.ends_ns && now_ns.saturating_sub(self.used_ns) < SESSION_IDLE_S * SECOND_NS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: Credential<'static> = Credential::Token("linnet_1");

    #[test]
    fn a_login_works_once_and_not_for_long() {
        let mut secrets = Secrets::new("linnet_1");
        let login = secrets.login(0);
        assert!(secrets.exchange(Credential::Login(&login), 1).is_ok());
        assert_eq!(secrets.exchange(Credential::Login(&login), 2), Err(Refused::Wrong));
        let late = secrets.login(0);
        let after = LOGIN_S * SECOND_NS;
        assert_eq!(secrets.exchange(Credential::Login(&late), after), Err(Refused::Wrong));
    }

    #[test]
    fn a_token_is_no_login_and_a_login_no_token() {
        let mut secrets = Secrets::new("linnet_1");
        let login = secrets.login(0);
        assert_eq!(secrets.exchange(Credential::Login("linnet_1"), 1), Err(Refused::Wrong));
        assert_eq!(secrets.exchange(Credential::Token(&login), 1), Err(Refused::Wrong));
        assert!(secrets.exchange(TOKEN, 1).is_ok());
    }

    #[test]
    fn sessions_end_when_unused_and_at_the_latest_after_their_time() {
        let mut secrets = Secrets::new("linnet_1");
        let idle = secrets.exchange(TOKEN, 0).unwrap();
        assert!(!secrets.use_session(&idle, SESSION_IDLE_S * SECOND_NS));
        let busy = secrets.exchange(TOKEN, 0).unwrap();
        let step_ns = (SESSION_IDLE_S - 1) * SECOND_NS;
        let end_ns = SESSION_S * SECOND_NS;
        let mut now_ns = step_ns;
        while now_ns < end_ns {
            assert!(secrets.use_session(&busy, now_ns), "in use at {now_ns}");
            now_ns += step_ns;
        }
        assert!(!secrets.use_session(&busy, now_ns));
    }

    #[test]
    fn a_session_that_was_ended_stays_ended() {
        let mut secrets = Secrets::new("linnet_1");
        let session = secrets.exchange(TOKEN, 0).unwrap();
        assert!(secrets.use_session(&session, 1));
        secrets.end_session(&session);
        assert!(!secrets.use_session(&session, 2));
    }

    #[test]
    fn the_session_unused_for_longest_makes_room() {
        let mut secrets = Secrets::new("linnet_1");
        let all: Vec<_> =
            (0..SESSIONS_MAX as u64).map(|n| secrets.exchange(TOKEN, n).unwrap()).collect();
        assert!(secrets.use_session(&all[0], 1_000));
        secrets.exchange(TOKEN, 2_000).unwrap();
        assert!(secrets.use_session(&all[0], 3_000), "used since");
        assert!(!secrets.use_session(&all[1], 3_000), "the longest unused");
        assert!(secrets.use_session(&all[2], 3_000));
    }

    #[test]
    fn guessing_is_slowed_down_for_the_rest_of_the_minute() {
        let mut secrets = Secrets::new("linnet_1");
        for _ in 0..FAILURES_MAX {
            assert_eq!(secrets.exchange(Credential::Token("x"), MINUTE_NS), Err(Refused::Wrong));
        }
        let refused = secrets.exchange(TOKEN, MINUTE_NS + 50 * SECOND_NS);
        assert_eq!(refused, Err(Refused::TooMany { retry_after_s: 10 }));
        assert!(secrets.exchange(TOKEN, 2 * MINUTE_NS).is_ok());
    }

    #[test]
    fn waiting_logins_are_bounded() {
        let mut secrets = Secrets::new("linnet_1");
        let first = secrets.login(0);
        for n in 0..LOGINS_MAX as u64 {
            secrets.login(n + 1);
        }
        assert_eq!(secrets.logins.len(), LOGINS_MAX);
        assert_eq!(secrets.exchange(Credential::Login(&first), 20), Err(Refused::Wrong));
    }
}
