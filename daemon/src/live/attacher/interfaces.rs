//! The interfaces that programs are attached to. An interface that a dead attacher watched keeps its observation point,
//! and this attacher's programs take the place of the other's on its hooks, with no packet between them.

use aya::maps::Array;
use datapath::layout::{IFINDEX_MAX, POINTS_MAX, Point, RegisterRow};

use super::Attacher;
use crate::live::{
    AttachRequest, Attached, AttachedPoint, LiveError,
    adopt::Outgrown,
    attach::{self, Objects, Site, Tracker},
    inspect::{self, Inspected},
    link_pins::{self, LinkPins},
    namespace::{self, Device},
    pod::Pod,
    records::{self, FilterRecord},
    register::{self, Place, Reserved},
    rules,
    verb::{AttachedHook, Hook},
};

/// An interface that programs are attached to.
#[derive(Debug)]
pub(in super::super) struct HeldPoint {
    pub(in super::super) request: AttachRequest,
    pub(in super::super) device: Device,
    pub(in super::super) ingress: Option<Tracker>,
    pub(in super::super) egress: Option<Tracker>,
    pub(in super::super) record: FilterRecord,
}

impl Attacher {
    /// What is on the hooks of each observation point.
    pub fn inspect(&self) -> Result<Vec<Inspected>, LiveError> {
        let found = inspect::all(&self.points, &self.objects)?;
        let inspected = found.into_iter().map(|(point, chains)| {
            let stage_lost = self.lost_stage(point, &chains).unwrap_or_default();
            Inspected { point, chains, stage_lost }
        });
        Ok(inspected.collect())
    }

    /// Watches an interface.
    pub fn attach(&mut self, request: AttachRequest) -> Result<Attached, LiveError> {
        let namespace = request.namespace.clone();
        let (device, cookie) = namespace::within(namespace.as_deref(), || {
            Ok((namespace::device(&request.interface)?, namespace::cookie()?))
        })?;
        if device.ifindex > IFINDEX_MAX {
            return Err(LiveError::IndexTooGreat {
                interface: request.to_string(),
                ifindex: device.ifindex,
                max: IFINDEX_MAX,
            });
        }
        self.objects_of(namespace.as_deref())?;
        let place = Place {
            namespace: namespace.as_deref(),
            cookie,
            name: &request.interface,
            ifindex: device.ifindex,
        };
        let reserved = self.register.reserve(place)?;
        let reserved = reserved.ok_or(LiveError::NoPointLeft { max: POINTS_MAX - 1 })?;
        let Reserved { point, again, .. } = reserved;
        let watched = self.put_onto_hooks(request, device, reserved);
        if watched.is_err() {
            // Of a new one nothing has been counted.
            if again { self.register.leave(point)? } else { self.register.free(point)? }
        }
        let held = watched?;
        let attached = held.attached(point);
        self.points.insert(point, held);
        if let Err(error) = self.stage_new(point) {
            tracing::warn!(%error, point, "a capture that runs does not see this interface");
        }
        Ok(attached)
    }

    fn put_onto_hooks(
        &mut self,
        request: AttachRequest,
        device: Device,
        reserved: Reserved,
    ) -> Result<HeldPoint, LiveError> {
        let Reserved { point, again, filters } = reserved;
        // Before there can be filters: a process can be killed at any time.
        let record = FilterRecord::of(&self.pins.filters(), &request, device.ifindex);
        record.remember()?;
        let (ingress, egress) = (None, None);
        let mut held = HeldPoint { request, device, ingress, egress, record };
        // Rules that name the interface are in force before its first packet.
        self.refresh_rules(&[&held.request], Some((point, &held.request)));
        let namespace = held.request.namespace.clone();
        let pins = LinkPins::of(&self.pins.links(), point);
        if again {
            self.outgrown.carry_rest(&self.pins, point)?;
        }
        let objects = self.objects.get_mut(&namespace).ok_or(LiveError::Missing("objects"))?;
        let id = u16::try_from(point).map_err(|_| LiveError::NoPoint(point))?;
        let entry = Point { id, link: device.link as u8, _pad: 0 };
        let HeldPoint { request, record, .. } = &held;
        let register = &mut self.register;
        let watched = namespace::within(namespace.as_deref(), || {
            if again {
                // What takes another's place goes on counting with the first packet.
                set_point(objects, device, entry)?;
                attach::remove_stages(&request.interface);
            }
            let mut site = Site { request, device, record, pins: &pins, point, filters, register };
            let ingress = attach::ingress(objects, &mut site)?;
            let egress = attach::egress(objects, &mut site)?;
            // Both directions of a new one begin with it, and where one is refused nothing has been counted.
            set_point(objects, device, entry)?;
            Ok((ingress, egress))
        });
        match watched {
            Ok(watched) => (held.ingress, held.egress) = watched,
            Err(error) => {
                set_point(objects, device, Point::default())?;
                held.record.forget();
                return Err(error);
            }
        }
        let hook = |tracker: &Option<Tracker>| tracker.as_ref().map(|it| it.hook.hook);
        let hooks = [hook(&held.ingress), hook(&held.egress)];
        self.register.note_hooks(point, hooks.map(Hook::number))?;
        if !held.has_filters() {
            held.record.forget();
        }
        Ok(held)
    }

    /// Stops watching an observation point; its id stays taken until it is released. `gone` where its interface has gone
    /// and has taken its filters along.
    pub fn detach(&mut self, point: u32, gone: bool) -> Result<(), LiveError> {
        let held = self.points.remove(&point).ok_or(LiveError::NoPoint(point))?;
        self.unstage(point)?;
        let namespace = held.request.namespace.clone();
        let HeldPoint { request, device, ingress, egress, record } = held;
        let stage: Vec<_> =
            self.stage.extract_if(.., |it| it.point == point).map(|it| it.link).collect();
        let trackers = [ingress, egress].into_iter().flatten();
        if gone {
            stage.into_iter().for_each(attach::Link::abandon);
            trackers.for_each(Tracker::abandon);
            record.remove()?;
        } else {
            let trackers: Vec<_> = trackers.collect();
            // A namespace that has gone took its links with it.
            let _gone = namespace::within(namespace.as_deref(), move || {
                drop((stage, trackers));
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
        self.register.leave(point)?;
        self.refresh_rules(&[&request], None);
        cleared
    }

    /// Uses an id again: no flow of it is left.
    pub fn release(&mut self, point: u32) -> Result<(), LiveError> {
        self.register.free(point)
    }

    /// The interface of an observation point has another name now.
    pub fn rename(&mut self, point: u32, interface: String) -> Result<(), LiveError> {
        self.register.rename(point, &interface)?;
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
        let displaced = chains.ok_or(LiveError::NoPoint(point))?.map(|it| it.displaced);
        for (displaced, tracker) in displaced.iter().zip([&mut held.ingress, &mut held.egress]) {
            if *displaced && let Some(tracker) = tracker {
                tracker.lose();
            }
        }
        let namespace = held.request.namespace.clone();
        let objects = self.objects.get_mut(&namespace).ok_or(LiveError::Missing("objects"))?;
        held.record.remember()?;
        let pins = LinkPins::of(&self.pins.links(), point);
        let HeldPoint { request, device, record, .. } = &*held;
        let (device, register) = (*device, &mut self.register);
        let [ingress, egress] = displaced;
        let watched = namespace::within(namespace.as_deref(), || {
            let filters = [[0; 2]; 2];
            let mut site = Site { request, device, record, pins: &pins, point, filters, register };
            let ingress = if ingress { attach::ingress(objects, &mut site)? } else { None };
            let egress = if egress { attach::egress(objects, &mut site)? } else { None };
            Ok((ingress, egress))
        })?;
        held.ingress = watched.0.or_else(|| held.ingress.take());
        held.egress = watched.1.or_else(|| held.egress.take());
        if !held.has_filters() {
            held.record.forget();
        }
        Ok(held.attached(point))
    }

    /// Takes off what a dead attacher left on interfaces that nobody watches now; returns their points, of which there
    /// may be flows.
    pub fn take_off_the_rest(&mut self) -> Result<Vec<AttachedPoint>, LiveError> {
        let links = link_pins::clear(&self.pins.links(), self.register.held())?;
        let held: Vec<_> = self.points.values().map(|held| &held.record).collect();
        let (filters, _) = records::clear(&self.pins.filters(), &held)?;
        if links + filters > 0 {
            tracing::info!(links, filters, "took off what an earlier run left");
            rules::wait_for_runs();
        }
        // Nothing writes to them any more.
        self.outgrown = Outgrown::default();
        let mut orphans = Vec::new();
        for (point, row) in self.register.orphans() {
            if row.state == RegisterRow::WATCHED {
                self.register.leave(point)?;
            }
            let namespace = Some(register::name_in(&row.namespace)).filter(|name| !name.is_empty());
            let Ok(named) = AttachRequest::named(&register::name_in(&row.name)) else { continue };
            let request = AttachRequest { namespace, ..named };
            let [ingress, egress] = row.hooks.map(|number| {
                let reason = "an earlier run watched it".to_owned();
                Hook::numbered(number).map(|hook| AttachedHook { hook, reason, program_id: None })
            });
            let link = datapath::Link::Ethernet;
            let attached = Attached { point, ifindex: row.ifindex, link, ingress, egress };
            orphans.push(AttachedPoint { request, attached });
        }
        Ok(orphans)
    }
}

impl HeldPoint {
    fn attached(&self, point: u32) -> Attached {
        let hook = |tracker: &Option<Tracker>| tracker.as_ref().map(|it| it.hook.clone());
        Attached {
            point,
            ifindex: self.device.ifindex,
            link: self.device.link,
            ingress: hook(&self.ingress),
            egress: hook(&self.egress),
        }
    }

    fn has_filters(&self) -> bool {
        let mut trackers = [&self.ingress, &self.egress].into_iter().flatten();
        trackers.any(|tracker| tracker.hook.hook == Hook::Clsact)
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
