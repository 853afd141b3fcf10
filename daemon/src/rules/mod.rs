//! The rules in force: read from texts, put in force as a whole, and shown. Knows neither HTTP nor the kernel.

mod json;
pub mod text;

use std::sync::{Mutex, PoisonError};

use crate::{
    board::Published,
    live::{LiveError, RuleRequest},
};
pub use json::read_json;
pub use text::{ReadRule, RuleError, RuleView};

/// What puts rules in force, and says how often it has.
pub trait RuleSink: Send + Sync {
    /// All of them, in place of those before. After an error those before are in force.
    fn set(&self, rules: Vec<RuleRequest>) -> Result<u64, RulesError>;

    /// The same with those that were in force before this process: what they name need not be there.
    fn restore(&self, rules: Vec<RuleRequest>) -> Result<u64, RulesError> {
        self.set(rules)
    }

    /// Keeps those in force for whoever comes after this process.
    fn keep(&self, _rules: &[RuleView]) {}
}

/// A list that was not put in force.
#[derive(Debug, thiserror::Error)]
pub enum RulesError {
    /// It cannot be used.
    #[error(transparent)]
    Rule(#[from] RuleError),
    /// There are no rules in this mode.
    #[error("rules need the live datapath; {0}")]
    Unavailable(&'static str),
    /// The kernel refused.
    #[error("the rules before are still in force: {0}")]
    Failed(Box<LiveError>),
}

impl From<LiveError> for RulesError {
    fn from(error: LiveError) -> Self {
        if let Some(rule) = error.rule() {
            let (key, problem) = ("interface".to_owned(), error.to_string());
            return Self::Rule(RuleError::Field { rule, key, problem });
        }
        Self::Failed(Box::new(error))
    }
}

/// A replay has one table, and every packet of the file is in it.
#[derive(Debug)]
pub struct NoRules;

impl RuleSink for NoRules {
    fn set(&self, _rules: Vec<RuleRequest>) -> Result<u64, RulesError> {
        Err(RulesError::Unavailable(
            "a replay tracks every packet of its file: run linnet on an interface",
        ))
    }
}

/// A list and how many came before it.
#[derive(Clone, Debug, Default)]
pub struct InForce {
    /// Changes since the tables were made; 0 before the first.
    pub generation: u64,
    /// The rules in their order.
    pub rules: Vec<RuleView>,
}

/// The rules of the running daemon.
pub struct Rules {
    /// Held while rules are put in force, so that what is shown is what came last.
    sink: Mutex<Box<dyn RuleSink>>,
    in_force: Published<InForce>,
}

impl std::fmt::Debug for Rules {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Rules").field("in_force", &self.in_force).finish_non_exhaustive()
    }
}

impl Rules {
    /// No rules yet.
    #[must_use]
    pub fn new(sink: Box<dyn RuleSink>) -> Self {
        Self { sink: Mutex::new(sink), in_force: Published::default() }
    }

    /// Puts a list in force. May wait for the kernel.
    pub fn set(&self, rules: Vec<ReadRule>) -> Result<InForce, RulesError> {
        self.put(rules, |sink, requests| sink.set(requests))
    }

    /// Puts a list in force again that was in force before this process.
    pub fn restore(&self, rules: Vec<ReadRule>) -> Result<InForce, RulesError> {
        self.put(rules, |sink, requests| sink.restore(requests))
    }

    fn put(
        &self,
        rules: Vec<ReadRule>,
        set: impl FnOnce(&dyn RuleSink, Vec<RuleRequest>) -> Result<u64, RulesError>,
    ) -> Result<InForce, RulesError> {
        let sink = self.sink.lock().unwrap_or_else(PoisonError::into_inner);
        let (views, requests): (Vec<_>, _) =
            rules.into_iter().map(|rule| (rule.view, rule.request)).unzip();
        let generation = set(&**sink, requests)?;
        sink.keep(&views);
        let in_force = InForce { generation, rules: views };
        self.in_force.publish(in_force.clone());
        tracing::info!(generation, rules = in_force.rules.len(), "rules in force");
        Ok(in_force)
    }

    /// Those in force.
    #[must_use]
    pub fn in_force(&self) -> std::sync::Arc<InForce> {
        self.in_force.latest()
    }
}
