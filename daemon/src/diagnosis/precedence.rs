//! Which diagnosis keeps which other one of the same flow from speaking, or makes it less sure. First of all: what linnet
//! itself did not see is nobody else's loss.

use super::{Code, Direction, Finding};

type Found = (Option<Direction>, Finding);

/// What becomes of the weaker one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Effect {
    Withhold,
    Lower,
}

/// Where the weaker one has to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scope {
    /// Anywhere in the flow.
    Flow,
    /// In the same direction.
    Direction,
}

/// Explained by anything that keeps packets from arriving.
const LOSSES: &[Code] =
    &[Code::NetworkLossDownstream, Code::TailLoss, Code::RetransmissionTimeouts];

const PRECEDENCE: &[(Code, Scope, Effect, &[Code])] = &[
    (Code::CaptureLoss, Scope::Flow, Effect::Withhold, &[Code::NetworkLossUpstream]),
    (
        Code::CaptureLoss,
        Scope::Flow,
        Effect::Lower,
        &[
            Code::NetworkLossDownstream,
            Code::TailLoss,
            Code::RetransmissionTimeouts,
            Code::SpuriousRetransmissions,
            Code::Reordering,
            Code::PmtuBlackHole,
            Code::ReceiverZeroWindow,
            Code::ReceiveWindowLimited,
            Code::Bufferbloat,
            Code::SlowResponse,
        ],
    ),
    (
        Code::OneSidedCapture,
        Scope::Flow,
        Effect::Withhold,
        &[
            Code::NetworkLossUpstream,
            Code::NetworkLossDownstream,
            Code::TailLoss,
            Code::RetransmissionTimeouts,
            Code::SpuriousRetransmissions,
            Code::PmtuBlackHole,
            Code::IdleTimeout,
            Code::SynAckRetransmitted,
            Code::SynUnanswered,
            Code::EcnBleached,
            Code::OptionsStripped,
        ],
    ),
    (Code::PmtuBlackHole, Scope::Direction, Effect::Withhold, LOSSES),
    (Code::TooBigIgnored, Scope::Direction, Effect::Withhold, LOSSES),
    (Code::TooBigIgnored, Scope::Direction, Effect::Withhold, &[Code::PmtuBlackHole]),
    (Code::SegmentSizeBeyondMtu, Scope::Direction, Effect::Lower, LOSSES),
    (Code::IdleTimeout, Scope::Direction, Effect::Withhold, LOSSES),
    (Code::IdleTimeout, Scope::Flow, Effect::Withhold, &[Code::ForgedReset]),
    (Code::SynRejected, Scope::Flow, Effect::Withhold, &[Code::SynUnanswered]),
    (Code::DuplicateFrames, Scope::Flow, Effect::Lower, &[Code::SpuriousRetransmissions]),
    // What really arrives twice is acknowledged twice, and that makes a sender send again.
    (Code::DuplicateFrames, Scope::Flow, Effect::Lower, LOSSES),
    (
        Code::ReceiverZeroWindow,
        Scope::Flow,
        Effect::Withhold,
        &[Code::ReceiveWindowLimited, Code::WindowScalingOff],
    ),
    (
        Code::ReceiverZeroWindow,
        Scope::Flow,
        Effect::Withhold,
        &[Code::SlowResponse, Code::Bufferbloat],
    ),
    (Code::WindowScalingOff, Scope::Flow, Effect::Withhold, &[Code::ReceiveWindowLimited]),
    (Code::NetworkLossDownstream, Scope::Flow, Effect::Lower, &[Code::SlowResponse]),
    (Code::PathChange, Scope::Flow, Effect::Withhold, &[Code::HandshakeRttDiffers]),
    (Code::Bufferbloat, Scope::Flow, Effect::Withhold, &[Code::HandshakeRttDiffers]),
];

/// Applies the table, in its order, to what was found about one flow.
pub(super) fn apply(found: &mut Vec<Found>) {
    for (stronger, scope, effect, weaker) in PRECEDENCE {
        let holders: Vec<_> = found
            .iter()
            .filter(|(_, finding)| finding.code == *stronger)
            .map(|(direction, _)| *direction)
            .collect();
        if holders.is_empty() {
            continue;
        }
        let is_weaker = |(direction, finding): &Found| {
            weaker.contains(&finding.code) && (*scope == Scope::Flow || holders.contains(direction))
        };
        match effect {
            Effect::Withhold => found.retain(|entry| !is_weaker(entry)),
            Effect::Lower => {
                for entry in found.iter_mut().filter(|entry| is_weaker(entry)) {
                    entry.1.confidence = entry.1.confidence.lowered();
                }
            }
        }
    }
}
