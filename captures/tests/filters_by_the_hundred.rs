//! Hundreds of expressions over frames of every kind: a strict filter chooses what tcpdump chooses of them, a tolerant one
//! what tcpdump chooses of them without their tags, or of what their tunnels carry.
//! Never takes the word of the views under test: `decapsulate.rs` makes the other frames with etherparse.
#![allow(
    clippy::unwrap_used,
    clippy::wildcard_enum_match_arm,
    reason = "a test fails by panicking, and picks a few of a standard's many cases"
)]

#[path = "support/build.rs"]
#[allow(dead_code, reason = "classic files are all that is built here")]
mod build;
#[path = "support/decapsulate.rs"]
mod decapsulate;
#[path = "support/expressions.rs"]
mod expressions;
mod support;
#[path = "support/wrapped.rs"]
mod wrapped;

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

use build::Order;
use captures::filter::Instruction;
use captures::{Filter, Libpcap, LinkType, PacketReader, Snaplen, Treatment};
use expressions::{Pool, expressions};

/// Expressions that the grammar draws.
const DRAWN: usize = 360;
/// Frames taken of each file, where the test is not to be long.
const FRAMES_OF_A_FILE: usize = 24;
/// Least number of expressions; a list that shrank would prove less.
const EXPRESSIONS_MIN: usize = 500;

/// One frame: its length on the wire, and its bytes.
type Frame = (u32, Vec<u8>);

/// Indexes of frames.
type Chosen = BTreeSet<u64>;

/// The frames of one kind, and three files made of them for tcpdump.
struct Bench {
    link_type: LinkType,
    frames: Vec<Frame>,
    as_it_is: PathBuf,
    untagged: PathBuf,
    inner: PathBuf,
}

impl Bench {
    fn new(folder: &Path, link_type: LinkType, frames: Vec<Frame>) -> Self {
        let raw = link_type == LinkType::RAW;
        let untag = |data: &[u8]| Some(decapsulate::untagged(data));
        let inner = if raw { decapsulate::inner_of_ip } else { decapsulate::inner };
        let file = |name: &str, link_type: LinkType, change: &dyn Fn(&[u8]) -> Option<Vec<u8>>| {
            let path = folder.join(format!("{name}-{raw}.pcap"));
            fs::write(&path, pcap(link_type, &frames, change)).unwrap();
            path
        };
        let as_it_is = file("frames", link_type, &|data| Some(data.to_vec()));
        let untagged = if raw { as_it_is.clone() } else { file("untagged", link_type, &untag) };
        let inner = file("inner", LinkType::ETHERNET, &inner);
        Self { link_type, frames, as_it_is, untagged, inner }
    }

    fn ours(&self, filter: &Filter) -> Chosen {
        let chosen = (0..).zip(&self.frames).filter(|(_, (len, data))| filter.matches(data, *len));
        chosen.map(|(index, _)| index).collect()
    }

    /// What tcpdump chooses for a filter that reads frames as `filter` does.
    fn theirs(&self, filter: &Filter, expression: &str) -> Option<Chosen> {
        let reading = filter.reading();
        let first = if reading.tags_kept.is_some() { &self.as_it_is } else { &self.untagged };
        let mut chosen = tcpdump(first, expression)?;
        if reading.tunnel_closed.is_none() {
            chosen.extend(tcpdump(&self.inner, expression)?);
        }
        Some(chosen)
    }
}

/// A classic file whose seconds are the frames' indexes.
fn pcap(
    link_type: LinkType,
    frames: &[Frame],
    change: &dyn Fn(&[u8]) -> Option<Vec<u8>>,
) -> Vec<u8> {
    const MAGIC: u32 = 0xa1b2_c3d4;
    // The number that libpcap has for raw IP in files.
    let mut file = Order::Little.classic(MAGIC, (2, 4), 262_144, u32::from(link_type.0));
    for (index, (len, data)) in (0..).zip(frames) {
        let Some(data) = change(data) else { continue };
        let captured = u32::try_from(data.len()).unwrap();
        file.extend(Order::Little.record((index, 0), (captured, *len), &data));
    }
    file
}

/// Indexes of what tcpdump chooses; `None` where it refuses the expression.
fn tcpdump(path: &Path, expression: &str) -> Option<Chosen> {
    let output = Command::new("tcpdump")
        .args(["-r", "-", "-w", "-", "--", expression])
        .stdin(File::open(path).ok()?)
        .output()
        .ok()?;
    let mut chosen = Chosen::new();
    if let Ok(mut reader) = PacketReader::new(output.stdout.as_slice()) {
        while let Ok(Some(read)) = reader.next_packet() {
            chosen.insert(read.packet.time_ns / 1_000_000_000);
        }
    }
    output.status.success().then_some(chosen)
}

/// Some frames of every file of the corpus, if it is there, and of the project's own; and one of them in every wrapping.
fn frames() -> Vec<Frame> {
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/handshake.pcap");
    let mut files = support::corpus().unwrap_or_default();
    files.push(own.clone());
    let most = if support::full() { 400 } else { FRAMES_OF_A_FILE };
    let mut frames: Vec<Frame> = files.iter().flat_map(|path| ethernet(path, most)).collect();
    let plain = ethernet(&own, 1).remove(0).1;
    let wrapped = wrapped::wrapped(&plain);
    frames.extend(wrapped.into_iter().map(|data| (u32::try_from(data.len()).unwrap(), data)));
    frames
}

/// The first `most` Ethernet frames of a file.
fn ethernet(path: &Path, most: usize) -> Vec<Frame> {
    let mut frames = Vec::new();
    let Ok(mut reader) = PacketReader::open(path) else { return frames };
    while let Ok(Some(read)) = reader.next_packet() {
        let data = read.packet.data.into_owned();
        // libpcap takes no record that is longer than its frame was.
        let sound = data.len() <= read.packet.original_len as usize;
        if sound && read.link_type == LinkType::ETHERNET && frames.len() < most {
            frames.push((read.packet.original_len, data));
        }
    }
    frames
}

/// The IP packets of Ethernet frames, without those.
fn raw(frames: &[Frame]) -> Vec<Frame> {
    let ip = |data: &[u8]| {
        let kind = data.get(12..14);
        matches!(kind, Some([0x08, 0] | [0x86, 0xdd])).then(|| data[14..].to_vec())
    };
    let bare = frames.iter().filter_map(|(len, data)| Some((len - 14, ip(data)?)));
    bare.filter(|(_, data)| !data.is_empty()).collect()
}

/// Addresses and ports of some frames.
fn pool(frames: &[Frame]) -> Pool {
    let mut pool = Pool::default();
    for (_, data) in frames.iter().step_by(7) {
        if let Some([0x08, 0, 0x45]) = data.get(12..15) {
            if let Some([a, b, c, d]) = data.get(26..30) {
                pool.hosts.push(format!("{a}.{b}.{c}.{d}"));
            }
            if let (Some(6 | 17), Some([high, low])) = (data.get(23), data.get(34..36)) {
                pool.ports.push(u16::from_be_bytes([*high, *low]));
            }
        }
    }
    pool.hosts.extend(["10.0.0.1", "172.31.0.1", "fd00::1", "fe80::1"].map(str::to_owned));
    pool.ports.extend([53, 80, 443, 4789]);
    pool
}

#[derive(Debug, Default)]
struct Comparison {
    compared: usize,
    /// Those where the tolerant filter chose other frames than the strict one.
    differing: usize,
    refused: usize,
    /// Those that libpcap runs on scratch words that hold anything.
    undefined: usize,
    wrong: Vec<String>,
}

impl Comparison {
    fn expression(&mut self, libpcap: &Libpcap, bench: &Bench, expression: &str) {
        for treatment in [Treatment::Strict, Treatment::Tolerant] {
            let compiled =
                libpcap.compile_as(treatment, expression, bench.link_type, Snaplen::WHOLE);
            let what = format!("`{expression}`, {treatment:?} on link type {}", bench.link_type);
            let filter = match compiled {
                Ok(filter) => filter,
                Err(error) => {
                    self.refused += 1;
                    // Loops are refused here alone, and so is the broadcast address of a network that nobody knows; what
                    // only raw IP can be is refused for what it carries.
                    let here =
                        ["protochain", "ip broadcast"].iter().any(|word| expression.contains(word));
                    let alone = here || treatment == Treatment::Tolerant;
                    if !alone && tcpdump(&bench.as_it_is, expression).is_some() {
                        self.wrong.push(format!("{what}: refused here only: {error}"));
                    }
                    continue;
                }
            };
            let as_strict =
                filter.reading().tags_kept.is_some() && filter.reading().tunnel_closed.is_some();
            if treatment == Treatment::Tolerant && as_strict {
                continue;
            }
            if filter.views().any(|(_, program)| reads_what_was_never_stored(program)) {
                self.undefined += 1;
                continue;
            }
            self.compared += 1;
            let ours = bench.ours(&filter);
            match bench.theirs(&filter, expression) {
                None => self.wrong.push(format!("{what}: refused there only")),
                Some(theirs) if theirs == ours => {}
                Some(theirs) => {
                    let other: Vec<_> = ours.symmetric_difference(&theirs).take(5).collect();
                    let first = *other[0];
                    let data = &bench.frames[usize::try_from(first).unwrap()].1;
                    let bytes = &data[..data.len().min(120)];
                    self.wrong.push(format!(
                        "{what}: frames {other:?} ({} here, {} there): {bytes:02x?}",
                        ours.len(),
                        theirs.len()
                    ));
                }
            }
            let strict = || libpcap.compile(expression, bench.link_type, Snaplen::WHOLE).unwrap();
            self.differing +=
                usize::from(treatment == Treatment::Tolerant && bench.ours(&strict()) != ours);
        }
    }
}

/// Whether some way through a program loads a scratch word that it has not stored: libpcap compiles `geneve and .. or ..` to
/// such. The words are 0 here, and anything in libpcap's interpreter.
fn reads_what_was_never_stored(program: &[Instruction]) -> bool {
    let mut stored = vec![u16::MAX; program.len() + 1];
    let mut here = 0;
    for (at, one) in program.iter().enumerate() {
        here &= stored[at];
        let word = 1 << (one.k % 16);
        match one.code {
            0x02 | 0x03 => here |= word,
            0x60 | 0x61 if here & word == 0 => return true,
            _ => {}
        }
        let class = one.code & 0x07;
        if class == 0x05 {
            let targets = if one.code == 0x05 {
                [one.k as usize; 2]
            } else {
                [usize::from(one.jt), usize::from(one.jf)]
            };
            for target in targets {
                stored[at + 1 + target] &= here;
            }
        }
        if matches!(class, 0x05 | 0x06) {
            here = u16::MAX;
        }
    }
    false
}

#[test]
fn strict_filters_choose_as_tcpdump_and_tolerant_ones_as_tcpdump_behind_tags_and_in_tunnels() {
    if !support::has_tool("tcpdump") {
        return;
    }
    let libpcap = match Libpcap::load() {
        Ok(libpcap) => libpcap,
        Err(error) => return support::skip(&error.to_string()),
    };
    let folder = tempfile::tempdir().unwrap();
    let frames = frames();
    let all = expressions(&pool(&frames), if support::full() { 4 * DRAWN } else { DRAWN });
    assert!(all.len() >= EXPRESSIONS_MIN, "{}", all.len());
    let raw = Bench::new(folder.path(), LinkType::RAW, raw(&frames));
    let ethernet = Bench::new(folder.path(), LinkType::ETHERNET, frames);
    let compare = |expressions: &[String]| {
        let mut comparison = Comparison::default();
        for (index, expression) in expressions.iter().enumerate() {
            comparison.expression(&libpcap, &ethernet, expression);
            if support::full() || index % 4 == 0 {
                comparison.expression(&libpcap, &raw, expression);
            }
        }
        comparison
    };
    // The time is tcpdump's start, so that two at once are twice as fast.
    let (front, back) = all.split_at(all.len() / 2);
    let both = thread::scope(|scope| {
        let other = scope.spawn(|| compare(back));
        [compare(front), other.join().expect("comparing does not panic")]
    });
    let sum = |count: fn(&Comparison) -> usize| both.iter().map(count).sum::<usize>();
    support::note(&format!(
        "{} expressions on {} frames and {} raw packets: {} comparisons, {} refused, {} undefined, \
         {} where tags or tunnels mattered",
        all.len(),
        ethernet.frames.len(),
        raw.frames.len(),
        sum(|half| half.compared),
        sum(|half| half.refused),
        sum(|half| half.undefined),
        sum(|half| half.differing),
    ));
    assert!(sum(|half| half.undefined) * 20 < sum(|half| half.compared), "too few are compared");
    assert!(sum(|half| half.differing) > 50, "what is tolerated makes no difference");
    let wrong: Vec<_> = both.into_iter().flat_map(|half| half.wrong).collect();
    assert!(wrong.is_empty(), "{} are wrong:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn programs_print_as_tcpdump_prints_them() {
    if !support::has_tool("tcpdump") {
        return;
    }
    let libpcap = match Libpcap::load() {
        Ok(libpcap) => libpcap,
        Err(error) => return support::skip(&error.to_string()),
    };
    let folder = tempfile::tempdir().unwrap();
    let empty = folder.path().join("empty.pcap");
    fs::write(&empty, pcap(LinkType::ETHERNET, &[], &|_| None)).unwrap();
    let mut printed = 0;
    for expression in expressions(&pool(&[]), 100).iter().step_by(2) {
        let Ok(filter) = libpcap.compile(expression, LinkType::ETHERNET, Snaplen::WHOLE) else {
            continue;
        };
        let output = Command::new("tcpdump")
            .args(["-d", "-r", "-", "--", expression])
            .stdin(File::open(&empty).unwrap())
            .output()
            .unwrap();
        let theirs = String::from_utf8(output.stdout).unwrap();
        assert_eq!(captures::filter::listing(filter.instructions()), theirs, "{expression}");
        printed += 1;
    }
    assert!(printed > 100, "{printed}");
}
