//! Which packages may depend on what: the arrows of docs/architecture.md. Must never judge versions; that is
//! cargo-deny's part.

use super::{
    Broken,
    files::Tree,
    manifest::{Dependency, dependencies, shares_lints},
};
use std::path::Path;

const KERNEL_TABLE: &str = "target.'cfg(target_arch = \"bpf\")'.dependencies";
const OURS: [&str; 9] =
    ["bench", "captures", "daemon", "datapath", "lab", "tc", "webui", "xdp", "xtask"];

/// A package whose dependencies are few and known.
struct Closed {
    package: &'static str,
    /// Tables and what they may hold; other tables of normal dependencies must be empty.
    allowed: &'static [(&'static str, &'static [&'static str])],
    why: &'static str,
}

const CLOSED: [Closed; 4] = [
    Closed {
        package: "datapath",
        allowed: &[("dependencies", &["zerocopy"]), (KERNEL_TABLE, &["aya-ebpf"])],
        why: "the datapath needs nothing but `core` and layouts",
    },
    Closed {
        package: "xdp",
        allowed: &[("dependencies", &["datapath"]), (KERNEL_TABLE, &["aya-ebpf"])],
        why: "a door contains nothing that would need more",
    },
    Closed {
        package: "tc",
        allowed: &[("dependencies", &["datapath"]), (KERNEL_TABLE, &["aya-ebpf"])],
        why: "a door contains nothing that would need more",
    },
    Closed {
        package: "xtask",
        allowed: &[("dependencies", &["anyhow", "nix", "serde_json", "signal-hook"])],
        why: "every build of the daemon builds it first",
    },
];

/// Packages that must not depend on some others, directly.
struct Apart {
    package: &'static str,
    from: &'static [&'static str],
    why: &'static str,
}

const APART: [Apart; 4] = [
    Apart {
        package: "captures",
        from: &["aya", "axum", "daemon", "hyper", "tokio", "tower-http", "webui"],
        why: "packets at rest need no runtime, no HTTP and no kernel",
    },
    Apart {
        package: "bench/lab",
        from: &OURS,
        why: "every crate's tests may use the lab, so it uses none of them",
    },
    Apart { package: "webui", from: &OURS, why: "the embedded page knows only bytes" },
    Apart {
        package: "daemon",
        from: &["xdp", "tc", "bench"],
        why: "the kernel programs reach the daemon as object files",
    },
];

pub(super) fn check(tree: &Tree) -> Vec<Broken> {
    let mut broken = Vec::new();
    for (path, text) in tree.with_extension("toml") {
        let is_package = path.file_name().is_some_and(|name| name == "Cargo.toml")
            && text.lines().any(|line| line.trim() == "[package]");
        if !is_package {
            continue;
        }
        let package = path.parent().unwrap_or(path).to_string_lossy();
        if !package.contains("fuzz") && !shares_lints(text) {
            let why = "add `[lints]` with `workspace = true`: all code follows the same lints";
            broken.push(Broken::new(path, 0, "shared lints", why));
        }
        for dependency in dependencies(text) {
            broken.extend(judge(path, &package, &dependency));
        }
    }
    broken
}

fn judge(path: &Path, package: &str, dependency: &Dependency) -> Vec<Broken> {
    let Dependency { name, table, line, shared } = dependency;
    let mut broken = Vec::new();
    let for_tests = table.ends_with("dev-dependencies");
    if !shared && !package.contains("fuzz") {
        let why = format!("`{name}`: its version belongs in `[workspace.dependencies]`");
        broken.push(Broken::new(path, *line, "shared version", why));
    }
    for closed in CLOSED.iter().filter(|closed| closed.package == package && !for_tests) {
        let known = closed
            .allowed
            .iter()
            .any(|(allowed, names)| allowed == table && names.contains(&name.as_str()));
        // Build scripts of the kernel packages run on the host and change nothing in the programs.
        if !known && table != "build-dependencies" {
            let why = format!("`{name}` in `[{table}]`: {}", closed.why);
            broken.push(Broken::new(path, *line, "closed dependencies", why));
        }
    }
    for apart in APART.iter().filter(|apart| apart.package == package) {
        let normal =
            table.ends_with("dependencies") && !for_tests && !table.ends_with("build-dependencies");
        if normal && apart.from.contains(&name.as_str()) {
            let why = format!("`{name}`: {}", apart.why);
            broken.push(Broken::new(path, *line, "direction of dependencies", why));
        }
    }
    broken
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(path: &str, tables: &str) -> Vec<String> {
        let manifest = format!("[package]\n[lints]\nworkspace = true\n{tables}");
        check(&Tree::of(&[(path, &manifest)]))
            .iter()
            .map(|broken| format!("{}:{}", broken.line, broken.rule))
            .collect()
    }

    #[test]
    fn the_datapath_takes_no_further_dependency() {
        assert_eq!(
            rules("datapath/Cargo.toml", "[dependencies]\nserde.workspace = true\n"),
            ["5:closed dependencies"]
        );
        assert_eq!(
            rules("datapath/Cargo.toml", "[dependencies]\nzerocopy.workspace = true\n"),
            [""; 0]
        );
        let tests = "[dev-dependencies]\nproptest.workspace = true\n";
        assert_eq!(rules("datapath/Cargo.toml", tests), [""; 0]);
    }

    #[test]
    fn aya_ebpf_is_for_the_kernel_target_alone() {
        let host = "[dependencies]\naya-ebpf.workspace = true\n";
        let kernel = format!("[{KERNEL_TABLE}]\naya-ebpf.workspace = true\n");

        assert_eq!(rules("xdp/Cargo.toml", host), ["5:closed dependencies"]);
        assert_eq!(rules("xdp/Cargo.toml", &kernel), [""; 0]);
    }

    #[test]
    fn the_lab_uses_none_of_our_crates() {
        assert_eq!(
            rules("bench/lab/Cargo.toml", "[dependencies]\ndatapath.workspace = true\n"),
            ["5:direction of dependencies"]
        );
    }

    #[test]
    fn captures_stay_free_of_tokio_except_in_nothing() {
        assert_eq!(
            rules("captures/Cargo.toml", "[dependencies]\ntokio.workspace = true\n"),
            ["5:direction of dependencies"]
        );
    }

    #[test]
    fn versions_are_the_workspaces() {
        assert_eq!(
            rules("daemon/Cargo.toml", "[dependencies]\nclap = \"4\"\n"),
            ["5:shared version"]
        );
    }

    #[test]
    fn a_package_without_the_lints_is_named() {
        let broken = check(&Tree::of(&[("a/Cargo.toml", "[package]\nname = \"a\"\n")]));

        assert_eq!(broken[0].rule, "shared lints");
    }
}
