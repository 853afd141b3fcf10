//! The kernel programs as built into this binary, or why they are not; and loading them.

use aya::{Ebpf, EbpfLoader, VerifierLogLevel, maps::MapData};
use datapath::layout::EVENTS_MAX;

use super::{LiveError, MapSizes, attach, layout::SHARED, pinned::PinDir};

mod built {
    //! Written by the build script.
    include!(concat!(env!("OUT_DIR"), "/objects.rs"));
}

/// One of the two objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Object {
    /// The XDP door.
    Xdp,
    /// The TC door.
    Tc,
}

impl Object {
    /// As in messages.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Xdp => "xdp",
            Self::Tc => "tc",
        }
    }

    /// The ELF file.
    pub fn bytes(self) -> Result<&'static [u8], LiveError> {
        let object = match self {
            Self::Xdp => built::XDP_OBJECT,
            Self::Tc => built::TC_OBJECT,
        };
        object.ok_or(LiveError::NotBuilt(built::NOT_BUILT_REASON))
    }
}

/// Maps whose capacity is configured, or the machine's.
const WITH_CAPACITY: [&str; 8] = [
    "FLOWS",
    "EMBRYONIC",
    "ENDED",
    "FRAGMENTS",
    "CAPTURE_RINGS",
    "CAPTURE_SCRATCH",
    "EVENTS",
    "EVENT_HEADS",
];

/// What those are made with.
pub(super) fn capacities(sizes: MapSizes) -> Result<[(&'static str, u32); 8], LiveError> {
    let cpus = cpus()?;
    let [flows, embryonic, ended, fragments, rings, scratch, events, heads] = WITH_CAPACITY;
    Ok([
        (flows, sizes.flows),
        (embryonic, sizes.embryonic),
        (ended, sizes.ended()),
        (fragments, sizes.fragments),
        (rings, cpus),
        (scratch, cpus),
        (events, cpus.saturating_mul(EVENTS_MAX)),
        (heads, cpus),
    ])
}

/// CPUs that there may be.
pub(super) fn cpus() -> Result<u32, LiveError> {
    let cpus = aya::util::nr_cpus().map_err(|(_, source)| LiveError::File {
        what: "read",
        path: "/sys/devices/system/cpu/possible".into(),
        source,
    })?;
    Ok(u32::try_from(cpus).unwrap_or(u32::MAX))
}

/// The name of a map whose capacity may differ from start to start.
pub(super) fn with_capacity(name: &str) -> Option<&'static str> {
    WITH_CAPACITY.into_iter().find(|it| *it == name)
}

/// Loads one with the maps that all namespaces share.
pub(super) fn load(object: Object, pins: &PinDir, sizes: MapSizes) -> Result<Ebpf, LiveError> {
    let mut loader = EbpfLoader::new();
    loader.verifier_log_level(VerifierLogLevel::STATS);
    for (name, entries) in capacities(sizes)? {
        loader.map_max_entries(name, entries);
    }
    for name in SHARED {
        loader.map_pin_path(name, pins.map(name));
    }
    let bytes = object.bytes()?;
    loader.load(bytes).map_err(|source| {
        if attach::is_forbidden(&source) {
            return attach::forbidden(format!("load the {} programs", object.name()));
        }
        LiveError::Load { object: object.name(), source }
    })
}

/// A map that all namespaces share.
pub(super) fn pinned(pins: &PinDir, name: &'static str) -> Result<MapData, LiveError> {
    MapData::from_pin(pins.map(name)).map_err(|source| LiveError::Map { name, source })
}

/// Why the programs are not in this binary; `None` where they are.
#[must_use]
pub fn not_built_reason() -> Option<&'static str> {
    built::TC_OBJECT.is_none().then_some(built::NOT_BUILT_REASON)
}
