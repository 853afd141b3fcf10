//! The appliance's process as a library: what `linnet` and the tests are made of.

pub mod board;
pub mod clock;
pub mod flow;
pub mod live;
