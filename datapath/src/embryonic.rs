//! Embryonic flows: those that may be nothing but a scan or a flood. They live in a small table of their own, so that
//! they cannot push out flows that have proved to be some, and move to the flow table when they have.

use crate::{
    conntrack::ConntrackState,
    layout::{EMBRYONIC, FlowEntry, FlowHead, Half, SYN_SEEN},
    parse::{
        Headers,
        tcp::{ACK, RST, SYN},
    },
    tcp,
    time::Ktime,
};

const TCP: u8 = 6;
/// What is one-way, or was joined mid-stream, is let in after this many packets...
const GROWN_PACKETS: u64 = 3;
/// ...and this time.
const GROWN_AGE_NS: i64 = 1_000_000_000;

/// Whether the flow is still embryonic.
#[inline(always)]
#[must_use]
pub const fn is_embryonic(entry: &FlowEntry) -> bool {
    entry.head.bits & EMBRYONIC != 0
}

/// Whether the packet in `headers`, booked already, shows that its flow is more than an attempt: TCP by the originator's
/// acknowledgment of the answer to its SYN, SCTP by the cookie that comes back, others by the first reply, and any after
/// some packets over some time.
#[inline(always)]
pub(crate) fn has_grown(
    head: &FlowHead,
    own: &Half,
    peer: &Half,
    headers: &Headers,
    now: Ktime,
) -> bool {
    if head.bits & EMBRYONIC == 0 {
        return false;
    }
    let is_tcp = headers.key.protocol == TCP;
    if is_tcp && headers.tcp_flags & (SYN | RST) != 0 {
        return false;
    }
    // Whoever sends with a false address sees no answer; and what one side alone says is no more than an attempt.
    let proves = peer.packets != 0
        && if is_tcp {
            completes_handshake(head, peer, headers)
        } else {
            head.state == ConntrackState::Replied as u8
                || head.state >= ConntrackState::SctpCookieEchoed as u8
        };
    if proves {
        return true;
    }
    let packets = own.packets.wrapping_add(peer.packets);
    packets >= GROWN_PACKETS && now.since(Ktime(head.first_seen_ns)) >= GROWN_AGE_NS
}

/// Whether a segment is the originator's acknowledgment of the answer to its SYN.
#[inline(always)]
fn completes_handshake(head: &FlowHead, peer: &Half, headers: &Headers) -> bool {
    let connected = head.state >= ConntrackState::Established as u8
        && head.state != ConntrackState::Close as u8;
    head.bits & SYN_SEEN != 0
        && u32::from(head.originator) == headers.sender
        && headers.tcp_flags & ACK != 0
        && connected
        && tcp::has_answered(peer, headers)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{layout::FlowEntry, tcp};

    fn headers(flags: u32, sender: u32, acknowledgment: u32) -> Headers {
        let mut headers =
            Headers { tcp_flags: flags, sender, acknowledgment, ..Headers::default() };
        headers.key.protocol = TCP;
        headers
    }

    /// A connection of which SYN and SYN-ACK were seen; the lower endpoint opened it.
    fn answered() -> FlowEntry {
        let mut entry = FlowEntry::EMPTY;
        entry.head.bits = EMBRYONIC | SYN_SEEN;
        entry.head.state = ConntrackState::SynRecv as u8;
        let mut answer = headers(SYN | ACK, 1, 101);
        (answer.analyzable, answer.sequence) = (1, 500);
        let (head, own, peer) = entry.split(1);
        tcp::track(head, own, peer, &mut answer, Ktime(0));
        entry.halves.iter_mut().for_each(|half| half.packets = 1);
        entry
    }

    fn grown(entry: &mut FlowEntry, headers: &Headers, now_ns: u64) -> bool {
        let (head, own, peer) = entry.split(headers.sender);
        has_grown(head, own, peer, headers, Ktime(now_ns))
    }

    #[test]
    fn the_handshake_is_completed_by_the_acknowledgment_of_the_answer() {
        let mut entry = answered();
        entry.head.state = ConntrackState::Established as u8;
        assert!(grown(&mut entry, &headers(ACK, 0, 501), 0));
        assert!(!grown(&mut entry, &headers(ACK, 0, 500), 0), "it acknowledges no answer");
        assert!(!grown(&mut entry, &headers(ACK, 1, 501), 0), "the responder does not complete it");
        assert!(!grown(&mut entry, &headers(RST | ACK, 0, 501), 0));
    }

    #[test]
    fn a_repeated_syn_proves_nothing() {
        let mut entry = FlowEntry::EMPTY;
        entry.head.bits = EMBRYONIC;
        entry.halves[0].packets = 7;
        assert!(!grown(&mut entry, &headers(SYN, 0, 0), 30_000_000_000));
    }

    #[test]
    fn what_is_one_way_takes_three_packets_and_a_second() {
        let mut entry = FlowEntry::EMPTY;
        entry.head.bits = EMBRYONIC;
        entry.halves[0].packets = 3;
        assert!(!grown(&mut entry, &headers(ACK, 0, 0), 999_999_999));
        assert!(grown(&mut entry, &headers(ACK, 0, 0), 1_000_000_000));
        entry.halves[0].packets = 2;
        assert!(!grown(&mut entry, &headers(ACK, 0, 0), 9_000_000_000));
    }

    #[test]
    fn one_side_alone_proves_nothing_at_once() {
        let mut entry = FlowEntry::EMPTY;
        entry.head.bits = EMBRYONIC | SYN_SEEN;
        entry.halves[0].packets = 3;
        for state in [ConntrackState::Established, ConntrackState::Close] {
            entry.head.state = state as u8;
            assert!(!grown(&mut entry, &headers(ACK, 0, 501), 0), "{state:?}");
        }
        let sctp = Headers::default();
        for state in [ConntrackState::SctpJoined, ConntrackState::SctpHeartbeatSent] {
            entry.head.state = state as u8;
            assert!(!grown(&mut entry, &sctp, 0), "{state:?}");
        }
        entry.halves[1].packets = 1;
        entry.head.state = ConntrackState::SctpCookieEchoed as u8;
        assert!(grown(&mut entry, &sctp, 0));
    }

    #[test]
    fn without_tcp_a_reply_is_enough() {
        let mut entry = FlowEntry::EMPTY;
        entry.head.bits = EMBRYONIC;
        let reply = Headers { sender: 1, ..Headers::default() };
        entry.halves[0].packets = 1;
        entry.head.state = ConntrackState::Unreplied as u8;
        assert!(!grown(&mut entry, &reply, 0));
        entry.head.state = ConntrackState::Replied as u8;
        assert!(grown(&mut entry, &reply, 0));
    }
}
