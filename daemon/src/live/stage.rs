//! The capture stage on the hooks of one interface: behind the tracker, wherever that is, and only while a capture runs.

use aya::{
    maps::{MapData, ProgramArray},
    programs::LinkOrder,
};
use datapath::Direction;

use super::{
    Chain, ChainLink, LiveError,
    attach::{self, Link, Objects, Tracker, program},
    attacher::HeldPoint,
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
                let fd = attach::xdp_program(&mut objects.xdp, program::XDP_CAPTURE)?
                    .fd()
                    .and_then(|fd| fd.try_clone().map_err(Into::into))
                    .map_err(|source| LiveError::Program {
                        program: program::XDP_CAPTURE,
                        source,
                    })?;
                slot(objects)?
                    .set(0, &fd, 0)
                    .map_err(|source| LiveError::Map { name: SLOT, source })?;
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

/// Takes it off the XDP trackers of a namespace.
pub(super) fn clear(objects: &mut Objects) -> Result<(), LiveError> {
    // An empty slot is what is wanted: clearing one again fails, and that is well.
    let _empty = slot(objects)?.clear_index(&0);
    Ok(())
}

const SLOT: &str = "CAPTURE_STAGE";

/// The slot that the XDP tracker goes on in.
fn slot(objects: &mut Objects) -> Result<ProgramArray<&mut MapData>, LiveError> {
    let map = objects.xdp.map_mut(SLOT).ok_or(LiveError::Missing(SLOT))?;
    map.try_into().map_err(|source| LiveError::Map { name: SLOT, source })
}
