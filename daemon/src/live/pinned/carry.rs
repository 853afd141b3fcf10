//! Copying flows from one of the kernel's tables into another one of the same layout and another capacity. Must never
//! change the table that it reads.

use std::{
    io,
    os::fd::{AsFd as _, BorrowedFd},
};

use aya::maps::MapData;
use datapath::{FlowKey, layout::FlowEntry};

use crate::live::batch::{self, BatchCursor};

/// Elements that are copied at a time.
const BATCH: usize = 1_024;

/// What was copied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::live) struct Carried {
    /// Flows that were there.
    pub(in crate::live) there: usize,
    /// Those that were copied.
    pub(in crate::live) carried: usize,
}

/// Copies flows: those with the latest packets, where there is no room for all.
///
/// The programs of an attacher that died still write to `from`. So what moves after this is brought by [`carry_rest`],
/// interface by interface, just before new programs take their place there.
pub(in crate::live) fn carry<K: Copy + Default>(
    from: &MapData,
    to: &MapData,
    room: usize,
) -> io::Result<Carried> {
    let [from, to] = [from, to].map(|map| map.fd().as_fd());
    let mut activities = Vec::new();
    for_each_batch(from, |_: &[K], entries| {
        activities.extend(entries.iter().map(last_seen_ns));
        Ok(())
    })?;
    let there = activities.len();
    let mut earliest_ns = 0;
    if there > room {
        let (_, nth, _) = activities.select_nth_unstable(there - room);
        earliest_ns = *nth;
    }
    drop(activities);
    let mut carried = 0;
    for_each_batch(from, |keys: &[K], entries| {
        let chosen = keys.iter().zip(entries).filter(|(_, it)| last_seen_ns(it) >= earliest_ns);
        let (keys, entries): (Vec<_>, Vec<_>) =
            chosen.map(|(key, entry)| (*key, *entry)).take(room - carried).unzip();
        carried += keys.len();
        batch::update_batch(to, &keys, &entries)
    })?;
    Ok(Carried { there, carried })
}

/// Copies the flows of an observation point that had a packet at `since_ns` or later, over what was copied of them before,
/// and shows their keys. Nothing may write flows of that point to `to` yet.
pub(in crate::live) fn carry_rest(
    from: &MapData,
    to: &MapData,
    point: u32,
    since_ns: u64,
    mut copied: impl FnMut(&[FlowKey]) -> io::Result<()>,
) -> io::Result<()> {
    let [from, to] = [from, to].map(|map| map.fd().as_fd());
    let has_moved = |(key, entry): &(&FlowKey, &FlowEntry)| {
        key.observation_point == point && last_seen_ns(entry) >= since_ns
    };
    for_each_batch(from, |keys: &[FlowKey], entries| {
        let moved = keys.iter().zip(entries).filter(has_moved);
        let (keys, entries): (Vec<_>, Vec<_>) = moved.map(|(key, entry)| (*key, *entry)).unzip();
        batch::update_batch(to, &keys, &entries)?;
        copied(&keys)
    })
}

/// When a flow's last packet came, whichever way.
fn last_seen_ns(entry: &FlowEntry) -> u64 {
    entry.halves.iter().map(|half| half.last_seen_ns).max().unwrap_or(0)
}

fn for_each_batch<K: Copy + Default>(
    map: BorrowedFd<'_>,
    mut visit: impl FnMut(&[K], &[FlowEntry]) -> io::Result<()>,
) -> io::Result<()> {
    let mut keys = vec![K::default(); BATCH];
    let mut entries = vec![FlowEntry::EMPTY; BATCH];
    let mut from: Option<BatchCursor> = None;
    loop {
        let mut to = BatchCursor::default();
        let read = batch::lookup_batch(map, from.as_ref(), &mut to, &mut keys, &mut entries)?;
        visit(&keys[..read.count], &entries[..read.count])?;
        if read.done {
            return Ok(());
        }
        from = Some(to);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::live::layout::Shape;

    /// A table of flows; `None` without root.
    fn table(entries: u32) -> Option<MapData> {
        if !nix::unistd::geteuid().is_root() {
            assert!(std::env::var("CI").as_deref() != Ok("true"), "tables need root");
            return None;
        }
        let [key, value] = [size_of::<FlowKey>(), size_of::<FlowEntry>()];
        let [key, value] = [key, value].map(|size| u32::try_from(size).unwrap());
        Some(
            Shape { name: "FLOWS".into(), kind: 1, key, value, entries, flags: 0 }
                .create()
                .unwrap(),
        )
    }

    fn flow(number: u16, last_seen_ns: u64) -> (FlowKey, FlowEntry) {
        let mut entry = FlowEntry::EMPTY;
        entry.halves[usize::from(number % 2)].last_seen_ns = last_seen_ns;
        (FlowKey { lower_port: number, ..FlowKey::default() }, entry)
    }

    fn fill(map: &MapData, flows: &[(FlowKey, FlowEntry)]) {
        let (keys, entries): (Vec<_>, Vec<_>) = flows.iter().copied().unzip();
        batch::update_batch(map.fd().as_fd(), &keys, &entries).unwrap();
    }

    /// Ports and times of what is in a table.
    fn flows(map: &MapData) -> Vec<(u16, u64)> {
        let mut flows = Vec::new();
        for_each_batch(map.fd().as_fd(), |keys: &[FlowKey], entries| {
            let row = |(key, entry): (&FlowKey, &FlowEntry)| (key.lower_port, last_seen_ns(entry));
            flows.extend(keys.iter().zip(entries).map(row));
            Ok(())
        })
        .unwrap();
        flows.sort_unstable();
        flows
    }

    #[test]
    fn the_latest_are_copied_and_the_rest_brings_what_moved_at_one_point() {
        let (Some(from), Some(to)) = (table(5_001), table(2_000)) else { return };
        let all: Vec<_> = (1..=5_000).map(|number| flow(number, u64::from(number))).collect();
        fill(&from, &all);
        let carried = carry::<FlowKey>(&from, &to, 2_000).unwrap();
        assert_eq!(carried, Carried { there: 5_000, carried: 2_000 });
        let copied: Vec<_> = (3_001..=5_000).map(|number| (number, u64::from(number))).collect();
        assert_eq!(flows(&to), copied);

        let elsewhere = |number, at_ns| {
            let (key, entry) = flow(number, at_ns);
            (FlowKey { observation_point: 2, ..key }, entry)
        };
        fill(&from, &[flow(4_000, 9_000), elsewhere(4_001, 9_000)]);
        let mut moved = Vec::new();
        let mut note = |keys: &[FlowKey]| {
            moved.extend(keys.iter().map(|key| key.lower_port));
            Ok(())
        };
        carry_rest(&from, &to, 0, 5_001, &mut note).unwrap();
        assert_eq!(moved, [4_000]);
        assert!(flows(&to).contains(&(4_000, 9_000)) && !flows(&to).contains(&(4_001, 9_000)));
        assert_eq!(flows(&from).len(), 5_001);
    }

    #[test]
    fn no_more_are_copied_than_there_is_room_for_when_all_are_equally_old() {
        let (Some(from), Some(to)) = (table(3_000), table(1_500)) else { return };
        fill(&from, &(1..=3_000).map(|number| flow(number, 7)).collect::<Vec<_>>());
        assert_eq!(carry::<FlowKey>(&from, &to, 1_500).unwrap().carried, 1_500);
        assert_eq!(flows(&to).len(), 1_500);
        let empty = table(1).unwrap();
        assert_eq!(carry::<FlowKey>(&empty, &to, 1_500).unwrap(), Carried::default());
    }
}
