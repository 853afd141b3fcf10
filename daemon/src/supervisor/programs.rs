//! Programs on hooks, and the maps that they write: attached at the start, and to whatever comes later. Serves no HTTP and
//! sees no packet.

use std::{
    cell::RefCell,
    net::TcpListener,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use datapath::layout::RULES_BYTES;

use super::{NothingUp, holdings::Holdings, signals::Signals, wanted};
use crate::{
    clock::Clock,
    config::Config,
    kernel::Kernel,
    live::{
        Answer, Attacher, Estate, Follower, Following, HANDED_OVER, LiveError, MapSizes, OnStop,
        Outcome, Points, Refusal, Server, Verb,
    },
};

/// What a start has attached.
#[derive(Debug)]
pub(super) struct Attached {
    attacher: Arc<Mutex<Attacher>>,
    follower: Follower,
}

/// Programs and maps, and who follows the interfaces.
#[derive(Debug)]
pub(super) struct Programs<'a> {
    estate: &'a Estate,
    attacher: Arc<Mutex<Attacher>>,
    points: Arc<Points>,
    following: Following,
    on_stop: OnStop,
}

/// Loads the programs and attaches them to what is there; `None` where it was told to stop meanwhile.
pub(super) fn attach(
    config: &Config,
    kernel: &Kernel,
    clock: &Arc<Clock>,
    signals: &mut Signals,
    has_survivor: bool,
) -> anyhow::Result<Option<Attached>> {
    let mut attacher = Attacher::without(kernel.lacks(), &config.pin_dir, config.sizes)?;
    if let Some(bytes) = config.payload_max {
        attacher.limit_payload(bytes)?;
    }
    let attacher = Arc::new(Mutex::new(attacher));
    for doubt in kernel.doubts() {
        tracing::info!("{doubt}");
    }
    let standing = kernel.notices();
    for notice in &standing {
        tracing::warn!("{notice}");
    }
    let of_kernel = standing.len();
    let wanted = wanted(config);
    let mut follower =
        Follower::new(Arc::clone(&attacher), wanted, config.on_displaced, Arc::clone(clock))?
            .saying(standing);
    let signals = RefCell::new(signals);
    // A signal that cannot be read is told by the next wait.
    let asked_to_stop = || signals.borrow_mut().asked_to_stop().unwrap_or(false);
    follower.begin(asked_to_stop)?;
    if asked_to_stop() {
        // A daemon that lives on needs what is there.
        if !has_survivor {
            locked(&attacher).on_stop(config.on_stop);
        }
        return Ok(None);
    }
    let points = follower.points().watching();
    if config.interfaces.is_empty() && points.points.is_empty() {
        return Err(NothingUp(points.notices.into_iter().nth(of_kernel)).into());
    }
    tracing::info!(
        flows = config.sizes.flows,
        embryonic = config.sizes.embryonic,
        flow_tables_bytes = config.sizes.flow_bytes(),
        fragments_bytes = config.sizes.fragment_bytes(),
        troubles_bytes = MapSizes::trouble_bytes(),
        events_bytes = MapSizes::event_bytes(),
        capture_ring_bytes = config.sizes.capture_ring_bytes,
        rules_bytes = RULES_BYTES,
        "kernel memory"
    );
    Ok(Some(Attached { attacher, follower }))
}

impl Attached {
    /// What daemons are handed.
    pub(super) fn estate(&self, text: &str, since_ns: u64) -> Result<Estate, LiveError> {
        Estate::new(&locked(&self.attacher), text, since_ns)
    }
}

impl<'a> Programs<'a> {
    /// Follows the interfaces from here on.
    pub(super) fn new(
        attached: Attached,
        estate: &'a Estate,
        on_stop: OnStop,
    ) -> std::io::Result<Self> {
        let Attached { attacher, follower } = attached;
        let points = Arc::clone(follower.points());
        Ok(Self { estate, attacher, points, following: follower.start()?, on_stop })
    }

    pub(super) fn stop_following(self) {
        self.following.stop();
    }
}

impl Holdings for Programs<'_> {
    fn arguments(&self) -> &'static [&'static str] {
        &[HANDED_OVER]
    }

    fn hand_over(&self, to: &Server, listener: &TcpListener) -> Result<(), LiveError> {
        self.estate.hand_over(to, listener)
    }

    fn stays(&self) -> &'static str {
        "programs and tables"
    }

    fn perform(&self, verb: Verb) -> Outcome {
        let Verb::Look { left } = verb else {
            return locked(&self.attacher).perform(verb).map_err(|error| Refusal::from(&error));
        };
        left.iter().for_each(|point| self.points.leave(*point));
        if !left.is_empty() {
            // An interface may have waited for an id.
            self.following.wake();
        }
        Ok(Answer::Watched(self.points.watching()))
    }

    fn commit(&self) {
        locked(&self.attacher).on_stop(self.on_stop);
    }
}

fn locked(attacher: &Mutex<Attacher>) -> MutexGuard<'_, Attacher> {
    attacher.lock().unwrap_or_else(PoisonError::into_inner)
}
