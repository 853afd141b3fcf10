//! The capture stage on the hooks of one interface: behind the tracker, wherever that is, and only while a capture runs.

use std::os::fd::{AsFd as _, OwnedFd};

use aya::{
    Ebpf,
    maps::{ArrayOfMaps, Map, MapData, ProgramArray, RingBuf},
    programs::{LinkOrder, ProgramError, ProgramFd},
};
use datapath::{
    Direction,
    layout::{STAGE_COPY, STAGE_FILTERS, STAGE_PREPARE, STAGE_PROGRAMS},
};

use super::{
    Chain, ChainLink, LiveError, Object,
    attach::{self, Link, Objects, Tracker, program},
    attacher::HeldPoint,
    filters::{self, FilterSet},
    rules,
    verb::Hook,
};

/// One of its programs on a hook.
#[derive(Debug)]
pub(super) struct StageLink {
    pub(super) point: u32,
    pub(super) namespace: Option<String>,
    pub(super) direction: Direction,
    pub(super) link: Link,
}

/// Attaches it to those directions of an interface of the calling thread's namespace, by its present name.
pub(super) fn attach(
    objects: &mut Objects,
    held: &HeldPoint,
    interface: &str,
    wanted: [bool; 2],
) -> Result<Vec<(Direction, Link)>, LiveError> {
    let directions = [
        (Direction::Ingress, &held.ingress, program::CAPTURE_INGRESS),
        (Direction::Egress, &held.egress, program::CAPTURE_EGRESS),
    ];
    let mut links = Vec::new();
    for (direction, tracker, name) in directions {
        let Some(Tracker { hook, link, .. }) =
            tracker.as_ref().filter(|_| wanted[direction as usize])
        else {
            continue;
        };
        let tracker = match link {
            Link::Tc(tracker) => tracker,
            Link::Lost => continue,
            Link::Xdp(_) => {
                // Behind the tracker by a call, for all interfaces of the namespace.
                let prepare = xdp_fd(objects, program::XDP_CAPTURE)?;
                set(programs(&mut objects.xdp)?, STAGE_PREPARE, &prepare)?;
                continue;
            }
        };
        let stage = attach::tc_program(&mut objects.tc, name)?;
        let attached = match hook.hook {
            Hook::Clsact => {
                attach::make_clsact(interface, &held.record)?;
                attach::clsact(stage, interface, direction)
            }
            Hook::Tcx | Hook::Xdp | Hook::XdpGeneric => {
                let order = LinkOrder::after_link(tracker).map_err(|source| LiveError::Chain {
                    interface: interface.to_owned(),
                    source,
                })?;
                attach::tcx(stage, interface, direction, order)
            }
        };
        let link = attached.map_err(|source| LiveError::Attach {
            hook: hook.hook,
            interface: held.request.to_string(),
            source,
            remedy: "the tracker may have been detached by another tool: /interfaces shows it",
        })?;
        links.push((direction, Link::Tc(link)));
    }
    Ok(links)
}

/// The directions whose chains lack its program, though the tracker that it belongs behind is there. Behind an XDP
/// tracker it is on no hook, and nobody can take it off.
pub(super) fn lost(held: &HeldPoint, chains: &[Chain; 2], programs: [Option<u32>; 2]) -> [bool; 2] {
    let trackers = [&held.ingress, &held.egress];
    [Direction::Ingress, Direction::Egress].map(|direction| {
        let number = direction as usize;
        let has = |link: &ChainLink| link.hook != "xdp" && link.program_id == programs[number];
        matches!(trackers[number], Some(Tracker { link: Link::Tc(_), .. }))
            && !chains[number].displaced
            && (programs[number].is_none() || !chains[number].links.iter().any(has))
    })
}

/// Puts a program of these filters in the place of the one before it, and behind it what copies.
pub(super) fn exchange(
    objects: &mut Objects,
    kind: Object,
    filters: &FilterSet,
    views: &MapData,
) -> Result<(), LiveError> {
    let copy = match kind {
        Object::Xdp => xdp_fd(objects, program::XDP_COPY)?,
        Object::Tc => {
            let program = attach::tc_program(&mut objects.tc, program::CAPTURE_COPY)?;
            own(program::CAPTURE_COPY, program.fd())?
        }
    };
    let object = match kind {
        Object::Xdp => &mut objects.xdp,
        Object::Tc => &mut objects.tc,
    };
    let stage = array(object)?;
    let program = filters::load(filters, kind, views.fd().as_fd(), (stage.as_fd(), STAGE_COPY))?;
    set(programs(object)?, STAGE_COPY, &copy)?;
    filters::set_program(stage.as_fd(), STAGE_FILTERS, program.as_fd())?;
    Ok(())
}

/// Takes it off the XDP trackers of a namespace, and lets its programs go.
pub(super) fn clear(objects: &mut Objects) -> Result<(), LiveError> {
    for object in [&mut objects.xdp, &mut objects.tc] {
        let mut programs = programs(object)?;
        for place in 0..STAGE_PROGRAMS {
            // An empty place is what is wanted: clearing one again fails, and that is well.
            let _empty = programs.clear_index(&place);
        }
    }
    Ok(())
}

/// Gives an object the rings of all CPUs.
pub(super) fn give_rings(object: &mut Ebpf, rings: &[MapData]) -> Result<(), LiveError> {
    let map = object.map_mut(RINGS).ok_or(LiveError::Missing(RINGS))?;
    let failed = |source| LiveError::Map { name: RINGS, source };
    let mut outer: ArrayOfMaps<_, RingBuf<MapData>> = map.try_into().map_err(failed)?;
    for (cpu, ring) in (0..).zip(rings) {
        let ring = ring.fd().as_fd().try_clone_to_owned().map_err(|error| failed(error.into()))?;
        let ring = MapData::from_fd(ring).map_err(failed)?;
        let ring = RingBuf::try_from(Map::RingBuf(ring)).map_err(failed)?;
        outer.set(cpu, &ring, 0).map_err(failed)?;
    }
    Ok(())
}

const STAGE: &str = "CAPTURE_STAGE";
const RINGS: &str = "CAPTURE_RINGS";

fn xdp_fd(objects: &mut Objects, name: &'static str) -> Result<ProgramFd, LiveError> {
    own(name, attach::xdp_program(&mut objects.xdp, name)?.fd())
}

fn own(
    program: &'static str,
    fd: Result<&ProgramFd, ProgramError>,
) -> Result<ProgramFd, LiveError> {
    fd.and_then(|fd| fd.try_clone().map_err(Into::into))
        .map_err(|source| LiveError::Program { program, source })
}

fn set(
    mut programs: ProgramArray<&mut MapData>,
    place: u32,
    fd: &ProgramFd,
) -> Result<(), LiveError> {
    programs.set(place, fd, 0).map_err(|source| LiveError::Map { name: STAGE, source })
}

/// The programs that the stage of an object goes on in.
fn programs(object: &mut Ebpf) -> Result<ProgramArray<&mut MapData>, LiveError> {
    let map = object.map_mut(STAGE).ok_or(LiveError::Missing(STAGE))?;
    map.try_into().map_err(|source| LiveError::Map { name: STAGE, source })
}

/// The array of those by a descriptor of its own.
fn array(object: &Ebpf) -> Result<OwnedFd, LiveError> {
    let Some(Map::ProgramArray(map)) = object.map(STAGE) else {
        return Err(LiveError::Missing(STAGE));
    };
    rules::duplicate(map, STAGE)
}
