//! A flow is promoted by one CPU while another one counts its packets: each packet is on the one row of its flow, or
//! counted as contended. The race is real, so what it comes to differs from run to run; what has to hold does not.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test fails by panicking")]

mod support;

use std::{
    collections::BTreeMap,
    net::{SocketAddr, UdpSocket},
    sync::atomic::{AtomicUsize, Ordering},
    thread,
};

use lab::{Family, Lab, Plan, SERVER_INTERFACE};
use nix::{
    sched::{CpuSet, sched_setaffinity},
    unistd::Pid,
};
use serde_json::Value;
use support::linnet::Linnet;

const PORT: u16 = 6_700;
const FIRST_PORT: u16 = 20_000;
/// Datagrams of each flow; the reply comes somewhere among them.
const DATAGRAMS: usize = 160;

fn pin_to(cpu: usize) {
    let mut set = CpuSet::new();
    set.set(cpu).unwrap();
    sched_setaffinity(Pid::from_raw(0), &set).unwrap();
}

#[test]
fn no_packet_is_lost_to_its_flow_uncounted_while_it_is_promoted() {
    let what = "promotion by another CPU";
    if !support::kernel(what) || !lab::require_tool("curl", what) {
        return;
    }
    if thread::available_parallelism().unwrap().get() < 2 {
        println!("one CPU has nobody to race with");
        return;
    }
    let flows: u16 = if support::full() { 9_000 } else { 1_500 };
    let lab = Lab::build(Plan::direct("race")).unwrap();
    let spec = format!("{}/{SERVER_INTERFACE}", lab.server().name());
    let linnet = Linnet::watch("race", std::slice::from_ref(&spec));
    race(&lab, flows);

    let mut rows: BTreeMap<u64, Vec<Value>> = BTreeMap::new();
    for flow in linnet.flows(&spec) {
        if flow["responder"]["port"] == PORT {
            rows.entry(flow["originator"]["port"].as_u64().unwrap()).or_default().push(flow);
        }
    }
    assert_eq!(rows.len(), usize::from(flows));
    let mut missing = 0;
    for (port, rows) in &rows {
        assert_eq!(rows.len(), 1, "one row of port {port}: {rows:?}");
        let packets =
            |half: &str| usize::try_from(rows[0][half]["packets"].as_u64().unwrap()).unwrap();
        assert_eq!((&rows[0]["embryonic"], &rows[0]["ended"]), (&false.into(), &Value::Null));
        let counted = packets("from_originator") + packets("from_responder");
        missing += (DATAGRAMS + 1).checked_sub(counted).expect("no packet is counted twice");
    }
    let (_, status) = linnet.get("/api/v1/status");
    let (loss, table) = (&status["loss"], &status["status"]["flows"]);
    let contended = usize::try_from(loss["contended"].as_u64().unwrap()).unwrap();
    println!(
        "{flows} flows of {} packets, {missing} missing, {contended} contended",
        DATAGRAMS + 1
    );
    assert!(missing <= contended, "every packet that is missing was counted as contended");
    assert_eq!((&table["evicted"], &table["evicted_met"]), (&0.into(), &0.into()));
    let count = |name: &str| table[name].as_u64().unwrap();
    assert_eq!(count("created"), count("live") + count("closed") + count("aged"));
}

/// Each flow's datagrams from one CPU, and one reply from another.
fn race(lab: &Lab, flows: u16) {
    let (client, server) = (lab.client_address(Family::V4), lab.server_socket(Family::V4, PORT));
    let answerer = lab.server().run(|| UdpSocket::bind(server)).unwrap().unwrap();
    let senders: Vec<UdpSocket> = lab
        .client()
        .run(|| {
            let connected = |number| {
                let socket = UdpSocket::bind(SocketAddr::new(client, FIRST_PORT + number))?;
                socket.connect(server)?;
                Ok(socket)
            };
            (0..flows).map(connected).collect::<std::io::Result<_>>()
        })
        .unwrap()
        .unwrap();
    // Flow N is under way while this is N + 1.
    let under_way = AtomicUsize::new(0);
    let answered = AtomicUsize::new(0);
    thread::scope(|scope| {
        scope.spawn(|| {
            pin_to(1);
            for number in 0..usize::from(flows) {
                while under_way.load(Ordering::Acquire) <= number {
                    std::hint::spin_loop();
                }
                // Somewhere among the datagrams, another place each time.
                for _ in 0..(number * 7_919) % (DATAGRAMS * 40) {
                    std::hint::spin_loop();
                }
                let to = SocketAddr::new(client, FIRST_PORT + u16::try_from(number).unwrap());
                answerer.send_to(b"y", to).unwrap();
                answered.store(number + 1, Ordering::Release);
            }
        });
        scope.spawn(|| {
            pin_to(0);
            for (number, sender) in senders.iter().enumerate() {
                // The first one shows who opened the flow.
                for _ in 0..DATAGRAMS {
                    sender.send(b"x").unwrap();
                    under_way.store(number + 1, Ordering::Release);
                }
                while answered.load(Ordering::Acquire) <= number {
                    std::hint::spin_loop();
                }
            }
        });
    });
}
