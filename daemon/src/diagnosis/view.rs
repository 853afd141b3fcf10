//! A diagnosis as JSON, the same in `linnet analyze --json` and in the API. Renders; decides nothing.

use serde::Serialize;

use super::{Confidence, Diagnosis, Direction, Numbers};
use crate::flow::{
    FlowId,
    view::{Naming, wall},
};

/// One diagnosis.
#[derive(Clone, Debug, Serialize)]
pub struct DiagnosisView {
    code: &'static str,
    flow: FlowId,
    direction: Option<Direction>,
    confidence: Confidence,
    evidence: Numbers,
    from: String,
    to: String,
    display_filter: String,
    advice: &'static str,
}

/// Renders a diagnosis.
#[must_use]
pub fn view(diagnosis: &Diagnosis, naming: &Naming) -> DiagnosisView {
    DiagnosisView {
        code: diagnosis.code.name(),
        flow: diagnosis.flow,
        direction: diagnosis.direction,
        confidence: diagnosis.confidence,
        evidence: diagnosis.evidence.clone(),
        from: wall(diagnosis.from_ns, naming),
        to: wall(diagnosis.to_ns, naming),
        display_filter: diagnosis.display_filter.clone(),
        advice: diagnosis.code.advice(),
    }
}
