//! Landlock: the daemon's own folders to write to, and a few files to read. No connection, no signal to others.

use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access as _, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible as _, PathBeneath,
    PathFd, Ruleset, RulesetAttr as _, RulesetCreatedAttr as _, RulesetError, RulesetStatus, Scope,
};

use crate::kernel::{Feature, Pretence, landlock_version};

/// What is asked for, with the feature that each version brought; an older kernel gives what it has.
const LEVELS: [(Feature, ABI); 6] = [
    (Feature::Landlock, ABI::V1),
    // linnet needs nothing of the second one.
    (Feature::Landlock, ABI::V2),
    (Feature::LandlockTruncate, ABI::V3),
    (Feature::LandlockNetwork, ABI::V4),
    (Feature::LandlockIoctl, ABI::V5),
    (Feature::LandlockScopes, ABI::V6),
];
/// What has to be readable. Those that are not there are left out. A file that is replaced later, as `groupadd` does,
/// cannot be read any more: then nobody is a member of the socket's group until the daemon starts again.
const READABLE: [&str; 11] = [
    // The kernel's number of CPUs, for what it keeps per CPU.
    "/sys/devices/system/cpu",
    "/proc/sys/kernel/random/boot_id",
    // Who is at the other end of the socket.
    "/etc/passwd",
    "/etc/group",
    "/etc/nsswitch.conf",
    // Names in capture filters.
    "/etc/hosts",
    "/etc/services",
    "/etc/protocols",
    "/etc/networks",
    "/etc/host.conf",
    "/etc/ethers",
];

/// Enters it, for good; returns what the kernel lacks.
pub(super) fn restrict(folders: &[PathBuf], pretence: &Pretence) -> Vec<String> {
    let (wanted, mut lacks) = match reach(pretence, &landlock_version()) {
        (Some(wanted), lacks) => (wanted, lacks),
        (None, lacks) => return lacks,
    };
    match enforce(folders, wanted) {
        Ok(RulesetStatus::FullyEnforced) => {}
        Ok(RulesetStatus::PartiallyEnforced | RulesetStatus::NotEnforced) => {
            lacks.push("this kernel's Landlock does less than its version promises: the daemon may open what its user can".to_owned());
        }
        Err(error) => lacks.push(format!("Landlock does not confine the daemon: {error}")),
    }
    lacks
}

/// How much of it can be had, and a sentence for each level that cannot; without the first the others go unsaid.
fn reach(pretence: &Pretence, version: &Result<u32, String>) -> (Option<ABI>, Vec<String>) {
    let (mut wanted, mut lacks) = (None, Vec::new());
    for (number, (feature, level)) in (1..).zip(LEVELS) {
        let absent = match version {
            Err(why) => Some(why.clone()),
            Ok(version) if *version < number => {
                Some(format!("its Landlock is of version {version}"))
            }
            Ok(_) => None,
        };
        match pretence.denies(feature).or(absent) {
            None => wanted = Some(level),
            // Of the second version nothing is missed.
            Some(_) if feature == Feature::Landlock && wanted.is_some() => {}
            Some(why) => lacks.push(feature.absence(&why)),
        }
        if wanted.is_none() {
            break;
        }
    }
    (wanted, lacks)
}

fn enforce(folders: &[PathBuf], wanted: ABI) -> Result<RulesetStatus, RulesetError> {
    let read = AccessFs::ReadFile | AccessFs::ReadDir;
    let own = (AccessFs::from_all(wanted)
        & !(AccessFs::Execute | AccessFs::MakeChar | AccessFs::MakeBlock | AccessFs::IoctlDev))
        | read;
    let mut rules = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(wanted))?;
    // None is not the same as an empty set of them, which is a mistake.
    let (network, scopes) = (AccessNet::from_all(wanted), Scope::from_all(wanted));
    if !network.is_empty() {
        rules = rules.handle_access(network)?;
    }
    if !scopes.is_empty() {
        rules = rules.scope(scopes)?;
    }
    let mut rules = rules.create()?;
    for folder in folders {
        if let Some(rule) = beneath(folder, own) {
            rules = rules.add_rule(rule)?;
        }
    }
    for path in READABLE.map(Path::new) {
        let access = if path.is_dir() { read } else { AccessFs::ReadFile.into() };
        if let Some(rule) = beneath(path, access) {
            rules = rules.add_rule(rule)?;
        }
    }
    Ok(rules.restrict_self()?.ruleset)
}

fn beneath(path: &Path, access: BitFlags<AccessFs>) -> Option<PathBeneath<PathFd>> {
    PathFd::new(path).ok().map(|fd| PathBeneath::new(fd, access))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_be_had_is_what_the_kernel_has_and_the_configuration_allows() {
        let none = Pretence::default();
        let without = |feature| Pretence { without: vec![feature], release: None };
        let cases = [
            (&none, Ok(7), Some(ABI::V6), 0),
            (&none, Ok(6), Some(ABI::V6), 0),
            (&none, Ok(4), Some(ABI::V4), 2),
            (&none, Ok(2), Some(ABI::V2), 4),
            (&none, Ok(1), Some(ABI::V1), 4),
            (&none, Err("not built in".to_owned()), None, 1),
            (&without(Feature::Landlock), Ok(7), None, 1),
            (&without(Feature::LandlockTruncate), Ok(7), Some(ABI::V2), 4),
            (&without(Feature::LandlockNetwork), Ok(7), Some(ABI::V3), 3),
            (&without(Feature::LandlockScopes), Ok(7), Some(ABI::V5), 1),
            (&without(Feature::Tcx), Ok(7), Some(ABI::V6), 0),
        ];
        for (pretence, version, wanted, lacks) in cases {
            let (reached, said) = reach(pretence, &version);
            assert_eq!(
                (reached, said.len()),
                (wanted, lacks),
                "{pretence:?}, {version:?}: {said:?}"
            );
        }
    }
}
