//! What several integration tests need: when they can run, where captures are, and frames made by a seed.
#![allow(dead_code, reason = "each test uses a part of it")]
#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    clippy::print_stdout,
    clippy::wildcard_enum_match_arm,
    reason = "a test fails by panicking, says what it measured, and makes its own numbers"
)]

pub(crate) mod conntrack;
pub(crate) mod door;
pub(crate) mod filters;
pub(crate) mod foreign;
pub(crate) mod forged;
pub(crate) mod held;
pub(crate) mod linnet;
pub(crate) mod packets;
pub(crate) mod pair;
pub(crate) mod planted;
pub(crate) mod poller;
pub(crate) mod scene;
pub(crate) mod served;
pub(crate) mod stack;
pub(crate) mod tools;
pub(crate) mod traffic;
pub(crate) mod tshark;
pub(crate) mod tun;
pub(crate) mod watch;

use std::{
    path::{Path, PathBuf},
    sync::Mutex,
    thread,
    time::Duration,
};

/// Longest wait for anything that a test waits for.
const WAIT_MAX: Duration = Duration::from_secs(30);

/// Looks again and again until there is what is waited for.
pub(crate) fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let end_ns = lab::clock::monotonic_ns() + lab::clock::nanos(WAIT_MAX);
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(lab::clock::monotonic_ns() < end_ns, "waited {WAIT_MAX:?} for {what}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// Runs until no packet of the run was contended, a few times at most: a contended packet is counted and not
/// classified, so equality of classes holds without one. `run` returns whether it was free of them.
pub(crate) fn uncontended(what: &str, mut run: impl FnMut() -> bool) {
    const RUNS_MAX: usize = 4;
    for number in 1..=RUNS_MAX {
        if run() {
            return;
        }
        println!("{what}: a packet was contended in run {number}");
    }
    panic!("{what}: packets were contended in each of {RUNS_MAX} runs");
}

/// Whether the kernel programs can be loaded here. Says why not; under CI a skip is a failure.
pub(crate) fn kernel(what: &str) -> bool {
    let root = nix::unistd::geteuid().is_root();
    let reason = match daemon::live::not_built_reason() {
        Some(reason) => reason.to_owned(),
        None if !root => "it needs root".to_owned(),
        None => return true,
    };
    assert!(std::env::var("CI").as_deref() != Ok("true"), "{what} cannot run under CI: {reason}");
    println!("skipped: {what}: {reason}");
    false
}

/// Whether the test runs as root. Says why not; under CI a skip is a failure.
pub(crate) fn root(what: &str) -> bool {
    let root = nix::unistd::geteuid().is_root();
    assert!(
        root || std::env::var("CI").as_deref() != Ok("true"),
        "{what} cannot run under CI: it needs root"
    );
    if !root {
        println!("skipped: {what}: it needs root");
    }
    root
}

/// Whether the long versions run: `cargo xtask test --full`.
pub(crate) fn full() -> bool {
    std::env::var_os("LINNET_FULL").is_some()
}

/// The corpus folder, which need not be there.
pub(crate) fn corpus_folder() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    std::env::var_os("LINNET_CORPUS").map_or_else(|| root.join("../shared/pcaps"), PathBuf::from)
}

/// Every capture of the corpus folder, if it is present, and of the project's own test data.
pub(crate) fn corpus() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut files = Vec::new();
    for folder in [corpus_folder(), root.join("captures/testdata")] {
        let Ok(entries) = std::fs::read_dir(&folder) else {
            println!("no captures in {}", folder.display());
            continue;
        };
        files.extend(entries.filter_map(|entry| {
            let path = entry.ok()?.path();
            let extension = path.extension()?.to_str()?;
            matches!(extension, "pcap" | "pcapng").then_some(path)
        }));
    }
    files.sort();
    files
}

/// What `work` makes of each file, in the files' order, from as many threads as there are cores.
pub(crate) fn in_parallel<T: Send>(files: &[PathBuf], work: impl Fn(&Path) -> T + Sync) -> Vec<T> {
    let cores = thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let queue = Mutex::new(files.iter().enumerate());
    let done = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(|| {
                while let Some((number, file)) = { queue.lock().unwrap().next() } {
                    let made = work(file);
                    done.lock().unwrap().push((number, made));
                }
            });
        }
    });
    let mut done = done.into_inner().unwrap();
    done.sort_by_key(|(number, _)| *number);
    done.into_iter().map(|(_, made)| made).collect()
}

/// xorshift64*: the same frames for the same seed.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

/// A frame of one of a few flows: VLAN tags, labels, options, extension headers, fragments, tunnels up to a few levels,
/// TCP with options, UDP, ICMP, SCTP with several chunks.
pub(crate) fn frame(random: &mut Random) -> Vec<u8> {
    let (mut kind, mut packet) = packet(random);
    for _ in 0..random.below(11).saturating_sub(4) {
        (kind, packet) = encapsulated(random, kind, packet);
    }
    [link(random, kind), packet].concat()
}

/// Everything in front of a packet of this ethertype.
fn link(random: &mut Random, kind: u16) -> Vec<u8> {
    let mut header = vec![2; 12];
    for _ in 0..random.below(5).saturating_sub(2) {
        header.extend([0x81, 0x00, 0x00, random.below(3) as u8]);
    }
    match random.below(10) {
        0 => header.extend([0x88, 0x47, 0, 1, 0, 64, 0, 2, 1, 64]),
        1 => {
            let protocol = if kind == 0x0800 { 0x21 } else { 0x57 };
            header.extend([0x88, 0x64, 0x11, 0, 0, 5, 0, 60, 0, protocol]);
        }
        _ => header.extend(kind.to_be_bytes()),
    }
    header
}

/// A packet around another one, by one of the tunnels.
fn encapsulated(random: &mut Random, kind: u16, inner: Vec<u8>) -> (u16, Vec<u8>) {
    let is_ipv6 = kind == 0x86dd;
    let udp = |port: u16, header: &[u8], inner: Vec<u8>| {
        let length = u16::try_from(8 + header.len() + inner.len()).unwrap();
        let start = [40_000_u16, port, length, 0].map(u16::to_be_bytes).concat();
        (17, [start, header.to_vec(), inner].concat())
    };
    let [high, low] = kind.to_be_bytes();
    let network = random.below(3) as u8;
    let (protocol, payload) = match random.below(8) {
        0 => (if is_ipv6 { 41 } else { 4 }, inner),
        1 => (47, [vec![0x20, 0, high, low, 0, 0, 0, network], inner].concat()),
        2 => (
            47,
            [
                vec![0x10, 0, 0x88, 0xbe, 0, 0, 0, 1, 0x10, 0, 0, network, 0, 0, 0, 0],
                link(random, kind),
                inner,
            ]
            .concat(),
        ),
        3 => udp(4_789, &[8, 0, 0, 0, 0, 0, network, 0], [link(random, kind), inner].concat()),
        4 => udp(6_081, &[1, 0, high, low, 0, 0, network, 0, 1, 2, 3, 4], inner),
        5 => udp(2_152, &[0x34, 0xff, 0, 9, 0, 0, 0, network, 0, 0, 0, 0x85, 1, 0, 0, 0], inner),
        6 => udp(3_544, &[0, 0, 1, 2, 3, 4, 5, 6], inner),
        _ => (
            47,
            [vec![0x10, 0x01, 0x88, 0x0b, 0, 9, 0, network, 0, 0, 0, 1, 0xff, 3, 0, 0x21], inner]
                .concat(),
        ),
    };
    network_layer(random, protocol, 7, 8, payload)
}

fn packet(random: &mut Random) -> (u16, Vec<u8>) {
    let (kind, packet) = plain_packet(random);
    if random.below(8) > 0 {
        return (kind, packet);
    }
    // An error about it, which quotes all of it or its start.
    let quoted = packet.len().min(28 + random.below(60) as usize);
    let [kind, code] = [3 + random.below(10) as u8, random.below(5) as u8];
    let error = [&[kind, code, 0, 0, 0, 0, 0, 0], &packet[..quoted]].concat();
    network_layer(random, 1, 5, 6, error)
}

fn plain_packet(random: &mut Random) -> (u16, Vec<u8>) {
    let (host, protocol) =
        (random.below(3) as u8 + 1, [6, 6, 6, 17, 1, 47, 132, 132][random.below(8) as usize]);
    let swap = random.below(2) == 1;
    let transport = transport(random, protocol, swap);
    let (source, destination) = if swap { (9, host) } else { (host, 9) };
    network_layer(random, protocol, source, destination, transport)
}

/// An IP packet and its ethertype.
fn network_layer(
    random: &mut Random,
    protocol: u8,
    source: u8,
    destination: u8,
    payload: Vec<u8>,
) -> (u16, Vec<u8>) {
    let mut packet = Vec::new();
    let fragment = random.below(12) == 0;
    let offset = if fragment { random.below(2) as u8 * 8 } else { 0 };
    if random.below(3) == 0 {
        let protocol = if protocol == 1 { 58 } else { protocol };
        let mut extensions = Vec::new();
        let mut next = protocol;
        if fragment {
            extensions = vec![next, 0, 0, offset | 1, 0, 0, 0, random.below(3) as u8];
            next = 44;
        }
        if random.below(3) == 0 {
            extensions = [vec![next, 0, 1, 4, 0, 0, 0, 0], extensions].concat();
            next = 0;
        }
        let length = u16::try_from(extensions.len() + payload.len()).unwrap();
        packet.extend([0x60, 0, 0, 0]);
        packet.extend(length.to_be_bytes());
        packet.extend([next, 64]);
        for end in [source, destination] {
            packet.extend([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, end]);
        }
        packet.extend(extensions);
        packet.extend(payload);
        return (0x86dd, packet);
    }
    let words = 5 + random.below(3) as u8;
    let length = u16::try_from(usize::from(words) * 4 + payload.len()).unwrap();
    packet.extend([0x40 | words, 0]);
    packet.extend(length.to_be_bytes());
    packet.extend([0, random.below(3) as u8]);
    packet.extend(if fragment { [0x20, offset / 8] } else { [0x40, 0] });
    packet.extend([64, protocol, 0, 0, 10, 0, 0, source, 10, 0, 0, destination]);
    packet.extend(vec![1; usize::from(words - 5) * 4]);
    packet.extend(payload);
    (0x0800, packet)
}

fn transport(random: &mut Random, protocol: u8, swap: bool) -> Vec<u8> {
    let ports: [u16; 2] = if swap { [443, 40_000] } else { [40_000, 443] };
    let ports: Vec<u8> = ports.iter().flat_map(|port| port.to_be_bytes()).collect();
    let payload = vec![7; random.below(200) as usize];
    let mut bytes = Vec::new();
    match protocol {
        6 => {
            let options: &[u8] = match random.below(4) {
                0 => &[],
                1 => &[1, 1, 8, 10, 0, 0, 0, 9, 0, 0, 0, 5],
                2 => &[2, 4, 5, 0xb4, 4, 2, 8, 10, 0, 0, 0, 1, 0, 0, 0, 0, 1, 3, 3, 7],
                _ => &[1, 1, 5, 10, 0, 0, 0, 1, 0, 0, 0, 9],
            };
            bytes.extend(ports);
            bytes.extend((1_000 + random.below(400) as u32).to_be_bytes());
            bytes.extend((1_000 + random.below(400) as u32).to_be_bytes());
            let flags = [0x02, 0x12, 0x10, 0x10, 0x18, 0x18, 0x11, 0x14][random.below(8) as usize];
            bytes.push(u8::try_from((20 + options.len()) / 4).unwrap() << 4);
            bytes.push(flags);
            bytes.extend([[0, 0], [1, 0], [1, 0], [2, 0]][random.below(4) as usize]);
            bytes.extend([0, 0, 0, 0]);
            bytes.extend(options);
        }
        17 => {
            bytes.extend(ports);
            bytes.extend(u16::try_from(8 + payload.len()).unwrap().to_be_bytes());
            bytes.extend([0, 0]);
        }
        132 => {
            bytes.extend(ports);
            bytes.extend([0; 8]);
            for _ in 0..random.below(11) {
                let kind = random.below(17) as u8;
                // Padding is not part of the length.
                let length = 4 + random.below(9) as u8;
                bytes.extend([kind, 0, 0, length]);
                bytes.extend(vec![0; usize::from(length - 1) / 4 * 4]);
            }
            return bytes;
        }
        1 => bytes.extend([[8, 0, 3, 128][random.below(4) as usize], 0, 0, 0, 0, 5, 0, 1]),
        _ => {}
    }
    bytes.extend(payload);
    bytes
}
