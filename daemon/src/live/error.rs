//! Everything that can go wrong with the kernel, each with what to do about it.

use std::{io, path::PathBuf};

use crate::kernel::Feature;

use super::{
    verb::Hook,
    wire::{Refusal, RefusalKind, WireError},
};

/// A failure of the privileged side.
#[derive(Debug, thiserror::Error)]
pub enum LiveError {
    /// The programs were not built into this binary.
    #[error(
        "the kernel programs are not built into this linnet: {0}; run `cargo xtask setup`, then build again"
    )]
    NotBuilt(&'static str),
    /// The filters of captures cannot be put into the kernel.
    #[error(transparent)]
    Filters(#[from] super::filters::FiltersError),
    /// Not allowed.
    #[error("cannot {what}: {source}; run as root, or with CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON")]
    Privilege {
        /// What was tried.
        what: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// A socket of the AF_PACKET source cannot be had.
    #[error(
        "cannot open an AF_PACKET socket on `{interface}`: {source}; run as root, or with CAP_NET_RAW"
    )]
    PacketSocket {
        /// The interface.
        interface: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// More interfaces than the AF_PACKET source can read.
    #[error(
        "{count} interfaces are more than the {max} that can be read by AF_PACKET sockets; choose some with --interface"
    )]
    TooManySockets {
        /// How many.
        count: usize,
        /// The most.
        max: usize,
    },
    /// The namespace does not exist.
    #[error(
        "cannot enter the network namespace `{name}`: {source}; `ip netns list` and `lsns -t net` show what there is"
    )]
    Namespace {
        /// Its name.
        name: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// The interface does not exist.
    #[error("there is no interface `{0}`; `ip -br link` shows what there is")]
    NoInterface(String),
    /// The interfaces of a namespace could not be listed.
    #[error("cannot follow the interfaces of the namespace `{namespace}`: {source}")]
    Links {
        /// Its name.
        namespace: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// The interface index does not fit the point table.
    #[error(
        "the index {ifindex} of `{interface}` is beyond {max}, the greatest that linnet can watch"
    )]
    IndexTooGreat {
        /// The interface.
        interface: String,
        /// Its index.
        ifindex: u32,
        /// [`datapath::layout::IFINDEX_MAX`].
        max: u32,
    },
    /// No observation point is left.
    #[error("all {max} observation points are in use; choose the interfaces with --interface")]
    NoPointLeft {
        /// [`datapath::layout::POINTS_MAX`] less the reserved one.
        max: u32,
    },
    /// An object could not be loaded.
    #[error("cannot load the {object} programs: {source}")]
    Load {
        /// `xdp` or `tc`.
        object: &'static str,
        /// What aya or the kernel said.
        source: aya::EbpfError,
    },
    /// A program was refused.
    #[error(
        "the kernel refused the program `{program}`: {source}; `linnet doctor` shows what this kernel has"
    )]
    Program {
        /// Its name.
        program: &'static str,
        /// What aya or the verifier said.
        source: aya::programs::ProgramError,
    },
    /// A program could not be attached.
    #[error("cannot attach {hook} to `{interface}`: {source}; {remedy}")]
    Attach {
        /// Where to.
        hook: Hook,
        /// Which interface.
        interface: String,
        /// What aya or the kernel said.
        source: aya::programs::ProgramError,
        /// What to do.
        remedy: &'static str,
    },
    /// A hook needs what the kernel is known not to have.
    #[error(
        "cannot attach {hook} to `{interface}`: this kernel lacks {feature} ({why}); {remedy}, and see `linnet doctor`"
    )]
    Lacking {
        /// What is missing.
        feature: Feature,
        /// Where to.
        hook: Hook,
        /// Which interface.
        interface: String,
        /// Why it is known to be missing.
        why: String,
        /// What to do.
        remedy: &'static str,
    },
    /// The tracker's place in a TCX chain could not be named.
    #[error(
        "cannot find the tracker in the tcx chain of `{interface}`: {source}; it may have been detached by another tool"
    )]
    Chain {
        /// Which interface.
        interface: String,
        /// What aya said.
        source: aya::programs::links::LinkError,
    },
    /// A map of the object is missing or of another type.
    #[error("the object has no usable map `{name}`: {source}")]
    Map {
        /// Its name.
        name: &'static str,
        /// What aya said.
        source: aya::maps::MapError,
    },
    /// A map of the object is missing.
    #[error("the object has no `{0}`; it was built from other sources than this binary")]
    Missing(&'static str),
    /// The BPF file system is not there and could not be mounted.
    #[error(
        "`{path}` is not on a BPF file system and it cannot be mounted: {source}; mount -t bpf bpf /sys/fs/bpf"
    )]
    BpfFs {
        /// The folder for pins.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The folder cannot hold pins, so that nothing in it is linnet's.
    #[error(
        "`{path}` is not on a BPF file system, so that it holds no pins; name the folder of the daemon's --pin-dir"
    )]
    NotPins {
        /// The folder.
        path: PathBuf,
    },
    /// The folder is no place for pins.
    #[error(
        "`{path}` is not used for pinned maps: {problem}; remove it, or name a folder of root's with --pin-dir"
    )]
    PinFolder {
        /// The folder for pins.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// The qdisc could not be removed.
    #[error(
        "cannot remove the clsact qdisc of `{interface}`: {source}; tc qdisc del dev NAME clsact"
    )]
    Qdisc {
        /// The interface.
        interface: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// An interface's name is no text.
    #[error(
        "interface {ifindex} has a name that is no UTF-8: `{name}`; rename it with `ip link set`"
    )]
    Name {
        /// Its index.
        ifindex: u32,
        /// Its name, escaped.
        name: String,
    },
    /// Another daemon has the pins.
    #[error(
        "another linnet (pid {pid}) uses `{path}`; stop it, or give this one a --pin-dir of its own"
    )]
    InUse {
        /// The folder for pins.
        path: PathBuf,
        /// Its process, as far as known.
        pid: String,
    },
    /// A file of ours could not be read or written.
    #[error("cannot {what} `{path}`: {source}")]
    File {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// A `bpf(2)` call failed.
    #[error("{call} on `{map}` failed: {source}")]
    Syscall {
        /// Which command.
        call: &'static str,
        /// Which map.
        map: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// More rules than fit.
    #[error("{count} rules are more than the {max} that can be in force; join some")]
    TooManyRules {
        /// How many.
        count: usize,
        /// [`datapath::layout::RULES_MAX`].
        max: usize,
    },
    /// A rule is for an interface that is not watched.
    #[error("`{interface}` is not watched, so that no rule can be for it; {watched}")]
    RuleInterface {
        /// The rule's place in the list, from 0.
        rule: usize,
        /// What it names.
        interface: String,
        /// What is.
        watched: String,
    },
    /// The attacher refused what the daemon asked for.
    #[error("{}", .0.message)]
    Refused(Refusal),
    /// What came over the socket between attacher and daemon cannot be read.
    #[error("attacher and daemon do not understand each other: {0}; restart linnet")]
    Wire(#[from] WireError),
    /// The attacher cannot be asked.
    #[error(
        "the attacher does not answer ({0}); start `linnet run` again, which goes on with this daemon"
    )]
    Attacher(io::Error),
    /// A link cannot be pinned.
    #[error("cannot pin a link at `{path}`: {source}; `ls -l` shows what is there")]
    PinLink {
        /// Where.
        path: PathBuf,
        /// What aya says.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The attacher lives and does not answer.
    #[error(
        "the attacher does not answer in time; see whether its process is stopped, or its machine too busy"
    )]
    Slow,
    /// There is no such observation point.
    #[error("there is no observation point {0}")]
    NoPoint(u32),
}

impl LiveError {
    /// Whether there is no attacher that could do anything now.
    #[must_use]
    pub const fn is_of_the_attacher(&self) -> bool {
        matches!(self, Self::Attacher(_) | Self::Slow)
    }

    /// Whether other interfaces can be watched all the same.
    #[must_use]
    pub const fn is_of_one_interface(&self) -> bool {
        matches!(
            self,
            Self::NoInterface(_)
                | Self::IndexTooGreat { .. }
                | Self::NoPointLeft { .. }
                | Self::Attach { .. }
                | Self::Lacking { .. }
                | Self::Refused(Refusal { kind: RefusalKind::OneInterface, .. })
        )
    }

    /// The rule that is at fault, by its place in the list.
    #[must_use]
    pub const fn rule(&self) -> Option<usize> {
        if let Self::RuleInterface { rule, .. } = self {
            return Some(*rule);
        }
        if let Self::Refused(Refusal { rule: Some(rule), .. }) = self {
            return Some(*rule as usize);
        }
        None
    }

    /// Whether more privileges would help.
    #[must_use]
    pub fn is_privilege(&self) -> bool {
        matches!(
            self,
            Self::Privilege { .. } | Self::Refused(Refusal { kind: RefusalKind::Privilege, .. })
        )
    }
}
