//! What one capture wants of the stage: which packets, how much of each, and how long. Never compiles an expression: what
//! comes here is classic BPF that has been checked.

use captures::filter::{Instruction, check, reach};
use datapath::layout::{CaptureConfig, CaptureSlot, VIEW_BYTES_MAX};

use super::filters::{Alternative, FilterSet, Slot, View};

/// Views are looked at in this many bytes at least, so that tags in front of them are seen.
const REACH_MIN: u32 = 64;
/// Bytes of tags that a view leaves out.
const TAGS: u32 = 8;

/// Which packets a capture wants, how much of each, and how long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StageConfig {
    /// Bytes of each frame, 1 to [`datapath::layout::CAPTURE_BYTES_MAX`].
    pub snaplen: u32,
    /// Most bytes behind the headers; absent for all.
    pub payload_max: Option<u32>,
    /// CLOCK_MONOTONIC ns from which on nothing is copied, whatever becomes of the daemon.
    pub deadline_ns: u64,
    /// Most packets, whatever becomes of the daemon.
    pub packets_max: u64,
    /// The same in bytes.
    pub bytes_max: u64,
    /// Only this observation point; all of them where absent.
    pub point: Option<u32>,
    /// Ways for a packet to match; absent where every one does.
    pub filter: Option<Vec<Alternative>>,
}

/// Most ways to match: three views of each of two links.
pub(super) const ALTERNATIVES_MAX: usize = 6;

impl StageConfig {
    /// Whether it wants packets of an observation point.
    pub(super) fn wants(&self, point: u32) -> bool {
        self.point.is_none_or(|wanted| wanted == point)
    }

    /// Its budgets as the stage reads them, none of them used.
    pub(super) fn slot(&self) -> CaptureSlot {
        CaptureSlot {
            // The stage takes what comes at its deadline.
            deadline_ns: self.deadline_ns.saturating_sub(1),
            packets_max: self.packets_max,
            bytes_max: self.bytes_max,
            packets: 0,
            bytes: 0,
            snaplen: self.snaplen,
            payload_max: self.payload_max.unwrap_or(u32::MAX),
        }
    }

    /// Adds its filter to those of the program.
    pub(super) fn put_into(&self, filters: &mut FilterSet, slot: Slot) {
        match &self.filter {
            None => filters.match_all(slot),
            Some(alternatives) => {
                for alternative in alternatives {
                    filters.push(slot, alternative.clone());
                }
            }
        }
    }

    /// What the filters of this and others have to be shown.
    pub(super) fn widen(&self, config: &mut CaptureConfig) {
        for Alternative { view, instructions, .. } in self.filter.iter().flatten() {
            config.views |= 1 << *view as u32;
            let tags = if *view == View::Wire { 0 } else { TAGS };
            let reach = reach(instructions).saturating_add(tags);
            let most = u32::try_from(VIEW_BYTES_MAX).unwrap_or(u32::MAX);
            config.reach = config.reach.max(reach.clamp(REACH_MIN, most));
        }
    }

    /// Whether its filter can be run.
    pub(super) fn is_checked(instructions: &[Instruction]) -> bool {
        check(instructions).is_ok()
    }
}
