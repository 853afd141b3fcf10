//! The user-space flow table: what the kernel's entries become once they leave it. Pure: no clock, no I/O, no HTTP.

pub mod community_id;
pub mod events;
pub mod expiry;
mod histogram;
pub(crate) mod history;
pub mod id;
pub mod query;
pub mod record;
pub mod table;
pub mod view;

pub use events::EventStore;
pub use histogram::LatencySummary;
pub use history::RECORDS_DEFAULT;
pub use id::{FlowId, FlowIdSource};
pub use query::{FlowPage, FlowQuery, SortField};
pub use record::{FlowRecord, HalfRecord, RttSummary};
pub use table::FlowTable;
pub use view::{FlowView, LossView};
