//! Connection state with nf_conntrack's names and transitions (net/netfilter/nf_conntrack_proto_tcp.c, Linux 6.18).
//! Follows flags alone: sequence checks belong to the tracker.

use crate::parse::tcp::{ACK, FIN, RST, SYN};

/// State of a flow. TCP has nf_conntrack's names; the others are unreplied or replied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum ConntrackState {
    /// TCP before any flag said anything.
    None = 0,
    /// SYN seen.
    SynSent = 1,
    /// SYN-ACK seen.
    SynRecv = 2,
    /// Handshake complete, or joined mid-stream.
    Established = 3,
    /// First FIN seen.
    FinWait = 4,
    /// First FIN acknowledged.
    CloseWait = 5,
    /// Second FIN seen.
    LastAck = 6,
    /// Second FIN acknowledged.
    TimeWait = 7,
    /// RST seen.
    Close = 8,
    /// SYN seen from both sides (simultaneous open).
    SynSent2 = 9,
    /// Not TCP: one side has sent.
    Unreplied = 16,
    /// Not TCP: both sides have sent.
    Replied = 17,
}

impl ConntrackState {
    /// The state of a stored number; `None` for what no version of linnet stores.
    #[must_use]
    pub const fn from_u8(number: u8) -> Option<Self> {
        Some(match number {
            0 => Self::None,
            1 => Self::SynSent,
            2 => Self::SynRecv,
            3 => Self::Established,
            4 => Self::FinWait,
            5 => Self::CloseWait,
            6 => Self::LastAck,
            7 => Self::TimeWait,
            8 => Self::Close,
            9 => Self::SynSent2,
            16 => Self::Unreplied,
            17 => Self::Replied,
            _ => return None,
        })
    }

    /// As `conntrack -L` prints it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "NONE",
            Self::SynSent => "SYN_SENT",
            Self::SynRecv => "SYN_RECV",
            Self::Established => "ESTABLISHED",
            Self::FinWait => "FIN_WAIT",
            Self::CloseWait => "CLOSE_WAIT",
            Self::LastAck => "LAST_ACK",
            Self::TimeWait => "TIME_WAIT",
            Self::Close => "CLOSE",
            Self::SynSent2 => "SYN_SENT2",
            Self::Unreplied => "UNREPLIED",
            Self::Replied => "REPLIED",
        }
    }

    /// Whether nothing more is expected of the flow.
    #[must_use]
    pub const fn is_closed(self) -> bool {
        matches!(self, Self::TimeWait | Self::Close)
    }
}

/// The state after a TCP segment.
///
/// `from_originator` is who sent it. What nf_conntrack ignores or calls invalid leaves the state as it is.
#[inline(always)]
#[must_use]
pub const fn after_segment(state: u8, flags: u32, from_originator: bool) -> u8 {
    const NONE: u8 = ConntrackState::None as u8;
    const SYN_SENT: u8 = ConntrackState::SynSent as u8;
    const SYN_RECV: u8 = ConntrackState::SynRecv as u8;
    const ESTABLISHED: u8 = ConntrackState::Established as u8;
    const FIN_WAIT: u8 = ConntrackState::FinWait as u8;
    const CLOSE_WAIT: u8 = ConntrackState::CloseWait as u8;
    const LAST_ACK: u8 = ConntrackState::LastAck as u8;
    const TIME_WAIT: u8 = ConntrackState::TimeWait as u8;
    const CLOSE: u8 = ConntrackState::Close as u8;
    const SYN_SENT2: u8 = ConntrackState::SynSent2 as u8;

    if flags & RST != 0 {
        return CLOSE;
    }
    if flags & (SYN | ACK) == SYN {
        return match state {
            // The same tuple opens again.
            NONE | TIME_WAIT | CLOSE => SYN_SENT,
            // Both sides open at once (RFC 9293, 3.5).
            SYN_SENT if !from_originator => SYN_SENT2,
            other => other,
        };
    }
    if flags & SYN != 0 {
        return match state {
            // Joined between SYN and SYN-ACK, or the answer.
            NONE => SYN_RECV,
            SYN_SENT if !from_originator => SYN_RECV,
            SYN_SENT2 => SYN_RECV,
            other => other,
        };
    }
    if flags & FIN != 0 {
        return match state {
            NONE | SYN_RECV | ESTABLISHED => FIN_WAIT,
            FIN_WAIT | CLOSE_WAIT => LAST_ACK,
            other => other,
        };
    }
    if flags & ACK != 0 {
        return match state {
            // Joined mid-stream.
            NONE => ESTABLISHED,
            SYN_RECV if from_originator => ESTABLISHED,
            FIN_WAIT => CLOSE_WAIT,
            LAST_ACK => TIME_WAIT,
            other => other,
        };
    }
    state
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Plays (flags, from the originator) and returns the name of the state reached.
    fn play(segments: &[(u32, bool)]) -> &'static str {
        let last =
            segments.iter().fold(0, |state, (flags, from)| after_segment(state, *flags, *from));
        ConntrackState::from_u8(last).unwrap().name()
    }

    const HANDSHAKE: [(u32, bool); 3] = [(SYN, true), (SYN | ACK, false), (ACK, true)];

    #[test]
    fn a_handshake_establishes() {
        assert_eq!(play(&HANDSHAKE[..1]), "SYN_SENT");
        assert_eq!(play(&HANDSHAKE[..2]), "SYN_RECV");
        assert_eq!(play(&HANDSHAKE), "ESTABLISHED");
    }

    #[test]
    fn an_orderly_close_ends_in_time_wait() {
        let close = [(FIN | ACK, true), (ACK, false), (FIN | ACK, false), (ACK, true)];
        let story: std::vec::Vec<_> = HANDSHAKE.into_iter().chain(close).collect();
        assert_eq!(play(&story[..4]), "FIN_WAIT");
        assert_eq!(play(&story[..5]), "CLOSE_WAIT");
        assert_eq!(play(&story[..6]), "LAST_ACK");
        assert_eq!(play(&story), "TIME_WAIT");
    }

    #[test]
    fn a_reset_closes_from_anywhere() {
        assert_eq!(play(&[(SYN, true), (RST | ACK, false)]), "CLOSE");
    }

    #[test]
    fn a_tuple_opens_again_after_it_closed() {
        assert_eq!(play(&[(SYN, true), (RST | ACK, false), (SYN, true)]), "SYN_SENT");
    }

    #[test]
    fn joining_mid_stream_is_established() {
        assert_eq!(play(&[(ACK, false)]), "ESTABLISHED");
    }

    #[test]
    fn the_responder_alone_cannot_establish() {
        assert_eq!(play(&[(SYN, true), (SYN | ACK, false), (ACK, false)]), "SYN_RECV");
    }

    #[test]
    fn a_simultaneous_open_has_its_own_state() {
        assert_eq!(play(&[(SYN, true), (SYN, false)]), "SYN_SENT2");
        assert_eq!(play(&[(SYN, true), (SYN, false), (SYN | ACK, true)]), "SYN_RECV");
    }
}
