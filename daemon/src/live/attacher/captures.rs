//! The captures of a daemon, as the stage has them. One that comes or goes never costs another one a packet: what the
//! filters are shown only grows before their program is exchanged and only shrinks after it, and which captures want
//! packets of a hook is said last, and taken back first.

use std::collections::BTreeMap;

use aya::maps::{Array, Map, MapData};
use datapath::{
    Direction,
    layout::{CAPTURES_MAX, CaptureConfig, CaptureSlot, HOOKS_MAX},
};

use super::Attacher;
use crate::live::{
    Chain, LiveError, Object,
    attach::Tracker,
    filters::{FilterSet, Slot},
    inspect, namespace,
    pod::Pod,
    rules,
    stage::{self, StageLink},
    stage_config::StageConfig,
    verb::Hook,
};

/// What runs, and the maps that tell the stage.
pub(super) struct Captures {
    running: BTreeMap<u8, StageConfig>,
    /// What the filters are shown at present.
    shown: CaptureConfig,
    config: Array<MapData, Pod<CaptureConfig>>,
    wanted: Array<MapData, u64>,
    slots: Array<MapData, Pod<CaptureSlot>>,
}

impl std::fmt::Debug for Captures {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Captures").field("running", &self.running.keys()).finish_non_exhaustive()
    }
}

impl Captures {
    /// None, whatever a dead attacher left.
    pub(super) fn open(
        shared: impl Fn(&'static str) -> Result<MapData, LiveError>,
        ring_bytes: u32,
    ) -> Result<Self, LiveError> {
        const NAMES: [&str; 3] = ["CAPTURE_CONFIG", "CAPTURE_WANTED", "CAPTURES"];
        let failed = |name| move |source| LiveError::Map { name, source };
        let map = |name| Ok::<_, LiveError>(Map::Array(shared(name)?));
        let [config, wanted, slots] = NAMES;
        let shown = CaptureConfig { ring_bytes, payload_max: u32::MAX, ..CaptureConfig::default() };
        let mut captures = Self {
            running: BTreeMap::new(),
            shown,
            config: map(config)?.try_into().map_err(failed(config))?,
            wanted: map(wanted)?.try_into().map_err(failed(wanted))?,
            slots: map(slots)?.try_into().map_err(failed(slots))?,
        };
        for hook in 0..HOOKS_MAX {
            captures.wanted.set(hook, 0, 0).map_err(failed(wanted))?;
        }
        captures.show(shown)?;
        Ok(captures)
    }

    fn want(&self, point: u32) -> bool {
        self.running.values().any(|config| config.wants(point))
    }

    /// Says which captures want packets of a point.
    fn tell(&mut self, point: u32) -> Result<(), LiveError> {
        let wanting = self.running.iter().filter(|(_, config)| config.wants(point));
        let mask = wanting.fold(0, |mask, (slot, _)| mask | 1_u64 << slot);
        for direction in [Direction::Ingress, Direction::Egress] {
            let told = self.wanted.set(point * 2 + direction as u32, mask, 0);
            told.map_err(|source| LiveError::Map { name: "CAPTURE_WANTED", source })?;
        }
        Ok(())
    }

    fn show(&mut self, config: CaptureConfig) -> Result<(), LiveError> {
        self.shown = config;
        self.config
            .set(0, Pod(config), 0)
            .map_err(|source| LiveError::Map { name: "CAPTURE_CONFIG", source })
    }

    /// What the filters of all that run have to be shown.
    fn needed(&self) -> CaptureConfig {
        let mut config = CaptureConfig { reach: 0, views: 0, ..self.shown };
        self.running.values().for_each(|running| running.widen(&mut config));
        config
    }

    fn filters(&self) -> FilterSet {
        let mut filters = FilterSet::default();
        for (slot, config) in &self.running {
            if let Some(slot) = Slot::new(*slot) {
                config.put_into(&mut filters, slot);
            }
        }
        filters
    }
}

impl Attacher {
    /// Sets the most of a packet that any capture may have behind its headers, whatever it asks for.
    pub fn limit_payload(&mut self, bytes: u32) -> Result<(), LiveError> {
        let shown = CaptureConfig { payload_max: bytes, ..self.captures.shown };
        self.captures.show(shown)
    }

    /// Copies packets for one more capture.
    pub(super) fn start_capture(&mut self, slot: u8, config: StageConfig) -> Result<(), LiveError> {
        if usize::from(slot) >= CAPTURES_MAX {
            return Err(LiveError::Missing("slot for a capture"));
        }
        if self.captures.running.contains_key(&slot) {
            self.stop_capture(slot)?;
        }
        let budgets = self.captures.slots.set(u32::from(slot), Pod(config.slot()), 0);
        budgets.map_err(|source| LiveError::Map { name: "CAPTURES", source })?;
        let (wants_all, point) = (config.point.is_none(), config.point);
        self.captures.running.insert(slot, config);
        let started = self.begin(wants_all, point);
        if started.is_err() {
            self.stop_capture(slot)?;
        }
        started
    }

    fn begin(&mut self, wants_all: bool, point: Option<u32>) -> Result<(), LiveError> {
        if let Some(gone) = point.filter(|point| !self.points.contains_key(point)) {
            return Err(LiveError::NoPoint(gone));
        }
        let (before, needed) = (self.captures.shown, self.captures.needed());
        self.captures.show(CaptureConfig {
            reach: before.reach.max(needed.reach),
            views: before.views | needed.views,
            ..needed
        })?;
        self.exchange_filters(None)?;
        let is_in = |it: &u32| wants_all || point == Some(*it);
        let points: Vec<_> = self.points.keys().copied().filter(is_in).collect();
        for point in points {
            self.add_stage(point, self.missing(point))?;
            self.captures.tell(point)?;
        }
        Ok(())
    }

    /// Copies nothing more for a capture. When this returns nothing more is counted for it.
    pub(super) fn stop_capture(&mut self, slot: u8) -> Result<(), LiveError> {
        if self.captures.running.remove(&slot).is_none() {
            return Ok(());
        }
        let points: Vec<_> = self.points.keys().copied().collect();
        for point in points {
            self.captures.tell(point)?;
        }
        rules::wait_for_runs();
        if self.captures.running.is_empty() {
            self.take_stage_off()?;
        } else if let Err(error) = self.exchange_filters(None) {
            // They go on with a filter that nothing wants any more.
            tracing::warn!(%error, "the filters of captures were not exchanged");
            return Ok(());
        }
        self.captures.show(self.captures.needed())
    }

    /// Copies nothing more at all.
    pub(super) fn stop_captures(&mut self) -> Result<(), LiveError> {
        let slots: Vec<_> = self.captures.running.keys().copied().collect();
        slots.into_iter().try_for_each(|slot| self.stop_capture(slot))
    }

    /// Shows captures that want all interfaces the packets of one that has come.
    pub(super) fn stage_new(&mut self, point: u32) -> Result<(), LiveError> {
        if !self.captures.want(point) {
            return Ok(());
        }
        let held = self.points.get(&point).ok_or(LiveError::NoPoint(point))?;
        let namespace = held.request.namespace.clone();
        self.exchange_filters(Some(namespace.as_deref()))?;
        self.add_stage(point, [true; 2])?;
        self.captures.tell(point)
    }

    /// Lets no capture see a point any more, whatever interface has it next.
    pub(super) fn unstage(&mut self, point: u32) -> Result<(), LiveError> {
        for config in self.captures.running.values_mut() {
            if config.point == Some(point) {
                // What no interface has.
                config.point = Some(0);
            }
        }
        for direction in [Direction::Ingress, Direction::Egress] {
            let told = self.captures.wanted.set(point * 2 + direction as u32, 0, 0);
            told.map_err(|source| LiveError::Map { name: "CAPTURE_WANTED", source })?;
        }
        Ok(())
    }

    /// Puts the program of the present filters into the stages that are needed, of one namespace or of all.
    fn exchange_filters(&mut self, only: Option<Option<&str>>) -> Result<(), LiveError> {
        let filters = self.captures.filters();
        let views = self.shared("CAPTURE_VIEWS")?;
        let mut needed = BTreeMap::<_, [bool; 2]>::new();
        for (point, held) in &self.points {
            if !self.captures.want(*point)
                || only.is_some_and(|only| only != held.request.namespace.as_deref())
            {
                continue;
            }
            let kinds = needed.entry(held.request.namespace.clone()).or_default();
            // Also of one that another tool has taken off: it may come back.
            for Tracker { hook, .. } in [&held.ingress, &held.egress].into_iter().flatten() {
                match hook.hook {
                    Hook::Xdp | Hook::XdpGeneric => kinds[0] = true,
                    Hook::Tcx | Hook::Clsact => kinds[1] = true,
                }
            }
        }
        for (namespace, kinds) in needed {
            let objects = self.objects.get_mut(&namespace).ok_or(LiveError::Missing("objects"))?;
            for (kind, is_needed) in [Object::Xdp, Object::Tc].into_iter().zip(kinds) {
                if is_needed {
                    stage::exchange(objects, kind, &filters, &views)?;
                }
            }
        }
        Ok(())
    }

    /// The directions of a point that have no program of the stage.
    fn missing(&self, point: u32) -> [bool; 2] {
        let mut missing = [true; 2];
        for link in self.stage.iter().filter(|link| link.point == point) {
            missing[link.direction as usize] = false;
        }
        missing
    }

    /// Puts the capture stage behind the trackers of a point.
    fn add_stage(&mut self, point: u32, wanted: [bool; 2]) -> Result<(), LiveError> {
        let held = self.points.get(&point).ok_or(LiveError::NoPoint(point))?;
        let namespace = held.request.namespace.clone();
        let objects = self.objects.get_mut(&namespace).ok_or(LiveError::Missing("objects"))?;
        // One that has gone must not keep a capture of all from the others.
        let all = self.captures.running.values().any(|config| config.point.is_none());
        let links = namespace::within(namespace.as_deref(), || {
            match namespace::name_of(held.device.ifindex)? {
                Some(name) => stage::attach(objects, held, &name, wanted),
                // It has taken its hooks with it.
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

    /// The directions in which captures that run miss their program; `None` where none is for this point.
    pub(super) fn lost_stage(&self, point: u32, chains: &[Chain; 2]) -> Option<[bool; 2]> {
        self.captures.want(point).then_some(())?;
        let held = self.points.get(&point)?;
        let programs = inspect::stage_ids(self.objects.get(&held.request.namespace)?);
        Some(stage::lost(held, chains, programs))
    }

    /// Puts back what another tool has taken off of captures that run.
    pub fn restage(&mut self, point: u32) -> Result<(), LiveError> {
        let found = self.inspect()?.into_iter().find(|it| it.point == point);
        let lost = found.ok_or(LiveError::NoPoint(point))?.stage_lost;
        let is_lost = |it: &mut StageLink| it.point == point && lost[it.direction as usize];
        self.stage.extract_if(.., is_lost).for_each(|it| it.link.abandon());
        // Where another hook has taken the tracker's place, the programs of the new one are still to come.
        let held = self.points.get(&point).ok_or(LiveError::NoPoint(point))?;
        let namespace = held.request.namespace.clone();
        self.exchange_filters(Some(namespace.as_deref()))?;
        self.add_stage(point, lost)
    }

    fn take_stage_off(&mut self) -> Result<(), LiveError> {
        for StageLink { namespace, link, .. } in self.stage.drain(..) {
            let _gone = namespace::within(namespace.as_deref(), move || {
                drop(link);
                Ok(())
            });
        }
        self.objects.values_mut().try_for_each(stage::clear)
    }
}
