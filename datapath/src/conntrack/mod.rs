//! Connection states with nf_conntrack's names (net/netfilter/nf_conntrack_proto_*.c, Linux 6.18). The transitions are
//! in a file for each protocol; who the originator is, too.

pub mod sctp;
pub mod tcp;

/// Declares the states, their stored numbers and their names side by side, so that none can miss a line.
macro_rules! states {
    ($($(#[$doc:meta])* $variant:ident = $number:literal, $name:literal;)*) => {
        /// State of a flow. TCP and SCTP have nf_conntrack's states; the others are unreplied or replied.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum ConntrackState { $($(#[$doc])* $variant = $number,)* }

        impl ConntrackState {
            /// Every state.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The state of a stored number; `None` for what no version of linnet stores.
            #[must_use]
            pub const fn from_u8(number: u8) -> Option<Self> {
                Some(match number { $($number => Self::$variant,)* _ => return None })
            }

            /// As `conntrack -L` prints it. Some states share a name: what conntrack keeps beside its state is part of
            /// linnet's.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }
        }
    };
}

states! {
    /// Before any packet said anything.
    None = 0, "NONE";
    /// SYN seen.
    SynSent = 1, "SYN_SENT";
    /// SYN-ACK seen.
    SynRecv = 2, "SYN_RECV";
    /// Handshake complete, or joined mid-stream.
    Established = 3, "ESTABLISHED";
    /// First FIN seen.
    FinWait = 4, "FIN_WAIT";
    /// First FIN acknowledged.
    CloseWait = 5, "CLOSE_WAIT";
    /// Second FIN seen.
    LastAck = 6, "LAST_ACK";
    /// Second FIN acknowledged.
    TimeWait = 7, "TIME_WAIT";
    /// RST seen.
    Close = 8, "CLOSE";
    /// SYN seen from both sides (simultaneous open).
    SynSent2 = 9, "SYN_SENT2";
    /// SYN-ACK seen after a SYN from both sides: either side's ACK establishes.
    SynRecv2 = 10, "SYN_RECV";
    /// Without states of its own: one side has sent.
    Unreplied = 16, "UNREPLIED";
    /// Without states of its own: both sides have sent.
    Replied = 17, "REPLIED";
    /// SCTP: aborted, or shut down.
    SctpClosed = 33, "CLOSED";
    /// SCTP: INIT seen, which conntrack calls closed, too.
    SctpInit = 34, "CLOSED";
    /// SCTP: INIT ACK seen.
    SctpCookieWait = 35, "COOKIE_WAIT";
    /// SCTP: COOKIE ECHO seen.
    SctpCookieEchoed = 36, "COOKIE_ECHOED";
    /// SCTP: COOKIE ACK seen.
    SctpEstablished = 37, "ESTABLISHED";
    /// SCTP: joined in the middle; who sent INIT is not known.
    SctpJoined = 38, "ESTABLISHED";
    /// SCTP: SHUTDOWN seen from the originator.
    SctpShutdownSent = 39, "SHUTDOWN_SENT";
    /// SCTP: SHUTDOWN seen from the responder.
    SctpShutdownRecd = 40, "SHUTDOWN_RECD";
    /// SCTP: SHUTDOWN ACK seen.
    SctpShutdownAckSent = 41, "SHUTDOWN_ACK_SENT";
    /// SCTP: a HEARTBEAT opened the flow, as on another path of an association.
    SctpHeartbeatSent = 42, "HEARTBEAT_SENT";
}

impl ConntrackState {
    /// Whether nothing more is expected of the flow.
    #[must_use]
    pub const fn is_closed(self) -> bool {
        matches!(self, Self::TimeWait | Self::Close | Self::SctpClosed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stored_numbers_are_read_back() {
        for state in ConntrackState::ALL {
            assert_eq!(ConntrackState::from_u8(*state as u8), Some(*state));
        }
        assert_eq!(ConntrackState::from_u8(255), None);
    }
}
