//! The recorder on real files, with time and packets given to it: what a capture is after every way in which it can
//! end.
#![allow(clippy::unwrap_in_result, reason = "a test that cannot go on must stop there")]

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
};

use captures::{PacketReader, ReadError};
use datapath::layout::CaptureCounts;
use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
};

mod files;

use super::{running::DRAIN_MAX_NS, *};
use crate::{
    board::{AttachmentView, InterfaceView},
    capture::{CaptureManager, CaptureRequest, HostLimits, Stage, open},
    live::StageConfig,
};

const SECOND_NS: u64 = 1_000_000_000;
const MINUTE_NS: u64 = 60 * SECOND_NS;

/// What the stage was asked, as the kernel's would have been.
#[derive(Default)]
struct Switch {
    broken: AtomicBool,
    on: Mutex<BTreeMap<u8, StageConfig>>,
    /// What it has counted, where it does.
    counts: Mutex<Option<CaptureCounts>>,
}

impl Switch {
    fn is_on(&self) -> bool {
        !self.on.lock().unwrap().is_empty()
    }
}

struct SwitchStage(Arc<Switch>);

impl Stage for SwitchStage {
    fn start(&self, slot: u8, config: StageConfig) -> anyhow::Result<()> {
        anyhow::ensure!(!self.0.broken.load(Ordering::Relaxed), "the kernel refuses");
        assert!(self.0.on.lock().unwrap().insert(slot, config).is_none(), "the slot is at rest");
        Ok(())
    }

    fn stop(&self, slot: u8) -> anyhow::Result<()> {
        self.0.on.lock().unwrap().remove(&slot);
        Ok(())
    }

    fn counts(&self, _slot: u8) -> Option<CaptureCounts> {
        *self.0.counts.lock().unwrap()
    }

    fn is_prompt(&self) -> bool {
        true
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
        Self::keeping(dir, HostLimits::default())
    }

    fn keeping(dir: &Path, limits: HostLimits) -> Self {
        let (board, switch) = (Arc::new(Board::default()), Arc::new(Switch::default()));
        board.interfaces.publish(vec![interface("eth0", 1), interface("eth1", 2)]);
        let stage = Arc::new(SwitchStage(Arc::clone(&switch)));
        let (manager, recorder) = open(dir, limits, stage, Arc::clone(&board)).unwrap();
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
            header_len: 40,
            packet_id: None,
            chosen: None,
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
        assert!(!self.switch.is_on(), "the stage is off");
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
    assert!(bench.switch.is_on());
    bench.packet(60);
    // In the ring when the order comes; and lost between the last look at the ring and the stage's end.
    bench.rings.produced += 3;
    bench.turn();
    let stopping = bench.ask_later({
        let id = id.clone();
        move |captures| captures.stop(&id, StopReason::UserRequest)
    });
    while bench.switch.is_on() {
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
fn each_capture_has_a_slot_of_its_own_and_says_what_it_wants() {
    let dir = tempfile::tempdir().unwrap();
    let mut bench = Bench::new(dir.path());
    let configs = |bench: &Bench| bench.switch.on.lock().unwrap().clone();
    let short = r#"{"interface": "eth0", "snaplen": 100, "limits": {"seconds": 10, "packets": 7}}"#;
    let first = bench.start(short);
    let alone = configs(&bench)[&0].clone();
    assert_eq!((alone.point, alone.snaplen, alone.payload_max), (Some(1), 100, None));
    assert_eq!(alone.deadline_ns, bench.now.monotonic_ns + 10 * SECOND_NS);
    assert!(alone.packets_max > 7, "what is lost on the way does not count for the limit");
    let headers = r#"{"interface": "eth1", "payload_bytes": 0}"#;
    let second = bench.start(headers);
    let both = configs(&bench);
    assert_eq!((both.len(), both[&1].payload_max, both[&1].point), (2, Some(0), Some(2)));
    assert_eq!(both[&0], alone, "nothing changes for the first one");
    bench.stop(&first);
    assert_eq!(configs(&bench).into_keys().collect::<Vec<_>>(), [1]);
    let third = bench.start("{}");
    assert!(configs(&bench).contains_key(&0), "the slot is used again");
    bench.stop(&second);
    bench.stop(&third);
    assert!(!bench.switch.is_on());
}

/// A packet that the kernel has filtered, for these slots.
fn chosen<'a>(bench: &Bench, slots: u64, data: &'a [u8]) -> RawPacket<'a> {
    RawPacket {
        seen_ns: bench.now.monotonic_ns,
        wall_ns: bench.now.wall_ns(),
        point: 1,
        direction: 0,
        original_len: u32::try_from(data.len()).unwrap(),
        data,
        queue: 0,
        header_len: 54,
        packet_id: Some(9),
        chosen: Some(slots),
    }
}

#[test]
fn packets_go_to_the_captures_that_the_kernel_chose_them_for() {
    let dir = tempfile::tempdir().unwrap();
    let mut bench = Bench::new(dir.path());
    *bench.switch.counts.lock().unwrap() =
        Some(CaptureCounts { matched: 5, produced: 5, ..CaptureCounts::default() });
    let ids =
        ["{}", r#"{"payload_bytes": 10}"#, r#"{"filter": "port 9"}"#].map(|it| bench.start(it));
    let data = [7; 100];
    for slots in [0b011, 0b010, 0b100] {
        bench.recorder.packet(&chosen(&bench, slots, &data));
    }
    // All of them have the same figures in this test: of each, three packets since it began, and three lost.
    *bench.switch.counts.lock().unwrap() =
        Some(CaptureCounts { matched: 11, produced: 8, lost_ring: 3, ..CaptureCounts::default() });
    let mut lost = [0; CAPTURES_MAX];
    // Some of them are of the capture that had the slot before.
    lost[1] = 8;
    bench.recorder.gap(&lost);
    bench.recorder.packet(&chosen(&bench, 0b010, &data));
    let view = bench.stop(&ids[1]);
    assert_eq!((view.matched, view.written, view.lost.ring), (6, 3, 3));
    let mut reader = PacketReader::open(&bench.file(&ids[1])).unwrap();
    let mut seen = Vec::new();
    while let Some(read) = reader.next_packet().unwrap() {
        let packet = read.packet;
        seen.push((packet.data.len(), packet.original_len, packet.drop_count, packet.packet_id));
    }
    let (whole, id) = (100, Some(9));
    assert_eq!(seen[..2], [(64, whole, None, id), (64, whole, None, id)], "54 and 10 bytes");
    assert_eq!(seen[2], (64, whole, Some(3), id), "the gap is told where it was");
    bench.pass(DRAIN_MAX_NS);
    let other = ids[2].clone();
    let stopping = bench.ask_later(move |captures| captures.stop(&other, StopReason::UserRequest));
    while bench.switch.on.lock().unwrap().contains_key(&2) {
        bench.turn();
        thread::yield_now();
    }
    bench.turn();
    assert!(!stopping.is_finished(), "two are still to come, since the kernel has counted three");
    bench.pass(DRAIN_MAX_NS);
    bench.turn();
    let view = stopping.join().unwrap().unwrap();
    assert_eq!((view.written, view.lost.ring), (1, 3 + 2), "the kernel's own filter has seen it");
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
    let deadline_ns = bench.switch.on.lock().unwrap()[&0].deadline_ns;
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
    assert!(!bench.switch.is_on());
}
