//! What keeps the daemon from everything that it does not need: another user, no capabilities, Landlock, seccomp. All
//! of it is a thread's own, so it is entered by the only thread, before there is a runtime.

mod acts;
mod filesystem;
pub mod folders;
mod privileges;
mod syscalls;

use std::path::PathBuf;

use crate::kernel::{Feature, Pretence};

pub use acts::{Act, Verdict};
pub use privileges::{Identity, Needs, NoSuchUser, USER_DEFAULT, keep_what_the_attacher_needs};

/// What to do where the kernel lacks a part of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// Goes on with what there is, and says so.
    #[default]
    BestEffort,
    /// Ends the start.
    Strict,
}

/// One of its layers, in the order in which they are entered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layer {
    /// Another user, and no capabilities.
    Privileges,
    /// Landlock.
    Landlock,
    /// seccomp.
    Seccomp,
}

impl Layer {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Privileges, Self::Landlock, Self::Seccomp];

    /// As in messages.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Privileges => "user and capabilities",
            Self::Landlock => "Landlock",
            Self::Seccomp => "seccomp",
        }
    }
}

/// Who the daemon is, and which folders are its own.
#[derive(Clone, Debug)]
pub struct Policy {
    /// Its user and groups.
    pub identity: Identity,
    /// Folders that it may write to.
    pub folders: Vec<PathBuf>,
    /// What is to be treated as missing.
    pub pretence: Pretence,
}

impl Policy {
    /// Enters one layer, for good; returns what the kernel lacks of it.
    pub fn enter(&self, layer: Layer) -> Vec<String> {
        match layer {
            Layer::Privileges => privileges::give_up(&self.identity),
            Layer::Landlock => filesystem::restrict(&self.folders, &self.pretence),
            Layer::Seccomp => match self.pretence.denies(Feature::Seccomp) {
                Some(why) => vec![Feature::Seccomp.absence(&why)],
                None => syscalls::restrict(),
            },
        }
    }

    /// Whether the daemon is who it should be, and has no capability; no kernel lacks that.
    #[must_use]
    pub fn is_powerless(&self) -> bool {
        privileges::is_powerless(&self.identity)
    }

    /// To be done before: loads what is needed inside and would be loaded at its first use.
    pub fn prepare() {
        // The handle stays, so that the library does.
        std::mem::forget(captures::Libpcap::load());
        // The name service loads what it was told to use.
        let _warm = nix::unistd::User::from_name("root");
        let _warm = nix::unistd::Group::from_name("root");
    }
}

/// What can be done from in here that must not be: a sentence for each.
#[must_use]
pub fn leaks() -> Vec<String> {
    let allowed = Act::ALL.into_iter().filter(|act| act.attempt() == Verdict::Allowed);
    allowed
        .map(|act| format!("the sandbox does not keep the daemon from this: {}", act.name()))
        .collect()
}
