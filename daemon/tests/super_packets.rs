//! Super-packets as virtual machines hand them over, on tap and tun devices: what linnet says of them at the device
//! against what a hop behind it counts, where the kernel has cut them into wire packets.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test fails by panicking and says what it measured"
)]

mod support;

use std::{collections::BTreeMap, fs};

use lab::{CLIENT_INTERFACE, Lab, Namespace, Plan, SERVER_INTERFACE};
use serde_json::Value;
use support::{
    linnet::Linnet,
    stack::Counted,
    tun::{SuperPacket, Tun},
    wait_for,
};

/// Reports of multicast groups that the hop may send meanwhile, on its own and when it likes.
const REPORTS_MAX: u64 = 4;
const REPORT_BYTES_MAX: u64 = 200;
/// How often each super-packet is sent.
const TIMES: u64 = 20;
const FIRST_PORT: u16 = 40_000;
const ETHERNET_BYTES: u64 = 14;

/// A direct lab whose wire carries wire packets only; the client's end is the hop.
fn lab(label: &str) -> Option<Lab> {
    let can_run = support::kernel(label)
        && ["curl", "ethtool"].iter().all(|tool| lab::require_tool(tool, label));
    let plan = || Plan { offload: false, ..Plan::direct(label) };
    can_run.then(|| Lab::build(plan()).unwrap())
}

fn ip(namespace: &Namespace, arguments: &str) {
    let output = namespace.command("ip").args(arguments.split(' ')).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "ip {arguments}: {said}");
}

/// Super-packets of known segments, each of a flow of its own; `to` and `vlans` where there is a link header.
fn packets(to: Option<[u8; 6]>, vlans: &[Option<u16>]) -> Vec<SuperPacket> {
    // Payload and segment; multiples and not, one segment, the longest there can be, and no super-packet.
    let sizes =
        [(10_000, 1_428), (14_280, 1_428), (64_000, 1_000), (500, 1_428), (65_400, 536), (900, 0)];
    let mut packets = Vec::new();
    for (vlan, is_v6, is_udp) in vlans.iter().flat_map(|vlan| {
        [(false, false), (true, false), (false, true), (true, true)]
            .map(|(v6, udp)| (*vlan, v6, udp))
    }) {
        for (payload, segment) in sizes {
            packets.push(SuperPacket {
                to,
                vlan,
                is_v6,
                is_udp,
                source_port: FIRST_PORT + u16::try_from(packets.len()).unwrap(),
                payload,
                segment: (segment > 0 && payload > usize::from(segment)).then_some(segment),
            });
        }
    }
    packets
}

fn hardware_address(namespace: &Namespace, interface: &str) -> [u8; 6] {
    let show = ["-j", "link", "show", "dev", interface];
    let output = namespace.command("ip").args(show).output().unwrap();
    let links: Value = serde_json::from_slice(&output.stdout).unwrap();
    let text = links[0]["address"].as_str().unwrap();
    let octets = text.split(':').map(|octet| u8::from_str_radix(octet, 16).unwrap());
    octets.collect::<Vec<_>>().try_into().unwrap()
}

/// Sends every packet, and returns what came behind the hop.
fn send(lab: &Lab, tun: &mut Tun, packets: &[SuperPacket]) -> Counted {
    let behind = || Counted::by(lab.server(), SERVER_INTERFACE);
    let before = behind();
    for packet in packets {
        for _ in 0..TIMES {
            tun.write(packet).unwrap_or_else(|error| panic!("{packet:?}: {error}"));
        }
    }
    let wanted: u64 = packets.iter().map(|packet| TIMES * packet.segments()).sum();
    wait_for("the segments", || {
        let counted = behind().since(before);
        (counted.rx_packets >= wanted).then_some(counted)
    })
}

/// Rows by the port that tells packets apart.
fn rows(linnet: &Linnet, spec: &str) -> BTreeMap<u64, Value> {
    let flows = linnet.flows(spec).into_iter();
    let sent = flows.filter(|flow| flow["responder"]["port"] == 443);
    sent.map(|flow| (flow["originator"]["port"].as_u64().unwrap(), flow)).collect()
}

/// What a row says a sender sent: packets, frames and bytes.
fn sent(row: &Value) -> [u64; 3] {
    ["packets", "skbs", "bytes"].map(|name| row["from_originator"][name].as_u64().unwrap())
}

/// Holds rows and hop against what was sent. `header` is what the hop's frames have that the device's do not.
fn hold(rows: &BTreeMap<u64, Value>, packets: &[SuperPacket], behind: &Counted, header: u64) {
    let mut sum = (0, 0);
    for packet in packets {
        let row = &rows[&u64::from(packet.source_port)];
        let wanted = [TIMES * packet.segments(), TIMES, TIMES * packet.wire_bytes()];
        assert_eq!(sent(row), wanted, "{packet:?}");
        assert_eq!(row["vlan"].as_u64(), packet.vlan.map(u64::from), "{packet:?}");
        sum = (sum.0 + wanted[0], sum.1 + wanted[2]);
    }
    println!("{} super-packets are {} packets of {} bytes", packets.len(), sum.0, sum.1);
    assert_eq!(rows.len(), packets.len());
    let counted = (behind.rx_packets, behind.rx_bytes - header * behind.rx_packets);
    let (extra, bytes) = (counted.0.checked_sub(sum.0), counted.1.checked_sub(sum.1));
    println!("the hop behind counts {counted:?}");
    let (extra, bytes) = (extra.expect("no fewer packets"), bytes.expect("no fewer bytes"));
    assert!(extra <= REPORTS_MAX && bytes <= extra * REPORT_BYTES_MAX, "{counted:?} for {sum:?}");
}

/// A tap device and the wire on one bridge.
fn bridged_tap(lab: &Lab) -> (Tun, String) {
    let client = lab.client();
    let silent = "/proc/sys/net/ipv6/conf/all/disable_ipv6";
    for namespace in [client, lab.server()] {
        namespace.run(|| fs::write(silent, "1")).unwrap().unwrap();
    }
    let tap = Tun::open(client, "tap0", true);
    ip(client, "link add bridge0 type bridge forward_delay 0 mcast_snooping 0");
    ip(client, "link set dev bridge0 up");
    for port in ["tap0", CLIENT_INTERFACE] {
        ip(client, &format!("link set dev {port} master bridge0"));
    }
    // Else the tag stays beside the frame, and no counter behind has its bytes.
    let in_the_frame = ["-K", CLIENT_INTERFACE, "txvlan", "off"];
    assert!(client.command("ethtool").args(in_the_frame).status().unwrap().success());
    (tap, format!("{}/tap0", client.name()))
}

#[test]
fn super_packets_on_a_tap_are_their_wire_packets() {
    let Some(lab) = lab("tap") else { return };
    let (mut tap, spec) = bridged_tap(&lab);
    let linnet = Linnet::watch("tap", &[format!("{spec},egress=off")]);
    let to = hardware_address(lab.server(), SERVER_INTERFACE);
    let packets = packets(Some(to), &[None, Some(77)]);
    let behind = send(&lab, &mut tap, &packets);
    hold(&rows(&linnet, &spec), &packets, &behind, 0);
}

#[test]
fn super_packets_on_a_tun_are_their_wire_packets() {
    let Some(lab) = lab("tun") else { return };
    let client = lab.client();
    let mut tun = Tun::open(client, "tun0", false);
    for (path, value) in [
        ("net/ipv4/ip_forward", "1"),
        ("net/ipv4/conf/all/rp_filter", "0"),
        ("net/ipv4/conf/tun0/rp_filter", "0"),
        ("net/ipv6/conf/all/forwarding", "1"),
    ] {
        client.run(|| fs::write(format!("/proc/sys/{path}"), value)).unwrap().unwrap();
    }
    let to = hardware_address(lab.server(), SERVER_INTERFACE).map(|octet| format!("{octet:02x}"));
    for (address, network) in [("10.77.0.2", "10.88.0.0/16"), ("fd77::2", "fd88::/16")] {
        let (to, wire) = (to.join(":"), CLIENT_INTERFACE);
        ip(client, &format!("neigh replace {address} lladdr {to} dev {wire} nud permanent"));
        ip(client, &format!("route add {network} via {address} dev {wire}"));
    }
    let spec = format!("{}/tun0", client.name());
    let linnet = Linnet::watch("tun", &[format!("{spec},egress=off")]);
    let packets = packets(None, &[None]);
    let behind = send(&lab, &mut tun, &packets);
    hold(&rows(&linnet, &spec), &packets, &behind, ETHERNET_BYTES);
}

#[test]
fn generic_xdp_sees_super_packets_as_one_and_says_so() {
    let Some(lab) = lab("tap-xdp") else { return };
    let (mut tap, spec) = bridged_tap(&lab);
    let linnet = Linnet::watch("tap-xdp", &[format!("{spec},ingress=xdp-generic,egress=off")]);
    let to = hardware_address(lab.server(), SERVER_INTERFACE);
    let packets = packets(Some(to), &[None, Some(77)]);
    let behind = send(&lab, &mut tap, &packets);
    let rows = rows(&linnet, &spec);
    assert_eq!(rows.len(), packets.len());
    for packet in &packets {
        let row = &rows[&u64::from(packet.source_port)];
        assert_eq!(sent(row), [TIMES, TIMES, TIMES * packet.bytes()], "{packet:?}");
    }
    let interfaces = linnet.see("/api/v1/interfaces", "interfaces");
    let ingress = &interfaces[0]["ingress"];
    println!("{} packets behind, {ingress}", behind.rx_packets);
    assert_eq!(ingress["packets_approximate"], true);
    assert!(ingress["packets"].as_u64().unwrap() < behind.rx_packets);
}
