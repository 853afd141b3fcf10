//! Landlock: the daemon's own folders to write to, and a few files to read. No connection, no signal to others.

use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access as _, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible as _, PathBeneath,
    PathFd, Ruleset, RulesetAttr as _, RulesetCreatedAttr as _, RulesetError, RulesetStatus, Scope,
};

/// What is asked for; an older kernel gives what it has.
const WANTED: ABI = ABI::V6;
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
pub(super) fn restrict(folders: &[PathBuf]) -> Vec<String> {
    match enforce(folders) {
        Ok(RulesetStatus::FullyEnforced) => Vec::new(),
        Ok(RulesetStatus::PartiallyEnforced) => {
            vec!["this kernel's Landlock is older than 6.12's: the daemon's files are confined, its connections or signals are not, by it".to_owned()]
        }
        Ok(RulesetStatus::NotEnforced) => {
            vec!["this kernel has no Landlock (5.13 and later, and `lsm=landlock`): the daemon can open what its user can".to_owned()]
        }
        Err(error) => vec![format!("Landlock does not confine the daemon: {error}")],
    }
}

fn enforce(folders: &[PathBuf]) -> Result<RulesetStatus, RulesetError> {
    let read = AccessFs::ReadFile | AccessFs::ReadDir;
    let own = (AccessFs::from_all(WANTED)
        & !(AccessFs::Execute | AccessFs::MakeChar | AccessFs::MakeBlock | AccessFs::IoctlDev))
        | read;
    let mut rules = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(WANTED))?
        .handle_access(AccessNet::from_all(WANTED))?
        .scope(Scope::from_all(WANTED))?
        .create()?;
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
