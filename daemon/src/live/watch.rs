//! Whether what linnet watches is still there, and what there is to watch. Needs no privilege in the own namespace.

use nix::{errno::Errno, net::if_};

use super::{AttachRequest, AttachedPoint, namespace};

/// Whether the interface still has the name and index that it had when linnet was attached.
#[must_use]
pub fn is_present(point: &AttachedPoint) -> bool {
    let request = &point.request;
    let look = || namespace::device(&request.interface);
    namespace::within(request.namespace.as_deref(), look)
        .is_ok_and(|device| device.ifindex == point.attached.ifindex)
}

/// What is watched when nothing is named.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Defaults {
    /// Every interface of this namespace that is up, but for loopback.
    pub requests: Vec<AttachRequest>,
    /// Those that are up and cannot be watched, each with its reason.
    pub skipped: Vec<String>,
}

/// Looks at every interface of this namespace. A name may be any bytes: it is never read as a specification.
pub fn defaults() -> Result<Defaults, Errno> {
    let mut found = Defaults::default();
    for interface in &if_::if_nameindex()? {
        // One that has gone meanwhile is not up.
        let Ok(flags) = namespace::flags(interface.name()) else { continue };
        if !flags.contains(if_::InterfaceFlags::IFF_UP)
            || flags.contains(if_::InterfaceFlags::IFF_LOOPBACK)
        {
            continue;
        }
        let shown = interface.name().to_bytes().escape_ascii();
        match interface.name().to_str().ok().and_then(|name| AttachRequest::named(name).ok()) {
            Some(request) => found.requests.push(request),
            None => found.skipped.push(format!(
                "the interface `{shown}` is not watched: its name is no plain text; rename it with `ip link set`"
            )),
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use std::{ffi::OsStr, os::unix::ffi::OsStrExt as _, process::Command, thread};

    use nix::sched::{CloneFlags, unshare};

    use super::*;

    #[test]
    fn no_name_is_read_as_a_specification_or_stops_the_others() {
        if !nix::unistd::geteuid().is_root() {
            return;
        }
        let names: [&[u8]; 4] = [b"plain0", b"x,egress=off", b"z\xff\xfe", b"a\x1bb"];
        // The namespace ends with the thread.
        let found = thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            let ip = |args: &[&OsStr]| {
                assert!(Command::new("ip").args(args).status().unwrap().success())
            };
            for name in names.map(OsStr::from_bytes) {
                let [link, add, up] = ["link", "add", "up"].map(OsStr::new);
                let [set, kind, veth] = ["set", "type", "veth"].map(OsStr::new);
                ip(&[link, add, OsStr::new("name"), name, kind, veth]);
                ip(&[link, set, OsStr::new("dev"), name, up]);
            }
            defaults().unwrap()
        });
        let found = found.join().unwrap();
        let watched: Vec<_> = found.requests.iter().map(|it| it.interface.as_str()).collect();
        assert_eq!(watched, ["plain0", "x,egress=off"]);
        assert_eq!(found.requests[1].egress, super::super::EgressChoice::Auto);
        let skipped = found.skipped.concat();
        assert!(skipped.contains("`z\\xff\\xfe`") && skipped.contains("`a\\x1bb`"), "{skipped}");
    }
}
