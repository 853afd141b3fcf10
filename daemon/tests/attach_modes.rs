//! Each way of attaching, on real traffic: what linnet counts is what tcpdump sees, and afterwards the host is as it
//! was, by the words of bpftool, tc and ethtool. Must never touch an interface that the lab did not make.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test fails by panicking and says what it found"
)]

mod support;

use std::path::{Path, PathBuf};

use lab::{
    CLIENT_INTERFACE, Lab, Namespace, Plan, ROUTER_CLIENT_INTERFACE, ROUTER_SERVER_INTERFACE,
    SERVER_INTERFACE, capture::Tcpdump,
};
use serde_json::{Value, json};
use support::{
    held::Held,
    linnet::Linnet,
    traffic,
    tshark::{self, Conversations},
    wait_for,
};

/// The four ways, as options of an interface, with the hooks that must come of them; and what becomes of the default
/// and of XDP on kernels that lack something, by keys of the configuration.
const MODES: [(&str, &str, &str, &str, &str); 7] = [
    ("tcx", ",ingress=tcx,egress=tcx", "", "tcx", "tcx"),
    ("clsact", ",ingress=clsact,egress=clsact", "", "clsact", "clsact"),
    ("xdp", ",ingress=xdp,egress=tcx", "", "xdp", "tcx"),
    ("xdp-generic", ",ingress=xdp-generic,egress=clsact", "", "xdp-generic", "clsact"),
    ("without-tcx", "", "kernel.without = ['tcx']\n", "clsact", "clsact"),
    ("as-on-5-19", "", "kernel.pretend = '5.19'\n", "clsact", "clsact"),
    ("xdp-without-tcx", ",ingress=xdp", "kernel.without = ['tcx']\n", "xdp", "clsact"),
];

/// Where somebody else's filters copy everything to; what is mirrored there ends there.
const MIRROR: &str = "ifb-other";

fn can_run(what: &str) -> bool {
    support::kernel(what)
        && ["tcpdump", "tshark", "bpftool", "tc", "ethtool", "ip", "curl"]
            .iter()
            .all(|tool| lab::require_tool(tool, what))
}

#[test]
fn every_mode_counts_what_tcpdump_sees_and_leaves_nothing() {
    if !can_run("attach modes in a lab") {
        return;
    }
    let lab = Lab::build(Plan::new("modes")).unwrap();
    let router = lab.router().unwrap();
    let spec = format!("{}/{ROUTER_CLIENT_INTERFACE}", router.name());
    for (mode, options, keys, ingress, egress) in MODES {
        let before = Footprint::of(router, ROUTER_CLIENT_INTERFACE);
        let linnet = Linnet::watch_with(mode, &[format!("{spec}{options}")], keys);
        let attached = attached(&linnet, &spec);
        assert_eq!(attached["ingress"]["hook"], ingress, "{mode}");
        assert_eq!(attached["egress"]["hook"], egress, "{mode}");
        if !keys.is_empty() {
            let reason = attached["egress"]["reason"].as_str().unwrap();
            let why = if keys.contains("without") { "kernel.without" } else { "kernel.pretend" };
            assert!(reason.contains("no TCX") && reason.contains(why), "{mode}: {reason}");
        }
        let held = Held::by(linnet.pid());
        for (way, hook) in [("ingress", ingress), ("egress", egress)] {
            let id = attached[way]["program_id"].as_u64().unwrap();
            assert!(
                held.programs.contains(&id),
                "{mode}: the kernel has no program {id}: {held:?}"
            );
            let by_link = matches!(hook, "xdp" | "xdp-generic" | "tcx");
            let kind = hook.trim_end_matches("-generic");
            assert_eq!(held.links.values().any(|link| link == kind), by_link, "{mode}: {held:?}");
        }
        println!("{mode}: {held:?}");

        let folder = tempfile::tempdir().unwrap();
        let request = json!({ "filter": traffic::FILTER, "interface": spec });
        let (status, answer) = linnet.post("/api/v1/captures", &request);
        assert_eq!(status, 201, "{mode}: the capture stage loads: {answer}");
        let seen = witnessed(&lab, folder.path(), &[(router, ROUTER_CLIENT_INTERFACE)]);
        assert_counted(mode, &linnet, &spec, &seen[0].1);
        let id = answer["capture"]["id"].as_str().unwrap();
        let ours = finished(&linnet, id, &seen[0].1, folder.path());
        tshark::assert_same_frames(&ours, &seen[0].0);

        let pins = linnet.pins().to_owned();
        assert!(pins.is_dir());
        assert!(linnet.stop().success());
        assert!(!pins.exists(), "{mode}: pins are left");
        wait_for("programs and links to go", || held.is_gone().then_some(()));
        before.assert_unchanged(mode, router, ROUTER_CLIENT_INTERFACE);
    }
}

#[test]
fn several_interfaces_in_several_modes_count_each_their_own() {
    if !can_run("several interfaces in a lab") {
        return;
    }
    let lab = Lab::build(Plan::new("several")).unwrap();
    let router = lab.router().unwrap();
    let points = [
        (lab.client(), CLIENT_INTERFACE, ""),
        (router, ROUTER_CLIENT_INTERFACE, ",ingress=xdp"),
        (router, ROUTER_SERVER_INTERFACE, ",ingress=clsact,egress=clsact"),
        (lab.server(), SERVER_INTERFACE, ",ingress=tcx,egress=clsact"),
    ];
    let name = |(namespace, interface, _): &(&Namespace, &str, &str)| {
        format!("{}/{interface}", namespace.name())
    };
    let specs: Vec<_> = points.iter().map(|point| name(point) + point.2).collect();
    let linnet = Linnet::watch("several", &specs);
    let auto = attached(&linnet, &name(&points[0]));
    for way in ["ingress", "egress"] {
        assert_eq!(auto[way]["hook"], "tcx", "auto is TCX on this kernel");
        let reason = auto[way]["reason"].as_str().unwrap();
        assert!(!reason.is_empty() && reason != "asked for", "{reason}");
        println!("auto {way}: tcx, since {reason}");
    }
    let folder = tempfile::tempdir().unwrap();
    let places = points.map(|(namespace, interface, _)| (namespace, interface));
    let seen = witnessed(&lab, folder.path(), &places);
    for (point, (_, seen)) in points.iter().zip(&seen) {
        assert_counted(point.1, &linnet, &name(point), seen);
    }
    let loss = linnet.see("/api/v1/flows", "loss");
    let sum: u64 = loss["ledger"].as_object().unwrap().values().filter_map(Value::as_u64).sum();
    assert_eq!(loss["seen"].as_u64(), Some(sum), "{loss}");
}

#[test]
fn somebody_elses_qdisc_and_filter_stay_and_still_see_the_traffic() {
    if !can_run("a foreign filter in a lab") {
        return;
    }
    let lab = Lab::build(Plan::new("foreign")).unwrap();
    let client = lab.client();
    said(client, "ip", &["link", "add", MIRROR, "type", "ifb"]);
    said(client, "ip", &["link", "set", MIRROR, "up"]);
    said(client, "tc", &["qdisc", "add", "dev", CLIENT_INTERFACE, "clsact"]);
    for way in ["ingress", "egress"] {
        let filter = ["filter", "add", "dev", CLIENT_INTERFACE, way, "protocol", "all"];
        let everything = ["prio", "50000", "u32", "match", "u32", "0", "0"];
        let mirror = ["action", "mirred", "egress", "mirror", "dev", MIRROR];
        said(client, "tc", &[&filter[..], &everything, &mirror].concat());
    }
    let spec = format!("{}/{CLIENT_INTERFACE}", client.name());
    let before = Footprint::of(client, CLIENT_INTERFACE);
    assert!(before.0.iter().any(|line| line.contains("egress") && line.contains("u32")));
    for mode in ["ingress=clsact,egress=clsact", "ingress=tcx,egress=tcx"] {
        let hits = foreign_hits(client);
        let linnet = Linnet::watch("foreign", &[format!("{spec},{mode}")]);
        let folder = tempfile::tempdir().unwrap();
        let (_, seen) = witnessed(&lab, folder.path(), &[(client, CLIENT_INTERFACE)]).remove(0);
        assert_counted(mode, &linnet, &spec, &seen);
        let packets: u64 = seen.values().map(|counted| counted.packets).sum();
        let hits = foreign_hits(client) - hits;
        assert!(hits >= packets, "{mode}: the other's filter sees {hits} of {packets} packets");
        assert!(linnet.stop().success());
        before.assert_unchanged(mode, client, CLIENT_INTERFACE);
    }
}

#[test]
fn an_xdp_program_that_is_there_stays_and_tc_takes_its_place() {
    if !can_run("a foreign xdp program in a lab") {
        return;
    }
    let lab = Lab::build(Plan::new("xdp-owner")).unwrap();
    let router = lab.router().unwrap();
    let spec = format!("{}/{ROUTER_CLIENT_INTERFACE}", router.name());
    // For the second daemon, the first one's program is anybody's.
    let owner = Linnet::watch("xdp-owner", &[format!("{spec},ingress=xdp,egress=off")]);
    let before = Footprint::of(router, ROUTER_CLIENT_INTERFACE);
    assert!(before.0.iter().any(|line| line.contains("prog/xdp")), "{before:?}");
    let guest = Linnet::watch("xdp-guest", &[format!("{spec},ingress=xdp")]);
    let hook = &attached(&guest, &spec)["ingress"];
    assert_eq!(hook["hook"], "tcx", "{hook}");
    assert!(hook["reason"].as_str().unwrap().contains("another program holds it"), "{hook}");
    let folder = tempfile::tempdir().unwrap();
    let (_, seen) = witnessed(&lab, folder.path(), &[(router, ROUTER_CLIENT_INTERFACE)]).remove(0);
    assert_counted("beside another's xdp", &guest, &spec, &seen);
    assert!(guest.stop().success());
    before.assert_unchanged("beside another's xdp", router, ROUTER_CLIENT_INTERFACE);
    assert!(owner.stop().success());
}

/// What tools that are not ours say about an interface and its namespace, line by line and without counters.
#[derive(Debug)]
struct Footprint(Vec<String>);

impl Footprint {
    fn of(namespace: &Namespace, interface: &str) -> Self {
        let asks: [(&str, &[&str]); 6] = [
            ("bpftool", &["net"]),
            ("tc", &["qdisc", "show", "dev", interface]),
            ("tc", &["filter", "show", "dev", interface, "ingress"]),
            ("tc", &["filter", "show", "dev", interface, "egress"]),
            ("ip", &["-details", "link", "show", "dev", interface]),
            ("ethtool", &["-k", interface]),
        ];
        let lines = asks.iter().flat_map(|(tool, args)| {
            let said = said(namespace, tool, args);
            let line = |line: &str| format!("{tool} {}: {line}", args.join(" "));
            // Said only once a packet has met the filter.
            let lines = said.lines().filter(|line| !line.contains("used_hw_stats"));
            lines.map(line).collect::<Vec<_>>()
        });
        Self(lines.collect())
    }

    fn assert_unchanged(&self, what: &str, namespace: &Namespace, interface: &str) {
        let after = Self::of(namespace, interface);
        let gone: Vec<_> = self.0.iter().filter(|line| !after.0.contains(line)).collect();
        let is_new = |line: &&String| !self.0.contains(line);
        let come: Vec<_> = after.0.iter().filter(is_new).collect();
        assert!(gone.is_empty() && come.is_empty(), "{what}: gone {gone:#?}, come {come:#?}");
    }
}

/// What a tool says inside a namespace, entered without a mount namespace of its own, so that bpffs is seen.
fn said(namespace: &Namespace, tool: &str, args: &[&str]) -> String {
    let output = namespace.command(tool).args(args).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{tool} {args:?}: {error}");
    String::from_utf8(output.stdout).unwrap()
}

/// Packets that the foreign filters have mirrored, by tc's own counters.
fn foreign_hits(namespace: &Namespace) -> u64 {
    let text = said(namespace, "tc", &["-s", "actions", "list", "action", "mirred"]);
    let packets = |sent: &str| sent.split_whitespace().nth(2).unwrap().parse::<u64>().unwrap();
    let counters: Vec<_> = text.split("Sent ").skip(1).map(packets).collect();
    assert_eq!(counters.len(), 2, "one for each direction: {text}");
    counters.iter().sum()
}

fn attached(linnet: &Linnet, interface: &str) -> Value {
    let interfaces = linnet.see("/api/v1/interfaces", "interfaces");
    let mut rows = interfaces.as_array().unwrap().iter();
    rows.find(|row| row["name"] == interface).unwrap_or_else(|| panic!("{interfaces}")).clone()
}

/// Traffic, and what tcpdump saw of it on each of some interfaces.
fn witnessed(
    lab: &Lab,
    folder: &Path,
    points: &[(&Namespace, &str)],
) -> Vec<(PathBuf, Conversations)> {
    let witness = |(index, (namespace, interface)): (usize, &(&Namespace, &str))| {
        // Native XDP turns receive merging on, and tcpdump would see fewer and larger frames than XDP.
        said(namespace, "ethtool", &["-K", interface, "gro", "off"]);
        let file = folder.join(format!("{index}.pcap"));
        let tcpdump = Tcpdump::start(namespace, interface, &file, traffic::FILTER).unwrap();
        (file, tcpdump)
    };
    let witnesses: Vec<_> = points.iter().enumerate().map(witness).collect();
    traffic::mix(lab);
    let stopped = witnesses.into_iter().map(|(file, tcpdump)| {
        assert_eq!(tcpdump.stop().unwrap().dropped_by_kernel, 0);
        let seen = tshark::dissect(&file).conversations;
        (file, seen)
    });
    stopped.collect()
}

/// The file of a capture, stopped once it holds as many packets as the witness saw.
fn finished(linnet: &Linnet, id: &str, seen: &Conversations, folder: &Path) -> PathBuf {
    let packets: u64 = seen.values().map(|counted| counted.packets).sum();
    let path = format!("/api/v1/captures/{id}");
    wait_for("the capture to hold it all", || {
        (linnet.see(&path, "capture")["written"] == packets).then_some(())
    });
    assert_eq!(linnet.post(&format!("{path}/stop"), &json!({})).0, 200);
    let file = folder.join("linnet.pcapng");
    let mut download = linnet.curl(&format!("{path}/file"));
    assert!(download.arg("-o").arg(&file).status().unwrap().success());
    file
}

/// linnet's rows of an interface are exactly the witness's.
fn assert_counted(what: &str, linnet: &Linnet, interface: &str, seen: &Conversations) {
    let mut ours = tshark::rolled_up(&linnet.flows(interface));
    ours.retain(|conversation, _| traffic::is_mixed(conversation));
    let packets: u64 = seen.values().map(|counted| counted.packets).sum();
    println!("{what}: {} conversations, {packets} packets", seen.len());
    assert!(seen.len() >= 5, "{seen:?}");
    let differences = tshark::differences(&ours, seen);
    assert!(differences.is_empty(), "{what}: {differences:#?}");
}
