//! Which interfaces the AF_PACKET source reads, and the sockets on them, opened while there is the privilege for it; and
//! when this source takes eBPF's place. Reads no packet.

use std::{collections::BTreeSet, io};

use datapath::Link;
use nix::errno::Errno;
use pnet::datalink;

use super::PacketSocket;
use crate::live::{
    LiveError, batch,
    links::Interface,
    namespace,
    verb::{EgressChoice, IngressChoice},
    wanted::{WatchRequest, choose},
};

/// Sockets that fit into the message to the daemon: the kernel takes 253 descriptors at once.
const SOCKETS_MAX: usize = 240;

/// An interface that is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PacketInterface {
    /// `[NAMESPACE/]NAME`, as it was when its socket was opened.
    pub name: String,
    /// Its namespace, where that is not linnet's own.
    pub namespace: Option<String>,
    /// Its index there.
    pub ifindex: u32,
    /// What its frames start with.
    pub link: Link,
    /// Whether what it receives, and what it sends, is watched.
    pub ways: [bool; 2],
}

/// An interface with its socket.
#[derive(Debug)]
pub struct Opened {
    /// The interface.
    pub interface: PacketInterface,
    /// The socket.
    pub socket: PacketSocket,
}

/// Least room of a socket, where there is as much for all.
const ROOM_MIN: u32 = 1 << 20;

/// Opens a socket on every interface that is wanted, with an equal share of so many bytes each, but not less than
/// `ROOM_MIN` unless there is less for all. What is named and is not there is refused.
pub fn open(wanted: &[WatchRequest], room_bytes: u32) -> Result<Vec<Opened>, LiveError> {
    let namespaces: BTreeSet<_> = wanted.iter().map(|request| request.namespace.clone()).collect();
    namespace::settle(&namespaces)?;
    let mut opened = Vec::new();
    for name in namespaces {
        let name = name.as_deref();
        opened.extend(namespace::within(name, || open_in(name, wanted))?);
    }
    if opened.len() > SOCKETS_MAX {
        return Err(LiveError::TooManySockets { count: opened.len(), max: SOCKETS_MAX });
    }
    let sockets = u32::try_from(opened.len()).unwrap_or(u32::MAX).max(1);
    let share = (room_bytes / sockets).max(room_bytes.min(ROOM_MIN));
    for Opened { interface, socket } in &opened {
        let failed = |source| LiveError::PacketSocket { interface: interface.name.clone(), source };
        socket.make_room(share).map_err(failed)?;
    }
    Ok(opened)
}

/// The same in the calling thread's namespace.
fn open_in(namespace: Option<&str>, wanted: &[WatchRequest]) -> Result<Vec<Opened>, LiveError> {
    let found: Vec<_> = datalink::interfaces()
        .into_iter()
        .map(|found| Interface {
            ifindex: found.index,
            up: found.is_up(),
            loopback: found.is_loopback(),
            name: found.name.into_bytes(),
            ..Interface::default()
        })
        .collect();
    let chosen: Vec<_> = found
        .iter()
        .filter_map(|interface| Some((choose(wanted, namespace, interface, false)?, interface)))
        .collect();
    let of_one = wanted.iter().filter(|request| request.is_of_one());
    for request in of_one.filter(|request| request.namespace.as_deref() == namespace) {
        if !chosen.iter().any(|(by, _)| *by == request) {
            return Err(LiveError::NoInterface(request.to_string()));
        }
    }
    chosen.into_iter().map(|(request, interface)| open_one(request, interface)).collect()
}

fn open_one(request: &WatchRequest, interface: &Interface) -> Result<Opened, LiveError> {
    let name = interface.name().unwrap_or_default();
    let request =
        request.of(name).ok_or_else(|| LiveError::NoInterface(name.escape_debug().to_string()))?;
    let device = namespace::device(name)?;
    let interface = PacketInterface {
        name: request.to_string(),
        namespace: request.namespace,
        ifindex: device.ifindex,
        link: device.link,
        ways: [request.ingress != IngressChoice::Off, request.egress != EgressChoice::Off],
    };
    match PacketSocket::open(device.ifindex) {
        Ok(socket) => Ok(Opened { interface, socket }),
        Err(source) => Err(LiveError::PacketSocket { interface: interface.name, source }),
    }
}

/// Why nothing can be loaded here, as far as that shows without loading a program.
#[must_use]
pub fn no_ebpf() -> Option<String> {
    if let Some(reason) = crate::live::not_built_reason() {
        return Some(format!("the kernel programs are not built into this linnet ({reason})"));
    }
    // Privileges, lockdown, seccomp and a kernel without it all show here.
    let refused = batch::map_create(batch::ARRAY).err()?;
    let code = Errno::from_raw(refused.raw_os_error().unwrap_or_default());
    let remedy = if matches!(code, Errno::EPERM | Errno::EACCES) {
        "; eBPF takes root, or CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON"
    } else {
        ""
    };
    Some(format!("the kernel refuses to make a map: {}{remedy}", code.desc()))
}

/// Whether this is the kernel's refusal of eBPF, rather than of one hook, or a mistake of the configuration.
#[must_use]
pub fn refuses_ebpf(error: &LiveError) -> bool {
    // Mounting the file system for pins takes CAP_SYS_ADMIN.
    if let LiveError::BpfFs { source, .. } = error {
        return source.kind() == io::ErrorKind::PermissionDenied;
    }
    matches!(
        error,
        LiveError::NotBuilt(_)
            | LiveError::Privilege { .. }
            | LiveError::Load { .. }
            | LiveError::Program { .. }
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_named_has_to_be_there() {
        let wanted = ["no-such-dev".parse().unwrap()];
        let error = open(&wanted, 1 << 16).unwrap_err();
        assert!(matches!(&error, LiveError::NoInterface(name) if name == "no-such-dev"), "{error}");
    }

    #[test]
    fn a_mistake_is_no_refusal_of_ebpf() {
        assert!(refuses_ebpf(&LiveError::NotBuilt("x")));
        let bpf_fs =
            |kind: io::ErrorKind| LiveError::BpfFs { path: "/x".into(), source: kind.into() };
        assert!(refuses_ebpf(&bpf_fs(io::ErrorKind::PermissionDenied)));
        assert!(!refuses_ebpf(&bpf_fs(io::ErrorKind::NotADirectory)));
        assert!(!refuses_ebpf(&LiveError::NoInterface("x".into())));
    }
}
