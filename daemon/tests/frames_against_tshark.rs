//! `linnet analyze --frames` against tshark: the same frames with the same letters, from tshark itself where it is
//! installed, and from what it once said where the corpus folder has that. Must never take a difference for granted:
//! each one that may be is in [`EXCEPTED`].
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test fails by panicking and says what it found"
)]

mod support;

use std::{
    collections::BTreeSet,
    fs::{self, File},
    path::Path,
    process::Command,
};

use captures::{
    CapturedPacket, LinkType, Snaplen,
    format::pcap::{PcapWriter, Resolution},
};
use serde_json::Value;
use support::tshark::{self, Letters};

/// Captures in which frames may differ, how many, and why. None of those in the corpus folder is among them; these are
/// others that are public, by the last part of their name.
const EXCEPTED: [(&str, usize, &str); 7] = [
    ("gre-aruba.pcap", 950, "802.11 in GRE, which linnet does not read"),
    ("capwap_data.pcapng", 7, "802.11 in CAPWAP, which linnet does not read"),
    ("ajp.pcap", 5, "Cisco FabricPath, which linnet does not read"),
    ("arcnet-rfc1051-arp-icmp-http.pcap", 1, "ARCNET, which linnet does not read"),
    ("arcnet-rfc1201-arp-icmp-http.pcap", 1, "ARCNET, which linnet does not read"),
    ("80211http.pcap", 2, "802.11, which linnet does not read"),
    ("malformed-ipv4__input.pcap", 1, "tshark gives up at an IP option that is too short"),
];

#[test]
fn every_frame_is_flagged_as_tshark_flags_it() {
    if !lab::require_tool("tshark", "the frames against tshark") {
        return;
    }
    let compat = match tshark::release().as_str() {
        "4.0" => "ws40",
        "4.4" => "ws44",
        other => {
            println!("skipped: the frames against tshark: its rules of {other} are not linnet's");
            return;
        }
    };
    let files = support::corpus();
    let compared =
        support::in_parallel(&files, |path| differences(path, compat, &tshark::flagged(path)));
    hold(compat, &compared);
}

#[test]
fn every_frame_is_flagged_as_on_record() {
    let truth = support::corpus_folder().join("truth");
    if !truth.is_dir() {
        println!("skipped: the frames on record: there is no {}", truth.display());
        return;
    }
    let files = support::corpus();
    for (compat, field) in [("ws40", "frame_flags_tshark40"), ("ws44", "frame_flags_tshark44")] {
        let compared = support::in_parallel(&files, |path| {
            let name = path.file_name().unwrap().to_string_lossy();
            let record = fs::read(truth.join(format!("{name}.json"))).ok()?;
            let record: Value = serde_json::from_slice(&record).unwrap();
            Some(differences(path, compat, &on_record(&record, field)))
        });
        let compared: Vec<_> = compared.into_iter().flatten().collect();
        assert!(!compared.is_empty(), "no record in {}", truth.display());
        hold(compat, &compared);
    }
}

#[test]
fn what_two_releases_tell_apart_is_told_apart() {
    // A segment that was seen is sent again 1 ms later, and is not the highest one.
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("again.pcap");
    let segments = [(1_000, 0), (1_100, 1_000_000), (1_000, 2_000_000)];
    captured(&path, segments.map(|(sequence, at_ns)| (at_ns, segment(sequence))));
    assert_eq!(flagged(&path, "ws40"), [(3, "O")].map(letters).into());
    assert_eq!(flagged(&path, "ws44"), [(3, "R")].map(letters).into());
}

/// What became of one file.
#[derive(Debug)]
struct Compared {
    name: String,
    flagged: usize,
    differs: Vec<String>,
}

/// Frames that linnet and tshark do not flag alike.
fn differences(path: &Path, compat: &str, theirs: &Letters) -> Compared {
    let ours = flagged(path, compat);
    let frames: BTreeSet<_> = ours.keys().chain(theirs.keys()).collect();
    let differs = frames.into_iter().filter(|frame| ours.get(frame) != theirs.get(frame));
    Compared {
        name: path.file_name().unwrap().to_string_lossy().into_owned(),
        flagged: theirs.len(),
        differs: differs
            .map(|frame| format!("{frame}: {:?}, tshark {:?}", ours.get(frame), theirs.get(frame)))
            .collect(),
    }
}

fn hold(compat: &str, compared: &[Compared]) {
    let flagged: usize = compared.iter().map(|file| file.flagged).sum();
    println!("{compat}: {flagged} flagged frames in {} files", compared.len());
    for (name, _, why) in EXCEPTED {
        for file in compared.iter().filter(|file| file.name.ends_with(name)) {
            println!("{}: {} frames differ: {why}", file.name, file.differs.len());
        }
    }
    let excepted = |file: &&Compared| {
        let row = EXCEPTED.iter().find(|(name, ..)| file.name.ends_with(name));
        file.differs.len() > row.map_or(0, |(_, most, _)| *most)
    };
    let wrong: Vec<_> = compared.iter().filter(excepted).collect();
    assert!(wrong.is_empty(), "{compat}: {wrong:#?}");
}

/// What the corpus folder's record says of a release.
fn on_record(record: &Value, field: &str) -> Letters {
    // The later release's is left out where it is the same.
    let rows = record[field].as_array().or_else(|| record["frame_flags_tshark40"].as_array());
    let row = |row: &Value| (row[0].as_u64().unwrap(), row[1].as_str().unwrap().chars().collect());
    rows.unwrap().iter().map(row).collect()
}

/// What linnet prints.
fn flagged(path: &Path, compat: &str) -> Letters {
    let mut linnet = Command::new(env!("CARGO_BIN_EXE_linnet"));
    let output = linnet.args(["analyze", "--frames", "--compat", compat]).arg(path).output();
    let output = output.unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(matches!(output.status.code(), Some(0 | 65)), "{}: {said}", path.display());
    let line = |line: &str| {
        let (frame, letters) = line.split_once('\t').unwrap();
        (frame.parse().unwrap(), letters.chars().collect())
    };
    String::from_utf8(output.stdout).unwrap().lines().map(line).collect()
}

fn letters((frame, letters): (u64, &str)) -> (u64, BTreeSet<char>) {
    (frame, letters.chars().collect())
}

/// 100 bytes of payload on IPv4.
fn segment(sequence: u32) -> Vec<u8> {
    const IP: [u8; 20] = [0x45, 0, 0, 140, 0, 1, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
    let mut segment = [&IP[..], &[0x10, 0, 0, 80], &sequence.to_be_bytes(), &[0, 0, 0, 9]].concat();
    segment.extend([0x50, 0x10, 1, 0, 0, 0, 0, 0]);
    segment.extend([7; 100]);
    segment
}

/// Writes a pcap of raw IP packets.
fn captured<const N: usize>(path: &Path, packets: [(u64, Vec<u8>); N]) {
    let file = File::create(path).unwrap();
    let mut writer =
        PcapWriter::new(file, LinkType::RAW, Snaplen::WHOLE, Resolution::Nanoseconds).unwrap();
    for (at_ns, packet) in packets {
        writer.packet(&CapturedPacket::new(at_ns, &packet)).unwrap();
    }
}
