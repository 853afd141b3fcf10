//! What this kernel has of what linnet uses, and what follows: a refusal, a sentence for each thing that is missing, or
//! nothing. What can be tried is tried, since distributions carry features back; the release decides only where
//! nothing else can. Must never let something be missing in silence.

mod feature;
mod found;
mod pretence;
mod release;

pub use feature::{Feature, NoFeature};
pub use found::{Found, landlock_version};
pub use pretence::Pretence;
pub use release::{NoRelease, Release};

use std::collections::BTreeMap;

use crate::status::kernel_release;

/// What is missing, each with the reason to think so.
pub type Lacks = BTreeMap<Feature, String>;

/// A kernel, as far as it was looked at.
#[derive(Clone, Debug)]
pub struct Kernel {
    /// Its release, as it calls itself or as is pretended.
    release: String,
    found: Vec<(Feature, Found)>,
}

impl Kernel {
    /// The running one, without what the configuration denies it.
    #[must_use]
    pub fn look(pretence: &Pretence) -> Self {
        let own = kernel_release();
        let found = Feature::ALL.map(|feature| {
            let denied = pretence.denies(feature).map(Found::Missing);
            (feature, denied.unwrap_or_else(|| Found::of(feature, own.parse().ok())))
        });
        let release = pretence.release.map_or(own, |release| release.to_string());
        Self { release, found: found.into() }
    }

    /// Its release.
    #[must_use]
    pub fn release(&self) -> &str {
        &self.release
    }

    /// What was found of each feature.
    pub fn found(&self) -> impl Iterator<Item = (Feature, &Found)> {
        self.found.iter().map(|(feature, found)| (*feature, found))
    }

    /// What is missing.
    #[must_use]
    pub fn lacks(&self) -> Lacks {
        let missing = self.found().filter_map(|(feature, found)| match found {
            Found::Missing(why) => Some((feature, why.clone())),
            Found::Present | Found::Unknown(_) => None,
        });
        missing.collect()
    }

    /// Why no program can watch interfaces on it, and what to do.
    #[must_use]
    pub fn shortfall(&self) -> Option<String> {
        let release = &self.release;
        let remedy = format!("boot Linux {} or later", Release::MIN);
        for (feature, found) in self.found() {
            if let (true, Found::Missing(why)) = (feature.is_needed(), found) {
                let remedy = if feature == Feature::VmlinuxBtf {
                    "boot a kernel with CONFIG_DEBUG_INFO_BTF"
                } else {
                    &remedy
                };
                return Some(format!(
                    "kernel {release} lacks {feature} ({why}), and {}; {remedy}",
                    feature.cost()
                ));
            }
        }
        let is_old = self.is_old() && !self.has(Feature::MapAccess);
        is_old.then(|| {
            let min = Release::MIN;
            format!(
                "kernel {release} is older than {min}, the first on which a daemon without capabilities can read the flow table; {remedy}"
            )
        })
    }

    /// Why linnet does not start on it where only programs will do, and what to do.
    #[must_use]
    pub fn refusal(&self) -> Option<String> {
        let shortfall = self.shortfall()?;
        Some(format!(
            "cannot watch interfaces by eBPF: {shortfall}. With `source = \"af_packet\"` linnet reads them by sockets; `linnet analyze` and `linnet run --replay` work here"
        ))
    }

    /// A sentence for each thing that is missing, but for what the daemon says of its sandbox.
    #[must_use]
    pub fn notices(&self) -> Vec<String> {
        let backported = self.is_old().then(|| {
            let min = Release::MIN;
            format!(
                "kernel {} is older than {min}, and linnet is not tested on such; what it needs of {min} was tried and is there",
                self.release
            )
        });
        let absent = self.lacks().into_iter().filter(|(feature, _)| !feature.is_of_the_sandbox());
        backported.into_iter().chain(absent.map(|(feature, why)| feature.absence(&why))).collect()
    }

    /// A sentence for each thing that could not be tried.
    #[must_use]
    pub fn doubts(&self) -> Vec<String> {
        let doubt = |(feature, found): (Feature, &Found)| match found {
            Found::Unknown(why) => Some(format!(
                "not known whether this kernel has {feature} ({why}); if not, {}",
                feature.cost()
            )),
            Found::Present | Found::Missing(_) => None,
        };
        let of_release = self
            .parsed()
            .is_none()
            .then(|| format!("the kernel calls itself `{}`, which is no release", self.release));
        self.found().filter_map(doubt).chain(of_release).collect()
    }

    fn parsed(&self) -> Option<Release> {
        self.release.parse().ok()
    }

    fn is_old(&self) -> bool {
        self.parsed().is_some_and(|release| release < Release::MIN)
    }

    fn has(&self, feature: Feature) -> bool {
        self.found().any(|(known, found)| known == feature && *found == Found::Present)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kernel(release: &str, odd: &[(Feature, Found)]) -> Kernel {
        let found = Feature::ALL.map(|feature| {
            let found = odd.iter().find(|(known, _)| *known == feature);
            (feature, found.map_or(Found::Present, |(_, found)| found.clone()))
        });
        Kernel { release: release.into(), found: found.into() }
    }

    fn missing(why: &str) -> Found {
        Found::Missing(why.to_owned())
    }

    fn unknown() -> Found {
        Found::Unknown("not allowed".to_owned())
    }

    #[test]
    fn a_kernel_with_everything_is_not_talked_about() {
        for release in ["5.19.0", "6.6.1", "6.18.44-fc-v669"] {
            let kernel = kernel(release, &[]);
            assert_eq!(kernel.refusal(), None, "{release}");
            assert!(kernel.notices().is_empty() && kernel.doubts().is_empty(), "{release}");
        }
    }

    #[test]
    fn an_old_release_is_refused_unless_what_it_lacks_was_carried_back() {
        let cases = [
            ("5.19.0", unknown(), false),
            ("5.18.19", unknown(), true),
            ("5.15.0-1051-azure", missing("as tried"), true),
            ("5.14.0-162.6.1.el9_1.x86_64", missing("as tried"), true),
            ("5.14.0-503.11.1.el9_5.x86_64", Found::Present, false),
            ("5.10.0-28-amd64", unknown(), true),
            ("4.18.0-513.el8.x86_64", unknown(), true),
            ("6.1.0", missing("as tried"), true),
            ("unheard-of", Found::Present, false),
            ("unheard-of", unknown(), false),
        ];
        for (release, access, is_refused) in cases {
            let kernel = kernel(release, &[(Feature::MapAccess, access.clone())]);
            let refusal = kernel.refusal();
            assert_eq!(refusal.is_some(), is_refused, "{release}, {access:?}: {refusal:?}");
            if let Some(refusal) = refusal {
                assert!(refusal.contains(release) && refusal.contains("boot Linux 5.19"));
                assert!(refusal.contains("linnet analyze"), "{refusal}");
            }
        }
    }

    #[test]
    fn what_was_carried_back_is_said() {
        let notices = kernel("5.14.0-503.11.1.el9_5.x86_64", &[]).notices();
        assert!(notices.len() == 1 && notices[0].contains("5.14.0-503.11.1.el9_5"), "{notices:?}");
    }

    #[test]
    fn a_kernel_without_its_types_is_refused_and_one_that_cannot_be_asked_is_not() {
        let refusal = kernel("6.1.0", &[(Feature::VmlinuxBtf, missing("no file"))]).refusal();
        assert!(refusal.as_deref().unwrap().contains("CONFIG_DEBUG_INFO_BTF"), "{refusal:?}");
        assert_eq!(kernel("6.1.0", &[(Feature::VmlinuxBtf, unknown())]).refusal(), None);
    }

    #[test]
    fn what_is_missing_is_said_once_and_what_is_unknown_apart() {
        let odd = [
            (Feature::Tcx, missing("as tried")),
            (Feature::Clsact, unknown()),
            (Feature::Landlock, missing("not built in")),
        ];
        let reduced = kernel("6.1.0", &odd);
        assert_eq!(reduced.refusal(), None);
        assert_eq!(
            reduced.lacks().into_keys().collect::<Vec<_>>(),
            [Feature::Tcx, Feature::Landlock]
        );
        let [notice] = <[String; 1]>::try_from(reduced.notices()).unwrap();
        assert!(notice.contains("lacks tcx (as tried)") && notice.contains("uses clsact"));
        let [doubt] = <[String; 1]>::try_from(reduced.doubts()).unwrap();
        assert!(doubt.contains("clsact") && doubt.contains("not allowed"), "{doubt}");
        let unread = kernel("unheard-of", &[]).doubts();
        assert!(unread.len() == 1 && unread[0].contains("`unheard-of`"), "{unread:?}");
    }
}
