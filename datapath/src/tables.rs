//! The few table operations that the pipeline may use, so that kernel maps and host tables can stand behind it.

use crate::{flow_key::FlowKey, layout::FlowEntry, rtt::RttTicks, time::Ktime};

/// Where the pipeline keeps what it learns.
pub trait Tables {
    /// The flow of `key`, made and added to `created` when it is new; `None` when the table takes no more.
    fn flow(&mut self, key: &FlowKey, now: Ktime, created: &mut u64) -> Option<&mut FlowEntry>;

    /// A round trip was measured on data that the flow's `sender ^ 1` endpoint sent. The entry has it already.
    fn measured(&mut self, key: &FlowKey, acknowledger: u32, rtt: RttTicks);
}
