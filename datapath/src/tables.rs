//! The few table operations that the pipeline may use, so that kernel maps and host tables can stand behind it.

#[cfg(not(target_arch = "bpf"))]
use crate::frame::Frame;
use crate::{
    book, flow_key::FlowKey, layout::FlowEntry, parse::Headers, rtt::RttTicks, time::Ktime,
};

/// A round trip that a packet completed.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// How long it took.
    pub rtt: RttTicks,
    /// Endpoint whose acknowledgment completed it: it was measured on data that the other one sent.
    pub acknowledger: u32,
    /// [`FlowEntry::service`] of its flow.
    pub service: u32,
    /// Whether that is the originator.
    pub from_originator: bool,
}

/// Where the pipeline keeps what it learns.
pub trait Tables {
    /// The flow of `key`, if there is one, embryonic or not.
    fn existing(&mut self, key: &FlowKey) -> Option<&mut FlowEntry>;

    /// The same, unless it is embryonic.
    fn established(&mut self, key: &FlowKey) -> Option<&mut FlowEntry>;

    /// A new flow for the packet in `headers`, embryonic and added to `created`; `None` when the table takes no more.
    fn create(
        &mut self,
        headers: &Headers,
        now: Ktime,
        created: &mut u64,
    ) -> Option<&mut FlowEntry>;

    /// Moves a flow that is embryonic, and locked, to the flow table, and unlocks it there.
    fn promote(&mut self, key: &FlowKey);

    /// Waits, within bounds, until the embryonic flow of `key` is not locked, or has been promoted.
    fn settle(&mut self, key: &FlowKey);

    /// Takes the flow of the packet in `headers` out, which is established and locked: it has ended, and whoever keeps
    /// its history is to get it.
    fn retire(&mut self, headers: &mut Headers);

    /// Generation of the rules in force; 0 before there were any.
    fn generation(&self) -> u32;

    /// [`crate::rules::decide::judge`] on the packet in `headers`.
    fn judge(&mut self, headers: &Headers, stamp: u32) -> u32;

    /// [`book::turn_away`]; in the kernel in a function of its own.
    #[inline(always)]
    fn turn_away(&mut self, headers: &mut Headers, stamp: u32, known: bool) -> bool
    where
        Self: Sized,
    {
        book::turn_away(self, headers, stamp, known)
    }

    /// Keeps a first fragment's ports for the later ones.
    fn keep_first(&mut self, headers: &mut Headers, now: Ktime);

    /// Completes a later fragment's key; whether its first one is known.
    fn find_first(&mut self, headers: &mut Headers, now: Ktime) -> bool;

    /// A round trip was measured on the flow of `key`. The entry has it already. In the kernel a function of its own does
    /// this.
    #[cfg(not(target_arch = "bpf"))]
    fn measured(&mut self, key: &FlowKey, sample: Sample);

    /// The whole TCP segment in `headers` was classified, and is in the entry of its flow: time to complete the verdict on
    /// it. In the kernel a function of its own does this.
    #[cfg(not(target_arch = "bpf"))]
    fn classified(&mut self, headers: &mut Headers, frame: &Frame);

    /// An ICMP error quotes the packet in `headers`. The flow's entry has it already.
    #[cfg(not(target_arch = "bpf"))]
    fn noted(&mut self, headers: &Headers, frame: &Frame);
}
