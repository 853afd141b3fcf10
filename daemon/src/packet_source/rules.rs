//! Rules on their way to the thread that reads the sockets. They last as long as the daemon: what comes after it begins with
//! the configuration's.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
    mpsc,
};

use datapath::{layout::RULES_MAX, rules::Rule};

use crate::{
    live::{LiveError, Opened, RuleRequest},
    rules::{RuleSink, RulesError},
};

/// Lists that wait for that thread, which takes them before each packet.
const LISTS_MAX: usize = 4;

/// What puts rules in force where sockets are read.
#[derive(Clone, Debug)]
pub struct SocketRules {
    /// Each at the place of its observation point, from 1.
    interfaces: Vec<String>,
    lists: mpsc::SyncSender<Vec<Rule>>,
    changes: Arc<AtomicU64>,
}

impl SocketRules {
    /// For the interfaces of these sockets; and what reads them takes lists there.
    #[must_use]
    pub fn new(opened: &[Opened]) -> (Self, mpsc::Receiver<Vec<Rule>>) {
        let (lists, taken) = mpsc::sync_channel(LISTS_MAX);
        let interfaces = opened.iter().map(|opened| opened.interface.name.clone()).collect();
        (Self { interfaces, lists, changes: Arc::default() }, taken)
    }

    /// A rule by its interface's observation point.
    fn resolved(&self, rule: usize, request: &RuleRequest) -> Result<Rule, LiveError> {
        let Some(name) = &request.interface else {
            return Ok(Rule { point: None, ..request.rule });
        };
        let mut points = (1..).zip(&self.interfaces);
        if let Some((point, _)) = points.find(|(_, known)| *known == name) {
            return Ok(Rule { point: Some(point), ..request.rule });
        }
        let names: Vec<_> = self.interfaces.iter().map(|name| format!("`{name}`")).collect();
        let watched = format!("watched are {}", names.join(", "));
        Err(LiveError::RuleInterface { rule, interface: name.clone(), watched })
    }
}

impl RuleSink for SocketRules {
    fn set(&self, rules: Vec<RuleRequest>) -> Result<u64, RulesError> {
        if rules.len() > RULES_MAX {
            return Err(LiveError::TooManyRules { count: rules.len(), max: RULES_MAX }.into());
        }
        let resolved: Result<Vec<_>, _> =
            rules.iter().enumerate().map(|(rule, request)| self.resolved(rule, request)).collect();
        self.lists.send(resolved?).map_err(|_| {
            RulesError::Unavailable("the thread that reads the sockets has ended: restart linnet")
        })?;
        Ok(self.changes.fetch_add(1, Ordering::Relaxed) + 1)
    }
}

#[cfg(test)]
mod tests {
    use datapath::rules::Action;

    use super::*;

    #[test]
    fn a_rule_is_for_an_interface_that_is_read() {
        let (lists, taken) = mpsc::sync_channel(LISTS_MAX);
        let interfaces = vec!["eth0".to_owned(), "blue/eth0".to_owned()];
        let sink = SocketRules { interfaces, lists, changes: Arc::default() };
        let rule = |name: &str| RuleRequest {
            rule: Rule::everything(Action::Ignore),
            interface: Some(name.to_owned()),
        };
        assert_eq!(sink.set(vec![rule("blue/eth0")]).unwrap(), 1);
        assert_eq!(taken.recv().unwrap()[0].point, Some(2));
        let said = sink.set(vec![rule("eth0"), rule("eth9")]).unwrap_err().to_string();
        assert!(said.contains("`eth9`") && said.contains("`blue/eth0`"), "{said}");
        assert!(taken.try_recv().is_err(), "all or none");
        drop(taken);
        assert!(matches!(sink.set(Vec::new()), Err(RulesError::Unavailable(_))));
    }
}
