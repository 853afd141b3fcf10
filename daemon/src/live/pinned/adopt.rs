//! What becomes of the maps that a predecessor left: adopted where they are what this build makes, replaced where only
//! their capacity differs, put aside where they are of another layout. A kill at any point leaves what the next start
//! handles. Must never use a map that differs, nor remove one that somebody may want to look at.
//!
//! The order of things is the safety: `META` is written when everything else is there, is what moves last, and is what
//! is removed first. So `META` with a value stands for a whole set of maps, and a folder `moving-*` for a set that is
//! half moved. A map of another capacity is complete before it takes the old one's name, in one step.

use std::{fs, os::fd::AsFd as _, path::Path};

use aya::maps::MapData;
use datapath::{
    FlowKey,
    layout::{EndedFlow, Meta},
};

use super::carry::{self, Carried};
use crate::clock::Clock;

use crate::live::{
    LiveError,
    batch::{self, BatchCursor},
    layout::{Found, Shape},
    objects,
    pinned::{self, Leave, PinDir, failed, make_folder},
};

const META: &str = "META";
/// How many differences a message has room for.
const DIFFERENCES_MAX: usize = 4;

/// What the pins are to this build.
enum Verdict {
    /// There are none.
    Fresh,
    /// A start that did not come to its end left some.
    Unfinished,
    /// Ours; those of another capacity.
    Ours(Vec<(&'static str, Shape, Box<MapData>)>),
    /// In what they differ.
    Different(Vec<String>),
}

/// Maps of another capacity that were replaced, into which the programs of an attacher that died still write.
#[derive(Debug, Default)]
pub(in crate::live) struct Outgrown {
    flows: Option<Box<MapData>>,
    embryonic: Option<Box<MapData>>,
    /// When they began to be copied.
    since_ns: u64,
}

impl Outgrown {
    /// Brings what moved at an observation point since they were copied; to be called just before other programs take the
    /// place of those that write to them.
    pub(in crate::live) fn carry_rest(&self, pins: &PinDir, point: u32) -> Result<(), LiveError> {
        let failed = |source| LiveError::Syscall { call: "copying elements", map: "FLOWS", source };
        let since_ns = self.since_ns;
        let embryonic = objects::pinned(pins, "EMBRYONIC")?;
        if let Some(old) = &self.embryonic {
            carry::carry_rest(old, &embryonic, point, since_ns, |_| Ok(())).map_err(failed)?;
        }
        if let Some(old) = &self.flows {
            let flows = objects::pinned(pins, "FLOWS")?;
            // They may have grown since.
            let grown = |keys: &[FlowKey]| {
                keys.iter().try_for_each(|key| batch::remove(embryonic.fd().as_fd(), key))
            };
            carry::carry_rest(old, &flows, point, since_ns, grown).map_err(failed)?;
        }
        Ok(())
    }

    fn keep(&mut self, name: &str, old: Box<MapData>) {
        match name {
            "FLOWS" => self.flows = Some(old),
            "EMBRYONIC" => self.embryonic = Some(old),
            _ => {}
        }
    }
}

/// Leaves in the folder only what this build can go on from.
pub(in crate::live) fn adopt(
    pins: &mut PinDir,
    expected: &[Shape],
    clock: &Clock,
) -> Result<Outgrown, LiveError> {
    let now_s = clock.wall_ns() / 1_000_000_000;
    let mut outgrown = Outgrown { since_ns: clock.monotonic_ns(), ..Outgrown::default() };
    pinned::remove_folders(pins.path(), pinned::is_staging)?;
    if let Some(moving) = pinned::folders(pins.path(), pinned::is_moving)?.pop() {
        let backup = finish_moving(pins.path(), &moving)?;
        tracing::info!(backup = %backup.display(), "put the rest of the earlier maps aside");
    }
    // What is no file cannot be replaced, and is nothing of linnet's.
    for shape in expected {
        if pins.path().join(&shape.name).is_dir() {
            let problem = format!("`{}` in it is a folder; remove that", shape.name);
            return Err(LiveError::PinFolder { path: pins.path().to_owned(), problem });
        }
    }
    match examine(pins, expected)? {
        Verdict::Fresh => {
            pins.clear_hooks()?;
            pins.leave(Leave::Backups);
        }
        Verdict::Unfinished => {
            pins.clear_hooks()?;
            let removed = pinned::remove_pins(pins.path())?;
            tracing::info!(removed, "removed the maps of a start that was not finished");
            pins.leave(Leave::Backups);
        }
        Verdict::Ours(resized) => {
            for (name, shape, old) in resized {
                replace(pins, name, &shape, &old)?;
                outgrown.keep(name, old);
            }
            tracing::info!(path = %pins.path().display(), "adopted the maps of an earlier run");
        }
        Verdict::Different(differences) => {
            pins.clear_hooks()?;
            let backup = put_aside(pins.path(), now_s)?;
            warn_of(&differences, &backup);
            pins.leave(Leave::Backups);
        }
    }
    Ok(outgrown)
}

fn examine(pins: &PinDir, expected: &[Shape]) -> Result<Verdict, LiveError> {
    let mut differences = Vec::new();
    let mut resized = Vec::new();
    let mut meta = None;
    let mut there = 0;
    for shape in expected {
        let name = &shape.name;
        let (map, found) = match shape.look(&pins.path().join(name))? {
            Found::Nothing => {
                differences.push(format!("`{name}` is missing"));
                continue;
            }
            Found::Unusable(why) => {
                there += 1;
                differences.push(format!("`{name}` {why}"));
                continue;
            }
            Found::Map(map, found) => (map, found),
        };
        there += 1;
        if let Some(difference) = shape.difference(&found) {
            differences.push(format!("`{name}` {difference}"));
        } else if name == META {
            meta = Some(read_meta(&map)?);
        } else if found.entries != shape.entries {
            let (ours, theirs) = (shape.entries, found.entries);
            match objects::with_capacity(name) {
                Some(name) => resized.push((name, shape.clone(), map)),
                None => {
                    differences.push(format!("`{name}` has {theirs} elements instead of {ours}"))
                }
            }
        }
    }
    let others = pinned::pinned(pins.path())?.len() - there;
    let has_meta = fs::symlink_metadata(pins.path().join(META)).is_ok();
    if there + others == 0 {
        return Ok(Verdict::Fresh);
    }
    if !has_meta || meta == Some(Meta::default()) {
        return Ok(Verdict::Unfinished);
    }
    if let Some(meta) = meta
        && meta != Meta::OURS
    {
        let (theirs, ours) = (meta.abi_version, Meta::OURS.abi_version);
        let [hash, our_hash] = [meta.layout_hash, Meta::OURS.layout_hash];
        let what = format!(
            "their layout is version {theirs} ({hash:016x}) and this linnet's is {ours} ({our_hash:016x})"
        );
        differences.insert(0, what);
    }
    Ok(if differences.is_empty() {
        Verdict::Ours(resized)
    } else {
        Verdict::Different(differences)
    })
}

/// What a map that has the shape of `META` says.
fn read_meta(map: &MapData) -> Result<Meta, LiveError> {
    let (mut keys, mut values) = ([0_u32], [Meta::default()]);
    let mut to = BatchCursor::default();
    batch::lookup_batch(map.fd().as_fd(), None, &mut to, &mut keys, &mut values)
        .map_err(|source| LiveError::Syscall { call: "BPF_MAP_LOOKUP_BATCH", map: META, source })?;
    let [meta] = values;
    Ok(meta)
}

/// Puts a map of the configured capacity in the place of one that has another. Flows are carried over; what is
/// short-lived, fragments and captured packets, is not.
fn replace(
    pins: &PinDir,
    name: &'static str,
    shape: &Shape,
    old: &MapData,
) -> Result<(), LiveError> {
    let broken = |source| LiveError::Map { name, source };
    let new = shape.create().map_err(broken)?;
    let room = shape.entries as usize;
    let carried = match name {
        "FLOWS" | "EMBRYONIC" => carry::carry::<FlowKey>(old, &new, room),
        "ENDED" => carry::carry::<EndedFlow>(old, &new, room),
        _ => Ok(Carried::default()),
    };
    let Carried { there, carried } = carried.map_err(|source| LiveError::Syscall {
        call: "copying elements",
        map: name,
        source,
    })?;
    let staging = pins.path().join(pinned::STAGING);
    make_folder(&staging)?;
    let (from, to) = (staging.join(name), pins.path().join(name));
    new.pin(&from).map_err(|source| LiveError::Map { name, source: pin_error(name, source) })?;
    fs::rename(&from, &to).map_err(|source| failed("replace", &to, source))?;
    fs::remove_dir(&staging).map_err(|source| failed("remove", &staging, source))?;
    tracing::info!(
        map = name,
        capacity = room,
        there,
        carried,
        "made a map of the configured capacity"
    );
    Ok(())
}

fn pin_error(name: &str, error: aya::pin::PinError) -> aya::maps::MapError {
    aya::maps::MapError::PinError { name: Some(name.to_owned()), error }
}

/// Moves every pin into a folder of its own, in place of an earlier backup; returns the folder.
fn put_aside(path: &Path, now_s: i64) -> Result<std::path::PathBuf, LiveError> {
    // It would be the memory of two sets of maps beside the one in use.
    pinned::remove_folders(path, pinned::is_backup)?;
    let moving = path.join(format!("{}{now_s}", pinned::MOVING));
    make_folder(&moving)?;
    finish_moving(path, &moving)
}

fn finish_moving(path: &Path, moving: &Path) -> Result<std::path::PathBuf, LiveError> {
    let mut pinned = pinned::pinned(path)?;
    // Last: until then the others are still of its set.
    pinned.sort_by_key(|name| name == META);
    for name in pinned {
        let from = path.join(&name);
        fs::rename(&from, moving.join(&name)).map_err(|source| failed("move", &from, source))?;
    }
    let name = moving.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let backup = path.join(name.replacen(pinned::MOVING, pinned::BACKUP, 1));
    fs::rename(moving, &backup).map_err(|source| failed("move", moving, source))?;
    Ok(backup)
}

fn warn_of(differences: &[String], backup: &Path) {
    let mut said = differences.iter().take(DIFFERENCES_MAX).cloned().collect::<Vec<_>>().join("; ");
    if let Some(more @ 1..) = differences.len().checked_sub(DIFFERENCES_MAX) {
        said = format!("{said}; and {more} more");
    }
    let backup = backup.display();
    tracing::warn!(
        "the pinned maps cannot be used, and counting begins anew: {said}. They are in `{backup}`, where `bpftool map dump pinned {backup}/FLOWS` shows them, until linnet is stopped, or `linnet detach` or `rm -r {backup}` removes them"
    );
}
