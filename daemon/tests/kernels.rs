//! Kernels that lack something, as the configuration's table `[kernel]` makes this one be: what linnet refuses, what it
//! does instead, and what it says. And docs/kernels.md against the program. Must never leave a process, pin or filter
//! behind.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test fails by panicking and says what it found"
)]

mod support;

use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    process::{Command, Output},
};

use daemon::kernel::{Feature, Release};
use lab::{CLIENT_INTERFACE, Lab, Plan};
use serde_json::{Value, json};
use support::{linnet::Linnet, pair::Pair, wait_for};

const DOCUMENTATION: &str = include_str!("../../docs/kernels.md");
/// Exit codes: failed, usage, and a kernel that lacks what is needed.
const FAILED: i32 = 1;
const USAGE: i32 = 64;
const KERNEL: i32 = 71;

fn can_run(what: &str) -> bool {
    support::kernel(what) && ["curl", "tc", "ip"].iter().all(|tool| lab::require_tool(tool, what))
}

fn client_spec(lab: &Lab) -> String {
    format!("{}/{CLIENT_INTERFACE}", lab.client().name())
}

/// A start that must fail: its exit code and what it said. It must leave no pins.
fn refused(name: &str, spec: &str, keys: &str) -> (i32, String) {
    let folder = tempfile::tempdir().unwrap();
    let pins = support::linnet::pins(name);
    let mut command = support::linnet::command(folder.path(), &pins);
    fs::write(folder.path().join("linnet.toml"), format!("schema = 1\n{keys}")).unwrap();
    let output = command.args(["--interface", spec]).output().unwrap();
    assert!(!pins.exists() && !folder.path().join("run/api.sock").exists());
    println!("{keys}{}", text(&output.stderr));
    (output.status.code().unwrap(), text(&output.stderr))
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn doctor(folder: &Path, keys: &str, args: &[&str]) -> Output {
    let config = folder.join("linnet.toml");
    fs::write(&config, format!("schema = 1\n{keys}")).unwrap();
    let mut doctor = Command::new(env!("CARGO_BIN_EXE_linnet"));
    let output = doctor.args(["doctor", "--config"]).arg(&config).args(args).output().unwrap();
    println!("{keys}{}{}", text(&output.stdout), text(&output.stderr));
    output
}

fn notices(linnet: &Linnet) -> Vec<String> {
    let notices = linnet.see("/api/v1/status", "status")["notices"].clone();
    notices.as_array().unwrap().iter().map(|it| it.as_str().unwrap().to_owned()).collect()
}

/// The notice about the absence of a feature.
fn notice_of(notices: &[String], feature: Feature) -> Option<&String> {
    notices.iter().find(|notice| notice.contains(&format!("lacks {feature} (")))
}

#[test]
fn the_documented_matrix_is_the_programs() {
    let rows = DOCUMENTATION.lines().skip_while(|line| !line.starts_with("| `"));
    let rows: Vec<Vec<_>> = rows
        .take_while(|line| line.starts_with("| `"))
        .map(|line| line.trim_matches('|').split(" | ").map(str::trim).collect())
        .collect();
    let expected = Feature::ALL.map(|feature| {
        let [x86_64, arm64] = feature.since_by_architecture();
        let since =
            if x86_64 == arm64 { x86_64.to_string() } else { format!("{x86_64}, arm64 {arm64}") };
        let name = format!("`{feature}`");
        [name, since, feature.cost().into(), feature.instead().into(), feature.detection().into()]
    });
    assert_eq!(rows, expected);
    assert!(DOCUMENTATION.contains(&format!("Linux {}", Release::MIN)));
}

#[test]
fn a_kernel_before_5_19_is_refused_with_its_reason() {
    if !can_run("an old kernel") {
        return;
    }
    let lab = Lab::build(Plan::new("old")).unwrap();
    let spec = client_spec(&lab);
    let (code, said) =
        refused("old", &spec, "source = 'ebpf'\nkernel.pretend = '5.15.0-91-generic'\n");
    assert_eq!(code, KERNEL, "{said}");
    let parts =
        ["kernel 5.15", "map-access", "boot Linux 5.19 or later", "af_packet", "linnet analyze"];
    for part in parts {
        assert!(said.contains(part), "{part}: {said}");
    }
    let (code, said) =
        refused("no-btf", &spec, "source = 'ebpf'\nkernel.without = ['vmlinux-btf']\n");
    assert_eq!(code, KERNEL, "{said}");
    assert!(said.contains("CONFIG_DEBUG_INFO_BTF") && said.contains("kernel.without"), "{said}");
}

#[test]
fn a_hook_that_was_asked_for_and_is_missing_is_refused() {
    if !can_run("missing hooks") {
        return;
    }
    let lab = Lab::build(Plan::new("no-hook")).unwrap();
    let spec = client_spec(&lab);
    for (without, options, lacking) in [
        ("'tcx'", "ingress=tcx", "tcx"),
        ("'tcx'", "ingress=off,egress=tcx", "tcx"),
        ("'clsact'", "egress=clsact", "clsact"),
        ("'tcx', 'clsact'", "ingress=auto", "clsact"),
        ("'xdp'", "ingress=xdp", "xdp"),
        ("'xdp'", "ingress=xdp-generic", "xdp"),
    ] {
        let keys = format!("kernel.without = [{without}]\n");
        let (code, said) = refused("no-hook", &format!("{spec},{options}"), &keys);
        assert_eq!(code, USAGE, "{options}: {said}");
        let reason = format!("this kernel lacks {lacking} (`kernel.without` names `{lacking}`)");
        assert!(said.contains(&reason) && said.contains(&spec), "{options}: {said}");
        let remedy = if options == "ingress=auto" { "boot a kernel with TCX" } else { "(`auto`)" };
        assert!(said.contains(remedy), "{options}: {said}");
        let qdiscs = lab.client().command("tc").args(["qdisc", "show"]).output().unwrap();
        assert!(!text(&qdiscs.stdout).contains("clsact"), "{options}");
    }
}

#[test]
fn a_device_without_native_xdp_says_what_to_use() {
    if !can_run("a device without native xdp") {
        return;
    }
    let lab = Lab::build(Plan::new("no-native")).unwrap();
    for args in [&["link", "add", "plain0", "type", "ifb"][..], &["link", "set", "plain0", "up"]] {
        assert!(lab.client().command("ip").args(args).status().unwrap().success());
    }
    let spec = format!("{}/plain0", lab.client().name());
    let (code, said) = refused("no-native", &format!("{spec},ingress=xdp"), "");
    assert_eq!(code, FAILED, "{said}");
    assert!(said.contains("the driver may not support it") && said.contains("xdp-generic"));
    let linnet = Linnet::watch("no-native", &[format!("{spec},ingress=xdp-generic,egress=off")]);
    let interfaces = linnet.see("/api/v1/interfaces", "interfaces");
    assert_eq!(interfaces[0]["ingress"]["hook"], "xdp-generic", "{interfaces}");
    assert!(linnet.stop().success());
}

#[test]
fn an_interface_that_comes_later_is_treated_the_same() {
    if !can_run("interfaces that come to a kernel without tcx") {
        return;
    }
    let lab = Lab::build(Plan::new("late")).unwrap();
    let namespace = lab.client().name();
    // The first one is there for the start; the last one asks for what is missing.
    let specs = [
        format!("{namespace}/{CLIENT_INTERFACE}"),
        format!("{namespace}/late*"),
        format!("{namespace}/tcx*,ingress=tcx"),
    ];
    let linnet = Linnet::watch_with("late", &specs, "kernel.without = ['tcx']\n");
    for name in ["late0", "tcx0"] {
        for args in [&["link", "add", name, "type", "ifb"][..], &["link", "set", name, "up"]] {
            assert!(lab.client().command("ip").args(args).status().unwrap().success());
        }
    }
    let late = wait_for("the interface that comes", || {
        let interfaces = linnet.see("/api/v1/interfaces", "interfaces");
        let is_late = |row: &&Value| row["name"] == format!("{namespace}/late0");
        interfaces.as_array().unwrap().iter().find(is_late).cloned()
    });
    assert_eq!(late["ingress"]["hook"], "clsact", "{late}");
    assert!(late["ingress"]["reason"].as_str().unwrap().contains("kernel.without"), "{late}");
    wait_for("the refusal of the other", || {
        let is_it = |it: &String| it.contains("tcx0") && it.contains("this kernel lacks tcx (");
        notices(&linnet).iter().any(is_it).then_some(())
    });
    // What is said of the kernel stays, whatever comes of interfaces.
    let of_kernel = |it: &String| it.starts_with("this kernel lacks tcx (");
    assert!(notices(&linnet).iter().any(of_kernel), "{:#?}", notices(&linnet));
    assert!(linnet.stop().success());
    let qdiscs = lab.client().command("tc").args(["qdisc", "show"]).output().unwrap();
    assert!(!text(&qdiscs.stdout).contains("clsact"), "{}", text(&qdiscs.stdout));
}

#[test]
fn what_is_missing_is_logged_and_noticed_once_each() {
    if !can_run("notices about the kernel") {
        return;
    }
    let lab = Lab::build(Plan::new("as-6-1")).unwrap();
    let spec = client_spec(&lab);
    let keys = "user = \"nobody\"\nkernel.pretend = '6.1'\n";
    let linnet = Linnet::watch_with("as-6-1", std::slice::from_ref(&spec), keys);
    let (notices, log) = (notices(&linnet), linnet.log());
    let mut expected = 0;
    for feature in Feature::ALL {
        let is_missing = feature.since() > Release::new(6, 1);
        assert_eq!(notice_of(&notices, feature).is_some(), is_missing, "{feature}: {notices:#?}");
        assert_eq!(log.contains(&format!("lacks {feature} (")), is_missing, "{feature}: {log}");
        expected += usize::from(is_missing);
    }
    assert_eq!(notices.len(), expected, "{notices:#?}");
    assert!(expected >= 5);
    // Flows are counted all the same.
    Pair::open(&lab, 6_100).exchange(10, 1_000);
    assert!(!linnet.flows(&spec).is_empty());
    assert!(linnet.stop().success());
}

/// The fields of the daemon's status file of /proc.
fn status_of_daemon(linnet: &Linnet) -> BTreeMap<String, String> {
    let pid = wait_for("the daemon", || linnet.daemon_pid());
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let lines = text.lines().filter_map(|line| line.split_once(':'));
    lines.map(|(key, value)| (key.to_owned(), value.trim().to_owned())).collect()
}

#[test]
fn without_a_part_of_the_sandbox_the_others_hold_and_it_is_said() {
    if !can_run("a daemon without a part of its sandbox") {
        return;
    }
    let lab = Lab::build(Plan::new("half")).unwrap();
    let spec = client_spec(&lab);
    for (feature, seccomp) in
        [(Feature::Landlock, "2"), (Feature::LandlockNetwork, "2"), (Feature::Seccomp, "0")]
    {
        let keys = format!("user = \"nobody\"\nkernel.without = ['{feature}']\n");
        let linnet = Linnet::watch_with("half", std::slice::from_ref(&spec), &keys);
        let notices = notices(&linnet);
        let notice = notice_of(&notices, feature).unwrap_or_else(|| panic!("{notices:#?}"));
        assert!(notice.contains(feature.cost()) && notice.contains(feature.instead()), "{notice}");
        let status = status_of_daemon(&linnet);
        let expected = [("Seccomp", seccomp), ("NoNewPrivs", "1"), ("CapEff", "0000000000000000")];
        for (key, value) in expected {
            assert_eq!(status[key], value, "{key} without {feature}");
        }
        // What nothing else keeps from it is found by trying, and said.
        let leaks = notices.iter().filter(|it| it.contains("the sandbox does not keep")).count();
        assert_eq!(leaks > 0, feature == Feature::Seccomp, "{notices:#?}");
        assert_eq!(linnet.post("/api/v1/captures", &json!({ "filter": "tcp" })).0, 201);
        let connections = Pair::many(&lab, 6_200, 2);
        let captured = || {
            let captures = linnet.see("/api/v1/captures", "captures");
            captures[0]["written"].as_u64().filter(|written| *written >= 6)
        };
        wait_for("captured handshakes", captured);
        drop(connections);
        assert!(linnet.stop().success());
        let (code, said) = refused("half", &spec, &format!("sandbox = \"strict\"\n{keys}"));
        assert_eq!(code, FAILED, "{said}");
        assert!(said.contains("sandbox = \"strict\"") && said.contains(feature.cost()), "{said}");
    }
}

#[test]
fn the_doctor_says_what_the_sandbox_does_not_enforce() {
    if !can_run("the sandbox without a part of it") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let try_as_nobody = |without: Feature| {
        let keys = format!("kernel.without = ['{without}']\n");
        let output = doctor(folder.path(), &keys, &["--sandbox", "--user", "nobody"]);
        (output.status.code().unwrap(), text(&output.stdout))
    };
    // The user and seccomp refuse all the acts without Landlock.
    let (code, said) = try_as_nobody(Feature::Landlock);
    assert_eq!(code, 0, "{said}");
    assert!(said.starts_with("limited  this kernel lacks landlock (`kernel.without`"), "{said}");
    assert!(!said.contains("first by Landlock") && !said.contains("ALLOWED"), "{said}");
    let (code, said) = try_as_nobody(Feature::Seccomp);
    assert_eq!(code, FAILED, "{said}");
    assert!(said.contains("lacks seccomp (") && said.contains("ALLOWED  exec"), "{said}");
    // Root's files are root's, also without capabilities.
    if nix::unistd::User::from_name("linnet").unwrap().is_none()
        && Path::new("/etc/shadow").exists()
    {
        let output = doctor(folder.path(), "kernel.without = ['landlock']\n", &["--sandbox"]);
        assert_eq!(output.status.code(), Some(FAILED));
        assert!(text(&output.stdout).contains("ALLOWED  open /etc/shadow"));
    }
}

#[test]
fn the_doctor_prints_the_matrix() {
    if !can_run("the doctor's matrix") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let row = |said: &str, feature: Feature| {
        let mut lines = said.lines();
        let is_its = |line: &&str| line.split_whitespace().nth(1) == Some(feature.name());
        lines.find(is_its).unwrap_or_else(|| panic!("{feature}: {said}")).to_owned()
    };
    let whole = doctor(folder.path(), "", &[]);
    assert_eq!(whole.status.code(), Some(0));
    for feature in Feature::ALL {
        let line = row(&text(&whole.stdout), feature);
        assert!(line.starts_with("ok") && line.ends_with(&feature.since().to_string()), "{line}");
    }
    let reduced = doctor(folder.path(), "kernel.pretend = '6.1'\n", &[]);
    assert_eq!(reduced.status.code(), Some(0), "linnet runs there");
    let line = row(&text(&reduced.stdout), Feature::Tcx);
    assert!(line.starts_with("limited") && line.contains(Feature::Tcx.cost()), "{line}");
    let sockets = doctor(folder.path(), "kernel.pretend = '5.10'\n", &[]);
    assert_eq!(sockets.status.code(), Some(0), "linnet runs there without eBPF");
    assert!(text(&sockets.stdout).contains("ready, without eBPF"), "{}", text(&sockets.stdout));
    let old = doctor(folder.path(), "source = 'ebpf'\nkernel.pretend = '5.10'\n", &[]);
    let said = text(&old.stdout);
    assert_eq!(old.status.code(), Some(FAILED), "linnet does not run there");
    assert!(row(&said, Feature::MapAccess).starts_with("missing"), "{said}");
    let verdict = said.lines().find(|line| line.starts_with("missing  kernel ")).unwrap();
    assert!(verdict.contains("boot Linux 5.19 or later"), "{verdict}");
    let mistaken = doctor(folder.path(), "kernel.without = ['tcxx']\n", &[]);
    assert_eq!(mistaken.status.code(), Some(USAGE));
    assert!(
        text(&mistaken.stderr).contains("`tcxx` is no feature of a kernel; known are map-access")
    );
}

#[test]
fn without_privileges_nothing_is_said_to_be_missing() {
    if !can_run("the doctor without privileges") || !lab::require_tool("setpriv", "that") {
        return;
    }
    let mut doctor = Command::new("setpriv");
    doctor.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all"]);
    let binary = Path::new(env!("CARGO_BIN_EXE_linnet"));
    // Where it was built may be root's own.
    let folder = tempfile::tempdir_in("/tmp").unwrap();
    let reachable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(folder.path(), reachable).unwrap();
    let copy = folder.path().join("linnet");
    fs::copy(binary, &copy).unwrap();
    let output = doctor.arg(&copy).arg("doctor").output().unwrap();
    let said = text(&output.stdout);
    println!("{said}{}", text(&output.stderr));
    assert_eq!(output.status.code(), Some(FAILED), "it cannot watch");
    let verdict = |feature: Feature| {
        let line = said.lines().find(|it| it.split_whitespace().nth(1) == Some(feature.name()));
        line.unwrap().split_whitespace().next().unwrap().to_owned()
    };
    for feature in [Feature::MapAccess, Feature::Tcx, Feature::Clsact, Feature::Xdp] {
        assert_eq!(verdict(feature), "unknown", "{feature}");
    }
    assert_eq!(verdict(Feature::Landlock), "ok");
}
