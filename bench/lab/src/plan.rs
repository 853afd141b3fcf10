//! What a lab shall be: topology, offloads and the impairment of each direction, refused early
//! where it cannot be built. Never touches the system.

use std::time::Duration;

use serde::Serialize;

use crate::error::LabError;

/// Longest label, so that names stay readable in `ip netns list`.
pub const LABEL_BYTES_MAX: usize = 16;
/// Longest delay, jitter or extra delay.
pub const DELAY_MAX: Duration = Duration::from_secs(10);
/// Highest rate a rate limit may have; above, use none.
pub const RATE_BITS_PER_S_MAX: u64 = 100_000_000_000;

/// The plan of one lab. `Plan::new` gives a clean wire through the router.
#[derive(Debug, Clone, Serialize)]
pub struct Plan {
    /// Part of the namespaces' names: 1 to [`LABEL_BYTES_MAX`] of `a-z`, `0-9`, `-`.
    pub label: String,
    /// Keep the kernel's segmentation and checksum offloads at the ends. The relay cuts what they
    /// hand over into wire frames before anything meets them, so that its counts stay wire truth.
    pub offload: bool,
    /// Join client and server by one veth pair, without router and impairments.
    pub direct: bool,
    /// Let the kernel's bridge carry frames in the router, instead of the relay: no impairments, and
    /// its interfaces send and count wire packets whatever the ends do.
    pub bridge: bool,
    /// What frames from client to server meet.
    pub to_server: Impairment,
    /// What frames from server to client meet.
    pub to_client: Impairment,
    /// Seed of jitter and random loss; the same seed and traffic give the same fate.
    pub seed: u64,
}

/// What one direction of the path does to frames, in this order: loss, rate and queue, delay and
/// jitter, reordering, duplication.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Impairment {
    /// One-way delay, counted from the frame's arrival at the router.
    pub delay: Duration,
    /// Up to this much more delay, uniformly random; order is kept.
    pub jitter: Duration,
    /// Which frames never arrive.
    pub loss: Loss,
    /// Which frames are overtaken.
    pub reorder: Option<Reorder>,
    /// Every n-th TCP data segment of a flow arrives twice; the count is shifted by two, so that
    /// losses at every n-th do not take them all.
    pub duplicate_every_nth: Option<u32>,
    /// Serialization rate, on frame bytes without FCS and preamble.
    pub rate_bits_per_s: Option<u64>,
    /// Bytes that may wait for the rate limit; frames beyond are dropped from the tail. Without a
    /// rate it has no meaning.
    pub queue_bytes: u64,
}

/// Which frames are lost. Address resolution (ARP, IPv6 neighbour discovery) never is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub enum Loss {
    /// No frame.
    #[default]
    None,
    /// Every n-th TCP segment with payload of each flow and direction, retransmissions included; n
    /// is at least 2.
    EveryNthData(u32),
    /// Every IP frame with this probability.
    Probability(f64),
}

/// Reordering: a segment waits longer than those behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Reorder {
    /// Every n-th TCP data segment of a flow; the count is shifted by one, so that losses at every
    /// n-th do not take them all.
    pub every_nth: u32,
    /// How much longer it waits than its successors.
    pub extra_delay: Duration,
}

impl Plan {
    /// A clean wire: no delay, no loss, offloads off.
    #[must_use]
    pub fn new(label: &str) -> Self {
        Self {
            label: label.to_owned(),
            offload: false,
            direct: false,
            bridge: false,
            to_server: Impairment::default(),
            to_client: Impairment::default(),
            seed: 1,
        }
    }

    /// Client and server joined directly, with the kernel's offloads on.
    #[must_use]
    pub fn direct(label: &str) -> Self {
        Self { direct: true, offload: true, ..Self::new(label) }
    }

    /// Through a bridge, with or without the kernel's offloads at the ends.
    #[must_use]
    pub fn bridged(label: &str, offload: bool) -> Self {
        Self { bridge: true, offload, ..Self::new(label) }
    }

    /// Half of `rtt` in each direction.
    #[must_use]
    pub fn with_rtt(mut self, rtt: Duration) -> Self {
        self.to_server.delay = rtt / 2;
        self.to_client.delay = rtt - rtt / 2;
        self
    }

    /// The same loss in both directions.
    #[must_use]
    pub fn with_loss(mut self, loss: Loss) -> Self {
        self.to_server.loss = loss;
        self.to_client.loss = loss;
        self
    }

    /// Refuses what cannot be built, naming the field.
    pub(crate) fn check(&self) -> Result<(), LabError> {
        let label_is_plain =
            self.label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        if self.label.is_empty() || self.label.len() > LABEL_BYTES_MAX || !label_is_plain {
            let problem =
                format!("is `{}`; use 1 to {LABEL_BYTES_MAX} of a-z, 0-9 and -", self.label);
            return Err(LabError::Plan { field: "label", problem });
        }
        if self.direct && self.bridge {
            let problem = "has no router for a bridge; choose one of the two".to_owned();
            return Err(LabError::Plan { field: "direct", problem });
        }
        let is_clean = self.to_server.is_clean() && self.to_client.is_clean();
        for (field, is_set) in [("direct", self.direct), ("bridge", self.bridge)] {
            if is_set && !is_clean {
                let problem =
                    "has no relay that could impair; leave both impairments empty".to_owned();
                return Err(LabError::Plan { field, problem });
            }
        }
        self.to_server.check()?;
        self.to_client.check()
    }
}

impl Impairment {
    /// True where nothing is done to frames.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        *self == Self::default()
    }

    fn check(&self) -> Result<(), LabError> {
        let refuse = |field, problem: String| Err(LabError::Plan { field, problem });
        for (field, value) in [("delay", self.delay), ("jitter", self.jitter)] {
            if value > DELAY_MAX {
                return refuse(field, format!("is {value:?}; at most {DELAY_MAX:?}"));
            }
        }
        match self.loss {
            Loss::None => {}
            Loss::EveryNthData(n) if n < 2 => {
                return refuse("loss", format!("drops every {n}-th segment; at least 2"));
            }
            Loss::EveryNthData(_) => {}
            Loss::Probability(p) if !(0.0..1.0).contains(&p) => {
                return refuse("loss", format!("has probability {p}; use 0 to below 1"));
            }
            Loss::Probability(_) => {}
        }
        if let Some(reorder) = self.reorder {
            if reorder.every_nth < 2 || reorder.extra_delay.is_zero() {
                return refuse("reorder", "needs every_nth of 2 or more and a delay".to_owned());
            }
            if reorder.extra_delay > DELAY_MAX {
                return refuse("reorder", format!("waits longer than {DELAY_MAX:?}"));
            }
        }
        if self.duplicate_every_nth == Some(0) {
            return refuse("duplicate_every_nth", "is 0; use 1 or more".to_owned());
        }
        if let Some(rate) = self.rate_bits_per_s {
            if !(1_000..=RATE_BITS_PER_S_MAX).contains(&rate) {
                return refuse(
                    "rate_bits_per_s",
                    format!("is {rate}; use 1000 to {RATE_BITS_PER_S_MAX}"),
                );
            }
            if self.queue_bytes < 2_000 {
                let problem = format!(
                    "is {}; a rate needs room for a frame (2000 bytes or more)",
                    self.queue_bytes
                );
                return refuse("queue_bytes", problem);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clean_plan_is_accepted_and_a_round_trip_is_halved() {
        let plan = Plan::new("ok").with_rtt(Duration::from_millis(21));
        assert!(plan.check().is_ok());
        assert_eq!(plan.to_server.delay + plan.to_client.delay, Duration::from_millis(21));
    }

    #[test]
    fn plans_that_cannot_be_built_name_the_field() {
        let field = |plan: Plan| match plan.check() {
            Err(LabError::Plan { field, .. }) => field,
            other => panic!("accepted: {other:?}"),
        };
        assert_eq!(field(Plan::new("Not Plain")), "label");
        assert_eq!(field(Plan::direct("x").with_rtt(Duration::from_millis(1))), "direct");
        assert_eq!(field(Plan::new("x").with_loss(Loss::EveryNthData(1))), "loss");
        assert_eq!(field(Plan::new("x").with_loss(Loss::Probability(f64::NAN))), "loss");
        let mut narrow = Plan::new("x");
        narrow.to_client.rate_bits_per_s = Some(1_000_000);
        assert_eq!(field(narrow), "queue_bytes");
    }
}
