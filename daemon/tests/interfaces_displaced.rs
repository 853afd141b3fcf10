//! Other people's programs before, after and around linnet's: all stay as they are, linnet reports them in their order,
//! and comes back, or stays off, when it is taken off. Must never touch an interface that the test did not make.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test fails by panicking and says what it found"
)]

mod support;

use std::process::Command;

use aya::{
    Ebpf,
    programs::{
        LinkOrder, SchedClassifier, TcAttachType, Xdp, XdpMode,
        tc::{SchedClassifierLinkId, TcAttachOptions},
    },
};
use daemon::live::Object;
use lab::{CLIENT_INTERFACE, Lab, Namespace, Plan};
use serde_json::{Value, json};
use support::{held::Held, linnet::Linnet, pair::Pair, wait_for};

fn can_run(what: &str) -> bool {
    let tools = ["ip", "tc", "bpftool", "curl"];
    support::kernel(what) && tools.iter().all(|tool| lab::require_tool(tool, what))
}

/// Somebody else's program, which does nothing; a whole object of its own, so that each has an id.
struct Foreign {
    object: Ebpf,
    name: &'static str,
}

impl Foreign {
    fn load(object: Object, name: &'static str) -> Self {
        Self { object: Ebpf::load(object.bytes().unwrap()).unwrap(), name }
    }

    fn xdp(&mut self) -> &mut Xdp {
        let program: &mut Xdp = self.object.program_mut(self.name).unwrap().try_into().unwrap();
        if program.fd().is_err() {
            program.load().unwrap();
        }
        program
    }

    fn tc(&mut self) -> &mut SchedClassifier {
        let program: &mut SchedClassifier =
            self.object.program_mut(self.name).unwrap().try_into().unwrap();
        if program.fd().is_err() {
            program.load().unwrap();
        }
        program
    }

    fn tcx(&mut self, interface: &str, order: LinkOrder) -> SchedClassifierLinkId {
        let options = TcAttachOptions::TcxOrder(order);
        self.tc().attach_with_options(interface, TcAttachType::Ingress, options).unwrap()
    }

    fn id(&self) -> u32 {
        self.object.program(self.name).unwrap().info().unwrap().id()
    }
}

fn said(namespace: &Namespace, tool: &str, args: &str) -> String {
    let output = namespace.command(tool).args(args.split(' ')).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{tool} {args}: {error}");
    String::from_utf8(output.stdout).unwrap()
}

fn row(linnet: &Linnet) -> Value {
    linnet.see("/api/v1/interfaces", "interfaces")[0].take()
}

fn notices(linnet: &Linnet) -> String {
    linnet.notices().join("\n")
}

/// The reported chain as `hook name id ours`, short.
fn chain(row: &Value, way: &str) -> Vec<(String, String, Option<u64>, bool)> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let links = row[way]["chain"].as_array().unwrap().iter();
    links
        .map(|link| {
            let ours = link["ours"].as_bool().unwrap();
            (text(&link["hook"]), text(&link["name"]), link["program_id"].as_u64(), ours)
        })
        .collect()
}

/// The TCX programs of a direction, in order, as the kernel has them.
fn tcx_of_kernel(namespace: &Namespace) -> Vec<u32> {
    let ask = || SchedClassifier::query_tcx(CLIENT_INTERFACE, TcAttachType::Ingress).unwrap().1;
    namespace.run(ask).unwrap().iter().map(|program| program.id()).collect()
}

#[test]
fn what_others_have_attached_stays_and_is_reported_in_its_order() {
    if !can_run("other people's programs") {
        return;
    }
    let lab = Lab::build(Plan::direct("chain")).unwrap();
    let client = lab.client();
    let mut xdp = Foreign::load(Object::Xdp, "linnet_xdp_nop");
    let mut before = Foreign::load(Object::Tc, "linnet_tc_nop");
    let mut after = Foreign::load(Object::Tc, "linnet_tc_nop");
    client
        .run(|| {
            xdp.xdp().attach(CLIENT_INTERFACE, XdpMode::Skb).unwrap();
            after.tcx(CLIENT_INTERFACE, LinkOrder::first());
        })
        .unwrap();
    said(client, "tc", &format!("qdisc add dev {CLIENT_INTERFACE} clsact"));
    for priority in [1, 50_000] {
        let filter =
            format!("filter add dev {CLIENT_INTERFACE} egress protocol all prio {priority}");
        said(client, "tc", &format!("{filter} u32 match u32 1 0xffffffff flowid 1:1"));
    }
    let filters = || said(client, "tc", &format!("filter show dev {CLIENT_INTERFACE} egress"));
    let filters_before = filters();
    let spec = format!("{}/{CLIENT_INTERFACE},ingress=tcx,egress=clsact", client.name());
    let linnet = Linnet::watch("chain", &[spec]);
    // Linnet went to the front; now another one comes before it.
    client.run(|| before.tcx(CLIENT_INTERFACE, LinkOrder::first())).unwrap();
    let ours = u32::try_from(row(&linnet)["ingress"]["program_id"].as_u64().unwrap()).unwrap();
    let tcx = [before.id(), ours, after.id()];
    assert_eq!(tcx_of_kernel(client), tcx);
    let link = |hook: &str, name: &str, id: u32, ours| {
        (hook.to_owned(), name.to_owned(), Some(u64::from(id)), ours)
    };
    let expected = vec![
        link("xdp", "linnet_xdp_nop", xdp.id(), false),
        link("tcx", "linnet_tc_nop", before.id(), false),
        link("tcx", "linnet_ingress", ours, true),
        link("tcx", "linnet_tc_nop", after.id(), false),
    ];
    wait_for("the chain of ingress", || {
        (chain(&row(&linnet), "ingress") == expected).then_some(())
    });
    let sent = chain(&row(&linnet), "egress");
    let sent: Vec<_> = sent.iter().map(|link| (&*link.0, &*link.1, link.3)).collect();
    let foreign = ("clsact", "u32", false);
    assert_eq!(sent, [foreign, ("clsact", "linnet_egress", true), foreign]);
    println!("ingress: {expected:?}\negress: {sent:?}");
    let notices = wait_for("a notice of who comes before", || {
        let notices = notices(&linnet);
        (notices.matches("comes before linnet").count() == 2).then_some(notices)
    });
    assert!(notices.contains("linnet_xdp_nop") && notices.contains("`u32` on clsact"), "{notices}");
    assert_eq!(row(&linnet)["state"], "attached");
    let doctor = doctor(&linnet);
    assert!(doctor.contains("linnet_xdp_nop") && doctor.contains("u32"), "{doctor}");
    println!("{doctor}");
    assert!(linnet.stop().success());
    assert_eq!(tcx_of_kernel(client), [before.id(), after.id()]);
    assert_eq!(filters(), filters_before);
    let shown = said(client, "ip", &format!("link show dev {CLIENT_INTERFACE}"));
    assert!(shown.contains(&format!("id {}", xdp.id())), "{shown}");
}

/// What `linnet doctor` says about a daemon.
fn doctor(linnet: &Linnet) -> String {
    let mut doctor = Command::new(env!("CARGO_BIN_EXE_linnet"));
    let output = doctor.arg("doctor").arg("--socket").arg(linnet.socket()).output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

/// Takes linnet's TCX link off, as anyone may.
fn take_off(linnet: &Linnet) {
    let held = Held::by(linnet.pid());
    let (id, _) = held.links.iter().find(|(_, kind)| *kind == "tcx").unwrap();
    let done = Command::new("bpftool").args(["link", "detach", "id", &id.to_string()]).status();
    assert!(done.unwrap().success());
}

#[test]
fn linnet_that_was_taken_off_comes_back_at_a_bounded_rate() {
    if !can_run("linnet taken off its hooks") {
        return;
    }
    let lab = Lab::build(Plan::direct("off")).unwrap();
    let spec = format!("{}/{CLIENT_INTERFACE},ingress=tcx,egress=clsact", lab.client().name());
    let linnet = Linnet::watch("off", &[spec]);
    let point = row(&linnet)["point"].clone();
    let kept = Held::by(linnet.pid()).programs.len();
    let mut times_ms = Vec::new();
    for _ in 0..3 {
        let begun_ns = lab::clock::monotonic_ns();
        take_off(&linnet);
        said(lab.client(), "tc", &format!("filter del dev {CLIENT_INTERFACE} egress"));
        wait_for("linnet on both hooks", || {
            let filters =
                said(lab.client(), "tc", &format!("filter show dev {CLIENT_INTERFACE} egress"));
            (tcx_of_kernel(lab.client()).len() == 1 && filters.contains("linnet_egress"))
                .then_some(())
        });
        times_ms.push((lab::clock::monotonic_ns() - begun_ns) / 1_000_000);
        wait_for("the report", || (row(&linnet)["state"] == "attached").then_some(()));
    }
    println!("taken off three times: back after {times_ms:?} ms");
    assert!(times_ms[0] < 2_000, "at once: {times_ms:?}");
    assert!(times_ms[2] > times_ms[0] + 500, "each time later: {times_ms:?}");
    assert_eq!(row(&linnet)["point"], point, "the interface is the same");
    let held = Held::by(linnet.pid());
    assert_eq!((held.programs.len(), held.links.len()), (kept, 1));
    linnet.settle();
    let loss = linnet.see("/api/v1/flows", "loss");
    let sum: u64 = loss["ledger"].as_object().unwrap().values().filter_map(Value::as_u64).sum();
    assert_eq!(loss["seen"].as_u64(), Some(sum), "{loss}");
}

/// A capture of everything, and how many packets were offered to it so far.
fn capture(linnet: &Linnet) -> String {
    let (status, answer) = linnet.post("/api/v1/captures", &json!({}));
    assert_eq!(status, 201, "{answer}");
    format!("/api/v1/captures/{}", answer["capture"]["id"].as_str().unwrap())
}

fn offered(linnet: &Linnet, capture: &str) -> u64 {
    linnet.see(capture, "capture")["offered"].as_u64().unwrap()
}

/// Takes the capture stage alone off: its TCX link of ingress, and its filter of egress.
fn take_stage_off(lab: &Lab, linnet: &Linnet) {
    let tracker = row(linnet)["ingress"]["program_id"].as_u64().unwrap();
    for (id, kind) in &Held::by(linnet.pid()).links {
        let show = ["-j", "link", "show", "id", &id.to_string()];
        let shown = Command::new("bpftool").args(show).output().unwrap();
        let shown: Value = serde_json::from_slice(&shown.stdout).unwrap();
        if kind == "tcx" && shown["prog_id"] != tracker {
            let detach = ["link", "detach", "id", &id.to_string()];
            assert!(Command::new("bpftool").args(detach).status().unwrap().success());
        }
    }
    let filters = said(lab.client(), "tc", &format!("filter show dev {CLIENT_INTERFACE} egress"));
    let stage = filters.lines().find(|line| line.contains("linnet_cap_out")).unwrap();
    let words: Vec<_> = stage.split_whitespace().collect();
    let after = |word: &str| words[words.iter().position(|it| *it == word).unwrap() + 1];
    let filter = format!(
        "filter del dev {CLIENT_INTERFACE} egress pref {} handle {} bpf",
        after("pref"),
        after("handle")
    );
    said(lab.client(), "tc", &filter);
}

/// How often the programs of captures are on the client's interface.
fn stages(lab: &Lab, linnet: &Linnet) -> (usize, usize) {
    let tracker = row(linnet)["ingress"]["program_id"].as_u64();
    let tcx = tcx_of_kernel(lab.client());
    let tcx = tcx.iter().filter(|id| Some(u64::from(**id)) != tracker).count();
    let filters = said(lab.client(), "tc", &format!("filter show dev {CLIENT_INTERFACE} egress"));
    (tcx, filters.lines().filter(|line| line.contains("linnet_cap_out")).count())
}

#[test]
fn a_capture_that_was_taken_off_goes_on() {
    if !can_run("a capture taken off its hooks") {
        return;
    }
    let lab = Lab::build(Plan::direct("stage")).unwrap();
    let spec = format!("{}/{CLIENT_INTERFACE},ingress=tcx,egress=clsact", lab.client().name());
    let linnet = Linnet::watch("stage", &[spec]);
    let capture = capture(&linnet);
    assert_eq!(stages(&lab, &linnet), (1, 1));
    let mut pair = Pair::open(&lab, 6_700);
    for round in 0..2 {
        take_stage_off(&lab, &linnet);
        wait_for("the capture on both hooks", || (stages(&lab, &linnet) == (1, 1)).then_some(()));
        let before = offered(&linnet, &capture);
        pair.exchange(20, 200);
        // Both directions: requests that are sent, and answers that are received.
        wait_for(&format!("packets of round {round}"), || {
            (offered(&linnet, &capture) >= before + 40).then_some(())
        });
    }
    assert_eq!(row(&linnet)["state"], "attached", "the trackers were never off");
    assert_eq!(linnet.post(&format!("{capture}/stop"), &json!({})).0, 200);
    assert_eq!(stages(&lab, &linnet), (0, 0));
    assert!(linnet.log().contains("CaptureStage"), "{}", linnet.log());
    assert!(linnet.stop().success());
}

#[test]
fn a_capture_that_is_to_yield_stays_off_and_says_so() {
    if !can_run("a capture that yields") {
        return;
    }
    let lab = Lab::build(Plan::direct("stage-yield")).unwrap();
    let spec = format!("{}/{CLIENT_INTERFACE},ingress=tcx,egress=clsact", lab.client().name());
    let linnet = Linnet::watch_with("stage-yield", &[spec], "on_displaced = \"yield\"\n");
    let first = capture(&linnet);
    take_stage_off(&lab, &linnet);
    let said = wait_for("notices of both directions", || {
        let said = notices(&linnet);
        (said.matches("taken the capture stage off").count() == 2).then_some(said)
    });
    assert!(said.contains("yield") && said.contains("the next capture"), "{said}");
    println!("{said}");
    linnet.settle();
    linnet.settle();
    assert_eq!(stages(&lab, &linnet), (0, 0));
    assert_eq!(row(&linnet)["state"], "attached");
    assert_eq!(linnet.post(&format!("{first}/stop"), &json!({})).0, 200);
    wait_for("no notice", || notices(&linnet).is_empty().then_some(()));
    capture(&linnet);
    assert_eq!(stages(&lab, &linnet), (1, 1));
    assert!(linnet.stop().success());
}

#[test]
fn linnet_that_is_to_yield_stays_off_and_says_so() {
    if !can_run("linnet that yields") {
        return;
    }
    let lab = Lab::build(Plan::direct("yield")).unwrap();
    let spec = format!("{}/{CLIENT_INTERFACE}", lab.client().name());
    let linnet = Linnet::watch_with("yield", &[spec], "on_displaced = \"yield\"\n");
    take_off(&linnet);
    wait_for("the report", || (row(&linnet)["state"] == "displaced").then_some(()));
    let notices = notices(&linnet);
    assert!(notices.contains("taken linnet off") && notices.contains("yield"), "{notices}");
    let sides = row(&linnet);
    let displaced = ["ingress", "egress"].map(|way| sides[way]["displaced"] == json!(true));
    assert_eq!(displaced.iter().filter(|it| **it).count(), 1, "{sides}");
    linnet.settle();
    linnet.settle();
    assert_eq!(row(&linnet)["state"], "displaced");
    println!("{}", doctor(&linnet));
    assert!(linnet.stop().success());
}

#[test]
fn another_xdp_program_in_linnets_place_stays_and_tc_takes_over() {
    if !can_run("another xdp program in linnet's place") {
        return;
    }
    let lab = Lab::build(Plan::direct("xdp-lost")).unwrap();
    let client = lab.client();
    let spec = format!("{}/{CLIENT_INTERFACE},ingress=xdp-generic,egress=off", client.name());
    let linnet = Linnet::watch("xdp-lost", &[spec]);
    let mut other = Foreign::load(Object::Xdp, "linnet_xdp_nop");
    other.xdp();
    wait_for("the other's program in linnet's place", || {
        let held = Held::by(linnet.pid());
        if let Some((id, _)) = held.links.iter().find(|(_, kind)| *kind == "xdp") {
            let id = id.to_string();
            Command::new("bpftool").args(["link", "detach", "id", &id]).status().unwrap();
        }
        // Linnet may have been quicker, and then it is taken off again.
        let attach = || other.xdp().attach(CLIENT_INTERFACE, XdpMode::Skb).map(drop);
        client.run(attach).unwrap().ok()
    });
    let row = wait_for("linnet on tc", || {
        let row = row(&linnet);
        (row["ingress"]["hook"] == "tcx" && row["state"] == "attached").then_some(row)
    });
    let reason = row["ingress"]["reason"].as_str().unwrap();
    assert!(reason.contains("another program holds it"), "{row}");
    let names: Vec<_> = chain(&row, "ingress").into_iter().map(|link| (link.1, link.3)).collect();
    let expected = [("linnet_xdp_nop".to_owned(), false), ("linnet_ingress".to_owned(), true)];
    assert_eq!(names, expected);
    println!("xdp-lost: {names:?}, since {reason}");
    assert!(linnet.stop().success());
    let shown = said(client, "ip", &format!("link show dev {CLIENT_INTERFACE}"));
    assert!(shown.contains(&format!("id {}", other.id())), "{shown}");
}
