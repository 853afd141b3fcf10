//! Writing rules into the kernel's tables: the next list beside the one in force, and then one byte that switches. A
//! program run never sees a part of a list.

use std::{
    io,
    os::fd::{AsFd as _, OwnedFd},
    thread,
    time::Duration,
};

use aya::{
    Ebpf,
    maps::{Map, MapData},
};
use datapath::{
    FlowKey,
    layout::{
        GENERATION_MAX, HOOKS_MAX, NetworkKey, RULE_ACTIONS_MAX, RULE_ADDRESS_CLASSES_MAX,
        RULE_PORT_CLASSES_MAX, RULE_PORT_WORDS, RULE_PROTOCOLS, RulesConfig, Untracked, set_of,
    },
    rules::Compiled,
};

use super::{
    LiveError,
    batch::{self, BatchCursor},
};

/// How long a program run may still use tables that are no longer in force, where the kernel does not say. It runs for
/// microseconds.
const RUN_MAX: Duration = Duration::from_millis(100);
/// Elements that are taken out of a table at a time.
const BATCH: usize = 1_024;

/// The kernel's tables of rules.
#[derive(Debug)]
pub struct RuleMaps {
    config: Table,
    networks: Table,
    addresses: Table,
    port_classes: Table,
    ports: Table,
    protocols: Table,
    hooks: Table,
    actions: Table,
    untracked: Table,
    generation: u8,
    /// Changes since the tables were made.
    changes: u64,
    /// What each set has in the tree of networks.
    written: [Vec<NetworkKey>; 2],
}

/// One of them.
#[derive(Debug)]
struct Table {
    name: &'static str,
    fd: OwnedFd,
}

impl RuleMaps {
    /// The tables of a loaded object, for tests and measurements.
    pub fn of_object(object: &Ebpf) -> Result<Self, LiveError> {
        Self::open(|name| match object.map(name) {
            Some(Map::Array(map) | Map::LpmTrie(map) | Map::LruHashMap(map)) => {
                duplicate(map, name)
            }
            _ => Err(LiveError::Missing(name)),
        })
    }

    /// The tables that `find` finds, with what is in force in them.
    pub(super) fn open(
        find: impl Fn(&'static str) -> Result<OwnedFd, LiveError>,
    ) -> Result<Self, LiveError> {
        let table = |name| Ok::<_, LiveError>(Table { name, fd: find(name)? });
        let mut tables = Self {
            config: table("RULES_CONFIG")?,
            networks: table("RULE_NETWORKS")?,
            addresses: table("RULE_ADDRESSES")?,
            port_classes: table("RULE_PORT_CLASSES")?,
            ports: table("RULE_PORTS")?,
            protocols: table("RULE_PROTOCOLS")?,
            hooks: table("RULE_HOOKS")?,
            actions: table("RULE_ACTIONS")?,
            untracked: table("UNTRACKED")?,
            generation: 0,
            changes: 0,
            written: [Vec::new(), Vec::new()],
        };
        let (mut keys, mut configs) = ([0_u32], [RulesConfig::default()]);
        tables.config.read(&mut keys, &mut configs, |_, config| {
            (tables.generation, tables.changes) = (config.generation, config.changes);
        })?;
        let (mut keys, mut classes) = (vec![NetworkKey::default(); BATCH], vec![0_u32; BATCH]);
        tables.networks.read(&mut keys, &mut classes, |key, _| {
            tables.written[usize::from(key.set & 1)].push(*key);
        })?;
        Ok(tables)
    }

    /// Whether any were put in force, be it none at all.
    pub(super) const fn are_in_force(&self) -> bool {
        self.generation != 0
    }

    /// Puts rules in force, and returns how often that has been done. After an error those before stay in force.
    pub fn set(&mut self, rules: &Compiled) -> Result<u64, LiveError> {
        let before = self.generation;
        let next = if before == GENERATION_MAX { 1 } else { before + 1 };
        let set = set_of(u32::from(next));
        if before != 0 {
            wait_for_runs();
        }
        self.write(set, rules)?;
        if next == 1 && before != 0 {
            // What was remembered of the last generation 1 would count again.
            self.untracked.empty()?;
        }
        let changes = self.changes + 1;
        let config = RulesConfig { generation: next, changes, ..RulesConfig::default() };
        self.config.update(&[0_u32], &[config])?;
        (self.generation, self.changes) = (next, changes);
        Ok(self.changes)
    }

    fn write(&mut self, set: u32, rules: &Compiled) -> Result<(), LiveError> {
        let written = &mut self.written[set as usize];
        for key in &*written {
            self.networks.remove(key)?;
        }
        let (keys, classes): (Vec<_>, Vec<_>) = rules.networks(set).unzip();
        written.clone_from(&keys);
        self.networks.update(&keys, &classes)?;
        self.addresses.fill(set * RULE_ADDRESS_CLASSES_MAX, &rules.addresses)?;
        let words: Vec<_> = rules.port_classes.chunks(4).map(packed).collect();
        self.port_classes.fill(set * RULE_PORT_WORDS, &words)?;
        self.ports.fill(set * RULE_PORT_CLASSES_MAX, &rules.ports)?;
        self.protocols.fill(set * RULE_PROTOCOLS, &rules.protocols)?;
        self.hooks.fill(set * HOOKS_MAX, &rules.hooks)?;
        self.actions.fill(set * RULE_ACTIONS_MAX, &rules.actions)
    }
}

/// Four classes in one word, the lowest port's lowest.
fn packed(classes: &[u16]) -> u64 {
    classes.iter().rev().fold(0, |word, class| word << 16 | u64::from(*class))
}

/// Waits until no program runs that began before: programs run in read sections of RCU, and this command is the
/// kernel's way of waiting for all of those (membarrier(2)). It takes some milliseconds.
pub(super) fn wait_for_runs() {
    // SAFETY: the command takes no pointers.
    let done = unsafe { libc::syscall(libc::SYS_membarrier, libc::MEMBARRIER_CMD_GLOBAL, 0, 0) };
    if done != 0 {
        // With nohz_full CPUs, and where the kernel was built without the call.
        thread::sleep(RUN_MAX);
    }
}

impl Table {
    fn failed(&self, call: &'static str) -> impl Fn(io::Error) -> LiveError {
        let map = self.name;
        move |source| LiveError::Syscall { call, map, source }
    }

    fn update<K, V>(&self, keys: &[K], values: &[V]) -> Result<(), LiveError> {
        let written = batch::update_batch(self.fd.as_fd(), keys, values);
        written.map_err(self.failed("BPF_MAP_UPDATE_BATCH"))
    }

    /// Writes neighbouring elements of an array.
    fn fill<V>(&self, first: u32, values: &[V]) -> Result<(), LiveError> {
        let keys: Vec<_> = (first..).take(values.len()).collect();
        self.update(&keys, values)
    }

    fn remove(&self, key: &NetworkKey) -> Result<(), LiveError> {
        batch::remove(self.fd.as_fd(), key).map_err(self.failed("BPF_MAP_DELETE_ELEM"))
    }

    /// Calls `visit` with every element.
    fn read<K, V>(
        &self,
        keys: &mut [K],
        values: &mut [V],
        mut visit: impl FnMut(&K, &V),
    ) -> Result<(), LiveError> {
        let mut from: Option<BatchCursor> = None;
        loop {
            let mut to = BatchCursor::default();
            let read = batch::lookup_batch(self.fd.as_fd(), from.as_ref(), &mut to, keys, values);
            let read = read.map_err(self.failed("BPF_MAP_LOOKUP_BATCH"))?;
            keys.iter().zip(&*values).take(read.count).for_each(|(key, value)| visit(key, value));
            if read.done {
                return Ok(());
            }
            from = Some(to);
        }
    }

    fn empty(&self) -> Result<(), LiveError> {
        let mut keys = vec![FlowKey::default(); BATCH];
        let mut values = vec![Untracked::default(); BATCH];
        let mut from: Option<BatchCursor> = None;
        loop {
            let mut to = BatchCursor::default();
            let fd = self.fd.as_fd();
            let taken = batch::take_batch(fd, from.as_ref(), &mut to, &mut keys, &mut values);
            if taken.map_err(self.failed("BPF_MAP_LOOKUP_AND_DELETE_BATCH"))?.done {
                return Ok(());
            }
            from = Some(to);
        }
    }
}

/// A descriptor of its own.
pub(super) fn duplicate(map: &MapData, name: &'static str) -> Result<OwnedFd, LiveError> {
    let fd = map.fd().as_fd().try_clone_to_owned();
    fd.map_err(|source| LiveError::Syscall { call: "F_DUPFD_CLOEXEC", map: name, source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_port_is_in_the_lowest_bits() {
        assert_eq!(packed(&[1, 2, 3, 0x1004]), 0x1004_0003_0002_0001);
    }
}
