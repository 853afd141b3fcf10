//! Reading the kernel's tables at an interval: flows into the flow table, counters onto the board, ended flows out.

use std::{
    sync::{Arc, mpsc},
    thread::{self, JoinHandle},
    time::Duration,
};

use datapath::{Direction, FlowKey, layout::HookCounters};

use crate::{
    board::{AttachmentView, InterfaceView, Watched},
    clock::Clock,
    flow::{
        FlowTable,
        record::Ended,
        view::{HookNames, LedgerView, Naming, PointName},
    },
    live::{AttachedHook, AttachedPoint, FlowMap, Hook, HookMap, LiveError, add, watch},
    offline,
    status::{Figures, Publisher},
};

/// Words that a sweeper takes: one, to stop.
const STOPS_MAX: usize = 1;

/// Sweeps, and what they need.
#[derive(Debug)]
pub struct Sweeper {
    /// The kernel's flow table.
    pub flow_map: FlowMap,
    /// The kernel's counters.
    pub hook_map: HookMap,
    /// What is watched.
    pub points: Vec<AttachedPoint>,
    /// Where flows go.
    pub table: Arc<FlowTable>,
    /// Where figures go.
    pub publisher: Publisher,
    /// Time.
    pub clock: Arc<Clock>,
    /// From one sweep to the next.
    pub interval: Duration,
}

/// A running sweeper; ends when stopped.
#[derive(Debug)]
pub struct Running {
    stop: mpsc::SyncSender<()>,
    thread: JoinHandle<()>,
}

impl Running {
    /// Stops after a last sweep.
    pub fn stop(self) {
        // A thread that has ended already wants no word.
        let _ended = self.stop.send(());
        if self.thread.join().is_err() {
            tracing::error!("the sweeper panicked");
        }
    }
}

impl Sweeper {
    /// Sweeps until stopped, on a thread of its own.
    pub fn start(mut self) -> std::io::Result<Running> {
        let (stop, stopped) = mpsc::sync_channel(STOPS_MAX);
        let thread = thread::Builder::new().name("sweep".into()).spawn(move || {
            let _watched =
                Watched::new(Arc::clone(self.publisher.board()), "the reading of the flow table");
            let mut number = 0;
            loop {
                number += 1;
                if let Err(error) = self.sweep(number) {
                    tracing::error!(%error, "a sweep failed");
                }
                match stopped.recv_timeout(self.interval) {
                    Err(mpsc::RecvTimeoutError::Timeout) => {}
                    Ok(()) | Err(mpsc::RecvTimeoutError::Disconnected) => break,
                }
            }
            number += 1;
            if let Err(error) = self.sweep(number) {
                tracing::error!(%error, "the last sweep failed");
            }
        })?;
        Ok(Running { stop, thread })
    }

    /// Reads everything once.
    pub fn sweep(&mut self, number: u64) -> Result<(), LiveError> {
        if self.clock.sample() {
            tracing::warn!(steps = self.clock.steps(), "the wall clock was stepped");
        }
        let started_ns = self.clock.monotonic_ns();
        let created_before = self.counters()?.0.created;
        let (live, ended) = self.read_flows(number, started_ns)?;
        let mut gone = 0;
        for (key, why) in ended {
            gone += u64::from(self.end(&key, why, number)?);
        }
        let now_ns = self.clock.monotonic_ns();
        self.table.finish_sweep(number, self.table.timeouts().keep_ended_ns, now_ns);
        let (counters, interfaces) = self.counters()?;
        let departures = self.table.departures();
        self.publisher.publish(&Figures {
            counters,
            interfaces,
            naming: self.naming(),
            departures,
            live: live - gone,
            evicted: counters
                .created
                .saturating_sub(departures.closed + departures.aged + live - gone),
            approximate: counters.created != created_before,
            records: self.table.len() as u64,
            capacity: u64::from(self.flow_map.capacity()),
            memory_bytes: self.flow_map.memory_bytes(),
            sweeps: number,
            duration_ns: now_ns.saturating_sub(started_ns),
        });
        Ok(())
    }

    /// Brings every entry into the table; returns how many there are, and which have ended.
    fn read_flows(
        &mut self,
        number: u64,
        now_ns: u64,
    ) -> Result<(u64, Vec<(FlowKey, Ended)>), LiveError> {
        let mut live = 0;
        let mut ended = Vec::new();
        let (table, timeouts) = (&self.table, self.table.timeouts());
        self.flow_map.sweep(|key, entry| {
            live += 1;
            table.observe(*key, entry, entry.head.first_seen_ns, None, now_ns, number);
            if let Some(why) = timeouts.ended(key, entry, now_ns) {
                ended.push((*key, why));
            }
        })?;
        Ok((live, ended))
    }

    /// Takes an ended flow out with its last value. A flow that came back to life meanwhile is kept by the table as
    /// what it was, and the next packet makes a new one.
    fn end(&self, key: &FlowKey, why: Ended, number: u64) -> Result<bool, LiveError> {
        let Some(entry) = self.flow_map.take(key)? else { return Ok(false) };
        let now_ns = self.clock.monotonic_ns();
        self.table.observe(*key, &entry, entry.head.first_seen_ns, None, now_ns, number);
        self.table.end(key, why, now_ns);
        Ok(true)
    }

    /// All counters, summed and by interface.
    fn counters(&self) -> Result<(HookCounters, Vec<InterfaceView>), LiveError> {
        let mut sum = HookCounters::default();
        let mut interfaces = Vec::new();
        for point in &self.points {
            let mut side = |direction, hook: &Option<AttachedHook>| {
                let Some(hook) = hook else { return Ok(None) };
                let counters = self.hook_map.read(point.attached.point, direction)?;
                add(&mut sum, &counters);
                Ok(Some(attachment(hook, &counters)))
            };
            let ingress = side(Direction::Ingress, &point.attached.ingress)?;
            let egress = side(Direction::Egress, &point.attached.egress)?;
            interfaces.push(InterfaceView {
                name: point.request.to_string(),
                namespace: point.request.namespace.clone(),
                ifindex: point.attached.ifindex,
                point: point.attached.point,
                link: point.attached.link.name(),
                link_type: offline::link_type(point.attached.link),
                state: if watch::is_present(point) { "attached" } else { InterfaceView::GONE },
                ingress,
                egress,
            });
        }
        Ok((sum, interfaces))
    }

    fn naming(&self) -> Naming {
        naming(&self.points, self.clock.offset_ns())
    }
}

/// The names of what is watched.
#[must_use]
pub fn naming(points: &[AttachedPoint], wall_offset_ns: i64) -> Naming {
    let name = |hook: &Option<AttachedHook>| hook.as_ref().map(|hook| hook.hook.name().to_owned());
    let points = points
        .iter()
        .map(|point| {
            let hook = HookNames {
                ingress: name(&point.attached.ingress),
                egress: name(&point.attached.egress),
            };
            (point.attached.point, PointName { interface: point.request.to_string(), hook })
        })
        .collect();
    Naming { wall_offset_ns, points }
}

fn attachment(hook: &AttachedHook, counters: &HookCounters) -> AttachmentView {
    AttachmentView {
        hook: hook.hook.name().to_owned(),
        reason: hook.reason.clone(),
        program_id: hook.program_id,
        seen: counters.seen,
        packets: counters.packets,
        bytes: counters.bytes,
        packets_approximate: hook.hook == Hook::XdpGeneric,
        ledger: LedgerView::new(counters),
    }
}
