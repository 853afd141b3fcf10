//! Captures and their files: disks that are full, files of earlier runs, of others, and none.

use std::io::ErrorKind;

use super::{super::running::HEARTBEAT_NS, *};

#[test]
fn a_full_disk_ends_the_capture_behind_its_last_whole_block() {
    let dir = tempfile::tempdir().unwrap();
    if !small_disk(dir.path(), 4 << 20) {
        return;
    }
    let mut bench = Bench::new(dir.path());
    let id = bench.start("{}");
    // More at once than fits: the write itself fails, in the middle of a block.
    for _ in 0..6_000 {
        bench.packet(1_001);
    }
    bench.turn();
    bench.turn();
    let view = bench.view(&id);
    assert_eq!(view.stop_reason, Some(StopReason::DiskFull));
    assert!(view.lost.disk > 0 && view.written > 3_000, "{view:?}");
    bench.assert_whole(&view);

    // What is known about it fits in its place, and is there after a restart.
    drop(bench);
    let mut bench = Bench::new(dir.path());
    assert_eq!(bench.manager.list(), std::slice::from_ref(&view));

    // Whatever is free is filled up: not even a header fits.
    let filler = dir.path().join("filler");
    let filled = fs::write(&filler, vec![0; 8 << 20]).unwrap_err();
    assert_eq!(filled.kind(), ErrorKind::StorageFull);
    let before = names(dir.path());
    let error = bench.try_start("{}").unwrap_err();
    assert!(matches!(error, CaptureError::DiskFull { .. }), "{error}");
    assert!(error.to_string().contains("delete captures"), "{error}");
    assert_eq!(names(dir.path()), before);
    assert!(!bench.switch.is_on());

    fs::remove_file(filler).unwrap();
    bench.ask(move |captures| captures.remove(&id)).unwrap();
    bench.start("{}");
}

#[test]
fn a_capture_leaves_a_reserve_of_the_disk_to_others() {
    let dir = tempfile::tempdir().unwrap();
    let size = 4 << 20;
    if !small_disk(dir.path(), size) {
        return;
    }
    let mut bench = Bench::new(dir.path());
    let id = bench.start("{}");
    let mut packets = 0;
    while bench.view(&id).state == CaptureState::Running {
        assert!(packets < 10_000, "the disk must be full by then");
        for _ in 0..20 {
            bench.packet(1_000);
            packets += 1;
        }
        bench.turn();
    }
    let view = bench.view(&id);
    assert_eq!(view.stop_reason, Some(StopReason::DiskFull));
    assert_eq!((view.written, view.lost.total()), (packets, 0), "nothing was lost");
    bench.assert_whole(&view);
    let Space { free_bytes, reserve_bytes } = Space::of(dir.path()).unwrap();
    assert_eq!(reserve_bytes, size / 20);
    assert!(free_bytes > reserve_bytes / 2 && free_bytes < reserve_bytes, "{free_bytes}");
    assert!(matches!(bench.try_start("{}"), Err(CaptureError::DiskFull { .. })));
}

#[test]
fn the_oldest_captures_make_room() {
    let dir = tempfile::tempdir().unwrap();
    let mut bench = Bench::keeping(
        dir.path(),
        HostLimits { captures: 3, bytes: 100_000, ..HostLimits::default() },
    );
    fs::write(dir.path().join("mine.pcapng"), "of another").unwrap();
    let mut ids = Vec::new();
    for bytes in [1_000, 1_000, 1_000, 1_000, 60_000, 60_000] {
        let id = bench.start("{}");
        bench.packet(bytes);
        bench.stop(&id);
        bench.pass(SECOND_NS);
        ids.push(id);
    }
    let kept =
        |bench: &Bench| bench.manager.list().into_iter().map(|view| view.id).collect::<Vec<_>>();
    assert_eq!(kept(&bench), [ids[5].clone()], "three by number, then one by bytes");
    let [json, pcapng] = ["json", "pcapng"].map(|end| format!("{}.{end}", ids[5]));
    assert_eq!(names(dir.path()), [json, pcapng, "mine.pcapng".to_owned()]);
}

#[test]
fn captures_of_an_earlier_run_are_listed() {
    let dir = tempfile::tempdir().unwrap();
    let mut bench = Bench::new(dir.path());
    let id = bench.start(r#"{"limits": {"packets": 9}, "interface": "eth0"}"#);
    bench.packet(60);
    let first = bench.stop(&id);
    bench.pass(SECOND_NS);
    let id = bench.start("{}");
    let second = bench.stop(&id);
    drop(bench);
    let mut again = Bench::new(dir.path());
    assert_eq!(again.manager.list(), [second, first.clone()]);
    let id = first.id.clone();
    again.ask(move |captures| captures.remove(&id)).unwrap();
    assert!(!again.file(&first.id).exists());
}

#[test]
fn a_killed_daemons_capture_is_cut_to_its_last_whole_block() {
    for (cut, written) in [(0, 10), (1, 10), (91, 10), (160, 9), (400, 7)] {
        let dir = tempfile::tempdir().unwrap();
        let mut bench = Bench::new(dir.path());
        let id = bench.start("{}");
        for _ in 0..10 {
            bench.packet(60);
        }
        bench.rings.produced += 4;
        bench.rings.lost += 4;
        bench.turn();
        bench.pass(HEARTBEAT_NS);
        bench.turn();
        let path = bench.file(&id);
        // As a kill would leave it: the writer's end is not reached.
        let whole = path.metadata().unwrap().len();
        drop(bench);
        let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
        file.set_len(whole - cut).unwrap();
        fs::write(dir.path().join(format!("{id}.json.new")), "{").unwrap();

        let mut again = Bench::new(dir.path());
        assert!(again.manager.list().is_empty(), "it is repaired first");
        again.turn();
        let view = again.view(&id);
        assert_eq!(view.state, CaptureState::Finished);
        assert_eq!(view.stop_reason, Some(StopReason::Interrupted));
        assert!(view.ended_at.is_some());
        assert_eq!((view.written, view.lost.ring), (written, 4), "{cut} bytes short");
        again.assert_whole(&view);
        assert_eq!(view.bytes == whole, cut == 0);
        assert_eq!(names(dir.path()), [format!("{id}.json"), format!("{id}.pcapng")]);
        drop(again);
        assert_eq!(*Bench::new(dir.path()).manager.list(), [view], "and is finished from then on");
    }
}

#[test]
fn what_is_not_linnets_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let id = "0123456789abc00000000";
    let foreign = [
        ("0123456789abc00000001.json", "not json"),
        ("0123456789abc00000001.pcapng", "something"),
        ("0123456789abc00000002.pcapng", "no json beside it"),
        ("notes.json", "{}"),
        ("trace.pcapng", "mine"),
    ];
    for (name, text) in foreign {
        fs::write(dir.path().join(name), text).unwrap();
    }
    let mut bench =
        Bench::keeping(dir.path(), HostLimits { captures: 1, bytes: 1, ..HostLimits::default() });
    for _ in 0..3 {
        let id = bench.start("{}");
        bench.stop(&id);
        bench.pass(SECOND_NS);
    }
    for (name, text) in foreign {
        assert_eq!(fs::read_to_string(dir.path().join(name)).unwrap(), text, "{name}");
    }
    assert!(bench.manager.get(id).is_err());
    assert!(bench.manager.get("../recorder").is_err());
    assert_eq!(bench.manager.list().len(), 1);
}

#[test]
fn a_file_that_was_taken_away_is_no_longer_a_capture() {
    let dir = tempfile::tempdir().unwrap();
    let mut bench = Bench::new(dir.path());
    let id = bench.start("{}");
    bench.stop(&id);
    fs::remove_file(bench.file(&id)).unwrap();
    assert!(matches!(bench.manager.open(&id), Err(CaptureError::Unknown(_))));
    drop(bench);
    let mut again = Bench::new(dir.path());
    again.turn();
    assert!(again.manager.list().is_empty());
    assert!(names(dir.path()).is_empty());
}
