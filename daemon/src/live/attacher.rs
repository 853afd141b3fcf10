//! The privileged side: loads the objects, puts them onto hooks, and hands out descriptors. Sees no packet.

use std::{
    collections::{BTreeMap, HashMap},
    path::Path,
};

use aya::{
    maps::{Array, Map, MapData, ProgramArray},
    programs::LinkOrder,
};
use datapath::{
    Direction,
    layout::{CaptureConfig, IFINDEX_MAX, Meta, POINTS_MAX, Point, RULES_MAX},
    rules::{Compiled, Rule},
};

use crate::clock::Clock;

use super::{
    FlowMap, HookMap, Keeper, LiveError, MapSizes, ServiceMap, adopt,
    attach::{self, Link, Objects, program},
    layout,
    namespace::{self, Device},
    objects::{self, Object, pinned},
    pins::{Leave, OnStop, PinDir},
    pod::Pod,
    records::FilterRecord,
    register::Register,
    rings::CaptureRing,
    rules::{self, RuleMaps},
    verb::{Answer, AttachRequest, Attached, AttachedHook, Hook, RuleRequest, StageConfig, Verb},
};

/// The verbs' performer. Dropping it takes every program off its hook, and removes the pins unless they are to stay.
#[derive(Debug)]
pub struct Attacher {
    // Dropped in this order: links before objects before pins.
    points: BTreeMap<u32, WatchedPoint>,
    stage: Vec<(Option<String>, Link)>,
    objects: HashMap<Option<String>, Objects>,
    rules: RuleMaps,
    register: Register,
    sizes: MapSizes,
    pins: PinDir,
}

#[derive(Debug)]
struct WatchedPoint {
    request: AttachRequest,
    device: Device,
    ingress: attach::Watched,
    egress: attach::Watched,
}

impl Attacher {
    /// Takes the pins over and loads the objects of this namespace, so that every refusal comes now.
    pub fn new(pins: &Path, sizes: MapSizes) -> Result<Self, LiveError> {
        for object in [Object::Xdp, Object::Tc] {
            object.bytes()?;
        }
        let mut pins = PinDir::claim(pins)?;
        let now_s = Clock::new().wall_ns() / 1_000_000_000;
        adopt::adopt(&mut pins, &layout::expected(sizes)?, now_s)?;
        let objects = load_both(&pins, sizes)?;
        let rules = RuleMaps::open(|name| rules::duplicate(&pinned(&pins, name)?, name))?;
        let register = rules::duplicate(&pinned(&pins, "REGISTER")?, "REGISTER")?;
        let mut attacher = Self {
            points: BTreeMap::new(),
            stage: Vec::new(),
            objects: HashMap::from([(None, objects)]),
            rules,
            register: Register::open(register)?,
            sizes,
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
            Verb::Attach(request) => self.attach(request).map(Answer::Attached),
            Verb::Detach { point } => self.detach(point).map(|()| Answer::Done),
            Verb::StartCapture(config) => self.start_capture(config).map(|()| Answer::Done),
            Verb::StopCapture => self.stop_capture().map(|()| Answer::Done),
            Verb::SetRules(rules) => {
                self.set_rules(&rules).map(|generation| Answer::RulesSet { generation })
            }
            Verb::Look => Ok(Answer::Present(self.present())),
            Verb::Serving => Ok(Answer::Done),
        }
    }

    /// The points whose interfaces are there.
    fn present(&self) -> Vec<u32> {
        let there = self.points.iter().filter(|(_, watched)| is_present(watched));
        there.map(|(point, _)| *point).collect()
    }

    fn attach(&mut self, request: AttachRequest) -> Result<Attached, LiveError> {
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
        let record = self.record(&request, device);
        record.remember()?;
        let point = self
            .register
            .reserve(namespace.as_deref(), &request.interface, device.ifindex)?
            .ok_or(LiveError::NoPointLeft { max: POINTS_MAX - 1 })?;
        let objects = self.objects.get_mut(&namespace).ok_or(LiveError::Missing("objects"))?;
        // The point before the programs: no packet passes a hook of ours without one.
        let id = u16::try_from(point).map_err(|_| LiveError::NoPoint(point))?;
        set_point(objects, device, Point { id, link: device.link as u8, _pad: 0 })?;
        let watched = namespace::within(namespace.as_deref(), || {
            let ingress = attach::ingress(objects, &request, device, &record)?;
            let egress = attach::egress(objects, &request, device, &record)?;
            Ok((ingress, egress))
        });
        let (ingress, egress) = match watched {
            Ok(watched) => watched,
            Err(error) => {
                self.register.gone(point)?;
                set_point(objects, device, Point::default())?;
                record.forget();
                return Err(error);
            }
        };
        let hook = |watched: &attach::Watched| watched.as_ref().map(|(hook, _)| hook.clone());
        let attached = Attached {
            point,
            ifindex: device.ifindex,
            link: device.link,
            ingress: hook(&ingress),
            egress: hook(&egress),
        };
        if ![&attached.ingress, &attached.egress].into_iter().flatten().any(is_filter) {
            record.forget();
        }
        self.points.insert(point, WatchedPoint { request, device, ingress, egress });
        Ok(attached)
    }

    fn detach(&mut self, point: u32) -> Result<(), LiveError> {
        let watched = self.points.remove(&point).ok_or(LiveError::NoPoint(point))?;
        self.register.gone(point)?;
        let namespace = watched.request.namespace.clone();
        let device = watched.device;
        // A namespace that has gone took its links with it.
        let _gone = namespace::within(namespace.as_deref(), move || {
            drop((watched.ingress, watched.egress));
            Ok(())
        });
        self.record(&watched.request, device).forget();
        match self.objects.get_mut(&namespace) {
            Some(objects) => set_point(objects, device, Point::default()),
            None => Ok(()),
        }
    }

    fn record(&self, request: &AttachRequest, device: Device) -> FilterRecord {
        FilterRecord::of(&self.pins.filters(), request, device.ifindex)
    }

    fn set_rules(&mut self, rules: &[RuleRequest]) -> Result<u64, LiveError> {
        if rules.len() > RULES_MAX {
            return Err(LiveError::TooManyRules { count: rules.len(), max: RULES_MAX });
        }
        let resolve = |(number, request): (usize, &RuleRequest)| {
            let point = request.interface.as_deref().map(|name| self.point_of(number, name));
            Ok(Rule { point: point.transpose()?, ..request.rule })
        };
        let rules: Vec<_> =
            rules.iter().enumerate().map(resolve).collect::<Result<_, LiveError>>()?;
        self.rules.set(&Compiled::new(&rules))
    }

    /// The observation point of an interface that rule `number` names.
    fn point_of(&self, number: usize, name: &str) -> Result<u32, LiveError> {
        let mut points = self.points.iter();
        let found = points.find(|(_, watched)| watched.request.to_string() == name);
        found.map(|(point, _)| *point).ok_or_else(|| {
            let names = self.points.values().map(|watched| format!("`{}`", watched.request));
            let watched = match names.collect::<Vec<_>>() {
                names if names.is_empty() => "no interface is".to_owned(),
                names => format!("watched are {}", names.join(", ")),
            };
            LiveError::RuleInterface { rule: number, interface: name.to_owned(), watched }
        })
    }

    fn start_capture(&mut self, config: StageConfig) -> Result<(), LiveError> {
        self.stop_capture()?;
        self.configure_stage(CaptureConfig {
            deadline_ns: config.deadline_ns,
            snaplen: config.snaplen,
            point: config.point.unwrap_or(0),
        })?;
        for (point, watched) in &self.points {
            if config.point.is_some_and(|wanted| wanted != *point) {
                continue;
            }
            let namespace = watched.request.namespace.clone();
            if config.point.is_none() && !is_present(watched) {
                // It has taken its hooks with it, which must not keep a capture from the others.
                continue;
            }
            let record = self.record(&watched.request, watched.device);
            let objects = self.objects.get_mut(&namespace).ok_or(LiveError::Missing("objects"))?;
            let links =
                namespace::within(namespace.as_deref(), || stage_of(objects, watched, &record))?;
            self.stage.extend(links.into_iter().map(|link| (namespace.clone(), link)));
        }
        Ok(())
    }

    fn stop_capture(&mut self) -> Result<(), LiveError> {
        self.configure_stage(CaptureConfig::default())?;
        for (namespace, link) in self.stage.drain(..) {
            let _gone = namespace::within(namespace.as_deref(), move || {
                drop(link);
                Ok(())
            });
        }
        for objects in self.objects.values_mut() {
            // An empty slot is what is wanted: clearing one again fails, and that is well.
            let _empty = xdp_stage(objects)?.clear_index(&0);
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
            if let Err(error) = self.detach(point) {
                tracing::warn!(%error, point, "an interface was not detached");
            }
        }
    }
}

/// Whether the interface is still the one that was attached to.
fn is_present(watched: &WatchedPoint) -> bool {
    let request = &watched.request;
    let look = || namespace::device(&request.interface);
    namespace::within(request.namespace.as_deref(), look)
        .is_ok_and(|device| device.ifindex == watched.device.ifindex)
}

fn is_filter(hook: &AttachedHook) -> bool {
    hook.hook == Hook::Clsact
}

/// The capture stage behind the tracker, wherever that is.
fn stage_of(
    objects: &mut Objects,
    watched: &WatchedPoint,
    record: &FilterRecord,
) -> Result<Vec<Link>, LiveError> {
    let directions = [
        (Direction::Ingress, &watched.ingress, program::CAPTURE_INGRESS),
        (Direction::Egress, &watched.egress, program::CAPTURE_EGRESS),
    ];
    let interface = &watched.request.interface;
    let mut links = Vec::new();
    for (direction, tracker, name) in directions {
        let Some((hook, tracker)) = tracker else { continue };
        let Link::Tc(tracker) = tracker else {
            let fd = attach::xdp_program(&mut objects.xdp, program::XDP_CAPTURE)?
                .fd()
                .and_then(|fd| fd.try_clone().map_err(Into::into))
                .map_err(|source| LiveError::Program { program: program::XDP_CAPTURE, source })?;
            xdp_stage(objects)?
                .set(0, &fd, 0)
                .map_err(|source| LiveError::Map { name: "CAPTURE_STAGE", source })?;
            continue;
        };
        let stage = attach::tc_program(&mut objects.tc, name)?;
        let attached = match hook.hook {
            Hook::Clsact => {
                attach::make_clsact(interface, record)?;
                attach::clsact(stage, interface, direction)
            }
            Hook::Tcx | Hook::Xdp | Hook::XdpGeneric => {
                let order = LinkOrder::after_link(tracker)
                    .map_err(|source| LiveError::Chain { interface: interface.clone(), source })?;
                attach::tcx(stage, interface, direction, order)
            }
        };
        links.push(Link::Tc(attached.map_err(|source| LiveError::Attach {
            hook: hook.hook,
            interface: watched.request.to_string(),
            source,
            remedy: "the tracker is attached there, so this is a fault of linnet: please report it",
        })?));
    }
    Ok(links)
}

/// The slot that the XDP tracker goes on in.
fn xdp_stage(objects: &mut Objects) -> Result<ProgramArray<&mut MapData>, LiveError> {
    const NAME: &str = "CAPTURE_STAGE";
    let map = objects.xdp.map_mut(NAME).ok_or(LiveError::Missing(NAME))?;
    map.try_into().map_err(|source| LiveError::Map { name: NAME, source })
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
