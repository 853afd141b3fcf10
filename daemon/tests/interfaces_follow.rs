//! Interfaces that come, go, change their names and move, again and again and under traffic: linnet is attached within
//! a second, its sums balance, and nothing is left behind. Must never touch an interface that the test did not make.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test fails by panicking and says what it measured"
)]

mod support;

use std::{
    fs,
    net::UdpSocket,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use lab::{Lab, Namespace, Plan};
use serde_json::{Value, json};
use support::{held::Held, linnet::Linnet, wait_for};

/// How soon linnet has to be attached to an interface that has come.
const ATTACHED_MAX_MS: u64 = 1_000;
/// The ends of the pair that comes and goes, and the address of linnet's.
const OURS: &str = "flap0";
const PEER: &str = "flapper0";
const ADDRESS: &str = "10.88.0.1";
const MAC: &str = "02:00:00:00:88:01";
/// Frames that have to be seen in each round.
const FRAMES: u64 = 50;

/// One test at a time: what is measured is how soon linnet is there, and not how busy the machine is.
static ALONE: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn can_run(what: &str) -> bool {
    let tools = ["ip", "tc", "bpftool", "curl"];
    support::kernel(what) && tools.iter().all(|tool| lab::require_tool(tool, what))
}

fn rounds() -> usize {
    if support::full() { 100 } else { 10 }
}

fn ip(namespace: &Namespace, args: &str) {
    let output = namespace.command("ip").args(args.split(' ')).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {args}: {error}");
}

/// A pair between the lab's two ends: ours in the client, the peer in the server.
fn make(lab: &Lab, name: &str) {
    let server = lab.server().name();
    let pair = format!("link add {name} address {MAC} type veth peer name {PEER} netns {server}");
    ip(lab.client(), &pair);
    ip(lab.server(), &format!("addr add 10.88.0.2/24 dev {PEER}"));
    ip(lab.server(), &format!("link set {PEER} up"));
    // Traffic need not wait for an answer of an interface that is only coming.
    ip(lab.server(), &format!("neigh replace {ADDRESS} lladdr {MAC} dev {PEER} nud permanent"));
    address(lab, name);
}

fn address(lab: &Lab, name: &str) {
    ip(lab.client(), &format!("addr replace {ADDRESS}/24 dev {name}"));
    ip(lab.client(), &format!("link set {name} up"));
}

/// Datagrams from the peer to ours, until dropped; what cannot be sent for want of an interface is not.
struct Traffic<'scope> {
    stop: &'scope AtomicBool,
}

impl<'scope> Traffic<'scope> {
    fn start<'env>(
        scope: &'scope thread::Scope<'scope, 'env>,
        lab: &'env Lab,
        (stop, sent): (&'scope AtomicBool, &'scope AtomicU64),
    ) -> Self {
        let socket = lab.server().run(|| UdpSocket::bind("0.0.0.0:0")).unwrap().unwrap();
        scope.spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                if socket.send_to(b"as sent", (ADDRESS, 9)).is_ok() {
                    sent.fetch_add(1, Ordering::Relaxed);
                }
                // A pace, and no wait for anything.
                thread::sleep(Duration::from_millis(1));
            }
        });
        Self { stop }
    }
}

impl Drop for Traffic<'_> {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// On how many hooks of an interface linnet is, by the kernel's account of its links and tc's of its filters.
fn hooks(linnet: &Linnet, namespace: &Namespace, interface: &str) -> usize {
    let look = || nix::net::if_::if_nametoindex(interface).unwrap();
    let index = u64::from(namespace.run(look).unwrap());
    let links = Held::by(linnet.pid()).interfaces.values().filter(|it| **it == index).count();
    if links >= 2 {
        return links;
    }
    let filters = ["ingress", "egress"].map(|way| {
        let show = ["filter", "show", "dev", interface, way];
        let output = namespace.command("tc").args(show).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        text.lines().filter(|line| line.contains("linnet_")).count()
    });
    links + filters.iter().sum::<usize>()
}

/// Waits until linnet is on both hooks; how many milliseconds that took since `begun_ns`.
fn attached(linnet: &Linnet, namespace: &Namespace, interface: &str, begun_ns: u64) -> u64 {
    // Four while a capture runs.
    let on_both = || (hooks(linnet, namespace, interface) >= 2).then_some(());
    wait_for("linnet on both hooks", on_both);
    let took_ms = (lab::clock::monotonic_ns() - begun_ns) / 1_000_000;
    assert!(took_ms < ATTACHED_MAX_MS, "attached only after {took_ms} ms");
    took_ms
}

fn row(linnet: &Linnet, name: &str) -> Option<Value> {
    let rows = linnet.see("/api/v1/interfaces", "interfaces");
    let found = rows.as_array().into_iter().flatten().filter(|row| row["name"] == name);
    let found: Vec<_> = found.cloned().collect();
    assert!(found.len() < 2, "{name} is listed once: {rows}");
    found.into_iter().next()
}

/// Everything that could leak, by number.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Kept {
    programs: usize,
    links: usize,
    maps: usize,
    descriptors: usize,
    pins: usize,
    points: usize,
    series: usize,
}

impl Kept {
    fn of(linnet: &Linnet) -> Self {
        let held = Held::by(linnet.pid());
        let (status, metrics) = linnet.get("/metrics");
        assert_eq!(status, 200);
        let rows = linnet.see("/api/v1/interfaces", "interfaces");
        let is_live = |row: &&Value| row["state"] == "attached";
        Self {
            programs: held.programs.len(),
            links: held.links.len(),
            maps: held.maps.len(),
            descriptors: fs::read_dir(format!("/proc/{}/fd", linnet.pid())).unwrap().count(),
            pins: files(linnet.pins()),
            points: rows.as_array().unwrap().iter().filter(is_live).count(),
            series: metrics
                .as_str()
                .unwrap()
                .lines()
                .filter(|line| line.contains("{interface="))
                .count(),
        }
    }

    fn assert_same(&self, what: &str, linnet: &Linnet) {
        let mut last = None;
        // Connections to the API come and go.
        wait_for(&format!("{what}: as much as before: {self:?}"), || {
            let now = Self::of(linnet);
            let same = now == *self;
            if !same && last.as_ref() != Some(&now) {
                println!("{what}: {now:?}");
            }
            last = Some(now);
            same.then_some(())
        });
        println!("{what}: {self:?}");
    }
}

fn files(folder: &std::path::Path) -> usize {
    let entries = fs::read_dir(folder).unwrap().flatten();
    entries.map(|entry| if entry.path().is_dir() { 1 + files(&entry.path()) } else { 1 }).sum()
}

fn assert_balanced(linnet: &Linnet) -> u64 {
    let loss = linnet.see("/api/v1/flows", "loss");
    let sum: u64 = loss["ledger"].as_object().unwrap().values().filter_map(Value::as_u64).sum();
    let seen = loss["seen"].as_u64().unwrap();
    assert!(seen.abs_diff(sum) <= 2, "{loss}");
    seen
}

/// Does `change` again and again under traffic; it returns the milliseconds until linnet was attached again.
fn again_and_again(
    name: &str,
    request: &str,
    own_namespace: bool,
    mut change: impl FnMut(&Lab, &Linnet) -> u64,
) {
    let _alone = alone();
    let lab = Lab::build(Plan::direct(name)).unwrap();
    make(&lab, OURS);
    let (stop, sent) = (AtomicBool::new(false), AtomicU64::new(0));
    let in_client = format!("{}/{request}", lab.client().name());
    let linnet = if own_namespace {
        lab.client().run(|| Linnet::watch(name, &[request.to_owned()])).unwrap()
    } else {
        Linnet::watch(name, &[in_client])
    };
    attached(&linnet, lab.client(), OURS, lab::clock::monotonic_ns());
    thread::scope(|scope| {
        let traffic = Traffic::start(scope, &lab, (&stop, &sent));
        let (mut times_ms, mut seen, mut kept) = (Vec::new(), 0, None);
        for round in 0..rounds() {
            times_ms.push(change(&lab, &linnet));
            seen = wait_for("traffic", || {
                let now = assert_balanced(&linnet);
                assert!(now >= seen, "round {round}: {now} frames after {seen}");
                (now >= seen + FRAMES).then_some(now)
            });
            if round == 0 {
                kept = Some(Kept::of(&linnet));
            }
        }
        drop(traffic);
        kept.unwrap().assert_same(name, &linnet);
        times_ms.sort_unstable();
        let (median, most) = (times_ms[times_ms.len() / 2], times_ms[times_ms.len() - 1]);
        println!(
            "{name}: {} rounds, {} datagrams, {seen} frames seen; attached after {median} ms (median), {most} ms (most)",
            times_ms.len(),
            sent.load(Ordering::Relaxed)
        );
    });
    assert_eq!(linnet.notices(), [""; 0]);
    let held = Held::by(linnet.pid());
    assert!(linnet.stop().success());
    wait_for("programs and links to go", || held.is_gone().then_some(()));
}

fn recreate(lab: &Lab, linnet: &Linnet) -> u64 {
    ip(lab.client(), &format!("link del {OURS}"));
    make(lab, OURS);
    attached(linnet, lab.client(), OURS, lab::clock::monotonic_ns())
}

#[test]
fn an_interface_that_is_made_again_is_watched_again() {
    if !can_run("an interface that is made again") {
        return;
    }
    let mut points = Vec::new();
    again_and_again("again", OURS, true, |lab, linnet| {
        let took_ms = recreate(lab, linnet);
        linnet.settle();
        points.push(row(linnet, OURS).unwrap()["point"].as_u64().unwrap());
        let removed = |flow: &Value| flow["ended"] == "interface_removed";
        let rows = linnet.flows(OURS);
        assert!(rows.iter().all(|flow| flow["interface"] == OURS), "{rows:#?}");
        assert!(rows.iter().any(removed) || points.len() == 1, "{rows:#?}");
        took_ms
    });
    points.dedup();
    assert_eq!(points.len(), rounds(), "each has a point of its own: {points:?}");
}

#[test]
fn an_interface_that_is_made_again_in_a_named_namespace_is_watched_again() {
    if !can_run("an interface of a named namespace") {
        return;
    }
    again_and_again("again-named", &format!("{OURS},ingress=clsact,egress=tcx"), false, recreate);
}

#[test]
fn an_interface_that_goes_down_and_up_stays_watched() {
    if !can_run("an interface that flaps") {
        return;
    }
    let mut before = None;
    again_and_again("flap", OURS, true, |lab, linnet| {
        for state in ["down", "up"] {
            ip(lab.client(), &format!("link set {OURS} {state}"));
        }
        let took_ms = attached(linnet, lab.client(), OURS, lab::clock::monotonic_ns());
        let row = row(linnet, OURS).unwrap();
        let held = Held::by(linnet.pid());
        let now = (row["point"].clone(), row["ingress"]["program_id"].clone(), held.links);
        assert_eq!(before.get_or_insert_with(|| now.clone()), &now, "nothing was attached anew");
        took_ms
    });
}

#[test]
fn a_name_is_followed_from_one_interface_to_the_next() {
    if !can_run("a name that is given up and taken again") {
        return;
    }
    again_and_again("rename", OURS, false, |lab, linnet| {
        ip(lab.client(), &format!("link set {OURS} name away0"));
        wait_for("linnet off the hooks", || {
            (hooks(linnet, lab.client(), "away0") == 0).then_some(())
        });
        ip(lab.client(), &format!("link set away0 name {OURS}"));
        attached(linnet, lab.client(), OURS, lab::clock::monotonic_ns())
    });
}

#[test]
fn an_interface_keeps_its_point_under_another_name_of_the_pattern() {
    if !can_run("an interface with another name") {
        return;
    }
    let mut before = None;
    again_and_again("pattern", "flap*", true, |lab, linnet| {
        let point = |row: Value| (row["point"].clone(), row["ifindex"].clone());
        let first = wait_for("the row by its first name", || row(linnet, OURS));
        let now = point(first);
        ip(lab.client(), &format!("link set {OURS} name flap7"));
        let second = wait_for("the row by its second name", || row(linnet, "flap7"));
        assert_eq!(point(second), now);
        assert_eq!(before.get_or_insert_with(|| now.clone()), &now, "one point for all names");
        assert!(linnet.flows("flap7").iter().all(|flow| flow["interface"] == "flap7"));
        ip(lab.client(), &format!("link set flap7 name {OURS}"));
        attached(linnet, lab.client(), OURS, lab::clock::monotonic_ns())
    });
}

#[test]
fn an_interface_that_moves_to_another_namespace_is_watched_when_it_is_back() {
    if !can_run("an interface that moves") {
        return;
    }
    again_and_again("move", &format!("{OURS},ingress=tcx,egress=clsact"), false, |lab, linnet| {
        let (client, server) = (lab.client().name(), lab.server().name());
        ip(lab.client(), &format!("link set {OURS} netns {server}"));
        wait_for("linnet off the hooks", || (hooks(linnet, lab.server(), OURS) == 0).then_some(()));
        ip(lab.server(), &format!("link set {OURS} netns {client}"));
        let begun_ns = lab::clock::monotonic_ns();
        address(lab, OURS);
        attached(linnet, lab.client(), OURS, begun_ns)
    });
}

#[test]
fn an_index_is_followed_through_every_name() {
    if !can_run("an interface by its index") {
        return;
    }
    let _alone = alone();
    let lab = Lab::build(Plan::direct("index")).unwrap();
    ip(lab.client(), &format!("link add {OURS} index 4321 type veth peer name x{OURS}"));
    let request = format!("{}/#4321", lab.client().name());
    let linnet = Linnet::watch("index", &[request]);
    for (now, name) in [(OURS, "one"), ("one", "two"), ("two", "three")] {
        ip(lab.client(), &format!("link set {now} name {name}"));
        let shown = format!("{}/{name}", lab.client().name());
        let row = wait_for("the row by its new name", || row(&linnet, &shown));
        assert_eq!((&row["ifindex"], &row["point"]), (&json!(4321), &json!(1)));
    }
    // The same index again, in between two looks or not, is another interface.
    ip(lab.client(), "link del three");
    ip(lab.client(), &format!("link add {OURS} index 4321 type veth peer name x{OURS}"));
    let shown = format!("{}/{OURS}", lab.client().name());
    wait_for("the next one", || {
        row(&linnet, &shown).filter(|row| row["state"] == "attached" && row["point"] != 1)
    });
    attached(&linnet, lab.client(), OURS, lab::clock::monotonic_ns());
}

#[test]
fn rules_and_captures_hold_for_the_interface_that_comes_back() {
    if !can_run("rules and captures of an interface that comes back") {
        return;
    }
    let _alone = alone();
    let lab = Lab::build(Plan::direct("hold")).unwrap();
    make(&lab, OURS);
    let linnet = lab.client().run(|| Linnet::watch("hold", &["*".to_owned()])).unwrap();
    let ignore = json!({ "rules": [{ "action": "ignore", "interface": OURS, "port": "9" }] });
    assert_eq!(linnet.put("/api/v1/rules", &ignore).0, 200);
    let start = |body: Value| {
        let (status, answer) = linnet.post("/api/v1/captures", &body);
        assert_eq!(status, 201, "{answer}");
        answer["capture"]["id"].as_str().unwrap().to_owned()
    };
    let ended = |id: &str| {
        let path = format!("/api/v1/captures/{id}");
        wait_for("the capture's end", || {
            let capture = linnet.see(&path, "capture");
            (capture["state"] == "finished").then_some(capture)
        })
    };
    let (stop, sent) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        let _traffic = Traffic::start(scope, &lab, (&stop, &sent));
        let of_one = start(json!({ "interface": OURS }));
        recreate(&lab, &linnet);
        assert_eq!(ended(&of_one)["stop_reason"], "interface_removed");
        let of_all = start(json!({ "filter": "udp port 9" }));
        recreate(&lab, &linnet);
        let written = || {
            let path = format!("/api/v1/captures/{of_all}");
            linnet.see(&path, "capture")["written"].as_u64().unwrap()
        };
        let before = written();
        wait_for("packets of the one that came", || (written() > before + FRAMES).then_some(()));
        let path = format!("/api/v1/captures/{of_all}");
        let (status, answer) = linnet.post(&format!("{path}/stop"), &json!({}));
        assert_eq!(status, 200, "{answer}");
        let file = linnet.folder().join("all.pcapng");
        let mut download = linnet.curl(&format!("{path}/file"));
        assert!(download.arg("-o").arg(&file).status().unwrap().success());
        let mut reader = captures::PacketReader::open(&file).unwrap();
        while reader.next_packet().unwrap().is_some() {}
        let named = |interface: &captures::InterfaceDescription| {
            interface.name.as_deref().is_some_and(|name| name.starts_with(OURS))
        };
        let described = reader.interfaces().iter().filter(|it| named(it)).count();
        assert_eq!(described, 4, "two directions of two interfaces: {:?}", reader.interfaces());
    });
    // Not one of its packets has made a flow, from the first interface of the name to the last.
    let of_traffic: Vec<_> = linnet
        .flows(OURS)
        .into_iter()
        .filter(|flow| flow["protocol"] == "udp" && flow["responder"]["port"] == 9)
        .collect();
    assert!(of_traffic.is_empty(), "{of_traffic:#?}");
    let (status, rules) = linnet.get("/api/v1/rules");
    assert_eq!((status, &rules["generation"]), (200, &json!(1)));
    let row = row(&linnet, OURS).unwrap();
    let ignored = row["ingress"]["ledger"]["ignored_by_rule"].as_u64().unwrap();
    println!("hold: {ignored} frames ignored by a rule at the third interface of the name");
    assert!(ignored > FRAMES, "{row}");
}
