//! An attacher that dies leaves its programs on their hooks, and the next one puts its own in their place: not one packet
//! is missed or counted twice, on any kind of hook, and a daemon that lives on serves all the while. Must never leave a
//! process, a program or a folder behind.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test fails by panicking and says what it measured"
)]

mod support;

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

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

/// Runs `work` while connections exchange data without a pause.
fn under_traffic(pairs: &mut [Pair], work: impl FnOnce()) {
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                pairs.iter_mut().for_each(|pair| pair.exchange(20, 200));
            }
        });
        let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
        stop.store(true, Ordering::Relaxed);
        if let Err(panic) = done {
            std::panic::resume_unwind(panic);
        }
    });
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
    under_traffic(&mut pairs, || {
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
