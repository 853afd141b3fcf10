//! Namespaces come and go and leave nothing behind; leftovers of the dead are reaped, those of the
//! living are not.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail and speak as tests do")]

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use lab::{Family, Lab, NAMESPACE_FOLDER, Plan, reap_stale, require_root};

#[test]
fn a_lab_leaves_nothing_behind() {
    if !require_root("namespaces go with their lab") {
        return;
    }
    let lab = Lab::build(Plan::new("gone")).unwrap();
    let names = [lab.client().name(), lab.server().name(), lab.router().unwrap().name()];
    let paths = names.map(|name| Path::new(NAMESPACE_FOLDER).join(name));
    assert!(paths.iter().all(|path| path.exists()));
    let inside = lab.client().run(|| fs::read_link("/proc/thread-self/ns/net").unwrap()).unwrap();
    let outside = fs::read_link("/proc/thread-self/ns/net").unwrap();
    assert_ne!(inside, outside, "the closure ran in the lab's namespace");

    drop(lab);

    assert!(paths.iter().all(|path| !path.exists()));
}

#[test]
fn commands_enter_the_namespace_and_keep_the_mounts() {
    if !require_root("commands run in a namespace") {
        return;
    }
    let lab = Lab::build(Plan::new("command")).unwrap();

    let links = lab.server().command("ip").args(["-o", "link"]).output().unwrap();
    let mounts = lab.server().command("readlink").arg("/proc/self/ns/mnt").output().unwrap();

    let links = String::from_utf8_lossy(&links.stdout).into_owned();
    assert!(links.contains("s0") && !links.contains("c0@"), "{links}");
    let own = fs::read_link("/proc/self/ns/mnt").unwrap();
    assert_eq!(String::from_utf8_lossy(&mounts.stdout).trim(), own.to_string_lossy());
}

#[test]
fn names_that_nobody_owns_are_reaped_and_the_livings_are_kept() {
    if !require_root("stale namespaces are reaped") {
        return;
    }
    let lab = Lab::build(Plan::new("alive")).unwrap();
    // Made by `ip netns`, so nobody holds its lock, as after a SIGKILL.
    let stale = "linnet-4000000-dead-client";
    let made = Command::new("ip").args(["netns", "add", stale]).stderr(Stdio::null()).status();
    assert!(made.unwrap().success());
    let foreign = format!("other-{}", std::process::id());
    assert!(Command::new("ip").args(["netns", "add", &foreign]).status().unwrap().success());

    // Another test's lab may have reaped it first: what counts is that it is gone.
    reap_stale().unwrap();

    let exists = |name: &str| Path::new(NAMESPACE_FOLDER).join(name).exists();
    assert!(!exists(stale));
    assert!(exists(&foreign), "names of others are left alone");
    assert!(exists(lab.client().name()), "a living lab is left alone");
    assert!(Command::new("ip").args(["netns", "delete", &foreign]).status().unwrap().success());
}

#[test]
fn wire_truth_is_on_by_default_and_a_direct_lab_keeps_the_offloads() {
    if !require_root("offloads are as planned") || !lab::require_tool("ethtool", "offloads") {
        return;
    }
    let wire = Lab::build(Plan::new("wire")).unwrap();
    let direct = Lab::build(Plan::direct("direct")).unwrap();

    let features = [
        "tx-checksum-ip-generic",
        "tx-scatter-gather",
        "tx-tcp-segmentation",
        "tx-tcp6-segmentation",
        "generic-segmentation-offload",
        "generic-receive-offload",
    ];
    for end in wire.interfaces() {
        let (namespace, interface) = end.spec.split_once('/').unwrap();
        let said = ethtool(&wire, namespace, interface);
        for feature in features {
            let wanted = format!("{feature}: off");
            assert!(said.lines().any(|line| line.trim() == wanted), "{}: {said}", end.spec);
        }
    }
    let said = ethtool(&direct, direct.client().name(), "c0");
    assert!(said.lines().any(|line| line.trim() == "tx-tcp-segmentation: on"), "{said}");
    assert!(direct.router().is_none());
    assert_eq!(direct.interfaces().len(), 2);
    assert!(direct.server_address(Family::V6).is_ipv6());
}

fn ethtool(lab: &Lab, namespace: &str, interface: &str) -> String {
    let namespaces = [Some(lab.client()), lab.router(), Some(lab.server())];
    let found = namespaces.into_iter().flatten().find(|each| each.name() == namespace).unwrap();
    let output = found.command("ethtool").args(["-k", interface]).output().unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}
