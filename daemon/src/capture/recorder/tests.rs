//! The recorder on real files, with time and packets given to it: what a capture is after every way in which it can
//! end.
#![allow(clippy::unwrap_in_result, reason = "a test that cannot go on must stop there")]

use std::{
    fs,
    path::Path,
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
};

use captures::{PacketReader, ReadError};
use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
};

use super::*;
use crate::{
    board::{AttachmentView, InterfaceView},
    capture::{CaptureManager, CaptureRequest, Keep, open},
};

const SECOND_NS: u64 = 1_000_000_000;
const MINUTE_NS: u64 = 60 * SECOND_NS;

/// What the stage was asked, as the kernel's would have been.
#[derive(Default)]
struct Switch {
    on: AtomicBool,
    broken: AtomicBool,
    config: Mutex<Option<StageConfig>>,
}

struct SwitchStage(Arc<Switch>);

impl Stage for SwitchStage {
    fn start(&self, config: StageConfig) -> anyhow::Result<()> {
        anyhow::ensure!(!self.0.broken.load(Ordering::Relaxed), "the kernel refuses");
        *self.0.config.lock().unwrap() = Some(config);
        self.0.on.store(true, Ordering::Relaxed);
        Ok(())
    }

    fn stop(&self) -> anyhow::Result<()> {
        self.0.on.store(false, Ordering::Relaxed);
        Ok(())
    }
}

/// A recorder whose thread is the test's, and a manager for others.
struct Bench {
    manager: Arc<CaptureManager>,
    recorder: Recorder,
    switch: Arc<Switch>,
    board: Arc<Board>,
    now: Moment,
    rings: RingsView,
}

impl Bench {
    fn new(dir: &Path) -> Self {
        Self::keeping(dir, Keep::default())
    }

    fn keeping(dir: &Path, keep: Keep) -> Self {
        let (board, switch) = (Arc::new(Board::default()), Arc::new(Switch::default()));
        board.interfaces.publish(vec![interface("eth0", 1), interface("eth1", 2)]);
        let stage = Box::new(SwitchStage(Arc::clone(&switch)));
        let (manager, recorder) = open(dir, keep, stage, Arc::clone(&board)).unwrap();
        let now = Moment { monotonic_ns: MINUTE_NS, offset_ns: 1_700_000_000_000_000_000 };
        let rings = RingsView::default();
        Self { manager: Arc::new(manager), recorder, switch, board, now, rings }
    }

    fn turn(&mut self) {
        self.recorder.turn(self.now, self.rings);
    }

    fn pass(&mut self, time_ns: u64) {
        self.now.monotonic_ns += time_ns;
    }

    /// Asks on another thread, as handlers do, and turns until there is an answer.
    fn ask<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(&CaptureManager) -> Result<T, CaptureError> + Send + 'static,
    ) -> Result<T, CaptureError> {
        let asked = self.ask_later(work);
        while !asked.is_finished() {
            self.turn();
            thread::yield_now();
        }
        asked.join().unwrap()
    }

    fn ask_later<T: Send + 'static>(
        &self,
        work: impl FnOnce(&CaptureManager) -> Result<T, CaptureError> + Send + 'static,
    ) -> JoinHandle<Result<T, CaptureError>> {
        let manager = Arc::clone(&self.manager);
        thread::spawn(move || work(&manager))
    }

    fn try_start(&mut self, json: &str) -> Result<CaptureView, CaptureError> {
        let request: CaptureRequest = serde_json::from_str(json).unwrap();
        self.ask(move |captures| captures.start(request))
    }

    fn start(&mut self, json: &str) -> String {
        self.try_start(json).unwrap().id
    }

    fn stop(&mut self, id: &str) -> CaptureView {
        let id = id.to_owned();
        self.ask(move |captures| captures.stop(&id, StopReason::UserRequest)).unwrap()
    }

    /// A packet of `bytes` bytes out of the ring.
    fn packet(&mut self, bytes: usize) {
        self.rings.produced += 1;
        self.consume(bytes);
    }

    /// The same of one that was put in before.
    fn consume(&mut self, bytes: usize) {
        self.rings.consumed += 1;
        self.recorder.packet(&RawPacket {
            seen_ns: self.now.monotonic_ns,
            wall_ns: self.now.wall_ns(),
            point: 1,
            direction: 0,
            original_len: u32::try_from(bytes).unwrap(),
            data: &vec![7; bytes],
            queue: 0,
        });
    }

    fn view(&self, id: &str) -> CaptureView {
        self.manager.get(id).unwrap()
    }

    fn file(&self, id: &str) -> PathBuf {
        self.recorder.catalogue.path(id)
    }

    /// What is in a finished capture's file; the file is whole, as long as said, and the counters balance.
    fn assert_whole(&self, view: &CaptureView) {
        let path = self.file(&view.id);
        assert_eq!(path.metadata().unwrap().len(), view.bytes, "{view:?}");
        assert_eq!(count(&path).unwrap(), view.written, "{view:?}");
        assert_eq!(view.matched, view.written + view.lost.total(), "{view:?}");
        assert!(view.offered >= view.matched);
        assert!(!self.switch.on.load(Ordering::Relaxed), "the stage is off");
    }
}

fn interface(name: &str, point: u32) -> InterfaceView {
    InterfaceView {
        name: name.into(),
        point,
        link: "ethernet",
        link_type: captures::LinkType::ETHERNET,
        state: "attached",
        ingress: Some(AttachmentView { hook: "tcx".into(), ..AttachmentView::default() }),
        ..InterfaceView::default()
    }
}

fn count(path: &Path) -> Result<u64, ReadError> {
    let mut reader = PacketReader::open(path)?;
    let mut packets = 0;
    while reader.next_packet()?.is_some() {
        packets += 1;
    }
    Ok(packets)
}

fn names(dir: &Path) -> Vec<String> {
    let name = |entry: io::Result<fs::DirEntry>| entry.unwrap().file_name().into_string().unwrap();
    let mut names: Vec<_> = fs::read_dir(dir).unwrap().map(name).collect();
    names.sort();
    names
}

/// Mounts a file system of so many bytes over `dir`, which only this thread sees and which ends with it.
fn small_disk(dir: &Path, bytes: u64) -> bool {
    if !nix::unistd::geteuid().is_root() {
        assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "a small disk needs root");
        println!("skipped: a small disk needs root");
        return false;
    }
    unshare(CloneFlags::CLONE_NEWNS).unwrap();
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
    let size = format!("size={bytes}");
    mount(Some("tmpfs"), dir, Some("tmpfs"), MsFlags::empty(), Some(size.as_str())).unwrap();
    true
}

#[test]
fn a_stop_takes_what_is_still_in_the_ring() {
    let dir = tempfile::tempdir().unwrap();
    let mut bench = Bench::new(dir.path());
    let id = bench.start("{}");
    assert!(bench.switch.on.load(Ordering::Relaxed));
    bench.packet(60);
    // In the ring when the order comes; and lost between the last look at the ring and the stage's end.
    bench.rings.produced += 3;
    bench.turn();
    let stopping = bench.ask_later({
        let id = id.clone();
        move |captures| captures.stop(&id, StopReason::UserRequest)
    });
    while bench.switch.on.load(Ordering::Relaxed) {
        bench.turn();
        thread::yield_now();
    }
    bench.rings.produced += 2;
    bench.rings.lost += 2;
    bench.turn();
    assert!(!stopping.is_finished(), "three are still to come");
    assert_eq!(bench.view(&id).state, CaptureState::Running);
    for _ in 0..3 {
        bench.consume(60);
    }
    bench.turn();
    let view = stopping.join().unwrap().unwrap();
    assert_eq!((view.written, view.lost.ring, view.matched), (4, 2, 6));
    assert_eq!(view.stop_reason, Some(StopReason::UserRequest));
    bench.assert_whole(&view);
    let RingsView { produced, consumed, lost } = bench.manager.rings();
    assert_eq!(produced, consumed + lost);
}

#[test]
fn a_ring_that_gives_nothing_back_ends_the_wait_and_its_records_are_lost() {
    let dir = tempfile::tempdir().unwrap();
    let mut bench = Bench::new(dir.path());
    let id = bench.start("{}");
    bench.rings.produced += 3;
    bench.recorder.close(bench.now);
    bench.turn();
    assert!(bench.recorder.is_ending());
    bench.pass(DRAIN_MAX_NS);
    bench.turn();
    let view = bench.view(&id);
    assert_eq!((view.stop_reason, view.lost.ring), (Some(StopReason::DaemonStopped), 3));
    bench.assert_whole(&view);
}

#[test]
fn captures_run_beside_each_other_up_to_the_limit() {
    let dir = tempfile::tempdir().unwrap();
    let mut bench = Bench::new(dir.path());
    let ids: Vec<_> = (0..CAPTURES_MAX).map(|_| bench.start("{}")).collect();
    let error = bench.try_start("{}").unwrap_err();
    assert!(matches!(error, CaptureError::TooMany) && error.to_string().contains("64"), "{error}");
    bench.packet(60);
    let view = bench.stop(&ids[7]);
    assert_eq!(view.written, 1);
    bench.packet(60);
    let later = bench.start("{}");
    assert!(!ids.contains(&later));
    bench.packet(60);
    bench.turn();
    assert_eq!(bench.stop(&ids[7]), view, "one that has ended stays as it is");
    assert_eq!(bench.stop(&ids[8]).written, 3, "it has missed nothing of what came meanwhile");
    assert_eq!(bench.stop(&later).written, 1);
    assert_eq!(bench.manager.list().len(), CAPTURES_MAX + 1);
}

#[test]
fn the_stage_copies_what_any_of_them_wants() {
    let dir = tempfile::tempdir().unwrap();
    let mut bench = Bench::new(dir.path());
    let config = |bench: &Bench| bench.switch.config.lock().unwrap().unwrap();
    let short = r#"{"interface": "eth0", "snaplen": 100, "limits": {"seconds": 10}}"#;
    let first = bench.start(short);
    let alone = config(&bench);
    assert_eq!((alone.point, alone.snaplen), (Some(1), 100));
    let second = bench.start(r#"{"interface": "eth1", "snaplen": 200, "limits": {"seconds": 5}}"#);
    let both = StageConfig { point: None, snaplen: 200, ..alone };
    assert_eq!(config(&bench), both, "both interfaces, the longer one and the later end");
    bench.stop(&second);
    assert_eq!(config(&bench), alone);
    assert!(bench.switch.on.load(Ordering::Relaxed), "the other one goes on");
    bench.stop(&first);
    assert!(!bench.switch.on.load(Ordering::Relaxed));
}

#[test]
fn answers_need_no_turn() {
    let dir = tempfile::tempdir().unwrap();
    let mut bench = Bench::new(dir.path());
    let id = bench.start("{}");
    bench.packet(60);
    bench.turn();
    // The recorder's thread does nothing from here on, as if its disk hung.
    assert_eq!(bench.manager.get(&id).unwrap().written, 1);
    assert_eq!(bench.manager.list().len(), 1);
    assert_eq!(bench.manager.open(&id).unwrap().1.id, id);
    assert_eq!(bench.manager.rings().produced, 1);
}

#[test]
fn a_step_of_the_wall_clock_moves_no_duration() {
    let dir = tempfile::tempdir().unwrap();
    let mut bench = Bench::new(dir.path());
    let id = bench.start(r#"{"limits": {"seconds": 10}}"#);
    let deadline_ns = bench.switch.config.lock().unwrap().unwrap().deadline_ns;
    assert_eq!(deadline_ns, bench.now.monotonic_ns + 10 * SECOND_NS, "the kernel's own end");
    for step in [3_600 * 1_000_000_000, -7_200 * 1_000_000_000] {
        bench.now.offset_ns += step;
        bench.pass(SECOND_NS);
        bench.packet(60);
        bench.turn();
        assert_eq!(bench.view(&id).state, CaptureState::Running);
    }
    bench.pass(8 * SECOND_NS);
    bench.packet(60);
    bench.turn();
    bench.turn();
    let view = bench.view(&id);
    assert_eq!(view.stop_reason, Some(StopReason::DurationLimit));
    assert_eq!(view.written, 2, "the last came at the end");
    bench.assert_whole(&view);
}

#[test]
fn a_capture_that_nobody_reads_any_more_ends_where_it_was_asked_to() {
    let dir = tempfile::tempdir().unwrap();
    let mut bench = Bench::new(dir.path());
    let id = bench.start(r#"{"limits": {"seconds": 600, "unread_seconds": 10}}"#);
    let other = bench.start(r#"{"limits": {"seconds": 600, "unread_seconds": 15}}"#);
    let reader = bench.manager.read(&id);
    for _ in 0..20 {
        bench.pass(SECOND_NS);
        bench.turn();
    }
    assert_eq!(bench.view(&id).state, CaptureState::Running, "it is read");
    assert_eq!(
        bench.view(&other).stop_reason,
        Some(StopReason::Unread),
        "and the other one is not"
    );
    drop(reader);
    bench.pass(9 * SECOND_NS);
    bench.turn();
    assert_eq!(bench.view(&id).state, CaptureState::Running, "a reader may come back");
    bench.pass(SECOND_NS);
    bench.turn();
    bench.turn();
    let view = bench.view(&id);
    assert_eq!(view.stop_reason, Some(StopReason::Unread));
    bench.assert_whole(&view);
}

#[test]
fn losses_after_the_packet_limit_are_no_part_of_the_capture() {
    let dir = tempfile::tempdir().unwrap();
    let mut bench = Bench::new(dir.path());
    let id = bench.start(r#"{"limits": {"packets": 2}}"#);
    for _ in 0..5 {
        bench.packet(60);
    }
    bench.turn();
    bench.rings.produced += 7;
    bench.rings.lost += 7;
    bench.turn();
    let view = bench.view(&id);
    assert_eq!(view.stop_reason, Some(StopReason::PacketLimit));
    assert_eq!((view.matched, view.written, view.lost.ring), (2, 2, 0));
    bench.assert_whole(&view);
}

#[test]
fn a_capture_ends_with_its_last_interface() {
    let dir = tempfile::tempdir().unwrap();
    let mut bench = Bench::new(dir.path());
    let gone = |name, point| InterfaceView { state: InterfaceView::GONE, ..interface(name, point) };
    let id = bench.start("{}");
    bench.board.interfaces.publish(vec![gone("eth0", 1), interface("eth1", 2)]);
    bench.turn();
    assert_eq!(bench.view(&id).state, CaptureState::Running, "eth1 is still there");
    bench.board.interfaces.publish(vec![gone("eth0", 1), gone("eth1", 2)]);
    bench.turn();
    bench.turn();
    let view = bench.view(&id);
    assert_eq!(view.stop_reason, Some(StopReason::InterfaceRemoved));
    bench.assert_whole(&view);
    let error = bench.try_start("{}").unwrap_err();
    assert!(error.to_string().contains("gone"), "{error}");
}

#[test]
fn a_stage_that_cannot_be_turned_on_leaves_no_file() {
    let dir = tempfile::tempdir().unwrap();
    let mut bench = Bench::new(dir.path());
    bench.switch.broken.store(true, Ordering::Relaxed);
    let error = bench.try_start("{}").unwrap_err();
    assert!(error.to_string().contains("the kernel refuses"), "{error}");
    assert!(names(dir.path()).is_empty());
    assert!(bench.recorder.is_idle());
}

#[test]
fn a_byte_limit_without_room_for_a_packet_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let mut bench = Bench::new(dir.path());
    let error = bench.try_start(r#"{"limits": {"bytes": 10}}"#).unwrap_err();
    assert!(matches!(error, CaptureError::Field { field: "limits.bytes", .. }), "{error}");
    assert!(names(dir.path()).is_empty());
}

#[test]
fn a_start_that_nobody_waits_for_ends_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let mut bench = Bench::new(dir.path());
    let request: CaptureRequest = serde_json::from_str("{}").unwrap();
    let plan = Plan::new(request, &bench.board.interfaces.latest()).unwrap();
    let (reply, answer) = mpsc::sync_channel(1);
    drop(answer);
    bench.recorder.obey(bench.now, Order { task: Task::Start(Box::new(plan)), reply });
    bench.turn();
    assert!(bench.recorder.is_idle());
    assert_eq!(bench.manager.list()[0].stop_reason, Some(StopReason::UserRequest));
}

#[test]
fn a_removal_ends_the_capture_and_takes_its_files() {
    let dir = tempfile::tempdir().unwrap();
    let mut bench = Bench::new(dir.path());
    let id = bench.start("{}");
    assert_eq!(names(dir.path()), [format!("{id}.json"), format!("{id}.pcapng")]);
    let removed = id.clone();
    bench.ask(move |captures| captures.remove(&removed)).unwrap();
    assert!(names(dir.path()).is_empty());
    assert!(matches!(bench.manager.get(&id), Err(CaptureError::Unknown(_))));
    assert!(!bench.switch.on.load(Ordering::Relaxed));
}

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
    assert!(!bench.switch.on.load(Ordering::Relaxed));

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
    let mut bench = Bench::keeping(dir.path(), Keep { captures: 3, bytes: 100_000 });
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
    let mut bench = Bench::keeping(dir.path(), Keep { captures: 1, bytes: 1 });
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
