//! Features that count as missing because the configuration says so: for tests of what linnet does without them, and
//! for kernels on which one is broken. Must never make a feature count as there.

use super::{Feature, Release};

/// What is to be treated as missing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pretence {
    /// `kernel.without`.
    pub without: Vec<Feature>,
    /// `kernel.pretend`: what came after this release counts as missing.
    pub release: Option<Release>,
}

impl Pretence {
    /// Why a feature counts as missing, where it does.
    #[must_use]
    pub fn denies(&self, feature: Feature) -> Option<String> {
        feature.with_what_it_needs().iter().find_map(|needed| {
            if self.without.contains(needed) {
                return Some(format!("`kernel.without` names `{needed}`"));
            }
            let release = self.release.filter(|release| *release < needed.since())?;
            let since = needed.since();
            Some(format!("`kernel.pretend` is {release}, and `{needed}` came with {since}"))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn denied(pretence: &Pretence) -> Vec<Feature> {
        Feature::ALL.into_iter().filter(|feature| pretence.denies(*feature).is_some()).collect()
    }

    #[test]
    fn nothing_is_denied_by_itself() {
        assert_eq!(denied(&Pretence::default()), []);
    }

    #[test]
    fn what_came_after_a_release_is_denied() {
        let pretend = |major, minor| {
            let release = Some(Release::new(major, minor));
            denied(&Pretence { release, ..Pretence::default() })
        };
        assert_eq!(pretend(6, 12), []);
        assert_eq!(pretend(6, 11), [Feature::LandlockScopes]);
        let before_tcx = [
            Feature::Tcx,
            Feature::LandlockNetwork,
            Feature::LandlockIoctl,
            Feature::LandlockScopes,
        ];
        assert_eq!(pretend(6, 5), before_tcx);
        assert!(pretend(5, 15).contains(&Feature::MapAccess));
    }

    #[test]
    fn a_level_of_landlock_takes_those_behind_it_along() {
        let pretence = Pretence { without: vec![Feature::LandlockNetwork], release: None };
        assert_eq!(
            denied(&pretence),
            [Feature::LandlockNetwork, Feature::LandlockIoctl, Feature::LandlockScopes]
        );
        let why = pretence.denies(Feature::LandlockScopes).unwrap();
        assert_eq!(why, "`kernel.without` names `landlock-network`");
    }
}
