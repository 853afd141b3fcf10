//! States, originators and timeouts against the kernel's connection tracking: forged conversations through a router
//! that tracks them, real ones of sockets, and the defaults against the kernel's settings.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::cast_possible_truncation,
    reason = "a test fails by panicking"
)]

mod support;

use std::{
    fs,
    net::{Ipv4Addr, Shutdown, UdpSocket},
    time::Duration,
};

use daemon::flow::expiry::Timeouts;
use lab::{
    CLIENT_INTERFACE, Family, Lab, Plan, SERVER_INTERFACE,
    traffic::{Budget, Stop, inject},
};
use nix::sys::socket::{setsockopt, sockopt};
use serde_json::Value;
use support::{
    conntrack::{self, Entry},
    forged::{
        ACK, Conversation, FIN,
        From::{self, A, B},
        Packet::{self, Icmp, Other, Sctp, Tcp, Udp, ZeroWindow},
        RST, SYN,
    },
    linnet::Linnet,
    pair::Pair,
    wait_for,
};

const SECOND_NS: u64 = 1_000_000_000;

fn can_run(what: &str) -> bool {
    let tools = ["conntrack", "nft", "ip", "curl"];
    support::kernel(what) && tools.iter().all(|tool| lab::require_tool(tool, what))
}

/// In place of a state: linnet and conntrack are known not to agree.
const DIFFERS: &str = "";

/// A packet, and what conntrack is known to say after it.
type Step = (From, Packet, &'static str, u64);

/// Packets that conntrack makes no entry for, and linnet's state and originator after them.
type Case = (&'static [(From, Packet)], &'static str, From);

/// Packets of a conversation.
type Packets = Vec<(From, Packet)>;

const INIT: Packet = Sctp(&[1]);
const INIT_ACK: Packet = Sctp(&[2]);
const HEARTBEAT: Packet = Sctp(&[4]);
const HEARTBEAT_ACK: Packet = Sctp(&[5]);
const ABORT: Packet = Sctp(&[6]);
const SHUTDOWN: Packet = Sctp(&[7]);
const SHUTDOWN_ACK: Packet = Sctp(&[8]);
const ERROR: Packet = Sctp(&[9]);
const COOKIE_ECHO: Packet = Sctp(&[10, 0]);
const COOKIE_ACK: Packet = Sctp(&[11, 3]);
const SHUTDOWN_COMPLETE: Packet = Sctp(&[14]);
const DATA: Packet = Sctp(&[3, 0, 0]);

const HANDSHAKE: [Step; 3] = [
    (A, Tcp(SYN, 0), "SYN_SENT", 120),
    (B, Tcp(SYN | ACK, 0), "SYN_RECV", 60),
    (A, Tcp(ACK, 0), "ESTABLISHED", 3_600),
];
const CLOSE: [Step; 4] = [
    (A, Tcp(FIN | ACK, 0), "FIN_WAIT", 120),
    (B, Tcp(ACK, 0), "CLOSE_WAIT", 60),
    (B, Tcp(FIN | ACK, 0), "LAST_ACK", 30),
    (A, Tcp(ACK, 0), "TIME_WAIT", 120),
];
const ASSOCIATE: [Step; 4] = [
    (A, INIT, "CLOSED", 10),
    (B, INIT_ACK, "COOKIE_WAIT", 3),
    (A, COOKIE_ECHO, "COOKIE_ECHOED", 3),
    (B, COOKIE_ACK, "ESTABLISHED", 210),
];

fn stories() -> Vec<Vec<Step>> {
    let after = |start: &[Step], rest: &[Step]| [start, rest].concat();
    let closed = after(&HANDSHAKE, &CLOSE);
    vec![
        after(&closed, &[(A, Tcp(SYN, 0), "SYN_SENT", 120)]),
        after(&closed, &[(B, Tcp(SYN, 0), "SYN_SENT", 120)]),
        // Closed by the responder, both at once, and by a FIN that is sent again.
        after(
            &HANDSHAKE,
            &[(B, Tcp(FIN | ACK, 10), "FIN_WAIT", 120), (A, Tcp(FIN | ACK, 0), "LAST_ACK", 30)],
        ),
        after(
            &HANDSHAKE,
            &[(A, Tcp(RST | ACK, 0), "CLOSE", 10), (A, Tcp(SYN, 0), "SYN_SENT", 120)],
        ),
        // Opened again by the side that did not reset: conntrack believes it once it is answered.
        after(
            &HANDSHAKE,
            &[
                (B, Tcp(RST | ACK, 0), "CLOSE", 10),
                (A, Tcp(SYN, 0), DIFFERS, 0),
                (B, Tcp(SYN | ACK, 0), "SYN_RECV", 60),
            ],
        ),
        // Data that is not acknowledged, and is; a closed window.
        after(
            &HANDSHAKE,
            &[
                (A, Tcp(ACK, 100), "ESTABLISHED", 300),
                (B, Tcp(ACK, 0), "ESTABLISHED", 3_600),
                (B, ZeroWindow, "ESTABLISHED", 300),
            ],
        ),
        // Simultaneous open, established by either side.
        vec![
            (A, Tcp(SYN, 0), "SYN_SENT", 120),
            (B, Tcp(SYN, 0), "SYN_SENT2", 120),
            (A, Tcp(SYN | ACK, 0), "SYN_RECV", 60),
            (B, Tcp(ACK, 0), "ESTABLISHED", 3_600),
        ],
        // Split handshake.
        vec![
            (A, Tcp(SYN, 0), "SYN_SENT", 120),
            (B, Tcp(ACK, 0), "SYN_SENT", 120),
            (B, Tcp(SYN, 0), "SYN_SENT2", 120),
            (A, Tcp(SYN | ACK, 0), "SYN_RECV", 60),
            (B, Tcp(ACK, 0), "ESTABLISHED", 3_600),
        ],
        // Joined mid-stream: one-sided, and in both directions.
        vec![
            (A, Tcp(ACK, 50), "ESTABLISHED", 300),
            (A, Tcp(ACK, 50), "ESTABLISHED", 300),
            (A, Tcp(FIN | ACK, 0), "FIN_WAIT", 120),
        ],
        vec![
            (B, Tcp(ACK, 50), "ESTABLISHED", 300),
            (A, Tcp(ACK, 0), "ESTABLISHED", 300),
            (B, Tcp(ACK, 0), "ESTABLISHED", 3_600),
        ],
        vec![
            (A, Udp, "UNREPLIED", 30),
            (A, Udp, "UNREPLIED", 30),
            (B, Udp, "REPLIED", 30),
            (A, Udp, "REPLIED", 30),
        ],
        vec![
            (A, Icmp(8), "UNREPLIED", 30),
            (B, Icmp(0), "REPLIED", 30),
            (A, Icmp(8), "REPLIED", 30),
        ],
        vec![
            (A, Other(47), "UNREPLIED", 30),
            (B, Other(47), "REPLIED", 30),
            (A, Other(47), "REPLIED", 180),
        ],
        vec![(A, Other(89), "UNREPLIED", 600), (B, Other(89), "REPLIED", 600)],
        after(
            &ASSOCIATE,
            &[
                (A, DATA, "ESTABLISHED", 210),
                (A, SHUTDOWN, "SHUTDOWN_SENT", 3),
                (B, SHUTDOWN_ACK, "SHUTDOWN_ACK_SENT", 3),
                (A, SHUTDOWN_COMPLETE, "CLOSED", 10),
            ],
        ),
        after(
            &ASSOCIATE,
            &[
                (B, SHUTDOWN, "SHUTDOWN_RECD", 3),
                (A, SHUTDOWN_ACK, "SHUTDOWN_ACK_SENT", 3),
                (B, SHUTDOWN_COMPLETE, "CLOSED", 10),
            ],
        ),
        after(&ASSOCIATE, &[(B, ABORT, "CLOSED", 10)]),
        after(&ASSOCIATE[..3], &[(B, ERROR, "CLOSED", 10)]),
        after(&ASSOCIATE, &[(B, INIT, "ESTABLISHED", 210)]),
        vec![(A, INIT, "CLOSED", 10), (B, INIT, "CLOSED", 10)],
        vec![(A, HEARTBEAT, "HEARTBEAT_SENT", 30), (B, HEARTBEAT_ACK, "ESTABLISHED", 210)],
        vec![(A, SHUTDOWN_ACK, "SHUTDOWN_ACK_SENT", 3)],
        vec![(A, HEARTBEAT_ACK, "CLOSED", 10)],
    ]
}

/// A flow that has seen a story up to one of its packets.
#[derive(Debug)]
struct Told {
    host: Ipv4Addr,
    steps: Vec<Step>,
}

impl Told {
    fn last(&self) -> &Step {
        self.steps.last().unwrap()
    }
}

const RESPONDER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 249);

/// Plays conversations out of the client, all at once, and returns what conntrack has of each right after it.
fn play(lab: &Lab, conversations: &mut [(Conversation, Packets)]) -> Vec<Entry> {
    let frames: Vec<_> = conversations
        .iter_mut()
        .flat_map(|(conversation, packets)| {
            packets.iter().map(|(from, packet)| conversation.frame(*from, *packet))
        })
        .collect();
    let budget = Budget::new(Duration::from_secs(20), &Stop::new());
    let bytes = frames.iter().map(Vec::as_slice);
    inject::frames(lab.client(), CLIENT_INTERFACE, bytes, Duration::ZERO, &budget).unwrap();
    conntrack::entries(lab.server())
}

/// The row of linnet with this host at one of its ends. A connection that opens the tuple of a closed one anew is another
/// row, as it is another entry of conntrack, which has forgotten the one before.
fn row(flows: &[Value], host: Ipv4Addr) -> &Value {
    let host = host.to_string();
    let has =
        |flow: &&Value| ["originator", "responder"].iter().any(|end| flow[end]["address"] == host);
    let is_live = |flow: &&Value| flow["ended"].is_null();
    let rows: Vec<_> = flows.iter().filter(has).filter(is_live).collect();
    assert_eq!(rows.len(), 1, "rows of {host}: {rows:?}");
    rows[0]
}

/// State, originator and timeout of linnet's row are conntrack's, which was read `elapsed_ns` after the first packet:
/// its timeouts run, and it prints whole seconds.
fn assert_agrees(what: &str, entry: &Entry, row: &Value, elapsed_ns: u64) {
    assert_eq!(row["state"], entry.state, "{what}: state, of {row}");
    let originator = row["originator"]["address"].as_str().unwrap();
    assert_eq!(originator, entry.original.0.to_string(), "{what}: originator");
    let timeout = row["timeout_ns"].as_u64().unwrap() / SECOND_NS;
    let least = timeout.saturating_sub(1 + elapsed_ns.div_ceil(SECOND_NS));
    assert!(
        (least..=timeout).contains(&entry.remaining),
        "{what}: linnet says {timeout} s, conntrack {} s",
        entry.remaining
    );
}

#[test]
fn forged_conversations_have_conntracks_states_originators_and_timeouts() {
    if !can_run("conntrack and forged frames") {
        return;
    }
    let lab = Lab::build(Plan::direct("forged")).unwrap();
    conntrack::one_armed_router(lab.server());
    let interface = format!("{}/{SERVER_INTERFACE}", lab.server().name());
    let linnet = Linnet::watch("forged", &[format!("{interface},egress=off")]);
    // A flow for each packet of each story, which has seen the story up to it.
    let told: Vec<_> = stories()
        .into_iter()
        .flat_map(|story| (1..=story.len()).map(move |count| story[..count].to_vec()))
        .filter(|steps| steps.last().unwrap().2 != DIFFERS)
        .zip(100..)
        .map(|(steps, host)| Told { host: Ipv4Addr::new(10, 77, 0, host), steps })
        .collect();
    let mut conversations: Vec<_> = told
        .iter()
        .map(|told| {
            let packets = told.steps.iter().map(|(from, packet, ..)| (*from, *packet)).collect();
            (Conversation::new(told.host, RESPONDER), packets)
        })
        .collect();
    let begun_ns = lab::clock::monotonic_ns();
    let entries = play(&lab, &mut conversations);
    let elapsed_ns = lab::clock::monotonic_ns() - begun_ns;
    let flows = linnet.flows(&interface);
    let mut states = std::collections::BTreeSet::new();
    for told in &told {
        let (_, _, state, timeout) = told.last();
        let what = format!("{:?}", told.steps);
        let mut found = entries.iter().filter(|entry| {
            let protocol = told.last().1.protocol();
            [entry.original.0, entry.original.1].contains(&told.host) && entry.protocol == protocol
        });
        let entry = found.next().unwrap_or_else(|| panic!("{what}: conntrack has no entry"));
        assert_eq!(entry.state, *state, "{what}: conntrack's state");
        assert_agrees(&what, entry, row(&flows, told.host), elapsed_ns);
        assert_eq!(row(&flows, told.host)["timeout_ns"], timeout * SECOND_NS, "{what}");
        states.insert((told.last().1.protocol(), *state, *timeout));
    }
    println!("{} flows in {} ms: {states:?}", told.len(), elapsed_ns / 1_000_000);
}

#[test]
fn what_conntrack_has_no_entry_for_is_what_the_documentation_says() {
    if !can_run("conntrack and what it calls invalid") {
        return;
    }
    let lab = Lab::build(Plan::direct("invalid")).unwrap();
    conntrack::one_armed_router(lab.server());
    let interface = format!("{}/{SERVER_INTERFACE}", lab.server().name());
    let linnet = Linnet::watch("invalid", &[format!("{interface},egress=off")]);
    let cases: [Case; 12] = [
        (&[(B, Tcp(SYN | ACK, 0))], "SYN_RECV", A),
        (&[(A, Tcp(FIN | ACK, 0))], "FIN_WAIT", A),
        (&[(A, Tcp(RST, 0))], "CLOSE", A),
        (&[(A, Tcp(FIN, 0))], "NONE", A),
        (&[(A, Tcp(SYN | FIN, 0))], "NONE", A),
        (&[(A, Tcp(SYN, 0)), (B, Tcp(RST | ACK, 0))], "CLOSE", A),
        (&[(B, DATA), (A, DATA)], "ESTABLISHED", B),
        (&[(A, ABORT)], "CLOSED", A),
        (&[(B, COOKIE_ACK)], "ESTABLISHED", A),
        (&[(B, INIT_ACK)], "COOKIE_WAIT", A),
        (&[(A, COOKIE_ECHO)], "COOKIE_ECHOED", A),
        (&[(B, SHUTDOWN)], "SHUTDOWN_SENT", B),
    ];
    let host = |index: usize| Ipv4Addr::new(10, 77, 0, 100 + index as u8);
    let mut conversations: Vec<_> = cases
        .iter()
        .enumerate()
        .map(|(index, (packets, ..))| (Conversation::new(host(index), RESPONDER), packets.to_vec()))
        .collect();
    assert_eq!(play(&lab, &mut conversations), []);
    let flows = linnet.flows(&interface);
    for (index, (packets, state, originator)) in cases.iter().enumerate() {
        let row = row(&flows, host(index));
        let originator = if *originator == A { host(index) } else { RESPONDER };
        assert_eq!(row["state"], *state, "{packets:?}");
        assert_eq!(row["originator"]["address"], originator.to_string(), "{packets:?}");
    }
}

#[test]
fn sockets_have_conntracks_states_and_timeouts() {
    if !can_run("conntrack and sockets") {
        return;
    }
    let lab = Lab::build(Plan::direct("sockets")).unwrap();
    conntrack::track(lab.server(), "input");
    let interface = format!("{}/{SERVER_INTERFACE}", lab.server().name());
    let linnet = Linnet::watch("sockets", std::slice::from_ref(&interface));

    // UDP first: what makes it a stream is its age.
    let at = lab.server_socket(Family::V4, 6_501);
    let server = lab.server().run(|| UdpSocket::bind(at)).unwrap().unwrap();
    let from = (lab.client_address(Family::V4), 0);
    let client = || lab.client().run(|| UdpSocket::bind(from)).unwrap().unwrap();
    let [silent, answered, stream] = [client(), client(), client()];
    let ask = |socket: &UdpSocket, answer: bool| {
        socket.send_to(b"question", at).unwrap();
        let (_, who) = server.recv_from(&mut [0; 64]).unwrap();
        if answer {
            server.send_to(b"answer", who).unwrap();
            socket.recv(&mut [0; 64]).unwrap();
        }
    };
    ask(&stream, true);
    let begun_ns = lab::clock::monotonic_ns();
    wait_for("a stream's age", || {
        (lab::clock::monotonic_ns() > begun_ns + 2 * SECOND_NS + SECOND_NS / 10).then_some(())
    });
    let begun_ns = lab::clock::monotonic_ns();
    let pairs: Vec<Pair> = (0..5).map(|index| Pair::open(&lab, 6_510 + index)).collect();
    let [open, half_closed, unread, closed, reset] = <[Pair; 5]>::try_from(pairs).unwrap();
    ask(&stream, true);
    ask(&answered, true);
    ask(&silent, false);
    half_closed.client.shutdown(Shutdown::Write).unwrap();
    let Pair { client, mut server } = closed;
    drop(client);
    assert_eq!(std::io::Read::read(&mut server, &mut [0; 8]).unwrap(), 0);
    drop(server);
    let linger = libc::linger { l_onoff: 1, l_linger: 0 };
    setsockopt(&reset.client, sockopt::Linger, &linger).unwrap();
    drop(reset.client);
    // Data that nobody has read is acknowledged all the same.
    std::io::Write::write_all(&mut &unread.client, b"unread").unwrap();

    let mut entries = entries_between(&lab);
    wait_for("the connections to come to rest", || {
        let next = entries_between(&lab);
        let strip = |entries: &[(u64, Entry)]| -> Vec<_> {
            entries.iter().map(|(port, entry)| (*port, entry.state.clone())).collect()
        };
        let rests = strip(&next) == strip(&entries) && next.len() == 8;
        entries = next;
        rests.then_some(())
    });
    let elapsed_ns = lab::clock::monotonic_ns() - begun_ns;
    let flows = linnet.flows(&interface);
    for (port, entry) in &entries {
        let row = flows.iter().find(|flow| flow["originator"]["port"] == *port).unwrap();
        println!("{port}: {entry:?}");
        assert_agrees(&port.to_string(), entry, row, elapsed_ns);
    }
    let found = |state: &str, least: u64| {
        entries.iter().any(|(_, entry)| entry.state == state && entry.remaining >= least)
    };
    for (state, least) in [
        ("ESTABLISHED", 3_000),
        ("CLOSE_WAIT", 50),
        ("TIME_WAIT", 110),
        ("CLOSE", 7),
        ("UNREPLIED", 25),
        ("REPLIED", 25),
        ("REPLIED", 110),
    ] {
        assert!(found(state, least), "{state} of at least {least} s: {entries:?}");
    }
    drop((open, half_closed.server, unread.server, reset.server));
}

/// What conntrack has between the lab's ends, with the client's port.
fn entries_between(lab: &Lab) -> Vec<(u64, Entry)> {
    let mut entries: Vec<_> = conntrack::with_ports(lab.server());
    entries.retain(|(_, entry)| entry.original.0 == Ipv4Addr::new(10, 77, 0, 1));
    entries.sort_by_key(|(port, entry)| (*port, entry.protocol));
    entries
}

#[test]
fn default_timeouts_are_the_kernels_settings() {
    if !support::root("the kernel's timeouts") {
        return;
    }
    let lab = Lab::build(Plan::direct("timeouts")).unwrap();
    let mut timeouts = Timeouts::default();
    let mut compared = 0;
    for key in Timeouts::KEYS {
        let ours = *timeouts.get_mut(key).unwrap();
        let setting = match *key {
            "udp_stream" => "udp_timeout_stream".to_owned(),
            "gre_stream" => "gre_timeout_stream".to_owned(),
            key => match key.split_once('_') {
                Some((protocol, state)) => format!("{protocol}_timeout_{state}"),
                None => format!("{key}_timeout"),
            },
        };
        let path = format!("/proc/sys/net/netfilter/nf_conntrack_{setting}");
        let text = lab.server().run(|| fs::read_to_string(&path)).unwrap();
        let theirs: u32 =
            text.unwrap_or_else(|error| panic!("{path}: {error}")).trim().parse().unwrap();
        if *key == "tcp_established" {
            assert_eq!((ours, theirs), (3_600, 432_000), "an hour instead of five days");
            continue;
        }
        assert_eq!(ours, theirs, "{key}: {path}");
        compared += 1;
    }
    assert_eq!(compared, Timeouts::KEYS.len() - 1);
}
