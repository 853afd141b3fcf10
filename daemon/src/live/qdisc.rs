//! The clsact qdisc of an interface of the calling thread's namespace: what is in it, and removing it. Must never
//! remove one that a filter is in.

use std::io;

use datapath::Direction;

use super::netlink::{self, DUMP, Socket, WITH_ACK};

/// `clsact` as a handle, and where it hangs (include/uapi/linux/pkt_sched.h).
const CLSACT_HANDLE: u32 = 0xffff_0000;
const CLSACT_PARENT: u32 = 0xffff_fff1;
/// Its two directions, as parents of filters.
const INGRESS: u32 = 0xffff_fff2;
const EGRESS: u32 = 0xffff_fff3;
/// Bytes of `struct tcmsg`.
const TCMSG: usize = 20;
/// Attributes of filters: `TCA_KIND`, `TCA_OPTIONS`, `TCA_CHAIN`, `TCA_BPF_NAME`, `TCA_BPF_ID`.
const KIND: u16 = 1;
const OPTIONS: u16 = 2;
const CHAIN: u16 = 11;
const BPF_NAME: u16 = 7;
const BPF_ID: u16 = 11;

/// One filter, in the order in which packets meet them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Filter {
    /// 0, or of another chain, which packets only come to by an action of a filter before.
    pub(super) chain: u32,
    /// Priority, and the protocol that it is for.
    pub(super) place: u32,
    /// Its program's name, or what kind of filter it is.
    pub(super) name: String,
    /// Its program's id.
    pub(super) program_id: Option<u32>,
    /// What it is known by at its place.
    pub(super) handle: u32,
}

impl Filter {
    /// Of the same kind at the same place.
    fn is_beside(&self, other: &Self) -> bool {
        (self.chain, self.place, &self.name) == (other.chain, other.place, &other.name)
    }

    /// Those of a lower one come first.
    pub(super) const fn priority(&self) -> u16 {
        (self.place >> 16) as u16
    }
}

/// Removes the qdisc where no filter is in it, ours or another's; returns whether it did. An interface without one
/// has nothing to remove.
pub(super) fn remove_if_empty(ifindex: u32) -> io::Result<bool> {
    let socket = Socket::open()?;
    for direction in [Direction::Ingress, Direction::Egress] {
        if !filters(&socket, ifindex, direction)?.is_empty() {
            return Ok(false);
        }
    }
    let body = about(ifindex, CLSACT_HANDLE, CLSACT_PARENT);
    match socket.ask(&netlink::request(libc::RTM_DELQDISC, WITH_ACK, &body), |_, _| {}) {
        Ok(()) => Ok(true),
        // No such qdisc, or no such interface.
        Err(error)
            if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::EINVAL | libc::ENODEV)) =>
        {
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

/// The filters of a direction; none where there is no such qdisc or interface.
pub(super) fn filters(
    socket: &Socket,
    ifindex: u32,
    direction: Direction,
) -> io::Result<Vec<Filter>> {
    let parent = match direction {
        Direction::Ingress => INGRESS,
        Direction::Egress => EGRESS,
    };
    let mut filters: Vec<Filter> = Vec::new();
    let dump = netlink::request(libc::RTM_GETTFILTER, DUMP, &about(ifindex, 0, parent));
    socket.ask(&dump, |kind, body| {
        // Some kinds have tables, which come as filters of the same kind and place.
        if kind == libc::RTM_NEWTFILTER
            && let Some(filter) = filter(body)
            && (filter.program_id.is_some() || !filters.iter().any(|it| it.is_beside(&filter)))
        {
            filters.push(filter);
        }
    })?;
    filters.sort_by_key(|filter| (filter.chain, filter.priority()));
    Ok(filters)
}

fn filter(body: &[u8]) -> Option<Filter> {
    let (header, rest) = body.split_at_checked(TCMSG)?;
    let place = netlink::number(&header[16..])?;
    // Each place comes first, and then the filters there, which have handles.
    let handle = netlink::number(&header[8..])?;
    if handle == 0 {
        return None;
    }
    let (mut chain, mut name, mut program_id) = (0, String::new(), None);
    for (kind, value) in netlink::attributes(rest) {
        match kind {
            KIND => name = String::from_utf8_lossy(netlink::text(value)).into_owned(),
            CHAIN => chain = netlink::number(value)?,
            OPTIONS if name == "bpf" => {
                for (kind, value) in netlink::attributes(value) {
                    match kind {
                        BPF_NAME => {
                            name = String::from_utf8_lossy(netlink::text(value)).into_owned();
                        }
                        BPF_ID => program_id = netlink::number(value),
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    Some(Filter { chain, place, name, program_id, handle })
}

/// `struct tcmsg`.
fn about(ifindex: u32, handle: u32, parent: u32) -> Vec<u8> {
    // Family and padding.
    let mut bytes = vec![0; 4];
    for word in [ifindex, handle, parent, 0] {
        bytes.extend(word.to_ne_bytes());
    }
    bytes
}
