//! TCP's transitions and originator, as in nf_conntrack_proto_tcp.c. Follows flags alone: sequence numbers belong to
//! the tracker.
//!
//! So it differs from conntrack where conntrack looks at sequence numbers:
//! - a segment outside of the window changes the state here; conntrack calls it invalid. That holds for an RST too,
//!   which conntrack believes only at or after what the other side acknowledged;
//! - a SYN during a connection, and the SYN-ACK that answers it, are ignored here; conntrack starts over where the
//!   SYN-ACK acknowledges that SYN, and is not misled by the challenge ACK (RFC 5961) that may come instead. Until then
//!   the SYN is for linnet what is not acknowledged, so that the timeout is the one for that.
//!
//! And where conntrack has no entry, or one that no packet moves, and linnet has to say something:
//! - a flow that begins with SYN-ACK, FIN or RST (invalid there) is `SYN_RECV`, `FIN_WAIT` or `CLOSE`;
//! - a connection refused by RST is `CLOSE`, while conntrack deletes it;
//! - after RST, a SYN of either side opens again at once. conntrack waits for its SYN-ACK where the other side had reset,
//!   and until the entry has timed out where the responder opens.

use super::ConntrackState;
use crate::parse::tcp::{ACK, FIN, RST, SYN};

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
const SYN_RECV2: u8 = ConntrackState::SynRecv2 as u8;

/// The flags that tell segments apart.
const KIND: u32 = FIN | SYN | RST | ACK;

/// Whether the sender of this segment is the originator (`Some(true)`), is the responder, or the segment does not tell,
/// in a flow of this state. `syn_seen`: a SYN has told already.
///
/// The first SYN tells, and the first one after a close, since the other side may open next. Without one the first
/// segment does: a SYN-ACK is the responder's, anything else is taken for the originator's.
#[inline(always)]
#[must_use]
pub const fn originates(state: u8, flags: u32, syn_seen: bool) -> Option<bool> {
    match flags & (SYN | ACK) {
        SYN if !syn_seen || matches!(state, TIME_WAIT | CLOSE) => Some(true),
        handshake if state == NONE => Some(handshake != SYN | ACK),
        _ => None,
    }
}

/// The state after a TCP segment.
///
/// `from_originator` is who sent it. What nf_conntrack ignores or calls invalid leaves the state as it is.
#[inline(always)]
#[must_use]
pub const fn after_segment(state: u8, flags: u32, from_originator: bool) -> u8 {
    // Of other combinations conntrack says that they are invalid (`tcp_valid_flags`).
    match flags & KIND {
        SYN => after_syn(state, from_originator),
        SYN_ACK => after_syn_ack(state, from_originator),
        FIN_ACK => after_fin(state),
        ACK => after_ack(state, from_originator),
        RST | RST_ACK => CLOSE,
        _ => state,
    }
}

const SYN_ACK: u32 = SYN | ACK;
const FIN_ACK: u32 = FIN | ACK;
const RST_ACK: u32 = RST | ACK;

#[inline(always)]
const fn after_syn(state: u8, from_originator: bool) -> u8 {
    match state {
        // The same tuple opens again (RFC 9293, 3.10.7.4).
        NONE | TIME_WAIT | CLOSE => SYN_SENT,
        // Both sides open at once (RFC 9293, 3.5), or a split handshake: the responder opens in turn.
        SYN_SENT if !from_originator => SYN_SENT2,
        other => other,
    }
}

#[inline(always)]
const fn after_syn_ack(state: u8, from_originator: bool) -> u8 {
    match state {
        // Joined between SYN and SYN-ACK, or the answer.
        NONE => SYN_RECV,
        SYN_SENT if !from_originator => SYN_RECV,
        SYN_SENT2 => SYN_RECV2,
        other => other,
    }
}

/// A FIN that is sent again counts as the other side's, as it does for conntrack.
#[inline(always)]
const fn after_fin(state: u8) -> u8 {
    match state {
        NONE | SYN_RECV | SYN_RECV2 | ESTABLISHED => FIN_WAIT,
        FIN_WAIT | CLOSE_WAIT => LAST_ACK,
        other => other,
    }
}

#[inline(always)]
const fn after_ack(state: u8, from_originator: bool) -> u8 {
    match state {
        // Joined mid-stream.
        NONE | SYN_RECV2 => ESTABLISHED,
        SYN_RECV if from_originator => ESTABLISHED,
        FIN_WAIT => CLOSE_WAIT,
        LAST_ACK => TIME_WAIT,
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parse::tcp::PSH;

    /// Plays (flags, from the originator) and returns the name of the state reached.
    fn play(segments: &[(u32, bool)]) -> &'static str {
        let last =
            segments.iter().fold(0, |state, (flags, from)| after_segment(state, *flags, *from));
        ConntrackState::from_u8(last).unwrap().name()
    }

    /// The state after each segment.
    fn story(segments: &[(u32, bool)]) -> std::vec::Vec<&'static str> {
        (1..=segments.len()).map(|count| play(&segments[..count])).collect()
    }

    const HANDSHAKE: [(u32, bool); 3] = [(SYN, true), (SYN | ACK, false), (ACK, true)];

    fn established(then: &[(u32, bool)]) -> std::vec::Vec<&'static str> {
        let all: std::vec::Vec<_> = HANDSHAKE.into_iter().chain(then.iter().copied()).collect();
        story(&all)[3..].to_vec()
    }

    #[test]
    fn a_handshake_establishes() {
        assert_eq!(story(&HANDSHAKE), ["SYN_SENT", "SYN_RECV", "ESTABLISHED"]);
    }

    #[test]
    fn an_orderly_close_ends_in_time_wait() {
        let close = [(FIN | ACK, true), (ACK, false), (FIN | ACK | PSH, false), (ACK, true)];
        assert_eq!(established(&close), ["FIN_WAIT", "CLOSE_WAIT", "LAST_ACK", "TIME_WAIT"]);
        let at_once = [(FIN | ACK, false), (FIN | ACK, true), (ACK, false), (ACK, true)];
        assert_eq!(established(&at_once), ["FIN_WAIT", "LAST_ACK", "TIME_WAIT", "TIME_WAIT"]);
    }

    #[test]
    fn a_fin_sent_again_counts_as_the_second() {
        let close = [(FIN | ACK, true), (FIN | ACK, true), (FIN | ACK, true), (ACK, false)];
        assert_eq!(established(&close), ["FIN_WAIT", "LAST_ACK", "LAST_ACK", "TIME_WAIT"]);
        assert_eq!(play(&[(SYN, true), (FIN | ACK, true)]), "SYN_SENT");
    }

    #[test]
    fn a_reset_closes_from_anywhere() {
        assert_eq!(play(&[(SYN, true), (RST | ACK, false)]), "CLOSE");
        assert_eq!(established(&[(RST, true), (ACK, false)]), ["CLOSE", "CLOSE"]);
    }

    #[test]
    fn a_tuple_opens_again_after_it_closed() {
        assert_eq!(play(&[(SYN, true), (RST | ACK, false), (SYN, true)]), "SYN_SENT");
        let close = [(FIN | ACK, true), (FIN | ACK, false), (ACK, true), (SYN, true)];
        assert_eq!(established(&close)[2..], ["TIME_WAIT", "SYN_SENT"]);
    }

    #[test]
    fn a_syn_or_syn_ack_during_a_connection_changes_nothing() {
        for flags in [SYN, SYN | ACK] {
            for from_originator in [true, false] {
                assert_eq!(established(&[(flags, from_originator)]), ["ESTABLISHED"]);
            }
        }
        assert_eq!(play(&[(SYN, true), (SYN | ACK, true)]), "SYN_SENT");
    }

    #[test]
    fn joining_mid_stream_is_established() {
        assert_eq!(play(&[(ACK, false)]), "ESTABLISHED");
    }

    #[test]
    fn the_responder_alone_cannot_establish() {
        assert_eq!(play(&[(SYN, true), (SYN | ACK, false), (ACK, false)]), "SYN_RECV");
        assert_eq!(play(&[(SYN, true), (ACK, false), (ACK, true)]), "SYN_SENT");
    }

    #[test]
    fn a_simultaneous_open_is_established_by_either_side() {
        let both = [(SYN, true), (SYN, false), (SYN | ACK, true), (SYN | ACK, false)];
        assert_eq!(story(&both), ["SYN_SENT", "SYN_SENT2", "SYN_RECV", "SYN_RECV"]);
        for from_originator in [true, false] {
            let all: std::vec::Vec<_> = both.into_iter().chain([(ACK, from_originator)]).collect();
            assert_eq!(play(&all), "ESTABLISHED");
        }
    }

    #[test]
    fn a_split_handshake_is_established_by_the_responder() {
        // The responder answers the SYN with an ACK and a SYN of its own, or with the SYN alone.
        let split = [(SYN, true), (ACK, false), (SYN, false), (SYN | ACK, true), (ACK, false)];
        assert_eq!(story(&split), ["SYN_SENT", "SYN_SENT", "SYN_SENT2", "SYN_RECV", "ESTABLISHED"]);
    }

    #[test]
    fn flags_that_no_stack_sends_change_nothing() {
        for flags in [0, PSH, FIN, SYN | FIN, SYN | RST, FIN | RST, SYN | FIN | ACK] {
            assert_eq!(play(&[(flags, true)]), "NONE");
            assert_eq!(established(&[(flags, true)]), ["ESTABLISHED"]);
        }
    }

    #[test]
    fn who_opened_the_connection_is_told_by_the_first_syn() {
        assert_eq!(originates(NONE, SYN, false), Some(true));
        assert_eq!(originates(NONE, SYN | ACK, false), Some(false));
        assert_eq!(originates(NONE, ACK, false), Some(true));
        assert_eq!(originates(ESTABLISHED, SYN, false), Some(true));
        for flags in [SYN, SYN | ACK, ACK, FIN | ACK] {
            assert_eq!(originates(ESTABLISHED, flags, true), None);
            assert_eq!(originates(SYN_SENT, flags, true), None);
        }
        for closed in [TIME_WAIT, CLOSE] {
            assert_eq!(originates(closed, SYN, true), Some(true));
            assert_eq!(originates(closed, SYN | ACK, true), None);
        }
    }
}
