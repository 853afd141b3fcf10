//! One CPU's ring of captured packets, read as memory: the next record can be looked at before it is taken, so that the
//! rings of several CPUs can be merged by time. Never copies a record, and never waits.
//!
//! The layout is the kernel's (kernel/bpf/ringbuf.c): a page with the reader's position, a page with the writer's, and
//! the bytes, twice in a row, so that a record at the end is whole. Each record has a header of 8 bytes: its length, with
//! a bit while it is written and one where it was given up; then what it holds, up to a multiple of 8.

use std::{
    io,
    os::fd::{AsFd, AsRawFd as _, BorrowedFd},
    ptr::NonNull,
    sync::atomic::{AtomicU32, AtomicU64, Ordering},
};

use aya::maps::MapData;
use datapath::layout::CaptureRecord;
use zerocopy::FromBytes as _;

/// `BPF_RINGBUF_BUSY_BIT` and `BPF_RINGBUF_DISCARD_BIT` (include/uapi/linux/bpf.h).
const BUSY: u32 = 1 << 31;
const DISCARDED: u32 = 1 << 30;
/// `BPF_RINGBUF_HDR_SZ`.
const HEADER: u64 = 8;

/// The ring.
#[derive(Debug)]
pub(super) struct Ring {
    map: MapData,
    /// The reader's page.
    consumer: Mapping,
    /// The writer's page and the bytes behind it.
    producer: Mapping,
    /// The bytes, less one.
    mask: u64,
    page: usize,
    /// As far as this reader has come, and the writer when it was last asked.
    consumed: u64,
    produced: u64,
}

/// A record that is whole.
#[derive(Clone, Copy, Debug)]
pub(super) struct Item<'a> {
    pub(super) record: CaptureRecord,
    /// What follows it.
    pub(super) bytes: &'a [u8],
}

impl Ring {
    pub(super) fn new(map: MapData) -> io::Result<Self> {
        let bytes = map.info().map_err(io::Error::other)?.max_entries() as usize;
        if !bytes.is_power_of_two() {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let page = usize::try_from(sysconf_page()?).map_err(io::Error::other)?;
        let fd = map.fd().as_fd();
        let consumer = Mapping::new(fd, 0, page, libc::PROT_READ | libc::PROT_WRITE)?;
        let producer = Mapping::new(fd, page, page + 2 * bytes, libc::PROT_READ)?;
        let mask = bytes as u64 - 1;
        let mut ring = Self { map, consumer, producer, mask, page, consumed: 0, produced: 0 };
        ring.consumed = ring.consumer_position().load(Ordering::Relaxed);
        Ok(ring)
    }

    /// The next record, which stays in the ring until [`Ring::take`].
    pub(super) fn peek(&mut self) -> Option<Item<'_>> {
        loop {
            if self.consumed >= self.produced {
                self.produced = self.producer_position().load(Ordering::Acquire);
                if self.consumed >= self.produced {
                    return None;
                }
            }
            let length = self.length().load(Ordering::Acquire);
            if length & BUSY != 0 {
                return None;
            }
            if length & DISCARDED == 0
                && let Ok((record, _)) = CaptureRecord::read_from_prefix(self.bytes(length))
            {
                let bytes = &self.bytes(length)[size_of::<CaptureRecord>()..];
                return Some(Item { record, bytes });
            }
            self.pass(length & !DISCARDED);
        }
    }

    /// Gives the room of the record that [`Ring::peek`] has shown back to the kernel.
    pub(super) fn take(&mut self) {
        if self.consumed < self.produced {
            let length = self.length().load(Ordering::Relaxed);
            self.pass(length & !DISCARDED);
        }
    }

    fn pass(&mut self, length: u32) {
        self.consumed += (HEADER + u64::from(length)).next_multiple_of(8);
        self.consumer_position().store(self.consumed, Ordering::Release);
    }

    /// The first word of the next record's header.
    fn length(&self) -> &AtomicU32 {
        // SAFETY: headers are aligned to 8 bytes and lie within the bytes; the kernel writes the word atomically.
        unsafe { self.at(0).cast::<AtomicU32>().as_ref() }
    }

    /// What a whole record of that length holds.
    fn bytes(&self, length: u32) -> &[u8] {
        let length = (length as usize).min(usize::try_from(self.mask).unwrap_or(usize::MAX));
        // SAFETY: the bytes are mapped twice in a row, so that none of a record lies beyond the mapping; the kernel does
        // not write to a whole record before it was passed, which takes `&mut self`.
        unsafe { std::slice::from_raw_parts(self.at(HEADER).as_ptr(), length) }
    }

    /// Where the next record is, and so many bytes further.
    fn at(&self, further: u64) -> NonNull<u8> {
        let offset = self.page + usize::try_from(self.consumed & self.mask).unwrap_or(0);
        // SAFETY: within the mapping: the position is within the bytes, behind which they come once more.
        unsafe { self.producer.start.add(offset + usize::try_from(further).unwrap_or(0)) }
    }

    fn consumer_position(&self) -> &AtomicU64 {
        // SAFETY: the first word of a mapped page, which only this reader writes to.
        unsafe { self.consumer.start.cast().as_ref() }
    }

    fn producer_position(&self) -> &AtomicU64 {
        // SAFETY: the first word of a mapped page, which the kernel writes atomically.
        unsafe { self.producer.start.cast().as_ref() }
    }
}

impl AsFd for Ring {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.map.fd().as_fd()
    }
}

fn sysconf_page() -> io::Result<i64> {
    nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE)?
        .ok_or_else(|| io::ErrorKind::Other.into())
}

/// Memory that is shared with the kernel.
#[derive(Debug)]
struct Mapping {
    start: NonNull<u8>,
    bytes: usize,
}

// SAFETY: the mapping is this value's alone, and stays where it is whichever thread has it.
unsafe impl Send for Mapping {}

impl Mapping {
    fn new(fd: BorrowedFd<'_>, offset: usize, bytes: usize, access: i32) -> io::Result<Self> {
        let offset = libc::off_t::try_from(offset).map_err(io::Error::other)?;
        // SAFETY: a new mapping, of which nobody else knows.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                bytes,
                access,
                libc::MAP_SHARED,
                fd.as_raw_fd(),
                offset,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { start, bytes })
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: mapped by `new`, with this length, and used by nobody any more.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.bytes) };
    }
}
