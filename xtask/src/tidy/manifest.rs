//! A manifest as the rules need it: which dependencies, in which table, on which line. Must never be used to
//! build anything: it reads the plain form that this workspace's manifests have.

/// One dependency of a package.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Dependency {
    pub(super) name: String,
    /// The table's name: `dependencies`, `dev-dependencies`, `target.'cfg(..)'.dependencies`, ...
    pub(super) table: String,
    pub(super) line: usize,
    /// Whether its version is the workspace's.
    pub(super) shared: bool,
}

/// Every dependency of a manifest.
pub(super) fn dependencies(manifest: &str) -> Vec<Dependency> {
    let mut found: Vec<Dependency> = Vec::new();
    let mut table = String::new();
    for (number, line) in manifest.lines().enumerate() {
        let line = line.split('#').next().unwrap_or_default().trim();
        if let Some(header) = line.strip_prefix('[') {
            table = header.trim_matches(['[', ']']).to_owned();
            // `[dependencies.name]` is a dependency of its own.
            if let Some((parent, name)) = table.rsplit_once('.')
                && is_dependency_table(parent)
            {
                let (name, table) = (name.to_owned(), parent.to_owned());
                found.push(Dependency { name, table, line: number + 1, shared: false });
            }
            continue;
        }
        let Some((key, value)) = line.split_once('=') else { continue };
        if is_dependency_table(&table) {
            let (name, suffix) = key.trim().split_once('.').unwrap_or_else(|| (key.trim(), ""));
            let shared = suffix == "workspace" || value.contains("workspace = true");
            let name = name.trim_matches('"').to_owned();
            found.push(Dependency { name, table: table.clone(), line: number + 1, shared });
        } else if let (Some((parent, _)), Some(last)) = (table.rsplit_once('.'), found.last_mut())
            && is_dependency_table(parent)
            && key.trim() == "workspace"
        {
            last.shared = true;
        }
    }
    found
}

/// Whether the package takes the workspace's lints.
pub(super) fn shares_lints(manifest: &str) -> bool {
    let mut lints = false;
    manifest.lines().map(str::trim).any(|line| {
        if line.starts_with('[') {
            lints = line == "[lints]";
        }
        lints && line.replace(' ', "") == "workspace=true"
    })
}

fn is_dependency_table(table: &str) -> bool {
    let last = table.rsplit_once('.').map_or(table, |(_, last)| last);
    matches!(last, "dependencies" | "dev-dependencies" | "build-dependencies")
        && !table.starts_with("workspace")
}

#[cfg(test)]
mod tests {
    use super::*;

    const MANIFEST: &str = r#"
[package]
name = "datapath"

[lints]
workspace = true

[dependencies]
zerocopy.workspace = true
tokio = { version = "1" } # why

[target.'cfg(target_arch = "bpf")'.dependencies]
aya-ebpf = { workspace = true }

[dev-dependencies.proptest]
workspace = true
"#;

    #[test]
    fn every_form_of_a_dependency_is_found() {
        let found = dependencies(MANIFEST);
        let short: Vec<_> = found
            .iter()
            .map(|one| (one.name.as_str(), one.table.as_str(), one.line, one.shared))
            .collect();

        assert_eq!(
            short,
            [
                ("zerocopy", "dependencies", 9, true),
                ("tokio", "dependencies", 10, false),
                ("aya-ebpf", "target.'cfg(target_arch = \"bpf\")'.dependencies", 13, true),
                ("proptest", "dev-dependencies", 15, true),
            ]
        );
    }

    #[test]
    fn the_workspaces_own_table_is_no_packages_table() {
        assert_eq!(dependencies("[workspace.dependencies]\nanyhow = \"1\"\n"), []);
    }

    #[test]
    fn lints_are_shared_or_not() {
        assert!(shares_lints(MANIFEST));
        assert!(!shares_lints("[package]\nworkspace = true\n[lints]\n[dependencies]\n"));
    }
}
