//! Rules in memory: for replays, and what the kernel's maps are held against.

use std::{collections::HashMap, vec::Vec};

use super::{Compiled, Rule, decide::Lookups};
use crate::{
    flow_key::{FlowKey, IpAddress},
    layout::{GENERATION_MAX, NetworkKey, RulePair, RuleRow, UNTRACKED_DEFAULT, set_of},
};

/// The rules in force on the host.
#[derive(Debug, Default)]
pub struct HostRules {
    generation: u8,
    tables: Option<Tables>,
    untracked: HashMap<FlowKey, [u32; 2]>,
}

#[derive(Debug)]
struct Tables {
    compiled: Compiled,
    networks: HashMap<NetworkKey, u32>,
    /// Lengths of the networks, the longest first.
    lengths: Vec<u32>,
}

impl HostRules {
    /// Puts rules in force.
    pub fn set(&mut self, rules: &[Rule]) {
        self.generation = if self.generation == GENERATION_MAX { 1 } else { self.generation + 1 };
        if self.generation == 1 {
            // Their stamps come again.
            self.untracked.clear();
        }
        let compiled = Compiled::new(rules);
        let networks: HashMap<_, _> = compiled.networks(self.set_in_force()).collect();
        let mut lengths: Vec<_> = networks.keys().map(|key| key.bits).collect();
        lengths.sort_unstable_by(|a, b| b.cmp(a));
        lengths.dedup();
        self.tables = Some(Tables { compiled, networks, lengths });
    }

    /// The generation in force; 0 before there were any rules.
    #[must_use]
    pub fn generation(&self) -> u32 {
        self.generation.into()
    }

    fn set_in_force(&self) -> u32 {
        set_of(self.generation())
    }

    fn tables(&self, set: u32) -> Option<&Tables> {
        self.tables.as_ref().filter(|_| set == self.set_in_force())
    }
}

impl Lookups for HostRules {
    fn address(&self, set: u32, ipv6: bool, address: &IpAddress) -> Option<&RulePair> {
        let tables = self.tables(set)?;
        let of_length = |bits: &u32| {
            let number = u128::from_be_bytes(address.octets());
            let prefix = bits - NetworkKey::of_network(set, ipv6, *address, 0).bits;
            let mask = u128::MAX.checked_shl(128 - prefix).unwrap_or(0);
            let masked = IpAddress::from_octets((number & mask).to_be_bytes());
            tables.networks.get(&NetworkKey::of_network(set, ipv6, masked, prefix))
        };
        let class = tables.lengths.iter().find_map(of_length).copied().unwrap_or(0);
        tables.compiled.addresses.get(class as usize)
    }

    fn port(&self, set: u32, port: u32) -> Option<&RulePair> {
        let compiled = &self.tables(set)?.compiled;
        let class = *compiled.port_classes.get(port as usize)?;
        compiled.ports.get(usize::from(class))
    }

    fn protocol(&self, set: u32, protocol: u8) -> Option<&RuleRow> {
        self.tables(set)?.compiled.protocols.get(usize::from(protocol))
    }

    fn hook(&self, set: u32, hook: u32) -> Option<&RuleRow> {
        self.tables(set)?.compiled.hooks.get(hook as usize)
    }

    fn action(&self, set: u32, rule: usize) -> u32 {
        self.tables(set).map_or(0, |tables| tables.compiled.actions[rule])
    }

    fn remembered(&mut self, key: &FlowKey, sender: u32) -> u32 {
        self.untracked.get(key).map_or(0, |decided| decided[(sender & 1) as usize])
    }

    fn remember(&mut self, key: &FlowKey, sender: u32, decided: u32) {
        if self.untracked.len() >= UNTRACKED_DEFAULT as usize && !self.untracked.contains_key(key) {
            self.untracked.clear();
        }
        self.untracked.entry(*key).or_default()[(sender & 1) as usize] = decided;
    }
}
