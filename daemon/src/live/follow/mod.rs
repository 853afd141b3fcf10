//! Follows the interfaces: attaches to those that come and are wanted, lets go of those that went, and looks at an
//! interval whether its programs are still where it put them. Every look compares what there is with what is attached,
//! so that it does not matter which news led to it, or how much of it was lost.

pub(in crate::live) mod links;
mod monitor;
pub(in crate::live) mod notices;
pub(in crate::live) mod process;
pub(in crate::live) mod wanted;
mod watchdog;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use nix::sys::eventfd::{EfdFlags, EventFd};

use self::monitor::{Monitor, View};
use crate::clock::Clock;
use crate::live::{
    AttachRequest, Attached, AttachedPoint, Attacher, LiveError, Points, WatchRequest,
    WatchedPoint, links::Interface, namespace,
};

/// From one look without news to the next: then programs are looked for, and what failed is tried again.
const INTERVAL: Duration = Duration::from_secs(1);
/// The same while the file of a namespace is there and is none yet, and how many of those there may be.
const UNFINISHED: Duration = Duration::from_millis(50);
const UNFINISHED_MAX: u32 = 200;
/// Least time from one look to the next: many changes in a row are one.
const REST: Duration = Duration::from_millis(20);
/// How long until what failed, or was displaced again, is tried again: at first, and at most.
const RETRY_MIN_NS: u64 = 2_000_000_000;
const RETRY_MAX_NS: u64 = 300_000_000_000;

/// What to do when another tool has taken linnet's program off its hook.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnDisplaced {
    /// Attach it again, after ever longer times where that happens again and again.
    #[default]
    Reattach,
    /// Say so, and leave it.
    Yield,
}

/// Follows on the caller's thread until it is started.
#[derive(Debug)]
pub struct Follower {
    attacher: Arc<Mutex<Attacher>>,
    wanted: Vec<WatchRequest>,
    on_displaced: OnDisplaced,
    monitor: Monitor,
    points: Arc<Points>,
    clock: Arc<Clock>,
    wake: Arc<EventFd>,
    /// What could not be attached, by namespace and index.
    failed: BTreeMap<(Option<String>, u32), Retry>,
    /// What was taken off, by point.
    displaced: BTreeMap<(u32, Part), Retry>,
    /// Points and directions in which a capture that runs misses its program.
    stages_lost: BTreeMap<u32, [bool; 2]>,
    unfinished: u32,
    looked_ns: u64,
    /// What stands before all other notices.
    standing: Vec<String>,
}

/// What of linnet's is on a hook.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    Tracker,
    CaptureStage,
}

/// When something is tried again.
#[derive(Debug)]
struct Retry {
    why: String,
    at_ns: u64,
    wait_ns: u64,
}

impl Retry {
    fn after(before: Option<&Self>, why: String, now_ns: u64) -> Self {
        let wait_ns = before.map_or(RETRY_MIN_NS, |retry| (retry.wait_ns * 2).min(RETRY_MAX_NS));
        Self { why, at_ns: now_ns + wait_ns, wait_ns }
    }
}

/// A follower on a thread of its own; ends when stopped.
#[derive(Debug)]
pub struct Following {
    stop: Arc<AtomicBool>,
    wake: Arc<EventFd>,
    thread: JoinHandle<()>,
}

impl Following {
    /// Has it look at once.
    pub fn wake(&self) {
        if let Err(error) = self.wake.write(1) {
            tracing::warn!(%error, "the follower was not woken");
        }
    }

    /// Follows no more. What is attached stays.
    pub fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.wake();
        if self.thread.join().is_err() {
            tracing::error!("the follower panicked");
        }
    }
}

impl Follower {
    /// Watches nothing yet.
    pub fn new(
        attacher: Arc<Mutex<Attacher>>,
        wanted: Vec<WatchRequest>,
        on_displaced: OnDisplaced,
        clock: Arc<Clock>,
    ) -> std::io::Result<Self> {
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        let wake = Arc::new(EventFd::from_flags(flags)?);
        Ok(Self {
            attacher,
            wanted,
            on_displaced,
            monitor: Monitor::new(Arc::clone(&wake)),
            points: Arc::default(),
            clock,
            wake,
            failed: BTreeMap::new(),
            displaced: BTreeMap::new(),
            stages_lost: BTreeMap::new(),
            unfinished: 0,
            looked_ns: 0,
            standing: Vec::new(),
        })
    }

    /// Says these sentences before all that it finds, for good.
    #[must_use]
    pub fn saying(self, standing: Vec<String>) -> Self {
        Self { standing, ..self }
    }

    /// What is watched.
    #[must_use]
    pub const fn points(&self) -> &Arc<Points> {
        &self.points
    }

    /// Attaches to all that is there, until `stop` says so. An interface that was named, and is not there or cannot be
    /// watched, is an error.
    pub fn begin(&mut self, stop: impl Fn() -> bool) -> Result<(), LiveError> {
        let wanted = self.wanted.clone();
        namespace::settle(&wanted.iter().map(|request| request.namespace.clone()).collect())?;
        for request in wanted.iter().filter(|request| request.is_of_one()) {
            let namespace = request.namespace.clone();
            let view = match self.monitor.look(namespace.as_deref())? {
                View::There { number, interfaces, .. } => Some((number, interfaces)),
                View::Absent | View::Unfinished => None,
            };
            let (number, interfaces) = view.ok_or_else(|| LiveError::Namespace {
                name: namespace.clone().unwrap_or_default(),
                source: std::io::ErrorKind::NotFound.into(),
            })?;
            let is_it = |interface: &&Interface| {
                wanted::choose(
                    std::slice::from_ref(request),
                    namespace.as_deref(),
                    interface,
                    false,
                )
                .is_some()
            };
            let interface = interfaces
                .iter()
                .find(is_it)
                .ok_or_else(|| LiveError::NoInterface(request.to_string()))?;
            if stop() {
                return Ok(());
            }
            // Another request may be closer, or have been for the same one.
            let watched = self.points.latest();
            let chosen = wanted::choose(&wanted, namespace.as_deref(), interface, false);
            if chosen == Some(request) && !is_watched(&watched, namespace.as_deref(), interface) {
                let name = interface.name().unwrap_or_default();
                let attach =
                    request.of(name).ok_or_else(|| LiveError::NoInterface(request.to_string()))?;
                self.attach(attach, interface.ifindex, number)?;
            }
        }
        self.look(&stop);
        for orphan in self.attacher().take_off_the_rest()? {
            let point = orphan.attached.point;
            tracing::info!(interface = %orphan.request, point, "an earlier run watched it");
            self.points.add(orphan, 0);
            self.points.go(point);
        }
        self.inspect();
        self.tell();
        Ok(())
    }

    /// Follows from here on. A panic is told with the notices.
    pub fn start(mut self) -> std::io::Result<Following> {
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, wake) = (Arc::clone(&stop), Arc::clone(&self.wake));
        let thread = thread::Builder::new().name("follow".into()).spawn(move || {
            let _alive = Alive(Arc::clone(&self.points));
            while !stopped.load(Ordering::Relaxed) {
                self.turn(&stopped);
            }
        })?;
        Ok(Following { stop, wake, thread })
    }

    fn turn(&mut self, stopped: &AtomicBool) {
        let is_unfinished = (1..UNFINISHED_MAX).contains(&self.unfinished);
        let interval = if is_unfinished { UNFINISHED } else { INTERVAL };
        if let Err(error) = self.monitor.wait(interval) {
            tracing::error!(%error, "cannot wait for news of interfaces; looking at an interval");
            thread::sleep(INTERVAL);
        }
        if stopped.load(Ordering::Relaxed) {
            return;
        }
        self.release();
        let changed = self.look(&|| stopped.load(Ordering::Relaxed));
        let now_ns = self.clock.monotonic_ns();
        let is_due = Duration::from_nanos(now_ns.saturating_sub(self.looked_ns)) >= INTERVAL;
        if changed || is_due {
            self.inspect();
            self.looked_ns = now_ns;
        }
        self.tell();
        // Only the news that come meanwhile wait.
        thread::sleep(REST);
    }

    /// Compares what there is with what is attached, in every namespace; returns whether something has changed.
    fn look(&mut self, stop: &dyn Fn() -> bool) -> bool {
        let namespaces: BTreeSet<_> =
            self.wanted.iter().map(|request| request.namespace.clone()).collect();
        let mut changed = false;
        let mut unfinished = false;
        let mut found = BTreeSet::new();
        let mut there = Vec::new();
        for namespace in namespaces {
            match self.monitor.look(namespace.as_deref()) {
                Ok(View::There { number, interfaces, went }) => {
                    for interface in &interfaces {
                        found.insert((namespace.clone(), interface.ifindex));
                    }
                    changed |=
                        self.keep_or_let_go(namespace.as_deref(), number, &interfaces, &went);
                    there.push((namespace, number, interfaces));
                }
                Ok(View::Absent) => changed |= self.lose(namespace.as_deref()),
                Ok(View::Unfinished) => {
                    unfinished = true;
                    changed |= self.lose(namespace.as_deref());
                }
                Err(error) => {
                    tracing::warn!(%error, namespace, "interfaces are not followed");
                }
            }
        }
        // An interface that moved has been let go by now where it was.
        for (namespace, number, interfaces) in there {
            changed |= self.attach_new(namespace.as_deref(), number, &interfaces, stop);
        }
        self.unfinished = if unfinished { self.unfinished.saturating_add(1) } else { 0 };
        self.failed.retain(|place, _| found.contains(place));
        changed
    }

    /// Lets go of what has gone or is not wanted any more, and learns new names.
    fn keep_or_let_go(
        &mut self,
        namespace: Option<&str>,
        number: u64,
        interfaces: &[Interface],
        went: &BTreeSet<u32>,
    ) -> bool {
        let mut changed = false;
        for watched in self.watched_in(namespace) {
            let Attached { ifindex, point, .. } = watched.point.attached;
            let still = interfaces
                .iter()
                .find(|it| it.ifindex == ifindex && !went.contains(&ifindex))
                .filter(|_| watched.namespace_number == number);
            let Some(interface) = still else {
                self.let_go(&watched, true);
                changed = true;
                continue;
            };
            match wanted::choose(&self.wanted, namespace, interface, true) {
                Some(request) if request.asks_for(&watched.point.request) => {
                    let name = interface.name().unwrap_or_default();
                    if name != watched.point.request.interface && !name.is_empty() {
                        self.rename(point, name);
                        changed = true;
                    }
                }
                _ => {
                    self.let_go(&watched, false);
                    changed = true;
                }
            }
        }
        changed
    }

    /// Attaches to what is wanted and is not watched yet.
    fn attach_new(
        &mut self,
        namespace: Option<&str>,
        number: u64,
        interfaces: &[Interface],
        stop: &dyn Fn() -> bool,
    ) -> bool {
        let mut changed = false;
        let watched = self.watched_in(namespace);
        for interface in interfaces {
            if stop() || is_watched(&watched, namespace, interface) {
                continue;
            }
            let Some(request) = wanted::choose(&self.wanted, namespace, interface, false) else {
                continue;
            };
            let place = (namespace.map(ToOwned::to_owned), interface.ifindex);
            let now_ns = self.clock.monotonic_ns();
            let failed = self.failed.get(&place);
            if failed.is_some_and(|retry| now_ns < retry.at_ns) {
                continue;
            }
            let shown = interface.name.escape_ascii();
            let why = match interface.name().and_then(|name| request.of(name)) {
                None => format!(
                    "the interface `{shown}` is not watched: its name is no plain text; rename it with `ip link set`"
                ),
                Some(attach) => match self.attach(attach.clone(), interface.ifindex, number) {
                    Ok(()) => {
                        changed = true;
                        self.failed.remove(&place);
                        continue;
                    }
                    Err(error) => format!("the interface `{attach}` is not watched: {error}"),
                },
            };
            let retry = Retry::after(self.failed.get(&place), why, now_ns);
            if self.failed.get(&place).is_none_or(|before| before.why != retry.why) {
                tracing::warn!("{}", retry.why);
            }
            self.failed.insert(place, retry);
        }
        changed
    }

    /// The namespace has no name any more, or its process has ended. The latter may live on by something else, and is
    /// left in order.
    fn lose(&mut self, namespace: Option<&str>) -> bool {
        let pid = namespace.and_then(process::pid_of);
        let watched = self.watched_in(namespace);
        watched.iter().for_each(|point| self.let_go(point, pid.is_none()));
        if let Some(pid) = pid {
            process::leave(pid);
        }
        !watched.is_empty()
    }

    fn watched_in(&self, namespace: Option<&str>) -> Vec<WatchedPoint> {
        let mut watched = self.points.latest();
        watched.retain(|it| !it.gone && it.point.request.namespace.as_deref() == namespace);
        watched
    }

    fn attach(
        &mut self,
        request: AttachRequest,
        ifindex: u32,
        number: u64,
    ) -> Result<(), LiveError> {
        let attached = self.attacher().attach(request.clone())?;
        let is_it = attached.ifindex == ifindex;
        let watched = AttachedPoint { request, attached };
        log_attached(&watched);
        self.points.add(watched.clone(), number);
        if !is_it {
            // The name has moved on to another interface meanwhile, which the next look finds.
            let gone = WatchedPoint {
                point: watched,
                namespace_number: number,
                gone: false,
                chains: Default::default(),
            };
            self.let_go(&gone, false);
        }
        Ok(())
    }

    fn rename(&self, point: u32, name: &str) {
        let interface = name.to_owned();
        if let Err(error) = self.attacher().rename(point, interface) {
            tracing::warn!(%error, point, "an interface has another name and keeps its old one here");
            return;
        }
        self.points.update(point, |watched| {
            tracing::info!(interface = %watched.point.request, name, "renamed");
            name.clone_into(&mut watched.point.request.interface);
        });
    }

    /// Takes linnet off an interface, or notes that it has gone; its flows have to leave before its id is used again.
    fn let_go(&mut self, watched: &WatchedPoint, gone: bool) {
        let point = watched.point.attached.point;
        tracing::info!(interface = %watched.point.request, point, gone, "no longer watched");
        if let Err(error) = self.attacher().detach(point, gone) {
            tracing::warn!(%error, point, "an interface was not let go as it should");
        }
        self.displaced.retain(|(displaced, _), _| *displaced != point);
        self.stages_lost.remove(&point);
        self.points.go(point);
    }

    /// Gives the attacher the ids back of which no flow is left.
    fn release(&mut self) {
        let left = self.points.take_left();
        for point in &left {
            if let Err(error) = self.attacher().release(*point) {
                tracing::warn!(%error, point, "an observation point stays taken");
            }
        }
        if !left.is_empty() {
            // There may be room now.
            self.failed.values_mut().for_each(|retry| retry.at_ns = 0);
        }
    }

    /// Publishes what is not as it should be.
    fn tell(&self) {
        let points = self.points.latest();
        let mut notices = self.standing.clone();
        notices.extend(self.failed.values().map(|retry| retry.why.clone()));
        notices.extend(notices::of_hooks(&points, self.on_displaced));
        notices.extend(notices::of_stages(&points, &self.stages_lost, self.on_displaced));
        if self.failed.is_empty() {
            notices.extend(notices::of_missing(&points, &self.wanted));
        }
        notices.extend(notices::of_ended(&self.wanted));
        self.points.set_notices(notices::bounded(notices));
    }

    fn attacher(&self) -> MutexGuard<'_, Attacher> {
        self.attacher.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Says so where the thread that holds it ends by a panic.
struct Alive(Arc<Points>);

impl Drop for Alive {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.set_notices(vec![
                "interfaces are not followed any more, by a fault of linnet: please report it, and restart linnet".to_owned(),
            ]);
        }
    }
}

fn is_watched(points: &[WatchedPoint], namespace: Option<&str>, interface: &Interface) -> bool {
    points.iter().any(|it| {
        !it.gone
            && it.point.request.namespace.as_deref() == namespace
            && it.point.attached.ifindex == interface.ifindex
    })
}

fn log_attached(point: &AttachedPoint) {
    let AttachedPoint { request, attached } = point;
    for (way, hook) in [("ingress", &attached.ingress), ("egress", &attached.egress)] {
        match hook {
            Some(hook) => {
                tracing::info!(interface = %request, way, hook = %hook.hook, why = hook.reason, "attached");
            }
            None => tracing::info!(interface = %request, way, "not watched"),
        }
    }
}
