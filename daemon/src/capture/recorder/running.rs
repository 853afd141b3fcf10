//! One capture that runs: its file, the interfaces that it is of, and why it ends. Never looks at the stage or at other
//! captures.

use std::{
    collections::{BTreeSet, HashMap},
    fs::File,
    io::{self, ErrorKind},
    path::PathBuf,
    sync::{Arc, mpsc},
};

use captures::{
    Capture, CaptureSpec, CapturedPacket, Direction, InterfaceDescription, Limits, Offer,
    StopReason,
    format::pcapng::SectionHeader,
    session::{self, Loss},
};

use datapath::layout::CaptureCounts;

use super::super::{
    CaptureError, CaptureState, CaptureView, RawPacket, Stage,
    catalogue::Catalogue,
    manager::Answer,
    plan::{self, Plan},
    space::Space,
};
use crate::{
    board::{Board, InterfaceView},
    clock::Moment,
    flow::view::{RingsView, rfc3339},
    live::AttachedPoint,
};

/// How long the stage may take to end its part.
const STOP_MAX_NS: u64 = 30_000_000_000;
/// How long what was copied may take to come out of the ring while nothing does.
pub(super) const DRAIN_MAX_NS: u64 = 5_000_000_000;
/// From one statistics block to the next.
pub(super) const HEARTBEAT_NS: u64 = 2_000_000_000;

/// A capture that runs. Invariant: `ending` is set as soon as nothing more is copied for it.
pub(super) struct Running {
    pub(super) view: CaptureView,
    /// Its bit in the stage's masks.
    pub(super) slot: u8,
    /// Who waits until it has started; absent once it has.
    pub(super) starting: Option<mpsc::SyncSender<Answer>>,
    /// What the stage had counted for the slot before, and packets that came for this capture; absent where it counts
    /// nothing.
    before: Option<CaptureCounts>,
    arrived: u64,
    /// Losses that have been counted.
    known: Losses,
    /// Packets lost in front of the next one.
    gaps: Gaps,
    pub(super) capture: Capture<File>,
    interfaces: HashMap<(u32, u32), u32>,
    /// The one of the last packet, which most often is that of the next.
    last: Option<((u32, u32), u32)>,
    /// Points that came since the start and are no part of it, and those that are and are not listed yet: at most as
    /// many as there are points.
    strangers: BTreeSet<u32>,
    fresh: BTreeSet<u32>,
    /// The list of interfaces that was looked at last.
    listed: Option<Arc<Vec<InterfaceView>>>,
    /// Monotonic; packets from here on are part of it.
    start_ns: u64,
    /// Monotonic; packets from here on are no part of it.
    end_ns: u64,
    /// Monotonic.
    heartbeat_ns: u64,
    /// Monotonic; when its live stream had a reader for the last time.
    pub(super) read_ns: u64,
    pub(super) ending: Option<Ending>,
}

/// What the stage has lost of a capture.
#[derive(Clone, Copy, Debug, Default)]
struct Losses {
    ring: u64,
    budget: u64,
}

/// Packets that found a ring full, from the capture's start. A CPU's ring tells of its gap with the next packet that it takes:
/// of one that takes none any more the counters tell.
#[derive(Clone, Copy, Debug, Default)]
struct Gaps {
    /// Told by the rings.
    recorded: u64,
    /// Counted when the rings had been read to their ends.
    counted: u64,
    /// Told in the file.
    told: u64,
}

impl Gaps {
    fn untold(self) -> u64 {
        self.recorded.max(self.counted).saturating_sub(self.told)
    }
}

/// A capture for which nothing more is to be copied.
pub(super) struct Ending {
    pub(super) reason: StopReason,
    /// Nothing is copied for it any more.
    pub(super) is_off: bool,
    /// What is to come first; known with the first look after that.
    pub(super) until: Option<Until>,
    /// Packets that had come out of the rings when one last did, and when that was seen, monotonic: while those of
    /// before the end are still being read, they are waited for.
    pub(super) read: u64,
    pub(super) read_ns: u64,
    pub(super) then: Vec<Then>,
}

/// Packets to come until a capture has all of its own.
#[derive(Clone, Copy, Debug)]
pub(super) struct Until {
    /// Of the capture, or, where they are not counted, of the rings.
    own: u64,
    /// Of the rings.
    all: u64,
}

impl Ending {
    /// One more thing follows.
    pub(super) fn also(&mut self, then: Then) {
        self.then.push(then);
    }
}

/// What follows an end.
pub(super) enum Then {
    /// It came by itself.
    Nothing,
    Reply(mpsc::SyncSender<Answer>),
    Remove(mpsc::SyncSender<Answer>),
}

impl Running {
    pub(super) fn begin(
        now: Moment,
        plan: Plan,
        (slot, before): (u8, Option<CaptureCounts>),
        mut view: CaptureView,
        catalogue: &Catalogue,
    ) -> Result<Self, CaptureError> {
        let refused = |error: io::Error| {
            if is_full(&error)
                && let Ok(space) = Space::of(catalogue.dir())
            {
                return disk_full(catalogue.dir().to_owned(), space);
            }
            CaptureError::Failed(error.into())
        };
        let file = catalogue.create(&view).map_err(refused)?;
        let spec = CaptureSpec {
            section: SectionHeader {
                application: Some(format!("linnet {}", env!("CARGO_PKG_VERSION"))),
                ..SectionHeader::default()
            },
            interfaces: plan.descriptions,
            filters: plan.filters,
            snaplen: plan.snaplen,
            // Without the duration: the file's times are wall times, which can be stepped.
            limits: Limits {
                packets: view.limits.packets,
                bytes: view.limits.bytes,
                duration_ns: None,
            },
        };
        let capture = Capture::start(spec, file, now.wall_ns()).map_err(|error| match error {
            session::CaptureError::Write(error) => refused(error),
            session::CaptureError::BytesTooFew { .. } => {
                CaptureError::Field { field: "limits.bytes", problem: error.to_string() }
            }
            session::CaptureError::Interfaces { .. } | session::CaptureError::LinkType { .. } => {
                CaptureError::Failed(error.into())
            }
        })?;
        view.bytes = capture.counters().bytes;
        Ok(Self {
            view,
            slot,
            starting: None,
            before,
            arrived: 0,
            known: Losses::default(),
            gaps: Gaps::default(),
            capture,
            interfaces: plan.indexes,
            last: None,
            strangers: BTreeSet::new(),
            fresh: BTreeSet::new(),
            listed: None,
            start_ns: now.monotonic_ns,
            end_ns: now.monotonic_ns + plan.seconds * 1_000_000_000,
            heartbeat_ns: now.monotonic_ns,
            read_ns: now.monotonic_ns,
            ending: None,
        })
    }

    /// A packet that has been chosen for it, or that has not been filtered yet.
    pub(super) fn packet(&mut self, raw: &RawPacket<'_>, stage: &dyn Stage) {
        if raw.seen_ns < self.start_ns {
            return;
        }
        self.arrived += 1;
        if raw.seen_ns >= self.end_ns {
            return;
        }
        let place = (raw.point, raw.direction);
        let Some(interface) = self.interface(place, stage) else {
            // The stage has counted it, and the file has no room for its interface, or that has gone.
            if raw.chosen.is_some() && self.capture.stopped().is_none() {
                self.capture.lose(None, Loss::Shed, 1);
            }
            return;
        };
        let payload = self.view.payload_bytes.map_or(u32::MAX, |most| most);
        let most = raw.header_len.saturating_add(payload) as usize;
        let mut packet = CapturedPacket::new(raw.wall_ns, raw.data.get(..most).unwrap_or(raw.data));
        packet.original_len = raw.original_len;
        packet.interface = interface;
        packet.queue = Some(raw.queue);
        packet.packet_id = raw.packet_id;
        let gap = self.gaps.untold();
        packet.drop_count = (gap > 0).then_some(gap);
        packet.direction = Some(match raw.direction {
            0 => Direction::Inbound,
            _ => Direction::Outbound,
        });
        // Whether the capture has ended with it is seen at the next turn.
        let offered = if raw.chosen.is_some() {
            self.capture.offer_matched(&packet)
        } else {
            self.capture.offer(&packet)
        };
        if offered == Offer::Written {
            self.gaps.told += gap;
        }
    }

    /// The number in the file of an observation point's direction.
    fn interface(&mut self, place: (u32, u32), stage: &dyn Stage) -> Option<u32> {
        if let Some((last, index)) = self.last
            && last == place
        {
            return Some(index);
        }
        if !self.interfaces.contains_key(&place) {
            self.join(place.0, stage);
        }
        let index = self.interfaces.get(&place).copied()?;
        self.last = Some((place, index));
        Some(index)
    }

    /// So many packets of it found the ring full, and the next one comes behind them.
    pub(super) fn gap(&mut self, lost: u32, stage: &dyn Stage) {
        if lost == 0 {
            return;
        }
        // A CPU may still have to tell of a gap of the capture that had the slot before.
        let own = self.counted(stage).map_or(u64::MAX, |counts| counts.lost_ring);
        self.gaps.recorded = self.gaps.recorded.saturating_add(lost.into()).min(own);
    }

    /// Why it ends, if it does.
    pub(super) fn is_due(&self, now: Moment) -> Option<StopReason> {
        let over = || (now.monotonic_ns >= self.end_ns).then_some(StopReason::DurationLimit);
        let unread = || self.is_unread(now).then_some(StopReason::Unread);
        let gone = || self.interfaces.is_empty().then_some(StopReason::InterfaceRemoved);
        self.capture.stopped().or_else(over).or_else(unread).or_else(gone)
    }

    /// Whether it ends and all of its packets have come, or are not waited for any longer.
    pub(super) fn is_drained(&mut self, now: Moment, rings: RingsView, stage: &dyn Stage) -> bool {
        let produced = self.counted(stage).map(|counts| counts.produced);
        let Some(ending) = &mut self.ending else { return false };
        if !ending.is_off {
            return now.monotonic_ns >= ending.read_ns + STOP_MAX_NS;
        }
        let put = rings.produced.saturating_sub(rings.lost);
        let Until { own, all } =
            *ending.until.get_or_insert_with(|| Until { own: produced.unwrap_or(put), all: put });
        if ending.read < all && ending.read != rings.consumed {
            (ending.read, ending.read_ns) = (rings.consumed, now.monotonic_ns);
        }
        let gives_up = now.monotonic_ns >= ending.read_ns + DRAIN_MAX_NS;
        let come = if produced.is_some() { self.arrived } else { rings.consumed };
        own <= come || gives_up
    }

    /// Packets that were still to come when they were not waited for any longer.
    pub(super) fn left(&self, rings: RingsView) -> u64 {
        let until = self.ending.as_ref().and_then(|ending| ending.until);
        let until = until.map_or(0, |until| until.own);
        let come = if self.before.is_some() { self.arrived } else { rings.consumed };
        until.saturating_sub(come)
    }

    /// What the stage has counted for it.
    fn counted(&self, stage: &dyn Stage) -> Option<CaptureCounts> {
        let (before, now) = (self.before?, stage.counts(self.slot)?);
        Some(CaptureCounts {
            matched: now.matched.saturating_sub(before.matched),
            produced: now.produced.saturating_sub(before.produced),
            over_budget: now.over_budget.saturating_sub(before.over_budget),
            lost_ring: now.lost_ring.saturating_sub(before.lost_ring),
            lost_copy: now.lost_copy.saturating_sub(before.lost_copy),
        })
    }

    /// An interface has come: a capture of all of them has it from its first packet on.
    fn join(&mut self, point: u32, stage: &dyn Stage) {
        if self.view.interface.is_some() || self.strangers.contains(&point) {
            return;
        }
        let Some(AttachedPoint { request, attached }) = stage.interface(point) else { return };
        let link_type = plan::link_type(attached.link.name());
        for (direction, way, hook) in
            [(0, "ingress", attached.ingress), (1, "egress", attached.egress)]
        {
            let Some(hook) = hook else { continue };
            let mut description = InterfaceDescription::new(link_type, self.view.snaplen);
            description.name = Some(format!("{request}@{}-{way}", hook.hook));
            match self.capture.add_interface(description) {
                Some(index) => {
                    self.interfaces.insert((point, direction), index);
                    self.fresh.insert(point);
                }
                None => {
                    tracing::warn!(interface = %request, way, "no part of the capture: it has no filter for such frames, or no room");
                    self.strangers.insert(point);
                }
            }
        }
    }

    /// Counts what was lost since the last turn: by the stage's own figures, or, where it has none, `packets` of the ring.
    /// What was lost after a limit was reached is no part of the capture; in the turn in which it was reached that cannot
    /// be told apart, and counts.
    pub(super) fn lose(&mut self, packets: u64, rings: RingsView, stage: &dyn Stage) {
        let is_closed = match &self.ending {
            Some(ending) => ending.until.is_some() && self.before.is_none(),
            None => false,
        };
        let new = match self.counted(stage) {
            Some(counts) => {
                let all = Losses {
                    ring: counts.lost_ring + counts.lost_copy,
                    budget: counts.over_budget,
                };
                let before = std::mem::replace(&mut self.known, all);
                Losses {
                    ring: all.ring.saturating_sub(before.ring),
                    budget: all.budget.saturating_sub(before.budget),
                }
            }
            None => {
                self.known.ring += packets;
                Losses { ring: packets, budget: 0 }
            }
        };
        if rings.produced == rings.consumed + rings.lost {
            self.gaps.counted = self.known.ring;
        }
        if is_closed || self.capture.stopped().is_some() {
            return;
        }
        for (loss, packets) in [(Loss::Ring, new.ring), (Loss::Budget, new.budget)] {
            if packets > 0 {
                self.capture.lose(None, loss, packets);
            }
        }
    }

    /// Brings the file up to date for its readers, with statistics every now and then.
    pub(super) fn write(&mut self, now: Moment) {
        if self.ending.is_none() && self.beats(now) {
            self.capture.heartbeat(now.wall_ns());
        } else {
            self.capture.flush();
        }
        self.update();
    }

    /// Keeps with each heartbeat what is known so far, for the case that this process is killed.
    pub(super) fn keep(&mut self, now: Moment, catalogue: &Catalogue) -> io::Result<()> {
        if !self.beats(now) {
            return Ok(());
        }
        self.heartbeat_ns = now.monotonic_ns;
        catalogue.save(&self.view)
    }

    fn beats(&self, now: Moment) -> bool {
        now.monotonic_ns >= self.heartbeat_ns + HEARTBEAT_NS
    }

    fn update(&mut self) {
        let counters = self.capture.counters();
        self.view.offered = counters.offered;
        self.view.matched = counters.matched;
        self.view.written = counters.written;
        self.view.bytes = counters.bytes;
        self.view.lost = counters.lost.into();
    }

    /// Whether its live stream has been without a reader for as long as it may be.
    fn is_unread(&self, now: Moment) -> bool {
        let without_ns = now.monotonic_ns.saturating_sub(self.read_ns);
        self.view.limits.unread_seconds.is_some_and(|most| without_ns >= most * 1_000_000_000)
    }

    /// Lets interfaces go that have gone: their points may be others' from here on.
    pub(super) fn follow(&mut self, board: &Board) {
        let listed = board.interfaces.latest();
        if self.listed.as_ref().is_some_and(|before| Arc::ptr_eq(before, &listed)) {
            return;
        }
        let present = listed.iter().filter(|interface| interface.is_present());
        let present: BTreeSet<_> = present.map(|interface| interface.point).collect();
        self.fresh.retain(|point| !present.contains(point));
        let is_there = |point: &u32| present.contains(point) || self.fresh.contains(point);
        self.interfaces.retain(|(point, _), _| is_there(point));
        self.last = None;
        self.strangers.retain(|point| present.contains(point));
        self.listed = Some(listed);
    }

    /// Writes the end of the file, and cuts off what a failed write left behind its last whole block.
    pub(super) fn finish(self, now: Moment, reason: StopReason) -> CaptureView {
        let mut view = self.view;
        let (summary, file) = self.capture.finish(reason, now.wall_ns());
        if let Some(error) = &summary.error {
            tracing::warn!(id = %view.id, %error, "the capture's file could not be written");
        }
        let cut = file.metadata().and_then(|file_now| {
            if file_now.len() > summary.whole_bytes {
                file.set_len(summary.whole_bytes)
            } else {
                Ok(())
            }
        });
        if let Err(error) = cut {
            tracing::error!(id = %view.id, %error, "the capture's file could not be cut behind its last whole block");
        }
        view.state = CaptureState::Finished;
        view.stop_reason = Some(summary.reason);
        view.ended_at = Some(rfc3339(now.wall_ns().into()));
        view.offered = summary.counters.offered;
        view.matched = summary.counters.matched;
        view.written = summary.counters.written;
        view.bytes = summary.whole_bytes;
        view.lost = summary.counters.lost.into();
        view
    }
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded)
}

pub(super) fn disk_full(dir: PathBuf, space: Space) -> CaptureError {
    let Space { free_bytes, reserve_bytes } = space;
    CaptureError::DiskFull { dir, free_bytes, reserve_bytes }
}
