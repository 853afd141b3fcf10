//! Packets that other people's programs keep from linnet, or pass on without asking it: linnet counts none of them,
//! changes nothing about their fate, and its notices and `linnet doctor` say who may do that. Must never touch an
//! interface that the test did not make.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::cast_possible_truncation,
    reason = "a test fails by panicking and makes its own numbers"
)]

mod support;

use std::process::Command;

use lab::ROUTER_CLIENT_INTERFACE;
use serde_json::{Value, json};
use support::{
    foreign::{End, Foreign, Verdict, Way},
    linnet::Linnet,
    scene::{
        HERE, Scene, THERE, assert_arrived, assert_reported, assert_same, can_run, hexadecimal, row,
    },
    wait_for,
};

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
