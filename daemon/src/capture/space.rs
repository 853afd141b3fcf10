//! How much room a file system has for captures. Never lets them have the last of it: others need it, too.

use std::{io, path::Path};

use nix::sys::statvfs::statvfs;

/// Bytes that captures leave free, on a large file system.
pub(super) const RESERVE_MAX: u64 = 256 << 20;
/// Of a small one they leave this part.
const RESERVE_PART: u64 = 20;

/// What a file system has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Space {
    /// Bytes that an ordinary user could write.
    pub(super) free_bytes: u64,
    /// Of those, the bytes that are not for captures.
    pub(super) reserve_bytes: u64,
}

impl Space {
    /// The space of the file system that `dir` is on.
    pub(super) fn of(dir: &Path) -> io::Result<Self> {
        let fs = statvfs(dir)?;
        let bytes = |blocks: u64| blocks.saturating_mul(fs.fragment_size());
        Ok(Self {
            free_bytes: bytes(fs.blocks_available()),
            reserve_bytes: RESERVE_MAX.min(bytes(fs.blocks()) / RESERVE_PART),
        })
    }

    /// Whether captures have had their part.
    pub(super) const fn is_used_up(self) -> bool {
        self.free_bytes < self.reserve_bytes
    }
}
