//! The interfaces of a namespace as rtnetlink lists them, and news of those that went. Needs no privilege.

use std::{collections::BTreeSet, io};

use crate::live::netlink::{self, DUMP, Socket};

/// Bytes of `struct ifinfomsg`.
const IFINFOMSG: usize = 16;
/// Attributes of links: `IFLA_IFNAME`, `IFLA_EXT_MASK`, `IFLA_XDP`, and in there `IFLA_XDP_PROG_ID` and those of the
/// driver's, the generic and the device's own program.
const NAME: u16 = 3;
const EXT_MASK: u16 = 29;
const XDP: u16 = 43;
const XDP_PROGRAMS: [u16; 4] = [4, 5, 6, 7];
/// `RTEXT_FILTER_SKIP_STATS`.
const SKIP_STATS: u32 = 8;
/// How often a list that changes while it is given is asked for again; then the last one counts, and the change is news.
const TRIES_MAX: usize = 5;

/// One interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::live) struct Interface {
    pub(in crate::live) ifindex: u32,
    /// Any bytes but a slash and blanks.
    pub(in crate::live) name: Vec<u8>,
    pub(in crate::live) up: bool,
    pub(in crate::live) loopback: bool,
    /// Programs on its XDP hooks.
    pub(in crate::live) xdp: BTreeSet<u32>,
}

impl Interface {
    /// Its name, if it is text.
    pub(in crate::live) fn name(&self) -> Option<&str> {
        std::str::from_utf8(&self.name).ok()
    }
}

/// Every interface of the socket's namespace.
pub(in crate::live) fn list(socket: &Socket) -> io::Result<Vec<Interface>> {
    let mut body = vec![0; IFINFOMSG];
    body.extend(8_u16.to_ne_bytes());
    body.extend(EXT_MASK.to_ne_bytes());
    body.extend(SKIP_STATS.to_ne_bytes());
    let request = netlink::request(libc::RTM_GETLINK, DUMP, &body);
    let mut found = Vec::new();
    for _ in 0..TRIES_MAX {
        found.clear();
        let asked = socket.ask(&request, |kind, body| {
            if kind == libc::RTM_NEWLINK {
                found.extend(interface(body));
            }
        });
        match asked {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => return other.map(|()| found),
        }
    }
    Ok(found)
}

/// What has happened to links since the last time: the indexes of those that went, and whether anything may have been
/// missed.
pub(in crate::live) fn gone(socket: &Socket) -> io::Result<(BTreeSet<u32>, bool)> {
    let mut gone = BTreeSet::new();
    let lost = socket.news(|kind, body| {
        // A port that leaves its bridge is news of another family.
        if kind == libc::RTM_DELLINK && body.first() == Some(&0) {
            gone.extend(body.get(4..).and_then(netlink::number));
        }
    })?;
    Ok((gone, lost))
}

fn interface(body: &[u8]) -> Option<Interface> {
    let (header, rest) = body.split_at_checked(IFINFOMSG)?;
    let flags = netlink::number(&header[8..])?;
    let is = |flag: libc::c_int| flags & flag.cast_unsigned() != 0;
    let mut found = Interface {
        ifindex: netlink::number(&header[4..])?,
        up: is(libc::IFF_UP),
        loopback: is(libc::IFF_LOOPBACK),
        ..Interface::default()
    };
    for (kind, value) in netlink::attributes(rest) {
        match kind {
            NAME => found.name = netlink::text(value).to_owned(),
            XDP => {
                let programs = netlink::attributes(value)
                    .filter(|(kind, _)| XDP_PROGRAMS.contains(kind))
                    .filter_map(|(_, value)| netlink::number(value));
                found.xdp.extend(programs.filter(|id| *id != 0));
            }
            _ => {}
        }
    }
    Some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_listed() {
        let found = list(&Socket::open().unwrap()).unwrap();
        let lo = found.iter().find(|interface| interface.name() == Some("lo")).unwrap();
        assert!(lo.loopback && lo.ifindex > 0, "{lo:?}");
    }
}
