//! Looking at the hooks of everything that is watched, one namespace after the other.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use datapath::Direction;

use super::{
    LiveError,
    attach::{Objects, Tracker, program},
    attacher::HeldPoint,
    chain::{self, Chain},
    links, namespace,
    netlink::Socket,
    verb::AttachedHook,
};

/// What was found on the hooks of an observation point.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inspected {
    /// Which point.
    pub point: u32,
    /// Ingress and egress.
    pub chains: [Chain; 2],
    /// In which of them a capture that runs misses its program.
    pub stage_lost: [bool; 2],
}

/// What is known of one interface before the look.
struct Known {
    point: u32,
    ifindex: u32,
    trackers: [Option<AttachedHook>; 2],
}

/// What is on the hooks of every interface that is there, by observation point.
pub(super) fn all(
    points: &BTreeMap<u32, HeldPoint>,
    objects: &HashMap<Option<String>, Objects>,
) -> Result<Vec<(u32, [Chain; 2])>, LiveError> {
    let mut inspected = Vec::new();
    let namespaces: BTreeSet<_> =
        points.values().map(|held| held.request.namespace.as_deref()).collect();
    for namespace in namespaces {
        let stages = objects.get(&namespace.map(ToOwned::to_owned)).map(stage_ids);
        let stages = stages.unwrap_or_default();
        let hook = |tracker: &Option<Tracker>| tracker.as_ref().map(|it| it.hook.clone());
        let known: Vec<_> = points
            .iter()
            .filter(|(_, held)| held.request.namespace.as_deref() == namespace)
            .map(|(point, held)| Known {
                point: *point,
                ifindex: held.device.ifindex,
                trackers: [hook(&held.ingress), hook(&held.egress)],
            })
            .collect();
        match namespace::within(namespace, || look(namespace, &known, stages)) {
            Ok(found) => inspected.extend(found),
            // It has gone, which is not for here to find out.
            Err(LiveError::Namespace { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(inspected)
}

/// Looks at interfaces of the calling thread's namespace.
fn look(
    namespace: Option<&str>,
    known: &[Known],
    stages: [Option<u32>; 2],
) -> Result<Vec<(u32, [Chain; 2])>, LiveError> {
    let failed = |source| LiveError::Links {
        namespace: namespace.unwrap_or("the daemon's own").to_owned(),
        source,
    };
    let socket = Socket::open().map_err(failed)?;
    let interfaces = links::list(&socket).map_err(failed)?;
    let mut found = Vec::new();
    for Known { point, ifindex, trackers } in known {
        let Some(interface) = interfaces.iter().find(|it| it.ifindex == *ifindex) else { continue };
        let mut chains = [Chain::default(), Chain::default()];
        for (number, direction) in [Direction::Ingress, Direction::Egress].into_iter().enumerate() {
            let Some(tracker) = &trackers[number] else { continue };
            let ours = chain::Ours { tracker, stage: stages[number] };
            chains[number] = chain::look(&socket, interface, direction, ours).map_err(failed)?;
        }
        found.push((*point, chains));
    }
    Ok(found)
}

/// The ids of the capture stage's programs, where they are loaded.
pub(super) fn stage_ids(objects: &Objects) -> [Option<u32>; 2] {
    [program::CAPTURE_INGRESS, program::CAPTURE_EGRESS].map(|name| {
        let loaded = objects.tc.program(name)?.info().ok()?;
        Some(loaded.id())
    })
}
