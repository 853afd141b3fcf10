//! Who is on the hooks of an interface of the calling thread's namespace, in the order in which packets meet them: XDP,
//! then the TCX chain, then the clsact filters. Changes nothing.

use std::{
    io,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
};

use datapath::Direction;

use super::{
    attach::program,
    batch::bpf,
    links::Interface,
    netlink::Socket,
    qdisc,
    verb::{AttachedHook, Hook},
};

/// `BPF_PROG_GET_FD_BY_ID`, `BPF_OBJ_GET_INFO_BY_FD`, `BPF_PROG_QUERY` (include/uapi/linux/bpf.h).
const PROG_GET_FD_BY_ID: libc::c_int = 13;
const OBJ_GET_INFO_BY_FD: libc::c_int = 15;
const PROG_QUERY: libc::c_int = 16;
/// `BPF_TCX_INGRESS` and `BPF_TCX_EGRESS`.
const TCX: [u32; 2] = [46, 47];
/// Longest TCX chain: `BPF_MPROG_MAX` of the kernel.
const TCX_MAX: usize = 64;
/// Kinds of hooks, in the order in which packets meet them.
pub(super) const KINDS: [&str; 3] = ["xdp", "tcx", "clsact"];
/// Most links of a chain that are told, and longest name.
pub(super) const CHAIN_MAX: usize = 16;
pub(super) const NAME_MAX: usize = 32;
/// Where `struct bpf_prog_info` has the program's name, and how long that is.
const INFO_NAME: usize = 64;
const INFO_NAME_LEN: usize = 16;

/// One program or filter on a hook.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct ChainLink {
    /// `xdp`, `tcx` or `clsact`.
    pub hook: &'static str,
    /// Id in the kernel; none of a filter that is no program.
    pub program_id: Option<u32>,
    /// The program's name, as far as the kernel tells it; else the filter's kind.
    pub name: Option<String>,
    /// Whether linnet put it there.
    pub ours: bool,
}

/// One direction's hooks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chain {
    /// In the order in which packets meet them.
    pub links: Vec<ChainLink>,
    /// The tracker is not where linnet put it.
    pub displaced: bool,
}

impl Chain {
    /// What packets meet before the tracker: it may keep some of them from it.
    pub fn before_us(&self) -> impl Iterator<Item = &ChainLink> {
        let ours = self.links.iter().position(|link| link.ours);
        self.links.iter().take(ours.unwrap_or(0))
    }
}

/// What is known of linnet's programs on one direction.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ours<'a> {
    pub(super) tracker: &'a AttachedHook,
    /// The capture stage's program, where it is loaded.
    pub(super) stage: Option<u32>,
}

/// Looks at one direction of an interface.
pub(super) fn look(
    socket: &Socket,
    interface: &Interface,
    direction: Direction,
    ours: Ours<'_>,
) -> io::Result<Chain> {
    let (id, stage) = (ours.tracker.program_id, ours.stage);
    let is_ours = |program: u32| id == Some(program) || stage == Some(program);
    let mut links = Vec::new();
    if direction == Direction::Ingress {
        links.extend(interface.xdp.iter().map(|id| ("xdp", Some(*id), None)));
    }
    links.extend(tcx(interface.ifindex, direction)?.into_iter().map(|id| ("tcx", Some(id), None)));
    let filters = qdisc::filters(socket, interface.ifindex, direction)?.into_iter();
    links.extend(filters.map(|filter| ("clsact", filter.program_id, Some(filter.name))));
    let mut chain = Chain::default();
    for (hook, program_id, name) in links {
        let ours = program_id.is_some_and(is_ours);
        let own = || own_name(hook, direction, program_id == stage).to_owned();
        let name = if ours { Some(own()) } else { program_id.and_then(name_of).or(name) };
        let name = name.map(|mut name| {
            name.truncate(name.floor_char_boundary(NAME_MAX));
            name
        });
        chain.links.push(ChainLink { hook, program_id, name, ours });
    }
    let kind = match ours.tracker.hook {
        Hook::Xdp | Hook::XdpGeneric => "xdp",
        Hook::Tcx => "tcx",
        Hook::Clsact => "clsact",
    };
    let at_its_place = |link: &ChainLink| link.hook == kind && link.program_id == id;
    chain.displaced = !chain.links.iter().any(at_its_place);
    shorten(&mut chain.links);
    Ok(chain)
}

/// A program of linnet's by its name, which the kernel may not tell.
fn own_name(hook: &str, direction: Direction, stage: bool) -> &'static str {
    match (hook, direction, stage) {
        ("xdp", ..) => program::XDP,
        (_, Direction::Ingress, false) => program::INGRESS,
        (_, Direction::Egress, false) => program::EGRESS,
        (_, Direction::Ingress, true) => program::CAPTURE_INGRESS,
        (_, Direction::Egress, true) => program::CAPTURE_EGRESS,
    }
}

/// Cuts a chain that is longer than anybody reads, but keeps what is linnet's.
fn shorten(links: &mut Vec<ChainLink>) {
    let mut others = CHAIN_MAX - links.iter().filter(|link| link.ours).count().min(CHAIN_MAX);
    if links.len() <= CHAIN_MAX {
        return;
    }
    links.retain(|link| {
        let kept = link.ours || others > 0;
        others = others.saturating_sub(usize::from(!link.ours));
        kept
    });
    links.truncate(CHAIN_MAX);
}

/// `union bpf_attr`, the member for queries.
#[repr(C)]
#[derive(Default)]
struct QueryAttr {
    ifindex: u32,
    attach_type: u32,
    flags: u32,
    attach_flags: u32,
    programs: u64,
    count: u32,
    _pad: u32,
    program_flags: u64,
    links: u64,
    link_flags: u64,
    revision: u64,
}

/// The programs of a TCX chain; none where the kernel has no TCX.
fn tcx(ifindex: u32, direction: Direction) -> io::Result<Vec<u32>> {
    let mut programs = vec![0_u32; TCX_MAX];
    let mut attr = QueryAttr {
        ifindex,
        attach_type: TCX[direction as usize],
        programs: programs.as_mut_ptr() as u64,
        count: u32::try_from(TCX_MAX).unwrap_or(u32::MAX),
        ..QueryAttr::default()
    };
    match bpf(PROG_QUERY, &mut attr) {
        Ok(()) => {
            programs.truncate(attr.count as usize);
            Ok(programs)
        }
        Err(error)
            if matches!(error.raw_os_error(), Some(libc::EINVAL | libc::ENOENT | libc::ENODEV)) =>
        {
            Ok(Vec::new())
        }
        Err(error) => Err(error),
    }
}

/// `union bpf_attr`, the members for ids and for what is known of a descriptor.
#[repr(C)]
#[derive(Default)]
struct IdAttr {
    id: u32,
    next_id: u32,
    flags: u32,
}

#[repr(C)]
#[derive(Default)]
struct InfoAttr {
    fd: u32,
    len: u32,
    info: u64,
}

/// A program's name. The kernel tells it to CAP_SYS_ADMIN alone.
#[must_use]
pub fn name_of(program: u32) -> Option<String> {
    let mut attr = IdAttr { id: program, ..IdAttr::default() };
    let fd = super::batch::bpf_fd(PROG_GET_FD_BY_ID, &mut attr).ok()?;
    // SAFETY: the kernel has just made this descriptor, and nobody else knows of it.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    let mut info = [0_u8; INFO_NAME + INFO_NAME_LEN];
    let mut attr = InfoAttr {
        fd: fd.as_raw_fd().cast_unsigned(),
        len: u32::try_from(info.len()).unwrap_or(0),
        info: info.as_mut_ptr() as u64,
    };
    bpf(OBJ_GET_INFO_BY_FD, &mut attr).ok()?;
    let name = super::netlink::text(&info[INFO_NAME..]);
    (!name.is_empty()).then(|| String::from_utf8_lossy(name).into_owned())
}
