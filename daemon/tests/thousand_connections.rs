//! A thousand TCP connections at once over a bridge, with the ends' offloads on and off: linnet's rows and hooks against
//! `ss` at both ends, conntrack, and the counters of the interfaces and of the hop between, which sees wire packets.
#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    clippy::print_stdout,
    reason = "a test fails by panicking, says what it measured, and makes its own numbers"
)]

mod support;

use std::{
    collections::BTreeMap,
    io::{Read as _, Write as _},
    net::Shutdown,
    thread,
};

use lab::{
    CLIENT_INTERFACE, Family, Lab, Namespace, Plan, ROUTER_CLIENT_INTERFACE,
    ROUTER_SERVER_INTERFACE, SERVER_INTERFACE,
};
use nix::sys::socket::{setsockopt, sockopt};
use serde_json::Value;
use support::{
    linnet::Linnet,
    pair::Pair,
    stack::{self, Counted, Socket, Tracked},
    wait_for,
};

const CONNECTIONS: usize = 1_000;
const PORT: u16 = 6_500;
/// Threads that talk on a share of the connections each, all at the same time.
const TALKERS: usize = 4;
const ETHERNET_BYTES: u64 = 14;
/// Headers of a data segment: Ethernet, IPv4, TCP with timestamps. What a super-packet has once, its wire packets repeat.
const HEADERS_BYTES: u64 = 14 + 20 + 32;
/// The classes of segments that were sent again.
const SENT_AGAIN: [&str; 4] =
    ["retransmissions", "fast_retransmissions", "spurious_retransmissions", "out_of_order"];

#[test]
fn a_thousand_connections_with_offloads_off() {
    hold("plain", false);
}

#[test]
fn a_thousand_connections_with_offloads_on() {
    hold("offloads", true);
}

fn hold(label: &str, offload: bool) {
    let tools = ["ss", "conntrack", "nft", "ethtool", "curl"];
    let can_run = support::kernel(label) && tools.iter().all(|tool| lab::require_tool(tool, label));
    if !can_run {
        return;
    }
    raise_descriptors();
    let lab = Lab::build(Plan::bridged(label, offload)).unwrap();
    let ends = End::both(&lab);
    for (end, other) in [(&ends[0], &ends[1]), (&ends[1], &ends[0])] {
        end.prepare(other, offload);
    }
    stack::track(lab.server());
    let linnet = Linnet::watch(label, &ends.each_ref().map(|end| end.spec.clone()));
    let before = Reading::at_rest(&lab, &ends, &linnet);

    let mut pairs = Pair::many(&lab, PORT, CONNECTIONS);
    let rounds = if support::full() { 20 } else { 3 };
    talk(&mut pairs, rounds);
    wait_for("everything to be acknowledged", || {
        let rests = |end: &End<'_>| {
            let sockets = stack::sockets(end.namespace, PORT);
            sockets.len() == CONNECTIONS && sockets.values().all(Socket::is_acknowledged)
        };
        ends.iter().all(rests).then_some(())
    });
    let contended = hold_sockets(&ends, &linnet);
    let kept = close_some(pairs);
    hold_conntrack(&ends[1], &linnet, &contended);

    let after = Reading::at_rest(&lab, &ends, &linnet);
    hold_hooks(&before, &after, offload);
    drop(kept);
}

/// Each connection takes two descriptors of this process.
fn raise_descriptors() {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: both calls get a live rlimit.
    let raised = unsafe {
        libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit);
        limit.rlim_cur = limit.rlim_cur.max(limit.rlim_max.min(16_384));
        libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit)
    };
    assert!(raised == 0 && limit.rlim_cur > 2 * CONNECTIONS as u64 + 200, "{}", limit.rlim_cur);
}

/// One end of the lab.
struct End<'a> {
    namespace: &'a Namespace,
    interface: &'static str,
    spec: String,
    address: String,
}

impl<'a> End<'a> {
    fn both(lab: &'a Lab) -> [Self; 2] {
        let end = |namespace: &'a Namespace, interface, address| Self {
            namespace,
            interface,
            spec: format!("{}/{interface}", namespace.name()),
            address,
        };
        let (client, server) =
            (lab.client_address(Family::V4), lab.server_address(Family::V4).to_string());
        [
            end(lab.client(), CLIENT_INTERFACE, client.to_string()),
            end(lab.server(), SERVER_INTERFACE, server),
        ]
    }

    /// Knows the other end's address for good, so that no ARP is among what is counted; merges what it receives, where
    /// offloads are on.
    fn prepare(&self, other: &End<'_>, offload: bool) {
        let run = |program: &str, arguments: &[&str]| {
            let output = self.namespace.command(program).args(arguments).output().unwrap();
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(output.status.success(), "{program} {arguments:?}: {said}");
            String::from_utf8(output.stdout).unwrap()
        };
        let link = {
            let show = ["-j", "link", "show", "dev", other.interface];
            let output = other.namespace.command("ip").args(show).output().unwrap();
            serde_json::from_slice::<Value>(&output.stdout).unwrap()
        };
        let hardware = link[0]["address"].as_str().unwrap();
        let neighbour = ["neigh", "replace", &other.address, "lladdr", hardware];
        run("ip", &[&neighbour[..], &["dev", self.interface, "nud", "permanent"]].concat());
        run("ethtool", &["-K", self.interface, "gro", if offload { "on" } else { "off" }]);
        if !offload {
            // TCP makes super-packets for an interface without GSO too, and has them cut behind the hook.
            run("ip", &["link", "set", "dev", self.interface, "gso_max_segs", "1"]);
        }
        let features = run("ethtool", &["-k", self.interface]);
        for feature in ["tx-tcp-segmentation:", "generic-receive-offload:"] {
            let named = |line: &&str| line.trim_start().starts_with(feature);
            let line = features.lines().find(named).unwrap();
            assert_eq!(line.ends_with(": on"), offload, "{}: {line}", self.interface);
        }
    }
}

/// What everyone has counted, while nothing moves.
struct Reading {
    /// `/api/v1/interfaces`, by end.
    hooks: [Value; 2],
    ends: [Counted; 2],
    /// The bridge's ports towards either.
    hop: [Counted; 2],
}

impl Reading {
    fn at_rest(lab: &Lab, ends: &[End<'_>; 2], linnet: &Linnet) -> Self {
        let router = lab.router().unwrap();
        let count = || {
            let of_ends = ends.each_ref().map(|end| Counted::by(end.namespace, end.interface));
            let ports = [ROUTER_CLIENT_INTERFACE, ROUTER_SERVER_INTERFACE];
            (of_ends, ports.map(|port| Counted::by(router, port)))
        };
        wait_for("the interfaces to come to rest", || {
            let (of_ends, hop) = count();
            linnet.settle();
            let interfaces = linnet.see("/api/v1/interfaces", "interfaces");
            let of = |spec: &str| {
                let all = interfaces.as_array().unwrap();
                all.iter().find(|interface| interface["name"] == spec).unwrap().clone()
            };
            let hooks = ends.each_ref().map(|end| of(&end.spec));
            (count() == (of_ends, hop)).then_some(Self { hooks, ends: of_ends, hop })
        })
    }

    /// What a hook counted since.
    fn hook(&self, before: &Self, end: usize, direction: &str, figure: &str) -> u64 {
        let of = |reading: &Self| {
            let hook = &reading.hooks[end][direction];
            let value = if figure == "not_ip" { &hook["ledger"][figure] } else { &hook[figure] };
            value.as_u64().unwrap()
        };
        of(self) - of(before)
    }
}

/// Requests of one side and answers of the other on every connection, all at once: one of the two is large, so that
/// there are super-packets both ways.
fn talk(pairs: &mut [Pair], rounds: usize) {
    let share = pairs.len().div_ceil(TALKERS);
    thread::scope(|scope| {
        for (talker, pairs) in pairs.chunks_mut(share).enumerate() {
            scope.spawn(move || {
                for _ in 0..rounds {
                    for (index, pair) in pairs.iter_mut().enumerate() {
                        let (request, _) = sizes(talker * share + index);
                        pair.client.write_all(&vec![1; request]).unwrap();
                    }
                    for (index, pair) in pairs.iter_mut().enumerate() {
                        let (request, answer) = sizes(talker * share + index);
                        pair.server.read_exact(&mut vec![0; request]).unwrap();
                        pair.server.write_all(&vec![2; answer]).unwrap();
                    }
                    for (index, pair) in pairs.iter_mut().enumerate() {
                        let (_, answer) = sizes(talker * share + index);
                        pair.client.read_exact(&mut vec![0; answer]).unwrap();
                    }
                }
            });
        }
    });
}

/// Bytes of a request and of its answer, by connection.
fn sizes(index: usize) -> (usize, usize) {
    let (small, large) = (100 + index * 37 % 1_300, 2_000 + index * 29 % 30_000);
    if index.is_multiple_of(2) { (small, large) } else { (large, small) }
}

/// The rows of an interface by the client's port, of the test's connections alone.
fn rows(linnet: &Linnet, spec: &str) -> BTreeMap<u64, Value> {
    let flows = linnet.flows(spec).into_iter();
    let ours = flows.filter(|flow| flow["responder"]["port"] == PORT);
    let rows: BTreeMap<_, _> =
        ours.map(|flow| (flow["originator"]["port"].as_u64().unwrap(), flow)).collect();
    assert_eq!(rows.len(), CONNECTIONS, "{spec}: rows");
    rows
}

/// Every row at both ends against `ss` there. Returns the ports of flows with a packet that was counted and not
/// analyzed, by end: their classes and states can be off, their counters not.
fn hold_sockets(ends: &[End<'_>; 2], linnet: &Linnet) -> [Vec<u64>; 2] {
    let mut retransmitted = 0;
    let contended = [0, 1].map(|side| {
        let end = &ends[side];
        let sockets = stack::sockets(end.namespace, PORT);
        let rows = rows(linnet, &end.spec);
        let halves = [["from_originator", "from_responder"], ["from_responder", "from_originator"]];
        let [own, peer] = halves[side];
        // The kernel answers a SYN before there is a connection that could count the answer.
        let before = side as u64;
        for (port, row) in &rows {
            let (socket, name) = (&sockets[port], format!("{} {port}", end.spec));
            let figure = |half: &str, name: &str| row[half][name].as_u64().unwrap();
            let segments = |half: &str| row[half]["tcp"]["segments"].as_u64().unwrap();
            assert_eq!(figure(own, "payload_bytes"), socket.figure("bytes_sent"), "{name}: sent");
            let syn = 1 - before;
            let acknowledged = socket.figure("bytes_sent") - socket.figure("bytes_retrans");
            assert_eq!(socket.figure("bytes_acked"), acknowledged + syn, "{name}: acknowledged");
            assert_eq!(segments(own), socket.figure("segs_out") + before, "{name}: out");
            assert_eq!(segments(peer), socket.figure("segs_in"), "{name}: in");
            assert_eq!(row["state"], "ESTABLISHED", "{name}");
            let received = figure(peer, "payload_bytes");
            let again = socket.figure("retrans");
            retransmitted += again;
            if row["contended"] == true {
                continue;
            }
            let sum = |half: &str| -> u64 {
                SENT_AGAIN.iter().map(|class| row[half]["tcp"][class].as_u64().unwrap()).sum()
            };
            if figure(own, "skbs") == figure(own, "packets") {
                assert_eq!(sum(own), again, "{name}: sent again");
            } else {
                // A super-packet is classified as one, whatever it stands for.
                assert!(sum(own) <= again && (sum(own) > 0) == (again > 0), "{name}: sent again");
            }
            if sum(peer) == 0 {
                assert_eq!(received, socket.figure("bytes_received"), "{name}: received");
            }
        }
        let is_contended =
            |(port, row): (&u64, &Value)| (row["contended"] == true).then_some(*port);
        rows.iter().filter_map(is_contended).collect::<Vec<_>>()
    });
    println!(
        "{CONNECTIONS} connections at both ends equal ss; {retransmitted} segments sent again, {} and {} flows contended",
        contended[0].len(),
        contended[1].len()
    );
    assert!(contended.iter().all(|flows| flows.len() * 5 < CONNECTIONS), "{contended:?}");
    contended
}

/// Closes four connections of five, each kind in its way; the rest stays open.
fn close_some(pairs: Vec<Pair>) -> Vec<Pair> {
    let mut kept = Vec::new();
    for (index, mut pair) in pairs.into_iter().enumerate() {
        match index % 5 {
            0 => pair.client.shutdown(Shutdown::Write).unwrap(),
            1 => pair.server.shutdown(Shutdown::Write).unwrap(),
            2 => {
                drop(pair.client);
                assert_eq!(pair.server.read(&mut [0; 8]).unwrap(), 0);
                continue;
            }
            3 => {
                let linger = libc::linger { l_onoff: 1, l_linger: 0 };
                setsockopt(&pair.client, sockopt::Linger, &linger).unwrap();
                drop(pair.client);
                continue;
            }
            _ => {}
        }
        kept.push(pair);
    }
    kept
}

/// Every row at the server against conntrack there: states and counters. Conntrack counts a super-packet once.
fn hold_conntrack(end: &End<'_>, linnet: &Linnet, contended: &[Vec<u64>; 2]) {
    let (rows, theirs) = wait_for("the connections to come to rest", || {
        let before = stack::tracked(end.namespace, PORT);
        let rows = rows(linnet, &end.spec);
        (stack::tracked(end.namespace, PORT) == before).then_some((rows, before))
    });
    assert_eq!(theirs.len(), CONNECTIONS);
    let mut states: BTreeMap<String, usize> = BTreeMap::new();
    let mut exempt = 0;
    for (port, row) in &rows {
        let way = |half: &str| {
            let figure = |name: &str| row[half][name].as_u64().unwrap();
            let skbs = figure("skbs");
            let repeated = HEADERS_BYTES * (figure("packets") - skbs);
            (skbs, figure("bytes") - ETHERNET_BYTES * skbs - repeated)
        };
        let mut ours = Tracked {
            state: row["state"].as_str().unwrap().to_owned(),
            original: way("from_originator"),
            reply: way("from_responder"),
        };
        let theirs = &theirs[port];
        if row["contended"] == true && ours.state != theirs.state {
            exempt += 1;
            ours.state.clone_from(&theirs.state);
        }
        assert_eq!(&ours, theirs, "{port}: linnet's row and conntrack's");
        *states.entry(ours.state).or_default() += 1;
    }
    println!("equal to conntrack: {states:?}; {exempt} states of contended flows differ");
    assert!(exempt <= contended[1].len() + CONNECTIONS / 10);
    for state in ["ESTABLISHED", "CLOSE_WAIT", "TIME_WAIT", "CLOSE"] {
        assert!(states.get(state).is_some_and(|count| *count >= CONNECTIONS / 5), "{states:?}");
    }
}

/// What the hooks counted against what the interfaces and the hop between them did.
fn hold_hooks(before: &Reading, after: &Reading, offload: bool) {
    let hop = [0, 1].map(|port: usize| after.hop[port].since(before.hop[port]));
    let hook = |end, direction, figure| after.hook(before, end, direction, figure);
    let wire = |end, direction| (hook(end, direction, "packets"), hook(end, direction, "bytes"));
    let interface = [0, 1].map(|end: usize| after.ends[end].since(before.ends[end]));
    println!("hop {hop:?}\nends {interface:?}");
    for (end, counted) in interface.iter().enumerate() {
        for direction in ["ingress", "egress"] {
            assert_eq!(hook(end, direction, "not_ip"), 0, "nothing but IP is sent");
            let seen = hook(end, direction, "seen");
            println!("end {end} {direction}: {seen} seen, {:?} on the wire", wire(end, direction));
        }
        // The same skb goes through the hook and into the interface's counter.
        assert_eq!(hook(end, "egress", "seen"), counted.tx_packets + counted.tx_dropped, "{end}");
        if offload {
            assert!(hook(end, "ingress", "seen") < counted.rx_packets, "{end}: there was merging");
            assert!(hook(end, "egress", "seen") < wire(end, "egress").0, "{end}: super-packets");
        } else {
            assert_eq!(hook(end, "ingress", "seen"), counted.rx_packets, "{end}");
        }
    }
    // veth counts bytes behind the Ethernet header where the receiver merges (drivers/net/veth.c, `veth_xdp_rcv`).
    let uncounted = if offload { ETHERNET_BYTES } else { 0 };
    for (end, port, sender) in [(0, hop[0], 1), (1, hop[1], 0)] {
        let passed = (port.tx_packets, port.tx_bytes + uncounted * port.tx_packets);
        assert_eq!(wire(end, "ingress"), passed, "from the hop to end {end}");
        let (packets, bytes) = wire(sender, "egress");
        assert_eq!(packets, passed.0 + port.tx_dropped, "from end {sender} to the hop");
        if port.tx_dropped == 0 {
            assert_eq!(bytes, passed.1, "from end {sender} to the hop");
        }
    }
}
