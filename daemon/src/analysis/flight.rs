//! What one side sent and the other one has not acknowledged yet: how much it is, and how long each acknowledgment took.
//! Never decides why something was sent again; that is the verdict's.

use std::collections::VecDeque;

use datapath::{
    Ktime,
    parse::SELECTIVE_MAX,
    tcp::{after, at_or_before, before},
};

use super::mark::Mark;

/// Segments of one direction that are followed until they are acknowledged; round trips of further ones are not known.
pub const OUTSTANDING_MAX: usize = 16_384;
/// Ranges that are selectively acknowledged at a time; further ones count as in flight.
pub const SELECTED_MAX: usize = 64;
/// More is no flight but a sequence number that leads nowhere.
const FLIGHT_MAX: u32 = 1 << 30;

/// A segment on its way.
#[derive(Clone, Copy, Debug)]
struct Outstanding {
    end: u32,
    first_at: Ktime,
    /// In flight with it, when it was sent: this many bytes.
    flight: u32,
    /// It was sent more than once, or late: an acknowledgment of it may be meant for another try (Karn).
    is_again: bool,
}

/// What an acknowledgment tells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Acknowledged {
    /// It acknowledges what none before did, selectively or not.
    pub(super) is_progress: bool,
    /// The time since the segment that ends there was first seen.
    pub(super) round_trip: Option<RoundTrip>,
}

/// One round trip.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RoundTrip {
    pub(super) ns: u64,
    /// Bytes that were in flight once its segment was sent.
    pub(super) flight: u32,
    /// Nothing that is acknowledged with it was sent again or late: it is the path's, and of no loss.
    pub(super) is_clean: bool,
}

/// The greatest flight.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Peak {
    /// Bytes.
    pub bytes: u32,
    /// By which segment.
    pub mark: Mark,
}

/// One direction's data in flight.
///
/// Invariant: `outstanding` is sorted by end, no two ends are the same; `selected` is sorted, and its ranges neither
/// overlap nor touch. Both only as long as sequence numbers lie within half the circle, which forged ones need not.
#[derive(Clone, Debug, Default)]
pub struct Flight {
    outstanding: VecDeque<Outstanding>,
    selected: VecDeque<[u32; 2]>,
    selected_bytes: u32,
    /// The first sequence number that was seen, and one after the highest.
    bounds: Option<[u32; 2]>,
    acknowledged: Option<u32>,
    peak: Peak,
    not_followed: u64,
}

impl Flight {
    /// A segment from `start` to `end` was sent.
    #[inline]
    pub(super) fn send(&mut self, start: u32, end: u32, mark: Mark) {
        let [_, next] = self.bounds.get_or_insert([start, start]);
        let is_again = before(start, *next);
        if after(end, *next) {
            *next = end;
        }
        let flight = self.bytes();
        if flight > self.peak.bytes {
            self.peak = Peak { bytes: flight, mark };
        }
        self.follow(Outstanding { end, first_at: mark.at, flight, is_again });
    }

    /// A probe that ends at `end` was sent: it is acknowledged like a segment, and is none.
    pub(super) fn probe(&mut self, end: u32, mark: Mark) {
        self.follow(Outstanding { end, first_at: mark.at, flight: 0, is_again: false });
    }

    #[inline]
    fn follow(&mut self, outstanding: Outstanding) {
        let end = outstanding.end;
        let is_newest = self.outstanding.back().is_none_or(|last| before(last.end, end));
        let place = match is_newest {
            true => self.outstanding.len(),
            false => self.outstanding.partition_point(|one| before(one.end, end)),
        };
        if let Some(one) = self.outstanding.get_mut(place).filter(|one| one.end == end) {
            one.is_again = true;
            return;
        }
        if self.outstanding.len() == OUTSTANDING_MAX {
            self.not_followed += 1;
        } else if is_newest {
            self.outstanding.push_back(outstanding);
        } else {
            self.outstanding.insert(place, outstanding);
        }
    }

    /// The other side acknowledged everything before `acknowledgment`.
    #[inline]
    pub(super) fn acknowledge(&mut self, acknowledgment: u32, now: Ktime) -> Acknowledged {
        let mut told = Acknowledged::default();
        let mut is_clean = true;
        while let Some(one) =
            self.outstanding.front().filter(|one| at_or_before(one.end, acknowledgment))
        {
            is_clean &= !one.is_again;
            if one.end == acknowledgment {
                let ns = now.since(one.first_at).max(0).cast_unsigned();
                told.round_trip = Some(RoundTrip { ns, flight: one.flight, is_clean });
            }
            self.outstanding.pop_front();
        }
        if self.acknowledged.is_none_or(|last| after(acknowledgment, last)) {
            told.is_progress = self.acknowledged.is_some() || self.bounds.is_some();
            self.acknowledged = Some(acknowledgment);
            while let Some([start, end]) = self.selected.front_mut()
                && before(*start, acknowledgment)
            {
                if at_or_before(*end, acknowledgment) {
                    self.selected_bytes =
                        self.selected_bytes.wrapping_sub(end.wrapping_sub(*start));
                    self.selected.pop_front();
                } else {
                    self.selected_bytes =
                        self.selected_bytes.wrapping_sub(acknowledgment.wrapping_sub(*start));
                    *start = acknowledgment;
                }
            }
        }
        told
    }

    /// The other side has these blocks beyond what it acknowledged. Returns whether any of it is new.
    pub(super) fn select(&mut self, blocks: &[[u32; 2]; SELECTIVE_MAX]) -> bool {
        let (Some(acknowledged), Some([_, next])) = (self.acknowledged, self.bounds) else {
            return false;
        };
        let had = self.selected_bytes;
        for block @ [start, end] in blocks {
            // A block below is one that arrived twice (RFC 2883).
            if before(*start, *end) && after(*start, acknowledged) && at_or_before(*end, next) {
                self.insert(*block);
            }
        }
        self.selected_bytes != had
    }

    fn insert(&mut self, [start, end]: [u32; 2]) {
        let from = self.selected.partition_point(|[_, known_end]| before(*known_end, start));
        let mut merged = [start, end];
        let mut until = from;
        let mut known_bytes = 0_u32;
        while let Some([known_start, known_end]) = self.selected.get(until)
            && at_or_before(*known_start, end)
        {
            known_bytes = known_bytes.wrapping_add(known_end.wrapping_sub(*known_start));
            merged[0] = if before(*known_start, merged[0]) { *known_start } else { merged[0] };
            merged[1] = if after(*known_end, merged[1]) { *known_end } else { merged[1] };
            until += 1;
        }
        if until == from {
            if self.selected.len() == SELECTED_MAX {
                return;
            }
            self.selected.insert(from, merged);
        } else {
            self.selected[from] = merged;
            self.selected.drain(from + 1..until);
        }
        let merged_bytes = merged[1].wrapping_sub(merged[0]);
        self.selected_bytes =
            self.selected_bytes.wrapping_add(merged_bytes).wrapping_sub(known_bytes);
    }

    /// The sequence numbers start anew.
    pub(super) fn restart(&mut self) {
        self.outstanding.clear();
        self.selected.clear();
        self.selected_bytes = 0;
        self.bounds = None;
        self.acknowledged = None;
    }

    /// Bytes that were sent and neither acknowledged nor selectively acknowledged. SYN and FIN are a byte each.
    #[inline]
    #[must_use]
    pub fn bytes(&self) -> u32 {
        let Some([first, next]) = self.bounds else { return 0 };
        let from = self.acknowledged.unwrap_or(first);
        let bytes = next.wrapping_sub(from);
        if bytes > FLIGHT_MAX { 0 } else { bytes.saturating_sub(self.selected_bytes) }
    }

    /// The most there were at a time, if the other side acknowledged anything at all.
    #[must_use]
    pub fn peak(&self) -> Option<Peak> {
        self.acknowledged.map(|_| self.peak)
    }

    /// One after the highest sequence number.
    #[inline]
    #[must_use]
    pub fn next(&self) -> Option<u32> {
        self.bounds.map(|[_, next]| next)
    }

    /// The first sequence number that was seen.
    #[must_use]
    pub fn first(&self) -> Option<u32> {
        self.bounds.map(|[first, _]| first)
    }

    /// How far it is acknowledged.
    #[inline]
    #[must_use]
    pub const fn acknowledged(&self) -> Option<u32> {
        self.acknowledged
    }

    /// Whether a later acknowledgment came before this one, so that it has an old window (RFC 9293, 3.10.7.4). Not by one of
    /// what was not sent.
    #[inline]
    pub(super) fn is_overtaken(&self, acknowledgment: u32) -> bool {
        let highest = self
            .acknowledged
            .filter(|highest| self.next().is_none_or(|next| at_or_before(*highest, next)));
        highest.is_some_and(|highest| before(acknowledgment, highest))
    }

    /// Segments beyond [`OUTSTANDING_MAX`].
    #[must_use]
    pub const fn not_followed(&self) -> u64 {
        self.not_followed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn mark(at_ms: u64) -> Mark {
        Mark { frame: at_ms, at: Ktime(at_ms * MS) }
    }

    /// Ten segments of 100 bytes from 1,000 on, one each millisecond from 1 ms on.
    fn ten() -> Flight {
        let mut flight = Flight::default();
        (0..10).for_each(|n| flight.send(1_000 + n * 100, 1_100 + n * 100, mark(u64::from(n) + 1)));
        flight
    }

    #[test]
    fn each_acknowledgment_measures_the_segment_that_ends_there() {
        let mut flight = ten();
        let measured = flight.acknowledge(1_300, Ktime(13 * MS)).round_trip;
        assert_eq!(measured, Some(RoundTrip { ns: 10 * MS, flight: 300, is_clean: true }));
        assert_eq!(flight.acknowledge(1_350, Ktime(14 * MS)).round_trip, None, "within a segment");
        assert_eq!(flight.acknowledge(1_400, Ktime(14 * MS)).round_trip.unwrap().ns, 10 * MS);
        assert_eq!(flight.acknowledge(1_400, Ktime(15 * MS)), Acknowledged::default(), "again");
    }

    #[test]
    fn what_is_sent_again_is_measured_from_the_first_time() {
        let mut flight = ten();
        flight.send(1_000, 1_100, mark(50));
        assert_eq!(flight.acknowledge(1_100, Ktime(60 * MS)).round_trip.unwrap().ns, 59 * MS);
    }

    #[test]
    fn round_trips_over_what_is_sent_again_are_not_clean() {
        let mut flight = ten();
        let mut is_clean = |acknowledgment, again: Option<[u32; 2]>| {
            again.into_iter().for_each(|[start, end]| flight.send(start, end, mark(50)));
            flight.acknowledge(acknowledgment, Ktime(60 * MS)).round_trip.unwrap().is_clean
        };
        assert!(is_clean(1_100, None));
        assert!(!is_clean(1_200, Some([1_100, 1_200])));
        assert!(!is_clean(1_600, Some([1_200, 1_300])), "one of those that are acknowledged");
        assert!(!is_clean(1_800, Some([1_600, 1_650])), "a part of one");
        assert!(is_clean(1_900, None));
    }

    #[test]
    fn probes_that_are_sent_again_are_not_clean() {
        let mut flight = ten();
        flight.acknowledge(2_000, Ktime(20 * MS));
        flight.probe(2_000, mark(100));
        assert!(flight.acknowledge(2_000, Ktime(110 * MS)).round_trip.unwrap().is_clean);
        [200, 300].into_iter().for_each(|at_ms| flight.probe(2_000, mark(at_ms)));
        assert!(!flight.acknowledge(2_000, Ktime(310 * MS)).round_trip.unwrap().is_clean);
    }

    #[test]
    fn an_acknowledgment_is_overtaken_by_a_later_one() {
        let mut flight = ten();
        flight.acknowledge(1_300, Ktime(20 * MS));
        assert_eq!([1_200, 1_300, 1_400].map(|ack| flight.is_overtaken(ack)), [true, false, false]);
        flight.acknowledge(2_100, Ktime(21 * MS));
        assert!(!flight.is_overtaken(1_300), "of what was not sent");
    }

    #[test]
    fn flight_is_without_what_is_selected() {
        let mut flight = ten();
        assert_eq!(flight.bytes(), 1_000);
        flight.acknowledge(1_100, Ktime(20 * MS));
        assert!(flight.select(&[[1_500, 1_600], [1_200, 1_300], [0; 2], [0; 2]]));
        assert_eq!(flight.bytes(), 700);
        assert!(!flight.select(&[[1_500, 1_600], [0; 2], [0; 2], [0; 2]]), "the same again");
        assert!(flight.select(&[[1_250, 1_550], [0; 2], [0; 2], [0; 2]]), "two become one");
        assert_eq!((flight.bytes(), flight.selected.len()), (500, 1));
        assert!(!flight.select(&[[1_000, 1_100], [0; 2], [0; 2], [0; 2]]), "that arrived twice");
        flight.acknowledge(1_400, Ktime(21 * MS));
        assert_eq!(flight.bytes(), 400);
        flight.acknowledge(2_000, Ktime(22 * MS));
        assert_eq!((flight.bytes(), flight.selected_bytes), (0, 0));
        assert_eq!(flight.peak().unwrap().bytes, 1_000);
    }

    #[test]
    fn numbers_may_wrap() {
        let mut flight = Flight::default();
        flight.send(u32::MAX - 99, 0, mark(1));
        flight.send(0, 100, mark(2));
        assert_eq!(flight.bytes(), 200);
        assert_eq!(flight.acknowledge(0, Ktime(3 * MS)).round_trip.unwrap().ns, 2 * MS);
        assert_eq!(flight.bytes(), 100);
    }

    #[test]
    fn what_nobody_acknowledges_is_bounded() {
        let mut flight = Flight::default();
        let many = 2 * u32::try_from(OUTSTANDING_MAX).unwrap();
        (0..many).for_each(|n| flight.send(n * 10, n * 10 + 10, mark(1)));
        assert_eq!(flight.outstanding.len(), OUTSTANDING_MAX);
        assert_eq!(flight.not_followed(), OUTSTANDING_MAX as u64);
        assert_eq!(flight.peak(), None, "nobody said that it is in flight");
    }
}
