//! What the shared maps are made like: by the objects of this build, and as they are found pinned. Never opens a
//! pinned program as if it were a map.

use std::{
    fs, io,
    os::{
        fd::{AsFd as _, AsRawFd as _},
        unix::fs::MetadataExt as _,
    },
    path::Path,
};

use aya::maps::MapData;
use datapath::layout::Meta;

use crate::live::{
    LiveError, MapSizes,
    attach::{errno, forbidden},
    objects::{self, Object},
    pinned::failed,
};

/// Maps that the objects of all namespaces share, by the names of their pins.
pub(in crate::live) const SHARED: [&str; 32] = [
    "META",
    "KEPT",
    "KEPT_RULES",
    "REGISTER",
    "FLOWS",
    "EMBRYONIC",
    "ENDED",
    "SERVICES",
    "SERVICE_RTT",
    "SERVICE_LAST",
    "FRAGMENTS",
    "TROUBLES",
    "EVENTS",
    "EVENT_HEADS",
    "HOOKS",
    "CAPTURE_CONFIG",
    "CAPTURE_WANTED",
    "CAPTURES",
    "CAPTURE_COUNTS",
    "CAPTURE_TOTALS",
    "CAPTURE_VIEWS",
    "CAPTURE_GAPS",
    "CAPTURE_SCRATCH",
    "RULES_CONFIG",
    "RULE_NETWORKS",
    "RULE_ADDRESSES",
    "RULE_PORT_CLASSES",
    "RULE_PORTS",
    "RULE_PROTOCOLS",
    "RULE_HOOKS",
    "RULE_ACTIONS",
    "UNTRACKED",
];

/// How a map is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::live) struct Shape {
    pub(in crate::live) name: String,
    /// `enum bpf_map_type`.
    pub(in crate::live) kind: u32,
    pub(in crate::live) key: u32,
    pub(in crate::live) value: u32,
    pub(in crate::live) entries: u32,
    pub(in crate::live) flags: u32,
}

/// What is found where a map is expected.
#[derive(Debug)]
pub(in crate::live) enum Found {
    /// Nothing.
    Nothing,
    /// What is not to be used, and why.
    Unusable(String),
    /// A map of ours.
    Map(Box<MapData>, Shape),
}

impl Shape {
    fn of(name: &str, map: &MapData) -> Result<Self, aya::maps::MapError> {
        let info = map.info()?;
        Ok(Self {
            name: name.to_owned(),
            kind: info.map_type()? as u32,
            key: info.key_size(),
            value: info.value_size(),
            entries: info.max_entries(),
            flags: info.map_flags(),
        })
    }

    /// A new map of this shape, which is pinned nowhere.
    pub(in crate::live) fn create(&self) -> Result<MapData, aya::maps::MapError> {
        let Self { kind, key, value, entries, flags, .. } = *self;
        let map = aya_obj::Map::new_from_params(kind, key, value, entries, flags);
        MapData::create(map, &self.name, None)
    }

    /// Looks at what is pinned in its place.
    pub(in crate::live) fn look(&self, pin: &Path) -> Result<Found, LiveError> {
        let found = match fs::symlink_metadata(pin) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(Found::Nothing);
            }
            other => other.map_err(|source| failed("look at", pin, source))?,
        };
        let owner = found.uid();
        if !found.is_file() {
            return Ok(Found::Unusable("is no pin".to_owned()));
        }
        if owner != 0 && owner != nix::unistd::geteuid().as_raw() {
            return Ok(Found::Unusable(format!("is owned by the user {owner}")));
        }
        if found.mode() & 0o022 != 0 {
            return Ok(Found::Unusable("can be opened by other users".to_owned()));
        }
        // Whatever is pinned can be opened: a program too, whose information would be taken for a map's.
        let map = match MapData::from_pin(pin) {
            Ok(map) => map,
            Err(error) => match errno(&error) {
                Some(libc::EPERM) => return Err(forbidden(format!("open `{}`", pin.display()))),
                None | Some(libc::EACCES | libc::EINVAL) => {
                    return Ok(Found::Unusable("is no map".to_owned()));
                }
                // Nothing is known about it, and it may be well.
                Some(errno) => {
                    return Err(failed("open", pin, io::Error::from_raw_os_error(errno)));
                }
            },
        };
        let fd = format!("/proc/self/fd/{}", map.fd().as_fd().as_raw_fd());
        let kind = fs::read_link(&fd).map_err(|source| failed("read", Path::new(&fd), source))?;
        if !kind.to_string_lossy().contains("bpf-map") {
            return Ok(Found::Unusable("is no map".to_owned()));
        }
        Ok(match Self::of(&self.name, &map) {
            Ok(shape) => Found::Map(Box::new(map), shape),
            Err(_) => Found::Unusable("is a map of a kind that is not known".to_owned()),
        })
    }

    /// In what another map cannot stand for this one, whatever their capacities.
    pub(in crate::live) fn difference(&self, found: &Self) -> Option<String> {
        let kinds = [self, found].map(|shape| kind_name(shape.kind));
        let numbers = [
            ("keys of", "bytes", self.key, found.key),
            ("values of", "bytes", self.value, found.value),
            ("the flags", "", self.flags, found.flags),
        ];
        if self.kind != found.kind {
            let [ours, theirs] = kinds;
            return Some(format!("is of the kind {theirs} instead of {ours}"));
        }
        let (what, unit, ours, theirs) =
            numbers.into_iter().find(|(_, _, ours, theirs)| ours != theirs)?;
        Some(format!("has {what} {theirs} {unit} instead of {ours}"))
    }
}

/// The kinds that are in use, as bpftool calls them.
pub(in crate::live) fn kind_name(kind: u32) -> String {
    let name = match kind {
        1 => "hash",
        2 => "array",
        3 => "prog_array",
        5 => "percpu_hash",
        6 => "percpu_array",
        9 => "lru_hash",
        11 => "lpm_trie",
        27 => "ringbuf",
        _ => return format!("number {kind}"),
    };
    name.to_owned()
}

/// The shared maps as the objects say.
fn of_objects() -> Result<Vec<Shape>, LiveError> {
    let mut maps = std::collections::HashMap::new();
    for object in [Object::Tc, Object::Xdp] {
        let parsed = aya_obj::Object::parse(object.bytes()?)
            .map_err(|source| LiveError::Load { object: object.name(), source: source.into() })?;
        maps.extend(parsed.maps);
    }
    let shape = |name: &'static str| {
        let map = maps.get(name).ok_or(LiveError::Missing(name))?;
        Ok(Shape {
            name: name.to_owned(),
            kind: map.map_type(),
            key: map.key_size(),
            value: map.value_size(),
            entries: map.max_entries(),
            flags: map.map_flags(),
        })
    };
    SHARED.into_iter().map(shape).collect()
}

/// The shared maps as this build makes them, with these capacities.
pub(in crate::live) fn expected(sizes: MapSizes) -> Result<Vec<Shape>, LiveError> {
    let mut shapes = of_objects()?;
    for (name, entries) in objects::capacities(sizes)? {
        if let Some(shape) = shapes.iter_mut().find(|shape| shape.name == name) {
            shape.entries = entries;
        }
    }
    Ok(shapes)
}

/// The layout of this build as a document, for whoever compares builds: capacities are the objects' own.
pub fn describe() -> Result<serde_json::Value, LiveError> {
    let maps: Vec<_> = of_objects()?
        .into_iter()
        .map(|shape| {
            serde_json::json!({
                "name": shape.name,
                "kind": kind_name(shape.kind),
                "key": shape.key,
                "value": shape.value,
                "entries": shape.entries,
                "flags": shape.flags,
            })
        })
        .collect();
    Ok(serde_json::json!({
        "abi_version": Meta::OURS.abi_version,
        "layout_hash": format!("{:016x}", Meta::OURS.layout_hash),
        "maps": maps,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape() -> Shape {
        Shape { name: "FLOWS".into(), kind: 9, key: 48, value: 800, entries: 100, flags: 0 }
    }

    #[test]
    fn capacity_is_no_difference_and_everything_else_is() {
        let ours = shape();
        assert_eq!(ours.difference(&Shape { entries: 7, ..shape() }), None);
        for (found, says) in [
            (Shape { kind: 1, ..shape() }, "kind hash instead of lru_hash"),
            (Shape { key: 40, ..shape() }, "keys of 40 bytes instead of 48"),
            (Shape { value: 808, ..shape() }, "values of 808 bytes instead of 800"),
            (Shape { flags: 1, ..shape() }, "flags 1"),
        ] {
            let difference = ours.difference(&found).unwrap();
            assert!(difference.contains(says), "{difference}");
        }
    }
}
