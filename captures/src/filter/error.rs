//! Why an expression is no filter: what is wrong, where, and what to do.
//! Never hides libpcap's own words.

use thiserror::Error;

use super::program::ProgramError;

/// Why there is no filter.
#[derive(Debug, Error)]
pub enum FilterError {
    /// The library is not on this machine.
    #[error("cannot compile capture filters: libpcap is not found ({reason}); {remedy}")]
    LibpcapMissing {
        /// What the dynamic linker said of the last name tried.
        reason: String,
        /// What to do.
        remedy: &'static str,
    },
    /// libpcap does not understand the expression.
    #[error(
        "cannot compile the capture filter `{expression}`: {reason}{at}; {advice}",
        at = at(*position, token.as_deref())
    )]
    Expression {
        /// The expression.
        expression: String,
        /// Where the mistake is, in bytes from the expression's start. `None` where it is in no one place.
        position: Option<usize>,
        /// The word or sign there; empty at the expression's end.
        token: Option<String>,
        /// What libpcap said.
        reason: String,
        /// What to do.
        advice: &'static str,
    },
    /// The expression is longer than [`super::FILTER_MAX`].
    #[error(
        "cannot compile a capture filter of {bytes} bytes: {max} are the most; \
         write a network in place of a list of hosts",
        max = super::FILTER_MAX
    )]
    TooLong {
        /// Its length.
        bytes: usize,
    },
    /// The expression has a NUL byte, behind which libpcap would see nothing.
    #[error("cannot compile a capture filter with a NUL byte in it; remove the byte")]
    NulByte,
    /// The expression asks for what only the kernel knows of a packet.
    #[error(
        "cannot compile the capture filter `{expression}`: `inbound` and `outbound` are no bytes of a frame; leave them \
         out, and tell directions by the interfaces of the capture's file"
    )]
    NotOfTheFrame {
        /// The expression.
        expression: String,
    },
    /// libpcap made a program that is not run here.
    #[error("cannot run the capture filter `{expression}`")]
    Program {
        /// The expression.
        expression: String,
        /// What is wrong with the program.
        source: ProgramError,
    },
}

impl FilterError {
    /// Where in the expression the mistake is, in bytes; `None` where it is in no one place.
    pub fn position(&self) -> Option<usize> {
        match self {
            Self::Expression { position, .. } => *position,
            Self::Program { expression, .. } => expression.find("protochain"),
            Self::NotOfTheFrame { expression } => {
                ["inbound", "outbound"].iter().find_map(|word| expression.find(word))
            }
            Self::LibpcapMissing { .. } | Self::TooLong { .. } | Self::NulByte => None,
        }
    }
}

/// Where a mistake is, for people.
fn at(position: Option<usize>, token: Option<&str>) -> String {
    match (position, token) {
        (Some(_), Some("")) => " at its end".to_owned(),
        (Some(position), Some(token)) => format!(" at `{token}` (byte {position})"),
        (Some(_) | None, _) => String::new(),
    }
}

/// What to do about libpcap's complaint.
pub(super) fn advice(reason: &str, token: Option<&str>) -> &'static str {
    if reason.starts_with("unknown host") {
        "write its address, or a name that this machine can resolve"
    } else if reason.starts_with("unknown port") {
        "write its number, or a name from /etc/services"
    } else if reason.contains("rejects all packets") {
        "no packet can be all of this at once; `or` may be meant"
    } else if token == Some("") {
        "something has to follow, or a bracket is open; see pcap-filter(7)"
    } else if reason == "syntax error" {
        "it cannot stand there, or `and` or `or` is missing before it; see pcap-filter(7)"
    } else {
        "see pcap-filter(7)"
    }
}
