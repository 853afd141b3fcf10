//! The log of flagged segments, read as memory: the last ones of each CPU, whoever looks and whenever. Never hands out
//! one that is being overwritten, and knows exactly how many it came too late for.

use std::{
    io,
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd},
    ptr::NonNull,
    sync::atomic::{AtomicU64, Ordering, fence},
};

use aya::{
    Ebpf,
    maps::{Map, MapData},
};
use datapath::layout::{EVENTS_MAX, Event, EventHead};
use zerocopy::{FromZeros as _, IntoBytes as _};

use super::LiveError;

/// Events that are copied before it is looked whether they were whole.
const COPIED_MAX: usize = 64;
/// 64-bit words of an event and of a head.
const EVENT_WORDS: usize = size_of::<Event>() / 8;
const HEAD_WORDS: usize = size_of::<EventHead>() / 8;
/// Slots of one CPU's log.
const SLOTS: u64 = EVENTS_MAX as u64;

// Elements of such a map lie as far apart as their size, rounded up to 8 bytes.
const _: () =
    assert!(EVENT_WORDS * 8 == size_of::<Event>() && HEAD_WORDS * 8 == size_of::<EventHead>());
const _: () = assert!(SLOTS.is_power_of_two());

/// What became of the events since [`EventLog`] began: `produced` = `consumed` + `lost`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EventCounts {
    /// Events that were logged, as of the last look.
    pub produced: u64,
    /// Those that were handed out.
    pub consumed: u64,
    /// Those that were overwritten before.
    pub lost: u64,
}

/// Reads the log. Begins with what is in it: a daemon that follows another one hands out again what that one has.
#[derive(Debug)]
pub struct EventLog {
    heads: Mapping,
    events: Mapping,
    /// Of each CPU, the number of the event that is to be read next.
    next: Vec<u64>,
    /// Events that had been overwritten when it began.
    before: u64,
    counts: EventCounts,
}

impl EventLog {
    /// The log of programs that were loaded by themselves.
    pub fn of_object(object: &Ebpf) -> Result<Self, LiveError> {
        let map = |name| match object.map(name) {
            Some(Map::Array(map)) => Ok(map),
            _ => Err(LiveError::Missing(name)),
        };
        Self::new(map("EVENTS")?, map("EVENT_HEADS")?)
    }

    pub(super) fn new(events: &MapData, heads: &MapData) -> Result<Self, LiveError> {
        let cpus = |name, map: &MapData| {
            map.info()
                .map(|info| info.max_entries())
                .map_err(|source| LiveError::Map { name, source })
        };
        let (slots, cpus) = (cpus("EVENTS", events)?, cpus("EVENT_HEADS", heads)?);
        if u64::from(slots) != u64::from(cpus) * SLOTS {
            return Err(LiveError::Missing("log of events for each CPU"));
        }
        let [events, heads] = [events, heads].map(|map| map.fd().as_fd());
        Self::of(events, heads, cpus as usize).map_err(|source| LiveError::Syscall {
            call: "mmap",
            map: "EVENTS",
            source,
        })
    }

    fn of(events: BorrowedFd<'_>, heads: BorrowedFd<'_>, cpus: usize) -> io::Result<Self> {
        let heads = Mapping::new(heads, cpus * HEAD_WORDS)?;
        let events = Mapping::new(events, cpus * EVENTS_MAX as usize * EVENT_WORDS)?;
        let mut log = Self {
            heads,
            events,
            next: Vec::with_capacity(cpus),
            before: 0,
            counts: EventCounts::default(),
        };
        for cpu in 0..cpus {
            let first = first_whole(log.produced(cpu));
            log.next.push(first);
            log.before += first;
        }
        Ok(log)
    }

    /// What became of the events since it began.
    #[must_use]
    pub const fn counts(&self) -> EventCounts {
        self.counts
    }

    /// Events since the maps were made, as of the last look: one more than the greatest number of any.
    #[must_use]
    pub const fn number(&self) -> u64 {
        self.before + self.counts.produced
    }

    /// Hands out what has come since the last time: of each CPU in its order, and at most what was there when it was
    /// begun with.
    pub fn read(&mut self, mut visit: impl FnMut(&Event)) {
        let mut copies = [[0; EVENT_WORDS]; COPIED_MAX];
        for cpu in 0..self.next.len() {
            let end = self.produced(cpu);
            let begun = self.next[cpu];
            let mut next = begun;
            let mut lost = 0;
            while next < end {
                // What is known to be overwritten need not be copied.
                let from = next.max(first_whole(self.produced(cpu))).min(end);
                let copied = &mut copies[..COPIED_MAX.min(count(end - from))];
                for (number, copy) in (from..end).zip(copied.iter_mut()) {
                    self.copy(cpu, number, copy);
                }
                // If any word is of a later event, this is that one's number or more: see `linnet_log`.
                fence(Ordering::Acquire);
                let whole = first_whole(self.produced(cpu));
                for (number, copy) in (from..end).zip(&*copied) {
                    if number < whole {
                        lost += 1;
                        continue;
                    }
                    let mut event = Event::new_zeroed();
                    event.as_mut_bytes().copy_from_slice(copy.as_bytes());
                    visit(&event);
                }
                lost += from - next;
                next = from + copied.len() as u64;
            }
            let came = end - begun.min(end);
            self.next[cpu] = end.max(begun);
            self.counts.produced += came;
            self.counts.lost += lost;
            self.counts.consumed += came - lost;
        }
    }

    /// How many events a CPU has logged.
    fn produced(&self, cpu: usize) -> u64 {
        self.heads.words()[cpu * HEAD_WORDS].load(Ordering::Acquire)
    }

    fn copy(&self, cpu: usize, number: u64, into: &mut [u64; EVENT_WORDS]) {
        let slot = cpu * EVENTS_MAX as usize + count(number % SLOTS);
        let words = &self.events.words()[slot * EVENT_WORDS..][..EVENT_WORDS];
        for (copy, word) in into.iter_mut().zip(words) {
            *copy = word.load(Ordering::Relaxed);
        }
    }
}

/// The first event that is whole once `produced` have been logged: the next one may be on its way into the oldest's slot.
const fn first_whole(produced: u64) -> u64 {
    (produced + 1).saturating_sub(SLOTS)
}

fn count(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

/// A map as memory that is read.
#[derive(Debug)]
struct Mapping {
    start: NonNull<AtomicU64>,
    words: usize,
}

// SAFETY: it is memory of the whole process, and nobody writes to it here.
unsafe impl Send for Mapping {}

impl Mapping {
    fn new(map: BorrowedFd<'_>, words: usize) -> io::Result<Self> {
        // SAFETY: a new mapping, at an address of the kernel's choice; the result is checked.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                words * 8,
                libc::PROT_READ,
                libc::MAP_SHARED,
                map.as_raw_fd(),
                0,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::AddrNotAvailable)?;
        Ok(Self { start, words })
    }

    fn words(&self) -> &[AtomicU64] {
        // SAFETY: so many words are mapped, aligned to a page, for as long as this is there. The kernel's programs write
        // to them meanwhile, which atomic loads allow for; nothing is stored through this.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.words) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: what was mapped in `new`, which nobody has a reference into any more.
        let _unmapped = unsafe { libc::munmap(self.start.as_ptr().cast(), self.words * 8) };
    }
}

#[cfg(test)]
mod tests {
    use std::{fs::File, os::unix::fs::FileExt as _, sync::atomic::AtomicBool, thread};

    use super::*;

    /// Both maps as files, and what the kernel's program does to them.
    struct Writer {
        events: File,
        heads: File,
    }

    impl Writer {
        fn new(cpus: usize) -> Self {
            let writer = Self {
                events: tempfile::tempfile().unwrap(),
                heads: tempfile::tempfile().unwrap(),
            };
            writer
                .events
                .set_len((cpus * EVENTS_MAX as usize * size_of::<Event>()) as u64)
                .unwrap();
            writer.heads.set_len((cpus * size_of::<EventHead>()) as u64).unwrap();
            writer
        }

        fn log(&self, cpus: usize) -> EventLog {
            EventLog::of(self.events.as_fd(), self.heads.as_fd(), cpus).unwrap()
        }

        fn write(&self, cpu: u64, number: u64) {
            let slot = cpu * SLOTS + number % SLOTS;
            let at = slot * size_of::<Event>() as u64;
            self.events.write_all_at(event(number).as_bytes(), at).unwrap();
        }

        fn publish(&self, cpu: u64, produced: u64) {
            let at = cpu * size_of::<EventHead>() as u64;
            self.heads.write_all_at(&produced.to_ne_bytes(), at).unwrap();
        }

        fn put(&self, cpu: u64, numbers: std::ops::Range<u64>) {
            for number in numbers {
                self.write(cpu, number);
                self.publish(cpu, number + 1);
            }
        }
    }

    /// An event that says in several places which one it is.
    fn event(number: u64) -> Event {
        let low = u32::try_from(number & 0xffff_ffff).unwrap();
        Event {
            first_seen_ns: number,
            time_ns: number,
            sequence: low,
            silence_us: low,
            ..Event::default()
        }
    }

    fn numbers(log: &mut EventLog) -> Vec<u64> {
        let mut numbers = Vec::new();
        log.read(|event| {
            assert_eq!(event.first_seen_ns, event.time_ns);
            numbers.push(event.time_ns);
        });
        let counts = log.counts();
        assert_eq!(counts.produced, counts.consumed + counts.lost);
        numbers
    }

    #[test]
    fn what_comes_is_handed_out_once_and_in_order() {
        let writer = Writer::new(2);
        let mut log = writer.log(2);
        assert_eq!(numbers(&mut log), [0_u64; 0]);
        writer.put(0, 0..3);
        writer.put(1, 0..2);
        assert_eq!(numbers(&mut log), [0, 1, 2, 0, 1]);
        writer.put(1, 2..4);
        assert_eq!(numbers(&mut log), [2, 3]);
        assert_eq!(numbers(&mut log), [0_u64; 0]);
        assert_eq!(log.counts(), EventCounts { produced: 7, consumed: 7, lost: 0 });
    }

    #[test]
    fn what_was_overwritten_is_lost_and_counted_exactly() {
        let writer = Writer::new(1);
        let mut log = writer.log(1);
        writer.put(0, 0..SLOTS + 1_000);
        let expected: Vec<_> = (1_001..SLOTS + 1_000).collect();
        assert_eq!(numbers(&mut log), expected);
        let counts = EventCounts { produced: SLOTS + 1_000, consumed: SLOTS - 1, lost: 1_001 };
        assert_eq!(log.counts(), counts);
    }

    #[test]
    fn the_one_that_may_be_on_its_way_into_the_oldest_slot_is_waited_for() {
        let writer = Writer::new(1);
        let mut log = writer.log(1);
        writer.put(0, 0..SLOTS);
        // Written, and not counted yet.
        writer.write(0, SLOTS);
        assert_eq!(numbers(&mut log), (1..SLOTS).collect::<Vec<_>>());
        writer.publish(0, SLOTS + 1);
        assert_eq!(numbers(&mut log), [SLOTS]);
        assert_eq!(log.counts().lost, 1);
    }

    #[test]
    fn a_successor_begins_with_what_is_there() {
        let writer = Writer::new(2);
        writer.put(0, 0..5);
        writer.put(1, 0..SLOTS + 10);
        let mut log = writer.log(2);
        assert_eq!(numbers(&mut log).len() as u64, 5 + SLOTS - 1);
        let there = 5 + SLOTS - 1;
        assert_eq!(log.counts(), EventCounts { produced: there, consumed: there, lost: 0 });
        assert_eq!(log.number(), 5 + SLOTS + 10);
    }

    #[test]
    fn a_writer_that_never_rests_tears_nothing() {
        let writer = Writer::new(1);
        let mut log = writer.log(1);
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                let mut number = 0;
                while !stop.load(Ordering::Relaxed) {
                    writer.put(0, number..number + 1);
                    number += 1;
                }
            });
            let mut last = None;
            while log.counts().produced < 3 * SLOTS {
                log.read(|event| {
                    let number = event.time_ns;
                    let low = u32::try_from(number & 0xffff_ffff).unwrap();
                    let told = (event.first_seen_ns, event.sequence, event.silence_us);
                    assert_eq!(told, (number, low, low));
                    assert!(last.is_none_or(|last| last < number));
                    last = Some(number);
                });
                let counts = log.counts();
                assert_eq!(counts.produced, counts.consumed + counts.lost);
            }
            stop.store(true, Ordering::Relaxed);
        });
    }
}
