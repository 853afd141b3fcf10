//! What the attacher hands to a daemon that it has started: the descriptors of the tables, in some of which there is what
//! its predecessors kept. One message, before any verb; what is watched it asks for.

use std::{
    fs::File,
    io::{self, Read as _, Seek as _, Write as _},
    mem::MaybeUninit,
    net::TcpListener,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::Arc,
};

use aya::maps::{Map, MapData};
use rustix::{
    fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create},
    net::{
        RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
        SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
    },
};

use super::{
    Attacher, CaptureCounters, CaptureRings, EventLog, FlowMap, HookMap, Keeper, Kept, Kinship,
    LiveError, MapSizes, Server, ServiceMap, rings,
    wire::{self, MESSAGE_MAX, Reader, WireError, Writer},
};

/// The maps that a daemon uses, in the order in which their descriptors are sent.
pub(super) const MAPS: [&str; 12] = [
    "EMBRYONIC",
    "FLOWS",
    "ENDED",
    "SERVICES",
    "SERVICE_RTT",
    "HOOKS",
    "CAPTURE_TOTALS",
    "CAPTURE_COUNTS",
    "EVENTS",
    "EVENT_HEADS",
    "KEPT",
    "KEPT_RULES",
];
/// With the configuration and the listener.
const DESCRIPTORS: usize = MAPS.len() + 2;
/// Rings of each message that follows, until those of all CPUs have been sent: the kernel takes 253 (`SCM_MAX_FD`).
const RINGS_MAX: usize = 64;
/// Most of all, for whoever reads the number.
const CPUS_MAX: u32 = 8_192;

/// What a daemon starts with.
#[derive(Debug)]
pub struct Handover {
    /// The text of the configuration file, as it was when the attacher started.
    pub config: String,
    /// Where HTTP is served.
    pub listener: TcpListener,
    /// Figures to go on from, and where to keep them.
    pub keeper: Keeper,
    /// The tables.
    pub tables: Tables,
    /// What the next attacher has to have in common with this daemon.
    pub kinship: Kinship,
}

/// The tables' descriptors.
#[derive(Debug)]
pub struct Tables {
    /// Flows.
    pub flows: FlowMap,
    /// Counters.
    pub hooks: HookMap,
    /// Round trips by service.
    pub services: ServiceMap,
    /// Captured packets.
    pub rings: CaptureRings,
    /// What the stage counts for each capture.
    pub counters: Arc<CaptureCounters>,
    /// Flagged segments.
    pub events: EventLog,
}

/// What the attacher has to hand over, whichever daemon it is for.
#[derive(Debug)]
pub struct Estate {
    config: File,
    maps: Vec<MapData>,
    rings: Vec<MapData>,
    sizes: MapSizes,
    kinship: Kinship,
}

impl Estate {
    /// Collects it.
    pub fn new(attacher: &Attacher, config: &str, since_ns: u64) -> Result<Self, LiveError> {
        let failed = |source| LiveError::File { what: "make", path: "memory".into(), source };
        let mut text = memory("linnet-config").map_err(failed)?;
        text.write_all(config.as_bytes()).map_err(failed)?;
        // A daemon reads it before it gives its privileges up: no daemon before may have written it.
        seal(&text).map_err(failed)?;
        let keep = |source| LiveError::Syscall { call: "bpf", map: "KEPT", source };
        attacher.keeper()?.begin(Kept { since_ns, ..Kept::default() }).map_err(keep)?;
        let maps: Vec<_> =
            MAPS.map(|name| attacher.shared(name)).into_iter().collect::<Result<_, _>>()?;
        let rings: Result<Vec<_>, _> = (0..attacher.cpus()).map(|cpu| attacher.ring(cpu)).collect();
        let rings = rings?;
        let kinship = kinship(config, &maps, &rings)?;
        Ok(Self { config: text, maps, rings, sizes: attacher.sizes(), kinship })
    }

    /// What a daemon that lives on has to have in common with this attacher.
    #[must_use]
    pub const fn kinship(&self) -> &Kinship {
        &self.kinship
    }

    /// Sends it as the first message to a daemon, with the address for HTTP.
    pub fn hand_over(&self, to: &Server, listener: &TcpListener) -> Result<(), LiveError> {
        let message = wire::message(0, |writer| {
            self.put(writer);
            Ok(())
        })?;
        let mut descriptors = vec![self.config.as_fd(), listener.as_fd()];
        descriptors.extend(self.maps.iter().map(|map| map.fd().as_fd()));
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
        send(to, &message, &descriptors, &mut space)?;
        for rings in self.rings.chunks(RINGS_MAX) {
            let descriptors: Vec<_> = rings.iter().map(|map| map.fd().as_fd()).collect();
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(RINGS_MAX))];
            send(to, &wire::message(0, |_| Ok(()))?, &descriptors, &mut space)?;
        }
        Ok(())
    }

    fn put(&self, writer: &mut Writer) {
        let sizes = self.sizes;
        for size in [sizes.flows, sizes.embryonic, sizes.fragments, sizes.capture_ring_bytes] {
            writer.u32(size);
        }
        writer.u32(u32::try_from(self.rings.len()).unwrap_or(u32::MAX));
    }
}

fn send(
    to: &Server,
    message: &[u8],
    descriptors: &[BorrowedFd<'_>],
    space: &mut [MaybeUninit<u8>],
) -> Result<(), LiveError> {
    let mut along = SendAncillaryBuffer::new(space);
    along.push(SendAncillaryMessage::ScmRights(descriptors));
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    let sent = sendmsg(to, &[io::IoSlice::new(message)], &mut along, flags);
    sent.map(drop).map_err(|errno| LiveError::Attacher(errno.into()))
}

/// Reads one message and takes what was sent along.
fn receive<T>(
    socket: BorrowedFd<'_>,
    space: &mut [MaybeUninit<u8>],
    body: impl FnOnce(&mut Reader<'_>) -> Result<T, WireError>,
) -> Result<(T, Vec<OwnedFd>), LiveError> {
    let mut message = vec![0; MESSAGE_MAX];
    let mut along = RecvAncillaryBuffer::new(space);
    let mut into = [io::IoSliceMut::new(&mut message)];
    let received = recvmsg(socket, &mut into, &mut along, RecvFlags::CMSG_CLOEXEC)
        .map_err(|errno| LiveError::Attacher(errno.into()))?;
    let (_, value) = wire::read(&message[..received.bytes], body);
    let mut descriptors = Vec::new();
    for sent in along.drain() {
        if let RecvAncillaryMessage::ScmRights(sent) = sent {
            descriptors.extend(sent);
        }
    }
    Ok((value?, descriptors))
}

/// The message without its descriptors.
fn take_sizes(reader: &mut Reader<'_>) -> Result<(MapSizes, u32), WireError> {
    let sizes = MapSizes {
        flows: reader.u32()?,
        embryonic: reader.u32()?,
        fragments: reader.u32()?,
        capture_ring_bytes: reader.u32()?,
    };
    match reader.u32()? {
        cpus @ 1..=CPUS_MAX => Ok((sizes, cpus)),
        _ => Err(WireError::Value("number of CPUs")),
    }
}

impl Handover {
    /// Waits for it on the socket that this daemon was started with.
    pub fn receive(socket: BorrowedFd<'_>) -> Result<Self, LiveError> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
        let ((sizes, cpus), descriptors) = receive(socket, &mut space, take_sizes)?;
        let count = descriptors.len();
        let descriptors: [OwnedFd; DESCRIPTORS] =
            descriptors.try_into().map_err(|_| WireError::Descriptors(count))?;
        let [config, listener, maps @ ..] = descriptors;
        let failed = |source| LiveError::File { what: "read", path: "memory".into(), source };
        let config = read_text(config.into()).map_err(failed)?;
        let maps = opened(maps)?;
        let rings = receive_rings(socket, cpus as usize)?;
        let kinship = kinship(&config, &maps, &rings)?;
        let (tables, keeper) = tables(maps, rings, sizes)?;
        Ok(Self { config, listener: listener.into(), keeper, tables, kinship })
    }
}

/// All of a file, from its start: its position is shared with every daemon before.
pub(super) fn read_text(mut file: File) -> io::Result<String> {
    let mut text = String::new();
    file.rewind()?;
    file.read_to_string(&mut text)?;
    Ok(text)
}

/// The rings of all CPUs, which come in messages of their own.
fn receive_rings(socket: BorrowedFd<'_>, cpus: usize) -> Result<Vec<MapData>, LiveError> {
    let mut rings = Vec::new();
    while rings.len() < cpus {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(RINGS_MAX))];
        let ((), descriptors) = receive(socket, &mut space, |_| Ok(()))?;
        if descriptors.is_empty() || rings.len() + descriptors.len() > cpus {
            return Err(WireError::Descriptors(descriptors.len()).into());
        }
        for descriptor in descriptors {
            let failed = |source| LiveError::Map { name: rings::NAME, source };
            rings.push(MapData::from_fd(descriptor).map_err(failed)?);
        }
    }
    Ok(rings)
}

fn kinship(config: &str, maps: &[MapData], rings: &[MapData]) -> Result<Kinship, LiveError> {
    let id = |map: &MapData, name| {
        map.info().map(|info| info.id()).map_err(|source| LiveError::Map { name, source })
    };
    let mut ids = [0; MAPS.len()];
    for (known, (map, name)) in ids.iter_mut().zip(maps.iter().zip(MAPS)) {
        *known = id(map, name)?;
    }
    let rings: Result<Vec<_>, _> = rings.iter().map(|ring| id(ring, rings::NAME)).collect();
    Kinship::new(config, ids, &rings?).map_err(|source| LiveError::File {
        what: "look at",
        path: "/proc/self/exe".into(),
        source,
    })
}

/// The maps behind the descriptors.
fn opened(descriptors: [OwnedFd; MAPS.len()]) -> Result<[MapData; MAPS.len()], LiveError> {
    let mut opened = Vec::new();
    for (name, descriptor) in MAPS.into_iter().zip(descriptors) {
        let map = MapData::from_fd(descriptor);
        opened.push(map.map_err(|source| LiveError::Map { name, source })?);
    }
    opened.try_into().map_err(|_| LiveError::Missing("map"))
}

fn tables(
    maps: [MapData; MAPS.len()],
    rings: Vec<MapData>,
    sizes: MapSizes,
) -> Result<(Tables, Keeper), LiveError> {
    let [
        embryonic,
        flows,
        ended,
        services,
        round_trips,
        hooks,
        totals,
        counts,
        events,
        heads,
        kept,
        kept_rules,
    ] = maps;
    let mut rings = CaptureRings::new(rings, totals)?;
    rings.take_over()?;
    let tables = Tables {
        flows: FlowMap::new(embryonic, flows, ended, sizes),
        hooks: HookMap::new(Map::PerCpuArray(hooks))?,
        services: ServiceMap::new(services, Map::PerCpuArray(round_trips))?,
        rings,
        counters: Arc::new(CaptureCounters::new(counts)?),
        events: EventLog::new(&events, &heads)?,
    };
    Ok((tables, Keeper::new(kept, kept_rules)))
}

/// Memory as a file without a name.
pub(super) fn memory(name: &str) -> io::Result<File> {
    Ok(memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?.into())
}

/// Lets nobody change it any more.
pub(super) fn seal(file: &File) -> io::Result<()> {
    let all = SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL;
    Ok(fcntl_add_seals(file, all)?)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt as _;

    use super::*;

    #[test]
    fn what_is_sealed_stays_as_it_is() {
        let file = memory("test").unwrap();
        file.write_all_at(b"mine", 0).unwrap();
        seal(&file).unwrap();
        assert!(file.write_all_at(b"yours", 0).is_err() && file.set_len(0).is_err());
    }
}
