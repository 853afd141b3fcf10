//! A capture file through the datapath in virtual time. Needs no privilege; holds flows in memory, never the file.

use std::{
    collections::HashMap,
    fs::{self, File},
    io::{self, ErrorKind, Read},
    path::{Path, PathBuf},
};

use captures::format::read::{PacketReader, ReadError};
use datapath::{
    Ktime, Outcome,
    layout::HookCounters,
    parse::{Headers, tunnel::tag},
    replay::Replay,
};
use serde::Serialize;
use sha2::{Digest as _, Sha256};

use crate::{
    analysis::{Analyzer, Connection, spin::Spins},
    diagnosis::{self, Diagnosis, DiagnosisView, Evidence, Survey},
    flow::{
        FlowId, FlowIdSource, FlowRecord, FlowView,
        community_id::community_id,
        expiry::Timeouts,
        record::{Observation, RttSummary},
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
    /// What the segments of each of them tell, in the same order; nothing for what is not TCP.
    pub connections: Vec<Option<Box<Connection>>>,
    /// What the spin bits of QUIC tell.
    pub spins: Spins,
    /// Segments of connections beyond [`crate::analysis::CONNECTIONS_MAX`].
    pub not_analyzed: u64,
    /// What is wrong with them, the most confident first.
    pub diagnoses: Vec<Diagnosis>,
}

impl Analysis {
    /// Each flow with what its segments tell.
    pub fn analyzed(&self) -> impl Iterator<Item = (&FlowRecord, Option<&Connection>)> {
        self.flows.iter().zip(self.connections.iter().map(Option::as_deref))
    }
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
    analyze_with(Analyzer::default(), path, flows_max)
}

/// As [`analyze`], with an analyzer that has not seen anything yet.
pub fn analyze_with(
    analyzer: Analyzer,
    path: &Path,
    flows_max: usize,
) -> Result<Analysis, AnalyzeError> {
    read(open(path)?, path, flows_max, analyzer)
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
fn read(
    input: impl Read,
    path: &Path,
    flows_max: usize,
    mut analyzer: Analyzer,
) -> Result<Analysis, AnalyzeError> {
    let mut fingerprint = Fingerprint::default();
    let mut reader = PacketReader::new(Fingerprinted { input, fingerprint: &mut fingerprint })
        .map_err(|source| AnalyzeError::Read { path: path.to_owned(), source })?;
    let mut replay = Replay::with_flows_max(flows_max).with_segments();
    let mut spins = Spins::default();
    let mut evidence = Evidence::default();
    let mut packets = 0;
    let damage = loop {
        match reader.next_packet() {
            Ok(Some(read)) => {
                packets += 1;
                let frame = offline::frame(&read);
                let _counted = replay.frame(&*read.packet.data, &frame);
                analyzer.frame(packets, replay.classified());
                spin(&mut spins, replay.headers(), &read.packet.data, frame.now);
                evidence.frame(&replay, &read.packet.data, frame.now);
            }
            Ok(None) => break None,
            Err(error) => break Some(error.to_string()),
        }
    };
    drop(reader);
    analyzer.finish();
    let mut survey = Survey::default();
    let (flows, connections) = records(&replay, &fingerprint.source())
        .into_iter()
        .map(|(order, mut record)| {
            let connection = analyzer.take(order);
            if let Some(connection) = &connection {
                measured(&mut record, connection);
            }
            survey.add(&record, evidence.of(order));
            (record, connection)
        })
        .unzip();
    let (diagnoses, _) = survey.finish();
    let (counters, not_analyzed) = (*replay.counters(), analyzer.not_analyzed());
    Ok(Analysis { packets, damage, counters, flows, connections, spins, not_analyzed, diagnoses })
}

/// Every acknowledgment's round trip, in place of those that a live flow samples.
fn measured(record: &mut FlowRecord, connection: &Connection) {
    let [originator, responder] = record.by_role(connection.sides().each_ref());
    record.from_originator.rtt = RttSummary::of(&originator.round_trips);
    record.from_responder.rtt = RttSummary::of(&responder.round_trips);
}

/// Lets a datagram be looked into: the innermost one of a frame.
#[inline]
fn spin(spins: &mut Spins, headers: &Headers, packet: &[u8], now: Ktime) {
    const UDP: u8 = 17;
    if headers.key.protocol == UDP
        && let Some(payload) = packet.get(headers.header_len as usize..)
        && headers.outcome() == Outcome::Tracked
    {
        spins.datagram(&headers.key, headers.sender, payload, now);
    }
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
    not_analyzed_segments: u64,
    diagnoses: Vec<DiagnosisView>,
    flows: Vec<FlowView>,
}

impl AnalysisView {
    /// Renders an analysis.
    #[must_use]
    pub fn new(analysis: &Analysis) -> Self {
        let naming = Naming::default();
        let view = |(record, connection): (&FlowRecord, Option<&Connection>)| {
            let mut view = FlowView::new(record, &naming, false);
            if let Some(connection) = connection {
                view = view.analyzed(record, connection, &naming);
            }
            if let Some(spin) = analysis.spins.of(&record.key) {
                view = view.spun(record, spin);
            }
            view
        };
        Self {
            schema: SCHEMA,
            packets: analysis.packets,
            truncated: analysis.damage.is_some(),
            truncated_reason: analysis.damage.clone(),
            ledger: LedgerView::new(&analysis.counters),
            not_analyzed_segments: analysis.not_analyzed,
            diagnoses: analysis
                .diagnoses
                .iter()
                .map(|diagnosis| diagnosis::view(diagnosis, &naming))
                .collect(),
            flows: analysis.analyzed().map(view).collect(),
        }
    }
}
