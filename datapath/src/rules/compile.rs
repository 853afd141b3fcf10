//! From a list of rules to the tables that [`super::decide`] reads. Host only; the daemon writes them into the maps.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    vec::Vec,
};

use super::{
    Action, Network, Ports, Rule,
    decide::{IGNORE, TRACK},
};
use crate::layout::{HOOKS_MAX, NetworkKey, RULE_PROTOCOLS, RULES_MAX, RulePair, RuleRow};

/// The tables of one set.
#[derive(Clone, Debug)]
pub struct Compiled {
    /// Each network that a rule names, and its class.
    networks: Vec<(Network, u32)>,
    /// Rows by class of address; class 0 is of addresses in no network.
    pub addresses: Vec<RulePair>,
    /// Class of each port, and of [`NO_PORTS`](crate::layout::NO_PORTS).
    pub port_classes: Vec<u16>,
    /// Rows by class of port; class 0 is of packets without ports.
    pub ports: Vec<RulePair>,
    /// Rows by protocol.
    pub protocols: Vec<RuleRow>,
    /// Rows by observation point * 2 + direction.
    pub hooks: Vec<RuleRow>,
    /// What each rule says.
    pub actions: Vec<u32>,
}

impl Compiled {
    /// Compiles the rules, of which those beyond [`RULES_MAX`] are left out: who makes the list checks that.
    #[must_use]
    pub fn new(rules: &[Rule]) -> Self {
        let rules = &rules[..rules.len().min(RULES_MAX)];
        let (networks, addresses) = addresses(rules);
        let (port_classes, ports) = ports(rules);
        let is = |protocol: u32| {
            move |rule: &Rule| rule.protocol.is_none_or(|wanted| u32::from(wanted) == protocol)
        };
        let at = |hook: u32| {
            move |rule: &Rule| {
                rule.point.is_none_or(|point| point == hook / 2)
                    && rule.direction.is_none_or(|direction| direction as u32 == hook & 1)
            }
        };
        Self {
            networks,
            addresses,
            port_classes,
            ports,
            protocols: (0..RULE_PROTOCOLS).map(|protocol| row(rules, is(protocol))).collect(),
            hooks: (0..HOOKS_MAX).map(|hook| row(rules, at(hook))).collect(),
            actions: rules.iter().map(|rule| number(rule.action)).collect(),
        }
    }

    /// The networks' keys in a set, with their classes.
    pub fn networks(&self, set: u32) -> impl ExactSizeIterator<Item = (NetworkKey, u32)> {
        self.networks.iter().map(move |(network, class)| {
            let Network { address, ipv6, bits } = *network;
            (NetworkKey::of_network(set, ipv6, address, bits), *class)
        })
    }
}

const fn number(action: Action) -> u32 {
    match action {
        Action::Track => TRACK,
        Action::Ignore => IGNORE,
        Action::Sample(one_in) => one_in,
    }
}

/// The rules that hold in one dimension.
fn row(rules: &[Rule], holds: impl Fn(&Rule) -> bool) -> RuleRow {
    let mut row = RuleRow::default();
    for (number, rule) in rules.iter().enumerate() {
        if holds(rule) {
            row.words[number / 64] |= 1 << (number % 64);
        }
    }
    row
}

/// Rows that are different, each once, in the order of their first use.
#[derive(Default)]
struct Classes {
    rows: Vec<RulePair>,
    known: HashMap<RulePair, usize>,
}

impl Classes {
    fn of(&mut self, pair: RulePair) -> usize {
        *self.known.entry(pair).or_insert_with(|| {
            self.rows.push(pair);
            self.rows.len() - 1
        })
    }
}

/// A network's rows hold what every network around it asks for too: only the smallest one is looked up.
fn addresses(rules: &[Rule]) -> (Vec<(Network, u32)>, Vec<RulePair>) {
    let mut classes = Classes::default();
    classes.of(RulePair {
        own: row(rules, |rule| rule.network.is_none()),
        peer: row(rules, |rule| rule.peer_network.is_none()),
    });
    let mut seen = HashSet::new();
    let named = rules.iter().flat_map(|rule| [rule.network, rule.peer_network]).flatten();
    let networks = named.filter(|network| seen.insert(*network)).map(|network| {
        let holds = |wanted: Option<Network>| wanted.is_none_or(|it| it.contains(&network));
        let class = classes.of(RulePair {
            own: row(rules, |rule| holds(rule.network)),
            peer: row(rules, |rule| holds(rule.peer_network)),
        });
        // At most RULE_ADDRESS_CLASSES_MAX.
        (network, u32::try_from(class).unwrap_or(0))
    });
    (networks.collect(), classes.rows)
}

/// Ports between two neighbouring ends of ranges are of one class.
fn ports(rules: &[Rule]) -> (Vec<u16>, Vec<RulePair>) {
    let mut classes = Classes::default();
    classes.of(RulePair {
        own: row(rules, |rule| rule.port.is_none()),
        peer: row(rules, |rule| rule.peer_port.is_none()),
    });
    let ranges = rules.iter().flat_map(|rule| [rule.port, rule.peer_port]).flatten();
    let starts: BTreeSet<u32> = ranges
        .flat_map(|Ports { first, last }| [u32::from(first), u32::from(last) + 1])
        .chain([0])
        .filter(|start| *start <= u32::from(u16::MAX))
        .collect();
    let mut of_port = Vec::with_capacity(65_537);
    let ends = starts.iter().copied().skip(1).chain([65_536]);
    for (start, end) in starts.iter().copied().zip(ends) {
        let holds = |wanted: Option<Ports>| {
            wanted.is_none_or(|it| (u32::from(it.first)..=u32::from(it.last)).contains(&start))
        };
        let class = classes.of(RulePair {
            own: row(rules, |rule| holds(rule.port)),
            peer: row(rules, |rule| holds(rule.peer_port)),
        });
        // At most RULE_PORT_CLASSES_MAX.
        let class = u16::try_from(class).unwrap_or(0);
        of_port.extend((start..end).map(|_| class));
    }
    of_port.push(0);
    (of_port, classes.rows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::{RULE_ADDRESS_CLASSES_MAX, RULE_PORT_CLASSES_MAX};

    #[test]
    fn the_most_that_rules_can_ask_for_fits() {
        let rules: Vec<_> = (0..RULES_MAX)
            .map(|number| {
                let [.., high, low] = u32::try_from(number).unwrap().to_be_bytes();
                let first = u16::try_from(number * 32 + 1).unwrap();
                Rule {
                    network: Network::v4([10, high, low, 0], 24),
                    peer_network: Network::v4([11, high, low, 0], 24),
                    port: Some(Ports { first, last: first + 6 }),
                    peer_port: Some(Ports { first: first + 16, last: first + 22 }),
                    ..Rule::everything(Action::Sample(2))
                }
            })
            .collect();
        let compiled = Compiled::new(&rules);
        assert_eq!(compiled.addresses.len(), RULE_ADDRESS_CLASSES_MAX as usize);
        // All the gaps between the ranges are alike, and like having no ports.
        assert_eq!(compiled.ports.len(), 2 * RULES_MAX + 1);
        assert!(compiled.ports.len() <= RULE_PORT_CLASSES_MAX as usize);
        assert_eq!(compiled.port_classes.len(), 65_537);
    }

    #[test]
    fn without_rules_there_is_one_class_of_each() {
        let compiled = Compiled::new(&[]);
        assert_eq!((compiled.addresses.len(), compiled.ports.len()), (1, 1));
    }
}
