//! Other people's programs before, after and around linnet's, in every mode of linnet's: they stay exactly as they are,
//! what crosses the interface is the same bit by bit, and linnet reports the kernel's own order. Must never touch an
//! interface that the test did not make, and never take linnet's word for what the kernel has.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::cast_possible_truncation,
    reason = "a test fails by panicking and makes its own numbers"
)]

mod support;

use std::{path::Path, process::Command, time::Duration};

use aya::programs::{SchedClassifier, TcAttachType};
use lab::{
    CLIENT_INTERFACE, Lab, Namespace, Plan, ROUTER_CLIENT_INTERFACE, SERVER_INTERFACE,
    capture::Tcpdump,
    traffic::{Budget, Stop, inject},
};
use nix::{
    sched::{CpuSet, sched_getaffinity, sched_setaffinity},
    unistd::Pid,
};
use serde_json::{Value, json};
use support::{
    Random,
    foreign::{End, Foreign, OnHook, Verdict, Way},
    held::Held,
    linnet::Linnet,
    tshark, wait_for,
};

/// Who the frames are between: neither end's own address, since those speak whenever they like.
const HERE: [u8; 6] = [2, 0, 0, 0x99, 0, 1];
const THERE: [u8; 6] = [2, 0, 0, 0x99, 0, 2];
const OURS_ALONE: &str = "ether host 02:00:00:99:00:01";
/// Priority of linnet's filters.
const OUR_PRIORITY: &str = "pref 4217 ";
/// Frames of each direction.
const FRAMES: usize = 250;

fn can_run(what: &str) -> bool {
    let tools = ["ip", "tc", "bpftool", "curl", "tcpdump", "tshark", "ethtool"];
    support::kernel(what) && tools.iter().all(|tool| lab::require_tool(tool, what))
}

/// A bridge between two ends; linnet and the others are on its port at the client's side, so that what the client sends
/// meets the port's ingress, and what it receives the egress.
struct Scene {
    lab: Lab,
    folder: tempfile::TempDir,
    to_server: Vec<Vec<u8>>,
    to_client: Vec<Vec<u8>>,
}

impl Scene {
    fn build(name: &str) -> Self {
        // On two CPUs frames may overtake each other on a veth pair, with and without linnet. Threads inherit this.
        let this_thread = Pid::from_raw(0);
        let allowed = sched_getaffinity(this_thread).unwrap();
        let first = (0..CpuSet::count()).find(|cpu| allowed.is_set(*cpu).unwrap()).unwrap();
        let mut one_cpu = CpuSet::new();
        one_cpu.set(first).unwrap();
        sched_setaffinity(this_thread, &one_cpu).unwrap();
        let lab = Lab::build(Plan::bridged(name, false)).unwrap();
        lab.router().unwrap().run(leave_frames_alone).unwrap();
        let mut random = Random(23);
        let mut frames = |from: [u8; 6], to: [u8; 6]| {
            let mut frame = || {
                let mut frame = support::frame(&mut random);
                frame[..12].copy_from_slice(&[to, from].concat());
                frame
            };
            (0..FRAMES).map(|_| frame()).collect::<Vec<_>>()
        };
        let (to_server, to_client) = (frames(HERE, THERE), frames(THERE, HERE));
        Self { lab, folder: tempfile::tempdir().unwrap(), to_server, to_client }
    }

    fn port(&self) -> (&Namespace, &'static str) {
        (self.lab.router().unwrap(), ROUTER_CLIENT_INTERFACE)
    }

    fn spec(&self, modes: &str) -> String {
        format!("{}/{ROUTER_CLIENT_INTERFACE}{modes}", self.port().0.name())
    }

    fn said(&self, tool: &str, args: &str) -> String {
        let output = self.port().0.command(tool).args(args.split(' ')).output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{tool} {args}: {error}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// What arrives of the frames in both directions: at the server, and at the client.
    fn cross(&self, name: &str) -> [Vec<String>; 2] {
        self.send(name, &self.to_server, &self.to_client)
    }

    fn send(&self, name: &str, to_server: &[Vec<u8>], to_client: &[Vec<u8>]) -> [Vec<String>; 2] {
        let (client, server) =
            ((self.lab.client(), CLIENT_INTERFACE), (self.lab.server(), SERVER_INTERFACE));
        [(client, server, to_server), (server, client, to_client)].map(|(from, to, frames)| {
            self.arrived(
                &self.folder.path().join(format!("{name}-{}.pcap", to.1)),
                from,
                to,
                frames,
            )
        })
    }

    fn arrived(
        &self,
        file: &Path,
        from: (&Namespace, &str),
        to: (&Namespace, &str),
        frames: &[Vec<u8>],
    ) -> Vec<String> {
        // Only what comes in: the frames that this end sends pass here too.
        let filter = if to.1 == SERVER_INTERFACE { HERE } else { THERE };
        let from_there: Vec<_> = filter.iter().map(|byte| format!("{byte:02x}")).collect();
        let filter = format!("{OURS_ALONE} and ether src {}", from_there.join(":"));
        let tcpdump = Tcpdump::start(to.0, to.1, file, &filter).unwrap();
        let budget = Budget::new(Duration::from_secs(30), &Stop::new());
        let each = frames.iter().map(Vec::as_slice);
        inject::frames(from.0, from.1, each, Duration::from_micros(100), &budget).unwrap();
        assert_eq!(tcpdump.stop().unwrap().dropped_by_kernel, 0);
        tshark::frames(file)
    }

    /// Filters that match nothing, by their priority.
    fn u32_filter(&self, way: Way, priority: u16) {
        self.u32_filter_of_chain(0, way, priority);
    }

    fn u32_filter_of_chain(&self, chain: u32, way: Way, priority: u16) {
        let at = format!(
            "filter add dev {ROUTER_CLIENT_INTERFACE} {} chain {chain} prio {priority}",
            way.name()
        );
        self.said("tc", &format!("{at} protocol all u32 match u32 1 0xffffffff flowid 1:1"));
    }
}

/// Where the host has bridges ask iptables, they cut padding off and drop what is no whole IP. A setting of the calling
/// thread's network namespace.
fn leave_frames_alone() {
    for tables in ["iptables", "ip6tables", "arptables"] {
        let path = format!("/proc/sys/net/bridge/bridge-nf-call-{tables}");
        match std::fs::write(path, "0") {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            other => other.unwrap(),
        }
    }
}

/// Everybody else's programs.
#[derive(Default)]
struct Others {
    programs: Vec<Foreign>,
    links: Vec<OnHook>,
}

impl Others {
    fn tcx(&mut self, scene: &Scene, name: &str, way: Way, end: End) {
        let program = Foreign::tc(name);
        self.links.push(program.onto_tcx(scene.port(), way, end));
        self.programs.push(program);
    }

    fn clsact(&mut self, scene: &Scene, name: &str, way: Way, priority: u16) {
        let program = Foreign::tc(name);
        program.onto_clsact(scene.port(), way, priority);
        self.programs.push(program);
    }

    fn xdp(&mut self, scene: &Scene, xdp: Xdp) {
        let program = Foreign::xdp("foreign_xdp");
        self.links.push(program.onto_xdp(scene.port(), xdp != Xdp::NativeBefore));
        self.programs.push(program);
        // Native XDP turns receive merging on, and the bridge's ends send what a wire would carry.
        scene.said("ethtool", &format!("-K {ROUTER_CLIENT_INTERFACE} gro off"));
    }

    /// Before linnet starts: on every hook that it leaves them, from both ends.
    fn come_first(&mut self, scene: &Scene) {
        scene.said("tc", &format!("qdisc add dev {ROUTER_CLIENT_INTERFACE} clsact"));
        for way in Way::BOTH {
            self.tcx(scene, "foreign_tcx_1", way, End::First);
            self.tcx(scene, "foreign_tcx_2", way, End::Last);
            self.clsact(scene, "foreign_cls_1", way, 1);
            scene.u32_filter(way, 2);
            scene.u32_filter(way, 50_000);
            self.clsact(scene, "foreign_cls_2", way, 50_001);
            // In a chain of its own, that nothing leads to.
            scene.u32_filter_of_chain(7, way, 1);
        }
    }

    /// While it runs: before and behind it, and in between.
    fn come_later(&mut self, scene: &Scene) {
        for way in Way::BOTH {
            self.tcx(scene, "foreign_tcx_3", way, End::First);
            self.tcx(scene, "foreign_tcx_4", way, End::Last);
            scene.u32_filter(way, 3);
            self.clsact(scene, "foreign_cls_3", way, 4_216);
            self.clsact(scene, "foreign_cls_4", way, 4_218);
            scene.u32_filter(way, 60_000);
        }
    }

    /// All that the tools say of it; what is linnet's left out.
    fn shown(&self, scene: &Scene, linnet: Option<&Linnet>) -> Vec<String> {
        let (_, dev) = scene.port();
        let ours = linnet.map(|linnet| Held::by(linnet.pid()).programs).unwrap_or_default();
        let is_ours = |id: &Value| id.as_u64().is_some_and(|id| ours.contains(&id));
        let mut shown = vec![scene.said("tc", &format!("qdisc show dev {dev}"))];
        for way in Way::BOTH {
            shown.push(without_ours(
                &scene.said("tc", &format!("filter show dev {dev} {}", way.name())),
            ));
            let tcx = tcx_of_kernel(scene, way).into_iter().filter(|id| !is_ours(&json!(id)));
            shown.push(format!("{:?}", tcx.collect::<Vec<_>>()));
        }
        let mut net: Value = serde_json::from_str(&scene.said("bpftool", "-j net")).unwrap();
        for kind in ["xdp", "tc"] {
            let list = net[0][kind].as_array_mut().unwrap();
            list.retain(|it| !is_ours(&it["id"]));
        }
        shown.push(net.to_string());
        let link = format!("-d -j link show dev {dev}");
        let mut link: Value = serde_json::from_str(&scene.said("ip", &link)).unwrap();
        if is_ours(&link[0]["xdp"]["prog"]["id"]) {
            link[0].as_object_mut().unwrap().retain(|key, _| key != "xdp");
        }
        shown.push(link.to_string());
        shown.extend(self.programs.iter().map(Foreign::shown));
        shown.extend(self.links.iter().map(OnHook::shown));
        shown
    }
}

/// tc's list without linnet's filters, each of which is a line and those that are indented under it.
fn without_ours(list: &str) -> String {
    let mut kept = String::new();
    let mut is_ours = false;
    for line in list.lines() {
        if line.starts_with("filter ") {
            is_ours = line.contains(OUR_PRIORITY);
        }
        if !is_ours {
            kept += line;
            kept.push('\n');
        }
    }
    kept
}

fn tcx_of_kernel(scene: &Scene, way: Way) -> Vec<u32> {
    let (namespace, interface) = scene.port();
    let kind = match way {
        Way::Ingress => TcAttachType::Ingress,
        Way::Egress => TcAttachType::Egress,
    };
    let ask = || SchedClassifier::query_tcx(interface, kind).unwrap().1;
    namespace.run(ask).unwrap().iter().map(|program| program.id()).collect()
}

/// Who is on the hooks of a direction in the order of packets, as the tools and the kernel's query have it.
fn order_of_kernel(scene: &Scene, way: Way) -> Vec<(String, Option<u64>)> {
    let (_, dev) = scene.port();
    let link: Value =
        serde_json::from_str(&scene.said("ip", &format!("-d -j link show dev {dev}"))).unwrap();
    let mut order = Vec::new();
    if way == Way::Ingress {
        let id = link[0]["xdp"]["prog"]["id"].as_u64();
        order.extend(id.map(|id| ("xdp".to_owned(), Some(id))));
    }
    let tcx = tcx_of_kernel(scene, way).into_iter();
    order.extend(tcx.map(|id| ("tcx".to_owned(), Some(u64::from(id)))));
    // A filter of a program is a line with its handle; of u32 each priority has a line of its own, and then the tables,
    // those of the other direction too where the priority is the same.
    let filters = scene.said("tc", &format!("filter show dev {dev} {}", way.name()));
    let is_u32 = |line: &str| line.contains(" u32 ") && !line.contains(" fh ");
    let is_filter = |line: &&str| is_u32(line) || line.contains(" handle ");
    order.extend(filters.lines().filter(is_filter).map(|line| {
        let words: Vec<_> = line.split_whitespace().collect();
        let id = words.iter().position(|word| *word == "id").map(|at| words[at + 1]);
        ("clsact".to_owned(), id.map(|id| id.parse().unwrap()))
    }));
    order
}

fn row(linnet: &Linnet) -> Value {
    linnet.see("/api/v1/interfaces", "interfaces")[0].take()
}

/// The same, as linnet reports it.
fn reported(row: &Value, way: Way) -> Vec<(String, Option<u64>)> {
    let links = row[way.name()]["chain"].as_array().unwrap().iter();
    let hook = |link: &Value| link["hook"].as_str().unwrap().to_owned();
    links.map(|link| (hook(link), link["program_id"].as_u64())).collect()
}

fn assert_reported(what: &str, scene: &Scene, linnet: &Linnet) {
    for way in Way::BOTH {
        let kernel = order_of_kernel(scene, way);
        let mut last = Vec::new();
        wait_for(&format!("{what}: {} as in the kernel: {kernel:?}", way.name()), || {
            let now = reported(&row(linnet), way);
            if now != last {
                println!("{what}: {} {now:?}", way.name());
                last = now;
            }
            (last == kernel).then_some(())
        });
        // What linnet calls its own is what its process holds.
        let held = Held::by(linnet.pid()).programs;
        for link in row(linnet)[way.name()]["chain"].as_array().unwrap() {
            let ours = link["program_id"].as_u64().is_some_and(|id| held.contains(&id));
            assert_eq!(link["ours"], ours, "{what}: {link}");
        }
    }
}

fn assert_same<T: PartialEq + std::fmt::Debug>(what: &str, now: &[T], before: &[T]) {
    let first = now.iter().zip(before).position(|(now, before)| now != before);
    assert_eq!(first.map(|at| (at, &now[at], &before[at])), None, "{what}");
    assert_eq!(now.len(), before.len(), "{what}");
}

fn assert_arrived(what: &str, now: &[Vec<String>; 2], before: &[Vec<String>; 2]) {
    for (way, (now, before)) in
        ["to the server", "to the client"].iter().zip(now.iter().zip(before))
    {
        assert_same(&format!("{what}, {way}"), now, before);
    }
}

fn hexadecimal(frames: &[Vec<u8>]) -> Vec<String> {
    frames.iter().map(|frame| frame.iter().map(|byte| format!("{byte:02x}")).collect()).collect()
}

fn seen(linnet: &Linnet) -> u64 {
    linnet.settle();
    linnet.see("/api/v1/flows", "loss")["seen"].as_u64().unwrap()
}

/// One mode of linnet's among everybody else's, from before its start to after its end. `xdp` is when another's XDP
/// program comes, where linnet leaves that hook to others.
fn among_others(name: &str, modes: &str, xdp: Option<Xdp>, hooks: [&str; 2]) {
    if !can_run("traffic among other people's programs") {
        return;
    }
    let scene = Scene::build(name);
    let mut others = Others::default();
    others.come_first(&scene);
    if let Some(xdp) = xdp.filter(|it| *it != Xdp::GenericLater) {
        others.xdp(&scene, xdp);
    }
    let before = others.shown(&scene, None);
    let without = scene.cross("without");
    let sent = [hexadecimal(&scene.to_server), hexadecimal(&scene.to_client)];
    assert_arrived("the others change nothing", &without, &sent);

    let linnet = Linnet::watch(name, &[scene.spec(modes)]);
    // Native XDP turns receive merging on, and the bridge's ends send what a wire would carry.
    scene.said("ethtool", &format!("-K {ROUTER_CLIENT_INTERFACE} gro off"));
    let now = row(&linnet);
    let attached = ["ingress", "egress"].map(|way| now[way]["hook"].as_str().unwrap());
    assert_eq!(attached, hooks, "{now}");
    assert_same("linnet came", &others.shown(&scene, Some(&linnet)), &before);
    assert_reported("linnet came", &scene, &linnet);
    let counted = seen(&linnet);
    assert_arrived("with linnet", &scene.cross("with"), &without);
    let counted = seen(&linnet) - counted;
    assert!(counted >= 2 * FRAMES as u64, "linnet saw both directions: {counted}");

    others.come_later(&scene);
    if xdp == Some(Xdp::GenericLater) {
        others.xdp(&scene, Xdp::GenericLater);
    }
    let more = others.shown(&scene, Some(&linnet));
    assert_reported("others came", &scene, &linnet);
    assert_arrived("with more of them", &scene.cross("more"), &without);

    let (status, answer) = linnet.post("/api/v1/captures", &json!({}));
    assert_eq!(status, 201, "{answer}");
    assert_same("a capture began", &others.shown(&scene, Some(&linnet)), &more);
    assert_reported("a capture began", &scene, &linnet);
    assert_arrived("while a capture runs", &scene.cross("captured"), &without);
    let id = answer["capture"]["id"].as_str().unwrap();
    let capture = linnet.see(&format!("/api/v1/captures/{id}"), "capture");
    assert_eq!(linnet.post(&format!("/api/v1/captures/{id}/stop"), &json!({})).0, 200);
    assert!(capture["offered"].as_u64().unwrap() > 0, "it did capture: {capture}");
    assert_same("the capture ended", &others.shown(&scene, Some(&linnet)), &more);
    assert_reported("the capture ended", &scene, &linnet);
    assert_eq!(row(&linnet)["state"], "attached");

    assert!(linnet.stop().success());
    assert_same("linnet ended", &others.shown(&scene, None), &more);
    assert_arrived("after linnet", &scene.cross("after"), &without);
    println!(
        "{name}: {hooks:?}, {} others, {FRAMES} frames each way, five times the same",
        others.programs.len()
    );
}

/// Where and when another's XDP program comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Xdp {
    GenericBefore,
    NativeBefore,
    GenericLater,
}

#[test]
fn tcx_among_others() {
    among_others("fr-tcx", ",ingress=tcx,egress=tcx", Some(Xdp::GenericBefore), ["tcx", "tcx"]);
}

#[test]
fn clsact_among_others() {
    let modes = ",ingress=clsact,egress=clsact";
    among_others("fr-clsact", modes, Some(Xdp::GenericLater), ["clsact", "clsact"]);
}

#[test]
fn generic_xdp_among_others() {
    among_others("fr-xdpgen", ",ingress=xdp-generic,egress=tcx", None, ["xdp-generic", "tcx"]);
}

#[test]
fn native_xdp_among_others() {
    among_others("fr-xdp", ",ingress=xdp,egress=clsact", None, ["xdp", "clsact"]);
}

#[test]
fn xdp_that_another_holds_stays_theirs() {
    let modes = ",ingress=xdp-generic,egress=tcx";
    among_others("fr-held", modes, Some(Xdp::GenericBefore), ["tcx", "tcx"]);
}

#[test]
fn native_xdp_that_another_holds_stays_theirs() {
    let modes = ",ingress=xdp,egress=clsact";
    among_others("fr-held-nat", modes, Some(Xdp::NativeBefore), ["tcx", "clsact"]);
}

/// Datagrams that the others deal with, and some that they leave alone.
const THEIRS: u16 = 7_777;
const LEFT_ALONE: u16 = 8_888;
const DATAGRAMS: usize = 20;

fn datagrams(from: [u8; 6], to: [u8; 6], (source, destination): (u8, u8)) -> Vec<Vec<u8>> {
    let datagram = |port: u16| {
        let mut header = vec![
            0x45,
            0,
            0,
            32,
            0,
            0,
            0x40,
            0,
            64,
            17,
            0,
            0,
            10,
            99,
            0,
            source,
            10,
            99,
            0,
            destination,
        ];
        let words = header.chunks(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]])));
        let sum: u32 = words.sum();
        let checksum = !((sum & 0xffff) + (sum >> 16)) as u16;
        header[10..12].copy_from_slice(&checksum.to_be_bytes());
        let udp = [40_000, port, 12, 0].map(u16::to_be_bytes).concat();
        let payload = [[9; 4].as_slice(), &[0; 14]].concat();
        [to.as_slice(), &from, &[8, 0], &header, &udp, &payload].concat()
    };
    let pair = [datagram(THEIRS), datagram(LEFT_ALONE)];
    (0..DATAGRAMS).flat_map(|_| pair.clone()).collect()
}

/// Packets of the interface's flows to a port, by the responder's.
fn packets_to(linnet: &Linnet, spec: &str, port: u16) -> u64 {
    let flows = linnet.flows(spec);
    let to_port = flows.iter().filter(|flow| flow["responder"]["port"] == port);
    to_port.map(|flow| flow["from_originator"]["packets"].as_u64().unwrap()).sum()
}

/// Somebody before linnet who deals with datagrams of a port in his way.
struct Case {
    what: &'static str,
    modes: &'static str,
    /// In which direction, on which hook, and what he says.
    way: Way,
    hook: &'static str,
    verdict: Verdict,
    /// Whether his datagrams arrive.
    arrive: bool,
}

const CASES: [Case; 7] = [
    Case {
        what: "tcx drops",
        modes: ",ingress=tcx,egress=tcx",
        way: Way::Ingress,
        hook: "tcx",
        verdict: Verdict::TC_SHOT,
        arrive: false,
    },
    Case {
        what: "tcx drops what is sent",
        modes: ",ingress=tcx,egress=tcx",
        way: Way::Egress,
        hook: "tcx",
        verdict: Verdict::TC_SHOT,
        arrive: false,
    },
    Case {
        what: "tcx passes on by itself",
        modes: ",ingress=tcx,egress=tcx",
        way: Way::Ingress,
        hook: "tcx",
        verdict: Verdict::TC_OK,
        arrive: true,
    },
    Case {
        what: "tcx passes on past filters",
        modes: ",ingress=tcx,egress=clsact",
        way: Way::Egress,
        hook: "tcx",
        verdict: Verdict::TC_OK,
        arrive: true,
    },
    Case {
        what: "a filter drops",
        modes: ",ingress=clsact,egress=clsact",
        way: Way::Egress,
        hook: "clsact",
        verdict: Verdict::TC_SHOT,
        arrive: false,
    },
    Case {
        what: "a filter passes on by itself",
        modes: ",ingress=clsact,egress=clsact",
        way: Way::Ingress,
        hook: "clsact",
        verdict: Verdict::TC_OK,
        arrive: true,
    },
    Case {
        what: "xdp drops",
        modes: ",ingress=tcx,egress=tcx",
        way: Way::Ingress,
        hook: "xdp",
        verdict: Verdict::XDP_DROP,
        arrive: false,
    },
];

#[test]
fn what_others_keep_is_not_counted_and_the_report_says_so() {
    if !can_run("others who keep packets") {
        return;
    }
    for (number, case) in CASES.iter().enumerate() {
        let scene = Scene::build(&format!("fr-keep-{number}"));
        let spec = scene.spec("");
        let (to_server, to_client) =
            (datagrams(HERE, THERE, (1, 2)), datagrams(THERE, HERE, (2, 1)));
        let send = |name: &str| scene.send(name, &to_server, &to_client);
        let linnet = Linnet::watch(&format!("keep-{number}"), &[scene.spec(case.modes)]);
        let alone = send("alone");
        assert_arrived(case.what, &alone, &[hexadecimal(&to_server), hexadecimal(&to_client)]);
        let counted = [THEIRS, LEFT_ALONE].map(|port| packets_to(&linnet, &spec, port));
        assert_eq!(counted, [2 * DATAGRAMS as u64; 2], "{}", case.what);

        let name = "foreign_port";
        let (program, _link) = if case.hook == "xdp" {
            let program = Foreign::xdp_of_port(name, THEIRS, case.verdict);
            let link = program.onto_xdp(scene.port(), true);
            (program, Some(link))
        } else {
            let program = Foreign::tc_of_port(name, THEIRS, case.verdict);
            let link = if case.hook == "tcx" {
                Some(program.onto_tcx(scene.port(), case.way, End::First))
            } else {
                program.onto_clsact(scene.port(), case.way, 1);
                None
            };
            (program, link)
        };
        let said =
            format!("`{name}` (program {}) on {} comes before linnet", program.id, case.hook);
        let notice = wait_for("a notice of who comes before", || {
            linnet.notices().into_iter().find(|notice| notice.contains(&said))
        });
        assert!(notice.contains(&format!("on the {} of `{spec}`", case.way.name())), "{notice}");
        let by_itself = case.hook != "xdp";
        assert_eq!(notice.contains("passes on by itself (TC_ACT_OK)"), by_itself, "{notice}");
        assert!(notice.contains("drops") && notice.ends_with("are not counted"), "{notice}");
        assert_reported(case.what, &scene, &linnet);

        let with = send("with");
        // One direction of the two meets the other's program, which is before linnet.
        let counted = [THEIRS, LEFT_ALONE].map(|port| packets_to(&linnet, &spec, port));
        assert_eq!(counted, [3, 4].map(|times| times * DATAGRAMS as u64), "{}", case.what);
        assert!(linnet.stop().success());
        let after = send("after");
        assert_arrived(&format!("{}: with linnet and without", case.what), &with, &after);
        let there = usize::from(case.way == Way::Egress);
        let lost = alone[there].len() - after[there].len();
        assert_eq!(lost, if case.arrive { 0 } else { DATAGRAMS }, "{}", case.what);
        assert_same(case.what, &after[1 - there], &alone[1 - there]);
        println!("{}: {notice}", case.what);
    }
}

/// What `linnet doctor`, which is root here, says of a daemon's interfaces.
fn doctor(linnet: &Linnet) -> String {
    let mut doctor = Command::new(env!("CARGO_BIN_EXE_linnet"));
    let output = doctor.arg("doctor").arg("--socket").arg(linnet.socket()).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn the_doctor_names_what_the_attacher_may_not() {
    if !can_run("the doctor on other people's programs") {
        return;
    }
    let scene = Scene::build("fr-doctor");
    let (first, last) = (Foreign::tc("foreign_first"), Foreign::tc("foreign_last"));
    let filter = Foreign::tc("foreign_filter");
    let _behind = last.onto_tcx(scene.port(), Way::Ingress, End::Last);
    scene.said("tc", &format!("qdisc add dev {ROUTER_CLIENT_INTERFACE} clsact"));
    filter.onto_clsact(scene.port(), Way::Egress, 1);
    // From inside, so that no other namespace is configured, and the attacher goes without CAP_SYS_ADMIN.
    let request = format!("{ROUTER_CLIENT_INTERFACE},ingress=tcx,egress=clsact");
    let linnet = scene.port().0.run(|| Linnet::watch("doctor", &[request])).unwrap();
    let _before = first.onto_tcx(scene.port(), Way::Ingress, End::First);
    let names = |way: Way| -> Vec<Value> {
        let row = row(&linnet);
        let links = row[way.name()]["chain"].as_array().unwrap().iter();
        links.map(|link| link["name"].clone()).collect()
    };
    wait_for("the chain", || {
        (names(Way::Ingress) == [Value::Null, json!("linnet_ingress"), Value::Null]).then_some(())
    });
    assert_eq!(names(Way::Egress)[1], "linnet_egress");
    let row = row(&linnet);
    let id = |way: Way| row[way.name()]["program_id"].as_u64().unwrap();
    let noticed = |said: &String| said.contains("comes before linnet on the ingress");
    let said = wait_for("the notice", || Some(doctor(&linnet)).filter(noticed));
    println!("{said}");
    for line in [
        format!("{ROUTER_CLIENT_INTERFACE} (index {}): attached", row["ifindex"]),
        "  ingress  on tcx: asked for".to_owned(),
        format!(
            "           in the order of packets: tcx foreign_first (program {}) > tcx linnet_ingress (program {}, linnet) > tcx foreign_last (program {})",
            first.id,
            id(Way::Ingress),
            last.id
        ),
        "  egress   on clsact: asked for".to_owned(),
        format!(
            "           in the order of packets: clsact {} (program {}) > clsact linnet_egress (program {}, linnet)",
            names(Way::Egress)[0].as_str().unwrap(),
            filter.id,
            id(Way::Egress)
        ),
    ] {
        assert!(said.lines().any(|it| it == line), "{line}\n{said}");
    }
    let notice =
        format!("`a program` (program {}) on tcx comes before linnet on the ingress", first.id);
    assert!(said.contains(&notice), "{notice}\n{said}");
    assert!(linnet.stop().success());
    let said = doctor(&Linnet::watch("doctor-all", &[scene.spec(",egress=off")]));
    let why = "  ingress  on tcx: tc sees what the stack sees and changes nothing";
    assert!(said.lines().any(|it| it == why), "{said}");
    assert!(said.lines().any(|it| it == "  egress   not watched"), "{said}");
}
