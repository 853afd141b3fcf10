//! Giving a set of filters to the kernel, and the program's place among the others. Must never attach one: what is not
//! closed and stands in no array of programs is gone when its descriptor is.

use std::{
    io,
    os::fd::{AsFd, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
};

use super::{FilterSet, FiltersError, asm::Word};
use crate::live::{Object, batch};

/// `BPF_MAP_UPDATE_ELEM` (include/uapi/linux/bpf.h).
pub(super) const UPDATE: libc::c_int = 2;
/// `BPF_PROG_LOAD`.
const PROG_LOAD: libc::c_int = 5;
/// `BPF_PROG_TEST_RUN`.
const TEST_RUN: libc::c_int = 10;
/// `BPF_OBJ_GET_INFO_BY_FD`.
const GET_INFO: libc::c_int = 15;
/// `BPF_LOG_STATS`: what is wrong, without a line for each instruction.
const LOG_STATS: u32 = 4;
/// Of what the verifier says.
const LOG_BYTES: usize = 16 * 1024;
/// Its last lines say what is wrong.
const LOG_LINES: usize = 4;
/// As `bpftool prog` shows it.
const NAME: [u8; 16] = *b"linnet_filters\0\0";

/// Type, place and flags of a program. One array holds programs of one kind, so that these are the kinds of those that
/// aya loads: `BPF_PROG_TYPE_XDP` with fragments for `BPF_XDP`, and `BPF_PROG_TYPE_SCHED_CLS`.
const fn kind(object: Object) -> [u32; 3] {
    const HAS_FRAGS: u32 = 1 << 5;
    match object {
        Object::Xdp => [6, 37, HAS_FRAGS],
        Object::Tc => [3, 0, 0],
    }
}

/// `union bpf_attr`, the member for programs, as far as it is used.
#[repr(C)]
#[derive(Default)]
struct ProgramAttr {
    kind: u32,
    instruction_count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
    name: [u8; 16],
    ifindex: u32,
    at: u32,
}

/// `union bpf_attr`, the member for one element.
#[repr(C)]
#[derive(Default)]
pub(super) struct ElementAttr {
    pub(super) map: u32,
    pub(super) _pad: u32,
    pub(super) key: u64,
    pub(super) value: u64,
    pub(super) flags: u64,
}

/// `union bpf_attr`, the member for information.
#[repr(C)]
struct InfoAttr {
    fd: u32,
    len: u32,
    info: u64,
}

/// `struct bpf_prog_info`, as far as kernel 5.16 has it.
#[repr(C)]
struct Info {
    _kind_id_tag: [u32; 4],
    jited_bytes: u32,
    translated_bytes: u32,
    _between: [u32; 48],
    verified: u32,
    _pad: u32,
}

/// `verified_insns` stands at 216 there.
const _: () = assert!(std::mem::offset_of!(Info, verified) == 216);

/// `union bpf_attr`, the member for test runs, up to `duration`.
#[repr(C)]
#[derive(Default)]
struct RunAttr {
    program: u32,
    returned: u32,
    size_in: u32,
    size_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    ns: u32,
}

/// A set of filters in the kernel.
#[derive(Debug)]
pub struct FiltersProgram {
    fd: OwnedFd,
}

/// What a program costs before it sees a packet.
#[derive(Clone, Copy, Debug)]
pub struct Cost {
    /// Instructions that the verifier walked, each as often as it did; 0 where the kernel does not say.
    pub verified: u32,
    /// Instructions of the program as the kernel runs it.
    pub instructions: u32,
    /// Bytes of machine code; 0 where the kernel interprets.
    pub jited_bytes: u32,
}

/// What a trial brought.
#[derive(Clone, Copy, Debug)]
pub struct Run {
    /// What the program returned.
    pub returned: u32,
    /// Mean time of one repetition, whole ns.
    pub ns: u32,
}

/// Loads the filters as a program for one kind of hook. `views` is a map of each CPU's own with one
/// [`datapath::layout::Views`], and `next` an array of programs and the place in it of the one that it goes on with.
pub fn load(
    filters: &FilterSet,
    object: Object,
    views: BorrowedFd<'_>,
    next: (BorrowedFd<'_>, u32),
) -> Result<FiltersProgram, FiltersError> {
    let words = filters.program(object, views, next)?;
    let mut log = vec![0; LOG_BYTES];
    prog_load(object, &words, &mut log).map_err(|source| {
        if source.raw_os_error() == Some(libc::EPERM) {
            return FiltersError::Privilege { source };
        }
        let log = last_lines(&log);
        FiltersError::Refused { object, instructions: words.len(), source, log }
    })
}

fn prog_load(object: Object, words: &[Word], log: &mut [u8]) -> io::Result<FiltersProgram> {
    let [kind, at, flags] = kind(object);
    let mut attr = ProgramAttr {
        kind,
        instruction_count: u32::try_from(words.len()).unwrap_or(u32::MAX),
        instructions: words.as_ptr() as u64,
        license: c"GPL".as_ptr() as u64,
        log_level: LOG_STATS,
        log_size: u32::try_from(log.len()).unwrap_or(0),
        log: log.as_mut_ptr() as u64,
        flags,
        name: NAME,
        at,
        ..ProgramAttr::default()
    };
    let fd = batch::bpf_fd(PROG_LOAD, &mut attr)?;
    // SAFETY: the kernel has just made this descriptor, and nobody else knows it.
    Ok(FiltersProgram { fd: unsafe { OwnedFd::from_raw_fd(fd) } })
}

/// The last lines of what the verifier said, as one.
fn last_lines(log: &[u8]) -> String {
    let end = log.iter().position(|byte| *byte == 0).unwrap_or(log.len());
    let text = String::from_utf8_lossy(&log[..end]);
    let lines: Vec<_> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    let last = &lines[lines.len().saturating_sub(LOG_LINES)..];
    if last.is_empty() { "its verifier says nothing".to_owned() } else { last.join("; ") }
}

/// Puts a program into its place of an array of programs.
pub fn set_program(
    programs: BorrowedFd<'_>,
    place: u32,
    program: BorrowedFd<'_>,
) -> Result<(), FiltersError> {
    let (key, value) = (place, program.as_raw_fd());
    let mut attr = ElementAttr {
        map: programs.as_raw_fd().cast_unsigned(),
        key: std::ptr::from_ref(&key) as u64,
        value: std::ptr::from_ref(&value) as u64,
        ..ElementAttr::default()
    };
    batch::bpf(UPDATE, &mut attr)
        .map_err(|source| FiltersError::Call { what: "put in their place", source })
}

impl FiltersProgram {
    /// What it costs.
    pub fn cost(&self) -> Result<Cost, FiltersError> {
        let mut info = Info {
            _kind_id_tag: [0; 4],
            jited_bytes: 0,
            translated_bytes: 0,
            _between: [0; 48],
            verified: 0,
            _pad: 0,
        };
        let mut attr = InfoAttr {
            fd: self.fd.as_raw_fd().cast_unsigned(),
            len: u32::try_from(size_of::<Info>()).unwrap_or(0),
            info: std::ptr::from_mut(&mut info) as u64,
        };
        batch::bpf(GET_INFO, &mut attr)
            .map_err(|source| FiltersError::Call { what: "ask about", source })?;
        Ok(Cost {
            verified: info.verified,
            instructions: info.translated_bytes / u32::try_from(size_of::<Word>()).unwrap_or(8),
            jited_bytes: info.jited_bytes,
        })
    }

    /// Runs it on this CPU's views, so often in a row. It does not look at the packet that the kernel makes for it.
    pub fn run(&self, repeat: u32) -> Result<Run, FiltersError> {
        test_run(self.fd.as_fd(), &[0; 64], repeat)
    }
}

/// Runs a program on a frame, so often in a row, as if the frame had come in by the loopback device.
pub fn test_run(program: BorrowedFd<'_>, frame: &[u8], repeat: u32) -> Result<Run, FiltersError> {
    let mut attr = RunAttr {
        program: program.as_raw_fd().cast_unsigned(),
        size_in: u32::try_from(frame.len()).unwrap_or(0),
        data_in: frame.as_ptr() as u64,
        repeat,
        ..RunAttr::default()
    };
    batch::bpf(TEST_RUN, &mut attr).map_err(|source| FiltersError::Call { what: "try", source })?;
    Ok(Run { returned: attr.returned, ns: attr.ns })
}

impl AsFd for FiltersProgram {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_tells_the_end_of_the_verifiers_log() {
        let log =
            b"one\ntwo\nthree\n\nR2 invalid mem access 'scalar'\nprocessed 9 insns\n\0\0garbage";
        let told = "two; three; R2 invalid mem access 'scalar'; processed 9 insns";
        assert_eq!(last_lines(log), told);
        assert_eq!(last_lines(&[0; 8]), "its verifier says nothing");
    }
}
