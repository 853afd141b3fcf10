//! Which interface each observation point stands for, in a pinned map: counters and flow keys name points, so that an
//! interface must find its own again when the attacher has died. Must never give a point away of which a flow or a count
//! may be in the kernel.

use std::{
    collections::BTreeSet,
    os::fd::{AsFd as _, OwnedFd},
};

use datapath::layout::{POINTS_MAX, RegisterRow};

use crate::live::{
    LiveError,
    batch::{self, BatchCursor},
};

const NAME: &str = "REGISTER";

/// The register. Point 0 stands for no interface.
#[derive(Debug)]
pub(in crate::live) struct Register {
    map: OwnedFd,
    rows: Vec<RegisterRow>,
    /// Points that this process watches.
    held: BTreeSet<u32>,
}

/// What makes an interface the same one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::live) struct Place<'a> {
    pub(in crate::live) namespace: Option<&'a str>,
    /// The namespace's cookie.
    pub(in crate::live) cookie: u64,
    pub(in crate::live) name: &'a str,
    pub(in crate::live) ifindex: u32,
}

/// A point for an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::live) struct Reserved {
    pub(in crate::live) point: u32,
    /// Whether it is the one that it had under an attacher that died, with its flows and counts.
    pub(in crate::live) again: bool,
    /// Programs, by direction, that may be in its clsact qdisc.
    pub(in crate::live) filters: [[u32; 2]; 2],
}

impl Register {
    /// Reads the register. Nobody holds a point yet: whoever held them has gone.
    pub(in crate::live) fn open(map: OwnedFd) -> Result<Self, LiveError> {
        let mut keys = vec![0_u32; POINTS_MAX as usize];
        let mut rows = vec![RegisterRow::NEW; POINTS_MAX as usize];
        let mut to = BatchCursor::default();
        batch::lookup_batch(map.as_fd(), None, &mut to, &mut keys, &mut rows)
            .map_err(failed("BPF_MAP_LOOKUP_BATCH"))?;
        Ok(Self { map, rows, held: BTreeSet::new() })
    }

    /// Reserves a point for an interface: the one that it had, else the one that was free for longest. `None` where none
    /// is free.
    pub(in crate::live) fn reserve(
        &mut self,
        place: Place<'_>,
    ) -> Result<Option<Reserved>, LiveError> {
        let wanted = RegisterRow {
            namespace_cookie: place.cookie,
            state: RegisterRow::WATCHED,
            ifindex: place.ifindex,
            name: padded(place.name),
            namespace: padded(place.namespace.unwrap_or_default()),
            ..RegisterRow::NEW
        };
        let is_same = |row: &RegisterRow| {
            let what = |row: &RegisterRow| (row.state, row.namespace_cookie, row.ifindex, row.name);
            what(row) == what(&wanted)
        };
        let known = (1..POINTS_MAX).find(|it| !self.held.contains(it) && is_same(self.row(*it)));
        if let Some(point) = known {
            let filters = self.row(point).filters;
            self.held.insert(point);
            return Ok(Some(Reserved { point, again: true, filters }));
        }
        let free = (1..POINTS_MAX).filter(|it| self.row(*it).state == RegisterRow::FREE);
        let Some(point) = free.min_by_key(|it| self.row(*it).incarnation) else { return Ok(None) };
        let last = self.rows.iter().map(|row| row.incarnation).max().unwrap_or(0);
        self.write(point, RegisterRow { incarnation: last + 1, ..wanted })?;
        self.held.insert(point);
        Ok(Some(Reserved { point, again: false, filters: [[0; 2]; 2] }))
    }

    /// The interface of a point has another name.
    pub(in crate::live) fn rename(&mut self, point: u32, name: &str) -> Result<(), LiveError> {
        let row = RegisterRow { name: padded(name), ..*self.row(point) };
        self.write(point, row)
    }

    /// What a point's interface is watched by.
    pub(in crate::live) fn note_hooks(
        &mut self,
        point: u32,
        hooks: [u32; 2],
    ) -> Result<(), LiveError> {
        let row = RegisterRow { hooks, ..*self.row(point) };
        self.write(point, row)
    }

    /// These programs may be in the clsact qdisc of a point's interface from here on.
    pub(in crate::live) fn note_filter(
        &mut self,
        point: u32,
        direction: usize,
        program: u32,
    ) -> Result<(), LiveError> {
        let mut row = *self.row(point);
        let [last, before] = &mut row.filters[direction];
        (*last, *before) = (program, *last);
        self.write(point, row)
    }

    /// Nothing is attached at a point any more; there may be flows.
    pub(in crate::live) fn leave(&mut self, point: u32) -> Result<(), LiveError> {
        self.held.remove(&point);
        let row = RegisterRow { state: RegisterRow::LEFT, ..*self.row(point) };
        self.write(point, row)
    }

    /// No flow and no count of a point is left.
    pub(in crate::live) fn free(&mut self, point: u32) -> Result<(), LiveError> {
        self.held.remove(&point);
        let incarnation = self.row(point).incarnation;
        self.write(point, RegisterRow { incarnation, ..RegisterRow::NEW })
    }

    /// The points that are held.
    pub(in crate::live) const fn held(&self) -> &BTreeSet<u32> {
        &self.held
    }

    /// Points of which there may be flows and which nobody holds, with what they stood for.
    pub(in crate::live) fn orphans(&self) -> Vec<(u32, RegisterRow)> {
        let points = (1..POINTS_MAX).map(|point| (point, *self.row(point)));
        let is_orphan = |(point, row): &(u32, RegisterRow)| {
            row.state != RegisterRow::FREE && !self.held.contains(point)
        };
        points.filter(is_orphan).collect()
    }

    fn row(&self, point: u32) -> &RegisterRow {
        self.rows.get(point as usize).unwrap_or(&RegisterRow::NEW)
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

/// The name that was padded.
pub(in crate::live) fn name_in(bytes: &[u8]) -> String {
    let length = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..length]).into_owned()
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

    fn place(cookie: u64, name: &str, ifindex: u32) -> Place<'_> {
        Place { namespace: None, cookie, name, ifindex }
    }

    fn reserve(register: &mut Register, place: Place<'_>) -> Option<(u32, bool)> {
        register.reserve(place).unwrap().map(|it| (it.point, it.again))
    }

    #[test]
    fn an_interface_finds_its_point_again_and_another_one_does_not() {
        let Some((mut register, map)) = register() else { return };
        assert_eq!(reserve(&mut register, place(1, "eth0", 7)), Some((1, false)));
        assert_eq!(reserve(&mut register, place(2, "eth0", 7)), Some((2, false)));
        register.note_filter(2, 1, 98).unwrap();
        register.note_filter(2, 1, 99).unwrap();
        register.rename(1, "eth9").unwrap();
        drop(register);
        let mut register = Register::open(map).unwrap();
        assert_eq!(register.orphans().len(), 2);
        // In another order, as a start may have it.
        let again = register.reserve(place(2, "eth0", 7)).unwrap().unwrap();
        assert_eq!(again, Reserved { point: 2, again: true, filters: [[0; 2], [99, 98]] });
        assert_eq!(reserve(&mut register, place(1, "eth9", 8)), Some((3, false)), "its index");
        assert_eq!(reserve(&mut register, place(1, "eth0", 7)), Some((4, false)), "its name");
        assert_eq!(reserve(&mut register, place(3, "eth9", 7)), Some((5, false)), "its namespace");
        let orphans = register.orphans();
        assert_eq!((orphans.len(), orphans[0].0), (1, 1));
        assert_eq!(name_in(&orphans[0].1.name), "eth9");
        assert_eq!(reserve(&mut register, place(1, "eth9", 7)), Some((1, true)));
        assert_eq!(reserve(&mut register, place(1, "eth9", 7)), Some((6, false)), "1 is held");
    }

    #[test]
    fn the_point_that_was_free_for_longest_is_next_and_one_that_is_left_is_not_free() {
        let Some((mut register, map)) = register() else { return };
        for index in 1..POINTS_MAX {
            assert_eq!(reserve(&mut register, place(1, "eth", index)), Some((index, false)));
        }
        assert_eq!(reserve(&mut register, place(1, "late", 1)), None);
        for point in [9, 5] {
            register.leave(point).unwrap();
            assert_eq!(reserve(&mut register, place(1, "eth", point)), None, "there may be flows");
        }
        register.free(9).unwrap();
        assert_eq!(reserve(&mut register, place(1, "eth", 9)), Some((9, false)));
        register.free(5).unwrap();
        register.leave(9).unwrap();
        register.free(9).unwrap();
        assert_eq!(reserve(&mut register, place(1, "late", 1)), Some((5, false)));
        let reopened = Register::open(map).unwrap();
        assert_eq!(reopened.orphans().len(), POINTS_MAX as usize - 2, "all but 0 and 9");
        assert!(register.leave(POINTS_MAX).is_err());
    }

    #[test]
    fn a_long_name_ends_with_a_zero() {
        assert_eq!(padded::<4>("abcdef"), *b"abc\0");
        assert_eq!(padded::<4>("a"), *b"a\0\0\0");
        assert_eq!((name_in(b"ab\0\0"), name_in(b"ab")), ("ab".to_owned(), "ab".to_owned()));
    }
}
