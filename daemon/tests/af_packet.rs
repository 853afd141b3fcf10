//! Interfaces read by AF_PACKET sockets, where eBPF is refused or not wanted: flows and captures are tcpdump's, whatever is
//! lost is counted, and every answer says so. Must never leave a process, a namespace or a pin behind.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test fails by panicking and says what it found"
)]

mod support;

use std::{
    collections::BTreeMap,
    fs,
    net::UdpSocket,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use caps::{CapSet, Capability};
use lab::{
    CLIENT_INTERFACE, Family, Lab, Namespace, Plan, ROUTER_CLIENT_INTERFACE, SERVER_INTERFACE,
    capture::Tcpdump,
    traffic::{Budget, Stop, inject},
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};
use support::{
    Random,
    held::Held,
    linnet::{self, Linnet},
    pair::Pair,
    stack::{Counted, sockets},
    traffic, tshark, wait_for,
};

const SOCKETS: &str = "source = \"af_packet\"\n";
/// Packets that the kernel may send on its own meanwhile: reports of groups, neighbours.
const OWN_MAX: u64 = 8;

fn can_run(what: &str) -> bool {
    let tools = ["curl", "tcpdump", "tshark", "ip", "ethtool", "ss"];
    support::root(what) && tools.iter().all(|tool| lab::require_tool(tool, what))
}

fn ip(namespace: &Namespace, args: &str) {
    let output = namespace.command("ip").args(args.split(' ')).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {args}: {error}");
}

fn count(value: &Value) -> u64 {
    value.as_u64().unwrap()
}

fn interface(linnet: &Linnet, name: &str) -> Value {
    let rows = linnet.see("/api/v1/interfaces", "interfaces");
    let row = rows.as_array().unwrap().iter().find(|row| row["name"] == name);
    row.unwrap_or_else(|| panic!("{rows}")).clone()
}

/// Starts a capture; returns its route.
fn capture(linnet: &Linnet, request: &Value) -> String {
    let (status, answer) = linnet.post("/api/v1/captures", request);
    assert_eq!(status, 201, "{answer}");
    format!("/api/v1/captures/{}", answer["capture"]["id"].as_str().unwrap())
}

/// Ends a capture and fetches its file.
fn fetch(linnet: &Linnet, route: &str, folder: &Path) -> (Value, PathBuf) {
    let (status, answer) = linnet.post(&format!("{route}/stop"), &json!({}));
    assert_eq!(status, 200, "{answer}");
    let file = folder.join("linnet.pcapng");
    let mut download = linnet.curl(&format!("{route}/file"));
    assert!(download.arg("-o").arg(&file).status().unwrap().success());
    (answer["capture"].clone(), file)
}

/// A mix of traffic: rows and captured frames are those of a tcpdump beside linnet.
fn assert_as_tcpdump(lab: &Lab, linnet: &Linnet, namespace: &Namespace, name: &str, spec: &str) {
    let folder = tempfile::tempdir().unwrap();
    let theirs = folder.path().join("tcpdump.pcap");
    let tcpdump = Tcpdump::start(namespace, name, &theirs, traffic::FILTER).unwrap();
    let route = capture(linnet, &json!({ "filter": traffic::FILTER, "interface": spec }));
    traffic::mix(lab);
    let seen = tcpdump.stop().unwrap();
    assert_eq!(seen.dropped_by_kernel, 0);
    wait_for("the capture to hold it all", || {
        (linnet.see(&route, "capture")["written"] == seen.captured).then_some(())
    });
    let (view, ours) = fetch(linnet, &route, folder.path());
    assert_eq!(view["matched"], view["written"], "nothing was lost: {view}");
    tshark::assert_same_frames(&ours, &theirs);
    let theirs = tshark::dissect(&theirs).conversations;
    let mut ours = tshark::rolled_up(&linnet.flows(spec));
    ours.retain(|conversation, _| traffic::is_mixed(conversation));
    println!("{} conversations, {} packets", theirs.len(), seen.captured);
    assert!(theirs.len() >= 5, "{theirs:?}");
    let differences = tshark::differences(&ours, &theirs);
    assert!(differences.is_empty(), "{differences:#?}");
}

/// Every answer, the log, the doctor and the command line say what interfaces are read by, and why.
fn assert_said(linnet: &Linnet, spec: &str, why: &str) {
    let flow = linnet.flows(spec).into_iter().find(|flow| flow["protocol"] == "tcp").unwrap();
    let id = flow["id"].as_str().unwrap();
    let (one, events) = (format!("flows/{id}"), format!("flows/{id}/events"));
    let lists = ["flows", "interfaces", "services", "diagnoses", "captures", "rules"];
    for path in lists.into_iter().chain(["status", "tcp/summary", &one, &events]) {
        let loss = linnet.see(&format!("/api/v1/{path}"), "loss");
        assert_eq!(loss["source"], "af_packet", "{path}: {loss}");
    }
    let status = linnet.see("/api/v1/status", "status");
    assert_eq!((&status["mode"], &status["source"]), (&json!("live"), &json!("af_packet")));
    assert_eq!(status["balanced"], true, "{status}");
    let notice = linnet.notices().into_iter().find(|it| it.contains("AF_PACKET")).unwrap();
    assert!(notice.contains(why) && notice.contains("qdisc"), "{notice}");
    assert_eq!(linnet.log().matches(&notice).count(), 1, "{}", linnet.log());
    let row = interface(linnet, spec);
    for way in ["ingress", "egress"] {
        assert_eq!(row[way]["hook"], "af_packet", "{row}");
        assert!(row[way]["reason"].as_str().unwrap().contains(why), "{row}");
    }
    assert_eq!(flow["hook"], json!({ "ingress": "af_packet", "egress": "af_packet" }));
    for (args, word) in [
        (&["flows"][..], "; read by AF_PACKET sockets\n"),
        (&["events", id], "; read by AF_PACKET sockets\n"),
        (&["doctor"], "ingress  on af_packet: "),
    ] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_linnet"));
        let output = command.args(args).arg("--socket").arg(linnet.socket()).output().unwrap();
        let said = String::from_utf8(output.stdout).unwrap();
        assert!(said.contains(word), "{args:?}: {said}");
    }
    let (_, metrics) = linnet.get("/metrics");
    assert!(metrics.as_str().unwrap().contains("hook=\"af_packet\""));
}

#[test]
fn flows_and_captures_by_sockets_are_those_of_tcpdump() {
    if !can_run("sockets beside tcpdump") {
        return;
    }
    let lab = Lab::build(Plan::new("sockets")).unwrap();
    // In the middle of the path, where checksums are whole: at a sender's egress they are not computed yet.
    let router = lab.router().unwrap();
    let spec = format!("{}/{ROUTER_CLIENT_INTERFACE}", router.name());
    let keys = format!("user = \"nobody\"\n{SOCKETS}");
    let linnet = Linnet::watch_with("sockets", std::slice::from_ref(&spec), &keys);
    assert_as_tcpdump(&lab, &linnet, router, ROUTER_CLIENT_INTERFACE, &spec);
    assert_said(&linnet, &spec, "`source` is \"af_packet\"");
    for pid in [linnet.pid(), linnet.daemon_pid().unwrap()] {
        let held = Held::by(pid);
        assert!(held.programs.is_empty() && held.maps.is_empty(), "{held:?}");
    }
    assert!(!linnet.pins().exists());
    assert!(linnet.stop().success());
}

/// The capability sets of a process.
fn capabilities(pid: u32) -> BTreeMap<String, u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let lines = text.lines().filter_map(|line| line.strip_prefix("Cap")?.split_once(':'));
    let set = |value: &str| u64::from_str_radix(value.trim(), 16).unwrap();
    lines.map(|(name, value)| (name.to_owned(), set(value))).collect()
}

#[test]
fn where_the_kernel_refuses_ebpf_sockets_take_its_place() {
    if !can_run("a host that refuses eBPF") {
        return;
    }
    let lab = Lab::build(Plan::new("refused")).unwrap();
    let router = lab.router().unwrap();
    // From inside, since other namespaces cannot be entered without CAP_SYS_ADMIN; on a thread that ends with it.
    let linnet = router.run(|| {
        for capability in [Capability::CAP_BPF, Capability::CAP_SYS_ADMIN] {
            caps::drop(None, CapSet::Bounding, capability).unwrap();
        }
        Linnet::watch_with("refused", &[ROUTER_CLIENT_INTERFACE.into()], "user = \"nobody\"\n")
    });
    let linnet = linnet.unwrap();
    let spec = ROUTER_CLIENT_INTERFACE;
    assert_as_tcpdump(&lab, &linnet, router, ROUTER_CLIENT_INTERFACE, spec);
    println!("{:#?}", linnet.notices());
    assert_said(&linnet, spec, "kernel");
    // CAP_SETPCAP, CAP_SETUID, CAP_SETGID and CAP_KILL are to start and end a daemon of another user.
    let attacher = capabilities(linnet.pid());
    assert_eq!(attacher["Bnd"] & !0x1e0, 0, "{attacher:x?}");
    assert_eq!(attacher["Prm"] & !0x1e0, 0, "{attacher:x?}");
    let daemon = capabilities(linnet.daemon_pid().unwrap());
    assert!(daemon.values().all(|set| *set == 0), "{daemon:x?}");
    assert!(!linnet.pins().exists());
    assert!(linnet.stop().success());
}

#[test]
fn whichever_privilege_of_ebpf_is_missing_sockets_take_its_place() {
    if !can_run("parts of the privileges of eBPF") {
        return;
    }
    let lab = Lab::build(Plan::new("partly")).unwrap();
    for missing in [Capability::CAP_PERFMON, Capability::CAP_NET_ADMIN] {
        let linnet = lab.client().run(|| {
            for capability in [missing, Capability::CAP_SYS_ADMIN] {
                caps::drop(None, CapSet::Bounding, capability).unwrap();
            }
            Linnet::watch("partly", &[CLIENT_INTERFACE.into()])
        });
        let linnet = linnet.unwrap();
        println!("without {missing:?}: {:#?}", linnet.notices());
        assert_eq!(interface(&linnet, CLIENT_INTERFACE)["egress"]["hook"], "af_packet");
        assert!(!linnet.pins().exists());
        assert!(linnet.stop().success());
    }
}

#[test]
fn without_any_privilege_the_start_names_both() {
    if !can_run("a start without privileges") {
        return;
    }
    let lab = Lab::build(Plan::new("neither")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let output = lab.client().run(|| {
        let pins = linnet::pins("neither");
        let mut command = linnet::command(folder.path(), &pins);
        for capability in [Capability::CAP_BPF, Capability::CAP_SYS_ADMIN, Capability::CAP_NET_RAW]
        {
            caps::drop(None, CapSet::Bounding, capability).unwrap();
        }
        command.args(["--interface", CLIENT_INTERFACE]).output().unwrap()
    });
    let output = output.unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(77), "{said}");
    for part in ["without eBPF, either", CLIENT_INTERFACE, "CAP_NET_RAW"] {
        assert!(said.contains(part), "{part}: {said}");
    }
}

#[test]
fn a_mistake_is_none_of_the_kernels_and_ebpf_can_be_insisted_on() {
    if !can_run("mistakes beside sockets") {
        return;
    }
    let lab = Lab::build(Plan::new("insist")).unwrap();
    let spec = format!("{}/{CLIENT_INTERFACE}", lab.client().name());
    let refused = |args: &[&str]| {
        let folder = tempfile::tempdir().unwrap();
        let pins = linnet::pins("insist");
        let output = linnet::command(folder.path(), &pins).args(args).output().unwrap();
        assert!(!pins.exists());
        let said = String::from_utf8(output.stderr).unwrap();
        (output.status.code().unwrap(), said)
    };
    let nowhere = format!("{}/nowhere0", lab.client().name());
    let pattern = format!("{}/nowhere*", lab.client().name());
    let (code, said) = refused(&["--source", "af_packet", "--interface", &pattern]);
    assert!(code == 64 && said.contains("none of the interfaces"), "{said}");
    for source in ["auto", "af_packet"] {
        let (code, said) = refused(&["--source", source, "--interface", &nowhere]);
        assert_eq!(code, 64, "{said}");
        assert!(said.contains("no interface") && said.contains("nowhere0"), "{said}");
    }
    let (code, said) = refused(&["--source", "dpdk", "--interface", &spec]);
    assert!(code == 64 && said.contains("\"af_packet\""), "{said}");
}

#[test]
fn tags_and_super_packets_are_as_they_are_on_the_wire() {
    if !can_run("tags and super-packets by sockets") {
        return;
    }
    let lab = Lab::build(Plan::direct("wire")).unwrap();
    let (client, server) = (lab.client(), lab.server());
    let spec = format!("{}/{SERVER_INTERFACE}", server.name());
    let linnet = Linnet::watch_with("wire", std::slice::from_ref(&spec), SOCKETS);
    let folder = tempfile::tempdir().unwrap();
    let theirs = folder.path().join("tcpdump.pcap");
    let filter = "ether src 02:00:00:99:00:01";
    let tcpdump = Tcpdump::start(server, SERVER_INTERFACE, &theirs, filter).unwrap();
    let route = capture(&linnet, &json!({ "filter": filter, "interface": spec }));
    let mut random = Random(23);
    let mut frame = || {
        let mut frame = support::frame(&mut random);
        frame[..12].copy_from_slice(&[2, 0, 0, 0x99, 0, 2, 2, 0, 0, 0x99, 0, 1]);
        frame
    };
    let frames: Vec<_> = (0..500).map(|_| frame()).collect();
    let budget = Budget::new(Duration::from_secs(30), &Stop::new());
    let (each, pace) = (frames.iter().map(Vec::as_slice), Duration::from_micros(100));
    inject::frames(client, CLIENT_INTERFACE, each, pace, &budget).unwrap();
    let seen = tcpdump.stop().unwrap();
    assert_eq!(seen.dropped_by_kernel, 0);
    assert_eq!(seen.captured, frames.len() as u64);
    wait_for("the capture to hold it all", || {
        (linnet.see(&route, "capture")["written"] == seen.captured).then_some(())
    });
    let (_, file) = fetch(&linnet, &route, folder.path());
    // The kernel has taken their tags out of their bytes.
    tshark::assert_same_frames(&file, &theirs);
    let tagged = linnet.flows(&spec).iter().filter(|flow| !flow["vlan"].is_null()).count();
    println!("{tagged} flows with a tag");
    assert!(tagged > 5);

    // Segments that leave as one frame are counted as what they are on the wire.
    let mut pair = Pair::open(&lab, 6_400);
    pair.exchange(40, 100_000);
    let port = u64::from(pair.client_port());
    wait_for("the last acknowledgment", || {
        let socket = &sockets(server, 6_400)[&port];
        socket.is_acknowledged().then_some(())
    });
    // The SYN-ACK was not this socket's yet.
    let segments = sockets(server, 6_400)[&port].figure("segs_out") + 1;
    let flows = linnet.flows(&spec);
    let flow = flows.iter().find(|flow| flow["originator"]["port"] == port).unwrap();
    let sent = &flow["from_responder"];
    println!("{segments} segments by ss: {} in {} frames", sent["packets"], sent["skbs"]);
    assert_eq!(count(&sent["packets"]), segments, "{sent}");
    assert!(count(&sent["skbs"]) < segments, "there were super-packets: {sent}");
    assert_eq!(count(&sent["payload_bytes"]), 4_000_000, "{sent}");
}

fn send(pid: u32, signal: Signal) {
    kill(Pid::from_raw(i32::try_from(pid).unwrap()), signal).unwrap();
}

#[test]
fn what_a_stopped_reader_misses_is_counted_and_the_balance_closes() {
    if !can_run("losses at a socket") {
        return;
    }
    const DATAGRAMS: u64 = 20_000;
    let lab = Lab::build(Plan::new("lossy")).unwrap();
    let server = lab.server();
    let spec = format!("{}/{SERVER_INTERFACE}", server.name());
    let keys = format!("{SOCKETS}[capture]\nring_mib = 1\npayload_max = 0\n");
    let linnet = Linnet::watch_with("lossy", std::slice::from_ref(&spec), &keys);
    let rings = || linnet.see("/api/v1/status", "loss")["rings"].clone();
    let at_rest = || {
        wait_for("the reader to be at rest", || {
            let rings = rings();
            let [produced, consumed, lost] =
                ["produced", "consumed", "lost"].map(|key| count(&rings[key]));
            (produced == consumed + lost).then_some((produced, lost))
        })
    };
    linnet.settle();
    let before = (at_rest(), Counted::by(server, SERVER_INTERFACE));
    let route = capture(&linnet, &json!({ "interface": spec }));
    let daemon = linnet.daemon_pid().unwrap();
    send(daemon, Signal::SIGSTOP);
    let to = lab.server_socket(Family::V4, 9_000);
    let socket = lab.client().run(|| UdpSocket::bind("0.0.0.0:0")).unwrap().unwrap();
    for number in 0..DATAGRAMS {
        // A full queue on the way is no loss of linnet's.
        if socket.send_to(&number.to_be_bytes(), to).is_err() {
            println!("{number} was not sent");
        }
    }
    let mut last = 0;
    wait_for("the wire to be quiet", || {
        let now = Counted::by(server, SERVER_INTERFACE).rx_packets;
        (std::mem::replace(&mut last, now) == now).then_some(())
    });
    send(daemon, Signal::SIGCONT);
    linnet.settle();
    let after = (at_rest(), Counted::by(server, SERVER_INTERFACE));
    let folder = tempfile::tempdir().unwrap();
    let (view, file) = fetch(&linnet, &route, folder.path());
    println!("{view}\n{}", rings());

    let crossed = after.1.since(before.1);
    let crossed = crossed.rx_packets + crossed.tx_packets;
    let (produced, lost) = (after.0.0 - before.0.0, after.0.1 - before.0.1);
    assert!(crossed >= DATAGRAMS / 2, "{crossed} crossed");
    assert!(produced.abs_diff(crossed) <= OWN_MAX, "{produced} offered, {crossed} crossed");
    assert!(lost > 1_000, "the socket was full: {lost}");
    assert_eq!(view["lost"]["ring"], lost, "{view}");
    let written = count(&view["written"]);
    assert_eq!(count(&view["matched"]), written + lost, "{view}");
    assert!((written + lost).abs_diff(crossed) <= OWN_MAX, "{written} and {lost} of {crossed}");
    let frames = tshark::fields(&file, &[], &["frame.number"]);
    assert_eq!(frames.len() as u64, written);
    // The host's limit holds for whoever asks.
    let lengths =
        tshark::fields(&file, &["-Y", "udp.port == 9000 && !icmp"], &["frame.cap_len"]).concat();
    assert!(lengths.len() > 1_000);
    assert!(lengths.iter().all(|length| length == "42"), "headers only: {lengths:?}");
    // What reached the datapath is in its ledger.
    let loss = linnet.see("/api/v1/flows", "loss");
    let ledger = loss["ledger"].as_object().unwrap().values().map(count).sum::<u64>();
    assert_eq!((count(&loss["seen"]), loss["rings"]["consumed"].clone()), (ledger, json!(ledger)));
    assert!(linnet.stop().success());
}

#[test]
fn an_interface_that_goes_ends_its_flows_and_captures() {
    if !can_run("an interface that goes") {
        return;
    }
    let lab = Lab::build(Plan::new("gone")).unwrap();
    let (client, server) = (lab.client(), lab.server());
    let pair = format!("link add leaving type veth peer name peer netns {}", server.name());
    let make = || {
        ip(client, &pair);
        ip(client, "addr add 10.88.0.1/24 dev leaving");
        ip(client, "link set leaving up");
        ip(server, "addr add 10.88.0.2/24 dev peer");
        ip(server, "link set peer up");
    };
    make();
    let specs = ["leaving", CLIENT_INTERFACE].map(|name| format!("{}/{name}", client.name()));
    let linnet = Linnet::watch_with("gone", &specs, SOCKETS);
    let [of_one, of_all] =
        [json!({ "interface": specs[0] }), json!({})].map(|request| capture(&linnet, &request));
    let socket = client.run(|| UdpSocket::bind("10.88.0.1:8800")).unwrap().unwrap();
    let peer = server.run(|| UdpSocket::bind("10.88.0.2:8800")).unwrap().unwrap();
    for _ in 0..50 {
        socket.send_to(b"there", "10.88.0.2:8800").unwrap();
        peer.recv(&mut [0; 8]).unwrap();
    }
    ip(client, "link del leaving");
    let ended = wait_for("the capture's end", || {
        Some(linnet.see(&of_one, "capture")).filter(|view| view["state"] == "finished")
    });
    assert_eq!(ended["stop_reason"], "interface_removed", "{ended}");
    assert!(count(&ended["written"]) >= 50, "{ended}");
    assert_eq!(linnet.see(&of_all, "capture")["state"], "running", "the other one is there");
    let flows = linnet.flows(&specs[0]);
    let flow = flows.iter().find(|flow| flow["originator"]["port"] == 8_800).unwrap();
    assert_eq!(flow["ended"], "interface_removed", "{flow}");
    assert_eq!(flow["from_originator"]["packets"], 50, "{flow}");
    assert_eq!(interface(&linnet, &specs[0])["state"], "gone");
    let said = |it: &String| it.contains(&specs[0]) && it.contains("has gone");
    assert!(linnet.notices().iter().any(said), "{:#?}", linnet.notices());

    // Another one of its name is not followed, which the sentence says; the one that is there is read on.
    make();
    let mut pair = Pair::open(&lab, 6_500);
    pair.exchange(10, 100);
    assert!(linnet.flows(&specs[1]).iter().any(|flow| flow["responder"]["port"] == 6_500));
    assert_eq!(interface(&linnet, &specs[0])["state"], "gone");
    let status = linnet.see("/api/v1/status", "status");
    assert_eq!(status["balanced"], true, "{status}");
    // Down and up again is not gone.
    ip(client, &format!("link set {CLIENT_INTERFACE} down"));
    ip(client, &format!("link set {CLIENT_INTERFACE} up"));
    linnet.settle();
    assert_eq!(interface(&linnet, &specs[1])["state"], "attached");
    let before = count(&interface(&linnet, &specs[1])["egress"]["seen"]);
    let socket = client.run(|| UdpSocket::bind("0.0.0.0:0")).unwrap().unwrap();
    wait_for("packets after it came up", || {
        // What cannot be sent yet is sent with the next look.
        socket.send_to(b"again", lab.server_socket(Family::V4, 9)).ok();
        (count(&interface(&linnet, &specs[1])["egress"]["seen"]) > before).then_some(())
    });
    assert!(linnet.stop().success());
}

#[test]
fn rules_hold_from_their_answer_on() {
    if !can_run("rules by sockets") {
        return;
    }
    let lab = Lab::build(Plan::new("ruled")).unwrap();
    let spec = format!("{}/{CLIENT_INTERFACE}", lab.client().name());
    let keys = format!("{SOCKETS}[[rules]]\naction = \"ignore\"\nport = \"6601\"\n");
    let linnet = Linnet::watch_with("ruled", std::slice::from_ref(&spec), &keys);
    let ports = || {
        let port = |flow: &Value| count(&flow["responder"]["port"]);
        linnet.flows(&spec).iter().map(port).collect::<Vec<_>>()
    };
    let mut pairs = [6_601, 6_602].map(|port| Pair::open(&lab, port));
    pairs.iter_mut().for_each(|pair| pair.exchange(5, 100));
    let seen = ports();
    assert!(seen.contains(&6_602) && !seen.contains(&6_601), "{seen:?}");
    let rule = |port: u16, name: &str| json!({ "rules": [{ "action": "ignore", "port": port.to_string(), "interface": name }] });
    let (status, problem) = linnet.put("/api/v1/rules", &rule(6_603, "eth9"));
    assert!(status >= 400 && problem.to_string().contains(&spec), "{status}: {problem}");
    let (status, answer) = linnet.put("/api/v1/rules", &rule(6_603, &spec));
    assert_eq!((status, &answer["generation"]), (200, &json!(2)), "{answer}");
    let mut pairs = [6_601, 6_603].map(|port| Pair::open(&lab, port));
    pairs.iter_mut().for_each(|pair| pair.exchange(5, 100));
    let seen = ports();
    assert!(seen.contains(&6_601) && !seen.contains(&6_603), "{seen:?}");
    let ledger = linnet.see("/api/v1/flows", "loss")["ledger"].clone();
    assert!(count(&ledger["ignored_by_rule"]) >= 20, "{ledger}");
}

#[test]
fn a_daemon_that_dies_is_followed_and_one_without_its_attacher_ends() {
    if !can_run("deaths beside sockets") {
        return;
    }
    let lab = Lab::build(Plan::new("deaths")).unwrap();
    let spec = format!("{}/{CLIENT_INTERFACE}", lab.client().name());
    let mut linnet = Linnet::watch_with("deaths", std::slice::from_ref(&spec), SOCKETS);
    let first = linnet.daemon_pid().unwrap();
    send(first, Signal::SIGSTOP);
    let mut pair = Pair::open(&lab, 6_700);
    pair.exchange(10, 100);
    // What it has not read waits for the next one.
    send(first, Signal::SIGKILL);
    let next = wait_for("the next daemon", || {
        linnet.daemon_pid().filter(|pid| *pid != first && linnet.get("/readyz").0 == 200)
    });
    pair.exchange(10, 100);
    let flows = linnet.flows(&spec);
    let flow = flows.iter().find(|flow| flow["responder"]["port"] == 6_700).unwrap();
    assert_eq!(flow["embryonic"], false, "its handshake was seen: {flow}");
    assert_eq!(flow["from_originator"]["payload_bytes"], 2_000, "{flow}");
    linnet.signal(Signal::SIGKILL);
    linnet.wait();
    wait_for("its daemon to end", || {
        (!Path::new(&format!("/proc/{next}/root")).exists() || linnet.daemon_pid().is_none())
            .then_some(())
    });
    assert!(linnet.log().contains("the daemon ends with it"), "{}", linnet.log());
    // Nothing of it is in the way.
    linnet.start_again(SOCKETS);
    assert!(linnet.stop().success());
}

#[test]
fn a_daemon_that_reads_maps_and_lost_its_attacher_makes_room() {
    if !can_run("sockets after programs") || !support::kernel("sockets after programs") {
        return;
    }
    let lab = Lab::build(Plan::new("after")).unwrap();
    let spec = format!("{}/{CLIENT_INTERFACE}", lab.client().name());
    let mut linnet = Linnet::watch("after", std::slice::from_ref(&spec));
    let source = |linnet: &Linnet| linnet.see("/api/v1/status", "loss")["source"].clone();
    assert_eq!(source(&linnet), "ebpf");
    let before = linnet.daemon_pid().unwrap();
    linnet.kill_attacher();
    linnet.start_again(SOCKETS);
    assert_eq!(source(&linnet), "af_packet");
    assert_ne!(linnet.daemon_pid().unwrap(), before);
    // Its programs are somebody else's to remove, who knows that they are there.
    assert!(linnet.log().contains("`linnet detach` removes them"), "{}", linnet.log());
    linnet.signal(Signal::SIGTERM);
    assert!(linnet.wait().success());
    let pins = linnet.pins().to_owned();
    assert!(pins.exists() && linnet::detach(&pins) && !pins.exists());
}
