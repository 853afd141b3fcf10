//! seccomp: a list of what the daemon calls; everything else is EPERM. No exec, fork, ptrace, mount, module, or new
//! socket but a pair; of `bpf(2)` what reads and writes maps that are already open.

use std::collections::BTreeMap;

use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen::Dword, SeccompCmpOp,
    SeccompCondition, SeccompFilter, SeccompRule, TargetArch, apply_filter,
};

/// Commands of `bpf(2)` (include/uapi/linux/bpf.h): lookup, update, delete, next key, information about an open one,
/// lookup and delete, and batches.
const BPF_COMMANDS: [u64; 10] = [1, 2, 3, 4, 15, 21, 24, 25, 26, 27];
/// Requests of `ioctl(2)`: blocking or not, and whether it is a terminal.
const IOCTLS: [u64; 3] = [libc::FIONBIO, libc::FIOCLEX, libc::TCGETS];
/// Requests of `prctl(2)`: threads' and memory's names, and what is asked about this process.
const PRCTLS: [u64; 5] = [15, 16, 0x5356_4d41, 3, 39];
/// Requests of `fcntl(2)` are not told apart: none of them reaches beyond the descriptor.
const PLAIN: &[libc::c_long] = &[
    libc::SYS_accept4,
    libc::SYS_brk,
    libc::SYS_capget,
    libc::SYS_clock_getres,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    // Refused as unknown by the second filter.
    libc::SYS_clone3,
    libc::SYS_close,
    libc::SYS_close_range,
    libc::SYS_copy_file_range,
    libc::SYS_dup,
    libc::SYS_dup3,
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2,
    libc::SYS_eventfd2,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    libc::SYS_fadvise64,
    libc::SYS_fallocate,
    libc::SYS_fchmod,
    libc::SYS_fchmodat,
    libc::SYS_fchown,
    libc::SYS_fchownat,
    libc::SYS_fcntl,
    libc::SYS_fdatasync,
    libc::SYS_flock,
    libc::SYS_fstat,
    libc::SYS_fstatfs,
    libc::SYS_fsync,
    libc::SYS_ftruncate,
    libc::SYS_futex,
    libc::SYS_get_robust_list,
    libc::SYS_getcwd,
    libc::SYS_getdents64,
    libc::SYS_getegid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getgroups,
    libc::SYS_getpeername,
    libc::SYS_getpid,
    libc::SYS_getppid,
    libc::SYS_getrandom,
    libc::SYS_getrusage,
    libc::SYS_getsockname,
    libc::SYS_getsockopt,
    libc::SYS_gettid,
    libc::SYS_gettimeofday,
    libc::SYS_getuid,
    libc::SYS_lseek,
    libc::SYS_madvise,
    libc::SYS_mkdirat,
    libc::SYS_mmap,
    libc::SYS_mprotect,
    libc::SYS_mremap,
    libc::SYS_munmap,
    libc::SYS_nanosleep,
    libc::SYS_newfstatat,
    libc::SYS_openat,
    libc::SYS_pipe2,
    libc::SYS_ppoll,
    libc::SYS_pread64,
    libc::SYS_preadv,
    libc::SYS_pwrite64,
    libc::SYS_pwritev,
    libc::SYS_read,
    libc::SYS_readlinkat,
    libc::SYS_readv,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_renameat,
    libc::SYS_renameat2,
    libc::SYS_restart_syscall,
    libc::SYS_rseq,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_yield,
    libc::SYS_sendfile,
    libc::SYS_sendmsg,
    libc::SYS_sendto,
    libc::SYS_set_robust_list,
    libc::SYS_setsockopt,
    libc::SYS_shutdown,
    libc::SYS_sigaltstack,
    libc::SYS_splice,
    libc::SYS_statfs,
    libc::SYS_statx,
    libc::SYS_sysinfo,
    libc::SYS_tgkill,
    libc::SYS_timerfd_create,
    libc::SYS_timerfd_settime,
    libc::SYS_umask,
    libc::SYS_uname,
    libc::SYS_unlinkat,
    libc::SYS_write,
    libc::SYS_writev,
];

/// Older forms of some of those, which this architecture still has.
#[cfg(target_arch = "x86_64")]
const OLDER: &[libc::c_long] = &[
    libc::SYS_access,
    libc::SYS_chmod,
    libc::SYS_chown,
    libc::SYS_dup2,
    libc::SYS_epoll_wait,
    libc::SYS_getdents,
    libc::SYS_lstat,
    libc::SYS_mkdir,
    libc::SYS_open,
    libc::SYS_pipe,
    libc::SYS_poll,
    libc::SYS_readlink,
    libc::SYS_rename,
    libc::SYS_rmdir,
    libc::SYS_select,
    libc::SYS_stat,
    libc::SYS_time,
    libc::SYS_unlink,
];
#[cfg(not(target_arch = "x86_64"))]
const OLDER: &[libc::c_long] = &[];

/// Enters it, for good; returns what the kernel lacks.
pub(super) fn restrict() -> Vec<String> {
    match enforce() {
        Ok(()) => Vec::new(),
        Err(error) => vec![format!("seccomp does not confine the daemon: {error}")],
    }
}

fn enforce() -> Result<(), seccompiler::Error> {
    let arch = TargetArch::try_from(std::env::consts::ARCH)?;
    // `clone3` has its flags in memory, where they cannot be seen; a C library that is told that there is none uses
    // `clone`, whose flags can.
    let unknown = SeccompAction::Errno(libc::ENOSYS.unsigned_abs());
    let clone3 = BTreeMap::from([(libc::SYS_clone3, Vec::new())]);
    let none = SeccompFilter::new(clone3, SeccompAction::Allow, unknown, arch)?;
    let refuse = SeccompAction::Errno(libc::EPERM.unsigned_abs());
    let listed = SeccompFilter::new(allowed()?, refuse, SeccompAction::Allow, arch)?;
    for filter in [none, listed] {
        apply_filter(&BpfProgram::try_from(filter)?)?;
    }
    Ok(())
}

/// The calls, each with the conditions of which one has to hold, if it has any.
fn allowed() -> Result<BTreeMap<i64, Vec<SeccompRule>>, BackendError> {
    let plain = PLAIN.iter().chain(OLDER).map(|call| (*call, Vec::new()));
    let mut calls: BTreeMap<i64, Vec<SeccompRule>> = plain.collect();
    let one_of = |argument, values: &[u64]| {
        let rule = |value: &u64| when(argument, SeccompCmpOp::Eq, *value);
        values.iter().map(rule).collect::<Result<Vec<_>, _>>()
    };
    calls.insert(libc::SYS_bpf, one_of(0, &BPF_COMMANDS)?);
    calls.insert(libc::SYS_ioctl, one_of(1, &IOCTLS)?);
    calls.insert(libc::SYS_prctl, one_of(0, &PRCTLS)?);
    calls.insert(libc::SYS_socketpair, one_of(0, &[libc::AF_UNIX.unsigned_abs().into()])?);
    calls.insert(libc::SYS_membarrier, Vec::new());
    // Threads, and no processes.
    let thread = u64::from(libc::CLONE_THREAD.unsigned_abs());
    calls.insert(libc::SYS_clone, vec![when(0, SeccompCmpOp::MaskedEq(thread), thread)?]);
    // Limits of this process may be read.
    calls.insert(libc::SYS_prlimit64, vec![when(2, SeccompCmpOp::Eq, 0)?]);
    Ok(calls)
}

fn when(argument: u8, compare: SeccompCmpOp, value: u64) -> Result<SeccompRule, BackendError> {
    SeccompRule::new(vec![SeccompCondition::new(argument, Dword, compare, value)?])
}

#[cfg(test)]
mod tests {
    use std::{fs, io, net::UdpSocket, os::unix::net::UnixStream, thread};

    use super::*;

    /// Runs `look` on a thread that is confined and ends with it.
    fn confined<T: Send + 'static>(look: impl FnOnce() -> T + Send + 'static) -> T {
        let thread = thread::spawn(|| {
            assert_eq!(restrict(), [""; 0]);
            look()
        });
        thread.join().unwrap()
    }

    fn is_refused(error: &io::Error) -> bool {
        error.raw_os_error() == Some(libc::EPERM)
    }

    #[test]
    fn of_bpf_the_commands_of_open_maps_are_left() {
        // Up to BPF_TOKEN_CREATE and some that do not exist yet.
        let refused = confined(|| {
            let commands =
                (0..48).filter(|command| is_refused(&crate::live::try_command(*command)));
            commands.collect::<Vec<_>>()
        });
        let listed = |command: &i32| BPF_COMMANDS.contains(&u64::try_from(*command).unwrap());
        let expected: Vec<_> = (0..48).filter(|command| !listed(command)).collect();
        assert_eq!(refused, expected);
    }

    #[test]
    fn threads_and_pairs_and_files_are_left_and_processes_and_sockets_are_not() {
        confined(|| {
            assert_eq!(thread::spawn(|| 7).join().unwrap(), 7);
            assert!(UnixStream::pair().is_ok());
            assert!(fs::read_dir("/").is_ok());
            assert!(is_refused(&UdpSocket::bind("127.0.0.1:0").unwrap_err()));
            assert!(is_refused(&std::process::Command::new("true").spawn().unwrap_err()));
            assert!(is_refused(&nix::unistd::setsid().unwrap_err().into()));
        });
    }
}
