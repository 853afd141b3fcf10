//! Interfaces of a namespace that is named by a process in it: they are followed until it ends, and no other process of
//! its number is ever taken for it. Must never leave a process or a namespace behind.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test fails by panicking and says what it found"
)]

mod support;

use std::{
    fs::{self, File},
    os::unix::fs::MetadataExt as _,
    path::PathBuf,
    process::{Child, Command, Output},
};

use nix::sys::signal::Signal;
use serde_json::Value;
use support::{linnet::Linnet, wait_for};

/// CAP_SYS_PTRACE and CAP_SYS_ADMIN (include/uapi/linux/capability.h).
const SYS_PTRACE: u64 = 1 << 19;
const SYS_ADMIN: u64 = 1 << 21;
/// How often a process may get another number than the one that is wanted.
const TRIES_MAX: usize = 500;

fn can_run(what: &str) -> bool {
    let tools = ["ip", "tc", "curl", "unshare", "nsenter"];
    support::kernel(what) && tools.iter().all(|tool| lab::require_tool(tool, what))
}

/// A process in a network namespace of its own, which ends with it unless something holds it.
struct Inhabitant(Child);

impl Inhabitant {
    fn start() -> Self {
        let mut unshare = Command::new("unshare");
        let child = unshare.args(["--net", "sleep", "infinity"]).spawn().unwrap();
        let inhabitant = Self(child);
        let own = fs::metadata("/proc/self/ns/net").unwrap().ino();
        wait_for("a namespace of its own", || {
            let found = fs::metadata(inhabitant.namespace()).ok()?.ino();
            let name = fs::read_to_string(format!("/proc/{}/comm", inhabitant.pid())).ok()?;
            (found != own && name.trim() == "sleep").then_some(())
        });
        inhabitant
    }

    /// One that has this number.
    fn start_as(pid: u32) -> Self {
        for _ in 0..TRIES_MAX {
            fs::write("/proc/sys/kernel/ns_last_pid", (pid - 1).to_string()).unwrap();
            let inhabitant = Self::start();
            if inhabitant.pid() == pid {
                return inhabitant;
            }
        }
        panic!("no process got the number {pid}");
    }

    fn pid(&self) -> u32 {
        self.0.id()
    }

    /// As linnet names it.
    fn name(&self) -> String {
        format!("pid:{}", self.pid())
    }

    fn namespace(&self) -> PathBuf {
        format!("/proc/{}/ns/net", self.pid()).into()
    }

    fn end(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Inhabitant {
    fn drop(&mut self) {
        // One that has ended already needs no end.
        let _ended = self.0.kill();
        self.0.wait().unwrap();
    }
}

/// Runs a command in the namespace of a file.
fn said(namespace: &str, command: &str) -> String {
    let mut nsenter = Command::new("nsenter");
    let output =
        nsenter.arg(format!("--net={namespace}")).args(command.split(' ')).output().unwrap();
    assert!(output.status.success(), "{command}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn rows(linnet: &Linnet) -> Vec<Value> {
    linnet.see("/api/v1/interfaces", "interfaces").as_array().unwrap().clone()
}

fn wait_for_state(linnet: &Linnet, name: &str, state: &str) -> Value {
    let mut last = Vec::new();
    wait_for(&format!("{name} {state}"), || {
        let now = rows(linnet);
        if now != last {
            last.clone_from(&now);
        }
        now.into_iter().find(|row| row["name"] == name && row["state"] == state)
    })
}

/// Linnet's filters, and the qdisc that it made, on an interface.
fn traces(namespace: &str, interface: &str) -> String {
    let filters = format!("tc filter show dev {interface} egress");
    let qdisc = format!("tc qdisc show dev {interface}");
    let text = said(namespace, &filters) + &said(namespace, &qdisc);
    text.lines().filter(|line| line.contains("linnet_") || line.contains("clsact")).collect()
}

fn capabilities(pid: u32, set: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(set)).unwrap();
    u64::from_str_radix(line.trim_start_matches(':').trim(), 16).unwrap()
}

#[test]
fn interfaces_are_followed_until_the_process_ends() {
    let what = "a namespace by pid";
    if !can_run(what) {
        return;
    }
    let mut inhabitant = Inhabitant::start();
    // The namespace lives on by this, when the process has ended.
    let held = File::open(inhabitant.namespace()).unwrap();
    let inside =
        format!("/proc/{}/fd/{}", std::process::id(), std::os::fd::AsRawFd::as_raw_fd(&held));
    said(&inside, "ip link add first0 type veth peer name first1");
    let name = |interface: &str| format!("{}/{interface}", inhabitant.name());
    let request = name("first*") + ",ingress=tcx,egress=clsact";
    let linnet = Linnet::watch("process", &[request]);
    let row = wait_for_state(&linnet, &name("first0"), "attached");
    assert_eq!(row["namespace"], inhabitant.name());
    for set in ["CapEff", "CapPrm", "CapBnd"] {
        let held = capabilities(linnet.pid(), set);
        assert_eq!(held & (SYS_PTRACE | SYS_ADMIN), SYS_ADMIN, "{set}: {held:x}");
    }
    said(&inside, "ip link add first7 type veth peer name other7");
    wait_for_state(&linnet, &name("first7"), "attached");
    said(&inside, "ip link del first7");
    wait_for_state(&linnet, &name("first7"), "gone");
    assert!(traces(&inside, "first0").contains("linnet_egress"));
    assert_eq!(linnet.notices(), [""; 0]);

    let pid = inhabitant.pid();
    let names = [name("first0"), name("first1")];
    inhabitant.end();
    for name in &names {
        wait_for_state(&linnet, name, "gone");
    }
    let notices = linnet.notices();
    assert!(notices.len() == 1 && notices[0].contains("has ended"), "{notices:?}");
    assert_eq!(traces(&inside, "first0"), "", "what is left in order leaves nothing");

    // Another process of that number, and an interface of that name.
    let next = Inhabitant::start_as(pid);
    let there = next.namespace().to_str().unwrap().to_owned();
    said(&there, "ip link add first0 type veth peer name first1");
    linnet.settle();
    linnet.settle();
    linnet.settle();
    assert!(rows(&linnet).iter().all(|row| row["state"] == "gone"), "{:#?}", rows(&linnet));
    assert_eq!(traces(&there, "first0"), "");
    assert_eq!(linnet.notices(), notices);
    println!("{}", notices[0]);
    assert!(linnet.stop().success());
}

#[test]
fn linnet_holds_no_namespace_whose_process_has_ended() {
    if !can_run("a namespace by pid that goes") {
        return;
    }
    // The other end is in a namespace that stays, and goes with the pair.
    let outer = Inhabitant::start();
    let outside = outer.namespace().to_str().unwrap().to_owned();
    let mut inhabitant = Inhabitant::start();
    let pair = format!("ip link add end0 type veth peer name end1 netns {}", inhabitant.pid());
    said(&outside, &pair);
    let request = format!("{}/end1", inhabitant.name());
    let linnet = Linnet::watch("process-goes", std::slice::from_ref(&request));
    inhabitant.end();
    wait_for("the namespace to go", || {
        (!said(&outside, "ip -br link").contains("end0")).then_some(())
    });
    wait_for_state(&linnet, &request, "gone");
    assert!(linnet.stop().success());
}

#[test]
fn filters_are_found_again_after_a_kill() {
    if !can_run("filters of a killed linnet in a namespace by pid") {
        return;
    }
    let inhabitant = Inhabitant::start();
    let inside = inhabitant.namespace().to_str().unwrap().to_owned();
    said(&inside, "ip link add first0 type veth peer name first1");
    let request = format!("{}/first0,ingress=off,egress=clsact", inhabitant.name());
    let mut linnet = Linnet::watch("process-kill", &[request]);
    linnet.signal(Signal::SIGKILL);
    linnet.wait();
    assert!(traces(&inside, "first0").contains("linnet_egress"));
    let mut detach = Command::new(env!("CARGO_BIN_EXE_linnet"));
    let output = detach.args(["detach", "--pin-dir"]).arg(linnet.pins()).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(traces(&inside, "first0"), "");
    assert!(!linnet.pins().exists());
}

/// Starts linnet on what it has to refuse; its code and what it said.
fn refused(name: &str, requests: &[&str]) -> (Option<i32>, String) {
    let folder = tempfile::tempdir().unwrap();
    let pins = support::linnet::pins(name);
    let mut command = support::linnet::command(folder.path(), &pins);
    let requests = requests.iter().flat_map(|request| ["--interface", request]);
    let Output { status, stderr, .. } = command.args(requests).output().unwrap();
    assert!(!pins.exists());
    (status.code(), String::from_utf8(stderr).unwrap())
}

/// A name under /run/netns.
struct Named(String);

impl Named {
    fn of(inhabitant: &Inhabitant, name: &str) -> Self {
        let mut ip = Command::new("ip");
        let attach = ["netns", "attach", name, &inhabitant.pid().to_string()];
        assert!(ip.args(attach).status().unwrap().success());
        Self(name.to_owned())
    }
}

impl Drop for Named {
    fn drop(&mut self) {
        let removed = Command::new("ip").args(["netns", "del", &self.0]).status().unwrap();
        if !removed.success() {
            println!("{} stays", self.0);
        }
    }
}

#[test]
fn what_a_pid_cannot_stand_for_is_refused() {
    if !can_run("namespaces by pid that are refused") {
        return;
    }
    let mut gone = Inhabitant::start();
    gone.end();
    let (code, said) = refused("pid-gone", &[&format!("{}/eth*", gone.name())]);
    assert!(code == Some(64) && said.contains("there is no such process"), "{code:?}: {said}");

    let (code, said) = refused("pid-bad", &["pid:012/eth0"]);
    assert!(code == Some(64) && said.contains("pid:NUMBER"), "{code:?}: {said}");

    let inhabitant = Inhabitant::start();
    let by_pid = format!("{}/eth*", inhabitant.name());
    let other = Inhabitant::start();
    {
        let _named = Named::of(&other, &inhabitant.name());
        let (code, said) = refused("pid-two", &[&by_pid]);
        assert!(code == Some(64) && said.contains("has a namespace of that name too"), "{said}");
    }
    let named = Named::of(&inhabitant, &format!("linnet-{}-by-pid", std::process::id()));
    let by_name = format!("{}/*", named.0);
    let (code, said) = refused("pid-same", &[&by_pid, &by_name]);
    assert!(code == Some(64) && said.contains("which is watched already"), "{code:?}: {said}");
    println!("{said}");
}
