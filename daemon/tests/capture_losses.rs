//! T3: what is lost of a capture is counted, one by one: with a ring that is too small, a daemon that does not read, and a
//! disk that is full.
#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    clippy::print_stdout,
    reason = "a test fails by panicking, says what it measured, and makes its own numbers"
)]

mod support;

use std::time::Duration;

use captures::{PacketReader, StopReason};
use daemon::capture::CaptureState;
use lab::{
    CLIENT_INTERFACE, Lab, Plan,
    traffic::{
        bulk::{self, Bulk},
        udp_stream::{self, UdpStream},
    },
};
use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};
use support::{linnet::Linnet, tshark, wait_for, watch::Watch};

fn can_run(what: &str) -> bool {
    support::kernel(what) && lab::require_root(what)
}

#[test]
fn what_a_small_ring_loses_is_counted() {
    if !can_run("a capture with a small ring") {
        return;
    }
    let plan = Plan { direct: true, ..Plan::new("ring") };
    let lab = Lab::build(plan).unwrap();
    let spec = format!("{}/{CLIENT_INTERFACE}", lab.client().name());
    let mut watch = Watch::new("ring", &spec, 4_096);
    let before = watch.seen();
    let id = watch.start("");
    bulk::run(&lab, &Bulk { bytes: 16 << 20, ..Bulk::default() }).unwrap();
    let view = watch.stop(&id);
    assert_eq!(watch.matched(), view.matched, "the kernel's figure");
    let passed = watch.seen() - before;
    println!("{passed} passed, {view:?}");
    assert!(view.lost.ring > 0 && view.written > 0);
    assert_eq!(view.lost.total(), view.lost.ring);
    assert_eq!(view.offered, view.matched, "without a filter all are wanted");
    // What passed between the looks at the counters and the stage's beginning and end: neighbours being found.
    assert!(view.offered <= passed && view.offered + 20 >= passed, "{} of {passed}", view.offered);
    watch.packets(&view);
    watch.assert_balanced();
}

#[test]
fn a_daemon_that_does_not_read_loses_what_is_counted_and_goes_on() {
    if !can_run("a capture whose daemon is stopped") {
        return;
    }
    let lab = Lab::build(Plan { direct: true, ..Plan::new("stopped") }).unwrap();
    let interface = format!("{}/{CLIENT_INTERFACE}", lab.client().name());
    let linnet =
        Linnet::watch_with("stopped", std::slice::from_ref(&interface), "capture.ring_mib = 1\n");
    let post = |path: &str, body: &Value| {
        let (status, answer) = linnet.post(&format!("/api/v1/captures{path}"), body);
        assert!(status == 200 || status == 201, "{answer}");
        answer["capture"].clone()
    };
    let id = post("", &json!({ "filter": "udp port 5004" }))["id"].as_str().unwrap().to_owned();
    let send = |datagrams: u32| {
        let interval = Duration::from_micros(50);
        let plan = UdpStream { datagrams, interval, ..UdpStream::default() };
        u64::from(udp_stream::run(&lab, &plan).unwrap().sent)
    };
    let mut sent = send(100);
    let daemon = Pid::from_raw(linnet.daemon_pid().unwrap().cast_signed());
    kill(daemon, Signal::SIGSTOP).unwrap();
    // More than there is room for.
    sent += send(20_000);
    kill(daemon, Signal::SIGCONT).unwrap();
    let path = format!("/api/v1/captures/{id}");
    wait_for("what was in the ring", || {
        let view = linnet.see(&path, "capture");
        (view["lost"]["ring"].as_u64() > Some(0)).then_some(())
    });
    sent += send(100);
    let view = post(&format!("/{id}/stop"), &json!({}));
    println!("{sent} sent, {view}");
    let [matched, written, ring] =
        [&view["matched"], &view["written"], &view["lost"]["ring"]].map(|it| it.as_u64().unwrap());
    assert_eq!(matched, sent, "the kernel has seen all of them");
    assert_eq!(matched, written + ring);
    assert!(written > 200 && ring > 0);

    let file = linnet.folder().join("stopped.pcapng");
    let fetched = linnet.curl(&format!("{path}/file")).arg("-o").arg(&file).status();
    assert!(fetched.unwrap().success());
    let (mut packets, mut gaps) = (0, 0);
    let mut reader = PacketReader::open(&file).unwrap();
    while let Some(read) = reader.next_packet().unwrap() {
        packets += 1;
        gaps += read.packet.drop_count.unwrap_or(0);
    }
    assert_eq!((packets, gaps), (written, ring), "each gap is told by the packet behind it");
    assert_eq!(tshark::frames(&file).len() as u64, written);
}

#[test]
fn a_full_disk_ends_a_capture_with_whole_blocks_and_all_counted() {
    if !can_run("a capture on a full disk") {
        return;
    }
    let lab = Lab::build(Plan { direct: true, ..Plan::new("disk") }).unwrap();
    // Of this thread and those that it begins.
    unshare(CloneFlags::CLONE_NEWNS).unwrap();
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
    let folder = tempfile::tempdir().unwrap();
    mount(Some("tmpfs"), folder.path(), Some("tmpfs"), MsFlags::empty(), Some("size=3m")).unwrap();
    let spec = format!("{}/{CLIENT_INTERFACE}", lab.client().name());
    let watch = Watch::in_folder(folder, "disk", &spec, 4 << 20);
    let id = watch.start("tcp port 5001");
    bulk::run(&lab, &Bulk { bytes: 16 << 20, ..Bulk::default() }).unwrap();
    let view = wait_for("the capture's end", || {
        let view = watch.manager.get(&id).unwrap();
        (view.state == CaptureState::Finished).then_some(view)
    });
    println!("{view:?}");
    assert_eq!(view.stop_reason, Some(StopReason::DiskFull));
    assert!(view.written > 0);
    assert_eq!(view.matched, view.written + view.lost.total());
    // All of the file can be read, and there are as many packets in it.
    watch.packets(&view);
    let frames = tshark::frames(&watch.folder.path().join(format!("{}.pcapng", view.id)));
    assert_eq!(frames.len() as u64, view.written);
    let refused = watch.manager.start(serde_json::from_str("{}").unwrap()).unwrap_err();
    assert!(refused.to_string().contains("there is no room for a capture"), "{refused}");
    watch.assert_balanced();
}
