//! Links as pins, so that programs stay on their hooks when the attacher dies and its successor puts its own in their
//! place, in one step that no packet falls through. A pin's name is `POINT-DIRECTION-HOOK`. Must never use a pin whose
//! link is not on the interface that it is for.

use std::{
    collections::BTreeSet,
    fs, io,
    os::fd::AsRawFd as _,
    path::{Path, PathBuf},
};

use aya::programs::links::{FdLink, LinkError, PinnedLink};
use datapath::Direction;

use crate::live::{
    LiveError, batch,
    holders::{self, field},
    pinned::{failed, make_folder},
    verb::Hook,
};

/// A pin of ours; removed when dropped.
#[derive(Debug)]
pub(in crate::live) struct Pin(PathBuf);

impl Pin {
    /// Leaves it to a successor.
    pub(in crate::live) fn leave(mut self) {
        self.0 = PathBuf::new();
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        if !self.0.as_os_str().is_empty() {
            remove(&self.0);
        }
    }
}

fn remove(pin: &Path) {
    match fs::remove_file(pin) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(%error, pin = %pin.display(), "a link stays pinned");
        }
        Ok(()) | Err(_) => {}
    }
}

/// The pins of one observation point.
#[derive(Clone, Debug)]
pub(in crate::live) struct LinkPins {
    folder: PathBuf,
    point: u32,
}

impl LinkPins {
    /// In the folder of all of them.
    pub(in crate::live) fn of(folder: &Path, point: u32) -> Self {
        Self { folder: folder.to_owned(), point }
    }

    fn path(&self, direction: Direction, hook: Hook) -> PathBuf {
        let way = match direction {
            Direction::Ingress => "ingress",
            Direction::Egress => "egress",
        };
        self.folder.join(format!("{}-{way}-{hook}", self.point))
    }

    /// The link that a predecessor left here, if it is on that interface. Another one is removed.
    pub(in crate::live) fn take(
        &self,
        direction: Direction,
        hook: Hook,
        ifindex: u32,
    ) -> Option<FdLink> {
        let path = self.path(direction, hook);
        let kind = match hook {
            Hook::Xdp | Hook::XdpGeneric => "xdp",
            Hook::Tcx => "tcx",
            Hook::Clsact => return None,
        };
        match look(&path) {
            Ok(found) if found.kind == kind && found.ifindex == ifindex => {
                PinnedLink::from_pin(&path).ok().map(FdLink::from)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            found => {
                tracing::info!(?found, pin = %path.display(), "a pinned link is of no use any more");
                remove(&path);
                None
            }
        }
    }

    /// Pins a link, unless it is pinned here already.
    pub(in crate::live) fn pin<L>(
        &self,
        direction: Direction,
        hook: Hook,
        link: L,
    ) -> Result<(L, Pin), LiveError>
    where
        FdLink: TryFrom<L, Error = LinkError> + TryInto<L, Error = LinkError>,
    {
        make_folder(&self.folder)?;
        let path = self.path(direction, hook);
        if path.exists() {
            return Ok((link, Pin(path)));
        }
        let failed = |source| LiveError::PinLink { path: path.clone(), source };
        let link = FdLink::try_from(link).map_err(|error| failed(Box::new(error)))?;
        let pinned = FdLink::from(link.pin(&path).map_err(|error| failed(Box::new(error)))?);
        let link = pinned.try_into().map_err(|error| failed(Box::new(error)))?;
        Ok((link, Pin(path)))
    }

    /// Takes what a predecessor left on these hooks of a direction off; after this another program can be there.
    pub(in crate::live) fn clear(&self, direction: Direction, hooks: impl Iterator<Item = Hook>) {
        hooks.for_each(|hook| {
            let path = self.path(direction, hook);
            detach(&path);
            remove(&path);
        });
    }
}

/// Takes the program of a pinned link off its hook. A link whose last pin goes is let go some time later.
fn detach(pin: &Path) {
    /// `BPF_LINK_DETACH` (include/uapi/linux/bpf.h).
    const LINK_DETACH: libc::c_int = 34;
    let Ok(link) = holders::open(pin) else { return };
    if let Err(error) = batch::bpf(LINK_DETACH, &mut [link.as_raw_fd()]) {
        tracing::debug!(%error, pin = %pin.display(), "a link is taken off by removing its pin");
    }
}

/// What a pinned link is, by the kernel's account.
#[derive(Debug, PartialEq, Eq)]
struct Found {
    kind: String,
    /// 0 where its interface has gone.
    ifindex: u32,
}

fn look(path: &Path) -> io::Result<Found> {
    holders::account_of(path).map(|account| parse(&account))
}

/// Of what is no link, nothing.
fn parse(account: &str) -> Found {
    let ifindex = field(account, "ifindex").parse().unwrap_or(0);
    Found { kind: field(account, "link_type").to_owned(), ifindex }
}

/// The observation point of a pin by its name.
fn point_of(pin: &Path) -> Option<u32> {
    let (point, rest) = pin.file_name()?.to_str()?.split_once('-')?;
    let (way, hook) = rest.split_once('-')?;
    let is_ours =
        matches!(way, "ingress" | "egress") && matches!(hook, "xdp" | "xdp-generic" | "tcx");
    point.parse().ok().filter(|_| is_ours)
}

fn pins(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).filter(|pin| point_of(pin).is_some()).collect()
}

/// Removes all pins but those of these points; returns how many. The folder goes when it is empty.
pub(in crate::live) fn clear(folder: &Path, but: &BTreeSet<u32>) -> Result<usize, LiveError> {
    let mut removed = 0;
    for pin in pins(folder) {
        if point_of(&pin).is_some_and(|point| but.contains(&point)) {
            continue;
        }
        match fs::remove_file(&pin) {
            Ok(()) => removed += 1,
            // A folder is nothing of linnet's.
            Err(_) if pin.is_dir() => {}
            Err(source) => return Err(failed("remove", &pin, source)),
        }
    }
    // What is in it now is in use, or nothing of linnet's.
    let _kept = fs::remove_dir(folder);
    Ok(removed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pin_is_known_by_its_name() {
        let pins = LinkPins::of(Path::new("/x"), 7);
        for (direction, hook, name) in [
            (Direction::Ingress, Hook::XdpGeneric, "/x/7-ingress-xdp-generic"),
            (Direction::Egress, Hook::Tcx, "/x/7-egress-tcx"),
        ] {
            assert_eq!(pins.path(direction, hook), Path::new(name));
            assert_eq!(point_of(Path::new(name)), Some(7));
        }
        for other in ["7", "7-ingress", "x-ingress-tcx", "7-sideways-tcx", "7-ingress-clsact"] {
            assert_eq!(point_of(Path::new(other)), None, "{other}");
        }
    }

    #[test]
    fn the_kernels_account_of_a_link_is_read() {
        let tcx = "pos:\t0\nlink_type:\ttcx\nlink_id:\t9\nifindex:\t7\nattach_type:\t46\n";
        assert_eq!(parse(tcx), Found { kind: "tcx".into(), ifindex: 7 });
        let map = "pos:\t0\nmap_type:\t1\nkey_size:\t4\n";
        assert_eq!(parse(map), Found { kind: String::new(), ifindex: 0 });
    }
}
