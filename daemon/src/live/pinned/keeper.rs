//! What outlives a daemon beside the kernel's tables: a few figures and the rules in force, in pinned maps of one element
//! each. They are written by descriptor, each at once: a kill leaves what was there, or what came after it.

use std::{io, os::fd::AsFd as _};

use aya::maps::MapData;
use datapath::layout::KEPT_RULES_BYTES;
pub use datapath::layout::{Kept, SEEN_BEFORE_MAX, SeenBefore};

use crate::live::batch::{self, BatchCursor};

/// Longest text of rules: there is a 0 behind it.
const RULES_MAX: usize = KEPT_RULES_BYTES - 1;

/// Where they are kept.
#[derive(Debug)]
pub struct Keeper {
    figures: MapData,
    rules: MapData,
}

impl Keeper {
    /// The maps `KEPT` and `KEPT_RULES`.
    pub(in crate::live) const fn new(figures: MapData, rules: MapData) -> Self {
        Self { figures, rules }
    }

    /// Sets the figures that the first of all daemons begins with; later ones go on from what there is.
    pub(in crate::live) fn begin(&self, first: Kept) -> io::Result<()> {
        if self.kept()?.since_ns == 0 { self.keep(first) } else { Ok(()) }
    }

    /// Replaces the figures.
    pub fn keep(&self, kept: Kept) -> io::Result<()> {
        batch::update_batch(self.figures.fd().as_fd(), &[0_u32], &[kept])
    }

    /// The figures.
    pub fn kept(&self) -> io::Result<Kept> {
        let mut kept = [Kept::default()];
        read(&self.figures, &mut kept)?;
        Ok(kept[0])
    }

    /// Replaces the rules.
    pub fn keep_rules(&self, text: &str) -> io::Result<()> {
        if text.len() > RULES_MAX {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        let mut bytes = text.as_bytes().to_vec();
        bytes.resize(KEPT_RULES_BYTES, 0);
        let (element, _) = bytes.as_chunks::<KEPT_RULES_BYTES>();
        batch::update_batch(self.rules.fd().as_fd(), &[0_u32], element)
    }

    /// The rules, where any were put in force.
    pub fn rules(&self) -> io::Result<Option<String>> {
        let mut bytes = vec![0; KEPT_RULES_BYTES];
        let (element, _) = bytes.as_chunks_mut::<KEPT_RULES_BYTES>();
        read(&self.rules, element)?;
        let length = bytes.iter().position(|byte| *byte == 0).unwrap_or(KEPT_RULES_BYTES);
        bytes.truncate(length);
        Ok(String::from_utf8(bytes).ok().filter(|text| !text.is_empty()))
    }
}

/// Reads the one element of a map.
fn read<V>(map: &MapData, element: &mut [V]) -> io::Result<()> {
    let mut to = BatchCursor::default();
    batch::lookup_batch(map.fd().as_fd(), None, &mut to, &mut [0_u32], element).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::live::layout::Shape;

    /// A map of one element; `None` without root.
    fn map(name: &str, value: usize) -> Option<MapData> {
        if !nix::unistd::geteuid().is_root() {
            assert!(std::env::var("CI").as_deref() != Ok("true"), "maps need root");
            return None;
        }
        let value = u32::try_from(value).unwrap();
        let shape = Shape { name: name.into(), kind: 2, key: 4, value, entries: 1, flags: 0 };
        Some(shape.create().unwrap())
    }

    #[test]
    fn what_is_kept_comes_back_and_no_more_fits() {
        let Some(figures) = map("KEPT", size_of::<Kept>()) else { return };
        let keeper = Keeper::new(figures, map("KEPT_RULES", KEPT_RULES_BYTES).unwrap());
        assert_eq!((keeper.kept().unwrap(), keeper.rules().unwrap()), (Kept::default(), None));
        let first = Kept { since_ns: 7, ..Kept::default() };
        keeper.begin(first).unwrap();
        assert_eq!(keeper.kept().unwrap(), first);
        let next = Kept { closed: 3, aged: u64::MAX, ..first };
        keeper.keep(next).unwrap();
        keeper.begin(Kept { since_ns: 9, ..Kept::default() }).unwrap();
        keeper.keep_rules("a long text").unwrap();
        keeper.keep_rules("short").unwrap();
        assert_eq!(keeper.rules().unwrap().as_deref(), Some("short"));
        assert_eq!(keeper.kept().unwrap(), next);
        assert!(keeper.keep_rules(&"x".repeat(RULES_MAX + 1)).is_err());
        let longest = "x".repeat(RULES_MAX);
        keeper.keep_rules(&longest).unwrap();
        assert_eq!(keeper.rules().unwrap(), Some(longest));
    }
}
