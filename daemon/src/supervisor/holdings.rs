//! What stands behind daemons and outlives each of them: programs and maps, or sockets. Says what is handed to the next one,
//! and does what it asks for.

use std::net::TcpListener;

use crate::live::{LiveError, Outcome, Server, Verb};

/// What an attacher holds for its daemons.
pub(super) trait Holdings {
    /// What tells a daemon, among its arguments, what it is handed.
    fn arguments(&self) -> &'static [&'static str];

    /// Hands it to a daemon, with the address for HTTP, as its first message.
    fn hand_over(&self, to: &Server, listener: &TcpListener) -> Result<(), LiveError>;

    /// What of it a daemon's end leaves as it is, in words.
    fn stays(&self) -> &'static str;

    /// Does what a daemon asks for.
    fn perform(&self, verb: Verb) -> Outcome;

    /// There is nothing left that could fail: what is to outlive this process will.
    fn commit(&self) {}
}
