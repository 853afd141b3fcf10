//! Which interface each observation point stands for, in a pinned map: counters and flow keys name points, so an
//! interface must find its own again after a restart. Must never give a point away that is held.

use std::{
    collections::BTreeSet,
    os::fd::{AsFd as _, OwnedFd},
};

use datapath::layout::{POINTS_MAX, RegisterRow};

use super::{
    LiveError,
    batch::{self, BatchCursor},
};

const NAME: &str = "REGISTER";

/// The register. Point 0 stands for no interface.
#[derive(Debug)]
pub(super) struct Register {
    map: OwnedFd,
    rows: Vec<RegisterRow>,
    /// Points that this process has reserved and not given back.
    held: BTreeSet<u32>,
}

impl Register {
    /// Reads the register. Nobody holds a point yet: whoever held them has gone.
    pub(super) fn open(map: OwnedFd) -> Result<Self, LiveError> {
        let mut keys = vec![0_u32; POINTS_MAX as usize];
        let mut rows = vec![RegisterRow::FREE; POINTS_MAX as usize];
        let mut to = BatchCursor::default();
        batch::lookup_batch(map.as_fd(), None, &mut to, &mut keys, &mut rows)
            .map_err(failed("BPF_MAP_LOOKUP_BATCH"))?;
        Ok(Self { map, rows, held: BTreeSet::new() })
    }

    /// Reserves a point for an interface: the one that it had, else a free one, else the one whose interface went
    /// first. `None` where all are held.
    pub(super) fn reserve(
        &mut self,
        namespace: Option<&str>,
        name: &str,
        ifindex: u32,
    ) -> Result<Option<u32>, LiveError> {
        let wanted = RegisterRow {
            present: 1,
            ifindex,
            name: padded(name),
            namespace: padded(namespace.unwrap_or_default()),
            ..RegisterRow::FREE
        };
        let is_same = |row: &RegisterRow| {
            let identity = |row: &RegisterRow| (row.ifindex, row.name, row.namespace);
            row.incarnation != 0 && identity(row) == identity(&wanted)
        };
        let mut unheld: Vec<_> = (1..POINTS_MAX).filter(|it| !self.held.contains(it)).collect();
        let known = unheld.iter().copied().find(|point| is_same(self.row(*point)));
        unheld.sort_by_key(|point| self.row(*point).incarnation);
        let Some(point) = known.or_else(|| unheld.first().copied()) else { return Ok(None) };
        let incarnation = match known {
            Some(point) => self.row(point).incarnation,
            None => self.rows.iter().map(|row| row.incarnation).max().unwrap_or(0) + 1,
        };
        self.write(point, RegisterRow { incarnation, ..wanted })?;
        self.held.insert(point);
        Ok(Some(point))
    }

    /// The interface of a point has gone, or is not watched any more; should it come back, it finds its point again.
    pub(super) fn gone(&mut self, point: u32) -> Result<(), LiveError> {
        self.held.remove(&point);
        let row = *self.row(point);
        self.write(point, RegisterRow { present: 0, ..row })
    }

    /// Forgets the interface of a point that no counter, flow or rule names any more.
    #[cfg_attr(
        not(test),
        expect(dead_code, reason = "for who follows interfaces that come and go")
    )]
    pub(super) fn free(&mut self, point: u32) -> Result<(), LiveError> {
        self.held.remove(&point);
        self.write(point, RegisterRow::FREE)
    }

    fn row(&self, point: u32) -> &RegisterRow {
        self.rows.get(point as usize).unwrap_or(&RegisterRow::FREE)
    }

    fn write(&mut self, point: u32, row: RegisterRow) -> Result<(), LiveError> {
        let Some(known) = self.rows.get_mut(point as usize) else {
            return Err(LiveError::NoPoint(point));
        };
        batch::update_batch(self.map.as_fd(), &[point], &[row])
            .map_err(failed("BPF_MAP_UPDATE_BATCH"))?;
        *known = row;
        Ok(())
    }
}

fn failed(call: &'static str) -> impl Fn(std::io::Error) -> LiveError {
    move |source| LiveError::Syscall { call, map: NAME, source }
}

/// A name in so many bytes, cut where it is longer, with a 0 behind it.
fn padded<const N: usize>(name: &str) -> [u8; N] {
    let mut bytes = [0; N];
    for (to, from) in bytes.iter_mut().take(N - 1).zip(name.as_bytes()) {
        *to = *from;
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::live::layout::Shape;

    /// A register in the kernel; `None` without root.
    fn register() -> Option<(Register, OwnedFd)> {
        if !nix::unistd::geteuid().is_root() {
            assert!(std::env::var("CI").as_deref() != Ok("true"), "the register needs root");
            return None;
        }
        let shape = Shape {
            name: NAME.to_owned(),
            kind: 2,
            key: 4,
            value: u32::try_from(size_of::<RegisterRow>()).unwrap(),
            entries: POINTS_MAX,
            flags: 0,
        };
        let map = shape.create().unwrap();
        let map = map.fd().as_fd().try_clone_to_owned().unwrap();
        Some((Register::open(map.try_clone().unwrap()).unwrap(), map))
    }

    #[test]
    fn an_interface_finds_its_point_again_and_another_one_does_not() {
        let Some((mut register, map)) = register() else { return };
        let first = register.reserve(None, "eth0", 7).unwrap().unwrap();
        let second = register.reserve(Some("blue"), "eth0", 7).unwrap().unwrap();
        assert_eq!((first, second), (1, 2));
        drop(register);
        let mut register = Register::open(map).unwrap();
        // In another order, as a start may have it.
        assert_eq!(register.reserve(Some("blue"), "eth0", 7).unwrap(), Some(second));
        assert_eq!(register.reserve(None, "eth0", 8).unwrap(), Some(3), "another index");
        assert_eq!(register.reserve(None, "eth1", 7).unwrap(), Some(4), "another name");
        assert_eq!(register.reserve(None, "eth0", 7).unwrap(), Some(first));
        assert_eq!(register.reserve(None, "eth0", 7).unwrap(), Some(5), "the first is held");
    }

    #[test]
    fn points_are_free_first_and_then_whose_interface_went_first() {
        let Some((mut register, _map)) = register() else { return };
        for index in 1..POINTS_MAX {
            assert_eq!(register.reserve(None, "eth", index).unwrap(), Some(index));
        }
        assert_eq!(register.reserve(None, "late", 1).unwrap(), None, "all are held");
        for point in [9, 5, 7] {
            register.gone(point).unwrap();
        }
        register.free(7).unwrap();
        assert_eq!(register.reserve(None, "late", 1).unwrap(), Some(7));
        assert_eq!(register.reserve(None, "eth", 9).unwrap(), Some(9), "it is back");
        assert_eq!(register.reserve(None, "later", 1).unwrap(), Some(5));
        register.gone(5).unwrap();
        assert_eq!(register.reserve(None, "eth", 5).unwrap(), Some(5));
        assert!(register.row(5).incarnation > register.row(7).incarnation);
        assert!(register.gone(POINTS_MAX).is_err());
    }

    #[test]
    fn a_long_name_ends_with_a_zero() {
        assert_eq!(padded::<4>("abcdef"), *b"abc\0");
        assert_eq!(padded::<4>("a"), *b"a\0\0\0");
    }
}
