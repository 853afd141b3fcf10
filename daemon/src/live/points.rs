//! The observation points as everyone but the attacher sees them. The follower makes them and says what becomes of
//! their interfaces; the sweeper lets one go once its last flow has left the kernel's tables. Only then is its id used
//! again, so that no flow of an interface that has gone is taken for one of the next. A daemon has a copy, which each
//! look at the attacher's brings up to date.

use std::sync::{Mutex, MutexGuard, PoisonError};

use super::{Answer, AttachedPoint, LiveError, Remote, Verb, chain::Chain, verb::Watching};

/// Links of chains that are told, of all points together: an answer has to fit into a message.
const LINKS_MAX: usize = 1_024;

/// One of them.
#[derive(Clone, Debug, PartialEq, Eq)]
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
    watching: Watching,
    /// Ids that the sweeper has let go and the attacher does not know of yet.
    left: Vec<u32>,
}

impl From<Watching> for Points {
    fn from(watching: Watching) -> Self {
        Self(Mutex::new(State { watching, left: Vec::new() }))
    }
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
        self.state().watching.points.clone()
    }

    /// What cannot be watched, or not as it should be.
    #[must_use]
    pub fn notices(&self) -> Vec<String> {
        self.state().watching.notices.clone()
    }

    /// An interface is watched.
    pub(super) fn add(&self, point: AttachedPoint, namespace_number: u64) {
        let chains = Default::default();
        let watched = WatchedPoint { point, namespace_number, gone: false, chains };
        self.state().watching.points.push(watched);
    }

    /// Changes what is known of a point.
    pub(super) fn update(&self, point: u32, change: impl FnOnce(&mut WatchedPoint)) {
        let mut state = self.state();
        let mut points = state.watching.points.iter_mut();
        if let Some(watched) = points.find(|it| it.point.attached.point == point) {
            change(watched);
        }
    }

    /// Nothing is counted at a point any more.
    pub fn go(&self, point: u32) {
        self.update(point, |watched| watched.gone = true);
    }

    /// No flow and no count of it is left in the kernel. Only one that has gone can be left.
    pub fn leave(&self, point: u32) {
        let mut state = self.state();
        let is_it = |it: &WatchedPoint| it.gone && it.point.attached.point == point;
        if state.watching.points.iter().any(is_it) {
            state.watching.points.retain(|it| !is_it(it));
            state.left.push(point);
        }
    }

    /// All that is known; where that is very much, of the last chains only what is linnet's.
    #[must_use]
    pub fn watching(&self) -> Watching {
        let mut watching = self.state().watching.clone();
        let mut left = LINKS_MAX;
        for chain in watching.points.iter_mut().flat_map(|watched| &mut watched.chains) {
            if chain.links.len() > left {
                chain.links.retain(|link| link.ours);
            }
            left = left.saturating_sub(chain.links.len());
        }
        watching
    }

    /// Brings a daemon's copy up to date, and says which points it has left. One at a time: an answer that is older than
    /// another must not replace it.
    pub fn refresh(&self, remote: &Remote) -> Result<(), LiveError> {
        let mut state = self.state();
        let left = state.left.clone();
        match remote.perform(&Verb::Look { left })? {
            Answer::Watched(watching) => *state = State { watching, left: Vec::new() },
            Answer::RulesSet { .. } | Answer::Done => {}
        }
        Ok(())
    }

    /// The ids that were let go since the last call.
    pub(super) fn take_left(&self) -> Vec<u32> {
        std::mem::take(&mut self.state().left)
    }

    pub(super) fn set_notices(&self, notices: Vec<String>) {
        self.state().watching.notices = notices;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
