//! Reading the kernel's tables at an interval: flows into the flow table, counters onto the board, ended flows out.

use std::{
    collections::BTreeSet,
    sync::{Arc, mpsc},
    thread::{self, JoinHandle},
    time::Duration,
};

use datapath::{Direction, FlowKey, embryonic::is_embryonic, layout::HookCounters};

use crate::{
    board::{AttachmentView, InterfaceView, ServiceView, Watched},
    clock::Clock,
    events::EventReader,
    flow::{
        FlowTable, LatencySummary,
        record::Ended,
        table::{Departures, Seen},
        view::{HookNames, LedgerView, Naming, PointName},
    },
    live::{
        AttachedHook, Chain, FlowMap, Hook, HookMap, Keeper, Kept, LiveError, Points, Remote,
        ServiceMap, WatchedPoint, add,
    },
    offline,
    past::Past,
    status::{Figures, Publisher},
};

/// Words that a sweeper takes: one, to stop.
const STOPS_MAX: usize = 1;

/// At most one part in so many of the time is spent sweeping: with a million flows a sweep takes seconds, and the next
/// one waits for longer than the interval.
const SHARE: u32 = 4;

/// Sweeps, and what they need.
#[derive(Debug)]
pub struct Sweeper {
    /// The kernel's flow table.
    pub flow_map: FlowMap,
    /// The kernel's counters.
    pub hook_map: HookMap,
    /// The kernel's round trips by service.
    pub service_map: ServiceMap,
    /// The kernel's log of flagged segments.
    pub events: Arc<EventReader>,
    /// What is watched.
    pub points: Arc<Points>,
    /// Who brings that up to date; absent where it stays as it is.
    pub remote: Option<Remote>,
    /// What was watched before.
    pub past: Past,
    /// Where figures are kept that outlive this process; absent where none do.
    pub keeper: Option<Arc<Keeper>>,
    /// Where flows go.
    pub table: Arc<FlowTable>,
    /// Where figures go.
    pub publisher: Publisher,
    /// Time.
    pub clock: Arc<Clock>,
    /// From one sweep to the next.
    pub interval: Duration,
    /// How long the last sweep waited for an answer; 0 at first.
    pub waited_ns: u64,
}

/// A flow that is to be taken out.
struct Due {
    key: FlowKey,
    first_seen_ns: u64,
    embryonic: bool,
    why: Ended,
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
                let started_ns = self.clock.monotonic_ns();
                if let Err(error) = self.sweep(number) {
                    tracing::error!(%error, "a sweep failed");
                }
                let took_ns = self.clock.monotonic_ns().saturating_sub(started_ns + self.waited_ns);
                let rest = Duration::from_nanos(took_ns).saturating_mul(SHARE - 1);
                match stopped.recv_timeout(self.interval.max(rest)) {
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
        let missed = self.look();
        self.waited_ns = self.clock.monotonic_ns().saturating_sub(started_ns);
        // Nothing is counted at those that are gone as of now, so that this sweep meets the last of their flows.
        let points = self.points.latest();
        let gone: BTreeSet<_> =
            points.iter().filter(|it| it.gone).map(|it| it.point.attached.point).collect();
        let before = self.counters(&points)?.0;
        for due in self.read_flows(number, started_ns, &gone)? {
            self.end(&due)?;
        }
        self.read_ended(started_ns)?;
        let now_ns = self.clock.monotonic_ns();
        self.table.finish_sweep(number, now_ns);
        let (counters, mut interfaces) = self.counters(&points)?;
        let naming = naming(&points, self.clock.offset_ns());
        // All of those that are gone, too.
        self.events.read();
        self.events.store().end_interval(now_ns);
        for point in &gone {
            if let Some(place) = naming.points.get(point) {
                self.table.settle(*point, place.clone());
                self.events.store().settle(*point, &place.interface);
            }
            self.past.add(&interfaces, *point);
        }
        self.past.join(&mut interfaces);
        let departures = self.table.departures();
        // Before they are shown, and before they are gone from the kernel's table: nothing ever goes back.
        self.keep(departures);
        for point in gone {
            self.hook_map.retire(point)?;
            self.points.leave(point);
        }
        let live = self.table.live_len() as u64;
        let accounted = departures.closed + departures.aged + live;
        let evicted = counters.created.saturating_sub(accounted);
        if departures.evicted > evicted {
            tracing::warn!(created = counters.created, accounted, "more flows than were made");
        }
        let sizes = self.flow_map.sizes();
        self.publisher.publish(&Figures {
            counters,
            interfaces,
            services: self.services()?,
            naming,
            notices: self.points.notices().into_iter().chain(missed).collect(),
            departures,
            live,
            evicted,
            approximate: (counters.created, counters.promoted) != (before.created, before.promoted),
            records: self.table.len() as u64,
            capacity: u64::from(sizes.flows),
            embryonic_capacity: u64::from(sizes.embryonic),
            memory_bytes: sizes.flow_bytes(),
            sweeps: number,
            duration_ns: now_ns.saturating_sub(started_ns),
        });
        Ok(())
    }

    /// Brings every entry into the table; returns which are due to end.
    fn read_flows(
        &mut self,
        number: u64,
        now_ns: u64,
        gone: &BTreeSet<u32>,
    ) -> Result<Vec<Due>, LiveError> {
        let mut ended = Vec::new();
        let (table, timeouts) = (&self.table, self.table.timeouts());
        self.flow_map.sweep(|key, entry| {
            table.observe(Seen { key, entry, samples: None, now_ns }, number);
            let why = timeouts.ended(key, entry, now_ns);
            let removed = gone.contains(&key.observation_point).then_some(Ended::InterfaceRemoved);
            if let Some(why) = why.or(removed) {
                let first_seen_ns = entry.head.first_seen_ns;
                ended.push(Due { key: *key, first_seen_ns, embryonic: is_embryonic(entry), why });
            }
        })?;
        Ok(ended)
    }

    /// Takes an ended flow out with its last value. A flow that came back to life meanwhile is kept by the table as
    /// what it was, and the next packet makes a new one.
    fn end(&self, due: &Due) -> Result<(), LiveError> {
        let key = &due.key;
        let Some(entry) = self.flow_map.take(key, due.embryonic)? else { return Ok(()) };
        let now_ns = self.clock.monotonic_ns();
        let seen = Seen { key, entry: &entry, samples: None, now_ns };
        // Where another flow had its key by then, that one has been taken.
        let is_another = entry.head.first_seen_ns != due.first_seen_ns;
        self.table.observe_ended(seen, if is_another { Ended::Evicted } else { due.why });
        Ok(())
    }

    /// What had closed when its tuple was used again. To be read after what lives: whoever replaced a flow that was
    /// met there has left it here before.
    fn read_ended(&mut self, now_ns: u64) -> Result<(), LiveError> {
        let table = &self.table;
        self.flow_map.drain_ended(|key, entry| {
            let seen = Seen { key, entry, samples: None, now_ns };
            table.observe_ended(seen, Ended::Closed);
        })
    }

    /// Asks what is watched. Where nobody answers, everything stays as it was known last, which the sentence says.
    fn look(&self) -> Option<String> {
        let refreshed = self.remote.as_ref().map(|remote| self.points.refresh(remote));
        let error = refreshed?.err()?;
        Some(format!("interfaces are not followed, and captures and rules wait: {error}"))
    }

    fn keep(&self, departures: Departures) {
        let Some(keeper) = &self.keeper else { return };
        let Departures { closed, aged, evicted, forgotten } = departures;
        let since_ns = self.publisher.since_ns();
        let before = self.past.kept();
        if let Err(error) = keeper.keep(Kept { since_ns, closed, aged, evicted, forgotten, before })
        {
            tracing::warn!(%error, "figures were not kept for a successor");
        }
    }

    /// Round trips by service.
    fn services(&self) -> Result<Vec<ServiceView>, LiveError> {
        let mut services = Vec::new();
        self.service_map.read(|service, round_trips| {
            services.push(ServiceView::new(service, round_trips));
        })?;
        Ok(services)
    }

    /// All counters since the start, and those of each interface that is watched.
    fn counters(
        &self,
        points: &[WatchedPoint],
    ) -> Result<(HookCounters, Vec<InterfaceView>), LiveError> {
        let mut sum = self.hook_map.retired()?;
        let mut interfaces = Vec::new();
        for watched in points {
            let WatchedPoint { point, chains, gone, .. } = watched;
            let mut side = |direction, hook: &Option<AttachedHook>, chain: &Chain| {
                let counters = self.hook_map.read(point.attached.point, direction)?;
                add(&mut sum, &counters);
                Ok::<_, LiveError>(hook.as_ref().map(|hook| attachment(hook, &counters, chain)))
            };
            let [received, sent] = chains;
            let ingress = side(Direction::Ingress, &point.attached.ingress, received)?;
            let egress = side(Direction::Egress, &point.attached.egress, sent)?;
            interfaces.push(InterfaceView {
                name: point.request.to_string(),
                namespace: point.request.namespace.clone(),
                ifindex: point.attached.ifindex,
                point: point.attached.point,
                link: point.attached.link.name(),
                link_type: offline::link_type(point.attached.link),
                state: match gone {
                    true => InterfaceView::GONE,
                    false if chains.iter().any(|chain| chain.displaced) => InterfaceView::DISPLACED,
                    false => "attached",
                },
                ingress,
                egress,
                seen_before: [0; 2],
            });
        }
        Ok((sum, interfaces))
    }
}

/// The names of what is watched.
#[must_use]
pub fn naming(points: &[WatchedPoint], wall_offset_ns: i64) -> Naming {
    let name = |hook: &Option<AttachedHook>| hook.as_ref().map(|hook| hook.hook.name().to_owned());
    let points = points
        .iter()
        .map(|WatchedPoint { point, .. }| {
            let hook = HookNames {
                ingress: name(&point.attached.ingress),
                egress: name(&point.attached.egress),
            };
            (point.attached.point, PointName { interface: point.request.to_string(), hook })
        })
        .collect();
    Naming { wall_offset_ns, points }
}

fn attachment(hook: &AttachedHook, counters: &HookCounters, chain: &Chain) -> AttachmentView {
    AttachmentView {
        hook: hook.hook.name().to_owned(),
        reason: hook.reason.clone(),
        program_id: hook.program_id,
        displaced: chain.displaced,
        chain: chain.links.clone(),
        seen: counters.seen,
        packets: counters.packets,
        bytes: counters.bytes,
        packets_approximate: hook.hook == Hook::XdpGeneric,
        rtt: LatencySummary::of(&counters.rtt),
        ledger: LedgerView::new(counters),
    }
}
