//! Sentences about interfaces that are not watched as they should be, for people who look at the status. Each says what
//! is not counted because of it.

use std::collections::{BTreeMap, BTreeSet};

use crate::live::{
    ChainLink, OnDisplaced, WatchRequest, WatchedPoint, chain::Chain, links::Interface, process,
    wanted,
};

/// Longest list, and longest sentence in bytes; what is beyond is cut.
pub(in crate::live) const NOTICES_MAX: usize = 16;
pub(in crate::live) const NOTICE_MAX: usize = 1_024;

/// Of programs that were taken off their hooks, or have others before them.
pub(in crate::live) fn of_hooks(points: &[WatchedPoint], on_displaced: OnDisplaced) -> Vec<String> {
    let mut notices = Vec::new();
    for watched in points.iter().filter(|watched| !watched.gone) {
        let name = watched.point.request.to_string();
        for (way, chain) in ["ingress", "egress"].iter().zip(&watched.chains) {
            if chain.displaced {
                notices.push(displaced(way, &name, on_displaced));
            }
            let mut others = foreign(chain);
            if let Some(first) = others.next() {
                notices.push(before(way, &name, first, others.count()));
            }
        }
    }
    notices
}

/// Of captures that miss their program in some directions, by observation point.
pub(in crate::live) fn of_stages(
    points: &[WatchedPoint],
    lost: &BTreeMap<u32, [bool; 2]>,
    on_displaced: OnDisplaced,
) -> Vec<String> {
    let then = match on_displaced {
        OnDisplaced::Reattach => "it is attached again after a while",
        OnDisplaced::Yield => {
            "on_displaced is yield, so that it stays off until the next capture starts"
        }
    };
    let mut notices = Vec::new();
    for watched in points.iter().filter(|watched| !watched.gone) {
        let Some(lost) = lost.get(&watched.point.attached.point) else { continue };
        let name = &watched.point.request;
        let ways = ["ingress", "egress"].iter().zip(lost).filter(|(_, lost)| **lost);
        notices.extend(ways.map(|(way, _)| {
            format!(
                "another tool has taken the capture stage off the {way} of `{name}`: the capture that runs does not get its packets; {then}"
            )
        }));
    }
    notices
}

/// Others that packets meet before linnet.
fn foreign(chain: &Chain) -> impl Iterator<Item = &ChainLink> {
    chain.before_us().filter(|link| !link.ours)
}

fn displaced(way: &str, name: &str, on_displaced: OnDisplaced) -> String {
    let then = match on_displaced {
        OnDisplaced::Reattach => "it is attached again after a while",
        OnDisplaced::Yield => {
            "on_displaced is yield, so that it stays off until the interface comes back or linnet is restarted"
        }
    };
    format!(
        "another tool has taken linnet off the {way} of `{name}`: nothing is counted there; {then}"
    )
}

/// Whoever comes first decides for all behind: also a packet that he passes on by himself (TCX_PASS, TC_ACT_OK) is one
/// that nobody behind him is asked about.
fn before(way: &str, name: &str, link: &ChainLink, more: usize) -> String {
    let (hook, program) = (link.hook, link.name.as_deref().unwrap_or("a program"));
    let id = link.program_id.map(|id| format!(" (program {id})")).unwrap_or_default();
    let fates = match hook {
        "xdp" => "that it drops or redirects",
        _ => "that it drops, redirects or passes on by itself (TC_ACT_OK)",
    };
    let more = if more > 0 { format!(", and {more} more behind it") } else { String::new() };
    format!(
        "`{program}`{id} on {hook} comes before linnet on the {way} of `{name}`{more}: packets {fates} do not reach linnet and are not counted"
    )
}

/// Of interfaces that were named and are not there.
pub(in crate::live) fn of_missing(
    points: &[WatchedPoint],
    requests: &[WatchRequest],
) -> Vec<String> {
    let is_missing = |request: &&WatchRequest| {
        let is_it = |watched: &WatchedPoint| {
            let interface = Interface {
                ifindex: watched.point.attached.ifindex,
                name: watched.point.request.interface.clone().into_bytes(),
                ..Interface::default()
            };
            let namespace = watched.point.request.namespace.as_deref();
            let only = std::slice::from_ref(*request);
            !watched.gone && wanted::choose(only, namespace, &interface, true).is_some()
        };
        request.is_of_one() && ended(request).is_none() && !points.iter().any(is_it)
    };
    let missing = requests.iter().filter(is_missing);
    missing
        .map(|request| {
            format!("the interface `{request}` is not there; it is watched as soon as it is")
        })
        .collect()
}

/// Of namespaces whose processes have ended.
pub(in crate::live) fn of_ended(requests: &[WatchRequest]) -> Vec<String> {
    let pids: BTreeSet<_> = requests.iter().filter_map(ended).collect();
    let notice = |pid| {
        format!(
            "the process {pid} has ended, so that the namespace `pid:{pid}` is not watched any more: name another process, and restart linnet"
        )
    };
    pids.into_iter().map(notice).collect()
}

/// The process of a request's namespace, where it has ended.
fn ended(request: &WatchRequest) -> Option<i32> {
    let pid = request.namespace.as_deref().and_then(process::pid_of)?;
    process::is_known_to_have_ended(pid).then_some(pid)
}

/// As many as fit.
pub(in crate::live) fn bounded(mut notices: Vec<String>) -> Vec<String> {
    if notices.len() > NOTICES_MAX {
        let more = notices.split_off(NOTICES_MAX - 1).len();
        notices.push(format!("{more} more sentences about interfaces; the log has each"));
    }
    for notice in &mut notices {
        notice.truncate(notice.floor_char_boundary(NOTICE_MAX));
    }
    notices
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_comes_before_linnet_is_named_and_linnet_is_not() {
        let link = |name: &str, ours| ChainLink {
            hook: "tcx",
            program_id: Some(7),
            name: Some(name.to_owned()),
            ours,
        };
        let chain = |links: Vec<ChainLink>| Chain { links, displaced: false };
        let first = chain(vec![link("theirs", false), link("linnet", true), link("late", false)]);
        let text = before("ingress", "eth0", foreign(&first).next().unwrap(), 2);
        assert!(text.contains("`theirs` (program 7) on tcx comes before linnet"), "{text}");
        assert!(text.contains("`eth0`, and 2 more behind it: packets that it drops"), "{text}");
        assert_eq!(foreign(&chain(vec![link("linnet", true), link("late", false)])).count(), 0);
        // Where linnet is off, nobody is before it.
        assert_eq!(foreign(&chain(vec![link("theirs", false)])).count(), 0);
    }

    #[test]
    fn a_long_list_says_how_much_longer_it_is() {
        let many = (0..40).map(|number| number.to_string()).collect();
        let notices = bounded(many);
        assert_eq!(
            (notices.len(), &*notices[15]),
            (16, "25 more sentences about interfaces; the log has each")
        );
    }
}
