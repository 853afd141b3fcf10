//! The BPF programs, links and maps of a process, by the kernel's account and bpftool's. Must never ask linnet.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    process::Command,
};

/// What of BPF a process holds, by the kernel's own account of its descriptors.
#[derive(Debug, Default)]
pub(crate) struct Held {
    pub(crate) programs: BTreeSet<u64>,
    /// Kinds by id.
    pub(crate) links: BTreeMap<u64, String>,
    /// Interface indexes by link.
    pub(crate) interfaces: BTreeMap<u64, u64>,
    pub(crate) maps: BTreeSet<u64>,
}

impl Held {
    pub(crate) fn by(pid: u32) -> Self {
        let mut held = Self::default();
        for file in fs::read_dir(format!("/proc/{pid}/fdinfo")).unwrap().flatten() {
            let text = fs::read_to_string(file.path()).unwrap_or_default();
            let field = |name: &str| {
                let line = text.lines().find_map(|line| line.strip_prefix(name));
                line.map(|value| value.trim_start_matches(':').trim().to_owned())
            };
            held.programs.extend(field("prog_id").map(|id| id.parse::<u64>().unwrap()));
            held.maps.extend(field("map_id").map(|id| id.parse::<u64>().unwrap()));
            if let (Some(id), Some(kind)) = (field("link_id"), field("link_type")) {
                let id = id.parse().unwrap();
                held.links.insert(id, kind);
                held.interfaces.extend(field("ifindex").map(|index| (id, index.parse().unwrap())));
            }
        }
        held
    }

    /// Nothing of it is in the kernel, as bpftool has it.
    pub(crate) fn is_gone(&self) -> bool {
        let known = |kind: &str, id: &u64| {
            let show = [kind, "show", "id", &id.to_string()];
            Command::new("bpftool").args(show).output().unwrap().status.success()
        };
        !self.programs.iter().any(|id| known("prog", id))
            && !self.links.keys().any(|id| known("link", id))
            && !self.maps.iter().any(|id| known("map", id))
    }
}
