//! The tables of rules as kernel maps. What is in force is one look-up for each packet; the rest is asked for packets
//! of new flows, and of known ones after a change.

use aya_ebpf::maps::lpm_trie::Key;

use super::maps::{
    RULE_ACTIONS, RULE_ADDRESSES, RULE_HOOKS, RULE_NETWORKS, RULE_PORT_CLASSES, RULE_PORTS,
    RULE_PROTOCOLS, RULES_CONFIG, UNTRACKED,
};
use crate::{
    flow_key::{FlowKey, IpAddress},
    layout::{
        self, HOOKS_MAX, NetworkKey, RULE_ACTIONS_MAX, RULE_ADDRESS_CLASSES_MAX,
        RULE_PORT_CLASSES_MAX, RULE_PORT_WORDS, RulePair, RuleRow, Untracked,
    },
    rules::decide::{self, Lookups},
};

/// The generation in force; 0 before there were any rules.
#[inline(always)]
pub(super) fn generation() -> u32 {
    match RULES_CONFIG.get_ptr(0) {
        // SAFETY: the slot is always there. Volatile: the daemon writes it at any time.
        Some(config) => {
            u32::from(unsafe { core::ptr::read_volatile(&raw const (*config).generation) })
        }
        None => 0,
    }
}

/// The tables of rules.
pub(super) struct KernelRules;

impl Lookups for KernelRules {
    #[inline(always)]
    fn address(&self, set: u32, ipv6: bool, address: &IpAddress) -> Option<&RulePair> {
        let key = NetworkKey::of_address(set, ipv6, *address);
        // SAFETY: the two types are the same 24 bytes; the other one has no alignment of its own.
        let key = unsafe { &*core::ptr::from_ref(&key).cast::<Key<[u8; 20]>>() };
        let class = RULE_NETWORKS.get(key).copied().unwrap_or(0);
        RULE_ADDRESSES.get(set * RULE_ADDRESS_CLASSES_MAX + class)
    }

    #[inline(always)]
    fn port(&self, set: u32, port: u32) -> Option<&RulePair> {
        let four = RULE_PORT_CLASSES.get(set * RULE_PORT_WORDS + (port >> 2))?;
        let class = (*four >> ((port & 3) * 16)) as u32 & 0xffff;
        RULE_PORTS.get(set * RULE_PORT_CLASSES_MAX + class)
    }

    #[inline(always)]
    fn protocol(&self, set: u32, protocol: u8) -> Option<&RuleRow> {
        RULE_PROTOCOLS.get(set * layout::RULE_PROTOCOLS + u32::from(protocol))
    }

    #[inline(always)]
    fn hook(&self, set: u32, hook: u32) -> Option<&RuleRow> {
        RULE_HOOKS.get(set * HOOKS_MAX + hook)
    }

    #[inline(always)]
    fn action(&self, set: u32, rule: usize) -> u32 {
        RULE_ACTIONS.get(set * RULE_ACTIONS_MAX + rule as u32).copied().unwrap_or(decide::TRACK)
    }

    #[inline(always)]
    fn remembered(&mut self, key: &FlowKey, sender: u32) -> u32 {
        let Some(untracked) = UNTRACKED.get_ptr(key) else { return 0 };
        // SAFETY: the map keeps the element alive for this program run. Another CPU may write it meanwhile, each half
        // whole.
        let [lower, upper] = unsafe { (*untracked).decided };
        u32::from(if sender == 0 { lower } else { upper })
    }

    #[inline(always)]
    fn remember(&mut self, key: &FlowKey, sender: u32, decided: u32) {
        let decided = decided as u16;
        if let Some(untracked) = UNTRACKED.get_ptr_mut(key) {
            // SAFETY: as above.
            let [lower, upper] = unsafe { &mut (*untracked).decided };
            *(if sender == 0 { lower } else { upper }) = decided;
            return;
        }
        let decided = if sender == 0 { [decided, 0] } else { [0, decided] };
        // Where the kernel refuses, the rules are asked again.
        let _kept = UNTRACKED.insert(key, &Untracked { decided, _pad: 0 }, 0);
    }
}
