//! What linnet uses of a kernel that a kernel of 5.19 or later can lack: a closed list, each with what its absence
//! costs and what linnet does instead. docs/kernels.md has the same words. Must never say more than is done.

use std::{fmt, str::FromStr};

use super::Release;

/// One of them, in the order of the documentation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Feature {
    /// Maps by their descriptors, for a process without capabilities.
    MapAccess,
    /// The kernel's own types.
    VmlinuxBtf,
    /// TCX links.
    Tcx,
    /// Filters in a clsact qdisc.
    Clsact,
    /// XDP programs like linnet's.
    Xdp,
    /// Landlock at all.
    Landlock,
    /// Landlock's third version.
    LandlockTruncate,
    /// Its fourth.
    LandlockNetwork,
    /// Its fifth.
    LandlockIoctl,
    /// Its sixth.
    LandlockScopes,
    /// seccomp's filters.
    Seccomp,
}

/// What is said about one.
struct Row {
    name: &'static str,
    /// On x86-64 and on arm64.
    since: [Release; 2],
    cost: &'static str,
    instead: &'static str,
    detection: &'static str,
}

const fn both(major: u32, minor: u32) -> [Release; 2] {
    [Release::new(major, minor); 2]
}

/// Each level of Landlock has those before it.
const LANDLOCK: [Feature; 5] = [
    Feature::Landlock,
    Feature::LandlockTruncate,
    Feature::LandlockNetwork,
    Feature::LandlockIoctl,
    Feature::LandlockScopes,
];

/// Detection of all levels of Landlock.
const BY_VERSION: &str = "the kernel is asked for Landlock's version";

impl Feature {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::MapAccess,
        Self::VmlinuxBtf,
        Self::Tcx,
        Self::Clsact,
        Self::Xdp,
        Self::Landlock,
        Self::LandlockTruncate,
        Self::LandlockNetwork,
        Self::LandlockIoctl,
        Self::LandlockScopes,
        Self::Seccomp,
    ];

    const fn row(self) -> Row {
        match self {
            // Commit c8644cd0efe7 (bpf: refine kernel.unprivileged_bpf_disabled behaviour): before it every command
            // of bpf(2) was refused, where unprivileged BPF is off, as it is nearly everywhere.
            Self::MapAccess => Row {
                name: "map-access",
                since: both(5, 19),
                cost: "the daemon, which has no capabilities, cannot read the flow table",
                instead: "does not start",
                detection: "a thread without capabilities reads a map of one element",
            },
            // The verifier knows a program's context among the arguments of a global function by the kernel's own
            // types (`btf_get_prog_ctx_type` and `bpf_ctx_convert`, kernel/bpf/btf.c), and the doors have such
            // functions.
            Self::VmlinuxBtf => Row {
                name: "vmlinux-btf",
                since: both(5, 4),
                cost: "the verifier does not know the context that the programs' functions are given, and refuses them",
                instead: "does not start",
                detection: "`/sys/kernel/btf/vmlinux` is there (CONFIG_DEBUG_INFO_BTF)",
            },
            Self::Tcx => Row {
                name: "tcx",
                since: both(6, 6),
                cost: "other tools can remove linnet's filters with their qdisc, and a killed attacher leaves them behind",
                instead: "uses clsact where `auto` is asked for, and refuses `tcx`",
                detection: "the chain of `lo` is asked for",
            },
            Self::Clsact => Row {
                name: "clsact",
                since: both(4, 5),
                cost: "without TCX nothing can be watched but by XDP",
                instead: "refuses `clsact`",
                detection: "the qdisc is made in a network namespace of its own",
            },
            Self::Xdp => Row {
                name: "xdp",
                since: [Release::new(5, 18), Release::new(6, 0)],
                cost: "frames cannot be seen before the stack has them",
                instead: "refuses `xdp` and `xdp-generic`, which `auto` never needs",
                detection: "a small program with fragments, a function and a tail call is loaded",
            },
            Self::Landlock => Row {
                name: "landlock",
                since: both(5, 13),
                cost: "the daemon can open what its user can",
                instead: "leaves files to the daemon's user and its lack of capabilities",
                detection: BY_VERSION,
            },
            Self::LandlockTruncate => Row {
                name: "landlock-truncate",
                since: both(6, 2),
                cost: "Landlock does not judge truncate(2)",
                instead: "leaves that to seccomp, which refuses it",
                detection: BY_VERSION,
            },
            Self::LandlockNetwork => Row {
                name: "landlock-network",
                since: both(6, 7),
                cost: "Landlock does not judge TCP connections",
                instead: "leaves them to seccomp, which refuses new sockets",
                detection: BY_VERSION,
            },
            Self::LandlockIoctl => Row {
                name: "landlock-ioctl",
                since: both(6, 10),
                cost: "Landlock does not judge ioctl(2) on devices",
                instead: "leaves that to seccomp, which allows three harmless requests",
                detection: BY_VERSION,
            },
            Self::LandlockScopes => Row {
                name: "landlock-scopes",
                since: both(6, 12),
                cost: "the daemon can send signals to other processes of its user",
                instead: "leaves that to the choice of a user that has no others",
                detection: BY_VERSION,
            },
            Self::Seccomp => Row {
                name: "seccomp",
                since: both(3, 5),
                cost: "the daemon can make every system call that its user can",
                instead: "leaves it to the daemon's user, its lack of capabilities, and Landlock",
                detection: "`/proc/sys/kernel/seccomp/actions_avail` names `errno`",
            },
        }
    }

    /// As in the configuration and in messages.
    #[must_use]
    pub const fn name(self) -> &'static str {
        self.row().name
    }

    /// First release of Linux with it, on this architecture.
    #[must_use]
    pub const fn since(self) -> Release {
        let [x86_64, arm64] = self.row().since;
        if cfg!(target_arch = "aarch64") { arm64 } else { x86_64 }
    }

    /// The same on x86-64 and on arm64.
    #[must_use]
    pub const fn since_by_architecture(self) -> [Release; 2] {
        self.row().since
    }

    /// What its absence costs.
    #[must_use]
    pub const fn cost(self) -> &'static str {
        self.row().cost
    }

    /// What linnet does instead.
    #[must_use]
    pub const fn instead(self) -> &'static str {
        self.row().instead
    }

    /// How it is found.
    #[must_use]
    pub const fn detection(self) -> &'static str {
        self.row().detection
    }

    /// Whether linnet does not start without it.
    #[must_use]
    pub const fn is_needed(self) -> bool {
        matches!(self, Self::MapAccess | Self::VmlinuxBtf)
    }

    /// Whether it confines the daemon, which then says what it lacks of it.
    #[must_use]
    pub fn is_of_the_sandbox(self) -> bool {
        self == Self::Seccomp || LANDLOCK.contains(&self)
    }

    /// The version of Landlock that has it.
    #[must_use]
    pub const fn landlock_version(self) -> Option<u32> {
        match self {
            Self::Landlock => Some(1),
            Self::LandlockTruncate => Some(3),
            Self::LandlockNetwork => Some(4),
            Self::LandlockIoctl => Some(5),
            Self::LandlockScopes => Some(6),
            Self::MapAccess
            | Self::VmlinuxBtf
            | Self::Tcx
            | Self::Clsact
            | Self::Xdp
            | Self::Seccomp => None,
        }
    }

    /// What has to be there for it to be there: itself, and for a level of Landlock those before it.
    pub(super) fn with_what_it_needs(self) -> &'static [Self] {
        match LANDLOCK.iter().position(|level| *level == self) {
            Some(level) => &LANDLOCK[..=level],
            None => {
                Self::ALL.iter().find(|known| **known == self).map_or(&[], std::slice::from_ref)
            }
        }
    }

    /// A sentence about its absence, for logs and notices.
    #[must_use]
    pub fn absence(self, why: &str) -> String {
        format!("this kernel lacks {self} ({why}): {}; linnet {}", self.cost(), self.instead())
    }
}

/// A name that no feature has.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no feature of a kernel; known are {names}", names = Feature::ALL.map(Feature::name).join(", "))]
pub struct NoFeature(pub String);

impl FromStr for Feature {
    type Err = NoFeature;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let found = Self::ALL.into_iter().find(|feature| feature.name() == text);
        found.ok_or_else(|| NoFeature(text.to_owned()))
    }
}

impl fmt::Display for Feature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_found_by_its_name_and_no_other() {
        for feature in Feature::ALL {
            assert_eq!(feature.name().parse(), Ok(feature));
            assert!(feature.with_what_it_needs().ends_with(&[feature]));
        }
        let error = "tcxx".parse::<Feature>().unwrap_err().to_string();
        assert!(error.contains("`tcxx`") && error.contains("tcx, clsact"), "{error}");
    }

    #[test]
    fn a_level_of_landlock_needs_those_before_it() {
        let needs = Feature::LandlockNetwork.with_what_it_needs();
        assert_eq!(needs, &LANDLOCK[..3]);
        let versions = LANDLOCK.map(|level| level.landlock_version().unwrap());
        assert!(versions.is_sorted() && LANDLOCK.map(Feature::since).is_sorted());
    }
}
