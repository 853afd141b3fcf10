//! Synthetic captures: a deterministic simulated network, written as pcap together with the truth
//! about it. Needs no privileges, and never touches a real network.
//!
//! The observer stands somewhere between the ends, so that losses happen before it (the first
//! sending is never captured) and behind it (both sendings are).

mod cast;
mod datagrams;
mod frame;
mod pcap;
pub mod stage;
mod tcp;
mod truth;

use std::io::{self, Write};

pub use self::frame::Side;
pub use self::truth::{FlowTruth, HalfTruth, Truth};
use crate::clock::NANOS_PER_SEC;

/// Longest scene.
pub const SECONDS_MAX: u32 = 3600;
/// Most conversations of a scene.
pub const FLOWS_MAX: u32 = 20_000;
/// Most packets of a scene, about 1.5 GB of memory.
pub const PACKETS_MAX: usize = 5_000_000;

/// What to synthesize. One scene is one file, bit by bit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scene {
    /// Length, 1 to [`SECONDS_MAX`]; what is not over by then is cut, as in any capture.
    pub seconds: u32,
    /// Of everything random.
    pub seed: u64,
    /// Conversations, 1 to [`FLOWS_MAX`]; sixteen kinds are dealt out in turn.
    pub flows: u32,
    /// Time of the beginning, in nanoseconds since 1970.
    pub start_wall_ns: u64,
}

impl Default for Scene {
    fn default() -> Self {
        // 2025-01-01T00:00:00Z
        Self { seconds: 30, seed: 1, flows: 48, start_wall_ns: 1_735_689_600 * NANOS_PER_SEC }
    }
}

/// Why a scene was not written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SynthError {
    /// A number is out of range.
    #[error("cannot synthesize a scene with `{field}` = {value}; use 1 to {max}")]
    Limit {
        /// Which.
        field: &'static str,
        /// Its value.
        value: u64,
        /// The largest allowed.
        max: u64,
    },
    /// The scene has too many packets.
    #[error("cannot synthesize more than {PACKETS_MAX} packets; use fewer flows or seconds")]
    TooLarge,
    /// The file could not be written.
    #[error("cannot write the capture: {0}; is the disk full?")]
    Write(#[from] io::Error),
}

/// A frame and when it passed the observer, from the scene's beginning.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Recorded {
    at_ns: u64,
    frame: Vec<u8>,
}

/// Writes the scene as pcap (nanoseconds, Ethernet), and returns the truth about it.
pub fn write(scene: &Scene, to: impl Write) -> Result<Truth, SynthError> {
    for (field, value, max) in
        [("seconds", scene.seconds, SECONDS_MAX), ("flows", scene.flows, FLOWS_MAX)]
    {
        if !(1..=max).contains(&value) {
            return Err(SynthError::Limit { field, value: value.into(), max: max.into() });
        }
    }
    let mut recorded = Vec::new();
    let mut truth = Truth::default();
    let end_ns = u64::from(scene.seconds) * NANOS_PER_SEC;
    datagrams::arp(end_ns, cast::GATEWAY, &mut recorded);
    truth.packets_without_flow = count(recorded.len());
    for index in 0..scene.flows {
        let flow = cast::play(scene, index, &mut recorded);
        if flow.packets() > 0 {
            truth.flows.push(flow);
        }
        if recorded.len() > PACKETS_MAX {
            return Err(SynthError::TooLarge);
        }
    }
    // Stable: a flow's packets keep their order at equal times.
    recorded.sort_by_key(|recorded| recorded.at_ns);
    truth.packets = count(recorded.len());
    let mut file = pcap::PcapWriter::new(to)?;
    for Recorded { at_ns, frame } in &recorded {
        file.frame(scene.start_wall_ns.saturating_add(*at_ns), frame)?;
    }
    file.finish()?;
    Ok(truth)
}

fn count(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_scene_is_one_file() {
        let scene = Scene { seconds: 5, flows: 32, ..Scene::default() };
        let (mut a, mut b) = (Vec::new(), Vec::new());
        assert_eq!(write(&scene, &mut a).unwrap(), write(&scene, &mut b).unwrap());
        assert_eq!(a, b);
        let mut c = Vec::new();
        write(&Scene { seed: 2, ..scene }, &mut c).unwrap();
        assert_ne!(a, c);
    }

    #[test]
    fn the_truth_counts_every_packet_once() {
        let truth = write(&Scene::default(), io::sink()).unwrap();
        let of_flows: u64 = truth.flows.iter().map(FlowTruth::packets).sum();
        assert_eq!(of_flows + truth.packets_without_flow, truth.packets);
    }

    #[test]
    fn every_kind_of_trouble_happens_in_the_default_scene() {
        let truth = write(&Scene::default(), io::sink()).unwrap();
        let sum = |of: fn(&HalfTruth) -> u64| -> u64 {
            truth.flows.iter().map(|f| of(&f.from_originator) + of(&f.from_responder)).sum()
        };
        assert!(sum(|half| half.lost_upstream) > 10);
        assert!(sum(|half| half.lost_downstream) > 10);
        assert!(sum(|half| half.zero_windows) > 2);
        assert!(sum(|half| half.resets) >= 6);
        assert!(sum(|half| half.retransmissions_visible) > 40);
        assert!(truth.flows.iter().any(|f| f.vlan.is_some() && f.originator.is_ipv6()));
    }

    #[test]
    fn scenes_beyond_the_limits_are_refused() {
        let scene = Scene { seconds: 0, ..Scene::default() };
        assert!(matches!(write(&scene, io::sink()), Err(SynthError::Limit { .. })));
    }
}
