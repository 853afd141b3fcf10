//! A bridged path with others' programs on it, and the kernel's own account of one of its interfaces, to compare linnet's
//! with. Must never take linnet's word for what the kernel has.

use std::{path::Path, time::Duration};

use aya::programs::{SchedClassifier, TcAttachType};
use lab::{
    CLIENT_INTERFACE, Lab, Namespace, Plan, ROUTER_CLIENT_INTERFACE, SERVER_INTERFACE,
    capture::Tcpdump,
    traffic::{Budget, Stop, inject},
};
use serde_json::Value;

use super::{Random, foreign::Way, held::Held, linnet::Linnet, tshark, wait_for};

/// Who the frames are between: neither end's own address, since those speak whenever they like.
pub(crate) const HERE: [u8; 6] = [2, 0, 0, 0x99, 0, 1];
pub(crate) const THERE: [u8; 6] = [2, 0, 0, 0x99, 0, 2];
pub(crate) const OURS_ALONE: &str = "ether host 02:00:00:99:00:01";
/// Frames of each direction.
pub(crate) const FRAMES: usize = 250;

pub(crate) fn can_run(what: &str) -> bool {
    let tools = ["ip", "tc", "bpftool", "curl", "tcpdump", "tshark", "ethtool"];
    super::kernel(what) && tools.iter().all(|tool| lab::require_tool(tool, what))
}

/// A bridge between two ends; linnet and the others are on its port at the client's side, so that what the client sends
/// meets the port's ingress, and what it receives the egress.
pub(crate) struct Scene {
    pub(crate) lab: Lab,
    folder: tempfile::TempDir,
    pub(crate) to_server: Vec<Vec<u8>>,
    pub(crate) to_client: Vec<Vec<u8>>,
}

impl Scene {
    pub(crate) fn build(name: &str) -> Self {
        // On two CPUs frames may overtake each other on a veth pair, with and without linnet. Threads inherit this.
        lab::processor::stay_on_one(0).unwrap();
        let lab = Lab::build(Plan::bridged(name, false)).unwrap();
        lab.router().unwrap().run(leave_frames_alone).unwrap();
        let mut random = Random(23);
        let mut frames = |from: [u8; 6], to: [u8; 6]| {
            let mut frame = || {
                let mut frame = super::frame(&mut random);
                frame[..12].copy_from_slice(&[to, from].concat());
                frame
            };
            (0..FRAMES).map(|_| frame()).collect::<Vec<_>>()
        };
        let (to_server, to_client) = (frames(HERE, THERE), frames(THERE, HERE));
        Self { lab, folder: tempfile::tempdir().unwrap(), to_server, to_client }
    }

    pub(crate) fn port(&self) -> (&Namespace, &'static str) {
        (self.lab.router().unwrap(), ROUTER_CLIENT_INTERFACE)
    }

    pub(crate) fn spec(&self, modes: &str) -> String {
        format!("{}/{ROUTER_CLIENT_INTERFACE}{modes}", self.port().0.name())
    }

    pub(crate) fn said(&self, tool: &str, args: &str) -> String {
        let output = self.port().0.command(tool).args(args.split(' ')).output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{tool} {args}: {error}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// What arrives of the frames in both directions: at the server, and at the client.
    pub(crate) fn cross(&self, name: &str) -> [Vec<String>; 2] {
        self.send(name, &self.to_server, &self.to_client)
    }

    pub(crate) fn send(
        &self,
        name: &str,
        to_server: &[Vec<u8>],
        to_client: &[Vec<u8>],
    ) -> [Vec<String>; 2] {
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
    pub(crate) fn u32_filter(&self, way: Way, priority: u16) {
        self.u32_filter_of_chain(0, way, priority);
    }

    pub(crate) fn u32_filter_of_chain(&self, chain: u32, way: Way, priority: u16) {
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

pub(crate) fn tcx_of_kernel(scene: &Scene, way: Way) -> Vec<u32> {
    let (namespace, interface) = scene.port();
    let kind = match way {
        Way::Ingress => TcAttachType::Ingress,
        Way::Egress => TcAttachType::Egress,
    };
    let ask = || SchedClassifier::query_tcx(interface, kind).unwrap().1;
    namespace.run(ask).unwrap().iter().map(|program| program.id()).collect()
}

/// Who is on the hooks of a direction in the order of packets, as the tools and the kernel's query have it.
pub(crate) fn order_of_kernel(scene: &Scene, way: Way) -> Vec<(String, Option<u64>)> {
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

pub(crate) fn row(linnet: &Linnet) -> Value {
    linnet.see("/api/v1/interfaces", "interfaces")[0].take()
}

/// The same, as linnet reports it.
pub(crate) fn reported(row: &Value, way: Way) -> Vec<(String, Option<u64>)> {
    let links = row[way.name()]["chain"].as_array().unwrap().iter();
    let hook = |link: &Value| link["hook"].as_str().unwrap().to_owned();
    links.map(|link| (hook(link), link["program_id"].as_u64())).collect()
}

pub(crate) fn assert_reported(what: &str, scene: &Scene, linnet: &Linnet) {
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

pub(crate) fn assert_same<T: PartialEq + std::fmt::Debug>(what: &str, now: &[T], before: &[T]) {
    let first = now.iter().zip(before).position(|(now, before)| now != before);
    assert_eq!(first.map(|at| (at, &now[at], &before[at])), None, "{what}");
    assert_eq!(now.len(), before.len(), "{what}");
}

pub(crate) fn assert_arrived(what: &str, now: &[Vec<String>; 2], before: &[Vec<String>; 2]) {
    for (way, (now, before)) in
        ["to the server", "to the client"].iter().zip(now.iter().zip(before))
    {
        assert_same(&format!("{what}, {way}"), now, before);
    }
}

pub(crate) fn hexadecimal(frames: &[Vec<u8>]) -> Vec<String> {
    frames.iter().map(|frame| frame.iter().map(|byte| format!("{byte:02x}")).collect()).collect()
}
