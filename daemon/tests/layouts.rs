//! What a start does with the pinned maps that it finds: those of an earlier and of a later layout, of another capacity,
//! half made, half moved, or planted. Must never leave a map or a folder behind.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, chown, symlink},
    path::{Path, PathBuf},
    process::Command,
};

use lab::{CLIENT_INTERFACE, Lab, Plan};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use support::{
    held::Held,
    linnet::{self, Linnet, detach},
    pair::Pair,
    planted::{self, Folder},
    wait_for,
};

/// The description of this build's layout.
const CURRENT: &str = "current.json";

fn can_run(what: &str) -> bool {
    support::kernel(what) && ["curl", "bpftool"].iter().all(|tool| lab::require_tool(tool, what))
}

fn client_spec(lab: &Lab) -> String {
    format!("{}/{CLIENT_INTERFACE}", lab.client().name())
}

fn folders(pins: &Path, start: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(pins).unwrap().map(|entry| entry.unwrap().path());
    let is = |path: &PathBuf| path.file_name().unwrap().to_str().unwrap().starts_with(start);
    entries.filter(is).collect()
}

/// The one backup in a folder of pins.
fn backup(pins: &Path) -> PathBuf {
    let backups = folders(pins, "old-");
    assert_eq!(backups.len(), 1, "{backups:?}");
    backups.into_iter().next().unwrap()
}

/// Traffic is counted, and with the flows that the lab has now alone.
fn assert_counts_anew(lab: &Lab, linnet: &Linnet) {
    Pair::open(lab, 7_000).exchange(3, 200);
    let flows = linnet.flows(&client_spec(lab));
    assert!(flows.iter().any(|flow| flow["responder"]["port"] == 7_000), "{flows:?}");
    let status = linnet.see("/api/v1/status", "status");
    let created = status["flows"]["created"].as_u64().unwrap();
    assert!((1..50).contains(&created), "{status}");
    assert_eq!(linnet.get("/api/v1/status").1["loss"]["evicted"], 0);
}

#[test]
fn the_layout_is_the_one_on_record() {
    if daemon::live::not_built_reason().is_some() {
        return assert!(!support::kernel("the layout on record"), "there are objects");
    }
    let layout = daemon::live::describe().unwrap();
    let path = planted::layouts().join(CURRENT);
    if std::env::var_os("LINNET_WRITE_LAYOUT").is_some() {
        fs::write(&path, planted::text_of(&layout)).unwrap();
    }
    let on_record = planted::layout(CURRENT);
    let what_to_do = "the layout of the maps has changed. If a released build has the one on record: \
        `git mv` daemon/tests/fixtures/layouts/current.json to abi-N.json, N being its abi_version, and give \
        ABI_VERSION in datapath/src/layout/mod.rs the next number. Then write the new one with \
        `LINNET_WRITE_LAYOUT=1 cargo test -p daemon --test layouts on_record`";
    assert_eq!(layout, on_record, "{what_to_do}");
    let files = fs::read_dir(planted::layouts()).unwrap().map(|entry| entry.unwrap().file_name());
    for earlier in files.map(|name| name.into_string().unwrap()).filter(|name| name != CURRENT) {
        let earlier = planted::layout(&earlier);
        assert!(earlier["abi_version"].as_u64() < layout["abi_version"].as_u64(), "{what_to_do}");
    }
}

/// Plants a layout, and watches what a start, traffic and `linnet detach` make of it.
fn is_put_aside(name: &str, layout: &Value, says: &str) {
    let lab = Lab::build(Plan::new(name)).unwrap();
    let pins = linnet::pins(name);
    let _folder = Folder::new(pins.clone());
    planted::whole(&pins, layout, 3);
    let names: Vec<_> = layout["maps"]
        .as_array()
        .unwrap()
        .iter()
        .map(|map| map["name"].as_str().unwrap())
        .collect();
    let ids: Vec<_> = names.iter().map(|name| planted::id(&pins.join(name))).collect();

    let mut linnet = Linnet::watch(name, &[client_spec(&lab)]);
    let log = linnet.log();
    let backup = backup(&pins);
    let warning = log.lines().find(|line| line.contains("WARN") && line.contains("old-")).unwrap();
    assert!(warning.contains(says), "{warning}");
    for said in [backup.to_str().unwrap(), "bpftool map dump pinned", "linnet detach"] {
        assert!(warning.contains(said), "{warning}");
    }
    let old = planted::dump(&backup.join("FLOWS"));
    assert!(old.contains("a5 a5 a5"), "{old}");
    assert!(old.contains("Found 3 elements"), "{old}");
    for (name, id) in names.iter().zip(&ids) {
        assert_eq!(planted::id(&backup.join(name)), *id, "{name} is the one that was there");
        assert!(!pins.join(name).exists() || planted::id(&pins.join(name)) != *id, "{name}");
    }
    assert_counts_anew(&lab, &linnet);

    let held = Held::by(linnet.pid());
    linnet.kill_both();
    assert!(detach(&pins) && !pins.exists());
    wait_for("programs, links and maps to go", || held.is_gone().then_some(()));
    wait_for("the maps of the backup to go", || {
        (!ids.iter().any(|id| planted::exists(*id))).then_some(())
    });
}

#[test]
fn an_earlier_layout_is_put_aside() {
    if !can_run("an earlier layout") {
        return;
    }
    is_put_aside("earlier", &planted::layout("abi-3.json"), "version 3 (14d2a84a91d626f2)");
    is_put_aside("earlier", &planted::layout("abi-4.json"), "version 4 (2585effeb34d6616)");
}

#[test]
fn a_later_layout_is_put_aside() {
    if !can_run("a later layout") {
        return;
    }
    let mut later = planted::layout(CURRENT);
    let version = later["abi_version"].as_u64().unwrap() + 1;
    later["abi_version"] = version.into();
    later["layout_hash"] = "0123456789abcdef".into();
    for map in later["maps"].as_array_mut().unwrap() {
        if ["FLOWS", "EMBRYONIC", "HOOKS"].iter().any(|name| map["name"] == *name) {
            map["value"] = (map["value"].as_u64().unwrap() + 64).into();
        }
    }
    let new = json!({ "name": "LATER_STILL", "kind": "hash", "key": 4, "value": 8, "entries": 9, "flags": 0 });
    later["maps"].as_array_mut().unwrap().push(new);
    is_put_aside("later", &later, &format!("version {version} (0123456789abcdef)"));
}

/// The map of this build's layout, changed.
fn changed(name: &str, field: &str, value: Value) -> Value {
    let layout = planted::layout(CURRENT);
    let maps = layout["maps"].as_array().unwrap();
    let mut map = maps.iter().find(|map| map["name"] == name).unwrap().clone();
    map[field] = value;
    map
}

#[test]
fn what_was_planted_among_our_maps_is_not_used() {
    if !can_run("planted pins") {
        return;
    }
    let lab = Lab::build(Plan::new("planted")).unwrap();
    let mut linnet = Linnet::watch("planted", &[client_spec(&lab)]);
    let pins = linnet.pins().to_owned();
    let program = *Held::by(linnet.pid()).programs.first().unwrap();
    // It is to outlive its linnet.
    let elsewhere = Folder::new(linnet::pins("planted-program"));
    planted::pin_program(program, &elsewhere.0.join("program"));
    let array = changed("SERVICES", "kind", "array".into());
    type Plant<'a> = (&'a str, &'a str, Box<dyn Fn(&Path) + 'a>);
    let plants: [Plant<'_>; 6] = [
        (
            "FLOWS",
            "has values of 808 bytes instead of 800",
            Box::new(|_| planted::map(&pins, &changed("FLOWS", "value", 808.into()))),
        ),
        (
            "SERVICES",
            "is of the kind array instead of hash",
            Box::new(|_| planted::map(&pins, &array)),
        ),
        (
            "HOOKS",
            "has 255 elements instead of 256",
            Box::new(|_| planted::map(&pins, &changed("HOOKS", "entries", 255.into()))),
        ),
        ("RULE_HOOKS", "is no map", Box::new(|pin| planted::pin_program(program, pin))),
        (
            "KEPT",
            "is owned by the user 65534",
            Box::new(|pin| {
                planted::map(&pins, &changed("KEPT", "entries", 1.into()));
                chown(pin, Some(65_534), None).unwrap();
            }),
        ),
        ("META", "is no pin", Box::new(|pin| symlink(elsewhere.0.join("program"), pin).unwrap())),
    ];
    for (name, says, plant) in plants {
        linnet.kill_both();
        let pin = pins.join(name);
        fs::remove_file(&pin).unwrap();
        plant(&pin);
        let before = linnet.log().len();
        linnet.start_again("");
        let log = linnet.log();
        let warning = log[before..].lines().find(|line| line.contains("old-")).unwrap();
        assert!(warning.contains(&format!("`{name}` {says}")), "{name}: {warning}");
        assert!(fs::symlink_metadata(backup(&pins).join(name)).is_ok(), "{name}: only one backup");
        assert_counts_anew(&lab, &linnet);
    }
    assert!(linnet.stop().success());
    assert!(!pins.exists(), "a stop removes the backup too");
}

#[test]
fn a_folder_where_others_can_put_something_is_refused() {
    if !can_run("folders of others") {
        return;
    }
    let lab = Lab::build(Plan::new("folders")).unwrap();
    let real = Folder::new(linnet::pins("folder"));
    let link = linnet::pins("folder-link");
    let folder = tempfile::tempdir().unwrap();
    let refused = |pins: &Path, says: &str| {
        let run = linnet::command(folder.path(), pins)
            .args(["--interface", &client_spec(&lab)])
            .output()
            .unwrap();
        let detach = Command::new(env!("CARGO_BIN_EXE_linnet"))
            .args(["detach", "--pin-dir"])
            .arg(pins)
            .output()
            .unwrap();
        for output in [run, detach] {
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!(output.status.code(), Some(64), "{said}");
            assert!(said.contains(says) && said.contains("--pin-dir"), "{said}");
        }
        assert_eq!(fs::read_dir(&real.0).unwrap().count(), 0, "{says}");
    };
    symlink(&real.0, &link).unwrap();
    let _link = scopeguard(|| fs::remove_file(&link));
    refused(&link, "it is a link");
    fs::set_permissions(&real.0, fs::Permissions::from_mode(0o722)).unwrap();
    refused(&real.0, "others can write to it");
    fs::set_permissions(&real.0, fs::Permissions::from_mode(0o700)).unwrap();
    chown(&real.0, Some(65_534), None).unwrap();
    refused(&real.0, "owned by the user 65534");
}

/// Does something at the end, however that comes.
fn scopeguard<T>(at_end: impl FnOnce() -> T) -> impl Drop {
    struct AtEnd<F: FnOnce() -> T, T>(Option<F>);
    impl<F: FnOnce() -> T, T> Drop for AtEnd<F, T> {
        fn drop(&mut self) {
            self.0.take().map(|at_end| at_end());
        }
    }
    AtEnd(Some(at_end))
}

/// Ids and packets of the flows to a port.
fn flows_to(linnet: &Linnet, spec: &str, port: u16) -> Vec<(String, u64)> {
    let flows = linnet.flows(spec);
    let to_port = flows.iter().filter(|flow| flow["responder"]["port"] == port);
    let packets = |flow: &Value, side: &str| flow[side]["packets"].as_u64().unwrap();
    let row = |flow: &Value| {
        let sum = packets(flow, "from_originator") + packets(flow, "from_responder");
        (flow["id"].as_str().unwrap().to_owned(), sum)
    };
    let mut rows: Vec<_> = to_port.map(row).collect();
    rows.sort();
    rows
}

#[test]
fn another_capacity_keeps_the_flows_that_fit() {
    if !can_run("another capacity") {
        return;
    }
    const FLOWS: usize = 60;
    let lab = Lab::build(Plan::new("capacity")).unwrap();
    let spec = client_spec(&lab);
    let interfaces = std::slice::from_ref(&spec);
    let mut linnet = Linnet::watch_with("capacity", interfaces, "flows.capacity = 4096\n");
    let mut pairs = Pair::many(&lab, 7_000, FLOWS);
    pairs.iter_mut().for_each(|pair| pair.exchange(4, 100));
    let before = flows_to(&linnet, &spec, 7_000);
    assert_eq!(before.len(), FLOWS);
    let [flows, hooks] = ["FLOWS", "HOOKS"].map(|name| linnet.pins().join(name));
    let created = |linnet: &Linnet| {
        linnet.see("/api/v1/status", "status")["flows"]["created"].as_u64().unwrap()
    };
    let (made, ids) = (created(&linnet), [planted::id(&flows), planted::id(&hooks)]);

    linnet.kill_both();
    linnet.start_again("flows.capacity = 20000\ncapture.ring_mib = 1\n");
    assert_ne!(planted::id(&flows), ids[0], "it is a larger map");
    assert_eq!(planted::id(&hooks), ids[1], "it is the map that was there");
    assert_eq!(flows_to(&linnet, &spec, 7_000), before, "{}", linnet.log());
    assert!(created(&linnet) >= made);
    assert!(folders(linnet.pins(), "old-").is_empty() && !linnet.pins().join("next").exists());
    pairs.iter_mut().for_each(|pair| pair.exchange(1, 100));
    let after = flows_to(&linnet, &spec, 7_000);
    assert!(before.iter().zip(&after).all(|(b, a)| a.0 == b.0 && a.1 > b.1), "{after:?}");

    // The latest stay, and what does not fit was evicted.
    pairs.iter_mut().take(FLOWS / 2).for_each(|pair| pair.exchange(2, 100));
    linnet.settle();
    linnet.kill_both();
    linnet.start_again("flows.capacity = 30\n");
    let log = linnet.log();
    let line =
        log.lines().rfind(|line| line.contains("configured capacity") && line.contains("FLOWS"));
    assert!(line.is_some_and(|line| line.contains("carried=30")), "{log}");
    let fewer = flows_to(&linnet, &spec, 7_000);
    assert!(!fewer.is_empty() && fewer.len() <= 30, "{fewer:?}");
    assert!(created(&linnet) >= made);
    linnet.signal(Signal::SIGTERM);
    assert!(linnet.wait().success() && !linnet.pins().exists());
}

#[test]
fn what_a_kill_left_half_done_is_finished() {
    if !can_run("half done starts") {
        return;
    }
    let lab = Lab::build(Plan::new("half")).unwrap();
    let mut linnet = Linnet::watch("half", &[client_spec(&lab)]);
    let pins = linnet.pins().to_owned();
    let ids = || ["FLOWS", "META", "KEPT"].map(|name| planted::id(&pins.join(name)));

    // A start that had made some of its maps, with and without META.
    for has_meta in [true, false] {
        linnet.kill_both();
        let before = ids();
        fs::remove_file(pins.join("HOOKS")).unwrap();
        if has_meta {
            planted::fill(&pins.join("META"), &[0; 4], &[0; 16]);
        } else {
            fs::remove_file(pins.join("META")).unwrap();
        }
        let logged = linnet.log().len();
        linnet.start_again("");
        let log = linnet.log()[logged..].to_owned();
        assert!(log.contains("a start that was not finished") && !log.contains("old-"), "{log}");
        assert!(ids().iter().zip(before).all(|(now, before)| *now != before));
        assert_counts_anew(&lab, &linnet);
    }
    // A start that had moved some maps of another layout.
    linnet.kill_both();
    let before = ids();
    let other = json!({ "abi_version": 2, "layout_hash": "00000000000000ff" });
    planted::sign(&pins, &other);
    fs::create_dir(pins.join("moving-1234")).unwrap();
    for name in ["FLOWS", "HOOKS"] {
        fs::rename(pins.join(name), pins.join("moving-1234").join(name)).unwrap();
    }
    linnet.start_again("");
    let whole = pins.join("old-1234");
    let backed = ["FLOWS", "META", "KEPT"].map(|name| planted::id(&whole.join(name)));
    assert_eq!((backup(&pins), backed), (whole, before));
    assert_counts_anew(&lab, &linnet);
    // A start that had made a map of another capacity, which nobody had got to know yet.
    linnet.kill_both();
    let before = ids();
    fs::create_dir(pins.join("next")).unwrap();
    planted::map(&pins.join("next"), &changed("FLOWS", "entries", 77.into()));
    linnet.start_again("");
    assert_eq!(ids(), before);
    assert!(!pins.join("next").exists());
    assert!(linnet.stop().success() && !pins.exists());
}
