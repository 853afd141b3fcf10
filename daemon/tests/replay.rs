//! `linnet run --replay` as a process: what it makes of a file's second pass, of its link types, of damage, and of
//! more flows than it has room for. Needs no privilege.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use captures::{
    Capture, CaptureSpec, CapturedPacket, InterfaceDescription, Limits, LinkType, PacketReader,
    Snaplen, StopReason, format::pcapng::SectionHeader,
};
use serde_json::{Value, json};
use support::served::{Daemon, wait_until};

fn testdata(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../captures/testdata").join(name)
}

fn play(file: &Path, more: &[&str]) -> Daemon {
    Daemon::replay(&[], tempfile::tempdir().unwrap(), file, more)
}

fn status(daemon: &Daemon) -> Value {
    daemon.get("/api/v1/status").1["status"].clone()
}

/// An IPv4 header and a UDP header, between two ports.
fn datagram(from: u16, to: u16) -> Vec<u8> {
    let mut packet = vec![0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2];
    packet.extend([from.to_be_bytes(), to.to_be_bytes(), 8_u16.to_be_bytes(), [0, 0]].concat());
    packet
}

/// An IPv4 header, a TCP header and zeros, between ports 5000 (client) and 80.
fn segment(client: bool, id: u8, numbers: [u32; 2], flags: u8, payload: u16) -> Vec<u8> {
    let [high, low] = (40 + payload).to_be_bytes();
    let [own, peer] = if client { [1, 2] } else { [2, 1] };
    let mut packet = vec![0x45, 0, high, low, 0, id, 0, 0, 64, 6, 0, 0];
    packet.extend([192, 0, 2, own, 192, 0, 2, peer]);
    let [from, to] = if client { [5_000_u16, 80] } else { [80, 5_000] };
    packet.extend([from.to_be_bytes(), to.to_be_bytes()].concat());
    packet.extend(numbers.map(u32::to_be_bytes).concat());
    packet.extend([0x50, flags, 0x10, 0, 0, 0, 0, 0]);
    packet.resize(packet.len() + usize::from(payload), 0);
    packet
}

/// A file of packets, each with its time and link type, of which there is an interface each.
fn write(path: &Path, packets: &[(u64, LinkType, Vec<u8>)]) {
    let snaplen = Snaplen::try_new(262_144).unwrap();
    let mut links: Vec<_> = packets.iter().map(|(_, link, _)| *link).collect();
    links.dedup();
    let spec = CaptureSpec {
        section: SectionHeader::default(),
        interfaces: links.iter().map(|link| InterfaceDescription::new(*link, 262_144)).collect(),
        filters: Vec::new(),
        snaplen,
        limits: Limits { packets: None, bytes: None, duration_ns: None },
    };
    let mut capture = Capture::start(spec, fs::File::create(path).unwrap(), 0).unwrap();
    for (time_ns, link, data) in packets {
        let mut packet = CapturedPacket::new(*time_ns, data.as_slice());
        let place = links.iter().position(|known| known == link).unwrap();
        packet.interface = u32::try_from(place).unwrap();
        capture.offer(&packet);
    }
    capture.finish(StopReason::UserRequest, 1);
}

#[test]
fn the_second_pass_sends_nothing_again() {
    let daemon = play(&testdata("handshake.pcap"), &[]);
    let first = daemon.get("/api/v1/flows").1;
    wait_until("the third pass", || {
        let flows = status(&daemon)["flows"].clone();
        flows["created"].as_u64() >= Some(3) && flows["records"].as_u64() >= Some(3)
    });
    let flows = daemon.get("/api/v1/flows").1["flows"].clone();
    let flows = flows.as_array().unwrap();
    assert!(flows.len() >= 3, "a flow of its own for each pass: {first} {flows:#?}");
    for flow in flows {
        for side in ["from_originator", "from_responder"] {
            for class in ["retransmissions", "out_of_order", "reused_ports"] {
                assert_eq!(flow[side]["tcp"][class], 0, "{class}: {flow:#}");
            }
        }
    }
}

#[test]
fn a_capture_of_a_replay_has_the_link_types_of_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("Mixed.pcapng");
    let ethernet = [&[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0][..], &datagram(1, 2)].concat();
    write(&file, &[(1_000, LinkType::RAW, datagram(3, 4)), (2_000, LinkType::ETHERNET, ethernet)]);
    let daemon = play(&file, &[]);
    let mut interfaces = Value::Null;
    wait_until("both link types", || {
        interfaces = daemon.get("/api/v1/interfaces").1["interfaces"].clone();
        interfaces.as_array().unwrap().len() == 2
    });
    let names = [&interfaces[0]["name"], &interfaces[1]["name"]];
    assert_eq!(names, ["Mixed.pcapng", "Mixed.pcapng:ethernet"]);
    assert_eq!([&interfaces[0]["link"], &interfaces[1]["link"]], ["raw_ip", "ethernet"]);
    let request = json!({ "limits": { "packets": 4, "seconds": 20 } });
    let (code, answer) = daemon.post("/api/v1/captures", &request);
    assert_eq!(code, 201, "{answer}");
    let capture = format!("/api/v1/captures/{}", answer["capture"]["id"].as_str().unwrap());
    wait_until("the capture", || daemon.get(&capture).1["capture"]["state"] == "finished");
    let ours = folder.path().join("ours.pcapng");
    let to = ["--no-include", "-o", ours.to_str().unwrap()];
    daemon.ask_unix(&to, &format!("{capture}/file"));
    let mut reader = PacketReader::open(&ours).unwrap();
    let mut links = Vec::new();
    while let Some(read) = reader.next_packet().unwrap() {
        links.push((read.link_type, read.packet.data.len()));
    }
    links.sort_unstable();
    let (ethernet, raw) = ((LinkType::ETHERNET, 42), (LinkType::RAW, 28));
    assert_eq!(links, [ethernet, ethernet, raw, raw]);
}

#[test]
fn a_cut_file_is_played_and_said_to_be_cut_once() {
    let daemon = play(&testdata("cut_short.pcapng"), &[]);
    wait_until("the third pass", || status(&daemon)["flows"]["created"].as_u64() >= Some(3));
    let notices = status(&daemon)["notices"].to_string();
    assert!(notices.contains("cut_short.pcapng` is not played to its end"), "{notices}");
    let log = daemon.log();
    assert_eq!(log.matches("not played to its end").count(), 1, "{log}");
    assert_eq!(daemon.get("/healthz").0, 200);
}

#[test]
fn times_at_both_ends_of_the_range_do_not_end_the_play() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("times.pcapng");
    let packet = |time_ns, port| (time_ns, LinkType::RAW, datagram(port, 9));
    write(&file, &[packet(0, 1), packet(u64::MAX - 1, 2)]);
    let daemon = play(&file, &[]);
    let (first, second) = (status(&daemon), "another sweep");
    wait_until(second, || {
        let count = |status: &Value| status["sweep"]["count"].as_u64().unwrap();
        count(&status(&daemon)) > count(&first) + 1
    });
    assert_eq!(status(&daemon)["flows"]["created"], 1, "the second is due in ten minutes");
    assert_eq!(daemon.get("/healthz").0, 200);
    assert_eq!(daemon.get("/readyz").0, 200);
}

#[test]
fn flows_beyond_the_limit_are_counted() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("many.pcapng");
    let packets: Vec<_> =
        (1..=5).map(|port| (u64::from(port), LinkType::RAW, datagram(port, 9))).collect();
    write(&file, &packets);
    let daemon = play(&file, &["--flows", "2"]);
    wait_until("a whole pass", || {
        daemon.get("/api/v1/status").1["loss"]["ledger"]["table_full"].as_u64() >= Some(3)
    });
    let flows = status(&daemon)["flows"].clone();
    assert_eq!(flows["capacity"], 2);
    assert!(flows["live"].as_u64() <= Some(2), "{flows}");
    assert!(daemon.log().contains("bytes_max"), "{}", daemon.log());
}

#[test]
fn what_cannot_be_played_is_refused_with_its_exit_code() {
    let folder = tempfile::tempdir().unwrap();
    let empty = folder.path().join("empty.pcap");
    fs::write(&empty, "").unwrap();
    let fifo = folder.path().join("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    for (file, code, words) in [
        (empty, 65, "empty.pcap"),
        (testdata("README.md"), 65, "README.md"),
        (fifo, 64, "no regular file"),
        (folder.path().to_owned(), 64, "directory"),
    ] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_linnet"));
        command
            .args(["run", "--listen", "127.0.0.1:0", "--run-dir"])
            .arg(folder.path().join("run"));
        command.arg("--state-dir").arg(folder.path().join("state")).arg("--replay").arg(&file);
        let output = command.output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{}: {said}", file.display());
        assert!(said.contains(words), "{}: {said}", file.display());
    }
}

#[test]
fn a_replay_tells_events_as_a_kernel_does() {
    const MS: u64 = 1_000_000;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("sent_again.pcapng");
    let packets = [
        (0, segment(true, 1, [99, 0], 0x02, 0)),
        (MS, segment(false, 1, [499, 100], 0x12, 0)),
        (3 * MS, segment(true, 2, [100, 500], 0x10, 0)),
        (4 * MS, segment(true, 3, [100, 500], 0x18, 100)),
        (5 * MS, segment(false, 2, [500, 200], 0x10, 0)),
        (6 * MS, segment(true, 4, [200, 500], 0x18, 100)),
        (406 * MS, segment(true, 5, [200, 500], 0x18, 100)),
        (407 * MS, segment(false, 3, [500, 300], 0x10, 0)),
    ];
    let packets: Vec<_> =
        packets.into_iter().map(|(time_ns, data)| (time_ns, LinkType::RAW, data)).collect();
    write(&file, &packets);
    let daemon = play(&file, &[]);
    let mut flow = Value::Null;
    let count = |flow: &Value| flow["from_originator"]["tcp"]["verdicts"]["rto"].as_u64();
    wait_until("a segment that was sent again", || {
        let flows = daemon.get("/api/v1/flows?live=false").1["flows"].take();
        flow = flows.as_array().unwrap().first().cloned().unwrap_or_default();
        count(&flow) == Some(1)
    });
    let parts = json!({ "originator_side_ns": 2 * MS, "responder_side_ns": MS });
    assert_eq!(flow["handshake"], parts, "{flow}");
    let path = format!("/api/v1/flows/{}/events", flow["id"].as_str().unwrap());
    let (status, mut answer) = daemon.get(&path);
    assert_eq!(status, 200, "{answer}");
    let event = answer["events"][0].take();
    assert_eq!(answer["total"], 1, "{answer}");
    for (field, value) in [
        ("direction", json!("from_originator")),
        ("classes", json!(["retransmissions"])),
        ("verdicts", json!(["retransmitted_segments", "rto", "lost_downstream"])),
        ("segments", json!(1)),
        ("bytes", json!(100)),
        ("sequence", json!(200)),
        ("acknowledgment", json!(500)),
        ("payload_len", json!(100)),
        ("window", json!(4_096)),
        ("flags", json!("PA")),
    ] {
        assert_eq!(event[field], value, "{field}: {event}");
    }
    assert!(event["silence_ns"].as_u64().unwrap().abs_diff(400 * MS) <= 1_024, "{event}");
    assert!(event["time"].as_str() > flow["first_seen"].as_str(), "{event}");
    assert_eq!(daemon.get(&format!("{path}?kind=fast,out_of_order")).1["events"], json!([]));
    let number = &event["number"];
    assert_eq!(daemon.get(&format!("{path}?after={number}")).1["events"], json!([]));

    let summary = daemon.get("/api/v1/tcp/summary").1;
    let rings = &summary["loss"]["rings"]["events"];
    assert_eq!((&rings["produced"], &rings["lost"]), (&rings["consumed"], &json!(0)), "{rings}");
    assert_eq!(summary["interfaces"][0]["interface"], "sent_again.pcapng");
    assert!(summary["total"]["verdicts"]["rto"].as_u64() >= Some(1), "{summary}");
    let worst = &summary["retransmitting"][0];
    assert_eq!([&worst["originator"], &worst["responder"]], ["192.0.2.1:5000", "192.0.2.2:80"]);
    assert_eq!(worst["retransmitted_segments"], 1);
    assert_eq!(worst["from_originator"]["ratio"], json!(0.2));
    let metrics = daemon.get("/metrics").1;
    let series = "linnet_tcp_segments_flagged_total{interface=\"sent_again.pcapng\",class=\"retransmissions\"} ";
    assert!(metrics.as_str().unwrap().contains(series), "{metrics}");

    let id = flow["id"].as_str().unwrap();
    for (args, line) in [
        (&["flows"][..], "tcp    192.0.2.1:5000 -> 192.0.2.2:80"),
        (&["events", id], "retransmitted_segments"),
    ] {
        let mut linnet = Command::new(env!("CARGO_BIN_EXE_linnet"));
        let output = linnet.args(args).arg("--socket").arg(daemon.socket()).output().unwrap();
        let told = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && told.contains(line), "{args:?}: {output:?}");
    }
}
