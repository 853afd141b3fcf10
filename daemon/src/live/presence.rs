//! Whether what is watched is still there: looked up here, or asked of the attacher, since only that may enter other
//! namespaces.

use super::{Answer, AttachedPoint, LiveError, Remote, Verb, watch};

/// Who knows.
#[derive(Clone, Debug)]
pub enum Presence {
    /// This process, which may enter the namespaces.
    Here,
    /// The attacher.
    Asked(Remote),
}

impl Presence {
    /// Which of the points are there, by id. Where the attacher cannot say, none is.
    pub fn of(&self, points: &[AttachedPoint]) -> Result<Vec<u32>, LiveError> {
        match self {
            Self::Here => {
                let there = points.iter().filter(|point| watch::is_present(point));
                Ok(there.map(|point| point.attached.point).collect())
            }
            Self::Asked(remote) => match remote.perform(&Verb::Look)? {
                Answer::Present(points) => Ok(points),
                Answer::Attached(_) | Answer::RulesSet { .. } | Answer::Done => Ok(Vec::new()),
            },
        }
    }
}
