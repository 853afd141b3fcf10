//! The recorder on real files, with time and packets given to it: what a capture is after every way in which it can
//! end.
#![allow(clippy::unwrap_in_result, reason = "a test that cannot go on must stop there")]

use std::{
    fs, io,
    path::{Path, PathBuf},
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

mod files;

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
