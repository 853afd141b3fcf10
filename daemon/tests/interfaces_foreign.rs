//! Other people's programs before, after and around linnet's, in every mode of linnet's: they stay exactly as they are,
//! what crosses the interface is the same bit by bit, and linnet reports the kernel's own order. Must never touch an
//! interface that the test did not make, and never take linnet's word for what the kernel has.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test fails by panicking and makes its own numbers"
)]

mod support;

use lab::ROUTER_CLIENT_INTERFACE;
use serde_json::{Value, json};
use support::{
    foreign::{End, Foreign, OnHook, Way},
    held::Held,
    linnet::Linnet,
    scene::{
        FRAMES, Scene, assert_arrived, assert_reported, assert_same, can_run, hexadecimal, row,
        tcx_of_kernel,
    },
};

/// Priority of linnet's filters.
const OUR_PRIORITY: &str = "pref 4217 ";
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
