//! The pipeline's tables as kernel maps. A pointer into a map outlives what it points to: an eviction may hand the
//! element to another flow meanwhile, and then one packet is booked on that one.

use core::marker::PhantomData;

use super::{
    Context,
    maps::{EMBRYONIC, ENDED, ENDED_KEY, FLOW_TEMPLATE, FLOWS, FRAGMENTS, SERVICE_LAST, SERVICES},
    rules::{self, KernelRules},
};
use crate::{
    atomic::{fetch_increment, unlock},
    flow_key::FlowKey,
    layout::{EMBRYONIC as EMBRYONIC_BIT, FlowEntry, SERVICES_MAX},
    parse::{
        Headers,
        fragment::{self, FirstFragment},
    },
    rules::decide,
    service,
    tables::Tables,
    time::Ktime,
};

/// `BPF_NOEXIST`: fail where another CPU made the entry first.
pub(super) const NO_EXIST: u64 = 1;

/// The maps, with the functions of a door.
pub(super) struct KernelTables<C>(PhantomData<C>);

impl<C> KernelTables<C> {
    pub(super) const fn new() -> Self {
        Self(PhantomData)
    }
}

impl<C: Context> Tables for KernelTables<C> {
    #[inline(always)]
    fn existing(&mut self, key: &FlowKey) -> Option<&mut FlowEntry> {
        let entry = match FLOWS.get_ptr_mut(key) {
            Some(entry) => entry,
            None => EMBRYONIC.get_ptr_mut(key)?,
        };
        // SAFETY: the map keeps the element alive for this program run (RCU); other CPUs may write it too, which
        // is what the atomic adds and the lock word are for.
        Some(unsafe { &mut *entry })
    }

    #[inline(always)]
    fn established(&mut self, key: &FlowKey) -> Option<&mut FlowEntry> {
        // SAFETY: as in `existing`.
        FLOWS.get_ptr_mut(key).map(|entry| unsafe { &mut *entry })
    }

    #[inline(always)]
    fn create(
        &mut self,
        headers: &Headers,
        now: Ktime,
        created: &mut u64,
    ) -> Option<&mut FlowEntry> {
        let template = FLOW_TEMPLATE.get_ptr_mut(0)?;
        // SAFETY: this CPU's slot; nothing but `initialize` ever writes it.
        let template = unsafe { &mut *template };
        template.initialize(now.0, headers);
        // Losing the race to another CPU is as good as winning it: the look-up finds its entry.
        if EMBRYONIC.insert(&headers.key, &*template, NO_EXIST).is_ok() {
            // Another CPU may have promoted the flow after the look-up in `FLOWS` missed it and before the one here did.
            // It puts the entry there before it takes it away here, so it is there now.
            if let Some(promoted) = FLOWS.get_ptr_mut(&headers.key) {
                let _own = EMBRYONIC.remove(&headers.key);
                // SAFETY: as in `existing`.
                return Some(unsafe { &mut *promoted });
            }
            *created += 1;
        }
        // SAFETY: as in `existing`.
        EMBRYONIC.get_ptr_mut(&headers.key).map(|entry| unsafe { &mut *entry })
    }

    #[inline(always)]
    fn promote(&mut self, key: &FlowKey) {
        // Evicted while its packet was booked.
        let Some(entry) = EMBRYONIC.get_ptr_mut(key) else { return };
        // SAFETY: as in `existing`; this CPU holds the entry's lock.
        let entry = unsafe { &mut *entry };
        entry.service = slot_of(key, entry);
        // The copy is locked and embryonic as well. Both are left so here: who has found this entry, and cannot lock
        // it, looks again and finds the other one.
        if FLOWS.insert(key, &*entry, NO_EXIST).is_err() {
            unlock(&mut entry.head.lock);
            return;
        }
        if let Some(entry) = FLOWS.get_ptr_mut(key) {
            // SAFETY: as in `existing`.
            let entry = unsafe { &mut *entry };
            entry.head.bits &= !EMBRYONIC_BIT;
            unlock(&mut entry.head.lock);
        }
        // Evicted by another CPU's packet: then it is gone already.
        let _gone = EMBRYONIC.remove(key);
    }

    #[inline(always)]
    fn settle(&mut self, _key: &FlowKey) {
        super::linnet_settle();
    }

    #[inline(always)]
    fn retire(&mut self, headers: &mut Headers) {
        let Some(ended) = ENDED_KEY.get_ptr_mut(0) else { return };
        let Some(entry) = FLOWS.get_ptr_mut(&headers.key) else { return };
        // SAFETY: this CPU's slot, and as in `existing`.
        unsafe {
            (*ended).key = headers.key;
            (*ended).first_seen_ns = (*entry).head.first_seen_ns;
            // Full, its history is lost, and it counts as evicted.
            let _kept = ENDED.insert(&*ended, &*entry, 0);
        }
        // Evicted by another CPU's packet: then it is gone already.
        let _gone = FLOWS.remove(&headers.key);
    }

    #[inline(always)]
    fn generation(&self) -> u32 {
        rules::generation()
    }

    #[inline(always)]
    fn judge(&mut self, headers: &Headers, stamp: u32) -> u32 {
        decide::judge(&mut KernelRules, &headers.key, headers.sender, stamp)
    }

    #[inline(always)]
    fn turn_away(&mut self, _headers: &mut Headers, stamp: u32, known: bool) -> bool {
        C::apply_rules(stamp, u32::from(known))
    }

    #[inline(always)]
    fn keep_first(&mut self, headers: &mut Headers, now: Ktime) {
        let first = FirstFragment::of(headers, now);
        // A full table makes room by itself; where the kernel refuses, the later fragments are counted.
        let _kept = fragment::with_key(headers, |key| FRAGMENTS.insert(key, &first, 0));
    }

    #[inline(always)]
    fn find_first(&mut self, headers: &mut Headers, now: Ktime) -> bool {
        match fragment::with_key(headers, |key| FRAGMENTS.get_ptr(key)) {
            // SAFETY: the map keeps the element alive for this program run; another CPU may replace it meanwhile,
            // as it may before.
            Some(first) => fragment::complete(headers, unsafe { &*first }, now),
            None => false,
        }
    }
}

/// The slot of a flow's service; a new one where it is new and there are any left.
#[inline(always)]
fn slot_of(key: &FlowKey, entry: &FlowEntry) -> u32 {
    let Some(service) = service::of(key, entry) else { return 0 };
    // SAFETY: a slot is written once, before it can be found.
    if let Some(slot) = unsafe { SERVICES.get(&service) } {
        return *slot;
    }
    let Some(last) = SERVICE_LAST.get_ptr_mut(0) else { return 0 };
    // SAFETY: the element is there for good; other CPUs only add to it.
    let last = unsafe { &mut *last };
    if *last + 1 >= SERVICES_MAX {
        return 0;
    }
    let slot = fetch_increment(last) + 1;
    if slot < SERVICES_MAX {
        // Another CPU may have been first with this service: then its slot is the one, and this one stays unused.
        let _first = SERVICES.insert(&service, &slot, NO_EXIST);
    }
    // SAFETY: as above.
    unsafe { SERVICES.get(&service) }.copied().unwrap_or(0)
}
