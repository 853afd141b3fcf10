//! The privileged side: loads the objects, puts them onto hooks, and hands out descriptors. Sees no packet.

mod captures;
mod interfaces;
mod named_rules;

use std::{
    collections::{BTreeMap, HashMap},
    path::Path,
};

use aya::maps::{Array, Map, MapData};
use captures::Captures;
use datapath::{layout::Meta, rules::Compiled};
pub(super) use interfaces::HeldPoint;

use crate::{clock::Clock, kernel::Lacks};

use super::{
    EventLog, FlowMap, HookMap, Keeper, LiveError, MapSizes, ServiceMap,
    adopt::{self, Outgrown},
    attach::{Objects, Tracker},
    layout,
    objects::{self, Object, pinned},
    pinned::{Leave, OnStop, PinDir},
    pod::Pod,
    register::Register,
    rings::{self, CaptureCounters, CaptureRings},
    rules::{self, RuleMaps},
    stage::{self, StageLink},
    verb::{Answer, RuleRequest, Verb},
};

/// The verbs' performer. Dropping it takes every program off its hook, and removes the pins unless they are to stay.
#[derive(Debug)]
pub struct Attacher {
    // Dropped in this order: links before objects before pins.
    stage: Vec<StageLink>,
    points: BTreeMap<u32, HeldPoint>,
    objects: HashMap<Option<String>, Objects>,
    captures: Captures,
    /// Of each CPU; every object has them.
    rings: Vec<MapData>,
    rules: RuleMaps,
    /// The list in force, by names, and how often there was a new one.
    rule_requests: Vec<RuleRequest>,
    rule_changes: u64,
    register: Register,
    /// Until nothing of a predecessor is on a hook any more.
    outgrown: Outgrown,
    sizes: MapSizes,
    lacks: Lacks,
    pins: PinDir,
}

impl Attacher {
    /// Takes the pins over and loads the objects of this namespace, so that every refusal comes now.
    pub fn new(pins: &Path, sizes: MapSizes) -> Result<Self, LiveError> {
        Self::without(Lacks::new(), pins, sizes)
    }

    /// The same on a kernel that is known to lack something.
    pub fn without(lacks: Lacks, pins: &Path, sizes: MapSizes) -> Result<Self, LiveError> {
        for object in [Object::Xdp, Object::Tc] {
            object.bytes()?;
        }
        let mut pins = PinDir::claim(pins)?;
        let outgrown = adopt::adopt(&mut pins, &layout::expected(sizes)?, &Clock::new())?;
        let rings = rings::make(&pins, sizes)?;
        let objects = load_both(&pins, sizes, &lacks, &rings)?;
        let captures = Captures::open(|name| pinned(&pins, name), sizes.ring_bytes()?)?;
        let rules = RuleMaps::open(|name| rules::duplicate(&pinned(&pins, name)?, name))?;
        let register = rules::duplicate(&pinned(&pins, "REGISTER")?, "REGISTER")?;
        let mut attacher = Self {
            stage: Vec::new(),
            points: BTreeMap::new(),
            objects: HashMap::from([(None, objects)]),
            captures,
            rings,
            rules,
            rule_requests: Vec::new(),
            rule_changes: 0,
            register: Register::open(register)?,
            outgrown,
            sizes,
            lacks,
            pins,
        };
        attacher.settle()?;
        // Last: with it the maps are a whole set.
        attacher.set_meta()?;
        Ok(attacher)
    }

    /// Ends what an attacher that died had begun: rules that nobody has the text of.
    fn settle(&mut self) -> Result<(), LiveError> {
        let failed = |source| LiveError::Syscall { call: "bpf", map: "KEPT_RULES", source };
        if self.rules.are_in_force() && self.keeper()?.rules().map_err(failed)?.is_none() {
            self.rules.set(&Compiled::new(&[]))?;
        }
        Ok(())
    }

    /// Whether the maps stay when this is dropped. To be said when there is nothing left that could fail: until then
    /// maps stay that an earlier run left, and new ones go.
    pub fn on_stop(&mut self, on_stop: OnStop) {
        self.pins.leave(match on_stop {
            OnStop::Remove => Leave::Nothing,
            OnStop::Keep => Leave::All,
        });
    }

    /// Where a daemon keeps what its successors need.
    pub(super) fn keeper(&self) -> Result<Keeper, LiveError> {
        Ok(Keeper::new(self.shared("KEPT")?, self.shared("KEPT_RULES")?))
    }

    /// Says beside the pinned maps what their layout is.
    fn set_meta(&self) -> Result<(), LiveError> {
        const NAME: &str = "META";
        let failed = |source| LiveError::Map { name: NAME, source };
        let mut map: Array<_, Pod<Meta>> =
            Map::Array(self.shared(NAME)?).try_into().map_err(failed)?;
        map.set(0, Pod(Meta::OURS), 0).map_err(failed)
    }

    /// The flow tables' descriptors.
    pub fn flows(&self) -> Result<FlowMap, LiveError> {
        let [embryonic, flows, ended] =
            ["EMBRYONIC", "FLOWS", "ENDED"].map(|name| self.shared(name));
        Ok(FlowMap::new(embryonic?, flows?, ended?, self.sizes))
    }

    /// The descriptors of the services' round trips.
    pub fn services(&self) -> Result<ServiceMap, LiveError> {
        let round_trips = Map::PerCpuArray(self.shared("SERVICE_RTT")?);
        ServiceMap::new(self.shared("SERVICES")?, round_trips)
    }

    /// The counters' descriptor.
    pub fn hooks(&self) -> Result<HookMap, LiveError> {
        HookMap::new(Map::PerCpuArray(self.shared("HOOKS")?))
    }

    /// The rings of captured packets.
    pub fn capture_rings(&self) -> Result<CaptureRings, LiveError> {
        let rings: Result<_, _> = (0..self.rings.len()).map(|cpu| self.ring(cpu)).collect();
        CaptureRings::new(rings?, self.shared("CAPTURE_TOTALS")?)
    }

    /// What the stage counts for each capture.
    pub fn capture_counters(&self) -> Result<CaptureCounters, LiveError> {
        CaptureCounters::new(self.shared("CAPTURE_COUNTS")?)
    }

    /// The log of flagged segments.
    pub fn events(&self) -> Result<EventLog, LiveError> {
        EventLog::new(&self.shared("EVENTS")?, &self.shared("EVENT_HEADS")?)
    }

    pub(super) fn shared(&self, name: &'static str) -> Result<MapData, LiveError> {
        pinned(&self.pins, name)
    }

    /// CPUs that there may be, each of which has a ring.
    pub(super) fn cpus(&self) -> usize {
        self.rings.len()
    }

    /// The ring of a CPU.
    pub(super) fn ring(&self, cpu: usize) -> Result<MapData, LiveError> {
        let failed = |source| LiveError::Map { name: rings::NAME, source };
        MapData::from_pin(self.pins.map(&rings::pin(cpu))).map_err(failed)
    }

    /// How large its maps are.
    #[must_use]
    pub const fn sizes(&self) -> MapSizes {
        self.sizes
    }

    /// Does what is asked.
    pub fn perform(&mut self, verb: Verb) -> Result<Answer, LiveError> {
        match verb {
            Verb::StartCapture { slot, config } => {
                self.start_capture(slot, config).map(|()| Answer::Done)
            }
            Verb::StopCapture { slot } => self.stop_capture(slot).map(|()| Answer::Done),
            Verb::StopCaptures => self.stop_captures().map(|()| Answer::Done),
            Verb::SetRules(rules) => {
                self.check_rules(&rules)?;
                self.set_rules(rules).map(|generation| Answer::RulesSet { generation })
            }
            Verb::RestoreRules(rules) => {
                self.set_rules(rules).map(|generation| Answer::RulesSet { generation })
            }
            // What is known of interfaces is the follower's to say.
            Verb::Look { .. } | Verb::Serving | Verb::Ending => Ok(Answer::Done),
        }
    }

    /// The objects of a namespace; loaded when first asked for.
    fn objects_of(&mut self, namespace: Option<&str>) -> Result<&mut Objects, LiveError> {
        let key = namespace.map(ToOwned::to_owned);
        if !self.objects.contains_key(&key) {
            let objects = load_both(&self.pins, self.sizes, &self.lacks, &self.rings)?;
            self.objects.insert(key.clone(), objects);
        }
        self.objects.get_mut(&key).ok_or(LiveError::Missing("objects"))
    }
}

/// The objects of one namespace.
fn load_both(
    pins: &PinDir,
    sizes: MapSizes,
    lacks: &Lacks,
    rings: &[MapData],
) -> Result<Objects, LiveError> {
    let load = |object| {
        let mut loaded = objects::load(object, pins, sizes)?;
        stage::give_rings(&mut loaded, rings)?;
        Ok::<_, LiveError>(loaded)
    };
    Ok(Objects { tc: load(Object::Tc)?, xdp: load(Object::Xdp)?, lacks: lacks.clone() })
}

impl Drop for Attacher {
    fn drop(&mut self) {
        if self.points.is_empty() {
            return;
        }
        if let Err(error) = self.stop_captures() {
            tracing::warn!(%error, "the capture stage was not stopped");
        }
        if self.pins.stay() {
            for held in std::mem::take(&mut self.points).into_values() {
                [held.ingress, held.egress].into_iter().flatten().for_each(Tracker::leave);
            }
        }
        let points: Vec<_> = self.points.keys().copied().collect();
        for point in points {
            if let Err(error) = self.detach(point, false) {
                tracing::warn!(%error, point, "an interface was not detached");
            }
        }
    }
}
