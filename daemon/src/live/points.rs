//! The observation points as everyone but the attacher sees them. The follower makes them and says what becomes of
//! their interfaces; the sweeper lets one go once its last flow has left the kernel's tables. Only then is its id used
//! again, so that no flow of an interface that has gone is taken for one of the next.

use std::sync::{Mutex, MutexGuard, PoisonError};

use super::{AttachedPoint, chain::Chain};

/// One of them.
#[derive(Clone, Debug)]
pub struct WatchedPoint {
    /// What is attached, by its present name.
    pub point: AttachedPoint,
    /// Which of the namespaces that had the name: counts up when it is made again.
    pub namespace_number: u64,
    /// Its interface has gone, or is not wanted any more: nothing is counted here, and its flows have to leave.
    pub gone: bool,
    /// What is on the hooks of each direction, as of the last look.
    pub chains: [Chain; 2],
}

/// All of them.
#[derive(Debug, Default)]
pub struct Points(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    points: Vec<WatchedPoint>,
    /// Ids that the sweeper has let go and the attacher does not know of yet.
    left: Vec<u32>,
    notices: Vec<String>,
}

impl Points {
    /// Those that nobody follows: for tests, and until the follower runs.
    #[must_use]
    pub fn of(points: Vec<AttachedPoint>) -> Self {
        let all = Self::default();
        for point in points {
            all.add(point, 0);
        }
        all
    }

    /// As of now.
    #[must_use]
    pub fn latest(&self) -> Vec<WatchedPoint> {
        self.state().points.clone()
    }

    /// What cannot be watched, or not as it should be.
    #[must_use]
    pub fn notices(&self) -> Vec<String> {
        self.state().notices.clone()
    }

    /// An interface is watched.
    pub(super) fn add(&self, point: AttachedPoint, namespace_number: u64) {
        let chains = Default::default();
        let watched = WatchedPoint { point, namespace_number, gone: false, chains };
        self.state().points.push(watched);
    }

    /// Changes what is known of a point.
    pub(super) fn update(&self, point: u32, change: impl FnOnce(&mut WatchedPoint)) {
        let mut state = self.state();
        if let Some(watched) = state.points.iter_mut().find(|it| it.point.attached.point == point) {
            change(watched);
        }
    }

    /// Nothing is counted at a point any more.
    pub fn go(&self, point: u32) {
        self.update(point, |watched| watched.gone = true);
    }

    /// No flow and no count of it is left in the kernel.
    pub(crate) fn leave(&self, point: u32) {
        let mut state = self.state();
        state.points.retain(|it| it.point.attached.point != point);
        state.left.push(point);
    }

    /// The ids that were let go since the last call.
    pub(super) fn take_left(&self) -> Vec<u32> {
        std::mem::take(&mut self.state().left)
    }

    pub(super) fn set_notices(&self, notices: Vec<String>) {
        self.state().notices = notices;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
