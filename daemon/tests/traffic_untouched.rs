//! The observer does not change the observed: frames that cross a watched path arrive as they do without linnet, bit
//! by bit and in order, also while packets are captured. Must never compare with anything that linnet says.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::cast_possible_truncation,
    reason = "a test fails by panicking and makes its own numbers"
)]

mod support;

use std::{
    io::{Read as _, Write as _},
    net::UdpSocket,
    path::Path,
    thread,
    time::Duration,
};

use lab::{
    CLIENT_INTERFACE, Family, Lab, Plan, ROUTER_CLIENT_INTERFACE, ROUTER_SERVER_INTERFACE,
    SERVER_INTERFACE,
    capture::Tcpdump,
    traffic::{Budget, Stop, inject},
};
use serde_json::json;
use support::{Random, linnet::Linnet, pair::Pair, tshark};

/// Neither end's own frames: address resolution speaks whenever it likes.
const NOT_THE_ENDS: &str = "not ether host 02:00:00:77:01:02 and not ether host 02:00:00:77:02:02";

fn can_run(what: &str) -> bool {
    support::kernel(what)
        && ["tcpdump", "tshark", "ethtool", "curl"].iter().all(|tool| lab::require_tool(tool, what))
}

/// linnet on every interface of the path: XDP in the middle, TC at the ends.
fn watch(lab: &Lab, name: &str) -> Linnet {
    let specs: Vec<_> = lab
        .interfaces()
        .into_iter()
        .map(|end| end.spec + if end.role == "router" { ",ingress=xdp" } else { "" })
        .collect();
    let linnet = Linnet::watch(name, &specs);
    for interface in [ROUTER_CLIENT_INTERFACE, ROUTER_SERVER_INTERFACE] {
        // Native XDP turns receive merging on; the lab's router forwards what a wire would carry.
        let mut ethtool = lab.router().unwrap().command("ethtool");
        assert!(ethtool.args(["-K", interface, "gro", "off"]).status().unwrap().success());
    }
    linnet
}

fn seen(linnet: &Linnet) -> u64 {
    linnet.settle();
    linnet.see("/api/v1/flows", "loss")["seen"].as_u64().unwrap()
}

/// A capture of everything, on all interfaces.
fn capture(linnet: &Linnet) {
    let (status, answer) = linnet.post("/api/v1/captures", &json!({}));
    assert_eq!(status, 201, "{answer}");
}

#[test]
fn frames_arrive_bit_by_bit_as_without_linnet() {
    if !can_run("traffic with and without linnet") {
        return;
    }
    // On two CPUs frames may overtake each other on a veth pair, with and without linnet. Threads inherit this.
    lab::processor::stay_on_one(0).unwrap();
    let lab = Lab::build(Plan::new("untouched")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let frames = frames(folder.path());
    let across = |name: &str| arrived(&lab, &frames, &folder.path().join(name));
    let without = across("without.pcap");
    assert_eq!(without.len(), frames.len(), "the lab itself loses nothing");
    let sent: Vec<String> = frames.iter().map(|frame| hexadecimal(frame)).collect();
    assert!(without == sent, "the lab itself changes nothing");

    let linnet = watch(&lab, "untouched");
    let before = seen(&linnet);
    let with = across("with.pcap");
    // Each frame passes a hook at each of the path's four interface ends.
    let counted = seen(&linnet) - before;
    assert!(counted >= 4 * frames.len() as u64, "linnet was in the path: {counted}");
    assert_same("with linnet", &with, &without);

    capture(&linnet);
    let captured = across("captured.pcap");
    assert_same("while a capture runs", &captured, &without);
    let captures = linnet.see("/api/v1/captures", "captures");
    assert!(captures[0]["offered"].as_u64().unwrap() > 0, "it did capture: {captures}");
    println!("{} frames, three times the same", frames.len());

    assert!(linnet.stop().success());
    assert_same("after linnet", &across("after.pcap"), &without);
}

#[test]
fn content_arrives_as_it_was_sent() {
    if !can_run("transfers under linnet") {
        return;
    }
    let lab = Lab::build(Plan::new("content")).unwrap();
    let linnet = watch(&lab, "content");
    capture(&linnet);
    let mut random = Random(7);
    let content: Vec<u8> = (0..300_000).flat_map(|_| random.next().to_be_bytes()).collect();
    let Pair { mut client, mut server } = Pair::open(&lab, 6_100);
    let mut received = vec![0; content.len()];
    thread::scope(|scope| {
        scope.spawn(|| client.write_all(&content).unwrap());
        server.read_exact(&mut received).unwrap();
    });
    assert!(received == content, "tcp");

    let at = lab.server_socket(Family::V4, 6_101);
    let receiver = lab.server().run(|| UdpSocket::bind(at)).unwrap().unwrap();
    receiver.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let from = (lab.client_address(Family::V4), 0);
    let sender = lab.client().run(|| UdpSocket::bind(from)).unwrap().unwrap();
    for datagram in content.chunks(1_400).take(200) {
        sender.send_to(datagram, at).unwrap();
        let length = receiver.recv(&mut received).unwrap();
        assert!(&received[..length] == datagram, "udp");
    }

    let server = format!("{}/{SERVER_INTERFACE}", lab.server().name());
    let flows = linnet.flows(&server);
    for (port, bytes) in [(6_100, content.len()), (6_101, 200 * 1_400)] {
        let flow = flows.iter().find(|flow| flow["responder"]["port"] == port).unwrap();
        let payload = flow["from_originator"]["payload_bytes"].as_u64().unwrap();
        assert!(payload >= bytes as u64, "linnet was in the path: {flow}");
    }
}

/// Whole conversations with VLAN tags and both IP versions, then damaged, odd and random frames.
fn frames(folder: &Path) -> Vec<Vec<u8>> {
    let path = folder.join("scene.pcap");
    let scene = lab::synth::Scene { seconds: 10, seed: 3, ..lab::synth::Scene::default() };
    lab::synth::write(&scene, std::fs::File::create(&path).unwrap()).unwrap();
    let mut reader = captures::PacketReader::open(&path).unwrap();
    let mut frames = Vec::new();
    while let Some(read) = reader.next_packet().unwrap() {
        frames.push(read.packet.data.to_vec());
    }
    frames.truncate(1_500);
    let mut random = Random(11);
    for _ in 0..400 {
        let whole = support::frame(&mut random);
        let cut = 20 + random.below(whole.len() as u64 - 20) as usize;
        frames.push(whole[..cut].to_vec());
        frames.push(whole);
    }
    for _ in 0..100 {
        let length = 60 + random.below(1_400);
        let mut noise: Vec<u8> = (0..length).map(|_| random.next() as u8).collect();
        noise[..6].copy_from_slice(&[2, 0, 0, 0, 0, 9]);
        frames.push(noise);
    }
    frames
}

/// Sends the frames into the client's end and returns what tcpdump saw at the server's.
fn arrived(lab: &Lab, frames: &[Vec<u8>], file: &Path) -> Vec<String> {
    let tcpdump = Tcpdump::start(lab.server(), SERVER_INTERFACE, file, NOT_THE_ENDS).unwrap();
    let budget = Budget::new(Duration::from_secs(30), &Stop::new());
    let pace = Duration::from_micros(100);
    let each = frames.iter().map(Vec::as_slice);
    inject::frames(lab.client(), CLIENT_INTERFACE, each, pace, &budget).unwrap();
    assert_eq!(tcpdump.stop().unwrap().dropped_by_kernel, 0);
    tshark::frames(file)
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn assert_same(what: &str, with: &[String], without: &[String]) {
    let first = with.iter().zip(without).position(|(with, without)| with != without);
    assert_eq!(first.map(|at| (at, &with[at], &without[at])), None, "{what}");
    assert_eq!(with.len(), without.len(), "{what}");
}
