//! What is wrong with a flow, why, and what to check next: rules on facts, with their evidence. Never guesses: a fact that
//! is not known keeps every rule silent that needs it, and reads no clock.

mod application;
mod delay;
pub mod evidence;
mod facts;
mod filter;
mod handshake;
mod loss;
mod mtu;
mod names;
mod precedence;
mod resets;
mod text;
mod view;
mod windows;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap, HashSet};

use datapath::FlowKey;
use serde::Serialize;

pub use self::{
    evidence::Evidence,
    facts::{Direction, Facts, SideFacts},
    names::Code,
    text::write_report,
    view::{DiagnosisView, view},
};
use crate::flow::{FlowId, FlowRecord};

/// Diagnoses of one answer; the most confident ones come first, and the number of all is beside them.
pub const DIAGNOSES_MAX: usize = 10_000;

/// How sure a diagnosis is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Confidence {
    /// The packets show it, but something else can look alike.
    Possible,
    /// What else could look alike is rare.
    Likely,
    /// The packets say so themselves.
    Certain,
}

impl Confidence {
    /// The name in every answer.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Possible => "possible",
            Self::Likely => "likely",
            Self::Certain => "certain",
        }
    }

    /// One step less.
    const fn lowered(self) -> Self {
        match self {
            Self::Certain => Self::Likely,
            Self::Likely | Self::Possible => Self::Possible,
        }
    }
}

/// A number or a name that a diagnosis stands on.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Value {
    /// A count, or a duration in ns.
    Count(u64),
    /// A share or a rate.
    Number(f64),
    /// A name.
    Name(String),
}

impl From<u64> for Value {
    fn from(count: u64) -> Self {
        Self::Count(count)
    }
}

impl From<u32> for Value {
    fn from(count: u32) -> Self {
        Self::Count(count.into())
    }
}

impl From<f64> for Value {
    fn from(number: f64) -> Self {
        Self::Number(number)
    }
}

impl From<&str> for Value {
    fn from(name: &str) -> Self {
        Self::Name(name.to_owned())
    }
}

/// Numbers by name, units in the names.
pub type Numbers = BTreeMap<&'static str, Value>;

/// What a rule has found.
#[derive(Clone, Debug)]
struct Finding {
    code: Code,
    confidence: Confidence,
    numbers: Numbers,
    /// First and last packet of it, ns; that of the flow where the rule knows no better.
    span: Option<(u64, u64)>,
    /// What of the flow's packets it is about, in Wireshark's language.
    filter: String,
}

impl Finding {
    fn new(code: Code, confidence: Confidence, filter: impl Into<String>) -> Self {
        let filter = filter.into();
        Self { code, confidence, numbers: Numbers::new(), span: None, filter }
    }

    fn with(mut self, name: &'static str, value: impl Into<Value>) -> Self {
        self.numbers.insert(name, value.into());
        self
    }

    fn between(mut self, span: Option<(u64, u64)>) -> Self {
        self.span = span.or(self.span);
        self
    }
}

/// One diagnosis.
#[derive(Clone, Debug)]
pub struct Diagnosis {
    /// What it is.
    pub code: Code,
    /// The flow.
    pub flow: FlowId,
    /// Whose packets it is about; none where it is about both.
    pub direction: Option<Direction>,
    /// How sure it is.
    pub confidence: Confidence,
    /// What it stands on.
    pub evidence: Numbers,
    /// First packet of it, in the source's time, ns.
    pub from_ns: u64,
    /// Last packet of it.
    pub to_ns: u64,
    /// Selects its packets in Wireshark.
    pub display_filter: String,
}

/// A rule: about a flow, or about what one side sent.
#[derive(Clone, Copy)]
enum Rule {
    Flow(fn(&Facts<'_>) -> Option<Finding>),
    Side(fn(&Facts<'_>, Direction) -> Option<Finding>),
}

/// Every rule. What may keep others from speaking ([`precedence`]) comes first.
const RULES: &[Rule] = &[
    Rule::Side(loss::capture_loss),
    Rule::Flow(handshake::one_sided),
    Rule::Side(loss::duplicate_frames),
    Rule::Flow(handshake::syn_unanswered),
    Rule::Flow(handshake::syn_retransmitted),
    Rule::Flow(handshake::syn_rejected),
    Rule::Flow(handshake::connection_refused),
    Rule::Flow(handshake::syn_ack_retransmitted),
    Rule::Side(handshake::options_stripped),
    Rule::Side(mtu::pmtu_black_hole),
    Rule::Side(mtu::too_big_ignored),
    Rule::Side(mtu::segment_size_beyond_mtu),
    Rule::Side(resets::idle_timeout),
    Rule::Side(resets::forged_reset),
    Rule::Side(loss::network_loss_upstream),
    Rule::Side(loss::network_loss_downstream),
    Rule::Side(loss::tail_loss),
    Rule::Side(loss::timeouts),
    Rule::Side(loss::spurious),
    Rule::Side(loss::reordering),
    Rule::Side(windows::zero_window),
    Rule::Side(windows::window_limited),
    Rule::Flow(windows::window_unscaled),
    Rule::Side(delay::bufferbloat),
    Rule::Side(delay::congestion_marks),
    Rule::Side(delay::ecn_bleached),
    Rule::Side(delay::path_change),
    Rule::Flow(delay::handshake_differs),
    Rule::Flow(application::slow_response),
    Rule::Flow(application::dns_unanswered),
    Rule::Flow(application::dns_failed),
    Rule::Flow(application::dns_slow),
];

/// What is wrong with a flow, the most confident first. `evidence` is what [`Evidence`] has of it; without, the rules that
/// need every packet are silent.
#[must_use]
pub fn diagnose(record: &FlowRecord, evidence: Option<&evidence::FlowEvidence>) -> Vec<Diagnosis> {
    let facts = Facts::new(record, evidence);
    let mut found = Vec::new();
    for rule in RULES {
        match rule {
            Rule::Flow(rule) => found.extend(rule(&facts).map(|finding| (None, finding))),
            Rule::Side(rule) => {
                for direction in Direction::BOTH {
                    let finding = rule(&facts, direction);
                    found.extend(finding.map(|finding| (Some(direction), finding)));
                }
            }
        }
    }
    precedence::apply(&mut found);
    let mut diagnoses: Vec<_> = found
        .into_iter()
        .map(|(direction, finding)| complete(&facts, direction, finding))
        .collect();
    diagnoses.sort_by_key(|diagnosis| std::cmp::Reverse(diagnosis.confidence));
    diagnoses
}

/// What is wrong with many flows, looked at one after the other.
#[derive(Debug, Default)]
pub struct Survey {
    diagnoses_max: Option<usize>,
    /// By confidence: the least first.
    found: [Vec<Diagnosis>; 3],
    total: usize,
    /// Flows of which one direction is missing: between which ends, and whether the upper one's packets are there.
    halves: HashSet<(FlowKey, bool)>,
    /// Those of them that are said to be one-sided.
    one_sided: HashMap<FlowId, (FlowKey, bool)>,
}

/// Flows of which one direction is missing that are remembered; beyond, none is said to be one-sided.
const HALVES_MAX: usize = 1 << 16;

impl Survey {
    /// A survey that keeps `max` diagnoses of each confidence, and counts the others.
    #[must_use]
    pub fn with_diagnoses_max(max: usize) -> Self {
        Self { diagnoses_max: Some(max), ..Self::default() }
    }

    /// Looks at a flow.
    pub fn add(&mut self, record: &FlowRecord, evidence: Option<&evidence::FlowEvidence>) {
        let is_half = record.from_originator.packets == 0 || record.from_responder.packets == 0;
        if is_half && !record.embryonic && self.halves.len() < HALVES_MAX {
            self.halves.insert(half_of(record));
        }
        for diagnosis in diagnose(record, evidence) {
            self.total += 1;
            let kept = &mut self.found[diagnosis.confidence as usize];
            if self.diagnoses_max.is_some_and(|max| kept.len() >= max) {
                continue;
            }
            if diagnosis.code == Code::OneSidedCapture {
                self.one_sided.insert(record.id, half_of(record));
            }
            kept.push(diagnosis);
        }
    }

    /// What was found, the most confident first, and how many there were. A direction that passes in another flow between
    /// the same ends, in another VLAN or on another interface, is not missing.
    #[must_use]
    pub fn finish(self) -> (Vec<Diagnosis>, usize) {
        let Self { found, mut total, halves, one_sided, .. } = self;
        let mut diagnoses: Vec<_> = found.into_iter().rev().flatten().collect();
        let is_complete = halves.len() < HALVES_MAX;
        diagnoses.retain(|diagnosis| {
            let half = one_sided.get(&diagnosis.flow);
            let is_kept = diagnosis.code != Code::OneSidedCapture
                || half.is_some_and(|(ends, is_upper)| {
                    is_complete && !halves.contains(&(*ends, !is_upper))
                });
            total -= usize::from(!is_kept);
            is_kept
        });
        (diagnoses, total)
    }
}

/// The ends of a flow, wherever it passes, and whether the packets that there are come from the upper one.
fn half_of(record: &FlowRecord) -> (FlowKey, bool) {
    let ends = FlowKey { vlan: 0, vni: 0, observation_point: 0, ..record.key };
    let has_originator = record.from_originator.packets > 0;
    (ends, has_originator == record.upper_originated)
}

fn complete(facts: &Facts<'_>, direction: Option<Direction>, finding: Finding) -> Diagnosis {
    let Finding { code, confidence, numbers, span, filter } = finding;
    let record = facts.record;
    let (from_ns, to_ns) = span.unwrap_or((record.first_seen_ns, record.last_seen_ns));
    Diagnosis {
        code,
        flow: record.id,
        direction,
        confidence,
        evidence: numbers,
        from_ns,
        to_ns,
        display_filter: filter,
    }
}
