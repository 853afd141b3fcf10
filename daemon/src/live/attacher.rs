//! The privileged side: loads the objects, puts them onto hooks, and hands out descriptors. Sees no packet.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    path::Path,
};

use aya::maps::{Array, Map, MapData};
use datapath::{
    layout::{CaptureConfig, IFINDEX_MAX, Meta, POINTS_MAX, Point, RULES_MAX},
    rules::{Compiled, Rule},
};

use super::{
    Chain, FlowMap, HookMap, LiveError, MapSizes, ServiceMap,
    attach::{self, Objects},
    inspect::{self, Inspected},
    namespace::{self, Device},
    objects::{self, Object, pinned},
    pins::PinDir,
    pod::Pod,
    records::FilterRecord,
    rings::CaptureRing,
    rules::{self, RuleMaps},
    stage::{self, StageLink},
    verb::{Answer, AttachRequest, Attached, Hook, RuleRequest, StageConfig, Verb},
};

/// The verbs' performer. Dropping it takes every program off its hook and removes the pins.
#[derive(Debug)]
pub struct Attacher {
    // Dropped in this order: links before objects before pins.
    stage: Vec<StageLink>,
    points: BTreeMap<u32, HeldPoint>,
    objects: HashMap<Option<String>, Objects>,
    /// Points that nothing is attached to and of which there may be flows.
    left: BTreeSet<u32>,
    last_point: u32,
    /// What is copied while a capture runs.
    capture: Option<StageConfig>,
    rules: RuleMaps,
    /// The list in force, by names, and how often there was a new one.
    rule_requests: Vec<RuleRequest>,
    rule_changes: u64,
    sizes: MapSizes,
    pins: PinDir,
}

/// An interface that programs are attached to.
#[derive(Debug)]
pub(super) struct HeldPoint {
    pub(super) request: AttachRequest,
    pub(super) device: Device,
    pub(super) ingress: attach::Watched,
    pub(super) egress: attach::Watched,
    pub(super) record: FilterRecord,
}

impl Attacher {
    /// Takes the pins over and loads the objects of this namespace, so that every refusal comes now.
    pub fn new(pins: &Path, sizes: MapSizes) -> Result<Self, LiveError> {
        for object in [Object::Xdp, Object::Tc] {
            object.bytes()?;
        }
        let pins = PinDir::claim(pins)?;
        let objects = load_both(&pins, sizes)?;
        let rules = RuleMaps::open(|name| rules::duplicate(&pinned(&pins, name)?, name))?;
        let attacher = Self {
            stage: Vec::new(),
            points: BTreeMap::new(),
            objects: HashMap::from([(None, objects)]),
            left: BTreeSet::new(),
            last_point: 0,
            capture: None,
            rules,
            rule_requests: Vec::new(),
            rule_changes: 0,
            sizes,
            pins,
        };
        attacher.set_meta()?;
        Ok(attacher)
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
                self.set_rules(rules).map(|generation| Answer::RulesSet { generation })
            }
            // What is known of interfaces is the follower's to say.
            Verb::Look { .. } | Verb::Serving => Ok(Answer::Done),
        }
    }

    /// What is on the hooks of each observation point.
    pub fn inspect(&self) -> Result<Vec<Inspected>, LiveError> {
        let found = inspect::all(&self.points, &self.objects)?;
        let inspected = found.into_iter().map(|(point, chains)| {
            let stage_lost = self.lost_stage(point, &chains).unwrap_or_default();
            Inspected { point, chains, stage_lost }
        });
        Ok(inspected.collect())
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

    /// Uses an id again: no flow of it is left.
    pub fn release(&mut self, point: u32) {
        self.left.remove(&point);
    }

    /// Watches an interface.
    pub fn attach(&mut self, request: AttachRequest) -> Result<Attached, LiveError> {
        let point = self.free_point()?;
        let namespace = request.namespace.clone();
        let device =
            namespace::within(namespace.as_deref(), || namespace::device(&request.interface))?;
        if device.ifindex > IFINDEX_MAX {
            return Err(LiveError::IndexTooGreat {
                interface: request.to_string(),
                ifindex: device.ifindex,
                max: IFINDEX_MAX,
            });
        }
        self.objects_of(namespace.as_deref())?;
        // Before there can be filters: a process can be killed at any time.
        let record = FilterRecord::of(&self.pins.filters(), &request, device.ifindex);
        record.remember()?;
        let (ingress, egress) = (None, None);
        let mut held = HeldPoint { request, device, ingress, egress, record };
        // Rules that name the interface are in force before its first packet.
        self.refresh_rules(&[&held.request], Some((point, &held.request)));
        let objects = self.objects.get_mut(&namespace).ok_or(LiveError::Missing("objects"))?;
        let id = u16::try_from(point).map_err(|_| LiveError::NoPoint(point))?;
        let HeldPoint { request, record, .. } = &held;
        let watched = namespace::within(namespace.as_deref(), || {
            let ingress = attach::ingress(objects, request, device, record)?;
            let egress = attach::egress(objects, request, device, record)?;
            // Both directions begin with it, and where one is refused nothing has been counted.
            set_point(objects, device, Point { id, link: device.link as u8, _pad: 0 })?;
            Ok((ingress, egress))
        });
        match watched {
            Ok(watched) => (held.ingress, held.egress) = watched,
            Err(error) => {
                held.record.forget();
                return Err(error);
            }
        }
        let attached = held.attached(point);
        if !held.has_filters() {
            held.record.forget();
        }
        self.points.insert(point, held);
        if self.capture.is_some_and(|config| config.point.is_none())
            && let Err(error) = self.add_stage(point, [true; 2])
        {
            tracing::warn!(%error, point, "a capture that runs does not see this interface");
        }
        Ok(attached)
    }

    /// An id that was not used for as long as can be.
    fn free_point(&mut self) -> Result<u32, LiveError> {
        let after = self.last_point + 1;
        let free = (after..POINTS_MAX)
            .chain(1..after)
            .find(|point| !self.points.contains_key(point) && !self.left.contains(point))
            .ok_or(LiveError::NoPointLeft { max: POINTS_MAX - 1 })?;
        self.last_point = free;
        Ok(free)
    }

    /// Stops watching an observation point; its id stays taken until it is released. `gone` where its interface has gone
    /// and has taken its filters along.
    pub fn detach(&mut self, point: u32, gone: bool) -> Result<(), LiveError> {
        let held = self.points.remove(&point).ok_or(LiveError::NoPoint(point))?;
        self.left.insert(point);
        if self.capture.is_some_and(|config| config.point == Some(point)) {
            // The capture ends soon; until then it must not see another interface.
            self.configure_stage(CaptureConfig::default())?;
        }
        let namespace = held.request.namespace.clone();
        let HeldPoint { request, device, ingress, egress, record } = held;
        let stage = self.stage.extract_if(.., |it| it.point == point).map(|it| it.link);
        let mut links: Vec<_> = stage.collect();
        links.extend([ingress, egress].into_iter().flatten().map(|(_, link)| link));
        if gone {
            links.into_iter().for_each(attach::Link::abandon);
            record.remove()?;
        } else {
            // A namespace that has gone took its links with it.
            let _gone = namespace::within(namespace.as_deref(), move || {
                drop(links);
                Ok(())
            });
            record.forget();
        }
        let cleared = match self.objects.get_mut(&namespace) {
            Some(objects) => set_point(objects, device, Point::default()),
            None => Ok(()),
        };
        // From here on no run of a program counts for this point.
        rules::wait_for_runs();
        self.refresh_rules(&[&request], None);
        cleared
    }

    /// The interface of an observation point has another name now.
    pub fn rename(&mut self, point: u32, interface: String) -> Result<(), LiveError> {
        let held = self.points.get_mut(&point).ok_or(LiveError::NoPoint(point))?;
        let before = held.request.clone();
        held.request.interface = interface;
        let after = held.request.clone();
        self.refresh_rules(&[&before, &after], None);
        Ok(())
    }

    /// Puts back what is not on its hook any more.
    pub fn reattach(&mut self, point: u32) -> Result<Attached, LiveError> {
        let chains = inspect::all(&self.points, &self.objects)?;
        let chains = chains.into_iter().find(|(id, _)| *id == point).map(|(_, chains)| chains);
        let held = self.points.get_mut(&point).ok_or(LiveError::NoPoint(point))?;
        let [ingress, egress] = chains.ok_or(LiveError::NoPoint(point))?.map(|it| it.displaced);
        for (displaced, watched) in [(ingress, &mut held.ingress), (egress, &mut held.egress)] {
            if displaced && let Some((_, link)) = watched {
                std::mem::replace(link, attach::Link::Lost).abandon();
            }
        }
        let namespace = held.request.namespace.clone();
        let objects = self.objects.get_mut(&namespace).ok_or(LiveError::Missing("objects"))?;
        held.record.remember()?;
        let HeldPoint { request, device, record, .. } = &*held;
        let watched = namespace::within(namespace.as_deref(), || {
            let ingress =
                if ingress { attach::ingress(objects, request, *device, record)? } else { None };
            let egress =
                if egress { attach::egress(objects, request, *device, record)? } else { None };
            Ok((ingress, egress))
        })?;
        held.ingress = watched.0.or_else(|| held.ingress.take());
        held.egress = watched.1.or_else(|| held.egress.take());
        if !held.has_filters() {
            held.record.forget();
        }
        Ok(held.attached(point))
    }

    fn set_rules(&mut self, requests: Vec<RuleRequest>) -> Result<u64, LiveError> {
        if requests.len() > RULES_MAX {
            return Err(LiveError::TooManyRules { count: requests.len(), max: RULES_MAX });
        }
        // One for an interface that has gone meanwhile waits for its return, as it did in the list before.
        let waits = |name: &str| {
            self.rule_requests.iter().any(|known| known.interface.as_deref() == Some(name))
        };
        for (rule, request) in requests.iter().enumerate() {
            let Some(name) = &request.interface else { continue };
            if self.point_of(name, None).is_none() && !waits(name) {
                let names = self.points.values().map(|held| format!("`{}`", held.request));
                let watched = match names.collect::<Vec<_>>() {
                    names if names.is_empty() => "no interface is".to_owned(),
                    names => format!("watched are {}", names.join(", ")),
                };
                return Err(LiveError::RuleInterface { rule, interface: name.clone(), watched });
            }
        }
        self.write_rules(&requests, None)?;
        self.rule_requests = requests;
        self.rule_changes += 1;
        Ok(self.rule_changes)
    }

    /// Puts the rules in force again where one of them names an interface that has come, gone or another name.
    fn refresh_rules(&mut self, changed: &[&AttachRequest], come: Option<(u32, &AttachRequest)>) {
        let names: Vec<_> = changed.iter().map(ToString::to_string).collect();
        let is_changed =
            |rule: &RuleRequest| rule.interface.as_ref().is_some_and(|name| names.contains(name));
        if !self.rule_requests.iter().any(is_changed) {
            return;
        }
        let requests = std::mem::take(&mut self.rule_requests);
        if let Err(error) = self.write_rules(&requests, come) {
            tracing::error!(%error, "rules for an interface that changed are not in force");
        }
        self.rule_requests = requests;
    }

    /// Writes the rules of interfaces that are there; a rule of another one has nothing to match.
    fn write_rules(
        &mut self,
        requests: &[RuleRequest],
        come: Option<(u32, &AttachRequest)>,
    ) -> Result<(), LiveError> {
        let resolve = |request: &RuleRequest| match &request.interface {
            None => Some(Rule { point: None, ..request.rule }),
            Some(name) => {
                self.point_of(name, come).map(|point| Rule { point: Some(point), ..request.rule })
            }
        };
        let rules: Vec<_> = requests.iter().filter_map(resolve).collect();
        self.rules.set(&Compiled::new(&rules)).map(drop)
    }

    /// The observation point of an interface that is watched, or of the one that comes.
    fn point_of(&self, name: &str, come: Option<(u32, &AttachRequest)>) -> Option<u32> {
        let held = self.points.iter().map(|(point, held)| (*point, &held.request));
        let mut points = held.chain(come);
        points.find(|(_, request)| request.to_string() == name).map(|(point, _)| point)
    }

    fn start_capture(&mut self, config: StageConfig) -> Result<(), LiveError> {
        self.stop_capture()?;
        self.configure_stage(CaptureConfig {
            deadline_ns: config.deadline_ns,
            snaplen: config.snaplen,
            point: config.point.unwrap_or(0),
        })?;
        self.capture = Some(config);
        let points: Vec<_> = self.points.keys().copied().collect();
        for point in points {
            if config.point.is_none_or(|wanted| wanted == point) {
                self.add_stage(point, [true; 2])?;
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
            let objects = load_both(&self.pins, self.sizes)?;
            self.objects.insert(key.clone(), objects);
        }
        self.objects.get_mut(&key).ok_or(LiveError::Missing("objects"))
    }
}

/// The objects of one namespace.
fn load_both(pins: &PinDir, sizes: MapSizes) -> Result<Objects, LiveError> {
    let [tc, xdp] = [Object::Tc, Object::Xdp].map(|object| objects::load(object, pins, sizes));
    Ok(Objects { tc: tc?, xdp: xdp? })
}

impl Drop for Attacher {
    fn drop(&mut self) {
        if self.points.is_empty() {
            return;
        }
        if let Err(error) = self.stop_capture() {
            tracing::warn!(%error, "the capture stage was not stopped");
        }
        let points: Vec<_> = self.points.keys().copied().collect();
        for point in points {
            if let Err(error) = self.detach(point, false) {
                tracing::warn!(%error, point, "an interface was not detached");
            }
        }
    }
}

impl HeldPoint {
    fn attached(&self, point: u32) -> Attached {
        let hook = |watched: &attach::Watched| watched.as_ref().map(|(hook, _)| hook.clone());
        Attached {
            point,
            ifindex: self.device.ifindex,
            link: self.device.link,
            ingress: hook(&self.ingress),
            egress: hook(&self.egress),
        }
    }

    fn has_filters(&self) -> bool {
        let mut hooks = [&self.ingress, &self.egress].into_iter().flatten();
        hooks.any(|(hook, _)| hook.hook == Hook::Clsact)
    }
}

/// Says in both objects of a namespace what an interface index stands for.
fn set_point(objects: &mut Objects, device: Device, point: Point) -> Result<(), LiveError> {
    const NAME: &str = "POINTS";
    for object in [&mut objects.tc, &mut objects.xdp] {
        let map = object.map_mut(NAME).ok_or(LiveError::Missing(NAME))?;
        let failed = |source| LiveError::Map { name: NAME, source };
        let mut map: Array<_, Pod<Point>> = map.try_into().map_err(failed)?;
        map.set(device.ifindex, Pod(point), 0).map_err(failed)?;
    }
    Ok(())
}
