//! The few table operations that the pipeline may use, so that kernel maps and host tables can stand behind it.

use crate::{flow_key::FlowKey, layout::FlowEntry, parse::Headers, rtt::RttTicks, time::Ktime};

/// Where the pipeline keeps what it learns.
pub trait Tables {
    /// The flow of the packet in `headers`, made and added to `created` when it is new; `None` when the table takes no
    /// more.
    fn flow(&mut self, headers: &Headers, now: Ktime, created: &mut u64) -> Option<&mut FlowEntry>;

    /// The flow of `key`, if there is one.
    fn existing(&mut self, key: &FlowKey) -> Option<&mut FlowEntry>;

    /// Keeps a first fragment's ports for the later ones.
    fn keep_first(&mut self, headers: &mut Headers, now: Ktime);

    /// Completes a later fragment's key; whether its first one is known.
    fn find_first(&mut self, headers: &mut Headers, now: Ktime) -> bool;

    /// A round trip was measured on data that the flow's `sender ^ 1` endpoint sent. The entry has it already.
    fn measured(&mut self, key: &FlowKey, acknowledger: u32, rtt: RttTicks);
}
