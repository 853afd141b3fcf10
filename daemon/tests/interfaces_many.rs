//! Many interfaces and whole namespaces that come and go: a namespace that is made again, a burst of changes that is more
//! than the kernel keeps news of, and more interfaces than there are points. Must never touch what the test did not make.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test fails by panicking and says what it measured"
)]

mod support;

use std::{
    path::Path,
    process::Command,
    sync::{Mutex, PoisonError},
};

use lab::{Lab, NAMESPACE_FOLDER, Namespace, Plan};
use serde_json::Value;
use support::{held::Held, linnet::Linnet, wait_for};

/// One test at a time: what is measured is how soon linnet is there, and not how busy the machine is.
static ALONE: Mutex<()> = Mutex::new(());

fn can_run(what: &str) -> bool {
    let tools = ["ip", "bpftool", "curl"];
    support::kernel(what) && tools.iter().all(|tool| lab::require_tool(tool, what))
}

/// Runs `ip` in the test's own namespace.
fn ip(args: &str) {
    let output = Command::new("ip").args(args.split(' ')).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {args}: {error}");
}

/// Runs many lines of `ip` in a namespace at once.
fn batch(namespace: &Namespace, folder: &Path, lines: impl Iterator<Item = String>) {
    let file = folder.join("batch");
    std::fs::write(&file, lines.collect::<Vec<_>>().join("\n") + "\n").unwrap();
    let output = namespace.command("ip").arg("-batch").arg(&file).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

fn rows(linnet: &Linnet, state: &str) -> Vec<Value> {
    let rows = linnet.see("/api/v1/interfaces", "interfaces");
    rows.as_array().unwrap().iter().filter(|row| row["state"] == state).cloned().collect()
}

/// A namespace that goes away however the test ends.
struct Named(String);

impl Named {
    fn make(&self) {
        let name = &self.0;
        ip(&format!("netns add {name}"));
        ip(&format!("-n {name} link add eth0 type veth peer name eth1"));
    }
}

impl Drop for Named {
    fn drop(&mut self) {
        // It may be gone, as the test wants it.
        let _gone = Command::new("ip").args(["netns", "del", &self.0]).output();
    }
}

#[test]
fn a_namespace_that_is_made_again_is_followed_and_none_is_kept_alive() {
    if !can_run("a namespace that is made again") {
        return;
    }
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let rounds = if support::full() { 100 } else { 10 };
    let named = Named(format!("linnet-test-{}", std::process::id()));
    let name = &named.0;
    named.make();
    let requests = [format!("{name}/eth0"), format!("{name}/veth*,ingress=xdp-generic")];
    let linnet = Linnet::watch("netns", &requests);
    let kept = |linnet: &Linnet| {
        let held = Held::by(linnet.pid());
        (held.programs.len(), held.links.len(), held.maps.len())
    };
    let (mut first, mut most_ms) = (None, 0);
    for round in 0..rounds {
        // A pair whose other end is here tells whether the namespace is really gone.
        let witness = format!("lnt{}", std::process::id() % 100_000);
        ip(&format!("link add {witness} type veth peer name veth0 netns {name}"));
        wait_for("both to be watched", || (rows(&linnet, "attached").len() == 2).then_some(()));
        first.get_or_insert_with(|| kept(&linnet));
        ip(&format!("netns del {name}"));
        wait_for("the namespace to be gone with all that is in it", || {
            let shown =
                Command::new("ip").args(["link", "show", "dev", &witness]).output().unwrap();
            (!shown.status.success()).then_some(())
        });
        wait_for("nothing to be watched", || rows(&linnet, "attached").is_empty().then_some(()));
        named.make();
        let begun_ns = lab::clock::monotonic_ns();
        wait_for("the next one to be watched", || (kept(&linnet).1 == 2).then_some(()));
        let took_ms = (lab::clock::monotonic_ns() - begun_ns) / 1_000_000;
        assert!(took_ms < 1_000, "round {round}: {took_ms} ms");
        most_ms = most_ms.max(took_ms);
        assert!(Path::new(NAMESPACE_FOLDER).join(name).exists());
    }
    let witness = format!("lnt{}", std::process::id() % 100_000);
    ip(&format!("link add {witness} type veth peer name veth0 netns {name}"));
    wait_for("as much as in the first round", || (Some(kept(&linnet)) == first).then_some(()));
    println!("netns: {rounds} times, watched again after {most_ms} ms at most; {first:?}");
    assert!(linnet.stop().success());
}

#[test]
fn a_burst_of_changes_and_more_interfaces_than_points_end_well() {
    if !can_run("many interfaces") {
        return;
    }
    const POINTS: usize = 127;
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let lab = Lab::build(Plan::direct("many")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let request = format!("{}/many*,egress=off", lab.client().name());
    let linnet = Linnet::watch("many", &[request]);
    assert!(rows(&linnet, "attached").is_empty(), "nothing to watch yet is no error");
    let add = |number: usize| format!("link add many{number} type veth peer name peer{number}");
    let del = |number: usize| format!("link del many{number}");
    batch(lab.client(), folder.path(), (0..POINTS).map(add));
    wait_for("all to be watched", || (rows(&linnet, "attached").len() == POINTS).then_some(()));
    // Sixteen changes of each.
    let renamed = |number: usize| {
        (0..8).flat_map(move |_| {
            [
                format!("link set many{number} name away{number}"),
                format!("link set away{number} name many{number}"),
            ]
        })
    };
    batch(lab.client(), folder.path(), (0..POINTS).flat_map(renamed));
    wait_for("all to be watched again", || {
        (rows(&linnet, "attached").len() == POINTS).then_some(())
    });
    batch(lab.client(), folder.path(), (POINTS..POINTS + 3).map(add));
    let notices = wait_for("what is too much to be told", || {
        let notices = linnet.notices().join("\n");
        (notices.matches("all 127 observation points").count() == 3).then_some(notices)
    });
    assert!(notices.contains("many127"), "{notices}");
    batch(lab.client(), folder.path(), (0..POINTS).map(del));
    wait_for("the rest to be watched", || {
        let mut names: Vec<_> =
            rows(&linnet, "attached").iter().map(|row| row["name"].to_string()).collect();
        names.sort_unstable();
        (names.len() == 3).then_some(())
    });
    batch(lab.client(), folder.path(), (0..POINTS - 3).map(add));
    wait_for("all to be watched", || (rows(&linnet, "attached").len() == POINTS).then_some(()));
    assert!(rows(&linnet, "gone").len() <= 64);
    assert_eq!(linnet.notices(), [""; 0]);
    let held = Held::by(linnet.pid());
    println!(
        "many: {POINTS} watched, {} links, {} programs",
        held.links.len(),
        held.programs.len()
    );
    assert_eq!((held.links.len(), held.programs.len()), (POINTS, 1));
    println!("many: news lost: {}", linnet.log().matches("news of interfaces was lost").count());
    assert!(linnet.stop().success());
}

#[test]
fn an_interface_that_moves_between_watched_namespaces_is_watched_in_one_at_a_time() {
    if !can_run("an interface that moves") {
        return;
    }
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let lab = Lab::build(Plan::direct("both")).unwrap();
    let (client, server) = (lab.client(), lab.server());
    let request = |namespace: &Namespace| {
        format!("{}/roam0,ingress=xdp-generic,egress=tcx", namespace.name())
    };
    let ip = |namespace: &Namespace, args: &str| {
        let status = namespace.command("ip").args(args.split(' ')).status().unwrap();
        assert!(status.success(), "ip {args}");
    };
    for namespace in [client, server] {
        ip(namespace, "link add roam0 type veth peer name peer0");
    }
    let linnet = Linnet::watch("both", &[request(client), request(server)]);
    ip(server, "link del roam0");
    let of = |namespace: &Namespace| format!("{}/roam0", namespace.name());
    let only = |namespace: &Namespace| {
        let rows = rows(&linnet, "attached");
        (rows.len() == 1 && rows[0]["name"] == *of(namespace)).then(|| rows[0].clone())
    };
    wait_for("only the client's", || only(client));
    for (from, to) in [(client, server), (server, client), (client, server)] {
        ip(from, &format!("link set roam0 netns {}", to.name()));
        let row = wait_for("the other's only", || only(to));
        // XDP has room for one: that of the namespace before was gone by then.
        assert_eq!(row["ingress"]["hook"], "xdp-generic", "{row}");
        assert_eq!(Held::by(linnet.pid()).links.len(), 2);
    }
    assert!(linnet.stop().success());
}
