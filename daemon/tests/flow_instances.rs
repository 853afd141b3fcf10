//! Which packets are one flow: a tuple that is used again is another one, and an attempt is none yet. Must never rest on
//! what linnet says of itself alone: the connections are the test's own.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test fails by panicking")]

mod support;

use std::{
    collections::BTreeSet,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    os::fd::AsRawFd as _,
};

use lab::{Family, Lab, Plan, SERVER_INTERFACE};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrIn, bind, connect, setsockopt, socket, sockopt,
};
use serde_json::Value;
use support::linnet::Linnet;

const PORT: u16 = 6_500;
const CLIENT_PORT: u16 = 33_333;

/// A connection from a port of one's choice, though it was used a moment ago.
fn connect_from(from: SocketAddr, to: SocketAddr) -> nix::Result<TcpStream> {
    let plain = |address: SocketAddr| match address {
        SocketAddr::V4(address) => SockaddrIn::from(address),
        SocketAddr::V6(_) => unreachable!("the lab's plan is IPv4 here"),
    };
    let end = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    setsockopt(&end, sockopt::ReuseAddr, &true)?;
    bind(end.as_raw_fd(), &plain(from))?;
    connect(end.as_raw_fd(), &plain(to))?;
    Ok(end.into())
}

/// The same, once the kernel has let the tuple's last connection go.
fn free(from: SocketAddr, to: SocketAddr) -> TcpStream {
    support::wait_for("the tuple to be free", || match connect_from(from, to) {
        Err(nix::errno::Errno::EADDRNOTAVAIL) => None,
        other => Some(other.unwrap()),
    })
}

fn figure(flow: &Value, half: &str, name: &str) -> u64 {
    flow[half][name].as_u64().unwrap()
}

#[test]
fn a_tuple_that_is_used_again_is_another_flow() {
    if !support::kernel("flows of one tuple") || !lab::require_tool("curl", "flows of one tuple") {
        return;
    }
    const ROUNDS: usize = 5;
    let lab = Lab::build(Plan::direct("tuple")).unwrap();
    let spec = format!("{}/{SERVER_INTERFACE}", lab.server().name());
    let linnet = Linnet::watch("tuple", std::slice::from_ref(&spec));
    let at = lab.server_socket(Family::V4, PORT);
    let from = SocketAddr::new(lab.client_address(Family::V4), CLIENT_PORT);
    let listener = lab.server().run(|| TcpListener::bind(at)).unwrap().unwrap();
    let mut last = None;
    for round in 1..=ROUNDS {
        // Closed by a reset: the same tuple is free at once. Faster than any sweep.
        last.take();
        let mut client = lab.client().run(|| free(from, at)).unwrap();
        let mut server = listener.accept().unwrap().0;
        client.write_all(&vec![7; 100 * round]).unwrap();
        server.read_exact(&mut vec![0; 100 * round]).unwrap();
        let linger = libc::linger { l_onoff: 1, l_linger: 0 };
        setsockopt(&client, sockopt::Linger, &linger).unwrap();
        last = Some((client, server));
    }
    let flows = linnet.flows(&spec);
    let mut ours: Vec<_> = flows
        .iter()
        .filter(|flow| flow["responder"]["port"] == PORT)
        .inspect(|flow| assert_eq!(flow["originator"]["port"], CLIENT_PORT))
        .collect();
    ours.sort_by_key(|flow| figure(flow, "from_originator", "payload_bytes"));
    let payloads: Vec<_> =
        ours.iter().map(|flow| figure(flow, "from_originator", "payload_bytes")).collect();
    assert_eq!(payloads, [100, 200, 300, 400, 500]);
    let ids: BTreeSet<_> = ours.iter().map(|flow| flow["id"].as_str().unwrap()).collect();
    assert_eq!(ids.len(), ROUNDS);
    for (index, flow) in ours.iter().enumerate() {
        let is_last = index == ROUNDS - 1;
        println!("{} {} {}", flow["id"], flow["state"], flow["ended"]);
        assert_eq!(flow["state"], if is_last { "ESTABLISHED" } else { "CLOSE" });
        assert_eq!(flow["ended"], if is_last { Value::Null } else { "closed".into() });
        assert_eq!(flow["embryonic"], false);
        let reused = &flow["from_originator"]["tcp"]["reused_ports"];
        assert_eq!(reused, u64::from(index > 0), "Wireshark calls its SYN so");
        // SYN, the handshake's ACK, data and, but for the last one, RST.
        let packets = figure(flow, "from_originator", "packets");
        assert_eq!(packets, 3 + u64::from(!is_last));
    }
    let status = linnet.see("/api/v1/status", "status");
    let flows = &status["flows"];
    let count = |name: &str| flows[name].as_u64().unwrap();
    assert_eq!((count("evicted"), count("evicted_met")), (0, 0));
    assert_eq!(count("created"), count("live") + count("closed") + count("aged"));
    assert!(count("closed") >= (ROUNDS - 1) as u64);
}

#[test]
fn an_attempt_is_embryonic_until_it_is_answered_and_acknowledged() {
    if !support::kernel("embryonic flows") || !lab::require_tool("curl", "embryonic flows") {
        return;
    }
    let lab = Lab::build(Plan::direct("embryo")).unwrap();
    let spec = format!("{}/{SERVER_INTERFACE}", lab.server().name());
    let linnet = Linnet::watch("embryo", std::slice::from_ref(&spec));
    let at = lab.server_socket(Family::V4, PORT);
    let nobody = lab.server_socket(Family::V4, PORT + 1);
    let listener = lab.server().run(|| TcpListener::bind(at)).unwrap().unwrap();
    let open = lab.client().run(|| TcpStream::connect(at)).unwrap().unwrap();
    let accepted = listener.accept().unwrap();
    assert!(lab.client().run(|| TcpStream::connect(nobody)).unwrap().is_err());
    let flows = linnet.flows(&spec);
    let to = |port: u16| flows.iter().find(|flow| flow["responder"]["port"] == port).unwrap();
    assert_eq!(
        (&to(PORT)["state"], &to(PORT)["embryonic"]),
        (&"ESTABLISHED".into(), &false.into())
    );
    let refused = to(PORT + 1);
    assert_eq!((&refused["state"], &refused["embryonic"]), (&"CLOSE".into(), &true.into()));
    drop((open, accepted));
}
