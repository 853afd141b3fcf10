//! Somebody else's programs, written by hand and loaded by bpf(2) itself: each does nothing, or one thing to the
//! datagrams of one port. They end with their values. Must never share code with what linnet loads or looks with.

use std::{
    io,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
    path::PathBuf,
    process::Command,
};

use lab::Namespace;

/// `BPF_PROG_LOAD`, `BPF_OBJ_PIN`, `BPF_OBJ_GET_INFO_BY_FD`, `BPF_LINK_CREATE` (include/uapi/linux/bpf.h).
const PROG_LOAD: libc::c_int = 5;
const OBJ_PIN: libc::c_int = 6;
const OBJ_GET_INFO_BY_FD: libc::c_int = 15;
const LINK_CREATE: libc::c_int = 28;
/// `BPF_PROG_TYPE_SCHED_CLS`, `BPF_PROG_TYPE_XDP`, `BPF_XDP`.
const SCHED_CLS: u32 = 3;
const XDP: u32 = 6;
const AT_XDP: u32 = 37;

/// What a program says of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Verdict(pub(crate) i32);

impl Verdict {
    /// `TCX_NEXT`, which is `TC_ACT_UNSPEC`: whoever comes next.
    pub(crate) const NEXT: Self = Self(-1);
    /// `TCX_PASS`, which is `TC_ACT_OK`: to the stack, without asking whoever comes next.
    pub(crate) const TC_OK: Self = Self(0);
    /// `TCX_DROP`, which is `TC_ACT_SHOT`.
    pub(crate) const TC_SHOT: Self = Self(2);
    pub(crate) const XDP_DROP: Self = Self(1);
    pub(crate) const XDP_PASS: Self = Self(2);
}

/// Where on a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// `BPF_F_BEFORE` everybody.
    First = 8,
    /// `BPF_F_AFTER` everybody.
    Last = 16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// `BPF_TCX_INGRESS`.
    Ingress = 46,
    /// `BPF_TCX_EGRESS`.
    Egress = 47,
}

impl Way {
    pub(crate) const BOTH: [Self; 2] = [Self::Ingress, Self::Egress];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Ingress => "ingress",
            Self::Egress => "egress",
        }
    }
}

/// A program in the kernel.
#[derive(Debug)]
pub(crate) struct Foreign {
    fd: OwnedFd,
    pub(crate) id: u32,
    name: String,
}

/// A program on a hook.
#[derive(Debug)]
pub(crate) struct OnHook {
    _fd: OwnedFd,
    /// The link's.
    pub(crate) id: u32,
}

impl Foreign {
    /// One for TC that lets everything pass to the next one.
    pub(crate) fn tc(name: &str) -> Self {
        Self::load(name, SCHED_CLS, &[mov(0, Verdict::NEXT.0), EXIT])
    }

    /// One for XDP that lets everything pass.
    pub(crate) fn xdp(name: &str) -> Self {
        Self::load(name, XDP, &[mov(0, Verdict::XDP_PASS.0), EXIT])
    }

    /// One for TC that says this of IPv4 datagrams to a port, and leaves all others to the next one.
    pub(crate) fn tc_of_port(name: &str, port: u16, verdict: Verdict) -> Self {
        // `data` and `data_end` of `struct __sk_buff`.
        Self::load(name, SCHED_CLS, &of_port([76, 80], port, verdict, Verdict::NEXT))
    }

    /// The same for XDP.
    pub(crate) fn xdp_of_port(name: &str, port: u16, verdict: Verdict) -> Self {
        // `data` and `data_end` of `struct xdp_md`.
        Self::load(name, XDP, &of_port([0, 4], port, verdict, Verdict::XDP_PASS))
    }

    fn load(name: &str, kind: u32, instructions: &[u64]) -> Self {
        #[repr(C)]
        struct Attr {
            kind: u32,
            count: u32,
            instructions: u64,
            license: u64,
            log_level: u32,
            log_size: u32,
            log: u64,
            kernel: u32,
            flags: u32,
            name: [u8; 16],
            ifindex: u32,
            attach_type: u32,
        }
        let mut bytes = [0; 16];
        bytes[..name.len()].copy_from_slice(name.as_bytes());
        let mut log = vec![0_u8; 16_384];
        let mut attr = Attr {
            kind,
            count: u32::try_from(instructions.len()).unwrap(),
            instructions: instructions.as_ptr() as u64,
            license: c"GPL".as_ptr() as u64,
            log_level: 1,
            log_size: u32::try_from(log.len()).unwrap(),
            log: log.as_mut_ptr() as u64,
            kernel: 0,
            flags: 0,
            name: bytes,
            ifindex: 0,
            attach_type: if kind == XDP { AT_XDP } else { 0 },
        };
        let fd = bpf(PROG_LOAD, &mut attr).unwrap_or_else(|error| {
            panic!("{name}: {error}: {}", String::from_utf8_lossy(&log));
        });
        let fd = owned(fd);
        Self { id: id_of(&fd), fd, name: name.to_owned() }
    }

    /// Onto the TCX chain of an interface.
    pub(crate) fn onto_tcx(&self, at: (&Namespace, &str), way: Way, end: End) -> OnHook {
        self.onto(at, way as u32, end as u32)
    }

    /// Onto the interface's XDP hook, behind the driver or in it (`XDP_FLAGS_SKB_MODE`, `XDP_FLAGS_DRV_MODE`).
    pub(crate) fn onto_xdp(&self, at: (&Namespace, &str), generic: bool) -> OnHook {
        self.onto(at, AT_XDP, if generic { 2 } else { 4 })
    }

    fn onto(&self, (namespace, interface): (&Namespace, &str), kind: u32, flags: u32) -> OnHook {
        #[repr(C)]
        struct Attr {
            program: u32,
            ifindex: u32,
            kind: u32,
            flags: u32,
            relative: u32,
            _pad: u32,
            revision: u64,
        }
        let made = namespace.run(|| {
            let mut attr = Attr {
                program: self.fd.as_raw_fd().cast_unsigned(),
                ifindex: nix::net::if_::if_nametoindex(interface).unwrap(),
                kind,
                flags,
                relative: 0,
                _pad: 0,
                revision: 0,
            };
            bpf(LINK_CREATE, &mut attr)
        });
        let fd = made.unwrap().unwrap_or_else(|error| panic!("{}: {error}", self.name));
        let fd = owned(fd);
        OnHook { id: id_of(&fd), _fd: fd }
    }

    /// As a filter of the interface's clsact qdisc, which has to be there; it goes with the interface.
    pub(crate) fn onto_clsact(
        &self,
        (namespace, interface): (&Namespace, &str),
        way: Way,
        priority: u16,
    ) {
        let pin: PathBuf =
            format!("/sys/fs/bpf/linnet-test-{}-{}-{}", std::process::id(), self.name, self.id)
                .into();
        let path = std::ffi::CString::new(pin.to_str().unwrap()).unwrap();
        #[repr(C)]
        struct Attr {
            path: u64,
            fd: u32,
            flags: u32,
        }
        let fd = self.fd.as_raw_fd().cast_unsigned();
        bpf(OBJ_PIN, &mut Attr { path: path.as_ptr() as u64, fd, flags: 0 }).unwrap();
        let (way, priority) = (way.name(), priority.to_string());
        let args = ["filter", "add", "dev", interface, way, "protocol", "all", "prio", &priority];
        let mut tc = namespace.command("tc");
        let done = tc.args(args).args(["bpf", "da", "object-pinned"]).arg(&pin).output();
        std::fs::remove_file(&pin).unwrap();
        let done = done.unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    }
}

impl OnHook {
    /// The link as bpftool shows it.
    pub(crate) fn shown(&self) -> String {
        bpftool(&["link", "show", "id", &self.id.to_string()])
    }
}

impl Foreign {
    /// The program as bpftool shows it.
    pub(crate) fn shown(&self) -> String {
        bpftool(&["prog", "show", "id", &self.id.to_string()])
    }
}

fn bpftool(args: &[&str]) -> String {
    let output = Command::new("bpftool").arg("-j").args(args).output().unwrap();
    assert!(output.status.success(), "{args:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// `exit`.
const EXIT: u64 = 0x95;

/// An instruction: code, destination, source, offset, number.
const fn instruction(code: u8, to: u8, from: u8, offset: i16, number: i32) -> u64 {
    code as u64
        | (to as u64) << 8
        | (from as u64) << 12
        | (offset.cast_unsigned() as u64) << 16
        | (number.cast_unsigned() as u64) << 32
}

const fn mov(to: u8, number: i32) -> u64 {
    instruction(0xb7, to, 0, 0, number)
}

/// A verdict on IPv4 datagrams without options to a port, and another on all else.
fn of_port([data, end]: [i16; 2], port: u16, verdict: Verdict, otherwise: Verdict) -> [u64; 15] {
    const WORD: u8 = 0x61;
    const HALF: u8 = 0x69;
    const BYTE: u8 = 0x71;
    /// Where the port ends.
    const WHOLE: i32 = 38;
    let wire = |number: u16| i32::from(u16::from_ne_bytes(number.to_be_bytes()));
    let unless = |number: i32, skip: i16| instruction(0x55, 5, 0, skip, number);
    [
        instruction(WORD, 2, 1, data, 0),
        instruction(WORD, 3, 1, end, 0),
        instruction(0xbf, 4, 2, 0, 0),
        instruction(0x07, 4, 0, 0, WHOLE),
        instruction(0x2d, 4, 3, 8, 0),
        instruction(HALF, 5, 2, 12, 0),
        unless(wire(0x0800), 6),
        instruction(BYTE, 5, 2, 23, 0),
        unless(17, 4),
        instruction(HALF, 5, 2, 36, 0),
        unless(wire(port), 2),
        mov(0, verdict.0),
        EXIT,
        mov(0, otherwise.0),
        EXIT,
    ]
}

/// The id of a program or link: the second word of what the kernel says of either.
fn id_of(fd: &OwnedFd) -> u32 {
    #[repr(C)]
    struct Attr {
        fd: u32,
        len: u32,
        info: u64,
    }
    let mut info = [0_u32; 2];
    let mut attr =
        Attr { fd: fd.as_raw_fd().cast_unsigned(), len: 8, info: info.as_mut_ptr() as u64 };
    bpf(OBJ_GET_INFO_BY_FD, &mut attr).unwrap();
    info[1]
}

fn bpf<T>(command: libc::c_int, attr: &mut T) -> io::Result<i32> {
    // SAFETY: the attributes are a prefix of `union bpf_attr` of the length that is given, and what they point to
    // outlives the call.
    let done =
        unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attr), size_of::<T>()) };
    if done < 0 {
        return Err(io::Error::last_os_error());
    }
    i32::try_from(done).map_err(io::Error::other)
}

fn owned(fd: i32) -> OwnedFd {
    // SAFETY: the kernel has just made this descriptor, and nobody else knows of it.
    unsafe { OwnedFd::from_raw_fd(fd) }
}
