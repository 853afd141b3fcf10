//! Traffic: real sockets inside the lab's namespaces, each generator bounded in count and time and
//! returning what it measured. Never sends anything outside the lab it is given.

pub mod bulk;
mod connection;
mod datagram;
pub mod dns;
pub mod http;
pub mod inject;
mod limits;
pub mod ping;
pub mod request_response;
mod samples;
pub mod syn_flood;
mod tcp_facts;
pub mod udp_stream;

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use self::limits::Background;
pub use self::limits::{Budget, Stop};
pub use self::samples::Samples;
pub use self::tcp_facts::TcpFacts;
use crate::error::LabError;

/// Longest time any one generator may be given.
pub const LIMIT_MAX: Duration = Duration::from_secs(24 * 3600);

/// Why a generator did not finish.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrafficError {
    /// The namespaces failed.
    #[error(transparent)]
    Lab(#[from] LabError),
    /// The generator was asked for too much or too little.
    #[error("cannot generate {generator} traffic: `{field}` is {value}; use {allowed}")]
    Limit {
        /// Which generator.
        generator: &'static str,
        /// Which field.
        field: &'static str,
        /// Its value.
        value: u64,
        /// What is allowed.
        allowed: &'static str,
    },
    /// A socket refused.
    #[error("cannot {action} with {peer}: {source}; is its port taken or the lab going away?")]
    Socket {
        /// What was tried.
        action: &'static str,
        /// The other end, or the own address of a listener.
        peer: SocketAddr,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The time was up.
    #[error("gave up to {doing} after {limit_ms} ms; raise the limit or lower the loss")]
    Deadline {
        /// What was being done.
        doing: &'static str,
        /// The whole generator's limit.
        limit_ms: u128,
    },
    /// Someone asked to stop.
    #[error("stopped while trying to {doing}")]
    Stopped {
        /// What was being done.
        doing: &'static str,
    },
    /// The other end closed early.
    #[error("{peer} closed the connection before the end; see its own error")]
    Closed {
        /// The other end.
        peer: SocketAddr,
    },
    /// The other end said something unexpected.
    #[error("{peer} answered with {what}; something else listens there")]
    Answer {
        /// The other end.
        peer: SocketAddr,
        /// What it said.
        what: String,
    },
    /// Frames could not be injected.
    #[error("cannot inject frames on `{interface}`: {source}; is it up?")]
    Inject {
        /// The interface.
        interface: String,
        /// The kernel's answer.
        source: io::Error,
    },
}

impl TrafficError {
    /// True where the generator ended because it was asked to.
    #[must_use]
    pub fn is_stop(&self) -> bool {
        matches!(self, Self::Stopped { .. })
    }
}
