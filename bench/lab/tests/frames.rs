//! Frames pass the relay as they are: bit by bit, with their VLAN tags, and as wire frames even where
//! someone turns merging on.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::path::Path;
use std::time::Duration;

use lab::capture::Tcpdump;
use lab::synth::{Scene, write};
use lab::traffic::bulk::{self, Bulk};
use lab::traffic::{Budget, Stop, inject};
use lab::{
    CLIENT_INTERFACE, Lab, Plan, ROUTER_SERVER_INTERFACE, SERVER_INTERFACE, require_root,
    require_tool,
};

/// Transfers until segments were merged.
const TRANSFERS_MAX: usize = 20;

#[test]
fn injected_frames_arrive_bit_by_bit_and_in_order() {
    if !require_root("frames through the relay") || !require_tool("tcpdump", "frames arrive") {
        return;
    }
    let mut scene = Vec::new();
    write(&Scene { seconds: 2, flows: 96, ..Scene::default() }, &mut scene).unwrap();
    let sent = frames(&scene);
    let is_tagged = |frame: &&Vec<u8>| frame[12..14] == [0x81, 0x00];
    assert!(sent.iter().filter(is_tagged).count() > 20, "the scene has tagged frames");
    let lab = Lab::build(Plan::new("frames").with_rtt(Duration::from_millis(2))).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("arrived.pcap");
    // The scene's own hardware addresses: what the two hosts say by themselves is left out.
    let filter = "ether[6:4] = 0x02000001 or ether[6:4] = 0x020000ff";
    let capture = Tcpdump::start(lab.server(), SERVER_INTERFACE, &file, filter).unwrap();

    let budget = Budget::new(Duration::from_secs(60), &Stop::new());
    let pace = Duration::from_micros(50);
    let all = sent.iter().map(Vec::as_slice);
    let count = inject::frames(lab.client(), CLIENT_INTERFACE, all, pace, &budget).unwrap();
    wait_until_idle(&lab);
    let counts = capture.stop().unwrap();

    assert_eq!(count, u64::try_from(sent.len()).unwrap());
    assert_eq!((counts.captured, counts.dropped_by_kernel), (count, 0));
    let arrived = read(&file);
    assert_eq!(arrived.len(), sent.len());
    assert!(arrived == sent, "every frame arrived as it was sent, in order");
}

#[test]
fn merging_that_someone_turned_on_is_undone() {
    if !require_root("super-packets through the relay") || !require_tool("ethtool", "merging") {
        return;
    }
    let lab = Lab::build(Plan::new("merge")).unwrap();
    let router = lab.router().unwrap();
    // As some kernels do by themselves when native XDP is attached to a veth.
    let mut ethtool = router.command("ethtool");
    let status = ethtool.args(["-K", ROUTER_SERVER_INTERFACE, "gro", "on"]).status();
    assert!(status.unwrap().success());

    // Whether two segments meet in the receiver's queue, and are merged, is for the scheduler to say.
    let mut segments = 0;
    for _ in 0..TRANSFERS_MAX {
        let measured = bulk::run(&lab, &Bulk { bytes: 20 << 20, ..Bulk::default() }).unwrap();
        segments += u64::from(measured.server.data_segs_out);
        if lab.report().to_client.super_packets > 0 {
            break;
        }
    }

    let report = lab.report().to_client;
    println!("{} super-packets cut of {} frames", report.super_packets, report.frames);
    assert!(report.super_packets > 0, "merging was on at first");
    assert_eq!((report.dropped_unsupported, report.send_errors), (0, 0));
    // The sender counts segments, and so does the relay: a cut super-packet is what it was.
    assert!(report.frames >= segments, "{} frames, {segments} segments", report.frames);
    let said = router.command("ethtool").args(["-k", ROUTER_SERVER_INTERFACE]).output().unwrap();
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    assert!(said.contains("generic-receive-offload: off"), "it is off again");
}

/// Until the relay holds no frame any more.
fn wait_until_idle(lab: &Lab) {
    let stop = Stop::new();
    let mut last = None;
    for _ in 0..100 {
        stop.wait(Duration::from_millis(50));
        let report = lab.report();
        let state = (report.to_server.frames, report.to_server.held);
        if state.1 == 0 && last == Some(state) {
            return;
        }
        last = Some(state);
    }
    panic!("the relay does not come to rest: {last:?}");
}

fn read(file: &Path) -> Vec<Vec<u8>> {
    frames(&std::fs::read(file).unwrap())
}

/// The frames of a little-endian pcap.
fn frames(file: &[u8]) -> Vec<Vec<u8>> {
    let mut rest = &file[24..];
    let mut frames = Vec::new();
    while let Some((header, behind)) = rest.split_at_checked(16) {
        let length = u32::from_le_bytes(header[8..12].try_into().unwrap());
        let (frame, behind) = behind.split_at(usize::try_from(length).unwrap());
        frames.push(frame.to_vec());
        rest = behind;
    }
    frames
}
