//! What the daemon's build script and the `cargo xtask` program share: where the workspace is, and how the
//! BPF objects are built. Must never print: a build script's standard output is read by cargo.

#![forbid(unsafe_code)]

pub mod bpf;
pub mod workspace;
