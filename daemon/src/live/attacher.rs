//! The privileged side: loads the objects, puts them onto hooks, and hands out descriptors. Sees no packet.

mod interfaces;
mod named_rules;

use std::{
    collections::{BTreeMap, HashMap},
    path::Path,
};

use aya::maps::{Array, Map, MapData};
use datapath::{
    layout::{CaptureConfig, Meta},
    rules::Compiled,
};
pub(super) use interfaces::HeldPoint;

use crate::{clock::Clock, kernel::Lacks};

use super::{
    Chain, EventLog, FlowMap, HookMap, Keeper, LiveError, MapSizes, ServiceMap,
    adopt::{self, Outgrown},
    attach::{Objects, Tracker},
    inspect, layout, namespace,
    objects::{self, Object, pinned},
    pinned::{Leave, OnStop, PinDir},
    pod::Pod,
    register::Register,
    rings::CaptureRing,
    rules::{self, RuleMaps},
    stage::{self, StageLink},
    verb::{Answer, RuleRequest, StageConfig, Verb},
};

/// The verbs' performer. Dropping it takes every program off its hook, and removes the pins unless they are to stay.
#[derive(Debug)]
pub struct Attacher {
    // Dropped in this order: links before objects before pins.
    stage: Vec<StageLink>,
    points: BTreeMap<u32, HeldPoint>,
    objects: HashMap<Option<String>, Objects>,
    /// What is copied while a capture runs.
    capture: Option<StageConfig>,
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
        let objects = load_both(&pins, sizes, &lacks)?;
        let rules = RuleMaps::open(|name| rules::duplicate(&pinned(&pins, name)?, name))?;
        let register = rules::duplicate(&pinned(&pins, "REGISTER")?, "REGISTER")?;
        let mut attacher = Self {
            stage: Vec::new(),
            points: BTreeMap::new(),
            objects: HashMap::from([(None, objects)]),
            capture: None,
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

    /// Ends what an attacher that died had begun: its capture, and rules that nobody has the text of.
    fn settle(&mut self) -> Result<(), LiveError> {
        self.configure_stage(CaptureConfig::default())?;
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

    /// The capture ring's descriptors.
    pub fn capture_ring(&self) -> Result<CaptureRing, LiveError> {
        let ring = Map::RingBuf(self.shared("CAPTURE_RING")?);
        CaptureRing::new(ring, Map::PerCpuArray(self.shared("CAPTURE_STATS")?))
    }

    /// The log of flagged segments.
    pub fn events(&self) -> Result<EventLog, LiveError> {
        EventLog::new(&self.shared("EVENTS")?, &self.shared("EVENT_HEADS")?)
    }

    pub(super) fn shared(&self, name: &'static str) -> Result<MapData, LiveError> {
        pinned(&self.pins, name)
    }

    /// How large its maps are.
    #[must_use]
    pub const fn sizes(&self) -> MapSizes {
        self.sizes
    }

    /// Does what is asked.
    pub fn perform(&mut self, verb: Verb) -> Result<Answer, LiveError> {
        match verb {
            Verb::StartCapture(config) => self.start_capture(config).map(|()| Answer::Done),
            Verb::StopCapture => self.stop_capture().map(|()| Answer::Done),
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

    /// Where a stage copies already, it goes on without a gap: programs stay where they are, and are added where they are
    /// missing. Those that are not needed any more copy nothing, and go with the last capture.
    fn start_capture(&mut self, config: StageConfig) -> Result<(), LiveError> {
        let before = self.capture.replace(config);
        self.configure_stage(CaptureConfig {
            deadline_ns: config.deadline_ns,
            snaplen: config.snaplen,
            point: config.point.unwrap_or(0),
        })?;
        let points: Vec<_> = self.points.keys().copied().collect();
        for point in points {
            let is_in = |config: StageConfig| config.point.is_none_or(|wanted| wanted == point);
            if is_in(config) && !before.is_some_and(is_in) {
                let staged = self.stage.iter().filter(|link| link.point == point);
                let mut missing = [true; 2];
                staged.for_each(|link| missing[link.direction as usize] = false);
                self.add_stage(point, missing)?;
            }
        }
        Ok(())
    }

    /// Puts the capture stage behind the trackers of a point.
    fn add_stage(&mut self, point: u32, wanted: [bool; 2]) -> Result<(), LiveError> {
        let held = self.points.get(&point).ok_or(LiveError::NoPoint(point))?;
        let namespace = held.request.namespace.clone();
        let objects = self.objects.get_mut(&namespace).ok_or(LiveError::Missing("objects"))?;
        let all = self.capture.is_some_and(|config| config.point.is_none());
        let links = namespace::within(namespace.as_deref(), || {
            match namespace::name_of(held.device.ifindex)? {
                Some(name) => stage::attach(objects, held, &name, wanted),
                // It has taken its hooks with it, which must not keep a capture from the others.
                None if all => Ok(Vec::new()),
                None => Err(LiveError::NoInterface(held.request.to_string())),
            }
        });
        match links {
            Ok(links) => {
                let link = |(direction, link)| StageLink {
                    point,
                    namespace: namespace.clone(),
                    direction,
                    link,
                };
                self.stage.extend(links.into_iter().map(link));
                Ok(())
            }
            Err(LiveError::Namespace { .. }) if all => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// The directions in which a capture that runs misses its program; `None` where it is not for this point.
    fn lost_stage(&self, point: u32, chains: &[Chain; 2]) -> Option<[bool; 2]> {
        self.capture.filter(|config| config.point.is_none_or(|wanted| wanted == point))?;
        let held = self.points.get(&point)?;
        let programs = inspect::stage_ids(self.objects.get(&held.request.namespace)?);
        Some(stage::lost(held, chains, programs))
    }

    /// Puts back what another tool has taken off of a capture that runs.
    pub fn restage(&mut self, point: u32) -> Result<(), LiveError> {
        let found = self.inspect()?.into_iter().find(|it| it.point == point);
        let lost = found.ok_or(LiveError::NoPoint(point))?.stage_lost;
        let is_lost = |it: &mut StageLink| it.point == point && lost[it.direction as usize];
        self.stage.extract_if(.., is_lost).for_each(|it| it.link.abandon());
        self.add_stage(point, lost)
    }

    fn stop_capture(&mut self) -> Result<(), LiveError> {
        self.capture = None;
        self.configure_stage(CaptureConfig::default())?;
        for StageLink { namespace, link, .. } in self.stage.drain(..) {
            let _gone = namespace::within(namespace.as_deref(), move || {
                drop(link);
                Ok(())
            });
        }
        for objects in self.objects.values_mut() {
            stage::clear(objects)?;
        }
        Ok(())
    }

    fn configure_stage(&self, config: CaptureConfig) -> Result<(), LiveError> {
        const NAME: &str = "CAPTURE_CONFIG";
        let failed = |source| LiveError::Map { name: NAME, source };
        let map = Map::Array(self.shared(NAME)?);
        let mut map: Array<_, Pod<CaptureConfig>> = map.try_into().map_err(failed)?;
        map.set(0, Pod(config), 0).map_err(failed)
    }

    /// The objects of a namespace; loaded when first asked for.
    fn objects_of(&mut self, namespace: Option<&str>) -> Result<&mut Objects, LiveError> {
        let key = namespace.map(ToOwned::to_owned);
        if !self.objects.contains_key(&key) {
            let objects = load_both(&self.pins, self.sizes, &self.lacks)?;
            self.objects.insert(key.clone(), objects);
        }
        self.objects.get_mut(&key).ok_or(LiveError::Missing("objects"))
    }
}

/// The objects of one namespace.
fn load_both(pins: &PinDir, sizes: MapSizes, lacks: &Lacks) -> Result<Objects, LiveError> {
    let [tc, xdp] = [Object::Tc, Object::Xdp].map(|object| objects::load(object, pins, sizes));
    Ok(Objects { tc: tc?, xdp: xdp?, lacks: lacks.clone() })
}

impl Drop for Attacher {
    fn drop(&mut self) {
        if self.points.is_empty() {
            return;
        }
        if let Err(error) = self.stop_capture() {
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
