//! Rules under traffic: switched again and again without a packet that goes uncounted, ignored traffic without a row,
//! samples of whole flows. Must never touch an interface that the lab did not make.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test fails by panicking and says what it found"
)]

mod support;

use std::{
    net::{SocketAddr, UdpSocket},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::Duration,
};

use lab::{CLIENT_INTERFACE, Family, Lab, Plan};
use serde_json::{Value, json};
use support::{linnet::Linnet, wait_for};

const RULES: &str = "/api/v1/rules";
/// Longest wait for an answer of the echo service; it is in the same machine.
const ANSWER_MAX: Duration = Duration::from_secs(5);
/// How often rules are switched under traffic.
const SWITCHES: usize = 50;

fn can_run(what: &str) -> bool {
    support::kernel(what) && ["curl", "ip"].iter().all(|tool| lab::require_tool(tool, what))
}

fn watch(lab: &Lab, name: &str) -> (Linnet, String) {
    let spec = format!("{}/{CLIENT_INTERFACE}", lab.client().name());
    (Linnet::watch(name, std::slice::from_ref(&spec)), spec)
}

/// Puts rules in force; returns their generation.
fn set(linnet: &Linnet, rules: &Value) -> u64 {
    let (status, answer) = linnet.put(RULES, &json!({ "rules": rules }));
    assert_eq!(status, 200, "{answer}");
    answer["generation"].as_u64().unwrap()
}

/// A UDP socket in the client's namespace that talks to a port of the server.
fn client(lab: &Lab, port: u16) -> UdpSocket {
    let at = lab.server_socket(Family::V4, port);
    let from = (lab.client_address(Family::V4), 0);
    let open = || UdpSocket::bind(from).and_then(|socket| socket.connect(at).map(|()| socket));
    let socket = lab.client().run(open).unwrap().unwrap();
    socket.set_read_timeout(Some(ANSWER_MAX)).unwrap();
    socket
}

/// Ports of the server that send every datagram back, until dropped.
struct Echo<'scope> {
    stop: &'scope AtomicBool,
}

impl<'scope> Echo<'scope> {
    fn start(
        scope: &'scope thread::Scope<'scope, '_>,
        lab: &Lab,
        ports: &[u16],
        stop: &'scope AtomicBool,
    ) -> Self {
        for port in ports {
            let at: SocketAddr = lab.server_socket(Family::V4, *port);
            let socket = lab.server().run(|| UdpSocket::bind(at)).unwrap().unwrap();
            socket.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
            scope.spawn(move || {
                let mut bytes = [0; 2_048];
                while !stop.load(Ordering::Relaxed) {
                    // Nothing came for a while: look whether to go on.
                    let Ok((length, from)) = socket.recv_from(&mut bytes) else { continue };
                    socket.send_to(&bytes[..length], from).unwrap();
                }
            });
        }
        Self { stop }
    }
}

impl Drop for Echo<'_> {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn exchange(socket: &UdpSocket) {
    socket.send(b"as sent").unwrap();
    let mut answer = [0; 16];
    assert_eq!(socket.recv(&mut answer).unwrap(), 7);
}

/// What the kernel counted at the client's interface: received, sent.
fn interface_counters(lab: &Lab) -> [u64; 2] {
    let mut ip = lab.client().command("ip");
    let output = ip.args(["-s", "-j", "link", "show", "dev", CLIENT_INTERFACE]).output().unwrap();
    let links: Value = serde_json::from_slice(&output.stdout).unwrap();
    ["rx", "tx"].map(|way| links[0]["stats64"][way]["packets"].as_u64().unwrap())
}

/// What linnet counted there: frames by direction, whose ledgers have to add up to them.
fn seen(linnet: &Linnet) -> Option<[u64; 2]> {
    let interface = linnet.see("/api/v1/interfaces", "interfaces")[0].take();
    let mut seen = [0; 2];
    for (seen, way) in seen.iter_mut().zip(["ingress", "egress"]) {
        *seen = interface[way]["seen"].as_u64()?;
        let ledger = interface[way]["ledger"].as_object()?;
        if ledger.values().filter_map(Value::as_u64).sum::<u64>() != *seen {
            return None;
        }
    }
    Some(seen)
}

/// Frames of the interface by outcome, both directions together.
fn ledger(linnet: &Linnet, outcome: &str) -> u64 {
    let interface = linnet.see("/api/v1/interfaces", "interfaces")[0].take();
    ["ingress", "egress"]
        .iter()
        .map(|way| interface[way]["ledger"][outcome].as_u64().unwrap())
        .sum()
}

/// Live rows of a service's port.
fn rows(linnet: &Linnet, spec: &str, port: u16) -> Vec<Value> {
    let of_port = |row: &Value| {
        [&row["originator"]["port"], &row["responder"]["port"]].contains(&&json!(port))
    };
    linnet.flows(spec).into_iter().filter(of_port).collect()
}

fn live(rows: &[Value]) -> usize {
    rows.iter().filter(|row| row["ended"].is_null()).count()
}

#[test]
fn fifty_switches_under_traffic_leave_no_packet_uncounted() {
    if !can_run("rules under traffic") {
        return;
    }
    let lab = Lab::build(Plan::direct("rules-switch")).unwrap();
    let (linnet, spec) = watch(&lab, "rules-switch");
    linnet.settle();
    // Neighbour discovery may run meanwhile.
    let offset = wait_for("counters of one moment", || {
        let (before, ours) = (interface_counters(&lab), seen(&linnet)?);
        linnet.settle();
        let same = interface_counters(&lab) == before && seen(&linnet) == Some(ours);
        same.then(|| [before[0] - ours[0], before[1] - ours[1]])
    });
    let [stop, done] = [(); 2].map(|()| AtomicBool::new(false));
    let exchanged = AtomicU64::new(0);
    thread::scope(|scope| {
        let echo = Echo::start(scope, &lab, &[9_000, 9_001], &stop);
        let sockets: Vec<_> = (0..40).map(|number| client(&lab, 9_000 + number % 2)).collect();
        let (stop, done, exchanged) = (&stop, &done, &exchanged);
        let sender = scope.spawn(move || {
            while ![stop, done].iter().any(|flag| flag.load(Ordering::Relaxed)) {
                for socket in &sockets {
                    exchange(socket);
                    exchanged.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        let many: Vec<_> = (0..1_000)
            .map(|number| {
                let network = format!("192.0.{}.{}", number / 250, number % 250);
                json!({ "action": "ignore", "network": network, "port": "1-100" })
            })
            .chain([json!({ "action": "ignore", "port": "9000" })])
            .collect();
        let lists = [
            json!([{ "action": "ignore", "port": "9000" }, { "action": "sample", "one_in": 3 }]),
            json!([]),
            json!(many),
            json!([{ "action": "ignore", "interface": spec, "direction": "ingress" }]),
        ];
        let mut times_ns = [const { Vec::new() }; 4];
        for switch in 0..SWITCHES {
            let begun_ns = lab::clock::monotonic_ns();
            let generation = set(&linnet, &lists[switch % lists.len()]);
            times_ns[switch % lists.len()].push(lab::clock::monotonic_ns() - begun_ns);
            assert_eq!(generation, switch as u64 + 1);
            let before = exchanged.load(Ordering::Relaxed);
            wait_for("some traffic", || {
                (exchanged.load(Ordering::Relaxed) > before + 80 || sender.is_finished())
                    .then_some(())
            });
        }
        for (list, times) in times_ns.iter().enumerate() {
            let most = times.iter().max().unwrap() / 1_000_000;
            println!("list {list}: at most {most} ms from request to answer");
        }
        done.store(true, Ordering::Relaxed);
        sender.join().unwrap();
        drop(echo);
    });
    let sent = exchanged.load(Ordering::Relaxed);
    assert!(sent > 4_000, "{sent} datagrams");
    wait_for("as many frames seen as the interface counted", || {
        let ours = seen(&linnet)?;
        (interface_counters(&lab) == [ours[0] + offset[0], ours[1] + offset[1]]).then_some(())
    });
    let [ignored, sampled_out, tracked] =
        ["ignored_by_rule", "sampled_out", "tracked"].map(|outcome| ledger(&linnet, outcome));
    println!("{sent} exchanges: {tracked} tracked, {ignored} ignored, {sampled_out} sampled out");
    assert!(ignored > 500 && sampled_out > 300 && tracked > 2_000);
    // Each datagram of ours and each answer is one of the three; few others are.
    let others = (tracked + ignored + sampled_out).checked_sub(2 * sent).unwrap();
    assert!(others < 200, "{others} frames of others");
    let ended: Vec<_> = rows(&linnet, &spec, 9_000);
    assert!(ended.iter().any(|row| row["ended"] == "ignored"), "{ended:#?}");
}

#[test]
fn ignored_traffic_has_no_row_and_comes_back_with_its_rule_gone() {
    if !can_run("ignored traffic") {
        return;
    }
    let lab = Lab::build(Plan::direct("rules-ignore")).unwrap();
    let (linnet, spec) = watch(&lab, "rules-ignore");
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let _echo = Echo::start(scope, &lab, &[9_000, 9_001], &stop);
        let (old, kept) = (client(&lab, 9_000), client(&lab, 9_001));
        let talk = |socket: &UdpSocket| (0..5).for_each(|_| exchange(socket));
        [&old, &kept].into_iter().for_each(talk);
        assert_eq!(live(&rows(&linnet, &spec, 9_000)), 1);
        set(&linnet, &json!([{ "action": "ignore", "port": "9000", "protocol": "udp" }]));
        let new = client(&lab, 9_000);
        [&old, &kept, &new].into_iter().for_each(talk);
        let ignored = rows(&linnet, &spec, 9_000);
        assert_eq!((live(&ignored), ignored.len()), (0, 1), "{ignored:#?}");
        assert_eq!(ignored[0]["ended"], "ignored");
        assert_eq!(ignored[0]["from_originator"]["packets"], 5, "as of before the rule");
        assert_eq!(ledger(&linnet, "ignored_by_rule"), 20);
        let kept_rows = rows(&linnet, &spec, 9_001);
        assert_eq!((kept_rows.len(), &kept_rows[0]["from_originator"]["packets"]), (1, &json!(10)));
        set(&linnet, &json!([]));
        [&old, &new].into_iter().for_each(talk);
        assert_eq!(live(&rows(&linnet, &spec, 9_000)), 2);
        assert_eq!(ledger(&linnet, "ignored_by_rule"), 20);
    });
}

#[test]
fn a_sample_is_about_its_share_of_whole_flows() {
    if !can_run("sampled traffic") {
        return;
    }
    const FLOWS: usize = 400;
    let lab = Lab::build(Plan::direct("rules-sample")).unwrap();
    let (linnet, spec) = watch(&lab, "rules-sample");
    let elsewhere = json!({ "action": "ignore", "interface": "nowhere" });
    let (status, problem) = linnet.put(RULES, &json!({ "rules": [elsewhere] }));
    assert_eq!((status, &problem["parameter"]), (422, &json!("rules[0].interface")), "{problem}");
    assert!(problem["detail"].as_str().unwrap().contains(&format!("watched are `{spec}`")));
    set(&linnet, &json!([{ "action": "sample", "one_in": 4, "port": "9000", "interface": spec }]));
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let _echo = Echo::start(scope, &lab, &[9_000], &stop);
        let sockets: Vec<_> = (0..FLOWS).map(|_| client(&lab, 9_000)).collect();
        for _ in 0..3 {
            sockets.iter().for_each(exchange);
        }
    });
    let kept = rows(&linnet, &spec, 9_000);
    // 100 are expected, with a standard deviation of 9.
    assert!((60..140).contains(&kept.len()), "{} of {FLOWS} flows", kept.len());
    for row in &kept {
        for side in ["from_originator", "from_responder"] {
            assert_eq!(row[side]["packets"], 3, "{row}");
        }
    }
    assert_eq!(ledger(&linnet, "sampled_out"), 6 * (FLOWS - kept.len()) as u64);
    println!("one in 4 of {FLOWS} flows kept {}", kept.len());
}
