//! linnet's capture on one interface of a lab, in the test's own process: the attacher, its stage and rings, the recorder,
//! and what they count.

use std::{
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use captures::StopReason;
use daemon::{
    board::Board,
    capture::{self, CaptureManager, CaptureView, HostLimits, Stage, reader::RingReader},
    clock::Clock,
    events::EventReader,
    flow::{EventStore, FlowIdSource, FlowTable, expiry::Timeouts},
    live::{AttachedPoint, Attacher, CaptureCounters, MapSizes, Points, StageConfig, Verb},
    past::Past,
    status::Publisher,
    sweep::Sweeper,
};
use datapath::layout::{CAPTURES_MAX, CaptureCounts};

use super::{
    packets::{Packet, packets},
    wait_for,
};

/// The stage of an attacher in this process.
struct LabStage(Mutex<Attacher>, CaptureCounters);

impl LabStage {
    fn perform(&self, verb: Verb) -> anyhow::Result<()> {
        self.0.lock().map_err(|_| anyhow::anyhow!("poisoned"))?.perform(verb)?;
        Ok(())
    }
}

impl Stage for LabStage {
    fn start(&self, slot: u8, config: StageConfig) -> anyhow::Result<()> {
        self.perform(Verb::StartCapture { slot, config })
    }

    fn stop(&self, slot: u8) -> anyhow::Result<()> {
        self.perform(Verb::StopCapture { slot })
    }

    fn counts(&self, slot: u8) -> Option<CaptureCounts> {
        self.1.read(slot).ok()
    }
}

/// linnet on one interface of a lab, in this process.
pub(crate) struct Watch {
    pub(crate) manager: Arc<CaptureManager>,
    pub(crate) board: Arc<Board>,
    pub(crate) sweeper: Sweeper,
    sweeps: u64,
    reader: Option<RingReader>,
    counters: CaptureCounters,
    pub(crate) folder: tempfile::TempDir,
}

impl Watch {
    pub(crate) fn new(name: &str, spec: &str, capture_ring_bytes: u32) -> Self {
        Self::in_folder(tempfile::tempdir().unwrap(), name, spec, capture_ring_bytes)
    }

    /// With captures in this folder.
    pub(crate) fn in_folder(
        folder: tempfile::TempDir,
        name: &str,
        spec: &str,
        capture_ring_bytes: u32,
    ) -> Self {
        let pins = format!("/sys/fs/bpf/linnet-test-{}-{name}", std::process::id());
        let sizes = MapSizes { flows: 4_096, capture_ring_bytes, ..MapSizes::default() };
        let mut attacher = Attacher::new(Path::new(&pins), sizes).unwrap();
        let request: daemon::live::AttachRequest = spec.parse().unwrap();
        let attached = attacher.attach(request.clone()).unwrap();
        let (board, clock) = (Arc::new(Board::default()), Arc::new(Clock::new()));
        let (flow_map, hook_map) = (attacher.flows().unwrap(), attacher.hooks().unwrap());
        let service_map = attacher.services().unwrap();
        let store = Arc::new(EventStore::new(FlowIdSource::new(b"test"), 0));
        let events = Arc::new(EventReader::new(attacher.events().unwrap(), store));
        let (rings, counters) =
            (attacher.capture_rings().unwrap(), attacher.capture_counters().unwrap());
        let ours = attacher.capture_counters().unwrap();
        let stage = Arc::new(LabStage(Mutex::new(attacher), counters));
        let opened = capture::open(folder.path(), HostLimits::default(), stage, Arc::clone(&board));
        let (manager, recorder) = opened.unwrap();
        let manager = Arc::new(manager);
        let reader = RingReader::start(rings, recorder, Arc::clone(&clock)).unwrap();
        let rings = Arc::clone(&manager);
        let publisher = Publisher::new(
            Arc::clone(&board),
            Arc::clone(&clock),
            Arc::new(move || rings.rings()),
            "live",
            0,
            Vec::new(),
        );
        let sweeper = Sweeper {
            flow_map,
            hook_map,
            service_map,
            events,
            points: Arc::new(Points::of(vec![AttachedPoint { request, attached }])),
            remote: None,
            past: Past::default(),
            keeper: None,
            table: Arc::new(FlowTable::new(
                FlowIdSource::new(b"test"),
                10_000,
                Timeouts::default(),
            )),
            publisher,
            clock,
            interval: Duration::from_secs(1),
            waited_ns: 0,
        };
        let mut watch = Self {
            manager,
            board,
            sweeper,
            sweeps: 0,
            reader: Some(reader),
            counters: ours,
            folder,
        };
        watch.sweep();
        watch
    }

    pub(crate) fn sweep(&mut self) {
        self.sweeps += 1;
        self.sweeper.sweep(self.sweeps).unwrap();
    }

    /// Frames that the trackers have seen.
    pub(crate) fn seen(&mut self) -> u64 {
        self.sweep();
        self.board.loss.latest().seen
    }

    pub(crate) fn start(&self, filter: &str) -> String {
        let json = serde_json::json!({ "filter": filter }).to_string();
        self.manager.start(serde_json::from_str(&json).unwrap()).unwrap().id
    }

    pub(crate) fn stop(&self, id: &str) -> CaptureView {
        let view = self.manager.stop(id, StopReason::UserRequest).unwrap();
        assert_eq!(view.stop_reason, Some(StopReason::UserRequest));
        assert_eq!(view.matched, view.written + view.lost.total(), "{view:?}");
        view
    }

    /// Packets that the kernel's filters have chosen, for all captures ever.
    pub(crate) fn matched(&self) -> u64 {
        let of_slot = |slot| self.counters.read(slot).unwrap().matched;
        (0..CAPTURES_MAX).map(|slot| of_slot(slot as u8)).sum()
    }

    pub(crate) fn packets(&self, view: &CaptureView) -> Vec<Packet> {
        let path = self.folder.path().join(format!("{}.pcapng", view.id));
        assert_eq!(path.metadata().unwrap().len(), view.bytes);
        let packets = packets(&path);
        assert_eq!(packets.len() as u64, view.written);
        packets
    }

    /// Every record of the ring is read or lost in the end.
    pub(crate) fn assert_balanced(&self) {
        wait_for("the ring's balance", || {
            let rings = self.manager.rings();
            (rings.produced == rings.consumed + rings.lost).then_some(())
        });
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        if let Some(reader) = self.reader.take() {
            reader.stop();
        }
    }
}
