//! SCTP's transitions and originator, as in nf_conntrack_proto_sctp.c, by the types of a packet's chunks.
//!
//! It differs from conntrack where conntrack looks at more than the types:
//! - verification tags are not followed: a chunk of another association, and an INIT with a tag, count here;
//! - of a packet with more than eight chunks the first eight count.
//!
//! And where conntrack has no entry, or one that no packet moves, and linnet has to say something:
//! - conntrack picks up what begins with INIT, HEARTBEAT, HEARTBEAT ACK or SHUTDOWN ACK, and so does linnet. A flow that
//!   begins with something else, invalid there, is what that makes of an association: `ESTABLISHED` by DATA, SACK, ERROR
//!   and COOKIE ACK, `COOKIE_WAIT` by INIT ACK, `COOKIE_ECHOED`, `SHUTDOWN_SENT`, and `CLOSED` by ABORT and SHUTDOWN
//!   COMPLETE. INIT ACK and COOKIE ACK are the responder's;
//! - DATA after INIT alone, as where only one side is seen, is `ESTABLISHED`, while conntrack waits for INIT ACK;
//! - after the end, INIT of either side opens again with its sender as the originator.

use super::ConntrackState as State;
use crate::{
    hint::opaque,
    layout::FlowHead,
    parse::{
        Headers,
        sctp::{
            ABORT, CHUNKS_MAX, COOKIE_ACK, COOKIE_ECHO, ERROR, HEARTBEAT, HEARTBEAT_ACK, INIT,
            INIT_ACK, SHUTDOWN, SHUTDOWN_ACK, SHUTDOWN_COMPLETE,
        },
    },
};

/// Stored numbers of SCTP's states have this bit, and differ in the four lowest.
const IS_SCTP: u8 = 32;
const NUMBER: u8 = 15;
const NONE: u8 = State::None as u8;
const CLOSED: u8 = State::SctpClosed as u8;
const SENT_INIT: u8 = State::SctpInit as u8;
const COOKIE_WAIT: u8 = State::SctpCookieWait as u8;
const COOKIE_ECHOED: u8 = State::SctpCookieEchoed as u8;
const ESTABLISHED: u8 = State::SctpEstablished as u8;
const JOINED: u8 = State::SctpJoined as u8;
const SHUTDOWN_SENT: u8 = State::SctpShutdownSent as u8;
const SHUTDOWN_RECD: u8 = State::SctpShutdownRecd as u8;
const SHUTDOWN_ACK_SENT: u8 = State::SctpShutdownAckSent as u8;
const HEARTBEAT_SENT: u8 = State::SctpHeartbeatSent as u8;

/// Beside the state in a step's result: the chunk shows that its sender is the originator.
const BY_ORIGINATOR: u8 = 1 << 6;
/// Beside the state in a step's result: the chunk shows that its sender is the responder.
const BY_RESPONDER: u8 = 1 << 7;

/// Every step, by state, chunk and sender: the kernel looks up what the host's compiler worked out.
static STEPS: [u8; 512] = steps();

/// Brings the state and the originator of an association up to a packet of it.
#[inline(always)]
pub fn track(head: &mut FlowHead, headers: &mut Headers) {
    let mut count = 0;
    while count < CHUNKS_MAX {
        let chunk = (headers.chunks & 0xff) as usize;
        if chunk == 0 {
            return;
        }
        headers.chunks >>= 8;
        let from_originator = u32::from(head.originator) == headers.sender;
        let step = STEPS[index(head.state, chunk, from_originator)];
        if step & BY_ORIGINATOR != 0 {
            head.originator = (headers.sender & 1) as u8;
        }
        if step & BY_RESPONDER != 0 {
            head.originator = (headers.sender & 1) as u8 ^ 1;
        }
        head.state = step & (IS_SCTP | NUMBER);
        count = opaque(count + 1);
    }
}

#[inline(always)]
const fn index(state: u8, chunk: usize, from_originator: bool) -> usize {
    let number = if state & IS_SCTP == 0 { NONE } else { state & NUMBER };
    (from_originator as usize) << 8 | (number as usize) << 4 | chunk & 15
}

const fn steps() -> [u8; 512] {
    let mut steps = [0; 512];
    let mut state = 0;
    while state < 16 {
        let mut chunk = 0;
        while chunk < 16 {
            let stored = if state == 0 { NONE } else { IS_SCTP | state };
            let mut sender = 0;
            while sender < 2 {
                let from_originator = sender == 1;
                steps[index(stored, chunk as usize, from_originator)] =
                    step(stored, chunk, from_originator);
                sender += 1;
            }
            chunk += 1;
        }
        state += 1;
    }
    steps
}

/// One chunk. What conntrack ignores or calls invalid leaves the state as it is.
const fn step(state: u8, chunk: u8, from_originator: bool) -> u8 {
    match (chunk, state) {
        (_, HEARTBEAT_SENT) => after_heartbeat(chunk, from_originator),
        (INIT, NONE | CLOSED) => SENT_INIT | BY_ORIGINATOR,
        (INIT, JOINED) => ESTABLISHED | BY_ORIGINATOR,
        (INIT, SHUTDOWN_SENT | SHUTDOWN_RECD) if from_originator => SENT_INIT,
        (INIT_ACK, NONE) => COOKIE_WAIT | BY_RESPONDER,
        (INIT_ACK, CLOSED | SENT_INIT) if !from_originator => COOKIE_WAIT,
        (COOKIE_ECHO, NONE | COOKIE_WAIT) => COOKIE_ECHOED,
        (COOKIE_ACK, NONE) => JOINED | BY_RESPONDER,
        (COOKIE_ACK, COOKIE_ECHOED) => ESTABLISHED,
        (ERROR, COOKIE_ECHOED) if !from_originator => CLOSED,
        (ABORT, _) | (SHUTDOWN_COMPLETE, NONE | SHUTDOWN_ACK_SENT) => CLOSED,
        (SHUTDOWN, NONE) => SHUTDOWN_SENT,
        (SHUTDOWN, ESTABLISHED | JOINED) if from_originator => SHUTDOWN_SENT,
        (SHUTDOWN, ESTABLISHED | JOINED) => SHUTDOWN_RECD,
        (SHUTDOWN_ACK, NONE | SHUTDOWN_SENT | SHUTDOWN_RECD) => SHUTDOWN_ACK_SENT,
        (HEARTBEAT, NONE) => HEARTBEAT_SENT,
        (HEARTBEAT_ACK, NONE) => SENT_INIT,
        (ERROR, NONE) => JOINED,
        (COOKIE_ECHO | SHUTDOWN | ERROR | HEARTBEAT | HEARTBEAT_ACK, _) => state,
        (INIT | INIT_ACK | COOKIE_ACK | SHUTDOWN_ACK | SHUTDOWN_COMPLETE, _) => state,
        // DATA and its like: whatever was missed, there is an association.
        (_, NONE | SENT_INIT) => JOINED,
        _ => state,
    }
}

/// The path that a HEARTBEAT opened: its answer establishes it, and nothing else of the responder counts.
const fn after_heartbeat(chunk: u8, from_originator: bool) -> u8 {
    match chunk {
        HEARTBEAT_ACK if !from_originator => ESTABLISHED,
        INIT if from_originator => COOKIE_WAIT,
        SHUTDOWN_ACK if from_originator => SHUTDOWN_ACK_SENT,
        INIT_ACK | ABORT | SHUTDOWN | ERROR | COOKIE_ECHO | COOKIE_ACK | SHUTDOWN_COMPLETE
            if from_originator =>
        {
            CLOSED
        }
        _ => HEARTBEAT_SENT,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        layout::FlowEntry,
        parse::sctp::{INIT, OTHER},
    };

    /// Plays packets of (chunks, whether the lower endpoint sent it); the lower endpoint sends the first one. Returns
    /// each state reached, and whether the lower endpoint is the originator in the end.
    fn play(packets: &[(&[u8], bool)]) -> (std::vec::Vec<&'static str>, bool) {
        let mut head = FlowEntry::EMPTY.head;
        let story = packets.iter().map(|(chunks, from_lower)| {
            let mut bytes = [0; 8];
            bytes[..chunks.len()].copy_from_slice(chunks);
            let mut headers = Headers {
                chunks: u64::from_le_bytes(bytes),
                sender: u32::from(!from_lower),
                ..Headers::default()
            };
            track(&mut head, &mut headers);
            State::from_u8(head.state).unwrap().name()
        });
        (story.collect(), head.originator == 0)
    }

    const HANDSHAKE: [(&[u8], bool); 4] = [
        (&[INIT], true),
        (&[INIT_ACK], false),
        (&[COOKIE_ECHO, OTHER], true),
        (&[COOKIE_ACK, OTHER], false),
    ];

    fn established(then: &[(&[u8], bool)]) -> std::vec::Vec<&'static str> {
        let all: std::vec::Vec<_> = HANDSHAKE.into_iter().chain(then.iter().copied()).collect();
        play(&all).0[4..].to_vec()
    }

    #[test]
    fn a_handshake_of_four_packets_establishes() {
        let story = ["CLOSED", "COOKIE_WAIT", "COOKIE_ECHOED", "ESTABLISHED"];
        assert_eq!(play(&HANDSHAKE), (story.to_vec(), true));
    }

    #[test]
    fn a_shutdown_is_named_by_who_began_it() {
        let end = |from: bool| -> [(&[u8], bool); 3] {
            [(&[SHUTDOWN], from), (&[SHUTDOWN_ACK], !from), (&[SHUTDOWN_COMPLETE], from)]
        };
        assert_eq!(established(&end(true)), ["SHUTDOWN_SENT", "SHUTDOWN_ACK_SENT", "CLOSED"]);
        assert_eq!(established(&end(false)), ["SHUTDOWN_RECD", "SHUTDOWN_ACK_SENT", "CLOSED"]);
    }

    #[test]
    fn an_abort_closes_from_anywhere() {
        for count in 0..=4 {
            let mut packets = HANDSHAKE[..count].to_vec();
            packets.push((&[ABORT], count % 2 == 0));
            assert_eq!(play(&packets).0.last(), Some(&"CLOSED"), "after {count} packets");
        }
        let stale_cookie: [(&[u8], bool); 1] = [(&[ERROR], false)];
        assert_eq!(play(&[&HANDSHAKE[..3], &stale_cookie].concat()).0[3], "CLOSED");
    }

    #[test]
    fn joining_in_the_middle_is_established() {
        assert_eq!(play(&[(&[OTHER], true), (&[OTHER], false)]).0, ["ESTABLISHED"; 2]);
        let echoed = play(&[(&[COOKIE_ECHO, OTHER], true), (&[COOKIE_ACK], false)]);
        assert_eq!(echoed, (["COOKIE_ECHOED", "ESTABLISHED"].to_vec(), true));
        // Only what the originator sends is seen.
        let one_sided = play(&[(&[INIT], true), (&[COOKIE_ECHO, OTHER], true), (&[OTHER], true)]);
        assert_eq!(one_sided.0, ["CLOSED", "ESTABLISHED", "ESTABLISHED"]);
        let heartbeat = play(&[(&[HEARTBEAT], true), (&[HEARTBEAT_ACK], false)]);
        assert_eq!(heartbeat.0, ["HEARTBEAT_SENT", "ESTABLISHED"]);
    }

    #[test]
    fn the_originator_is_who_sent_init() {
        assert!(!play(&[(&[INIT_ACK], true)]).1, "joined at the answer");
        assert!(!play(&[(&[COOKIE_ACK], true)]).1, "joined at the last answer");
        assert!(!play(&[(&[OTHER], true), (&[INIT], false)]).1, "joined, then opened again");
        assert!(play(&[(&[INIT], true), (&[INIT], false)]).1, "both open at once");
        assert!(play(&[&HANDSHAKE[..], &[(&[INIT], false)]].concat()).1, "a restart");
        let reopened = play(&[&HANDSHAKE[..], &[(&[ABORT], true), (&[INIT], false)]].concat());
        assert_eq!((reopened.0[5], reopened.1), ("CLOSED", false));
    }

    #[test]
    fn the_table_has_every_step_and_only_known_states() {
        for state in State::ALL.iter().filter(|state| **state as u8 & IS_SCTP != 0) {
            for chunk in 1..16 {
                for from_originator in [false, true] {
                    let found = STEPS[index(*state as u8, usize::from(chunk), from_originator)];
                    assert_eq!(found, step(*state as u8, chunk, from_originator));
                    assert!(State::from_u8(found & (IS_SCTP | NUMBER)).is_some());
                }
            }
        }
    }
}
