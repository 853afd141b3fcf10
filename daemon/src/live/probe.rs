//! Trying what a kernel has. Must never touch what is there: nothing is attached, and nothing that is made stays.

use std::{
    io,
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd},
    thread,
};

use aya::programs::tc;
use caps::CapSet;
use nix::sched::{CloneFlags, unshare};

use super::batch;

/// `BPF_MAP_TYPE_PROG_ARRAY` (include/uapi/linux/bpf.h), whose keys and values are words.
const PROG_ARRAY: u32 = 3;
/// `BPF_PROG_TYPE_XDP`.
const XDP: u32 = 6;
/// `BPF_XDP`, where it is attached.
const AT_XDP: u32 = 37;
/// `BPF_F_XDP_HAS_FRAGS`.
const HAS_FRAGS: u32 = 1 << 5;
/// `BPF_TCX_INGRESS`.
const AT_TCX_INGRESS: u32 = 46;
/// The loopback device's index, in each network namespace.
const LOOPBACK: u32 = 1;
/// `ENOTSUPP`, which is the kernel's own and has no name outside.
const ENOTSUPP: i32 = 524;
/// `LANDLOCK_CREATE_RULESET_VERSION` (include/uapi/linux/landlock.h).
const RULESET_VERSION: u32 = 1;

/// Whether a process without capabilities can read maps that it has descriptors of.
pub(crate) fn map_access() -> io::Result<bool> {
    let map = batch::map_create(batch::ARRAY)?;
    let read = thread::scope(|scope| {
        // Capabilities are a thread's own, and this one ends with its look.
        let thread = scope.spawn(|| {
            caps::clear(None, CapSet::Effective).map_err(io::Error::other)?;
            batch::lookup(map.as_fd(), &0_u32, &mut 0_u32)
        });
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    });
    match read {
        Err(error) if error.raw_os_error() == Some(libc::EPERM) => Ok(false),
        other => other.map(|()| true),
    }
}

/// Whether there are TCX chains: asks for one, which is empty or not.
pub(crate) fn tcx() -> io::Result<bool> {
    has_chain(AT_TCX_INGRESS)
}

fn has_chain(at: u32) -> io::Result<bool> {
    match batch::query(LOOPBACK, at) {
        Ok(()) => Ok(true),
        Err(error) => match error.raw_os_error() {
            // Nothing is attached there; or there is more than fits into no room at all.
            Some(libc::ENOENT | libc::ENOSPC) => Ok(true),
            Some(libc::EINVAL | libc::EOPNOTSUPP) => Ok(false),
            _ => Err(error),
        },
    }
}

/// Whether there is a clsact qdisc: makes one in a network namespace of its own, which ends with its thread.
pub(crate) fn clsact() -> io::Result<bool> {
    let made = thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).map_err(io::Error::from)?;
        Ok(tc::qdisc_add_clsact("lo").is_ok())
    });
    made.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Whether XDP programs of linnet's shape load: with fragments, functions, and a tail call beside them, which arm64
/// has later than x86-64, and neither without its JIT.
pub(crate) fn xdp() -> io::Result<bool> {
    loads_xdp(HAS_FRAGS)
}

fn loads_xdp(flags: u32) -> io::Result<bool> {
    let stages = batch::map_create(PROG_ARRAY)?;
    match load_xdp(stages.as_fd(), flags) {
        Ok(_) => Ok(true),
        Err(error) => match error.raw_os_error() {
            Some(libc::EINVAL | libc::E2BIG | libc::EOPNOTSUPP | ENOTSUPP) => Ok(false),
            _ => Err(error),
        },
    }
}

fn load_xdp(stages: BorrowedFd<'_>, flags: u32) -> io::Result<OwnedFd> {
    let [r0, r1, r2, r3, r6] = [0, 1, 2, 3, 6_u8];
    let stages = stages.as_raw_fd();
    let program = [
        // r6 = r1; call the function; r1 = r6
        instruction(0xbf, r6, r1, 0),
        instruction(0x85, 0, 1, 7),
        instruction(0xbf, r1, r6, 0),
        // r2 = stages, by its descriptor, in two words; r3 = 0; tail call
        instruction(0x18, r2, 1, stages),
        instruction(0, 0, 0, 0),
        instruction(0xb7, r3, 0, 0),
        instruction(0x85, 0, 0, 12),
        // return XDP_PASS
        instruction(0xb7, r0, 0, 2),
        instruction(0x95, 0, 0, 0),
        // The function: return 0
        instruction(0xb7, r0, 0, 0),
        instruction(0x95, 0, 0, 0),
    ];
    batch::prog_load(XDP, AT_XDP, flags, &program)
}

/// `struct bpf_insn`: operation, destination and source, an offset of 0, and the immediate value.
const fn instruction(code: u8, destination: u8, source: u8, immediate: i32) -> [u8; 8] {
    let [a, b, c, d] = immediate.to_ne_bytes();
    [code, destination | source << 4, 0, 0, a, b, c, d]
}

/// Landlock's version. `EOPNOTSUPP` where it is built in and not turned on, `ENOSYS` where it is not built in.
pub(crate) fn landlock_version() -> io::Result<u32> {
    let none = std::ptr::null::<libc::c_void>();
    // SAFETY: with this flag the call reads and makes nothing, and returns a number.
    let version =
        unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, none, 0_usize, RULESET_VERSION) };
    u32::try_from(version).map_err(|_| io::Error::last_os_error())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_tried_leaves_this_process_as_it_was() {
        if !nix::unistd::geteuid().is_root() {
            return;
        }
        let look = || {
            let held = caps::read(None, CapSet::Effective).unwrap();
            let namespace = std::fs::read_link("/proc/thread-self/ns/net").unwrap();
            let interfaces = nix::net::if_::if_nameindex().unwrap();
            (held, namespace, interfaces.iter().count())
        };
        let before = look();
        for tried in [map_access(), tcx(), clsact(), xdp()] {
            tried.unwrap();
        }
        assert_eq!(look(), before);
    }

    #[test]
    fn what_a_kernel_does_not_know_is_missing_and_what_is_not_allowed_is_not() {
        if !nix::unistd::geteuid().is_root() {
            return;
        }
        // As TCX and fragments are to kernels before them: a place and a flag that do not exist.
        assert!(!has_chain(9_999).unwrap());
        assert!(!loads_xdp(1 << 30).unwrap());
        let thread = thread::spawn(|| {
            caps::clear(None, CapSet::Effective).unwrap();
            [map_access(), tcx(), clsact(), xdp()].map(|tried| tried.unwrap_err().raw_os_error())
        });
        assert_eq!(thread.join().unwrap(), [Some(libc::EPERM); 4]);
    }

    #[test]
    fn a_kernel_that_has_tcx_is_one_that_aya_attaches_to() {
        let Ok(found) = tcx() else { return };
        let known = aya::programs::SchedClassifier::query_tcx("lo", tc::TcAttachType::Ingress);
        assert_eq!(found, known.is_ok(), "{known:?}");
    }
}
