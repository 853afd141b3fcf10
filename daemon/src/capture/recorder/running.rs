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
    Capture, CaptureSpec, CapturedPacket, Direction, InterfaceDescription, Limits, StopReason,
    format::pcapng::SectionHeader,
    session::{self, Loss},
};

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
    live::{AttachedPoint, StageConfig},
};

/// From one statistics block to the next.
pub(super) const HEARTBEAT_NS: u64 = 2_000_000_000;

/// A capture that runs. Invariant: `ending` is set as soon as nothing more is copied for it.
pub(super) struct Running {
    pub(super) view: CaptureView,
    /// What the stage has to copy for it.
    pub(super) config: StageConfig,
    pub(super) capture: Capture<File>,
    interfaces: HashMap<(u32, u32), u32>,
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

/// A capture for which nothing more is copied.
pub(super) struct Ending {
    pub(super) reason: StopReason,
    /// Records to be read first, since the ring was made; known with the first look at the ring after that.
    pub(super) until: Option<u64>,
    /// Monotonic; they are not waited for any longer.
    pub(super) give_up_ns: u64,
    pub(super) then: Then,
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
        config: StageConfig,
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
            config,
            capture,
            interfaces: plan.indexes,
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

    pub(super) fn packet(&mut self, raw: &RawPacket<'_>, stage: &dyn Stage) {
        if raw.seen_ns < self.start_ns || raw.seen_ns >= self.end_ns {
            return;
        }
        let place = (raw.point, raw.direction);
        if !self.interfaces.contains_key(&place) {
            self.join(raw.point, stage);
        }
        let Some(interface) = self.interfaces.get(&place) else { return };
        let mut packet = CapturedPacket::new(raw.wall_ns, raw.data);
        packet.original_len = raw.original_len;
        packet.interface = *interface;
        packet.queue = Some(raw.queue);
        packet.direction = Some(match raw.direction {
            0 => Direction::Inbound,
            _ => Direction::Outbound,
        });
        // Whether the capture has ended with it is seen at the next turn.
        let _offered = self.capture.offer(&packet);
    }

    /// Why it ends, if it does.
    pub(super) fn is_due(&self, now: Moment) -> Option<StopReason> {
        let over = || (now.monotonic_ns >= self.end_ns).then_some(StopReason::DurationLimit);
        let unread = || self.is_unread(now).then_some(StopReason::Unread);
        let gone = || self.interfaces.is_empty().then_some(StopReason::InterfaceRemoved);
        self.capture.stopped().or_else(over).or_else(unread).or_else(gone)
    }

    /// Whether it ends and all of its packets have come, or are not waited for any longer.
    pub(super) fn is_drained(&mut self, now: Moment, rings: RingsView) -> bool {
        let Some(ending) = &mut self.ending else { return false };
        let until = *ending.until.get_or_insert_with(|| rings.produced.saturating_sub(rings.lost));
        until <= rings.consumed || now.monotonic_ns >= ending.give_up_ns
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

    /// Counts what the ring lost since the last turn. What was lost after a limit was reached is no part of the
    /// capture; in the turn in which it was reached that cannot be told apart, and counts.
    pub(super) fn lose(&mut self, packets: u64) {
        let counts = self
            .ending
            .as_ref()
            .is_none_or(|ending| ending.until.is_none() && self.capture.stopped().is_none());
        if counts && packets > 0 {
            self.capture.lose(None, Loss::Ring, packets);
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
