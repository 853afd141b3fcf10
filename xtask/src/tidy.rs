//! `cargo xtask tidy`: the architecture's invariants, as far as sources and manifests show them. Must never
//! change a file, and every complaint says where, which rule and why the rule exists.

mod files;
mod links;
mod manifest;
mod manifests;
mod sources;
mod text;

use crate::console::{Stopwatch, seconds};
use anyhow::Result;
use files::Tree;
use std::{
    fmt,
    path::{Path, PathBuf},
    process::ExitCode,
};

/// One place that breaks a rule.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Broken {
    /// Relative to the root.
    path: PathBuf,
    /// From 1; 0 where the whole file is meant.
    line: usize,
    rule: &'static str,
    why: String,
}

impl Broken {
    fn new(path: &Path, line: usize, rule: &'static str, why: impl Into<String>) -> Self {
        Self { path: path.to_path_buf(), line, rule, why: why.into() }
    }
}

impl fmt::Display for Broken {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { path, line, rule, why } = self;
        write!(out, "{}:{line}: {rule}: {why}", path.display())
    }
}

/// Checks everything and prints what is broken.
pub(crate) fn tidy(root: &Path) -> Result<ExitCode> {
    let clock = Stopwatch::start();
    let broken = broken(root)?;
    for one in &broken {
        println!("{one}");
    }
    println!("tidy: {} broken, {}", broken.len(), seconds(clock.elapsed()));
    Ok(if broken.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Everything that breaks a rule, by file and line.
pub(crate) fn broken(root: &Path) -> Result<Vec<Broken>> {
    let tree = Tree::read(root)?;
    let mut broken = files::check(&tree);
    broken.extend(sources::check(&tree));
    broken.extend(manifests::check(&tree));
    broken.extend(links::check(&tree));
    broken.sort();
    broken.dedup();
    Ok(broken)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_complaint_reads_as_place_rule_and_reason() {
        let broken = Broken::new(Path::new("tc/src/main.rs"), 3, "verdict", "linnet only passes");

        assert_eq!(broken.to_string(), "tc/src/main.rs:3: verdict: linnet only passes");
    }

    #[test]
    fn a_tree_that_keeps_the_rules_has_no_complaints() {
        let tree = Tree::of(&[
            ("datapath/src/lib.rs", "//! Packets.\n"),
            ("docs/a.md", "# A\nSee [b](b.md).\n"),
            ("docs/b.md", "# B\n"),
        ]);

        let mut broken = files::check(&tree);
        broken.extend(sources::check(&tree));
        broken.extend(manifests::check(&tree));
        broken.extend(links::check(&tree));

        assert_eq!(broken, []);
    }
}
