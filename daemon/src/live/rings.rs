//! The capture ring's reader: one record at a time, in the order in which they were put in.

use std::{
    os::fd::{AsRawFd as _, BorrowedFd},
    time::Duration,
};

use aya::maps::{Map, MapData, PerCpuArray, RingBuf};
use datapath::layout::{CaptureRecord, CaptureStats};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use zerocopy::FromBytes as _;

use super::{LiveError, pod::Pod};

/// The ring, and what the kernel counted about it.
pub struct CaptureRing {
    ring: RingBuf<MapData>,
    /// Records read, whole ones or not.
    consumed: u64,
    stats: PerCpuArray<MapData, Pod<CaptureStats>>,
}

impl std::fmt::Debug for CaptureRing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CaptureRing").field("fd", &self.ring.as_raw_fd()).finish_non_exhaustive()
    }
}

impl CaptureRing {
    pub(super) fn new(ring: Map, stats: Map) -> Result<Self, LiveError> {
        Ok(Self {
            ring: RingBuf::try_from(ring)
                .map_err(|source| LiveError::Map { name: "CAPTURE_RING", source })?,
            consumed: 0,
            stats: PerCpuArray::try_from(stats)
                .map_err(|source| LiveError::Map { name: "CAPTURE_STATS", source })?,
        })
    }

    /// Goes on where an earlier reader ended, however it did: what it left in the ring is read past, and all that was
    /// produced counts as consumed. To be called while no stage copies.
    pub(super) fn take_over(&mut self) -> Result<(), LiveError> {
        while self.read(usize::MAX, |_, _| {}) > 0 {}
        self.consumed = self.stats()?.produced;
        Ok(())
    }

    /// Waits until there is a record, but no longer than `timeout`. Returns whether there is one.
    pub fn wait(&self, timeout: Duration) -> bool {
        // SAFETY: the ring owns the descriptor and outlives this call.
        let fd = unsafe { BorrowedFd::borrow_raw(self.ring.as_raw_fd()) };
        let mut fds = [PollFd::new(fd, PollFlags::POLLIN)];
        let timeout = PollTimeout::try_from(timeout).unwrap_or(PollTimeout::MAX);
        // An interrupted wait is a short one.
        poll(&mut fds, timeout).is_ok_and(|ready| ready > 0)
    }

    /// Hands out up to `most` records; returns how many.
    pub fn read(&mut self, most: usize, mut visit: impl FnMut(&CaptureRecord, &[u8])) -> usize {
        let mut read = 0;
        while read < most
            && let Some(item) = self.ring.next()
        {
            read += 1;
            self.consumed += 1;
            if let Ok((record, bytes)) = CaptureRecord::read_from_prefix(&item) {
                let captured = record.captured_len as usize;
                visit(&record, bytes.get(..captured).unwrap_or(bytes));
            }
        }
        read
    }

    /// Records read since the maps were made, by this reader: there is one.
    #[must_use]
    pub const fn consumed(&self) -> u64 {
        self.consumed
    }

    /// What the stage did since the maps were made, on all CPUs.
    pub fn stats(&self) -> Result<CaptureStats, LiveError> {
        let per_cpu = self
            .stats
            .get(&0, 0)
            .map_err(|source| LiveError::Map { name: "CAPTURE_STATS", source })?;
        let mut sum = CaptureStats::default();
        for Pod(stats) in per_cpu.iter() {
            sum.produced += stats.produced;
            sum.lost_ring += stats.lost_ring;
            sum.lost_copy += stats.lost_copy;
        }
        Ok(sum)
    }
}
