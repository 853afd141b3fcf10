//! Damaged captures: every file cut short and with bits turned, through the reader and the host's pipeline, and a window
//! of its Ethernet frames through both doors. Nothing panics, the ledger balances, and the kernel says what the host says.
//!
//! `LINNET_SEED` chooses other variants, `LINNET_VARIANT` runs a single one, as a failure prints it.
#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    clippy::print_stdout,
    reason = "a test fails by panicking, says what it measured, and makes its own numbers"
)]

mod support;

use std::{collections::BTreeMap, fs, path::PathBuf, str::FromStr, thread};

use captures::PacketReader;
use daemon::offline;
use datapath::{Link, layout::HookCounters, replay::Replay};
use support::{
    Random,
    door::{Door, Sample},
};

/// What of a file is damaged and read: its first so many bytes.
const FILE_BYTES_MAX: usize = 512 * 1024;
/// Frames of a variant that go through both doors; the host reads all of them.
const WINDOW_FRAMES: usize = 64;
/// Around where a variant is damaged most, and so where its window begins.
const FOCUS_BYTES: usize = 4 * 1024;
/// Flows of a door; a window makes a few for each frame at most, so that none is evicted.
const FLOWS: u32 = 2_048;
/// Where a frame's headers are, those of packets inside of it among them.
const HEADERS_BYTES: usize = 160;
/// Bytes of a record beside its packet in a classic file; near enough for pcapng.
const RECORD_HEADER: usize = 16;

/// What a run of variants met.
#[derive(Debug, Default)]
struct Met {
    variants: u64,
    /// Files that ended where they should not, by what the reader said of them.
    damaged: u64,
    packets: u64,
    through_doors: u64,
    counters: HookCounters,
}

fn variable<T: FromStr>(name: &str) -> Option<T> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
}

#[test]
fn damaged_captures_are_read_alike_by_the_host_and_the_kernel() {
    if !support::kernel("variants of captures") {
        return;
    }
    let files = support::corpus();
    let contents: Vec<_> = files.iter().map(start_of).collect();
    let seed = variable("LINNET_SEED").unwrap_or(1);
    let count = if support::full() { 100_000 } else { 2_000 };
    let numbers = variable("LINNET_VARIANT").map_or(0..count, |number| number..number + 1);
    println!("{} files, LINNET_SEED={seed}, variants {numbers:?}", files.len());

    let workers = thread::available_parallelism().map_or(1, std::num::NonZero::get) as u64;
    let met: Vec<Met> = thread::scope(|scope| {
        let work = |worker| {
            let numbers = numbers.clone().skip(worker as usize).step_by(workers as usize);
            let (files, contents) = (&files, &contents);
            move || {
                let mut doors = Door::both(FLOWS);
                let mut host = Replay::default();
                let mut met = Met::default();
                for number in numbers {
                    let which = number as usize % files.len();
                    let name = format!("LINNET_SEED={seed} LINNET_VARIANT={number}");
                    let named = Named(format!("{name}, made of {}", files[which].display()));
                    let variant = Variant::new(&contents[which], seed, number);
                    variant.run(&name, &mut doors, &mut host, &mut met);
                    drop(named);
                }
                met.counters = *host.counters();
                met
            }
        };
        let threads: Vec<_> = (0..workers).map(|worker| scope.spawn(work(worker))).collect();
        threads.into_iter().map(|thread| thread.join().expect("variants passed")).collect()
    });
    report(&met);
    let variants: u64 = met.iter().map(|met| met.variants).sum();
    assert_eq!(variants, numbers.end - numbers.start);
    if variants > 1_000 {
        let damaged: u64 = met.iter().map(|met| met.damaged).sum();
        let through: u64 = met.iter().map(|met| met.through_doors).sum();
        assert!(damaged * 10 > variants, "{damaged} of {variants} ended early");
        assert!(through > 5 * variants, "{through} frames went through the doors");
    }
}

fn start_of(path: &PathBuf) -> Vec<u8> {
    let mut bytes = fs::read(path).unwrap();
    bytes.truncate(FILE_BYTES_MAX);
    bytes
}

fn report(met: &[Met]) {
    let sum = |figure: fn(&Met) -> u64| met.iter().map(figure).sum::<u64>();
    println!(
        "{} variants, of which {} ended early; {} packets through the host, {} through both doors",
        sum(|met| met.variants),
        sum(|met| met.damaged),
        sum(|met| met.packets),
        sum(|met| met.through_doors),
    );
    let mut ledger = BTreeMap::new();
    for outcome in datapath::Outcome::ALL {
        let frames: u64 = met.iter().map(|met| met.counters.outcomes[*outcome as usize]).sum();
        ledger.insert(outcome.name(), frames);
    }
    println!("both doors and the host: {ledger:?}");
}

/// Says which variant it was when something panics.
struct Named(String);

impl Drop for Named {
    fn drop(&mut self) {
        if thread::panicking() {
            println!("panicked at {}", self.0);
        }
    }
}

/// One damaged capture.
struct Variant {
    bytes: Vec<u8>,
    /// Where it is damaged most.
    focus: usize,
    /// For what is done to single frames.
    random: Random,
}

impl Variant {
    /// The variant with this number: half of them end somewhere, most have bits turned near the focus, some anywhere.
    fn new(file: &[u8], seed: u64, number: u64) -> Self {
        let mut random = Random((seed << 32 | number).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        // The first numbers of neighbouring seeds are alike.
        for _ in 0..4 {
            random.next();
        }
        let mut bytes = file.to_vec();
        let mut below = |bound: usize| random.below(bound.max(1) as u64) as usize;
        let focus = below(bytes.len());
        let turn = |bytes: &mut Vec<u8>, at: usize, bit: usize| {
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= 1 << bit;
            }
        };
        for _ in 0..below(33) {
            let at = focus + below(2 * FOCUS_BYTES);
            turn(&mut bytes, at, below(8));
        }
        for _ in 0..below(9).saturating_sub(4) {
            let at = below(bytes.len());
            turn(&mut bytes, at, below(8));
        }
        match below(4) {
            0 => bytes.truncate(below(file.len() + 1)),
            1 => bytes.truncate(focus + below(2 * FOCUS_BYTES)),
            _ => {}
        }
        Self { bytes, focus, random }
    }

    fn run(mut self, name: &str, doors: &mut [Door; 2], host: &mut Replay, met: &mut Met) {
        met.variants += 1;
        let read = self.read_all(met);
        let window: Vec<_> = read.into_iter().filter_map(|sample| self.spoil(sample)).collect();
        met.through_doors += window.len() as u64;
        host.forget();
        for sample in &window {
            let _counted = host.frame(sample.data.as_slice(), &sample.frame());
        }
        for door in doors {
            door.forget();
            for sample in &window {
                door.run(sample);
            }
            door.hold(name, host);
        }
    }

    /// Turns bits in the headers of one frame in three, and cuts one in nine: a damaged file often ends before its
    /// damaged headers are met.
    fn spoil(&mut self, mut sample: Sample) -> Option<Sample> {
        if self.random.below(3) == 0 {
            let reach = sample.data.len().min(HEADERS_BYTES) as u64;
            for _ in 0..=self.random.below(4) {
                sample.data[self.random.below(reach) as usize] ^= 1 << self.random.below(8);
            }
            if self.random.below(3) == 0 {
                sample.data.truncate(self.random.below(reach) as usize);
            }
        }
        Sample::new(sample.time_ns, sample.original_len, &sample.data)
    }

    /// Takes every packet through the host's pipeline, of whatever link type. Returns the frames for the doors.
    fn read_all(&self, met: &mut Met) -> Vec<Sample> {
        let mut window = Vec::new();
        let Ok(mut reader) = PacketReader::new(self.bytes.as_slice()) else {
            met.damaged += 1;
            return window;
        };
        let mut host = Replay::default();
        let mut at = 0;
        loop {
            let read = match reader.next_packet() {
                Ok(Some(read)) => read,
                Ok(None) => break,
                Err(_) => {
                    met.damaged += 1;
                    break;
                }
            };
            let frame = offline::frame(&read);
            let _counted = host.frame(&*read.packet.data, &frame);
            at += read.packet.data.len() + RECORD_HEADER;
            let wanted = at + FOCUS_BYTES > self.focus && window.len() < WINDOW_FRAMES;
            if wanted && frame.link == Link::Ethernet {
                let packet = &read.packet;
                window.extend(Sample::new(packet.time_ns, packet.original_len, &packet.data));
            }
        }
        let counters = host.counters();
        assert_eq!(counters.outcomes.iter().sum::<u64>(), counters.seen, "the ledger balances");
        assert_eq!(counters.seen, reader.packets_read(), "each packet is counted");
        met.packets += counters.seen;
        window
    }
}
