//! Links inside the documentation: each leads to a file that exists, and to a heading that exists. Must never
//! follow a link out of the repository.

use super::{Broken, files::Tree};
use std::{
    ffi::OsStr,
    path::{Component, Path, PathBuf},
};

pub(super) fn check(tree: &Tree) -> Vec<Broken> {
    let mut broken = Vec::new();
    for (path, text) in tree.with_extension("md") {
        for (number, target) in links(text) {
            if let Err(why) = resolve(tree, path, target) {
                broken.push(Broken::new(path, number, "link", why));
            }
        }
    }
    broken
}

/// The targets of `[text](target)` with their lines, outside of code.
fn links(text: &str) -> Vec<(usize, &str)> {
    let mut found = Vec::new();
    let mut fenced = false;
    for (number, line) in text.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        }
        if fenced {
            continue;
        }
        let outside_code = line.split('`').step_by(2);
        for piece in outside_code {
            for (at, _) in piece.match_indices("](") {
                let rest = &piece[at + 2..];
                if let Some(end) = rest.find(')') {
                    let target = rest[..end].split(' ').next().unwrap_or_default();
                    found.push((number + 1, target));
                }
            }
        }
    }
    found
}

fn resolve(tree: &Tree, from: &Path, target: &str) -> Result<(), String> {
    let outside = ["http://", "https://", "mailto:"];
    if outside.iter().any(|scheme| target.starts_with(scheme)) {
        return Ok(());
    }
    let (path, heading) = target.split_once('#').unwrap_or((target, ""));
    let file = if path.is_empty() {
        from.to_path_buf()
    } else {
        normal(&from.parent().unwrap_or(from).join(path))
            .ok_or_else(|| format!("`{target}` leads out of the repository"))?
    };
    let exists = tree.sizes.keys().any(|known| known.starts_with(&file));
    if !exists {
        return Err(format!("`{target}` leads to `{}`, which does not exist", file.display()));
    }
    if heading.is_empty() || file.extension() != Some(OsStr::new("md")) {
        return Ok(());
    }
    let text = tree.texts.get(&file).map_or("", String::as_str);
    if headings(text).any(|known| known == heading) {
        Ok(())
    } else {
        Err(format!("`{}` has no heading `#{heading}`", file.display()))
    }
}

/// `a/../b` as `b`; `None` above the root.
fn normal(path: &Path) -> Option<PathBuf> {
    let mut parts: Vec<&OsStr> = Vec::new();
    for part in path.components() {
        match part {
            Component::Normal(name) => parts.push(name),
            Component::ParentDir => {
                parts.pop()?;
            }
            Component::CurDir => {}
            Component::RootDir | Component::Prefix(_) => return None,
        }
    }
    Some(parts.iter().collect())
}

/// Headings as GitHub and most renderers name them in links.
fn headings(text: &str) -> impl Iterator<Item = String> {
    text.lines().filter(|line| line.starts_with('#')).map(|line| {
        line.trim_start_matches('#')
            .trim()
            .to_lowercase()
            .chars()
            .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'))
            .map(|c| if c == ' ' { '-' } else { c })
            .collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complaints(text: &str) -> Vec<String> {
        let tree = Tree::of(&[
            ("docs/a.md", text),
            ("docs/b.md", "# Test tiers, T0 to T3\n"),
            ("README.md", "# R\n"),
            ("xtask/src/main.rs", "//! X.\n"),
        ]);
        check(&tree).iter().map(Broken::to_string).collect()
    }

    #[test]
    fn links_to_files_folders_and_headings_resolve() {
        let text = "# A\n[b](b.md) [r](../README.md) [x](../xtask/src) [w](https://x.y) [h](#a)\n\
                    [t](b.md#test-tiers-t0-to-t3)\n";

        assert_eq!(complaints(text), [""; 0]);
    }

    #[test]
    fn a_link_to_nothing_is_named_with_its_line() {
        let broken = complaints("# A\n\n[gone](gone.md)\n");

        assert!(broken[0].starts_with("docs/a.md:3: link: `gone.md` leads to"), "{broken:?}");
    }

    #[test]
    fn a_heading_that_is_gone_is_named() {
        assert!(complaints("[b](b.md#nothing)\n")[0].contains("no heading `#nothing`"));
    }

    #[test]
    fn a_link_out_of_the_repository_is_refused() {
        assert!(complaints("[b](../../etc/passwd)\n")[0].contains("out of the repository"));
    }

    #[test]
    fn code_is_not_searched_for_links() {
        assert_eq!(complaints("`[b](gone.md)`\n```\n[b](gone.md)\n```\n"), [""; 0]);
    }
}
