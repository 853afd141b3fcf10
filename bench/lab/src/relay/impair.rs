//! Decides the fate of every frame of one direction. Pure: time comes in as an argument, so the
//! same frames and seed meet the same fate. Never holds frames; the delay line does.

use std::collections::HashMap;
use std::net::SocketAddr;

use crate::clock::{NANOS_PER_SEC, nanos};
use crate::plan::{Impairment, Loss};
use crate::rng::Rng;
use crate::wire::{TcpSegment, flag};

/// Flows whose segments are numbered at once. Two generations of half as many each: the older half
/// is forgotten when the younger is full, and a forgotten flow's count starts again.
pub(crate) const FLOWS_MAX: usize = 65_536;

/// What happens to a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// Never sent: the loss rule took it.
    Lost,
    /// Never sent: the queue before the rate limit was full.
    QueueFull,
    /// Sent at a time of CLOCK_MONOTONIC.
    Sent { release_ns: u64, duplicated: bool, reordered: bool },
}

/// What the engine looks at.
#[derive(Debug, Clone, Copy)]
pub(super) struct Facts<'a> {
    pub bytes: usize,
    /// True for ARP and neighbour discovery, which are never lost.
    pub is_address_resolution: bool,
    pub is_ip: bool,
    pub tcp: Option<&'a TcpSegment>,
}

/// The engine of one direction.
#[derive(Debug)]
pub(super) struct Impairer {
    plan: Impairment,
    rng: Rng,
    flows: Flows,
    /// When the rate-limited link has sent everything it accepted.
    link_free_ns: u64,
    /// The latest release of a frame in order; later frames go no earlier.
    last_release_ns: u64,
}

impl Impairer {
    pub(super) fn new(plan: Impairment, seed: u64) -> Self {
        Self {
            plan,
            rng: Rng::new(seed),
            flows: Flows::default(),
            link_free_ns: 0,
            last_release_ns: 0,
        }
    }

    /// The fate of a frame that arrived at `arrival_ns`. Call in order of arrival.
    pub(super) fn fate(&mut self, facts: Facts<'_>, arrival_ns: u64) -> Fate {
        let nth = facts.tcp.and_then(|segment| self.flows.number(segment));
        if self.is_lost(facts, nth) {
            return Fate::Lost;
        }
        let Some(departure_ns) = self.serialize(facts.bytes, arrival_ns) else {
            return Fate::QueueFull;
        };
        let jitter_ns = self.rng.below(nanos(self.plan.jitter).saturating_add(1));
        let on_time_ns = departure_ns + nanos(self.plan.delay) + jitter_ns;
        // The rules strike at different segments: what one counts from, the next does not.
        let duplicated = is_nth(nth.map(|nth| nth + 2), self.plan.duplicate_every_nth);
        if let Some(reorder) = self.plan.reorder
            && is_nth(nth.map(|nth| nth + 1), Some(reorder.every_nth))
        {
            let release_ns = on_time_ns + nanos(reorder.extra_delay);
            return Fate::Sent { release_ns, duplicated, reordered: true };
        }
        self.last_release_ns = self.last_release_ns.max(on_time_ns);
        Fate::Sent { release_ns: self.last_release_ns, duplicated, reordered: false }
    }

    fn is_lost(&mut self, facts: Facts<'_>, nth: Option<u64>) -> bool {
        match self.plan.loss {
            Loss::None => false,
            Loss::EveryNthData(n) => is_nth(nth, Some(n)),
            Loss::Probability(p) => {
                facts.is_ip && !facts.is_address_resolution && self.rng.chance(p)
            }
        }
    }

    /// When the frame has left the rate-limited link, or `None` where the queue has no room.
    fn serialize(&mut self, bytes: usize, arrival_ns: u64) -> Option<u64> {
        let Some(rate) = self.plan.rate_bits_per_s else { return Some(arrival_ns) };
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        let start_ns = self.link_free_ns.max(arrival_ns);
        let waiting_bits =
            u128::from(start_ns - arrival_ns) * u128::from(rate) / u128::from(NANOS_PER_SEC);
        if waiting_bits / 8 + u128::from(bytes) > u128::from(self.plan.queue_bytes) {
            return None;
        }
        let frame_ns = u128::from(bytes) * 8 * u128::from(NANOS_PER_SEC) / u128::from(rate);
        self.link_free_ns = start_ns + u64::try_from(frame_ns).unwrap_or(u64::MAX / 4);
        Some(self.link_free_ns)
    }
}

fn is_nth(number: Option<u64>, every: Option<u32>) -> bool {
    match (number, every) {
        (Some(number), Some(every)) => number.is_multiple_of(u64::from(every)),
        _ => false,
    }
}

type FlowEnds = (SocketAddr, SocketAddr);

/// Data segments seen so far, per flow of this direction.
#[derive(Debug, Default)]
struct Flows {
    young: HashMap<FlowEnds, u64>,
    old: HashMap<FlowEnds, u64>,
}

impl Flows {
    /// The number of this data segment in its flow, from 1; `None` where it has no data. A SYN
    /// starts the count again.
    fn number(&mut self, segment: &TcpSegment) -> Option<u64> {
        let ends = (segment.src, segment.dst);
        if segment.flags & flag::SYN != 0 {
            self.young.remove(&ends);
            self.old.remove(&ends);
        }
        if segment.payload_bytes == 0 {
            return None;
        }
        if !self.young.contains_key(&ends) {
            if self.young.len() >= FLOWS_MAX / 2 {
                self.old = std::mem::take(&mut self.young);
            }
            let so_far = self.old.remove(&ends).unwrap_or(0);
            self.young.insert(ends, so_far);
        }
        let count = self.young.get_mut(&ends)?;
        *count += 1;
        Some(*count)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::plan::Reorder;

    #[test]
    fn every_nth_data_segment_of_each_flow_is_lost_and_nothing_else() {
        let mut engine =
            engine(Impairment { loss: Loss::EveryNthData(3), ..Impairment::default() });
        let fates = |engine: &mut Impairer, port| {
            (1..=7).map(|_| run(engine, &segment(port, 10), 0) == Fate::Lost).collect::<Vec<_>>()
        };
        let expected = [false, false, true, false, false, true, false];
        assert_eq!(fates(&mut engine, 1), expected);
        assert_eq!(fates(&mut engine, 2), expected);
        assert_ne!(run(&mut engine, &segment(1, 0), 0), Fate::Lost, "a pure ACK is no data");
    }

    #[test]
    fn a_new_connection_on_the_same_ports_counts_from_one() {
        let mut engine =
            engine(Impairment { loss: Loss::EveryNthData(2), ..Impairment::default() });
        run(&mut engine, &segment(1, 10), 0);
        run(&mut engine, &TcpSegment { flags: flag::SYN, ..segment(1, 0) }, 0);
        assert_ne!(run(&mut engine, &segment(1, 10), 0), Fate::Lost);
        assert_eq!(run(&mut engine, &segment(1, 10), 0), Fate::Lost);
    }

    #[test]
    fn jitter_keeps_the_order_and_reordering_breaks_it() {
        let mut jittery = engine(Impairment {
            delay: Duration::from_millis(1),
            jitter: Duration::from_millis(5),
            ..Impairment::default()
        });
        let times: Vec<u64> =
            (0..100).map(|at| release(run(&mut jittery, &segment(1, 1), at))).collect();
        assert!(times.is_sorted());

        let extra_delay = Duration::from_millis(3);
        let reorder = Some(Reorder { every_nth: 2, extra_delay });
        let mut swapping = engine(Impairment { reorder, ..Impairment::default() });
        let times: Vec<u64> =
            (0..3).map(|_| release(run(&mut swapping, &segment(1, 1), 0))).collect();
        assert_eq!(times, [3_000_000, 0, 3_000_000]);
    }

    #[test]
    fn a_rate_spaces_frames_and_a_full_queue_drops() {
        let mut engine = engine(Impairment {
            rate_bits_per_s: Some(8_000_000),
            queue_bytes: 2_500,
            ..Impairment::default()
        });
        let fates: Vec<Fate> = (0..3).map(|_| run(&mut engine, &segment(1, 1), 0)).collect();
        assert_eq!(release(fates[0]), 1_000_000);
        assert_eq!(release(fates[1]), 2_000_000);
        assert_eq!(fates[2], Fate::QueueFull);
        assert_eq!(release(run(&mut engine, &segment(1, 1), 2_000_000)), 3_000_000);
    }

    #[test]
    fn a_flood_of_flows_stays_within_the_limit() {
        let mut flows = Flows::default();
        for number in 0..200_000_u32 {
            let [a, b, c, d] = number.to_be_bytes();
            let src = SocketAddr::from(([a, b, c, d], 1));
            flows.number(&TcpSegment { src, ..segment(1, 1) });
        }
        assert!(flows.young.len() + flows.old.len() <= FLOWS_MAX);
    }

    fn engine(plan: Impairment) -> Impairer {
        Impairer::new(plan, 1)
    }

    fn run(engine: &mut Impairer, tcp: &TcpSegment, at: u64) -> Fate {
        let facts =
            Facts { bytes: 1000, is_address_resolution: false, is_ip: true, tcp: Some(tcp) };
        engine.fate(facts, at)
    }

    fn release(fate: Fate) -> u64 {
        match fate {
            Fate::Sent { release_ns, .. } => release_ns,
            Fate::Lost | Fate::QueueFull => panic!("{fate:?}"),
        }
    }

    fn segment(port: u16, payload_bytes: u32) -> TcpSegment {
        TcpSegment {
            src: SocketAddr::from(([10, 0, 0, 1], port)),
            dst: SocketAddr::from(([10, 0, 0, 2], 80)),
            seq: 0,
            flags: flag::ACK,
            payload_bytes,
            header: 34,
            data: 54,
        }
    }
}
