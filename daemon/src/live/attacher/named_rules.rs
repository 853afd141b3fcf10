//! The rules by the names of interfaces: what is in force follows the interfaces that come, go and change their names.

use datapath::{
    layout::RULES_MAX,
    rules::{Compiled, Rule},
};

use super::Attacher;
use crate::live::{AttachRequest, LiveError, RuleRequest};

impl Attacher {
    /// Refuses a rule of an interface that is not watched.
    pub(super) fn check_rules(&self, requests: &[RuleRequest]) -> Result<(), LiveError> {
        // One for an interface that has gone meanwhile waits for its return, as it did in the list before.
        let waits = |name: &str| {
            self.rule_requests.iter().any(|known| known.interface.as_deref() == Some(name))
        };
        for (rule, request) in requests.iter().enumerate() {
            let Some(name) = &request.interface else { continue };
            if self.point_of(name, None).is_none() && !waits(name) {
                let names = self.points.values().map(|held| format!("`{}`", held.request));
                let watched = match names.collect::<Vec<_>>() {
                    names if names.is_empty() => "no interface is".to_owned(),
                    names => format!("watched are {}", names.join(", ")),
                };
                return Err(LiveError::RuleInterface { rule, interface: name.clone(), watched });
            }
        }
        Ok(())
    }

    /// Puts a list in force; a rule of an interface that is not there waits for it.
    pub(super) fn set_rules(&mut self, requests: Vec<RuleRequest>) -> Result<u64, LiveError> {
        if requests.len() > RULES_MAX {
            return Err(LiveError::TooManyRules { count: requests.len(), max: RULES_MAX });
        }
        self.write_rules(&requests, None)?;
        self.rule_requests = requests;
        self.rule_changes += 1;
        Ok(self.rule_changes)
    }

    /// Puts the rules in force again where one of them names an interface that has come, gone or another name.
    pub(super) fn refresh_rules(
        &mut self,
        changed: &[&AttachRequest],
        come: Option<(u32, &AttachRequest)>,
    ) {
        let names: Vec<_> = changed.iter().map(ToString::to_string).collect();
        let is_changed =
            |rule: &RuleRequest| rule.interface.as_ref().is_some_and(|name| names.contains(name));
        if !self.rule_requests.iter().any(is_changed) {
            return;
        }
        let requests = std::mem::take(&mut self.rule_requests);
        if let Err(error) = self.write_rules(&requests, come) {
            tracing::error!(%error, "rules for an interface that changed are not in force");
        }
        self.rule_requests = requests;
    }

    /// Writes the rules of interfaces that are there; a rule of another one has nothing to match.
    fn write_rules(
        &mut self,
        requests: &[RuleRequest],
        come: Option<(u32, &AttachRequest)>,
    ) -> Result<(), LiveError> {
        let resolve = |request: &RuleRequest| match &request.interface {
            None => Some(Rule { point: None, ..request.rule }),
            Some(name) => {
                self.point_of(name, come).map(|point| Rule { point: Some(point), ..request.rule })
            }
        };
        let rules: Vec<_> = requests.iter().filter_map(resolve).collect();
        self.rules.set(&Compiled::new(&rules)).map(drop)
    }

    /// The observation point of an interface that is watched, or of the one that comes.
    fn point_of(&self, name: &str, come: Option<(u32, &AttachRequest)>) -> Option<u32> {
        let held = self.points.iter().map(|(point, held)| (*point, &held.request));
        let mut points = held.chain(come);
        points.find(|(_, request)| request.to_string() == name).map(|(point, _)| point)
    }
}
