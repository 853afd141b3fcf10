//! What happens to a packet on its way through: parse, key, track, measure, count. The same code runs in the
//! kernel (behind the `xdp` and `tc` doors) and on the host (offline replay, tests). It never reads a clock,
//! allocates, does I/O or decides anything about the packet itself.
//!
//! Entry point: [`pipeline::process`]. What it leaves behind: the layouts in [`layout`].
//!
//! Invariants:
//! - exactly one [`Outcome`] is counted for each frame that a hook hands in;
//! - every loop has a bound named `*_MAX`;
//! - a packet's bytes are only read through [`PacketBytes::at`].
#![no_std]
#![cfg_attr(target_arch = "bpf", feature(core_intrinsics, asm_experimental_arch))]
#![cfg_attr(
    target_arch = "bpf",
    expect(
        internal_features,
        reason = "atomics on the bpf target exist only as compiler intrinsics"
    )
)]

#[cfg(not(target_arch = "bpf"))]
extern crate std;

mod atomic;
pub mod book;
pub mod bytes;
pub mod conntrack;
pub mod embryonic;
pub mod flow_key;
pub mod frame;
pub mod hint;
pub mod layout;
pub mod outcome;
pub mod parse;
pub mod pipeline;
pub mod rtt;
pub mod rules;
pub mod service;
pub mod tables;
pub mod tcp;
pub mod time;
pub mod views;

#[cfg(not(target_arch = "bpf"))]
pub mod frames;
#[cfg(target_arch = "bpf")]
pub mod kernel;
#[cfg(not(target_arch = "bpf"))]
pub mod replay;

pub use bytes::PacketBytes;
pub use conntrack::ConntrackState;
pub use flow_key::{FlowKey, IpAddress};
pub use frame::{Direction, Frame, Link};
pub use outcome::Outcome;
pub use time::Ktime;
