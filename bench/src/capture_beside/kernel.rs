//! What the bench asks of the kernel by `bpf(2)` itself: programs that no compiler made, frames that the kernel makes of
//! one, and an empty program on an interface. Never pins anything, so that nothing outlives it.

use std::{
    io,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
};

use anyhow::Context as _;
use lab::Namespace;
use nix::net::if_::if_nametoindex;

/// Code, destination (low half) and source register, offset, value (RFC 9669).
#[derive(Clone, Copy, Debug)]
pub struct Instruction(pub u8, pub u8, pub i16, pub i32);

/// `XDP_PASS`, and no more.
const EMPTY: [Instruction; 2] = [Instruction(0xb7, 0x00, 0, 2), Instruction(0x95, 0x00, 0, 0)];

/// Attaches an empty XDP program, natively, as long as the returned link lives.
pub fn attach_empty(namespace: &Namespace, interface: &str) -> anyhow::Result<OwnedFd> {
    let attach = || -> io::Result<OwnedFd> {
        let program = load_xdp(&EMPTY)?;
        let mut attributes = Link {
            program: raw(&program),
            interface: if_nametoindex(interface)?,
            // BPF_XDP
            kind: 37,
            // XDP_FLAGS_DRV_MODE
            flags: 1 << 2,
        };
        bpf(28, &mut attributes).map(owned)
    };
    namespace.run(attach)?.context("cannot attach an empty XDP program")
}

/// Loads an XDP program.
pub(super) fn load_xdp(program: &[Instruction]) -> io::Result<OwnedFd> {
    let words = program.iter().flat_map(|Instruction(code, registers, offset, value)| {
        let [low, high] = offset.to_le_bytes();
        let [a, b, c, d] = value.to_le_bytes();
        [*code, *registers, low, high, a, b, c, d]
    });
    let bytes: Vec<u8> = words.collect();
    let mut attributes = Load {
        // BPF_PROG_TYPE_XDP
        kind: 6,
        instructions: u32::try_from(program.len()).map_err(io::Error::other)?,
        code: bytes.as_ptr() as u64,
        license: c"GPL".as_ptr() as u64,
    };
    bpf(5, &mut attributes).map(owned)
}

/// Has a program handle so many copies of a frame as if they had been received, in batches.
pub(super) fn send_live(
    program: &OwnedFd,
    frame: &[u8],
    repeat: u32,
    batch: u32,
) -> io::Result<()> {
    let mut attributes = TestRun {
        program: raw(program),
        data_bytes: u32::try_from(frame.len()).map_err(io::Error::other)?,
        data: frame.as_ptr() as u64,
        repeat,
        // BPF_F_TEST_XDP_LIVE_FRAMES
        flags: 1 << 1,
        batch,
        ..TestRun::default()
    };
    bpf(10, &mut attributes).map(drop)
}

/// Makes an array of one value.
pub(super) fn make_map(bytes: usize) -> io::Result<OwnedFd> {
    let value = u32::try_from(bytes).map_err(io::Error::other)?;
    // BPF_MAP_TYPE_ARRAY
    bpf(0, &mut Map { kind: 2, key: 4, value, entries: 1 }).map(owned)
}

/// Writes the value of such an array, which has to be of that size.
pub(super) fn write<T: Copy>(map: &OwnedFd, value: &mut T) -> io::Result<()> {
    bpf(2, &mut Element::of(map, &0, value)).map(drop)
}

/// Reads it.
pub(super) fn read<T: Copy>(map: &OwnedFd, value: &mut T) -> io::Result<()> {
    bpf(1, &mut Element::of(map, &0, value)).map(drop)
}

/// The members of `union bpf_attr` that the commands here take (include/uapi/linux/bpf.h).
#[repr(C)]
struct Map {
    kind: u32,
    key: u32,
    value: u32,
    entries: u32,
}

#[repr(C)]
struct Element {
    map: u32,
    _pad: u32,
    key: u64,
    value: u64,
    flags: u64,
}

impl Element {
    fn of<T>(map: &OwnedFd, key: &u32, value: &mut T) -> Self {
        let (key, value) = (std::ptr::from_ref(key) as u64, std::ptr::from_mut(value) as u64);
        Self { map: raw(map), _pad: 0, key, value, flags: 0 }
    }
}

#[repr(C)]
struct Load {
    kind: u32,
    instructions: u32,
    code: u64,
    license: u64,
}

#[repr(C)]
struct Link {
    program: u32,
    interface: u32,
    kind: u32,
    flags: u32,
}

#[repr(C)]
#[derive(Default)]
struct TestRun {
    program: u32,
    returned: u32,
    data_bytes: u32,
    out_bytes: u32,
    data: u64,
    out: u64,
    repeat: u32,
    duration: u32,
    context_bytes: u32,
    context_out_bytes: u32,
    context: u64,
    context_out: u64,
    flags: u32,
    processor: u32,
    batch: u32,
    _pad: u32,
}

fn raw(fd: &OwnedFd) -> u32 {
    fd.as_raw_fd().cast_unsigned()
}

fn owned(fd: i32) -> OwnedFd {
    // SAFETY: the kernel has just made it for the caller, who has it from here on.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

fn bpf<A>(command: libc::c_int, attributes: &mut A) -> io::Result<i32> {
    let (bytes, attributes) = (size_of::<A>(), std::ptr::from_mut(attributes));
    // SAFETY: a prefix of `union bpf_attr` of the length that is given, zero beyond what is set; what it points to is
    // borrowed by the callers for longer than this call, and as large as they say.
    let done = unsafe { libc::syscall(libc::SYS_bpf, command, attributes, bytes) };
    if done < 0 {
        return Err(io::Error::last_os_error());
    }
    i32::try_from(done).map_err(io::Error::other)
}
