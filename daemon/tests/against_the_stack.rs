//! linnet's rows against what the kernel's own stack knows of the same connections: conntrack's states and counters,
//! and `ss` at both ends. Must never take a figure from linnet as the truth.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test fails by panicking")]

mod support;

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{Shutdown, TcpStream, UdpSocket},
    thread,
    time::Duration,
};

use lab::{
    CLIENT_INTERFACE, Family, Lab, Loss, Namespace, Plan, SERVER_INTERFACE,
    capture::Tcpdump,
    traffic::ping::{self, Ping},
};
use nix::sys::socket::{setsockopt, sockopt};
use serde_json::Value;
use support::{linnet::Linnet, pair::Pair, tshark, wait_for};

/// Ethernet's header, which conntrack does not count.
const ETHERNET_BYTES: u64 = 14;

fn can_run(what: &str, tools: &[&str]) -> bool {
    support::kernel(what) && tools.iter().all(|tool| lab::require_tool(tool, what))
}

/// One direction of a tracked connection.
type Way = (u64, u64);

/// A line of `conntrack -L -o extended`.
#[derive(Debug, PartialEq, Eq)]
struct Tracked {
    protocol: String,
    /// The originator's port, or the identifier of an echo.
    port: u64,
    state: String,
    original: Way,
    reply: Way,
}

impl Tracked {
    /// From `ipv4 2 tcp 6 299 ESTABLISHED src=.. dst=.. sport=.. dport=.. packets=.. bytes=.. src=.. ..`.
    fn parse(line: &str) -> Self {
        let words: Vec<_> = line.split_whitespace().collect();
        let values = |name: &str| {
            let value = |word: &&str| word.strip_prefix(name)?.strip_prefix('=')?.parse().ok();
            words.iter().filter_map(value).collect::<Vec<u64>>()
        };
        let protocol = words[2].to_owned();
        let port = [values("sport"), values("id")].concat()[0];
        let state = match protocol.as_str() {
            "tcp" => words[5].to_owned(),
            _ if words.contains(&"[UNREPLIED]") => "UNREPLIED".to_owned(),
            _ => "REPLIED".to_owned(),
        };
        let (packets, bytes) = (values("packets"), values("bytes"));
        let (original, reply) = ((packets[0], bytes[0]), (packets[1], bytes[1]));
        Self { protocol, port, state, original, reply }
    }

    /// The row of linnet in conntrack's terms.
    fn of(flow: &Value) -> Self {
        let way = |half: &str| {
            let figure = |name: &str| flow[half][name].as_u64().unwrap();
            (figure("packets"), figure("bytes") - ETHERNET_BYTES * figure("packets"))
        };
        let identifier = flow["icmp"]["identifier"].as_u64();
        Self {
            protocol: flow["protocol"].as_str().unwrap().to_owned(),
            port: identifier.unwrap_or_else(|| flow["originator"]["port"].as_u64().unwrap()),
            state: flow["state"].as_str().unwrap().to_owned(),
            original: way("from_originator"),
            reply: way("from_responder"),
        }
    }
}

/// Turns connection tracking with counters on. The lab's router has no IP stack, so this is for an end.
fn track(namespace: &Namespace) {
    let accounting = "/proc/sys/net/netfilter/nf_conntrack_acct";
    namespace.run(|| fs::write(accounting, "1")).unwrap().unwrap();
    let rules = "table inet watch { chain in { type filter hook input priority 0; ct state invalid counter; }; }";
    let mut nft = namespace.command("nft");
    assert!(nft.arg(rules).status().unwrap().success());
}

/// What conntrack has between the lab's two ends.
fn tracked(namespace: &Namespace) -> Vec<Tracked> {
    let mut conntrack = namespace.command("conntrack");
    let output = conntrack.args(["-L", "-o", "extended", "-f", "ipv4"]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines()
        .filter(|line| line.contains("src=10.77.0.1 dst=10.77.0.2"))
        .map(Tracked::parse)
        .collect()
}

#[test]
fn rows_have_the_states_and_counters_of_conntrack() {
    if !can_run("conntrack in a lab", &["conntrack", "nft", "curl", "ping"]) {
        return;
    }
    let lab = Lab::build(Plan::new("conntrack")).unwrap();
    track(lab.server());
    let spec = format!("{}/{SERVER_INTERFACE}", lab.server().name());
    let linnet = Linnet::watch("conntrack", std::slice::from_ref(&spec));

    let mut pairs: Vec<Pair> = (0..6).map(|index| Pair::open(&lab, 6_200 + index)).collect();
    for pair in &mut pairs[1..] {
        // Messages of one segment: conntrack counts a super-packet once.
        pair.exchange(4, 500);
    }
    let [silent, open, client_finished, server_finished, closed, reset] =
        <[Pair; 6]>::try_from(pairs).unwrap();
    client_finished.client.shutdown(Shutdown::Write).unwrap();
    server_finished.server.shutdown(Shutdown::Write).unwrap();
    let Pair { client, mut server } = closed;
    drop(client);
    assert_eq!(server.read(&mut [0; 8]).unwrap(), 0);
    drop(server);
    let linger = libc::linger { l_onoff: 1, l_linger: 0 };
    setsockopt(&reset.client, sockopt::Linger, &linger).unwrap();
    drop(reset.client);
    let datagrams = datagrams(&lab);
    let interval = Duration::from_millis(20);
    ping::run(&lab, &Ping { count: 3, interval, ..Ping::default() }).unwrap();

    let sorted = |mut rows: Vec<Tracked>| {
        rows.sort_by_key(|row| (row.protocol.clone(), row.port));
        rows
    };
    let mut theirs = sorted(tracked(lab.server()));
    // The last acknowledgments are still on their way.
    wait_for("the connections to come to rest", || {
        let next = sorted(tracked(lab.server()));
        let rests = next == theirs && next.len() == 9;
        theirs = next;
        rests.then_some(())
    });
    let ipv4 = |flow: &Value| flow["originator"]["address"] == "10.77.0.1";
    let ours =
        sorted(linnet.flows(&spec).iter().filter(|flow| ipv4(flow)).map(Tracked::of).collect());
    for (ours, theirs) in ours.iter().zip(&theirs) {
        println!("{theirs:?}");
        assert_eq!(ours, theirs, "linnet's row and conntrack's");
    }
    assert_eq!(ours.len(), theirs.len());
    let states: Vec<_> = theirs.iter().map(|row| row.state.as_str()).collect();
    for state in ["ESTABLISHED", "CLOSE_WAIT", "TIME_WAIT", "CLOSE", "UNREPLIED", "REPLIED"] {
        assert!(states.contains(&state), "the mix has {state}: {states:?}");
    }

    // A refusal, which conntrack forgets at once.
    let nobody = lab.server_socket(Family::V4, 6_299);
    let refused = lab.client().run(|| TcpStream::connect_timeout(&nobody, Duration::from_secs(5)));
    assert!(refused.unwrap().is_err());
    let flows = linnet.flows(&spec);
    let refused = flows.iter().find(|flow| flow["responder"]["port"] == 6_299).unwrap();
    let Tracked { state, original: (asked, _), reply: (answered, _), .. } = Tracked::of(refused);
    assert_eq!((state.as_str(), asked, answered), ("CLOSE", 1, 1));
    drop((silent, open, client_finished, server_finished, reset.server, datagrams));
}

/// A question with an answer, and a question without.
fn datagrams(lab: &Lab) -> [UdpSocket; 3] {
    let at = lab.server_socket(Family::V4, 6_201);
    let server = lab.server().run(|| UdpSocket::bind(at)).unwrap().unwrap();
    let from = (lab.client_address(Family::V4), 0);
    let client = || lab.client().run(|| UdpSocket::bind(from)).unwrap().unwrap();
    let [answered, unanswered] = [client(), client()];
    for socket in [&answered, &unanswered] {
        socket.send_to(b"question", at).unwrap();
        let (length, who) = server.recv_from(&mut [0; 64]).unwrap();
        if who == answered.local_addr().unwrap() {
            server.send_to(&vec![1; length], who).unwrap();
            answered.recv(&mut [0; 64]).unwrap();
        }
    }
    [answered, unanswered, server]
}

/// The figures of a connection's end that `ss -ti` prints as `name:value`.
struct Ss(String);

impl Ss {
    fn of(namespace: &Namespace, port: u16) -> Self {
        let only = format!("sport = :{port} or dport = :{port}");
        let output = namespace.command("ss").args(["-tinHO", &only]).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert_eq!(text.lines().count(), 1, "{text}");
        Self(text)
    }

    /// 0 where it prints none.
    fn figure(&self, name: &str) -> u64 {
        let value = |word: &str| word.strip_prefix(name)?.strip_prefix(':').map(ToOwned::to_owned);
        let value = self.0.split_whitespace().find_map(value).unwrap_or_else(|| "0".to_owned());
        // `retrans:1/17` is what is out, and all there ever were.
        value.rsplit('/').next().unwrap().parse().unwrap()
    }
}

#[test]
fn rows_have_the_bytes_segments_and_retransmissions_of_ss() {
    if !can_run("ss in a lab", &["ss", "curl"]) {
        return;
    }
    support::uncontended("ss", ss_in_one_run);
}

fn ss_in_one_run() -> bool {
    let plan =
        Plan::new("ss").with_rtt(Duration::from_millis(10)).with_loss(Loss::EveryNthData(30));
    let lab = Lab::build(plan).unwrap();
    let ends = [(lab.client(), CLIENT_INTERFACE), (lab.server(), SERVER_INTERFACE)]
        .map(|(namespace, interface)| (namespace, format!("{}/{interface}", namespace.name())));
    let linnet = Linnet::watch("ss", &ends.clone().map(|(_, spec)| spec));
    let mut pair = Pair::open(&lab, 6_300);
    let port = pair.client_port();
    transfer(&mut pair.client, &mut pair.server, 400_000);
    transfer(&mut pair.server, &mut pair.client, 250_000);

    // Nothing is in flight any more once both ends have seen everything acknowledged.
    wait_for("the last acknowledgment", || {
        let unacknowledged = |(namespace, _): &(&Namespace, String)| {
            let end = Ss::of(namespace, port);
            end.figure("bytes_sent") - end.figure("bytes_retrans") + 1 - end.figure("bytes_acked")
        };
        ends.iter().all(|end| unacknowledged(end) <= 1).then_some(())
    });
    for ((namespace, spec), half) in ends.iter().zip(["from_originator", "from_responder"]) {
        let flows = linnet.flows(spec);
        let flow = flows.iter().find(|flow| flow["originator"]["port"] == port).unwrap();
        let (ss, ours) = (Ss::of(namespace, port), &flow[half]);
        let sent_again: u64 =
            ["retransmissions", "fast_retransmissions", "spurious_retransmissions", "out_of_order"]
                .iter()
                .map(|class| ours["tcp"][class].as_u64().unwrap())
                .sum();
        println!("{half}: {}", ss.0.trim());
        assert_eq!(ours["payload_bytes"], ss.figure("bytes_sent"), "{half}: bytes");
        // The kernel answers a SYN before there is a connection that could count it.
        let before = u64::from(half == "from_responder");
        assert_eq!(ours["tcp"]["segments"], ss.figure("segs_out") + before, "{half}: segments");
        assert!(ss.figure("retrans") > 0, "{half}: the lab loses data");
        if flow["contended"] == true {
            return false;
        }
        assert_eq!(sent_again, ss.figure("retrans"), "{half}: retransmissions");
    }
    true
}

#[test]
fn super_packets_are_the_segments_that_ss_counts_and_the_frames_that_tcpdump_sees() {
    if !can_run("offloads in a lab", &["ss", "curl", "tcpdump", "tshark"]) {
        return;
    }
    let lab = Lab::build(Plan::direct("offload")).unwrap();
    let (client, server) = (lab.client(), lab.server());
    let specs = [
        format!("{}/{CLIENT_INTERFACE}", client.name()),
        format!("{}/{SERVER_INTERFACE}", server.name()),
    ];
    let linnet = Linnet::watch("offload", &specs);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("client.pcap");
    let tcpdump = Tcpdump::start(client, CLIENT_INTERFACE, &file, "tcp port 6400").unwrap();
    let mut pair = Pair::open(&lab, 6_400);
    let port = pair.client_port();
    transfer(&mut pair.client, &mut pair.server, 4_000_000);
    wait_for("the last acknowledgment", || {
        (Ss::of(client, port).figure("bytes_acked") > 4_000_000).then_some(())
    });
    assert_eq!(tcpdump.stop().unwrap().dropped_by_kernel, 0);
    let frames = tshark::fields(&file, &[], &["tcp.srcport"]).concat();
    let frames = frames.iter().filter(|from| **from == port.to_string()).count() as u64;

    let sent = Ss::of(client, port);
    let received = Ss::of(server, port);
    for (spec, segments) in specs.iter().zip([sent.figure("segs_out"), received.figure("segs_in")])
    {
        let flows = linnet.flows(spec);
        let flow = flows.iter().find(|flow| flow["originator"]["port"] == port).unwrap();
        let half = &flow["from_originator"];
        let figure = |name: &str| half[name].as_u64().unwrap();
        println!("{spec}: {segments} segments by ss, {frames} frames by tcpdump: {half}");
        assert_eq!(figure("packets"), segments, "{spec}: wire packets");
        assert_eq!(figure("skbs"), frames, "{spec}: super-packets");
        assert!(figure("skbs") * 4 < figure("packets"), "{spec}: there were super-packets");
        assert_eq!(figure("payload_bytes"), sent.figure("bytes_sent"), "{spec}");
    }
}

fn transfer(from: &mut TcpStream, to: &mut TcpStream, bytes: usize) {
    let mut received = vec![0; bytes];
    thread::scope(|scope| {
        scope.spawn(|| from.write_all(&vec![7; bytes]).unwrap());
        to.read_exact(&mut received).unwrap();
    });
}
