//! From the sources of `xdp` and `tc` to two BPF object files, or to a reason why there are none.
//! Must never take a failed compilation for a missing toolchain: the first is an error, the second is not.

mod build;
mod compiler;
mod embed;
mod environment;
mod linker;
mod record;
mod search;

use crate::workspace::Workspace;
use anyhow::{Result, bail};
use std::{fmt, path::PathBuf};

pub use build::Messages;
pub use compiler::{Compiler, CoreLibrary};
pub use embed::embed;
pub use environment::forget_outer_cargo;
pub use linker::{LINKER_VERSION, Linker, cache};
pub use record::Record;
pub use search::Search;

/// The target triple: little-endian BPF, as on x86-64 and arm64.
pub const TARGET: &str = "bpfel-unknown-none";

/// Environment variables that change which objects are built; each is documented in docs/development.md.
pub const VARIABLES: [&str; 4] =
    [search::SWITCH, search::RUSTC_OVERRIDE, search::CARGO_OVERRIDE, search::LINKER_OVERRIDE];

/// A compiler and a linker that speak the same LLVM bitcode.
#[derive(Debug, Clone)]
pub struct Toolchain {
    /// Compiles Rust to LLVM bitcode.
    pub compiler: Compiler,
    /// Turns the bitcode into one ELF object with BTF.
    pub linker: Linker,
}

impl fmt::Display for Toolchain {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}; {}", self.compiler, self.linker)
    }
}

/// Why there are no objects, and what the reader can do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotBuilt {
    /// What is missing, in one line.
    pub reason: String,
    /// What to run, in one line.
    pub remedy: String,
}

impl fmt::Display for NotBuilt {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}; {}", self.reason, self.remedy)
    }
}

/// The outcome of a search for a toolchain that did not find one.
#[derive(Debug)]
pub enum Unavailable {
    /// Nothing usable is installed: the workspace builds without objects.
    Missing(NotBuilt),
    /// A variable names a tool that cannot be used: the operator has to correct it.
    BadOverride(String),
}

/// The two object files, or why there are none.
#[derive(Debug)]
pub enum Objects {
    /// Both objects exist and are newer than their sources.
    Built {
        /// The XDP program's object file.
        xdp: PathBuf,
        /// The TC programs' object file.
        tc: PathBuf,
        /// What built them.
        toolchain: Toolchain,
    },
    /// No usable toolchain, or the operator switched it off.
    NotBuilt(NotBuilt),
}

/// Finds a toolchain and brings both objects up to date.
///
/// An error means that a toolchain is there and the build failed, or that an override is wrong; its text
/// holds the compiler's output where `messages` asked to capture it.
pub fn objects(workspace: &Workspace, record: &Record, messages: Messages) -> Result<Objects> {
    let search = Search::of_this_host();
    if let Some(not_built) = search.switched_off() {
        return Ok(Objects::NotBuilt(not_built));
    }
    let toolchain = match search.toolchain() {
        Ok(toolchain) => toolchain,
        Err(Unavailable::Missing(not_built)) => {
            record.update(None)?;
            return Ok(Objects::NotBuilt(not_built));
        }
        Err(Unavailable::BadOverride(message)) => bail!(message),
    };
    let _lock = record.update(Some(&toolchain))?;
    let (xdp, tc) = build::build(workspace, &toolchain, messages)?;
    Ok(Objects::Built { xdp, tc, toolchain })
}

/// Every file and folder whose change makes the objects stale, as far as they exist.
pub fn inputs(workspace: &Workspace) -> Vec<PathBuf> {
    let mut inputs = vec!["Cargo.toml".to_owned(), "Cargo.lock".to_owned()];
    for package in ["datapath", "xdp", "tc"] {
        for part in ["Cargo.toml", "build.rs", "src"] {
            inputs.push(format!("{package}/{part}"));
        }
    }
    inputs.iter().map(|path| workspace.root.join(path)).filter(|path| path.exists()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_inputs_cover_the_datapath_and_both_doors() {
        let root = Workspace::of_this_program().root;
        let inputs = inputs(&Workspace { root: root.clone(), target: root.join("target") });

        for path in ["Cargo.toml", "datapath/src", "xdp/src", "tc/src", "tc/Cargo.toml"] {
            assert!(inputs.contains(&root.join(path)), "{path}");
        }
    }
}
