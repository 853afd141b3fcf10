//! Everything that can go wrong while building, using or removing a lab. Never holds a bare string:
//! each variant says what, on what, why, and what to do.

use std::io;
use std::path::PathBuf;

/// Errors of namespaces, topology and relay.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LabError {
    /// The plan asks for something impossible or outside its limits.
    #[error("cannot use the plan: `{field}` {problem}")]
    Plan {
        /// The field of [`crate::Plan`] or [`crate::Impairment`].
        field: &'static str,
        /// What is wrong with it and what is allowed.
        problem: String,
    },
    /// The process may not create network namespaces.
    #[error(
        "cannot create a network namespace: {source}; run as root with CAP_SYS_ADMIN and CAP_NET_ADMIN"
    )]
    Privilege {
        /// The kernel's answer.
        source: io::Error,
    },
    /// A namespace file could not be made, entered or removed.
    #[error(
        "cannot {action} network namespace `{name}`: {source}; see `ip netns list` and `lab reap`"
    )]
    Namespace {
        /// What was tried.
        action: &'static str,
        /// Its name under /run/netns.
        name: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The folder of namespace files is not usable.
    #[error("cannot prepare `{}`: {source}; it must be a folder on which root may mount", path.display())]
    NamespaceFolder {
        /// Normally /run/netns.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A thread could not be started.
    #[error("cannot start thread `{name}`: {source}")]
    Thread {
        /// The thread's name.
        name: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A program the lab needs is absent.
    #[error("cannot run `{program}`: {source}; install {package}")]
    Program {
        /// The program.
        program: &'static str,
        /// The Debian package that holds it.
        package: &'static str,
        /// Why it did not start.
        source: io::Error,
    },
    /// A program the lab needs ran and failed.
    #[error("`{program}` failed in `{namespace}` ({status}): {stderr}")]
    ProgramFailed {
        /// The program.
        program: &'static str,
        /// The namespace it ran in.
        namespace: String,
        /// Its exit status.
        status: std::process::ExitStatus,
        /// What it said.
        stderr: String,
    },
    /// An interface refused a setting.
    #[error(
        "cannot set {feature} on `{interface}`: {source}; the lab needs veth interfaces of kernel 5.13 or later"
    )]
    Offload {
        /// The offload.
        feature: &'static str,
        /// The interface.
        interface: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A kernel setting of a namespace could not be written.
    #[error(
        "cannot write `{value}` to `{path}` in `{namespace}`: {source}; mount /proc/sys writable"
    )]
    Sysctl {
        /// The file.
        path: String,
        /// What was written.
        value: &'static str,
        /// The namespace.
        namespace: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A packet socket of the relay could not be made.
    #[error("cannot {action} on `{interface}`: {source}; packet sockets need CAP_NET_RAW")]
    PacketSocket {
        /// What was tried.
        action: &'static str,
        /// The interface.
        interface: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The relay's wake-up descriptor could not be made.
    #[error(
        "cannot make the wake-up descriptor of the relay: {source}; raise the limit on open files"
    )]
    WakeUp {
        /// The kernel's answer.
        source: io::Error,
    },
    /// tcpdump did not begin to capture.
    #[error("tcpdump did not begin to capture on `{interface}` within {waited_ms} ms: {stderr}")]
    CaptureStart {
        /// The interface.
        interface: String,
        /// How long the lab waited.
        waited_ms: u64,
        /// What tcpdump said so far.
        stderr: String,
    },
    /// tcpdump could not be stopped or its answer not read.
    #[error("cannot stop tcpdump on `{interface}`: {source}")]
    CaptureStop {
        /// The interface.
        interface: String,
        /// The kernel's answer.
        source: io::Error,
    },
}
