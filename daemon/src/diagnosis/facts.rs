//! What a rule may look at. Whatever may be unknown is an option, and what is unknown keeps a rule silent.

use datapath::tcp::verdict::Verdicts;
use serde::Serialize;

use super::evidence::{DnsEvidence, FlowEvidence, Idle, Reset, SideEvidence};
use crate::flow::{FlowRecord, HalfRecord, RttSummary};

const TCP: u8 = 6;

/// Whose packets something is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// What the originator sent.
    FromOriginator,
    /// What the responder sent.
    FromResponder,
}

impl Direction {
    /// Both.
    pub const BOTH: [Self; 2] = [Self::FromOriginator, Self::FromResponder];

    /// The other one.
    #[must_use]
    pub const fn other(self) -> Self {
        match self {
            Self::FromOriginator => Self::FromResponder,
            Self::FromResponder => Self::FromOriginator,
        }
    }

    /// Who sends in it.
    #[must_use]
    pub const fn sender(self) -> &'static str {
        match self {
            Self::FromOriginator => "originator",
            Self::FromResponder => "responder",
        }
    }
}

/// What is known of a flow.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// Counters, round trips, verdicts.
    pub record: &'a FlowRecord,
    wire: Option<&'a FlowEvidence>,
}

/// What is known of what one side sent.
#[derive(Clone, Copy, Debug)]
pub struct SideFacts<'a> {
    /// Counters, round trips, verdicts.
    pub record: &'a HalfRecord,
    /// What every packet told, if there was one look at each.
    pub wire: Option<&'a SideEvidence>,
}

impl<'a> Facts<'a> {
    /// Of a record, and of its packets where each was looked at.
    #[must_use]
    pub const fn new(record: &'a FlowRecord, wire: Option<&'a FlowEvidence>) -> Self {
        Self { record, wire }
    }

    /// Whether it is TCP.
    #[must_use]
    pub const fn is_tcp(&self) -> bool {
        self.record.key.protocol == TCP
    }

    /// What one side sent.
    #[must_use]
    pub fn side(&self, direction: Direction) -> SideFacts<'a> {
        let record = match direction {
            Direction::FromOriginator => &self.record.from_originator,
            Direction::FromResponder => &self.record.from_responder,
        };
        let wire = self.wire.map(|wire| &wire.sides[self.endpoint(direction)]);
        SideFacts { record, wire }
    }

    /// Both sides, the originator's first.
    #[must_use]
    pub fn sides(&self) -> [SideFacts<'a>; 2] {
        Direction::BOTH.map(|direction| self.side(direction))
    }

    /// The first reset, and who sent it.
    #[must_use]
    pub fn reset(&self) -> Option<(Direction, Reset)> {
        let reset = self.wire?.reset?;
        Some((self.direction(reset.sender), reset))
    }

    /// The last long silence, and who broke it.
    #[must_use]
    pub fn idle(&self) -> Option<(Direction, Idle)> {
        let idle = self.wire?.idle?;
        Some((self.direction(idle.sender), idle))
    }

    /// Questions and answers of DNS.
    #[must_use]
    pub fn dns(&self) -> Option<&'a DnsEvidence> {
        self.wire?.dns.as_deref()
    }

    /// Whether all packets are of one connection; unknown where not each was looked at.
    #[must_use]
    pub fn is_one_connection(&self) -> Option<bool> {
        Some(!self.wire?.begun_anew)
    }

    fn endpoint(&self, direction: Direction) -> usize {
        let is_originator = direction == Direction::FromOriginator;
        usize::from(self.record.upper_originated == is_originator)
    }

    fn direction(&self, endpoint: u32) -> Direction {
        let is_upper = endpoint & 1 == 1;
        if self.record.upper_originated == is_upper {
            Direction::FromOriginator
        } else {
            Direction::FromResponder
        }
    }
}

impl<'a> SideFacts<'a> {
    /// Segments of one of Wireshark's classes.
    #[must_use]
    pub fn class(&self, class: u32) -> u64 {
        let place = class.trailing_zeros() as usize;
        self.record.classes.get(place).map_or(0, |count| u64::from(*count))
    }

    /// linnet's own verdicts.
    #[must_use]
    pub const fn verdicts(&self) -> Option<&'a Verdicts> {
        self.record.verdicts.as_ref()
    }

    /// Round trips of what it sent, if there are as many as that.
    #[must_use]
    pub const fn round_trips(&self, samples_min: u64) -> Option<&'a RttSummary> {
        let rtt = &self.record.rtt;
        if rtt.samples >= samples_min && rtt.samples > 0 { Some(rtt) } else { None }
    }

    /// Its segments, without copies of frames.
    #[must_use]
    pub fn segments(&self) -> u64 {
        let copies = self.verdicts().map_or(0, |verdicts| verdicts.duplicate_frames);
        self.record.packets.saturating_sub(copies)
    }

    /// The share of these that a count is.
    #[must_use]
    pub fn share(&self, count: u64) -> f64 {
        count as f64 / self.segments().max(1) as f64
    }
}
