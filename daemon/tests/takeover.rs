//! An attacher that dies leaves its programs on their hooks, and the next one puts its own in their place: not one packet
//! is missed or counted twice, on any kind of hook, and a daemon that lives on serves all the while. Must never leave a
//! process, a program or a folder behind.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test fails by panicking and says what it measured"
)]

mod support;

use std::{thread, time::Duration};

use lab::{CLIENT_INTERFACE, Lab, Plan, SERVER_INTERFACE};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};
use support::{
    held::Held,
    linnet::{Linnet, detach},
    pair::Pair,
    stack::Counted,
    wait_for,
};

fn can_run(what: &str) -> bool {
    let tools = ["ip", "curl", "bpftool"];
    support::kernel(what) && tools.iter().all(|tool| lab::require_tool(tool, what))
}

/// Frames that both ends' kernels sent, and those that linnet saw at the client, received and sent.
fn frames(lab: &Lab, linnet: &Linnet) -> ([u64; 2], [u64; 2]) {
    let counted = || {
        let server = Counted::by(lab.server(), SERVER_INTERFACE).tx_packets;
        [server, Counted::by(lab.client(), CLIENT_INTERFACE).tx_packets]
    };
    wait_for("a moment without packets", || {
        let before = counted();
        linnet.settle();
        let row = &linnet.see("/api/v1/interfaces", "interfaces")[0];
        let seen = ["ingress", "egress"].map(|way| row[way]["seen"].as_u64().unwrap());
        (counted() == before).then_some((before, seen))
    })
}

/// Lets this many more frames pass.
fn let_pass(lab: &Lab, count: u64) {
    let sent = || Counted::by(lab.client(), CLIENT_INTERFACE).tx_packets;
    let begun = sent();
    wait_for("frames to pass", || (sent() >= begun + count).then_some(()));
}

fn no_packet_is_missed(name: &str, choices: &str) {
    let lab = Lab::build(Plan::direct(name)).unwrap();
    let spec = format!("{}/{CLIENT_INTERFACE}{choices}", lab.client().name());
    let mut linnet = Linnet::watch(name, &[spec]);
    let mut pairs = Pair::many(&lab, 7_000, 2);
    let (sent_before, seen_before) = frames(&lab, &linnet);
    let row = |linnet: &Linnet| linnet.see("/api/v1/interfaces", "interfaces")[0].take();
    let hooks = |row: &Value| ["ingress", "egress"].map(|way| row[way]["hook"].clone());
    let before = row(&linnet);
    let rounds = if support::full() { 10 } else { 2 };
    Pair::busy_during(&mut pairs, 20, Duration::ZERO, || {
        for _ in 0..rounds {
            linnet.kill_attacher();
            let_pass(&lab, 200);
            linnet.adopt_again("");
            let_pass(&lab, 200);
            linnet.kill_both();
            let_pass(&lab, 200);
            linnet.start_again("");
            let_pass(&lab, 200);
        }
    });
    let (sent, seen) = frames(&lab, &linnet);
    let sent = [sent[0] - sent_before[0], sent[1] - sent_before[1]];
    let seen = [seen[0] - seen_before[0], seen[1] - seen_before[1]];
    println!("{name}: {rounds} rounds, {sent:?} frames sent, {seen:?} seen");
    assert_eq!(seen, sent, "{name}: frames seen, received and sent, and the kernel's count");
    let after = row(&linnet);
    assert_eq!((hooks(&after), &after["point"]), (hooks(&before), &before["point"]));
    assert_ne!(after["ingress"]["program_id"], before["ingress"]["program_id"], "it was replaced");
    for way in ["ingress", "egress"] {
        let chain = after[way]["chain"].as_array().unwrap();
        let ours = chain.iter().filter(|link| link["ours"] == true).count();
        assert_eq!((ours, chain.len()), (1, 1), "{after}");
    }
    let (held, pins) = (Held::by(linnet.pid()), linnet.pins().to_owned());
    assert!(linnet.stop().success());
    assert!(!pins.exists());
    wait_for("programs, links and maps to go", || held.is_gone().then_some(()));
}

#[test]
fn no_packet_is_missed_on_tcx() {
    if can_run("taking TCX links over") {
        no_packet_is_missed("take-tcx", "");
    }
}

#[test]
fn no_packet_is_missed_in_clsact() {
    if can_run("taking filters over") {
        no_packet_is_missed("take-clsact", ",ingress=clsact,egress=clsact");
    }
}

#[test]
fn no_packet_is_missed_by_xdp() {
    if can_run("taking XDP links over") {
        no_packet_is_missed("take-xdp", ",ingress=xdp,egress=tcx");
        no_packet_is_missed("take-generic", ",ingress=xdp-generic,egress=clsact");
    }
}

#[test]
fn a_daemon_without_an_attacher_serves_and_says_what_it_cannot_do() {
    if !can_run("a daemon without an attacher") {
        return;
    }
    let lab = Lab::build(Plan::direct("orphan")).unwrap();
    let spec = format!("{}/{CLIENT_INTERFACE}", lab.client().name());
    let mut linnet = Linnet::watch("orphan", std::slice::from_ref(&spec));
    let mut pair = Pair::open(&lab, 7_000);
    let rules = json!({ "rules": [{ "action": "ignore", "protocol": "udp", "port": "9" }] });
    assert_eq!(linnet.put("/api/v1/rules", &rules).0, 200);
    let (status, capture) = linnet.post("/api/v1/captures", &json!({ "filter": "tcp" }));
    assert_eq!(status, 201, "{capture}");
    let daemon = linnet.daemon_pid().unwrap();
    linnet.kill_attacher();

    // It counts on.
    let port = u64::from(pair.client_port());
    let packets = |linnet: &Linnet| {
        let flows = linnet.flows(&spec);
        let flow = flows.iter().find(|flow| flow["originator"]["port"] == port).unwrap();
        (flow["id"].clone(), flow["from_originator"]["packets"].as_u64().unwrap())
    };
    let before = packets(&linnet);
    pair.exchange(10, 100);
    let after = packets(&linnet);
    assert!(after.0 == before.0 && after.1 >= before.1 + 10, "{before:?} {after:?}");
    // And says what it does not.
    let notices = linnet.notices().join("\n");
    assert!(notices.contains("attacher"), "{notices}");
    let (status, said) = linnet.post("/api/v1/captures", &json!({}));
    assert!(status == 503 && said["detail"].as_str().unwrap().contains("linnet run"), "{said}");
    let (status, said) = linnet.put("/api/v1/rules", &json!({ "rules": [] }));
    assert!(status == 503 && said["detail"].as_str().unwrap().contains("linnet run"), "{said}");
    let path = format!("/api/v1/captures/{}", capture["capture"]["id"].as_str().unwrap());
    let ended = linnet.see(&path, "capture");
    assert_eq!(
        (&ended["state"], &ended["stop_reason"]),
        (&json!("finished"), &json!("interrupted"))
    );

    linnet.adopt_again("");
    assert_eq!(linnet.daemon_pid(), Some(daemon), "it is the same daemon");
    assert_eq!(packets(&linnet).0, before.0);
    assert_eq!(linnet.see("/api/v1/rules", "rules"), rules["rules"]);
    wait_for("no notice any more", || linnet.notices().is_empty().then_some(()));
    let (status, capture) = linnet.post("/api/v1/captures", &json!({ "filter": "tcp" }));
    assert_eq!(status, 201, "{capture}");
    pair.exchange(10, 100);
    let path = format!("/api/v1/captures/{}", capture["capture"]["id"].as_str().unwrap());
    wait_for("packets in the capture", || {
        (linnet.see(&path, "capture")["written"].as_u64().unwrap() >= 20).then_some(())
    });

    // One with another configuration ends it, and starts its own.
    linnet.kill_attacher();
    linnet.start_again("flows.keep_ended_seconds = 7\n");
    assert_ne!(linnet.daemon_pid(), Some(daemon));
    assert!(linnet.stop().success());
}

#[test]
fn a_daemon_that_is_told_to_end_without_an_attacher_ends_and_its_programs_stay() {
    if !can_run("ending without an attacher") {
        return;
    }
    let lab = Lab::build(Plan::direct("told")).unwrap();
    let spec = format!("{}/{CLIENT_INTERFACE},egress=clsact", lab.client().name());
    let mut linnet = Linnet::watch("told", &[spec]);
    let held = Held::by(linnet.pid());
    let daemon = linnet.daemon_pid().unwrap();
    linnet.kill_attacher();
    kill(Pid::from_raw(daemon.cast_signed()), Signal::SIGTERM).unwrap();
    wait_for("the daemon to end", || linnet.daemon_pid().is_none().then_some(()));
    assert!(!linnet.socket().exists() && !linnet.folder().join("run/attacher.sock").exists());
    assert!(!held.is_gone());
    let pins = linnet.pins().to_owned();
    assert!(detach(&pins) && !pins.exists());
    wait_for("programs, links and maps to go", || held.is_gone().then_some(()));
    let filters = ["filter", "show", "dev", CLIENT_INTERFACE, "egress"];
    let output = lab.client().command("tc").args(filters).output().unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "");
}

/// Filters of linnet's at the client's interface, both ways.
fn filters(lab: &Lab) -> String {
    let shown = ["ingress", "egress"].map(|way| {
        let show = ["filter", "show", "dev", CLIENT_INTERFACE, way];
        let output = lab.client().command("tc").args(show).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    });
    shown.concat()
}

#[test]
fn another_hook_takes_the_place_of_the_one_before_and_nothing_is_left_or_counted_twice() {
    if !can_run("another hook after a kill") {
        return;
    }
    let lab = Lab::build(Plan::direct("hooks")).unwrap();
    let interface = format!("{}/{CLIENT_INTERFACE}", lab.client().name());
    let mut linnet = Linnet::watch("hooks", &[format!("{interface},ingress=clsact,egress=clsact")]);
    let mut pair = Pair::open(&lab, 7_000);
    for (choices, hooks) in [
        ("", [Some("tcx"), Some("tcx")]),
        (",ingress=clsact,egress=off", [Some("clsact"), None]),
        (",ingress=xdp,egress=clsact", [Some("xdp"), Some("clsact")]),
        (",ingress=xdp-generic,egress=tcx", [Some("xdp-generic"), Some("tcx")]),
        (",ingress=clsact", [Some("clsact"), Some("tcx")]),
        (",egress=clsact", [Some("tcx"), Some("clsact")]),
    ] {
        linnet.kill_both();
        linnet.interfaces = vec![format!("{interface}{choices}")];
        linnet.start_again("");
        let row = linnet.see("/api/v1/interfaces", "interfaces")[0].take();
        for (way, hook) in ["ingress", "egress"].into_iter().zip(hooks) {
            assert_eq!(row[way]["hook"].as_str(), hook, "{choices}: {row}");
            let chain = row[way]["chain"].as_array().map_or(0, Vec::len);
            assert_eq!(chain, usize::from(hook.is_some()), "{choices}: {row}");
        }
        let count = hooks.iter().filter(|hook| **hook == Some("clsact")).count();
        assert_eq!(filters(&lab).matches(" name linnet_").count(), count, "{choices}");
        // From here on each packet counts once.
        let (sent_before, seen_before) = if hooks[1].is_some() {
            frames(&lab, &linnet)
        } else {
            continue;
        };
        pair.exchange(20, 200);
        let (sent, seen) = frames(&lab, &linnet);
        let grown = |now: [u64; 2], then: [u64; 2]| [now[0] - then[0], now[1] - then[1]];
        assert_eq!(grown(seen, seen_before), grown(sent, sent_before), "{choices}");
    }
    assert!(linnet.stop().success());
    assert_eq!(filters(&lab), "");
}

#[test]
fn a_start_that_is_stopped_leaves_a_daemon_what_it_needs() {
    if !can_run("a start that is stopped") {
        return;
    }
    let lab = Lab::build(Plan::direct("stopped")).unwrap();
    let spec = format!("{}/{CLIENT_INTERFACE}", lab.client().name());
    let mut linnet = Linnet::watch("stopped", &[spec]);
    let mut pair = Pair::open(&lab, 7_000);
    let daemon = linnet.daemon_pid();
    for pause_ms in [30, 100, 200, 400] {
        linnet.kill_attacher();
        linnet.begin_again("");
        thread::sleep(Duration::from_millis(pause_ms));
        // Before it has begun to wait for signals it dies of this one.
        linnet.signal(Signal::SIGTERM);
        linnet.wait();
        if linnet.daemon_pid().is_none() {
            // It had been adopted, and was stopped with its attacher.
            assert!(!linnet.pins().exists(), "after {pause_ms} ms");
            linnet.start_again("");
            continue;
        }
        assert!(linnet.pins().join("links").exists(), "after {pause_ms} ms");
        let (sent_before, seen_before) = frames(&lab, &linnet);
        pair.exchange(5, 100);
        let (sent, seen) = frames(&lab, &linnet);
        assert_eq!(seen[1] - seen_before[1], sent[1] - sent_before[1], "after {pause_ms} ms");
        linnet.adopt_again("");
    }
    println!("the daemon of the start: {daemon:?}, of the end: {:?}", linnet.daemon_pid());
    assert!(linnet.stop().success());
}

#[test]
fn a_rule_waits_for_an_interface_that_went_while_nobody_was_there() {
    if !can_run("rules that wait") {
        return;
    }
    let lab = Lab::build(Plan::direct("waits")).unwrap();
    let ip = |args: &str| {
        let status = lab.client().command("ip").args(args.split(' ')).status().unwrap();
        assert!(status.success(), "ip {args}");
    };
    let add = || {
        ip("link add wait0 type veth peer name wait1");
        ip("addr add 10.99.0.1/24 dev wait0");
        ip("link set wait0 up");
        ip("link set wait1 up");
        // Frames of an address that nobody answers for.
        ip("neigh replace 10.99.0.2 lladdr 02:00:00:00:00:02 dev wait0");
    };
    add();
    let name = format!("{}/wait0", lab.client().name());
    let mut linnet = Linnet::watch("waits", &[format!("{}/wait*", lab.client().name())]);
    let rules = json!({ "rules": [
        { "action": "ignore", "interface": name, "protocol": "udp" },
        { "action": "ignore", "protocol": "udp", "port": "9" },
    ] });
    assert_eq!(linnet.put("/api/v1/rules", &rules).0, 200);
    let ignored = |linnet: &Linnet| {
        linnet.settle();
        let (_, status) = linnet.get("/api/v1/status");
        status["loss"]["ledger"]["ignored_by_rule"].as_u64().unwrap()
    };
    let send = || {
        let socket = lab.client().run(|| std::net::UdpSocket::bind("10.99.0.1:0")).unwrap();
        let socket = socket.unwrap();
        for _ in 0..10 {
            socket.send_to(b"x", "10.99.0.2:7000").unwrap();
        }
    };
    let is_watched = |linnet: &Linnet| {
        let rows = linnet.see("/api/v1/interfaces", "interfaces");
        let mut rows = rows.as_array().unwrap().iter();
        rows.any(|row| row["name"] == *name && row["state"] == "attached").then_some(())
    };
    for both in [false, true] {
        let before = ignored(&linnet);
        send();
        assert!(ignored(&linnet) >= before + 10, "it is in force");
        if both {
            linnet.kill_both()
        } else {
            linnet.kill_attacher()
        }
        ip("link del wait0");
        if both {
            linnet.start_again("")
        } else {
            linnet.adopt_again("")
        }
        assert_eq!(linnet.see("/api/v1/rules", "rules"), rules["rules"]);
        wait_for("it to be seen to have gone", || is_watched(&linnet).is_none().then_some(()));
        add();
        wait_for("it to be watched again", || is_watched(&linnet));
        let before = ignored(&linnet);
        send();
        assert!(ignored(&linnet) >= before + 10, "it waited");
    }
    assert!(linnet.stop().success());
}
