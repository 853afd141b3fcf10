//! Our reader and tshark see the same packets in files that are unusual, old or damaged.
//! Never compares times: `reader_odd_files.rs` says what they must be.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on must stop there")]

#[path = "support/build.rs"]
mod build;
mod support;

use std::fs;

use build::Order::{self, Big, Little};
use captures::{PacketReader, ReadError};

const MICROSECONDS: u32 = 0xa1b2_c3d4;
const NANOSECONDS: u32 = 0xa1b2_3c4d;
const PATCHED: u32 = 0xa1b2_cd34;
const TICKS: u64 = 1_700_000_000_000_001;

fn data() -> Vec<u8> {
    (0..60).collect()
}

fn classic(order: Order, magic: u32) -> Vec<u8> {
    order.classic(magic, (2, 4), 65_535, 1)
}

fn record(order: Order) -> Vec<u8> {
    order.record((1, 2), (60, 60), &data())
}

/// A section with one Ethernet interface that counts microseconds.
fn section(order: Order) -> Vec<u8> {
    [order.section((1, 0)), order.interface(1, 0, &[])].concat()
}

/// Original and captured length of every packet, as tshark prints them, and the error at the end.
fn read(file: &[u8]) -> (Vec<String>, Option<ReadError>) {
    let mut packets = Vec::new();
    let mut reader = match PacketReader::new(file) {
        Ok(reader) => reader,
        Err(error) => return (packets, Some(error)),
    };
    loop {
        match reader.next_packet() {
            Ok(Some(read)) => {
                let packet = read.packet;
                packets.push(format!("{}\t{}", packet.original_len, packet.captured_len()));
            }
            Ok(None) => return (packets, None),
            Err(error) => return (packets, Some(error)),
        }
    }
}

/// Files for both readers, each with a name that says what is odd about it. What one of them is
/// known to see differently is not here: `reader_odd_files.rs` says what we see.
fn files_for_both() -> Vec<(String, Vec<u8>)> {
    let mut files = Vec::new();
    for order in [Little, Big] {
        let mut add = |name: &str, file: Vec<u8>| files.push((format!("{order:?} {name}"), file));
        let data = data();
        for magic in [MICROSECONDS, NANOSECONDS] {
            let header = classic(order, magic);
            add("classic", [header.clone(), record(order)].concat());
            add("no packets", header);
        }
        let patch = [&order.u32(3)[..], &order.u16(0x800), &[0, 0]].concat();
        let patched = order.record((1, 2), (60, 60), &[&patch[..], &data].concat());
        add("patched", [classic(order, PATCHED), patched.repeat(4)].concat());
        add("red hat", [classic(order, MICROSECONDS), patched.repeat(4)].concat());
        for version in [(1, 0), (2, 2), (2, 3), (543, 0)] {
            let header = order.classic(MICROSECONDS, version, 65_535, 1);
            let swapped = order.record((1, 2), (100, 60), &data);
            add(&format!("version {version:?}"), [header, swapped].concat());
        }
        for link in [0x2400_0001, 0x0001_0001] {
            let header = order.classic(MICROSECONDS, (2, 4), 20, link);
            add(&format!("link {link:x}"), [header, record(order).repeat(3)].concat());
        }
        let classic_file = [classic(order, NANOSECONDS), record(order).repeat(3)].concat();
        for cut in [1, 60, 61, 70, 80] {
            add(&format!("cut by {cut}"), classic_file[..classic_file.len() - cut].to_vec());
        }

        let section = section(order);
        let packet = order.packet(TICKS, &data);
        let mut behind = |name: &str, block: Vec<u8>| {
            add(name, [section.clone(), packet.clone(), block, packet.clone()].concat());
        };
        behind("unknown block", order.block(0x99, &[1; 5]));
        behind("unpadded length", order.block_with_lengths(0x99, b"abcd", 13, 13));
        behind("half padded lengths", order.block_with_lengths(0x99, b"abcd", 13, 16));
        behind("short block", order.block_with_lengths(0x99, b"", 8, 8));
        behind("wrong tail", order.block_with_lengths(0x99, b"abcd", 16, 20));
        behind("unknown interface", order.block(6, &order.packet_body(1, 0, 0, b"", &[])));
        behind("longer than it was", order.block(6, &order.packet_body(0, 0, 1, b"abcd", &[])));
        behind("simple packet", order.simple_packet(60, &data));
        behind("simple packet too short", order.simple_packet(61, &data[..56]));
        behind("simple packet too long", order.simple_packet(52, &data));
        behind("obsolete packet", order.block(2, &order.packet_body(0, TICKS, 60, &data, &[])));
        behind("second section", [order.section((1, 0)), order.interface(101, 0, &[])].concat());
        behind("section without interface", order.section((1, 0)));
        behind(
            "section of version 1.2",
            [order.section((1, 2)), order.interface(1, 0, &[])].concat(),
        );
        behind("section of version 2.0", order.section((2, 0)));
        behind("bad section", order.block(0x0a0d_0d0a, b"abcdabcdabcdabcd"));
        behind("names cut", order.block(4, b"\x01\0\x30\0abcd"));
        behind("no names", order.block(4, b""));
        behind("statistics cut", order.block(5, &[0; 8]));
        behind("custom cut", order.block(0xbad, b""));
        for (code, len) in
            [(1, 3), (2, 5), (3, 0), (4, 4), (5, 4), (6, 8), (7, 0), (2988, 3), (99, 2)]
        {
            let options = order.option(code, &vec![2; len]);
            let body = order.packet_body(0, TICKS, 60, &data, &options);
            behind(&format!("option {code} of {len}"), order.block(6, &body));
        }
        for options in [&b"\0\0\0\0\xff\xff\xff\xff"[..], b"\0\0\0\x09", b"\0\x01\x09\x09", b"\x01"]
        {
            let body = order.packet_body(0, TICKS, 60, &data, options);
            behind(&format!("options {options:?}"), order.block(6, &body));
        }
        for options in [
            order.option(9, &[9]),
            order.option(9, &[0x80 | 20]),
            order.option(9, &[9, 9]),
            [order.option(9, &[9]), order.option(9, &[3])].concat(),
            order.option(14, &order.u64(77)),
            order.option(11, b""),
            order.option(2, b"\xff\xfe"),
        ] {
            let interface = order.interface(1, 0, &options);
            let file = [order.section((1, 0)), interface, packet.clone()].concat();
            add(&format!("interface {options:?}"), file);
        }
    }
    files
}

#[test]
fn tshark_reads_the_same_of_every_odd_file() {
    if !support::has_tool("tshark") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("odd");
    let mut differences = Vec::new();
    for (name, file) in files_for_both() {
        fs::write(&path, &file).unwrap();
        let (ours, error) = read(&file);
        let theirs = support::run(
            "tshark",
            &[
                "-n",
                "-r",
                support::text(&path),
                "-T",
                "fields",
                "-e",
                "frame.len",
                "-e",
                "frame.cap_len",
            ],
        );
        let lines = String::from_utf8_lossy(&theirs.stdout).into_owned();
        let same = ours.iter().map(String::as_str).eq(lines.lines());
        if !same || error.is_none() != theirs.status.success() {
            differences.push(format!(
                "{name}: {ours:?} {error:?}\nbut tshark {lines:?} {}",
                support::complaints(&theirs)
            ));
        }
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}
