//! The rules of a daemon on its way to the attacher, and their text, which outlives both.

use std::sync::Arc;

use sha2::{Digest as _, Sha256};

use crate::{
    live::{Answer, Keeper, Remote, RuleRequest, Verb},
    rules::{ReadRule, RuleSink, RuleView, Rules, RulesError, text::read_list},
};

/// The attacher, to whoever asks for rules, and where they are kept.
#[derive(Debug)]
pub struct LiveRules {
    /// The attacher.
    pub remote: Remote,
    /// Where they are kept.
    pub keeper: Arc<Keeper>,
    /// [`fingerprint`] of the configuration's rules.
    pub configured: String,
}

impl LiveRules {
    fn perform(&self, verb: &Verb) -> Result<u64, RulesError> {
        match self.remote.perform(verb)? {
            Answer::RulesSet { generation } => Ok(generation),
            Answer::Watched(_) | Answer::Done => Ok(0),
        }
    }
}

impl RuleSink for LiveRules {
    fn set(&self, rules: Vec<RuleRequest>) -> Result<u64, RulesError> {
        self.perform(&Verb::SetRules(rules))
    }

    fn restore(&self, rules: Vec<RuleRequest>) -> Result<u64, RulesError> {
        self.perform(&Verb::RestoreRules(rules))
    }

    fn keep(&self, rules: &[RuleView]) {
        let text = serde_json::json!({ "configured": self.configured, "rules": rules }).to_string();
        if let Err(error) = self.keeper.keep_rules(&text) {
            tracing::warn!(%error, "after a restart of the daemon the configuration's rules will be in force");
        }
    }
}

/// What tells the rules of one configuration from those of another.
#[must_use]
pub fn fingerprint(rules: &[ReadRule]) -> String {
    let views: Vec<_> = rules.iter().map(|rule| &rule.view).collect();
    let digest = Sha256::digest(serde_json::json!(views).to_string());
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Puts an earlier daemon's rules in force again, as far as they can be, unless the configuration's have been changed
/// since. Returns whether they are.
pub fn restore(rules: &Rules, text: &str, configured: &[ReadRule]) -> bool {
    let read = serde_json::from_str::<serde_json::Value>(text).map_err(|error| error.to_string());
    if read.as_ref().is_ok_and(|kept| kept["configured"] != fingerprint(configured)) {
        tracing::info!(
            "the configuration's rules are others than they were: they are put in force"
        );
        return false;
    }
    let read = read.map(|mut kept| serde_json::json!({ "rules": kept["rules"].take() }));
    let read = read.and_then(|list| read_list(list).map_err(|error| error.to_string()));
    let set = read.and_then(|list| rules.restore(list).map_err(|error| error.to_string()));
    if let Err(error) = &set {
        tracing::error!(%error, "the rules of the daemon before cannot be used again");
    }
    set.is_ok()
}
