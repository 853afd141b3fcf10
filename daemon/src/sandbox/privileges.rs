//! Users and capabilities: who the daemon becomes, and what the attacher keeps.

use caps::{CapSet, Capability, CapsHashSet};
use nix::{
    sys::{
        prctl,
        stat::{Mode, umask},
    },
    unistd::{
        Gid, Group, Uid, User, getegid, geteuid, getgrouplist, setgroups, setresgid, setresuid,
    },
};
use rustix::process::{Resource, Rlimit, setrlimit};

/// The user of the daemon where none is configured, and the group of its socket.
pub const USER_DEFAULT: &str = "linnet";

/// A configured user that does not exist.
#[derive(Debug, thiserror::Error)]
#[error("there is no user `{0}`; make it (useradd --system {0}), or name another one with `user`")]
pub struct NoSuchUser(pub String);

/// Who the daemon becomes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Its user.
    pub uid: Uid,
    /// Its group.
    pub gid: Gid,
    groups: Vec<Gid>,
    /// What is not as it should be.
    shortcoming: Option<String>,
}

impl Identity {
    /// The configured user. The default one may be missing: then the daemon keeps this process's user, and nothing of
    /// what makes that powerful.
    pub fn of(name: &str) -> Result<Self, NoSuchUser> {
        let shared = Group::from_name(USER_DEFAULT).ok().flatten().map(|group| group.gid);
        let own = |shortcoming: String| Self {
            uid: geteuid(),
            gid: getegid(),
            groups: shared.into_iter().collect(),
            shortcoming: Some(shortcoming),
        };
        let Some(user) = User::from_name(name).ok().flatten() else {
            if name != USER_DEFAULT {
                return Err(NoSuchUser(name.to_owned()));
            }
            return Ok(own(format!(
                "the daemon keeps uid {}, without capabilities: there is no user `{name}`; make it (useradd --system {name})",
                geteuid()
            )));
        };
        if !geteuid().is_root() && user.uid != geteuid() {
            return Ok(own(format!(
                "the daemon keeps uid {}: only root can start it as `{name}`",
                geteuid()
            )));
        }
        let name = std::ffi::CString::new(name).map_err(|_| NoSuchUser(name.to_owned()))?;
        let mut groups = getgrouplist(&name, user.gid).unwrap_or_else(|_| vec![user.gid]);
        groups.extend(shared.filter(|gid| !groups.contains(gid)));
        Ok(Self { uid: user.uid, gid: user.gid, groups, shortcoming: None })
    }
}

/// Becomes that user and gives every capability up, for good. Returns what could not be done.
pub(super) fn give_up(identity: &Identity) -> Vec<String> {
    let mut lacks: Vec<_> = identity.shortcoming.clone().into_iter().collect();
    let mut tried = |what: &str, done: Result<(), String>| {
        if let Err(error) = done {
            lacks.push(format!("the daemon could not {what}: {error}"));
        }
    };
    let text = |errno: nix::errno::Errno| errno.to_string();
    tried("empty its bounding set", clear(CapSet::Bounding));
    if geteuid().is_root() {
        let Identity { uid, gid, .. } = *identity;
        tried("set its groups", setgroups(&identity.groups).map_err(text));
        tried("change its group", setresgid(gid, gid, gid).map_err(text));
        tried("change its user", setresuid(uid, uid, uid).map_err(text));
    }
    for set in [CapSet::Ambient, CapSet::Inheritable, CapSet::Effective, CapSet::Permitted] {
        tried("give its capabilities up", clear(set));
    }
    tried("refuse new privileges", prctl::set_no_new_privs().map_err(text));
    tried("close its memory to others", prctl::set_dumpable(false).map_err(text));
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    tried("refuse core dumps", setrlimit(Resource::Core, none).map_err(|errno| errno.to_string()));
    umask(Mode::from_bits_truncate(0o027));
    lacks
}

/// Whether nothing is left of what this process was started with: no kernel lacks that.
pub(super) fn is_powerless(identity: &Identity) -> bool {
    let sets = [CapSet::Ambient, CapSet::Inheritable, CapSet::Effective, CapSet::Permitted];
    let is_empty = |set| caps::read(None, set).is_ok_and(|held| held.is_empty());
    geteuid() == identity.uid && sets.into_iter().all(is_empty)
}

fn clear(set: CapSet) -> Result<(), String> {
    match caps::read(None, set) {
        Ok(held) if held.is_empty() => Ok(()),
        _ => caps::clear(None, set).map_err(|error| error.to_string()),
    }
}

/// What an attacher still does once it has attached, or opened its sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Needs {
    /// It changes programs and maps.
    Programs {
        /// In other network namespaces, too.
        namespaces: bool,
    },
    /// It hands sockets over.
    Sockets,
}

/// Gives up what the attacher does not need from here on: what is left is for its daemon's user, and for BPF and other
/// namespaces where it has to do with them. Returns what could not be done.
pub fn keep_what_the_attacher_needs(needs: Needs) -> Vec<String> {
    // To start a daemon as its user, without capabilities, and to end it.
    let mut keep: CapsHashSet = [
        Capability::CAP_SETUID,
        Capability::CAP_SETGID,
        Capability::CAP_SETPCAP,
        Capability::CAP_KILL,
    ]
    .into();
    if let Needs::Programs { namespaces } = needs {
        keep.extend([Capability::CAP_BPF, Capability::CAP_NET_ADMIN, Capability::CAP_PERFMON]);
        if namespaces {
            keep.insert(Capability::CAP_SYS_ADMIN);
        }
    }
    let mut lacks = Vec::new();
    let mut failed = |error: caps::errors::CapsError| {
        lacks.push(format!("the attacher keeps capabilities that it does not need: {error}"));
    };
    match caps::read(None, CapSet::Bounding) {
        Ok(bounding) => {
            let dropped = bounding.difference(&keep);
            let done = dropped.map(|cap| caps::drop(None, CapSet::Bounding, *cap));
            done.filter_map(Result::err).take(1).for_each(&mut failed);
        }
        Err(error) => failed(error),
    }
    for set in [CapSet::Effective, CapSet::Permitted] {
        let held = caps::read(None, set).unwrap_or_default();
        let kept = held.intersection(&keep).copied().collect();
        if let Err(error) = caps::set(None, set, &kept) {
            failed(error);
        }
    }
    lacks
}
