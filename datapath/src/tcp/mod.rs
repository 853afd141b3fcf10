//! The bounded per-direction segment tracker: classes of segments by Wireshark's rules, from fixed state.

pub mod classes;
mod sequence;
pub(crate) mod tracker;
pub mod verdict;

pub use sequence::{after, at_or_before, before};
pub use tracker::{has_answered, opens_anew, track};
