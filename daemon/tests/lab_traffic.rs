//! T3: real traffic through namespaces with known loss and delay, held against what the kernel's own tools say.
#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    clippy::print_stdout,
    clippy::wildcard_enum_match_arm,
    reason = "a test fails by panicking, says what it measured, and makes its own numbers"
)]

mod support;

use std::{
    ffi::OsString,
    io::{Read as _, Write as _},
    path::Path,
    sync::Arc,
    thread,
    time::Duration,
};

use daemon::{
    analyze,
    board::Board,
    clock::Clock,
    events::EventReader,
    flow::{
        EventStore, FlowIdSource, FlowQuery, FlowRecord, FlowTable, LatencySummary,
        expiry::Timeouts,
        query::{FlowFilter, Place, sent_again},
        view::RingsView,
    },
    live::{AttachedPoint, Attacher, MapSizes, Points},
    past::Past,
    status::Publisher,
    sweep::Sweeper,
};
use lab::{
    Lab, Loss, Plan,
    capture::Tcpdump,
    traffic::{
        TcpFacts,
        bulk::{self, Bulk},
        request_response::{self, RequestResponse},
    },
};
use nix::sys::socket::{setsockopt, sockopt};
use support::pair::Pair;

const BLOAT_BYTES: usize = 6_000_000;

/// linnet on some of a lab's interfaces, in this process.
struct Watch {
    attacher: Attacher,
    sweeper: Sweeper,
    table: Arc<FlowTable>,
    board: Arc<Board>,
    sweeps: u64,
}

impl Watch {
    fn new(name: &str, specs: &[String]) -> Self {
        let pins = format!("/sys/fs/bpf/linnet-test-{}-{name}", std::process::id());
        let sizes = MapSizes { flows: 4_096, capture_ring_bytes: 1 << 20, ..MapSizes::default() };
        let mut attacher = Attacher::new(Path::new(&pins), sizes).unwrap();
        let mut points = Vec::new();
        for spec in specs {
            let request: daemon::live::AttachRequest = spec.parse().unwrap();
            let attached = attacher.attach(request.clone()).unwrap();
            points.push(AttachedPoint { request, attached });
        }
        let (board, clock) = (Arc::new(Board::default()), Arc::new(Clock::new()));
        let table =
            Arc::new(FlowTable::new(FlowIdSource::new(b"test"), 10_000, Timeouts::default()));
        let rings = Arc::new(RingsView::default);
        let publisher =
            Publisher::new(Arc::clone(&board), Arc::clone(&clock), rings, "live", 0, Vec::new());
        let sweeper = Sweeper {
            flow_map: attacher.flows().unwrap(),
            hook_map: attacher.hooks().unwrap(),
            service_map: attacher.services().unwrap(),
            events: Arc::new(EventReader::new(
                attacher.events().unwrap(),
                Arc::new(EventStore::new(FlowIdSource::new(b"test"), 0)),
            )),
            points: Arc::new(Points::of(points)),
            remote: None,
            past: Past::default(),
            keeper: None,
            table: Arc::clone(&table),
            publisher,
            clock,
            interval: Duration::from_secs(1),
            waited_ns: 0,
        };
        Self { attacher, sweeper, table, board, sweeps: 0 }
    }

    /// The flows of a port at one interface.
    fn flows(&mut self, port: u16, interface: &str) -> Vec<FlowRecord> {
        self.sweeps += 1;
        self.sweeper.sweep(self.sweeps).unwrap();
        let naming = self.board.naming.latest();
        let point = naming.points.iter().find(|(_, name)| name.interface == interface).unwrap().0;
        let place = Some(Place { interface: interface.into(), points: vec![*point] });
        let filter = FlowFilter { port: Some(port), place, ..FlowFilter::default() };
        self.table.page(&FlowQuery { filter, ..FlowQuery::default() }).flows
    }

    /// The ledger balances at rest.
    fn assert_balanced(&self) {
        let loss = self.board.loss.latest();
        assert_eq!(loss.seen, loss.ledger.sum(), "{loss:?}");
        assert!(loss.seen > 0);
    }
}

fn can_run(what: &str) -> bool {
    support::kernel(what) && lab::require_root(what) && lab::require_tool("tcpdump", what)
}

#[test]
fn paced_round_trips_have_the_delay_that_was_set() {
    if !can_run("round trips in a lab") {
        return;
    }
    let delay = Duration::from_millis(20);
    let lab = Lab::build(Plan::new("rtt").with_rtt(delay)).unwrap();
    let client = format!("{}/{}", lab.client().name(), lab::CLIENT_INTERFACE);
    let router = format!("{}/{}", lab.router().unwrap().name(), lab::ROUTER_CLIENT_INTERFACE);
    let mut watch = Watch::new("rtt", &[client.clone(), format!("{router},ingress=xdp")]);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("client.pcap");
    let tcpdump = Tcpdump::start(lab.client(), lab::CLIENT_INTERFACE, &file, "").unwrap();
    let measured = request_response::run(&lab, &RequestResponse::default()).unwrap();
    let counts = tcpdump.stop().unwrap();

    let exact = analyze::analyze(&file, analyze::FLOWS_DEFAULT).unwrap();
    let flow = exact.flows.iter().max_by_key(|flow| flow.from_originator.packets).unwrap();
    let p50 = flow.from_originator.rtt.quantiles_ns[0];
    let set = u64::try_from(delay.as_nanos()).unwrap();
    let kernel = u64::from(measured.client.min_rtt_us) * 1_000;
    println!(
        "set {set} ns, ss minrtt {kernel} ns, analyze p50 {p50} ns of {} samples",
        flow.from_originator.rtt.samples
    );
    for (name, reference) in [("the delay set", set), ("the kernel's minrtt", kernel)] {
        let bound = reference / 20 + 50_000;
        assert!(p50.abs_diff(reference) <= bound, "p50 {p50} ns against {name} {reference} ns");
    }

    let live = watch.flows(7_000, &client);
    assert_eq!(live.len(), 1);
    let rtt = &live[0].from_originator.rtt;
    let ratio = rtt.quantiles_ns[0] as f64 / p50 as f64;
    assert!(ratio <= rtt.error_factor && ratio >= 1.0 / rtt.error_factor, "live {rtt:?}");
    let tcp = live[0].from_originator.packets + live[0].from_responder.packets;
    let seen = exact.flows.iter().filter(|flow| flow.key.protocol == 6);
    let captured: u64 =
        seen.map(|flow| flow.from_originator.packets + flow.from_responder.packets).sum();
    assert_eq!(tcp, captured, "linnet's packets and tcpdump's ({counts:?})");
    assert_eq!(watch.flows(7_000, &router).len(), 1, "XDP and TC on the router are one row");
    watch.assert_balanced();

    // The same round trips by service and by interface, in buckets of an eighth.
    let within = |name: &str, summary: &LatencySummary, exact: [u64; 3]| {
        println!("{name}: {summary:?} against {exact:?}");
        for (ours, exact) in [summary.p50_ns, summary.p95_ns, summary.p99_ns].iter().zip(exact) {
            // tcpdump and linnet look at different moments.
            let bound = ((*ours).min(exact) + 50_000) as f64 * summary.error_factor;
            assert!((*ours).max(exact) as f64 <= bound, "{name}: {ours} for {exact}");
        }
    };
    let services = watch.board.services.latest();
    let service = services.iter().find(|service| service.port == Some(7_000)).unwrap();
    assert_eq!(service.protocol.as_deref(), Some("tcp"));
    // Of two interfaces.
    assert!(service.from_originator.samples > rtt.samples);
    let interfaces = watch.board.interfaces.latest();
    let interface = interfaces.iter().find(|interface| interface.name == client).unwrap();
    let received = &interface.ingress.as_ref().unwrap().rtt;
    within("acknowledgments received", received, flow.from_originator.rtt.quantiles_ns);
    let sent = &interface.egress.as_ref().unwrap().rtt;
    assert_eq!(sent.samples, flow.from_responder.rtt.samples);
    within("acknowledgments sent", sent, flow.from_responder.rtt.quantiles_ns);
    drop(watch.attacher);
}

#[test]
fn round_trips_in_a_deep_queue_are_those_that_the_kernel_smooths() {
    if !can_run("bufferbloat in a lab") {
        return;
    }
    let mut plan = Plan::new("bloat").with_rtt(Duration::from_millis(10));
    // 160 ms of queue, in which all that the receiver's window lets out has room.
    (plan.to_server.rate_bits_per_s, plan.to_server.queue_bytes) = (Some(10_000_000), 200_000);
    plan.to_client.jitter = Duration::from_millis(2);
    let lab = Lab::build(plan).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("client.pcap");
    let tcpdump = Tcpdump::start(lab.client(), lab::CLIENT_INTERFACE, &file, "tcp").unwrap();
    let Pair { mut client, mut server } = Pair::open(&lab, 5_200);
    setsockopt(&server, sockopt::RcvBuf, &60_000).unwrap();
    // Cubic leaves slow start before there is a queue.
    setsockopt(&client, sockopt::TcpCongestion, &OsString::from("reno")).unwrap();
    let sender = client.try_clone().unwrap();
    let (mut smoothed, mut next_ns) = (Vec::new(), 0);
    thread::scope(|scope| {
        scope.spawn(move || client.write_all(&vec![7; BLOAT_BYTES]).unwrap());
        let mut received = 0;
        while received < BLOAT_BYTES {
            received += server.read(&mut [0; 1_448]).unwrap();
            // A few times in a round trip, as linnet measures.
            let now_ns = lab::clock::monotonic_ns();
            if now_ns >= next_ns {
                let srtt_ns = u64::from(TcpFacts::of(&sender).unwrap().srtt_us) * 1_000;
                next_ns = now_ns + srtt_ns / 4;
                smoothed.push(srtt_ns);
            }
        }
    });
    assert_eq!(tcpdump.stop().unwrap().dropped_by_kernel, 0);
    smoothed.sort_unstable();
    let (theirs, least) = (smoothed[smoothed.len() / 2], smoothed[0]);

    let exact = analyze::analyze(&file, analyze::FLOWS_DEFAULT).unwrap();
    let flow = exact.flows.iter().max_by_key(|flow| flow.from_originator.packets).unwrap();
    let rtt = &flow.from_originator.rtt;
    let ours = rtt.quantiles_ns[0];
    println!(
        "analyze p50 {ours} ns of {} samples, srtt p50 {theirs} ns of {} (least {least} ns)",
        rtt.samples,
        smoothed.len()
    );
    assert!(theirs > 25_000_000, "the queue was full most of the time");
    assert!(ours.abs_diff(theirs) <= theirs / 20, "p50 {ours} ns against srtt's {theirs} ns");
}

#[test]
fn what_the_sender_sent_again_is_what_linnet_counts() {
    if !can_run("retransmissions in a lab") {
        return;
    }
    support::uncontended("retransmissions", sent_again_in_one_run);
}

fn sent_again_in_one_run() -> bool {
    let plan =
        Plan::new("loss").with_rtt(Duration::from_millis(10)).with_loss(Loss::EveryNthData(40));
    let lab = Lab::build(plan).unwrap();
    let server = format!("{}/{}", lab.server().name(), lab::SERVER_INTERFACE);
    let mut watch = Watch::new("loss", std::slice::from_ref(&server));
    let measured = bulk::run(&lab, &Bulk::default()).unwrap();
    let flows = watch.flows(5_001, &server);
    assert_eq!(flows.len(), 1);
    let counted = sent_again(&flows[0].from_responder.classes);
    println!(
        "kernel {} sent again, linnet {counted}, {:?}",
        measured.server.total_retrans, flows[0].from_responder.classes
    );
    watch.assert_balanced();
    if flows[0].contended {
        return false;
    }
    assert!(counted > 0);
    assert_eq!(
        counted,
        u64::from(measured.server.total_retrans),
        "at the sender, TC sees each once"
    );
    true
}
