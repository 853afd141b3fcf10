//! tshark, capinfos and tcpdump read our files without a word, and show what was put in.
//! Never trusts our own reader: only what the tools print counts.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on must stop there")]

mod support;

use std::borrow::Cow;
use std::fs;
use std::path::{Path, PathBuf};

use captures::format::pcap::{PcapWriter, Resolution};
use captures::format::pcapng::SectionHeader;
use captures::session::Loss;
use captures::{
    Capture, CaptureSpec, CapturedPacket, Direction, InterfaceDescription, Limits, LinkType,
    Snaplen, StopReason,
};
use tempfile::TempDir;

const START_NS: u64 = 1_700_000_000_000_000_000;

/// Ethernet, IPv4, UDP 10.0.0.1:1000 to 10.0.0.2:2000, 4 bytes; the checksums are 0 and wrong.
const FRAME: [u8; 46] = [
    2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0, 0x45, 0, 0, 32, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0,
    1, 10, 0, 0, 2, 3, 0xe8, 7, 0xd0, 0, 12, 0, 0, 1, 2, 3, 4,
];

struct Written {
    folder: TempDir,
}

impl Written {
    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

/// A capture on two interfaces with everything that can be said of a packet, and classic files of
/// the same packets.
fn written() -> Written {
    let written = Written { folder: TempDir::new().unwrap() };
    let packets = packets();
    fs::write(written.path("capture.pcapng"), pcapng(&packets)).unwrap();
    for (name, resolution) in
        [("us.pcap", Resolution::Microseconds), ("ns.pcap", Resolution::Nanoseconds)]
    {
        let snaplen = Snaplen::try_new(42).unwrap();
        let mut writer =
            PcapWriter::new(Vec::new(), LinkType::ETHERNET, snaplen, resolution).unwrap();
        for packet in &packets {
            writer.packet(packet).unwrap();
        }
        fs::write(written.path(name), writer.into_inner()).unwrap();
    }
    written
}

fn packets() -> Vec<CapturedPacket<'static>> {
    let mut first = CapturedPacket::new(START_NS + 1, &FRAME);
    first.direction = Some(Direction::Inbound);
    first.packet_id = Some(u64::MAX);
    first.queue = Some(3);
    first.drop_count = Some(7);
    first.comments = vec![Cow::Borrowed("rtt 1 ms\nsecond line"), Cow::Borrowed("größer")];
    let mut second = CapturedPacket::new(START_NS + 1_000_000_002, &FRAME[..45]);
    second.original_len = 1500;
    second.interface = 1;
    second.direction = Some(Direction::Outbound);
    vec![first, second]
}

fn pcapng(packets: &[CapturedPacket<'_>]) -> Vec<u8> {
    let mut inside = InterfaceDescription::new(LinkType::ETHERNET, 0);
    inside.name = Some("eth0@tc-in".into());
    inside.description = Some("towards\tthe router".into());
    inside.hardware = Some("veth".into());
    inside.os = Some("Linux 6.18".into());
    let outside = InterfaceDescription {
        name: Some("eth0@tc-out".into()),
        description: None,
        ..inside.clone()
    };
    let spec = CaptureSpec {
        section: SectionHeader {
            hardware: Some("x86_64".into()),
            os: Some("Linux 6.18".into()),
            application: Some("linnet 0.1.0".into()),
        },
        interfaces: vec![inside, outside],
        filters: Vec::new(),
        snaplen: Snaplen::WHOLE,
        limits: Limits::default(),
    };
    let mut capture = Capture::start(spec, Vec::new(), START_NS).unwrap();
    capture.note_interface(0, 100, 1);
    for packet in packets {
        capture.offer(packet);
        capture.heartbeat(packet.time_ns);
    }
    capture.lose(Some(0), Loss::Ring, 7);
    capture.finish(StopReason::UserRequest, START_NS + 2_000_000_000).1
}

/// What `tool` prints; it must succeed and complain of nothing.
fn output(tool: &str, arguments: &[&str]) -> String {
    let output = support::run(tool, arguments);
    assert!(output.status.success(), "{tool} {arguments:?}: {output:?}");
    assert_eq!(support::complaints(&output), "", "{tool} {arguments:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn tshark_fields(path: &Path, fields: &[&str]) -> Vec<Vec<String>> {
    let mut arguments = vec!["-n", "-r", support::text(path), "-T", "fields"];
    for field in fields {
        arguments.extend(["-e", field]);
    }
    let lines = output("tshark", &arguments);
    lines.lines().map(|line| line.split('\t').map(str::to_owned).collect()).collect()
}

#[test]
fn tshark_shows_everything_that_was_noted_about_a_packet() {
    if !support::has_tool("tshark") {
        return;
    }
    let rows = tshark_fields(
        &written().path("capture.pcapng"),
        &[
            "frame.time_epoch",
            "frame.len",
            "frame.cap_len",
            "frame.interface_name",
            "frame.packet_flags_direction",
            "frame.packet_id",
            "frame.interface_queue",
            "frame.drop_count",
            "frame.comment",
            "udp.dstport",
        ],
    );
    let first = [
        "1700000000.000000001",
        "46",
        "46",
        "eth0@tc-in",
        "0x00000001",
        "18446744073709551615",
        "3",
        "7",
        "rtt 1 ms\\nsecond line,größer",
        "2000",
    ];
    let second =
        ["1700000001.000000002", "1500", "45", "eth0@tc-out", "0x00000002", "", "", "", "", "2000"];
    assert_eq!(rows, [first, second]);
}

#[test]
fn capinfos_shows_section_interfaces_and_statistics() {
    if !support::has_tool("capinfos") {
        return;
    }
    let text = output("capinfos", &["-M", support::text(&written().path("capture.pcapng"))]);
    for expected in [
        "Number of packets:   2",
        "Capture hardware:    x86_64",
        "Capture oper-sys:    Linux 6.18",
        "Capture application: linnet 0.1.0",
        "Number of interfaces in file: 2",
        "Name = eth0@tc-in",
        "Description = towards\\tthe router",
        "Hardware = veth",
        "Operating system = Linux 6.18",
        "Time precision = nanoseconds (9)",
        "Number of stat entries = 3",
    ] {
        assert!(text.contains(expected), "no `{expected}` in\n{text}");
    }
}

#[test]
fn tcpdump_reads_all_three_formats() {
    if !support::has_tool("tcpdump") {
        return;
    }
    let written = written();
    for name in ["capture.pcapng", "us.pcap", "ns.pcap"] {
        let path = written.path(name);
        let text = output("tcpdump", &["-n", "-tt", "-r", support::text(&path), "udp port 2000"]);
        assert_eq!(text.lines().count(), 2, "{name}: {text}");
        assert!(text.contains("10.0.0.1.1000 > 10.0.0.2.2000: UDP, length 4"), "{name}: {text}");
    }
}

#[test]
fn classic_files_keep_times_and_lengths() {
    if !support::has_tool("tshark") {
        return;
    }
    let written = written();
    for (name, nanos) in [("us.pcap", ["000000000"; 2]), ("ns.pcap", ["000000001", "000000002"])] {
        let fields = ["frame.time_epoch", "frame.len", "frame.cap_len"];
        let rows = tshark_fields(&written.path(name), &fields);
        let first = [&format!("1700000000.{}", nanos[0]), "46", "42"];
        let second = [&format!("1700000001.{}", nanos[1]), "1500", "42"];
        assert_eq!(rows, [first, second], "{name}");
    }
}

#[test]
fn concatenated_captures_are_one_file() {
    if !support::has_tool("tshark") {
        return;
    }
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("two.pcapng");
    let one = pcapng(&packets());
    fs::write(&path, [one.clone(), one].concat()).unwrap();
    let rows = tshark_fields(&path, &["frame.number", "frame.section_number", "frame.len"]);
    assert_eq!(rows, [["1", "1", "46"], ["2", "1", "1500"], ["3", "2", "46"], ["4", "2", "1500"]]);
}
