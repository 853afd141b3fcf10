//! The sample captures are what their generator makes, and show what their README says.
//! Never changes them: `cargo run -p captures --example make_testdata` does.

#[path = "../examples/make_testdata.rs"]
#[expect(dead_code, reason = "`main` writes the files, which only the example does")]
mod make_testdata;
mod support;

use std::fs;
use std::path::{Path, PathBuf};

use captures::format::read::Damage;
use captures::{Direction, PacketReader, ReadError};

fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata").join(name)
}

#[test]
fn the_files_are_what_the_generator_makes() {
    for (name, bytes) in make_testdata::files() {
        let made = fs::read(path(name)).unwrap();
        assert!(made == bytes, "{name} is stale: `cargo run -p captures --example make_testdata`");
    }
}

#[test]
fn every_file_has_its_line_in_the_readme() {
    let readme = fs::read_to_string(path("README.md")).unwrap();
    for entry in fs::read_dir(path("")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let listed = readme.lines().any(|line| line.starts_with(&format!("| `{name}` |")));
        assert!(listed || name == "README.md", "{name} is not in testdata/README.md");
    }
}

#[test]
fn two_ends_has_both_directions_and_packets_cut_to_the_snaplen() {
    let mut reader = PacketReader::open(&path("two_ends.pcapng")).unwrap();
    let mut seen = Vec::new();
    while let Some(read) = reader.next_packet().unwrap() {
        let inbound = read.packet.direction == Some(Direction::Inbound);
        assert_eq!(inbound, read.packet.interface == 0);
        seen.push((read.packet.captured_len(), read.packet.original_len));
    }
    assert_eq!(seen, [(78, 78), (78, 78), (78, 78), (128, 198), (128, 198), (78, 78), (81, 81)]);
    let names: Vec<_> = reader.interfaces().iter().map(|known| known.name.as_deref()).collect();
    assert_eq!(names, [Some("eth0@tc-in"), Some("eth0@tc-out")]);
}

#[test]
fn cut_short_ends_inside_its_seventh_packet() {
    let mut reader = PacketReader::open(&path("cut_short.pcapng")).unwrap();
    let error = loop {
        match reader.next_packet() {
            Ok(read) => assert!(read.is_some(), "the damage is not seen"),
            Err(error) => break error,
        }
    };
    let ReadError::Damaged { packets_read, what, .. } = error else { panic!("{error}") };
    assert_eq!(packets_read, 6);
    assert!(matches!(what, Damage::CutShort { .. }), "{what}");
}

#[test]
fn tshark_finds_the_stories_and_no_bad_checksum() {
    if !support::has_tool("tshark") {
        return;
    }
    let found = |name: &str, filter: &str| {
        let path = path(name);
        let checks = ["tcp", "udp", "ip"].map(|layer| format!("{layer}.check_checksum:TRUE"));
        let mut arguments = vec!["-n", "-r", support::text(&path), "-Y", filter];
        for check in &checks {
            arguments.extend(["-o", check]);
        }
        let output = support::run("tshark", &arguments);
        String::from_utf8_lossy(&output.stdout).lines().count()
    };
    let bad = "tcp.checksum.status == 0 or udp.checksum.status == 0 or ip.checksum.status == 0";
    for (name, packets) in [("handshake.pcap", 9), ("two_ends.pcapng", 7)] {
        assert_eq!(found(name, "frame"), packets, "{name}");
        assert_eq!(found(name, bad), 0, "{name}");
    }
    assert_eq!(found("handshake.pcap", "tcp.analysis.initial_rtt == 0.01005"), 7);
    assert_eq!(found("two_ends.pcapng", "tcp.analysis.retransmission"), 1);
    assert_eq!(found("two_ends.pcapng", "vlan.id == 100"), 6);
    assert_eq!(found("two_ends.pcapng", "dns.flags.response == 0"), 1);
}
