//! Figures, flows and rules go on where they were, whoever is killed and whenever, and over a stop that keeps them. Must
//! never leave a process, a map or a folder behind.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test fails by panicking and says what it measured"
)]

mod support;

use std::{collections::BTreeMap, thread, time::Duration};

use lab::{CLIENT_INTERFACE, Lab, Plan, SERVER_INTERFACE};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};
use support::{
    Random,
    held::Held,
    linnet::{Linnet, detach},
    pair::Pair,
    planted, wait_for,
};

/// How long the start after a kill may take until it serves, as a rule: the tests' machine is shared.
const BACK_NS: u64 = 2_000_000_000;
const KEEP: &str = "on_stop = \"keep\"\n";

fn can_run(what: &str) -> bool {
    support::kernel(what) && ["curl", "bpftool"].iter().all(|tool| lab::require_tool(tool, what))
}

fn client_spec(lab: &Lab) -> String {
    format!("{}/{CLIENT_INTERFACE}", lab.client().name())
}

/// All figures of a linnet that must never go back.
#[derive(Debug)]
struct Figures {
    since: String,
    /// Names and values.
    counters: BTreeMap<String, u64>,
    /// Ids of the flows from each port, and what they sent.
    flows: BTreeMap<u64, (String, [u64; 4])>,
    /// Interfaces and their points.
    points: BTreeMap<String, u64>,
}

impl Figures {
    fn of(linnet: &Linnet, spec: &str) -> Self {
        // Which waits for the sweeps to catch up.
        let rows = linnet.flows(spec);
        let mut counters = BTreeMap::new();
        let (_, answer) = linnet.get("/api/v1/status");
        let loss = &answer["loss"];
        for figure in ["seen", "contended"] {
            counters.insert(figure.to_owned(), loss[figure].as_u64().unwrap());
        }
        for (name, count) in loss["ledger"].as_object().unwrap() {
            counters.insert(format!("ledger.{name}"), count.as_u64().unwrap());
        }
        for figure in ["created", "closed", "aged", "evicted_met", "forgotten"] {
            let count = answer["status"]["flows"][figure].as_u64().unwrap();
            counters.insert(figure.to_owned(), count);
        }
        let mut points = BTreeMap::new();
        for row in linnet.see("/api/v1/interfaces", "interfaces").as_array().unwrap() {
            if row["state"] == "gone" {
                continue;
            }
            let name = row["name"].as_str().unwrap().to_owned();
            for way in ["ingress", "egress"] {
                for figure in ["seen", "packets", "bytes"] {
                    let count = row[way][figure].as_u64().unwrap();
                    counters.insert(format!("{name} {way} {figure}"), count);
                }
            }
            points.insert(name, row["point"].as_u64().unwrap());
        }
        let sent = |flow: &Value| {
            let figure = |side: &str, figure: &str| flow[side][figure].as_u64().unwrap();
            let [there, back] = ["from_originator", "from_responder"];
            [
                figure(there, "packets"),
                figure(there, "bytes"),
                figure(back, "packets"),
                figure(back, "bytes"),
            ]
        };
        let row = |flow: &Value| {
            let id = flow["id"].as_str().unwrap().to_owned();
            Some((flow["originator"]["port"].as_u64()?, (id, sent(flow))))
        };
        let flows = rows.iter().filter_map(row).collect();
        Self { since: loss["since"].as_str().unwrap().to_owned(), counters, flows, points }
    }

    /// Nothing has gone back since `before`, and the connections of these ports are what they were.
    fn assert_go_on_from(&self, before: &Self, ports: &[u64], what: &str) {
        assert_eq!(self.since, before.since, "{what}");
        for (name, count) in &before.counters {
            assert!(
                self.counters[name] >= *count,
                "{what}: {name}: {} < {count}",
                self.counters[name]
            );
        }
        for port in ports {
            let ((id_before, sent_before), (id, sent)) = (&before.flows[port], &self.flows[port]);
            assert_eq!(id, id_before, "{what}");
            let grew = sent.iter().zip(sent_before).all(|(now, then)| now >= then);
            assert!(grew, "{what}: {sent:?} after {sent_before:?}");
        }
        for (name, point) in &self.points {
            assert_eq!(before.points.get(name), Some(point), "{what}");
        }
    }
}

/// Kills in one of several ways, at a moment of chance; afterwards nothing of it runs, or it is back by itself.
fn kill_somehow(linnet: &mut Linnet, random: &mut Random) -> &'static str {
    thread::sleep(Duration::from_millis(random.below(300)));
    match random.below(4) {
        0 => {
            linnet.kill_attacher();
            "the attacher"
        }
        1 => {
            let daemon = wait_for("the daemon", || linnet.daemon_pid());
            kill(Pid::from_raw(daemon.cast_signed()), Signal::SIGKILL).unwrap();
            wait_for("the next daemon", || {
                let is_new = linnet.daemon_pid().is_some_and(|pid| pid != daemon);
                (is_new && linnet.get("/readyz").0 == 200).then_some(())
            });
            "the daemon"
        }
        2 => {
            linnet.kill_both();
            "both"
        }
        _ => {
            linnet.kill_both();
            // Which replaces a table, and the start after it does so again.
            linnet.begin_again("flows.capacity = 40000\n");
            thread::sleep(Duration::from_millis(random.below(1_500)));
            linnet.kill_both();
            "both, and the next start"
        }
    }
}

#[test]
fn figures_never_go_back_whoever_is_killed() {
    if !can_run("killing attacher and daemon") {
        return;
    }
    let lab = Lab::build(Plan::new("restart")).unwrap();
    let spec = client_spec(&lab);
    let mut linnet = Linnet::watch("restart", std::slice::from_ref(&spec));
    let mut pairs = Pair::many(&lab, 7_000, 8);
    let ports: Vec<_> = pairs.iter().map(|pair| u64::from(pair.client_port())).collect();
    // Some that end, so that there are departures to remember.
    Pair::many(&lab, 7_001, 3).iter_mut().for_each(|pair| pair.exchange(2, 100));
    let rules = json!({ "rules": [{ "action": "ignore", "protocol": "udp", "port": "9" }] });
    assert_eq!(linnet.put("/api/v1/rules", &rules).0, 200);
    pairs.iter_mut().for_each(|pair| pair.exchange(3, 200));
    let mut before = Figures::of(&linnet, &spec);

    let kills = if support::full() { 50 } else { 8 };
    let mut random = Random(0x5eed);
    let mut took_ns = Vec::new();
    Pair::busy_during(&mut pairs, 3, Duration::from_millis(5), || {
        for number in 1..=kills {
            if random.below(3) == 0 {
                assert_eq!(linnet.post("/api/v1/captures", &json!({ "filter": "tcp" })).0, 201);
            }
            let whom = kill_somehow(&mut linnet, &mut random);
            let started_ns = lab::clock::monotonic_ns();
            match whom {
                "the daemon" => {}
                "the attacher" => linnet.adopt_again(""),
                _ => linnet.start_again(""),
            }
            if whom != "the daemon" {
                took_ns.push(lab::clock::monotonic_ns() - started_ns);
            }
            let after = Figures::of(&linnet, &spec);
            after.assert_go_on_from(&before, &ports, &format!("kill {number}, {whom}"));
            assert_eq!(linnet.see("/api/v1/rules", "rules"), rules["rules"], "kill {number}");
            before = after;
        }
    });
    took_ns.sort_unstable();
    let (middle, longest) = (took_ns[took_ns.len() / 2], took_ns.last().unwrap());
    println!(
        "{kills} kills; back after {} ms, at most {} ms",
        middle / 1_000_000,
        longest / 1_000_000
    );
    assert!(middle < BACK_NS, "{took_ns:?}");
    // New packets of the flows that were adopted are counted as theirs.
    pairs.iter_mut().for_each(|pair| pair.exchange(5, 200));
    let after = Figures::of(&linnet, &spec);
    after.assert_go_on_from(&before, &ports, "at the end");
    assert!(ports.iter().all(|port| after.flows[port].1[0] > before.flows[port].1[0]));
    let log = linnet.log();
    assert!(!log.contains("old-"), "{log}");

    let (mut held, pins) = (Held::by(linnet.pid()), linnet.pins().to_owned());
    held.maps.insert(planted::id(&pins.join("REGISTER")));
    linnet.kill_both();
    assert!(detach(&pins) && !pins.exists());
    wait_for("programs, links and maps to go", || held.is_gone().then_some(()));
}

#[test]
fn a_stop_that_keeps_is_gone_on_from_and_one_that_does_not_leaves_nothing() {
    if !can_run("a stop that keeps") {
        return;
    }
    let lab = Lab::build(Plan::new("keep")).unwrap();
    let spec = client_spec(&lab);
    let server = format!("{}/{SERVER_INTERFACE},ingress=clsact,egress=clsact", lab.server().name());
    let mut linnet = Linnet::watch_with("keep", &[server.clone(), spec.clone()], KEEP);
    let mut pair = Pair::open(&lab, 7_000);
    let ports = [u64::from(pair.client_port())];
    pair.exchange(10, 500);
    let rules =
        json!({ "rules": [{ "action": "ignore", "network": "10.77.9.0/24", "port": "9" }] });
    assert_eq!(linnet.put("/api/v1/rules", &rules).0, 200);
    let before = Figures::of(&linnet, &spec);
    let filters = || {
        let show = ["filter", "show", "dev", SERVER_INTERFACE, "ingress"];
        let output = lab.server().command("tc").args(show).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    assert!(filters().contains("linnet"));
    let held = Held { maps: [].into(), ..Held::by(linnet.pid()) };
    linnet.signal(Signal::SIGTERM);
    assert!(linnet.wait().success(), "{}", linnet.log());
    assert!(!held.is_gone() && filters().contains("linnet"), "programs stay on their hooks");
    assert!(linnet.pins().join("FLOWS").exists());
    // What passes now is counted all the same.
    pair.exchange(10, 500);

    // A start that fails leaves what it found.
    linnet.interfaces = vec![format!("{}/nowhere", lab.client().name())];
    linnet.begin_again(KEEP);
    assert_eq!(linnet.wait().code(), Some(64), "{}", linnet.log());
    // Only one of the two, so that it comes first: it has its own point, and what the other counted still counts.
    linnet.interfaces = vec![spec.clone()];
    linnet.start_again(KEEP);
    let after = Figures::of(&linnet, &spec);
    let total = |figures: &Figures| ["seen", "created"].map(|name| figures.counters[name]);
    let (then, now) = (total(&before), total(&after));
    assert!(now[0] >= then[0] + 40 && now[1] >= then[1], "{now:?} after {then:?}");
    let sent = |figures: &Figures| figures.flows[&ports[0]].1[0];
    assert!(sent(&after) >= sent(&before) + 10);
    assert_eq!(after.points[&spec], before.points[&spec]);
    assert_eq!(after.flows[&ports[0]].0, before.flows[&ports[0]].0);
    assert_eq!(linnet.see("/api/v1/rules", "rules"), rules["rules"]);
    linnet.signal(Signal::SIGTERM);
    assert!(linnet.wait().success());

    // The network of the rules that were kept goes with them, from both of the sets of tables.
    linnet.start_again(KEEP);
    let networks = || planted::dump(&linnet.pins().join("RULE_NETWORKS"));
    let none = json!({ "rules": [{ "action": "ignore", "protocol": "udp", "port": "9" }] });
    let has_network = |text: &str| text.contains("0a 4d 09 00");
    assert!(has_network(&networks()), "{}", networks());
    for _ in 0..2 {
        assert_eq!(linnet.put("/api/v1/rules", &none).0, 200);
    }
    assert!(!has_network(&networks()), "{}", networks());
    linnet.signal(Signal::SIGTERM);
    assert!(linnet.wait().success());

    // Rules that were changed in the configuration are in force instead of those that were kept.
    linnet.interfaces = vec![spec.clone(), server];
    let configured = "[[rules]]\naction = \"ignore\"\nprotocol = \"tcp\"\nport = \"9\"\n";
    linnet.start_again(configured);
    let last = Figures::of(&linnet, &spec);
    // The other one was not watched in between, so that it is another point, and what it counted is in the sums.
    let now = total(&last);
    assert!(now[0] >= then[0] && now[1] >= then[1], "{now:?} after {then:?}");
    assert_eq!((&last.since, last.points[&spec]), (&before.since, before.points[&spec]));
    let in_force = linnet.see("/api/v1/rules", "rules");
    assert_eq!(in_force, json!([{ "action": "ignore", "protocol": "tcp", "port": "9" }]));
    let held = Held::by(linnet.pid());
    linnet.signal(Signal::SIGTERM);
    assert!(linnet.wait().success());
    assert!(!linnet.pins().exists(), "the default removes");
    wait_for("programs, links and maps to go", || held.is_gone().then_some(()));
}
