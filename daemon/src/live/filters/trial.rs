//! Trying filters on packets without a hook: maps of their own, and one packet at a time. Must never be on the way of a
//! packet that is not its own.

use std::{
    io,
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
};

use datapath::layout::Views;
use zerocopy::{FromBytes as _, IntoBytes as _};

use super::{FilterSet, FiltersError, FiltersProgram, load};
use crate::live::{Object, batch};

/// `BPF_MAP_CREATE` (include/uapi/linux/bpf.h).
const MAP_CREATE: libc::c_int = 0;
/// `BPF_MAP_LOOKUP_ELEM`.
const LOOK_UP: libc::c_int = 1;
/// `BPF_MAP_TYPE_PROG_ARRAY` and `BPF_MAP_TYPE_PERCPU_ARRAY`.
const PROG_ARRAY: u32 = 3;
const PERCPU_ARRAY: u32 = 6;

/// The maps around the program of filters.
#[derive(Debug)]
pub struct Trial {
    views: OwnedFd,
    next: OwnedFd,
    /// CPUs that there may be.
    cpus: usize,
}

impl Trial {
    /// Makes the maps.
    pub fn new() -> Result<Self, FiltersError> {
        let failed = |source| FiltersError::Call { what: "make the maps of", source };
        let cpus = aya::util::nr_cpus().map_err(|(_, source)| failed(source))?;
        let views = u32::try_from(size_of::<Views>()).unwrap_or(u32::MAX);
        Ok(Self {
            views: create(PERCPU_ARRAY, views).map_err(failed)?,
            next: create(PROG_ARRAY, 4).map_err(failed)?,
            cpus,
        })
    }

    /// Loads filters between these maps; all that one is given have to be for the same kind of hook.
    pub fn load(
        &self,
        filters: &FilterSet,
        object: Object,
    ) -> Result<FiltersProgram, FiltersError> {
        load(filters, object, self.views.as_fd(), (self.next.as_fd(), 0))
    }

    /// The programs behind.
    #[must_use]
    pub fn next(&self) -> BorrowedFd<'_> {
        self.next.as_fd()
    }

    /// Gives every CPU this packet.
    pub fn put(&self, views: &Views) -> Result<(), FiltersError> {
        let mut all = views.as_bytes().repeat(self.cpus);
        self.element(load::UPDATE, &mut all, "give a packet to")
    }

    /// What the last run on this CPU found; the calling thread stays on one.
    pub fn matched(&self) -> Result<u64, FiltersError> {
        let mut all = vec![0; size_of::<Views>() * self.cpus];
        self.element(LOOK_UP, &mut all, "read what was found by")?;
        let failed = |source| FiltersError::Call { what: "find the processor of", source };
        let cpu = nix::sched::sched_getcpu().map_err(|error| failed(error.into()))?;
        let views = all.chunks_exact(size_of::<Views>()).nth(cpu);
        let views = views.and_then(|bytes| Views::read_from_bytes(bytes).ok());
        Ok(views.map_or(0, |views| views.matched))
    }

    /// A command on the one element, whose value is that of every CPU in turn.
    fn element(
        &self,
        command: libc::c_int,
        all: &mut [u8],
        what: &'static str,
    ) -> Result<(), FiltersError> {
        let key = 0_u32;
        let mut attr = load::ElementAttr {
            map: self.views.as_raw_fd().cast_unsigned(),
            key: std::ptr::from_ref(&key) as u64,
            value: all.as_mut_ptr() as u64,
            ..load::ElementAttr::default()
        };
        batch::bpf(command, &mut attr).map_err(|source| FiltersError::Call { what, source })
    }
}

/// A map of one element.
fn create(kind: u32, value: u32) -> io::Result<OwnedFd> {
    // Type, key size, value size, entries.
    let fd = batch::bpf_fd(MAP_CREATE, &mut [kind, 4, value, 1])?;
    // SAFETY: the kernel has just made this descriptor, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
