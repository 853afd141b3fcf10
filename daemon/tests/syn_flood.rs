//! Floods of SYNs to an open and to a closed port while connections talk: memory stays bounded, the connections stay
//! exact and in the table, every flow is accounted for, and the API answers.
#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    clippy::print_stdout,
    reason = "a test fails by panicking, says what it measured, and makes its own numbers"
)]

mod support;

use std::{
    collections::BTreeMap,
    fs,
    net::{SocketAddr, TcpListener},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use aya::maps::MapData;
use lab::{
    CLIENT_INTERFACE, Family, Lab, Plan, SERVER_INTERFACE,
    traffic::{
        Stop,
        syn_flood::{self, FORGED, SynFlood},
    },
};
use serde_json::Value;
use support::{linnet::Linnet, pair::Pair, poller, stack, wait_for};

/// Connections that talk all the time.
const CONNECTIONS: usize = 50;
const PORT: u16 = 6_600;
const OPEN: u16 = 6_601;
const CLOSED: u16 = 6_602;
/// The longest that one flood may take.
const FLOOD_MAX: Duration = Duration::from_secs(600);
/// The longest answer of the API that is accepted; asserted where the floods are long and the daemon is as users have it.
const ANSWER_MAX: Duration = Duration::from_millis(500);
/// What the daemon takes beside flows and their records.
const BESIDE_BYTES: u64 = 96 << 20;
const ETHERNET_BYTES: u64 = 14;
/// What is asked meanwhile: pages by sort and filter, and figures.
const PATHS: [&str; 6] = [
    "/api/v1/flows?limit=1000",
    "/api/v1/flows?limit=200&sort=-packets&protocol=tcp",
    "/api/v1/flows?limit=200&sort=-rtt.p99_ns&port=6600",
    "/api/v1/flows?limit=100&sort=first_seen&state=SYN_SENT",
    "/api/v1/flows?limit=100&sort=-bytes&live=true&address=10.77.0.1",
    "/api/v1/status",
];

#[test]
fn floods_of_syns_evict_no_connection_and_are_accounted_for() {
    let what = "floods of SYNs";
    let tools = ["curl", "ss", "nft", "conntrack"];
    if !support::kernel(what) || !tools.iter().all(|tool| lab::require_tool(tool, what)) {
        return;
    }
    let lab = Lab::build(Plan::direct("flood")).unwrap();
    let count = if support::full() { 1_000_000 } else { 50_000 };
    prepare_server(&lab);
    let spec = format!("{}/{SERVER_INTERFACE}", lab.server().name());
    let linnet = Linnet::watch("flood", std::slice::from_ref(&spec));
    let listener = lab.server().run(|| TcpListener::bind(lab.server_socket(Family::V4, OPEN)));
    let mut pairs = Pair::many(&lab, PORT, CONNECTIONS);
    pairs.iter_mut().for_each(|pair| pair.exchange(1, 500));
    let ids = ids(&linnet, &spec);
    let before = Accounts::at_rest(&linnet);
    let memory_before = Memory::of(&linnet);

    let done = AtomicBool::new(false);
    let (rounds, answers) = thread::scope(|scope| {
        let asking = scope.spawn(|| poller::poll(&linnet, &PATHS, &done));
        let talking = scope.spawn(|| talk(&mut pairs, &done));
        let guard = SetOnDrop(&done);
        for (port, name) in [(OPEN, "open"), (CLOSED, "closed")] {
            let SocketAddr::V4(to) = lab.server_socket(Family::V4, port) else { unreachable!() };
            let flood = SynFlood { to, count, limit: FLOOD_MAX };
            let flooded = syn_flood::run(&lab, &flood, &Stop::new()).unwrap();
            let seconds = flooded.duration_ns as f64 / 1e9;
            let rate = f64::from(flooded.syns) / seconds;
            println!("{} SYNs to the {name} port in {seconds:.1} s, {rate:.0}/s", flooded.syns);
        }
        drop(guard);
        (talking.join().unwrap(), asking.join().unwrap())
    });
    drop(listener);

    for (path, answers) in &answers {
        let (mean, worst) = (answers.mean(), answers.worst);
        println!("{path}: {} answers, {mean:?} on average, {worst:?} at worst", answers.count);
        let is_bound = support::full() && !cfg!(debug_assertions);
        assert!(!is_bound || worst < ANSWER_MAX, "{path} took {worst:?}");
    }
    Memory::of(&linnet).hold(&memory_before, &linnet);
    println!("{CONNECTIONS} connections exchanged {rounds} messages each meanwhile");
    hold_connections(&lab, &linnet, &spec, &ids);
    let after = Accounts::at_rest(&linnet);
    after.hold(&before, 2 * u64::from(count));
}

/// So that a flood ends the others' work also where it fails.
struct SetOnDrop<'a>(&'a AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Answers to forged addresses leave by the lab's wire, once each; conntrack looks at the test's connections alone.
fn prepare_server(lab: &Lab) {
    let server = lab.server();
    let retries = "/proc/sys/net/ipv4/tcp_synack_retries";
    server.run(|| fs::write(retries, "0")).unwrap().unwrap();
    let address = lab.client_address(Family::V4).to_string();
    let (interface, hardware) = (SERVER_INTERFACE, hardware_address(lab));
    for arguments in [
        format!("neigh replace {address} lladdr {hardware} dev {interface} nud permanent"),
        format!("route add {FORGED}/15 via {address} dev {interface}"),
    ] {
        let status = server.command("ip").args(arguments.split(' ')).status().unwrap();
        assert!(status.success(), "ip {arguments}");
    }
    let rules = format!(
        "table ip raw {{ \
         chain in {{ type filter hook prerouting priority -300; tcp dport != {PORT} notrack; }}; \
         chain out {{ type filter hook output priority -300; tcp sport != {PORT} notrack; }}; }}"
    );
    assert!(server.command("nft").arg(rules).status().unwrap().success());
    stack::track(server);
}

fn hardware_address(lab: &Lab) -> String {
    let show = ["-j", "link", "show", "dev", CLIENT_INTERFACE];
    let output = lab.client().command("ip").args(show).output().unwrap();
    let links: Value = serde_json::from_slice(&output.stdout).unwrap();
    links[0]["address"].as_str().unwrap().to_owned()
}

/// Exchanges messages of one segment on each connection in turn, until `done`. Returns the rounds.
fn talk(pairs: &mut [Pair], done: &AtomicBool) -> u64 {
    let mut rounds = 0;
    while !done.load(Ordering::Relaxed) {
        pairs.iter_mut().for_each(|pair| pair.exchange(1, 500));
        rounds += 1;
    }
    rounds
}

/// The rows of the test's connections, by the client's port.
fn rows(linnet: &Linnet, spec: &str) -> BTreeMap<u64, Value> {
    linnet.settle();
    let path = format!("/api/v1/flows?interface={spec}&port={PORT}&limit=1000");
    let flows = linnet.see(&path, "flows");
    let row = |flow: &Value| (flow["originator"]["port"].as_u64().unwrap(), flow.clone());
    let rows: BTreeMap<_, _> = flows.as_array().unwrap().iter().map(row).collect();
    assert_eq!(rows.len(), flows.as_array().unwrap().len(), "one row for each connection");
    rows
}

fn ids(linnet: &Linnet, spec: &str) -> BTreeMap<u64, String> {
    let id = |(port, row): (u64, Value)| (port, row["id"].as_str().unwrap().to_owned());
    rows(linnet, spec).into_iter().map(id).collect()
}

/// The rows are those from before the floods, and say what `ss` and conntrack say at the server.
fn hold_connections(lab: &Lab, linnet: &Linnet, spec: &str, ids: &BTreeMap<u64, String>) {
    wait_for("everything to be acknowledged", || {
        let sockets = stack::sockets(lab.server(), PORT);
        sockets.values().all(stack::Socket::is_acknowledged).then_some(())
    });
    let sockets = stack::sockets(lab.server(), PORT);
    let tracked = stack::tracked(lab.server(), PORT);
    let rows = rows(linnet, spec);
    assert_eq!((rows.len(), sockets.len(), tracked.len()), (CONNECTIONS, CONNECTIONS, CONNECTIONS));
    let mut packets = 0;
    for (port, row) in &rows {
        assert_eq!(row["id"], ids[port], "{port}: the flow from before the floods");
        assert_eq!(row["ended"], Value::Null, "{port}: not evicted");
        let figure = |half: &str, name: &str| row[half][name].as_u64().unwrap();
        let [there, back] = ["from_originator", "from_responder"];
        let socket = &sockets[port];
        assert_eq!(figure(there, "payload_bytes"), socket.figure("bytes_received"), "{port}");
        assert_eq!(figure(back, "payload_bytes"), socket.figure("bytes_sent"), "{port}");
        assert_eq!(figure(there, "packets"), socket.figure("segs_in"), "{port}");
        // The kernel answers a SYN before there is a connection that could count the answer.
        assert_eq!(figure(back, "packets"), socket.figure("segs_out") + 1, "{port}");
        let way = |half| {
            let packets = figure(half, "packets");
            (packets, figure(half, "bytes") - ETHERNET_BYTES * packets)
        };
        assert_eq!(
            (way(there), way(back)),
            (tracked[port].original, tracked[port].reply),
            "{port}"
        );
        packets += way(there).0 + way(back).0;
    }
    println!("{packets} packets of {} connections equal ss and conntrack", rows.len());
}

/// What the daemon and its maps take.
#[derive(Debug)]
struct Memory {
    resident_bytes: u64,
    resident_most_bytes: u64,
    maps_bytes: u64,
}

impl Memory {
    fn of(linnet: &Linnet) -> Self {
        let status = fs::read_to_string(format!("/proc/{}/status", linnet.pid())).unwrap();
        let kib = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            line.split_whitespace().next().unwrap().parse::<u64>().unwrap() * 1_024
        };
        let mut maps = BTreeMap::new();
        for file in fs::read_dir(format!("/proc/{}/fdinfo", linnet.pid())).unwrap().flatten() {
            let text = fs::read_to_string(file.path()).unwrap_or_default();
            let field = |name: &str| {
                let line = text.lines().find_map(|line| line.strip_prefix(name))?;
                line.trim().parse::<u64>().ok()
            };
            if let (Some(id), Some(bytes)) = (field("map_id:"), field("memlock:")) {
                maps.insert(id, bytes);
            }
        }
        Self {
            resident_bytes: kib("VmRSS:"),
            resident_most_bytes: kib("VmHWM:"),
            maps_bytes: maps.values().sum(),
        }
    }

    /// Within what the start printed.
    fn hold(&self, before: &Self, linnet: &Linnet) {
        let log = linnet.log();
        let printed = |name: &str| {
            let values = log.split_whitespace().filter_map(|word| word.strip_prefix(name));
            values.map(|value| value.parse::<u64>().unwrap()).sum::<u64>()
        };
        let bound = printed("bytes_max=") + printed("events_bytes_max=") + BESIDE_BYTES;
        let grown = self.resident_bytes.saturating_sub(before.resident_bytes) >> 20;
        println!("before {before:?}\nafter {self:?}: {grown} MiB more, at most {bound} resident");
        assert!(self.resident_most_bytes < bound, "{} resident", self.resident_most_bytes);
        assert_eq!(self.maps_bytes, before.maps_bytes, "the kernel's maps take what they took");
        let kinds =
            ["flow_tables_bytes=", "troubles_bytes=", "events_bytes=", "capture_ring_bytes="];
        let tables: u64 = kinds.into_iter().map(printed).sum();
        // Scratch, counters and tables of interfaces are a few MB.
        assert!(self.maps_bytes < tables + tables / 20 + (8 << 20), "{} of maps", self.maps_bytes);
    }
}

/// Where flows went, by linnet; and how many there are, by the kernel's table.
#[derive(Debug)]
struct Accounts {
    created: u64,
    closed: u64,
    aged: u64,
    evicted: u64,
    live: u64,
    in_the_table: u64,
}

impl Accounts {
    /// Once nothing moves any more.
    fn at_rest(linnet: &Linnet) -> Self {
        wait_for("the flows to come to rest", || {
            linnet.settle();
            let (before, in_the_table) = (linnet.get("/api/v1/status").1, in_the_table(linnet));
            linnet.settle();
            let (status, loss) = {
                let (_, answer) = linnet.get("/api/v1/status");
                (answer["status"].clone(), answer["loss"].clone())
            };
            let flows = &status["flows"];
            if before["status"]["flows"] != *flows || loss["approximate"] == true {
                return None;
            }
            let sum: u64 =
                loss["ledger"].as_object().unwrap().values().filter_map(Value::as_u64).sum();
            assert_eq!(loss["seen"], sum, "the ledger balances: {loss}");
            assert_eq!(status["balanced"], true);
            assert_eq!(loss["evicted"], flows["evicted"]);
            let (evicted, met) = (flows["evicted"].as_u64(), flows["evicted_met"].as_u64());
            assert!(met <= evicted, "counted one by one and as a difference: {flows}");
            let figure = |name: &str| flows[name].as_u64().unwrap();
            Some(Self {
                created: figure("created"),
                closed: figure("closed"),
                aged: figure("aged"),
                evicted: figure("evicted"),
                live: figure("live"),
                in_the_table,
            })
        })
    }

    /// Every SYN made a flow, and each flow is somewhere.
    fn hold(&self, before: &Self, syns: u64) {
        println!("before {before:?}\nafter {self:?}");
        assert_eq!(self.created - before.created, syns, "flows made");
        assert_eq!(self.live, self.in_the_table, "live flows");
        let accounted = self.closed + self.aged + self.evicted + self.live;
        assert_eq!(accounted, self.created, "created = closed + aged + evicted + live");
    }
}

/// Entries of the kernel's tables of flows, one by one.
fn in_the_table(linnet: &Linnet) -> u64 {
    let count = |name: &str| {
        let map = MapData::from_pin(linnet.pins().join(name)).unwrap();
        let map = aya::maps::Map::from_map_data(map).unwrap();
        let map: aya::maps::HashMap<_, [u8; 48], [u8; 800]> = map.try_into().unwrap();
        map.keys().map(Result::unwrap).count() as u64
    };
    count("FLOWS") + count("EMBRYONIC")
}
