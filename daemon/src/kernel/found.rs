//! Whether the running kernel has a feature, found by trying it, or by asking for it where that says as much. Must never
//! change anything.

use std::{fs, io, path::Path};

use super::{Feature, Release};
use crate::live::probe;

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// It is there.
    Present,
    /// It is not, for this reason.
    Missing(String),
    /// It could not be tried, for this reason.
    Unknown(String),
}

/// Whether bpf(2) is refused to those without capabilities: 0 is no.
const UNPRIVILEGED: &str = "/proc/sys/kernel/unprivileged_bpf_disabled";
/// What seccomp can do.
const ACTIONS: &str = "/proc/sys/kernel/seccomp/actions_avail";
/// The kernel's own types, and a folder that is there wherever they could be.
const BTF: &str = "/sys/kernel/btf/vmlinux";
const SYSFS: &str = "/sys/kernel";
const SYSCTLS: &str = "/proc/sys/kernel";

impl Found {
    /// Looks for one. The release is this kernel's, where it has one that can be read.
    pub(super) fn of(feature: Feature, release: Option<Release>) -> Self {
        match feature {
            Feature::MapAccess => map_access(release),
            Feature::VmlinuxBtf if Path::new(BTF).exists() => Self::Present,
            Feature::VmlinuxBtf if Path::new(SYSFS).exists() => {
                Self::Missing(format!("there is no `{BTF}`"))
            }
            Feature::VmlinuxBtf => Self::Unknown("there is no `/sys` here".to_owned()),
            Feature::Tcx => Self::tried(probe::tcx(), "it knows no such chain"),
            Feature::Clsact => Self::tried(probe::clsact(), "it cannot make the qdisc"),
            Feature::Xdp => Self::tried(probe::xdp(), "it refuses a program of that shape"),
            Feature::Landlock
            | Feature::LandlockTruncate
            | Feature::LandlockNetwork
            | Feature::LandlockIoctl
            | Feature::LandlockScopes => landlock(feature.landlock_version().unwrap_or_default()),
            Feature::Seccomp => seccomp(),
        }
    }

    fn tried(tried: io::Result<bool>, why_not: &str) -> Self {
        match tried {
            Ok(true) => Self::Present,
            Ok(false) => Self::Missing(why_not.to_owned()),
            Err(error) => Self::Unknown(format!("it cannot be tried: {error}")),
        }
    }
}

fn map_access(release: Option<Release>) -> Found {
    let refused = Found::tried(probe::map_access(), "it refuses the reading of maps");
    let is_open = fs::read_to_string(UNPRIVILEGED).is_ok_and(|text| text.trim() == "0");
    // Then older kernels allow it as well, until somebody turns that off.
    let may_be_older = release.is_none_or(|release| release < Feature::MapAccess.since());
    if refused == Found::Present && is_open && may_be_older {
        return Found::Unknown(format!("`{UNPRIVILEGED}` is 0, under which each kernel allows it"));
    }
    refused
}

fn seccomp() -> Found {
    match fs::read_to_string(ACTIONS) {
        Ok(actions) if actions.split_whitespace().any(|action| action == "errno") => Found::Present,
        Ok(_) => Found::Missing("it cannot refuse a call with an error".to_owned()),
        Err(error) if error.kind() == io::ErrorKind::NotFound && Path::new(SYSCTLS).exists() => {
            Found::Missing(format!("there is no `{ACTIONS}`"))
        }
        Err(error) => Found::Unknown(format!("`{ACTIONS}` cannot be read: {error}")),
    }
}

fn landlock(wanted: u32) -> Found {
    match landlock_version() {
        Ok(version) if version >= wanted => Found::Present,
        Ok(version) => Found::Missing(format!("its Landlock is of version {version}")),
        Err(why) => Found::Missing(why),
    }
}

/// The kernel's version of Landlock, or why it has none.
pub fn landlock_version() -> Result<u32, String> {
    probe::landlock_version().map_err(|error| match error.raw_os_error() {
        Some(libc::EOPNOTSUPP) => "Landlock is built in and not in the list `lsm=`".to_owned(),
        Some(libc::ENOSYS) => "it was built without Landlock".to_owned(),
        _ => format!("it does not say its version of Landlock: {error}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_tried_is_not_said_to_be_missing() {
        let refused = io::Error::from_raw_os_error(libc::EPERM);
        let found = Found::tried(Err(refused), "never said");
        assert!(
            matches!(&found, Found::Unknown(why) if why.contains("not permitted")),
            "{found:?}"
        );
        assert_eq!(Found::tried(Ok(false), "so"), Found::Missing("so".to_owned()));
        assert_eq!(Found::tried(Ok(true), "so"), Found::Present);
    }
}
