//! The generator: one frame, made over and over by the kernel itself (`BPF_F_TEST_XDP_LIVE_FRAMES`) and redirected out of a
//! veth, at a pace that its program keeps. Never sends from a namespace or interface that it was not given.

use std::{
    io,
    os::fd::{AsRawFd as _, OwnedFd},
};

use anyhow::{Context as _, ensure};
use lab::Namespace;
use nix::{
    net::if_::if_nametoindex,
    sched::{CpuSet, sched_setaffinity},
    time::{ClockId, clock_gettime},
    unistd::Pid,
};

use super::kernel::{self, Instruction};

/// The processor that sends, and on which the kernel handles what was sent: hooks, taps and the receiver's stack.
pub const PROCESSOR: usize = 0;
/// The slowest pace: the program looks at the clock only so often before a frame.
pub const RATE_MIN: u64 = 20_000;
/// Source of the frames, by which they are known in a capture.
pub const SOURCE: [u8; 6] = [0x02, 0, 0, 0x77, 0x01, 0x02];
/// Nobody's, so that the receiver's stack has nothing to do with them.
const DESTINATION: [u8; 6] = [0x02, 0, 0, 0x77, 0x7f, 0x7f];
/// Frames that are made before they are handed on, the kernel's default: less than a veth's ring has room for.
const BATCH: u32 = 64;
/// Looks at the clock before one frame.
const LOOKS_MAX: i32 = 4_096;
/// Fixed point of the program's times: 1/256 ns.
const FRACTION_BITS: u32 = 8;

/// What was sent.
#[derive(Clone, Copy, Debug)]
pub struct Sent {
    /// Frames handed to the veth.
    pub frames: u64,
    /// From first to last, ns.
    pub wall_ns: u64,
    /// Time that the sending thread ran without waiting for the pace, ns: making frames, and all that the kernel does with
    /// them on the way to the other end's hooks and taps.
    pub busy_ns: u64,
    /// Time that it ran and only waited, ns.
    pub waited_ns: u64,
}

impl Sent {
    /// Frames per second.
    #[must_use]
    pub fn rate(&self) -> u64 {
        let rate = u128::from(self.frames) * 1_000_000_000 / u128::from(self.wall_ns.max(1));
        u64::try_from(rate).unwrap_or(u64::MAX)
    }
}

/// A program that sends one frame out of one interface.
#[derive(Debug)]
pub struct Sender<'a> {
    namespace: &'a Namespace,
    pace: OwnedFd,
    program: OwnedFd,
    frame: Vec<u8>,
}

/// The value of the program's map.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
struct Pace {
    /// When the next frame is due, in the fixed point; 0 before the first.
    due: u64,
    /// From one frame to the next, in the fixed point; 0 is as quick as can be.
    interval: u64,
    /// Time spent waiting, ns.
    waited_ns: u64,
    /// When the first and the last frame were made.
    first_ns: u64,
    last_ns: u64,
}

impl<'a> Sender<'a> {
    /// Frames of `length` bytes, out of `interface`.
    pub fn new(namespace: &'a Namespace, interface: &str, length: usize) -> anyhow::Result<Self> {
        let index = namespace.run(|| if_nametoindex(interface))?.context("no such interface")?;
        let pace = kernel::make_map(size_of::<Pace>()).context("cannot make the sender's map")?;
        let program = kernel::load_xdp(&instructions(pace.as_raw_fd(), index.cast_signed()))
            .context("cannot load the sender")?;
        Ok(Self { namespace, pace, program, frame: frame(length) })
    }

    /// Sends so many frames at so many per second, as quickly as it can without a rate.
    pub fn send(&self, frames: u32, rate: Option<u64>) -> anyhow::Result<Sent> {
        let interval = match rate {
            Some(rate) => {
                ensure!(rate >= RATE_MIN, "{rate} frames/s is slower than the sender can be");
                (1_000_000_000 << FRACTION_BITS) / rate
            }
            None => 0,
        };
        kernel::write(&self.pace, &mut Pace { interval, ..Pace::default() })?;
        let ran_ns = self.namespace.run(|| -> anyhow::Result<_> {
            let mut processors = CpuSet::new();
            processors.set(PROCESSOR)?;
            sched_setaffinity(Pid::from_raw(0), &processors).context("cannot stay on a CPU")?;
            let before_ns = thread_ns()?;
            kernel::send_live(&self.program, &self.frame, frames, BATCH)
                .context("the kernel does not send (BPF_F_TEST_XDP_LIVE_FRAMES)")?;
            Ok(thread_ns()? - before_ns)
        })??;
        let mut pace = Pace::default();
        kernel::read(&self.pace, &mut pace)?;
        let Pace { waited_ns, first_ns, last_ns, .. } = pace;
        Ok(Sent {
            frames: frames.into(),
            wall_ns: last_ns.saturating_sub(first_ns),
            busy_ns: ran_ns.saturating_sub(waited_ns),
            waited_ns,
        })
    }
}

/// UDP over IPv4 to the discard port, padded with zeros.
fn frame(length: usize) -> Vec<u8> {
    let length_of = |bytes: usize| u16::try_from(bytes).unwrap_or(u16::MAX).to_be_bytes();
    let mut frame = [&DESTINATION[..], &SOURCE, &[0x08, 0x00]].concat();
    let mut header = [0_u8; 20];
    (header[0], header[8], header[9]) = (0x45, 64, 17);
    header[2..4].copy_from_slice(&length_of(length - 14));
    header[12..16].copy_from_slice(&[10, 77, 0, 1]);
    header[16..20].copy_from_slice(&[10, 77, 0, 2]);
    let words = header.chunks(2).map(|word| u32::from(word[0]) << 8 | u32::from(word[1]));
    let sum = words.sum::<u32>();
    let sum = !((sum & 0xffff) + (sum >> 16));
    header[10..12].copy_from_slice(&sum.to_be_bytes()[2..]);
    frame.extend_from_slice(&header);
    frame.extend_from_slice(&[0x30, 0x39, 0, 9]);
    frame.extend_from_slice(&length_of(length - 34));
    frame.resize(length, 0);
    frame
}

/// Time that the calling thread ran, interrupts and softirqs in it included, ns.
fn thread_ns() -> io::Result<u64> {
    let time = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)?;
    let (seconds, nanos) = (u64::try_from(time.tv_sec()), u64::try_from(time.tv_nsec()));
    Ok(seconds.unwrap_or(0) * 1_000_000_000 + nanos.unwrap_or(0))
}

fn instructions(pace: i32, interface: i32) -> [Instruction; 29] {
    const CLOCK: i32 = 5;
    const REDIRECT: i32 = 23;
    let shift = FRACTION_BITS.cast_signed();
    [
        // r6: the map's value, a wide load of two words.
        Instruction(0x18, 0x26, 0, pace),
        Instruction(0x00, 0x00, 0, 0),
        // r7: now, kept as the last frame's. r8: due; for the first frame that is now.
        Instruction(0x85, 0x00, 0, CLOCK),
        Instruction(0xbf, 0x07, 0, 0),
        Instruction(0x79, 0x68, 0, 0),
        Instruction(0x7b, 0x76, 32, 0),
        Instruction(0x55, 0x08, 3, 0),
        Instruction(0x7b, 0x76, 24, 0),
        Instruction(0xbf, 0x78, 0, 0),
        Instruction(0x67, 0x08, 0, shift),
        // r9: due in ns; the next frame is due an interval later.
        Instruction(0xbf, 0x89, 0, 0),
        Instruction(0x77, 0x09, 0, shift),
        Instruction(0x79, 0x61, 8, 0),
        Instruction(0x0f, 0x18, 0, 0),
        Instruction(0x7b, 0x86, 0, 0),
        // Late: send.
        Instruction(0x3d, 0x97, 9, 0),
        // Early: look at the clock until it is due.
        Instruction(0xb7, 0x08, 0, LOOKS_MAX),
        Instruction(0x85, 0x00, 0, CLOCK),
        Instruction(0x3d, 0x90, 2, 0),
        Instruction(0x17, 0x08, 0, 1),
        Instruction(0x55, 0x08, -4, 0),
        // What was waited.
        Instruction(0x1f, 0x70, 0, 0),
        Instruction(0x79, 0x61, 16, 0),
        Instruction(0x0f, 0x01, 0, 0),
        Instruction(0x7b, 0x16, 16, 0),
        // Send.
        Instruction(0xb7, 0x01, 0, interface),
        Instruction(0xb7, 0x02, 0, 0),
        Instruction(0x85, 0x00, 0, REDIRECT),
        Instruction(0x95, 0x00, 0, 0),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_has_its_length_and_a_header_that_adds_up() {
        for length in [64, 1514] {
            let frame = frame(length);
            assert_eq!(frame.len(), length);
            let words = frame[14..34].chunks(2);
            let sum: u32 = words.map(|word| u32::from(word[0]) << 8 | u32::from(word[1])).sum();
            assert_eq!((sum & 0xffff) + (sum >> 16), 0xffff);
        }
    }

    #[test]
    fn jumps_go_to_instructions() {
        let words = instructions(0, 0);
        for (at, Instruction(code, _, offset, _)) in words.iter().enumerate() {
            let is_jump = matches!(code, 0x55 | 0x3d);
            let to = at.cast_signed() + 1 + isize::from(*offset);
            assert!(!is_jump || (0..words.len().cast_signed()).contains(&to), "at {at}");
        }
    }

    #[test]
    fn a_rate_is_of_frames_and_time() {
        let sent = Sent { frames: 500_000, wall_ns: 2_000_000_000, busy_ns: 0, waited_ns: 0 };
        assert_eq!(sent.rate(), 250_000);
    }
}
