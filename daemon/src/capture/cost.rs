//! What a filter costs in this kernel: loaded by itself, and run on a packet of this module's own. Attaches nothing.

use captures::{Filter, LinkType};
use datapath::layout::Views;
use etherparse::PacketBuilder;
use serde::Serialize;

use crate::live::{
    Object,
    filters::{Alternative, FilterSet, FiltersError, Slot, Trial, View},
};

/// Payload of the packet.
const PAYLOAD: [u8; 1_448] = [0x5a; 1_448];
/// Runs in a row, and how often; the least counts.
const REPEATS: u32 = 100_000;
const ROUNDS: usize = 5;

/// What a filter costs on one kind of hook.
#[derive(Clone, Debug, Serialize)]
pub struct CostView {
    /// `xdp` or `tc`.
    pub hook: &'static str,
    /// Instructions that the verifier walked, each as often as it did.
    pub verified: u32,
    /// Bytes of machine code; 0 where the kernel interprets.
    pub jited_bytes: u32,
    /// Time for a TCP packet with 1,448 bytes of payload, less that of the same program with no filter wanted; whole ns.
    pub ns: u32,
    /// Whether that packet matches.
    pub matches: bool,
}

/// The filter as the only one of its program.
pub(super) fn program(filter: &Filter) -> FilterSet {
    let mut set = FilterSet::default();
    if let Some(slot) = Slot::new(0) {
        for alternative in Alternative::of(std::slice::from_ref(filter)) {
            set.push(slot, alternative);
        }
    }
    set
}

/// Loads and runs it. Needs what loading any program needs: root, or CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON.
pub(super) fn measure(filter: &Filter) -> Result<Vec<CostView>, FiltersError> {
    let set = program(filter);
    let mut views = views(filter.link_type());
    let mut costs = Vec::new();
    for (object, hook) in [(Object::Xdp, "xdp"), (Object::Tc, "tc")] {
        let trial = Trial::new()?;
        let program = trial.load(&set, object)?;
        let mut least = [u32::MAX; 2];
        for _ in 0..ROUNDS {
            for (wanted, least) in [0, 1].into_iter().zip(&mut least) {
                views.wanted = wanted;
                trial.put(&views)?;
                *least = program.run(REPEATS)?.ns.min(*least);
            }
        }
        let [idle, busy] = least;
        let cost = program.cost()?;
        costs.push(CostView {
            hook,
            verified: cost.verified,
            jited_bytes: cost.jited_bytes,
            ns: busy.saturating_sub(idle),
            matches: trial.matched()? != 0,
        });
    }
    Ok(costs)
}

/// The packet as the program before shows it: as it is, which is also without tags.
fn views(link_type: LinkType) -> Box<Views> {
    let (from, to) = ([10, 0, 0, 1], [10, 0, 0, 2]);
    let mut frame = Vec::new();
    let written = if link_type == LinkType::RAW {
        let tcp = PacketBuilder::ipv4(from, to, 64).tcp(40_000, 443, 1, 65_535);
        tcp.write(&mut frame, &PAYLOAD)
    } else {
        let ethernet = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
        let tcp = ethernet.ipv4(from, to, 64).tcp(40_000, 443, 1, 65_535);
        tcp.write(&mut frame, &PAYLOAD)
    };
    written.expect("a vector takes everything, and the payload is short");
    let mut views = Box::<Views>::default();
    let length = u32::try_from(frame.len()).expect("some hundred bytes");
    views.original_len = length;
    views.link = u32::from(link_type == LinkType::RAW);
    for view in [View::Wire, View::Untagged] {
        views.len[view as usize] = length;
    }
    views.bytes[..frame.len()].copy_from_slice(&frame);
    views
}
