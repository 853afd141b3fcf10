//! A capture file through the datapath in virtual time. Needs no privilege; holds flows in memory, never the file.

use std::{
    collections::HashMap,
    fs::{self, File},
    io::{self, ErrorKind, Read},
    path::{Path, PathBuf},
};

use captures::format::read::{PacketReader, ReadError};
use datapath::{layout::HookCounters, parse::tunnel::tag, replay::Replay};
use serde::Serialize;
use sha2::{Digest as _, Sha256};

use crate::{
    diagnosis::{self, Diagnosis, DiagnosisView, Evidence, Survey},
    flow::{
        FlowId, FlowIdSource, FlowRecord, FlowView,
        community_id::community_id,
        expiry::Timeouts,
        record::Observation,
        view::{LedgerView, Naming},
    },
    offline,
};

/// Version of the JSON object.
pub const SCHEMA: &str = "linnet.analyze/1";
/// Bytes at the start of a file that, with its length, make its identity.
const IDENTITY_BYTES: usize = 64 * 1024;
/// Flows that are told apart unless the caller says otherwise; packets of further ones are counted as `table_full`.
pub const FLOWS_DEFAULT: usize = 1 << 20;
/// The path that stands for standard input.
pub const STANDARD_INPUT: &str = "-";

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
    /// What is wrong with them, the most confident first.
    pub diagnoses: Vec<Diagnosis>,
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
        source: io::Error,
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

/// Reads a whole file, or standard input where the path is [`STANDARD_INPUT`]; at most `flows_max` flows of it.
pub fn analyze(path: &Path, flows_max: usize) -> Result<Analysis, AnalyzeError> {
    read(open(path)?, path, flows_max)
}

/// Opens a file, or standard input.
pub(crate) fn open(path: &Path) -> Result<Box<dyn Read>, AnalyzeError> {
    let io = |source| AnalyzeError::Io { path: path.to_owned(), source };
    if path == Path::new(STANDARD_INPUT) {
        return Ok(Box::new(io::stdin().lock()));
    }
    let file = File::open(path).map_err(io)?;
    if file.metadata().map_err(io)?.is_dir() {
        return Err(io(ErrorKind::IsADirectory.into()));
    }
    Ok(Box::new(file))
}

/// Reads what comes, once: it may be a pipe.
fn read(input: impl Read, path: &Path, flows_max: usize) -> Result<Analysis, AnalyzeError> {
    let mut fingerprint = Fingerprint::default();
    let mut reader = PacketReader::new(Fingerprinted { input, fingerprint: &mut fingerprint })
        .map_err(|source| AnalyzeError::Read { path: path.to_owned(), source })?;
    let mut replay = Replay::with_flows_max(flows_max).with_verdicts();
    let mut evidence = Evidence::default();
    let mut packets = 0;
    let damage = loop {
        match reader.next_packet() {
            Ok(Some(read)) => {
                packets += 1;
                let frame = offline::frame(&read);
                let _counted = replay.frame(&*read.packet.data, &frame);
                evidence.frame(&replay, &read.packet.data, frame.now);
            }
            Ok(None) => break None,
            Err(error) => break Some(error.to_string()),
        }
    };
    drop(reader);
    let told = records(&replay, &fingerprint.source());
    let mut survey = Survey::default();
    told.iter().for_each(|(order, record)| survey.add(record, evidence.of(*order)));
    let (diagnoses, _) = survey.finish();
    let flows = told.into_iter().map(|(_, record)| record).collect();
    Ok(Analysis { packets, damage, counters: *replay.counters(), flows, diagnoses })
}

/// The flows of a replay, in order of their first packet, each with its number in the order of creation.
fn records(replay: &Replay, ids: &FlowIdSource) -> Vec<(u64, FlowRecord)> {
    let timeouts = &Timeouts::default();
    let mut flows: Vec<_> = replay.flows().chain(replay.ended()).collect();
    flows.sort_unstable_by_key(|(_, flow)| flow.order);
    let tags: HashMap<u64, FlowId> =
        flows.iter().map(|(key, flow)| (tag(key), ids.id(key, flow.first_frame))).collect();
    flows
        .into_iter()
        .map(|(key, flow)| {
            let id = ids.id(key, flow.first_frame);
            let mut record = FlowRecord::new(id, *key, community_id(key));
            let (entry, samples) = (&*flow.entry, Some(&flow.rtt));
            record.observe(Observation { entry, before: None, samples, timeouts });
            record.judge(flow.verdicts());
            record.parent = tags.get(&entry.encapsulation.parent_tag).copied();
            (flow.order, record)
        })
        .collect()
}

/// What makes the flow ids of a file its own: how it starts and how long it is, as far as it was read.
#[derive(Debug, Default)]
struct Fingerprint {
    start: Vec<u8>,
    length: u64,
}

impl Fingerprint {
    fn take(&mut self, bytes: &[u8]) {
        let missing = IDENTITY_BYTES.saturating_sub(self.start.len());
        self.start.extend_from_slice(&bytes[..bytes.len().min(missing)]);
        self.length += bytes.len() as u64;
    }

    fn source(&self) -> FlowIdSource {
        let mut hash = Sha256::new_with_prefix(&self.start);
        hash.update(self.length.to_be_bytes());
        FlowIdSource::new(&hash.finalize())
    }
}

/// An input whose fingerprint is taken as it is read.
struct Fingerprinted<'a, R> {
    input: R,
    fingerprint: &'a mut Fingerprint,
}

impl<R: Read> Read for Fingerprinted<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.input.read(buffer)?;
        self.fingerprint.take(&buffer[..count]);
        Ok(count)
    }
}

/// What makes the flow ids of a file that is to be played its own. Only for what can be read again and again.
pub fn identity(path: &Path) -> io::Result<FlowIdSource> {
    let metadata = fs::metadata(path)?;
    if metadata.is_dir() {
        return Err(ErrorKind::IsADirectory.into());
    }
    if !metadata.is_file() {
        let problem = "it is no regular file, and is played again and again; `linnet analyze` reads pipes, `cat > FILE` keeps one";
        return Err(io::Error::new(ErrorKind::InvalidInput, problem));
    }
    let mut fingerprint = Fingerprint::default();
    let mut start = Vec::new();
    File::open(path)?.take(IDENTITY_BYTES as u64).read_to_end(&mut start)?;
    fingerprint.take(&start);
    fingerprint.length = metadata.len();
    Ok(fingerprint.source())
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
    diagnoses: Vec<DiagnosisView>,
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
            diagnoses: analysis
                .diagnoses
                .iter()
                .map(|diagnosis| diagnosis::view(diagnosis, &naming))
                .collect(),
            flows: analysis.flows.iter().map(view).collect(),
        }
    }
}
