//! A capture file through the datapath in virtual time. Needs no privilege; holds flows in memory, never the file.

use std::{
    collections::HashMap,
    fs::File,
    io::Read as _,
    path::{Path, PathBuf},
};

use captures::format::read::{PacketReader, ReadError};
use datapath::{layout::HookCounters, parse::tunnel::tag, replay::Replay};
use serde::Serialize;
use sha2::{Digest as _, Sha256};

use crate::{
    flow::{
        FlowId, FlowIdSource, FlowRecord, FlowView,
        community_id::community_id,
        record::Observation,
        view::{LedgerView, Naming},
    },
    offline,
};

/// Version of the JSON object.
pub const SCHEMA: &str = "linnet.analyze/1";
/// Bytes at the start of a file that, with its length, make its identity.
const IDENTITY_BYTES: u64 = 64 * 1024;

/// What a file holds.
#[derive(Debug)]
pub struct Analysis {
    /// Packets read.
    pub packets: u64,
    /// Why reading ended before the file did.
    pub damage: Option<String>,
    /// The ledger and its companions.
    pub counters: HookCounters,
    /// Flows in order of their first packet.
    pub flows: Vec<FlowRecord>,
}

/// Why nothing can be said about a file.
#[derive(Debug, thiserror::Error)]
pub enum AnalyzeError {
    /// It could not be opened or read.
    #[error("cannot read `{path}`: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// It is no capture, or nothing of it can be read.
    #[error("cannot read `{path}`: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the reader said.
        source: ReadError,
    },
}

/// Reads a whole file.
pub fn analyze(path: &Path) -> Result<Analysis, AnalyzeError> {
    let ids =
        identity(path).map_err(|source| AnalyzeError::Io { path: path.to_owned(), source })?;
    let mut reader = PacketReader::open(path)
        .map_err(|source| AnalyzeError::Read { path: path.to_owned(), source })?;
    let mut replay = Replay::default();
    let mut packets = 0;
    let damage = loop {
        match reader.next_packet() {
            Ok(Some(read)) => {
                packets += 1;
                let _counted = replay.frame(&*read.packet.data, &offline::frame(&read));
            }
            Ok(None) => break None,
            Err(error) => break Some(error.to_string()),
        }
    };
    Ok(Analysis { packets, damage, counters: *replay.counters(), flows: records(&replay, &ids) })
}

/// The flows of a replay, in order of their first packet.
fn records(replay: &Replay, ids: &FlowIdSource) -> Vec<FlowRecord> {
    let mut flows: Vec<_> = replay.flows().collect();
    flows.sort_unstable_by_key(|(_, flow)| flow.order);
    let tags: HashMap<u64, FlowId> =
        flows.iter().map(|(key, flow)| (tag(key), ids.id(key, flow.first_frame))).collect();
    flows
        .into_iter()
        .map(|(key, flow)| {
            let id = ids.id(key, flow.first_frame);
            let mut record = FlowRecord::new(id, *key, community_id(key));
            let (entry, samples) = (&*flow.entry, Some(&flow.rtt));
            record.observe(Observation { entry, before: None, samples });
            record.parent = tags.get(&entry.encapsulation.parent_tag).copied();
            record
        })
        .collect()
}

/// What makes this file's flow ids its own: how it starts and how long it is.
pub fn identity(path: &Path) -> std::io::Result<FlowIdSource> {
    let file = File::open(path)?;
    let length = file.metadata()?.len();
    let mut start = Vec::new();
    file.take(IDENTITY_BYTES).read_to_end(&mut start)?;
    let mut hash = Sha256::new_with_prefix(&start);
    hash.update(length.to_be_bytes());
    Ok(FlowIdSource::new(&hash.finalize()))
}

/// The JSON object of `linnet analyze --json`.
#[derive(Debug, Serialize)]
pub struct AnalysisView {
    schema: &'static str,
    packets: u64,
    truncated: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    truncated_reason: Option<String>,
    ledger: LedgerView,
    flows: Vec<FlowView>,
}

impl AnalysisView {
    /// Renders an analysis.
    #[must_use]
    pub fn new(analysis: &Analysis) -> Self {
        let naming = Naming::default();
        let view = |record| FlowView::new(record, &naming, false);
        Self {
            schema: SCHEMA,
            packets: analysis.packets,
            truncated: analysis.damage.is_some(),
            truncated_reason: analysis.damage.clone(),
            ledger: LedgerView::new(&analysis.counters),
            flows: analysis.flows.iter().map(view).collect(),
        }
    }
}
