//! The kernel programs as built into this binary, or why they are not; and loading them.

use aya::{Ebpf, EbpfLoader, VerifierLogLevel, maps::MapData};

use super::{
    LiveError, MapSizes, attach,
    pins::{PinDir, SHARED},
};

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

/// Loads one with the maps that all namespaces share.
pub(super) fn load(object: Object, pins: &PinDir, sizes: MapSizes) -> Result<Ebpf, LiveError> {
    let cpus = aya::util::nr_cpus().map_err(|(_, source)| LiveError::File {
        what: "read",
        path: "/sys/devices/system/cpu/possible".into(),
        source,
    })?;
    let mut loader = EbpfLoader::new();
    loader
        .verifier_log_level(VerifierLogLevel::STATS)
        .map_max_entries("FLOWS", sizes.flows)
        .map_max_entries("EMBRYONIC", sizes.embryonic)
        .map_max_entries("ENDED", sizes.ended())
        .map_max_entries("FRAGMENTS", sizes.fragments)
        .map_max_entries("CAPTURE_RING", sizes.capture_ring_bytes)
        .map_max_entries("CAPTURE_SCRATCH", u32::try_from(cpus).unwrap_or(u32::MAX));
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
