//! The handshake, split at the place of the capture: from the SYN to its answer is the responder's side of the path, from
//! there to the acknowledgment the originator's. Never measures what may belong to another try.

use datapath::{
    parse::tcp::{ACK, RST, SYN},
    replay::Classified,
};

use super::mark::Mark;

/// A SYN or an answer to one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Try {
    mark: Mark,
    timestamp: Option<u32>,
}

/// How often the same was sent, and the first and the last of them.
#[derive(Clone, Copy, Debug, Default)]
struct Tries {
    count: u32,
    first: Option<Try>,
    last: Option<Try>,
}

impl Tries {
    fn add(&mut self, one: Try) {
        self.count = self.count.saturating_add(1);
        self.first.get_or_insert(one);
        self.last = Some(one);
    }

    /// The one that `echo` answers: the only one, or the one with its timestamp.
    fn answered(&self, echo: Option<u32>) -> Option<Mark> {
        let (first, last) = (self.first?, self.last?);
        if self.count == 1 {
            return Some(first.mark);
        }
        let echo = echo?;
        let echoes = |one: &Try| one.timestamp == Some(echo);
        // Two of the same tick cannot be told apart.
        match (echoes(&first), echoes(&last)) {
            (true, false) => Some(first.mark),
            (false, true) => Some(last.mark),
            (true, true) | (false, false) => None,
        }
    }
}

/// The handshake of one connection.
#[derive(Clone, Copy, Debug, Default)]
pub struct Handshake {
    originator: Option<usize>,
    syns: Tries,
    answers: Tries,
    responder_side_ns: Option<u64>,
    originator_side_ns: Option<u64>,
    is_complete: bool,
}

impl Handshake {
    /// Takes a segment into account.
    #[inline]
    pub(super) fn take(&mut self, sender: usize, classified: &Classified, mark: Mark) {
        let flags = classified.segment.tcp_flags;
        if self.is_complete && flags & SYN == 0 {
            return;
        }
        let timestamp = classified.segment.timestamp;
        let echo = timestamp.map(|_| classified.timestamp_echo);
        match flags & (SYN | ACK | RST) {
            SYN => {
                self.originator.get_or_insert(sender);
                if self.originator == Some(sender) {
                    self.syns.add(Try { mark, timestamp });
                }
            }
            both if both == SYN | ACK => {
                if self.originator == Some(sender) {
                    return;
                }
                if self.answers.count == 0 {
                    self.responder_side_ns = self.syns.answered(echo).map(|syn| mark.since_ns(syn));
                }
                self.answers.add(Try { mark, timestamp });
            }
            ACK if self.answers.count > 0 && self.originator.is_none_or(|by| by == sender) => {
                self.is_complete = true;
                self.originator_side_ns =
                    self.answers.answered(echo).map(|answer| mark.since_ns(answer));
            }
            _ => {}
        }
    }

    /// Who sent the SYN, if that was seen: 0 lower, 1 upper.
    #[must_use]
    pub const fn originator(&self) -> Option<usize> {
        self.originator
    }

    /// From the SYN to its answer.
    #[must_use]
    pub const fn responder_side_ns(&self) -> Option<u64> {
        self.responder_side_ns
    }

    /// From the answer to its acknowledgment.
    #[must_use]
    pub const fn originator_side_ns(&self) -> Option<u64> {
        self.originator_side_ns
    }

    /// How often the SYN was sent.
    #[must_use]
    pub const fn syns(&self) -> u32 {
        self.syns.count
    }

    /// How often its answer was.
    #[must_use]
    pub const fn answers(&self) -> u32 {
        self.answers.count
    }

    /// The first and the last SYN.
    #[must_use]
    pub fn syn_marks(&self) -> Option<[Mark; 2]> {
        Some([self.syns.first?.mark, self.syns.last?.mark])
    }

    /// The first and the last answer.
    #[must_use]
    pub fn answer_marks(&self) -> Option<[Mark; 2]> {
        Some([self.answers.first?.mark, self.answers.last?.mark])
    }

    /// Whether the answer was acknowledged.
    #[must_use]
    pub const fn is_complete(&self) -> bool {
        self.is_complete
    }
}
