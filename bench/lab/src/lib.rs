//! The lab: small networks of namespaces with real sockets and known impairments, for the demo,
//! tests and benches. It never touches an interface or namespace that it did not make, and depends
//! on no other crate of the workspace.
//!
//! ```no_run
//! use std::time::Duration;
//! use lab::traffic::request_response::{self, RequestResponse};
//! use lab::{Lab, Loss, Plan};
//!
//! let plan = Plan::new("example")
//!     .with_rtt(Duration::from_millis(20))
//!     .with_loss(Loss::EveryNthData(50));
//! let lab = Lab::build(plan)?;
//! let measured = request_response::run(&lab, &RequestResponse::default())?;
//! println!("{} us, {:?}", measured.client.min_rtt_us, lab.report());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

pub mod capture;
pub mod clock;
pub mod demo;
mod error;
mod lab;
mod namespace;
mod offload;
mod plan;
mod prerequisites;
pub mod processor;
mod relay;
mod rng;
pub mod synth;
pub mod traffic;
mod wire;

pub use self::error::LabError;
pub use self::lab::{
    CLIENT_INTERFACE, Family, Lab, LabInterface, ROUTER_CLIENT_INTERFACE, ROUTER_SERVER_INTERFACE,
    SERVER_INTERFACE,
};
pub use self::namespace::{NAMESPACE_FOLDER, Namespace, reap_stale};
pub use self::plan::{
    DELAY_MAX, Impairment, LABEL_BYTES_MAX, Loss, Plan, RATE_BITS_PER_S_MAX, Reorder,
};
pub use self::prerequisites::{find_program, require_root, require_tool};
pub use self::relay::{
    DROPPED_MAX, DirectionReport, DropCause, DroppedFrame, DroppedSegment, LabReport,
};
