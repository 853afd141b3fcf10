//! The `bpf(2)` commands that aya has no function for: batches, taking an element out with its last value, removing
//! one without knowing its type, and what it takes to try what a kernel has; and the call itself.

use std::{
    io,
    os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
};

/// `BPF_MAP_LOOKUP_ELEM` (include/uapi/linux/bpf.h).
const LOOKUP: libc::c_int = 1;
/// `BPF_PROG_LOAD`.
const PROG_LOAD: libc::c_int = 5;
/// `BPF_PROG_QUERY`.
const PROG_QUERY: libc::c_int = 16;
/// `BPF_MAP_LOOKUP_AND_DELETE_ELEM` (include/uapi/linux/bpf.h).
const LOOKUP_AND_DELETE: libc::c_int = 21;
/// `BPF_MAP_LOOKUP_BATCH`.
const LOOKUP_BATCH: libc::c_int = 24;
/// `BPF_MAP_LOOKUP_AND_DELETE_BATCH`.
const LOOKUP_AND_DELETE_BATCH: libc::c_int = 25;
/// `BPF_MAP_UPDATE_BATCH`.
const UPDATE_BATCH: libc::c_int = 26;
/// `BPF_MAP_DELETE_ELEM`.
const DELETE: libc::c_int = 3;

/// `union bpf_attr`, the member for batches.
#[repr(C)]
#[derive(Default)]
struct BatchAttr {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

/// `union bpf_attr`, the member for one element.
#[repr(C)]
#[derive(Default)]
struct ElementAttr {
    map_fd: u32,
    _pad: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// Where a batch read goes on. The kernel writes four bytes; the rest is room for what it may write one day.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct BatchCursor([u64; 8]);

/// What one batch read brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Batch {
    /// Elements read.
    pub(super) count: usize,
    /// Whether it was the last.
    pub(super) done: bool,
}

/// Reads up to `keys.len()` elements from `from`, or from the start, and moves `to` behind them.
///
/// `keys` and `values` must have the map's key and value sizes per element, and the same number of elements.
pub(super) fn lookup_batch<K, V>(
    map: BorrowedFd<'_>,
    from: Option<&BatchCursor>,
    to: &mut BatchCursor,
    keys: &mut [K],
    values: &mut [V],
) -> io::Result<Batch> {
    read_batch(LOOKUP_BATCH, map, from, to, keys, values)
}

/// As [`lookup_batch`], and takes the elements out.
pub(super) fn take_batch<K, V>(
    map: BorrowedFd<'_>,
    from: Option<&BatchCursor>,
    to: &mut BatchCursor,
    keys: &mut [K],
    values: &mut [V],
) -> io::Result<Batch> {
    read_batch(LOOKUP_AND_DELETE_BATCH, map, from, to, keys, values)
}

fn read_batch<K, V>(
    command: libc::c_int,
    map: BorrowedFd<'_>,
    from: Option<&BatchCursor>,
    to: &mut BatchCursor,
    keys: &mut [K],
    values: &mut [V],
) -> io::Result<Batch> {
    let count = keys.len().min(values.len());
    let mut attr = BatchAttr {
        in_batch: from.map_or(0, |cursor| cursor.0.as_ptr() as u64),
        out_batch: to.0.as_mut_ptr() as u64,
        keys: keys.as_mut_ptr() as u64,
        values: values.as_mut_ptr() as u64,
        count: u32::try_from(count).unwrap_or(u32::MAX),
        map_fd: map.as_raw_fd().cast_unsigned(),
        ..BatchAttr::default()
    };
    let result = bpf(command, &mut attr);
    let read = attr.count as usize;
    match result {
        Ok(()) => Ok(Batch { count: read, done: false }),
        // The last batch says ENOENT and is full of data all the same.
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {
            Ok(Batch { count: read, done: true })
        }
        Err(error) => Err(error),
    }
}

/// Takes an element out. `None` where it is not there any more.
pub(super) fn take<K, V>(map: BorrowedFd<'_>, key: &K, value: &mut V) -> io::Result<Option<()>> {
    let mut attr = ElementAttr {
        map_fd: map.as_raw_fd().cast_unsigned(),
        key: std::ptr::from_ref(key) as u64,
        value: std::ptr::from_mut(value) as u64,
        ..ElementAttr::default()
    };
    match bpf(LOOKUP_AND_DELETE, &mut attr) {
        Ok(()) => Ok(Some(())),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Writes an element for each key. `keys` and `values` must have the map's key and value sizes per element, and the same
/// number of elements. After an error some of them may have been written.
pub(super) fn update_batch<K, V>(map: BorrowedFd<'_>, keys: &[K], values: &[V]) -> io::Result<()> {
    let count = keys.len().min(values.len());
    if count == 0 {
        return Ok(());
    }
    let mut attr = BatchAttr {
        keys: keys.as_ptr() as u64,
        values: values.as_ptr() as u64,
        count: u32::try_from(count).unwrap_or(u32::MAX),
        map_fd: map.as_raw_fd().cast_unsigned(),
        ..BatchAttr::default()
    };
    bpf(UPDATE_BATCH, &mut attr)
}

/// `BPF_MAP_TYPE_ARRAY`.
pub(super) const ARRAY: u32 = 2;

/// Makes a map of one element, whose key and value are words.
pub(super) fn map_create(kind: u32) -> io::Result<OwnedFd> {
    // Type, key size, value size, entries.
    let fd = bpf_fd(0, &mut [kind, 4, 4, 1])?;
    // SAFETY: the kernel has just made this descriptor, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Reads an element; key and value must be the map's.
pub(super) fn lookup<K, V>(map: BorrowedFd<'_>, key: &K, value: &mut V) -> io::Result<()> {
    let mut attr = ElementAttr {
        map_fd: map.as_raw_fd().cast_unsigned(),
        key: std::ptr::from_ref(key) as u64,
        value: std::ptr::from_mut(value) as u64,
        ..ElementAttr::default()
    };
    bpf(LOOKUP, &mut attr)
}

/// Asks what is attached at a place of an interface, and has no room for the answer.
pub(super) fn query(ifindex: u32, at: u32) -> io::Result<()> {
    // Interface, place; flags, where programs go, and room for how many.
    bpf(PROG_QUERY, &mut [ifindex, at, 0, 0, 0, 0, 0, 0])
}

/// `union bpf_attr`, the member for programs, as far as it is used.
#[repr(C)]
#[derive(Default)]
struct ProgramAttr {
    kind: u32,
    instruction_count: u32,
    instructions: u64,
    license: u64,
    log: [u32; 4],
    kernel_version: u32,
    flags: u32,
    name: [u8; 16],
    ifindex: u32,
    at: u32,
}

/// Loads a program.
pub(super) fn prog_load(
    kind: u32,
    at: u32,
    flags: u32,
    instructions: &[[u8; 8]],
) -> io::Result<OwnedFd> {
    let mut attr = ProgramAttr {
        kind,
        instruction_count: u32::try_from(instructions.len()).unwrap_or(u32::MAX),
        instructions: instructions.as_ptr() as u64,
        license: c"GPL".as_ptr() as u64,
        flags,
        at,
        ..ProgramAttr::default()
    };
    let fd = bpf_fd(PROG_LOAD, &mut attr)?;
    // SAFETY: as in `map_create`.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Tries to make a map, which is closed again at once.
pub fn try_map_create() -> io::Result<()> {
    map_create(ARRAY).map(drop)
}

/// Tries to load a program, which has no instructions.
pub fn try_prog_load() -> io::Result<()> {
    bpf_fd(PROG_LOAD, &mut [0_u64; 8]).map(drop)
}

/// Any command with nothing to do it to: refused, or wrong.
#[cfg(test)]
pub(crate) fn try_command(command: libc::c_int) -> io::Error {
    // No descriptor has this number.
    let done = bpf_fd(command, &mut [u32::MAX; 16]);
    done.err().unwrap_or_else(|| io::Error::other("it was done"))
}

/// Removes an element; well where it is not there any more.
pub(super) fn remove<K>(map: BorrowedFd<'_>, key: &K) -> io::Result<()> {
    let mut attr = ElementAttr {
        map_fd: map.as_raw_fd().cast_unsigned(),
        key: std::ptr::from_ref(key) as u64,
        ..ElementAttr::default()
    };
    match bpf(DELETE, &mut attr) {
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
        other => other,
    }
}

pub(super) fn bpf<A>(command: libc::c_int, attr: &mut A) -> io::Result<()> {
    bpf_fd(command, attr).map(drop)
}

/// As [`bpf`], with what the call returns: a new descriptor, for some commands.
pub(super) fn bpf_fd<A>(command: libc::c_int, attr: &mut A) -> io::Result<i32> {
    // SAFETY: `attr` is the member of `union bpf_attr` that the command takes, zero beyond what is set, and what
    // it points to is borrowed by the callers for longer than this call. The kernel checks the sizes against the
    // map's.
    let done =
        unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attr), size_of::<A>()) };
    i32::try_from(done).ok().filter(|done| *done >= 0).ok_or_else(io::Error::last_os_error)
}
