//! Looking at an interval whether linnet's programs are where they were put, and putting back what another tool has taken
//! off, unless linnet is to yield.

use super::{Follower, OnDisplaced, Part, Retry};
use crate::live::{Chain, Inspected};

impl Follower {
    /// Looks whether the programs are where they were put, and does what is configured where they are not.
    pub(super) fn inspect(&mut self) {
        let inspected = match self.attacher().inspect() {
            Ok(inspected) => inspected,
            Err(error) => {
                tracing::warn!(%error, "cannot look at what is on the hooks");
                return;
            }
        };
        let now_ns = self.clock.monotonic_ns();
        let mut again = false;
        for Inspected { point, chains, stage_lost } in &inspected {
            let tracker = chains.iter().any(|chain| chain.displaced);
            self.note(*point, chains, *stage_lost);
            let stage = stage_lost.contains(&true);
            for (part, displaced) in [(Part::Tracker, tracker), (Part::CaptureStage, stage)] {
                let place = (*point, part);
                if displaced {
                    again |= self.put_back(place, now_ns);
                } else if self
                    .displaced
                    .get(&place)
                    .is_some_and(|it| now_ns > it.at_ns + it.wait_ns)
                {
                    self.displaced.remove(&place);
                }
            }
        }
        if again && let Ok(inspected) = { self.attacher().inspect() } {
            for Inspected { point, chains, stage_lost } in inspected {
                self.note(point, &chains, stage_lost);
            }
        }
    }

    fn note(&mut self, point: u32, chains: &[Chain; 2], stage_lost: [bool; 2]) {
        self.points.update(point, |watched| watched.chains.clone_from(chains));
        if stage_lost.contains(&true) {
            self.stages_lost.insert(point, stage_lost);
        } else {
            self.stages_lost.remove(&point);
        }
    }

    /// Attaches what was taken off, unless it is to stay off or has been put back just now; returns whether it is back.
    fn put_back(&mut self, (point, part): (u32, Part), now_ns: u64) -> bool {
        let before = self.displaced.get(&(point, part));
        if self.on_displaced == OnDisplaced::Yield || before.is_some_and(|it| now_ns < it.at_ns) {
            return false;
        }
        let retry = Retry::after(before, String::new(), now_ns);
        self.displaced.insert((point, part), retry);
        let attached = match part {
            Part::Tracker => self.attacher().reattach(point).map(Some),
            Part::CaptureStage => self.attacher().restage(point).map(|()| None),
        };
        match attached {
            Ok(attached) => {
                tracing::warn!(
                    point,
                    ?part,
                    "another tool had taken linnet off its hook: attached again"
                );
                if let Some(attached) = attached {
                    self.points.update(point, |watched| watched.point.attached = attached);
                }
                true
            }
            Err(error) => {
                tracing::warn!(%error, point, ?part, "linnet was taken off its hook and is not back on it");
                false
            }
        }
    }
}
