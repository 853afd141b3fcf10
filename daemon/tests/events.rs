//! Flagged segments one by one: what is lost when nobody reads the kernel's log is known exactly, what the API tells of a
//! flow is what the flow's counters say, also after the daemon was killed.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test fails by panicking and says what it found"
)]

mod support;

use std::{collections::BTreeMap, process::Command, time::Duration};

use datapath::{
    layout::EVENTS_MAX,
    tcp::classes::{self, ZERO_WINDOW},
};
use lab::{
    Lab, Loss, Plan, SERVER_INTERFACE,
    traffic::bulk::{self, Bulk},
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;
use support::{
    door::{Door, Sample},
    linnet::Linnet,
    wait_for,
};

/// Events of one CPU that are there for sure.
const WHOLE: u64 = EVENTS_MAX as u64 - 1;

/// An acknowledgment that nothing can be received, on Ethernet: each is flagged.
fn zero_window(number: u16) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0];
    let [high, low] = number.to_be_bytes();
    frame.extend([0x45, 0, 0, 40, high, low, 0, 0, 64, 6, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2]);
    frame.extend([0, 80, 0x9c, 0x40, 0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x10, 0, 0, 0, 0, 0, 0]);
    frame
}

#[test]
fn what_nobody_read_in_time_is_counted_exactly() {
    if !support::kernel("an overflow of the log of events") {
        return;
    }
    lab::processor::stay_on_one(0).unwrap();
    for mut door in Door::both(64) {
        let mut expected = (0, 0);
        let mut number = 0_u64;
        // A pause that the log is long enough for, one that it is just too short for, and one that it is not.
        for pause in [100, WHOLE, WHOLE + 1, 2 * WHOLE + 777] {
            for _ in 0..pause {
                number += 1;
                let frame = zero_window(u16::try_from(number % 60_000).unwrap());
                door.run(&Sample::new(number * 1_000_000, 54, &frame).unwrap());
            }
            let (events, counts) = door.events();
            let read = pause.min(WHOLE);
            expected = (expected.0 + read, expected.1 + pause - read);
            assert_eq!((counts.consumed, counts.lost), expected, "after a pause of {pause}");
            assert_eq!(counts.produced, number);
            let times: Vec<_> = events.iter().map(|event| event.time_ns / 1_000_000).collect();
            let last: Vec<_> = (number - read + 1..=number).collect();
            assert_eq!(times, last, "the last ones, in order");
            assert!(events.iter().all(|event| event.classes & ZERO_WINDOW != 0));
        }
    }
}

fn count(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("{value} is no count"))
}

fn balanced(loss: &Value) -> bool {
    let events = &loss["rings"]["events"];
    count(&events["produced"]) == count(&events["consumed"]) + count(&events["lost"])
}

/// Segments by class and by verdict over all flows.
fn counted(flows: &[Value]) -> BTreeMap<String, u64> {
    let mut sums = BTreeMap::new();
    for flow in flows {
        for direction in ["from_originator", "from_responder"] {
            let tcp = &flow[direction]["tcp"];
            if tcp.is_null() {
                continue;
            }
            for (name, _) in classes::NAMES {
                *sums.entry(name.to_owned()).or_default() += count(&tcp[name]);
            }
            for (name, found) in tcp["verdicts"].as_object().unwrap() {
                *sums.entry(name.clone()).or_default() += count(found);
            }
        }
    }
    // A later selective acknowledgment may show that nothing was lost.
    for taken_back in ["spurious", "lost_upstream", "lost_downstream"] {
        sums.remove(taken_back);
    }
    sums
}

/// The same sums over events.
fn summed(sums: &Value) -> BTreeMap<String, u64> {
    let all = ["classes", "verdicts"].map(|kind| sums[kind].as_object().unwrap().clone());
    let mut sums: BTreeMap<_, _> =
        all.into_iter().flatten().map(|(name, found)| (name, count(&found))).collect();
    for taken_back in ["spurious", "lost_upstream", "lost_downstream"] {
        sums.remove(taken_back);
    }
    sums
}

/// Events without what another daemon may number in another way.
fn events(linnet: &Linnet, id: &str) -> Vec<Value> {
    let mut events = linnet.see(&format!("/api/v1/flows/{id}/events"), "events");
    let events = events.as_array_mut().unwrap();
    for event in events.iter_mut() {
        event.as_object_mut().unwrap().remove("number");
        // The offset to wall time is measured anew.
        event.as_object_mut().unwrap().remove("time");
    }
    std::mem::take(events)
}

#[test]
fn the_events_of_a_lossy_flow_are_its_counters_and_outlive_the_daemon() {
    if !support::kernel("events in a lab") || !lab::require_tool("curl", "events in a lab") {
        return;
    }
    let plan =
        Plan::new("events").with_rtt(Duration::from_millis(10)).with_loss(Loss::EveryNthData(40));
    let lab = Lab::build(plan).unwrap();
    let server = format!("{}/{SERVER_INTERFACE}", lab.server().name());
    let mut linnet = Linnet::watch("events", std::slice::from_ref(&server));
    bulk::run(&lab, &Bulk::default()).unwrap();
    let flows = linnet.flows(&server);
    let (status, summary) = linnet.get("/api/v1/tcp/summary");
    assert_eq!(status, 200, "{summary}");
    let loss = &summary["loss"];
    println!("{}", loss["rings"]);
    assert!(balanced(loss) && loss["rings"]["events"]["lost"] == 0, "{loss}");
    assert_eq!(summed(&summary["total"]), counted(&flows));
    let sent_again = count(&summary["total"]["verdicts"]["retransmitted_segments"]);
    assert!(sent_again > 10, "{summary}");
    let of_server: Vec<_> = summary["interfaces"].as_array().unwrap().iter().collect();
    assert_eq!(of_server.len(), 1);
    assert_eq!(of_server[0]["interface"], server);
    assert_eq!(of_server[0]["total"], summary["total"]);

    let worst = &summary["retransmitting"][0];
    assert_eq!(count(&worst["retransmitted_segments"]), sent_again);
    let id = worst["id"].as_str().unwrap();
    let path = format!("/api/v1/flows/{id}/events");
    let (_, all) = linnet.get(&path);
    let kept = all["events"].as_array().unwrap();
    assert_eq!(count(&all["total"]), kept.len() as u64);
    let flagged = kept.len() as u64 + count(&all["forgotten"]);
    assert!(flagged <= count(&summary["total"]["flagged"]) && flagged > sent_again, "{all}");
    let numbers: Vec<_> = kept.iter().map(|event| count(&event["number"])).collect();
    assert!(numbers.is_sorted_by(|a, b| a < b));
    let (_, fast) = linnet.get(&format!("{path}?kind=fast,rto&limit=3"));
    for event in fast["events"].as_array().unwrap() {
        assert_eq!(event["direction"], "from_responder");
        let verdicts = event["verdicts"].as_array().unwrap();
        assert!(verdicts.iter().any(|name| name == "fast" || name == "rto"), "{event}");
        assert!(count(&event["segments"]) > 0 && event["flags"].as_str().unwrap().contains('A'));
    }
    // In pages, from the first one on.
    let mut paged = Vec::new();
    let mut after = 0;
    loop {
        let (_, page) = linnet.get(&format!("{path}?limit=50&after={after}"));
        paged.extend(page["events"].as_array().unwrap().iter().cloned());
        let Some(next) = page["next"].as_u64() else { break };
        after = next;
    }
    let paged: Vec<_> = paged.iter().map(|event| count(&event["number"])).collect();
    assert_eq!(paged, numbers);

    let flow = linnet.see(&format!("/api/v1/flows/{id}"), "flow");
    let handshake = |side| count(&flow["handshake"][side]);
    let both = handshake("originator_side_ns") + handshake("responder_side_ns");
    assert_eq!(both, count(&flow["handshake_rtt_ns"]), "{flow}");
    // The delay is between the two, and this is the responder.
    assert!(handshake("responder_side_ns") < handshake("originator_side_ns"), "{flow}");

    let metrics = linnet.get("/metrics").1;
    let metrics = metrics.as_str().unwrap();
    let series = format!(
        "linnet_tcp_verdict_segments_total{{interface=\"{server}\",verdict=\"retransmitted_segments\"}} {sent_again}\n"
    );
    assert!(metrics.contains(&series), "{metrics}");
    assert!(metrics.contains("linnet_events_total{outcome=\"lost\"} 0\n"), "{metrics}");

    let mut command = Command::new(env!("CARGO_BIN_EXE_linnet"));
    let told = command.args(["events", id, "--socket"]).arg(linnet.socket()).output().unwrap();
    let told = String::from_utf8(told.stdout).unwrap();
    assert_eq!(told.lines().count(), kept.len() + 3, "{told}");
    assert!(told.contains("responder") && told.contains("retransmitted_segments"), "{told}");

    let before = events(&linnet, id);
    let killed = linnet.daemon_pid().unwrap();
    kill(Pid::from_raw(killed.cast_signed()), Signal::SIGKILL).unwrap();
    wait_for("the next daemon", || {
        let next = linnet.daemon_pid().is_some_and(|pid| pid != killed);
        (next && linnet.get("/readyz").0 == 200).then_some(())
    });
    let (_, again) = linnet.get("/api/v1/tcp/summary");
    assert_eq!(summed(&again["total"]), summed(&summary["total"]), "all of it was in the log");
    assert!(balanced(&again["loss"]), "{again}");
    assert_eq!(events(&linnet, id), before);

    linnet.kill_both();
    linnet.start_again("");
    let (_, again) = linnet.get("/api/v1/tcp/summary");
    assert_eq!(summed(&again["total"]), summed(&summary["total"]), "the log is kept with the maps");
    assert_eq!(events(&linnet, id), before);

    let removed = lab.server().command("ip").args(["link", "del", SERVER_INTERFACE]).status();
    assert!(removed.unwrap().success());
    wait_for("the interface to have gone", || {
        let interfaces = linnet.see("/api/v1/interfaces", "interfaces");
        (interfaces[0]["state"] == "gone").then_some(())
    });
    let (_, gone) = linnet.get("/api/v1/tcp/summary");
    assert_eq!(gone["interfaces"][0]["interface"], server);
    let totals = |summary: &Value| summary["interfaces"][0]["total"].clone();
    assert_eq!(totals(&gone), totals(&again), "what was counted of it stays");
    assert!(linnet.get("/metrics").1.as_str().unwrap().contains(&series));
    assert_eq!(events(&linnet, id), before);
}
