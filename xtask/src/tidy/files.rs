//! The files of the workspace, and the rules about a file as such: size, first line, name, open ends. Must
//! never look into build output or packages of others.

use super::Broken;
use anyhow::{Context, Result};
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

/// A file tells one story.
const LINES_MAX: usize = 600;
/// Sample captures are made small; anything larger belongs in a generator.
const CAPTURE_BYTES_MAX: u64 = 1 << 20;
/// Text files beyond this are data.
const TEXT_BYTES_MAX: u64 = 4 << 20;

/// Folders that hold what tools made.
const MADE_BY_TOOLS: [&str; 4] = ["target", ".git", "node_modules", "dist"];

const CAPTURES: [&str; 3] = ["pcap", "pcapng", "cap"];
const TEXTS: [&str; 10] = ["rs", "md", "toml", "ts", "svelte", "js", "sh", "py", "html", "yml"];

/// Names that say nothing about what is inside.
const DRAWERS: [&str; 5] = ["common", "helpers", "misc", "util", "utils"];

/// Marks of unfinished work, in pieces so that this file does not contain them.
const UNFINISHED: [&str; 3] = [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X")];

/// A snapshot of the workspace: texts by path, and the sizes of everything.
#[derive(Debug, Default)]
pub(super) struct Tree {
    pub(super) texts: BTreeMap<PathBuf, String>,
    pub(super) sizes: BTreeMap<PathBuf, u64>,
}

impl Tree {
    pub(super) fn read(root: &Path) -> Result<Self> {
        let mut tree = Self::default();
        tree.add(root, root)?;
        Ok(tree)
    }

    fn add(&mut self, root: &Path, folder: &Path) -> Result<()> {
        let entries =
            fs::read_dir(folder).with_context(|| format!("cannot read `{}`", folder.display()))?;
        for entry in entries {
            let entry = entry.with_context(|| format!("cannot read `{}`", folder.display()))?;
            let (name, path) = (entry.file_name(), entry.path());
            let about = fs::symlink_metadata(&path)
                .with_context(|| format!("cannot read `{}`", path.display()))?;
            if about.is_dir() {
                if !MADE_BY_TOOLS.iter().any(|made| name == *made) {
                    self.add(root, &path)?;
                }
                continue;
            }
            let relative = path.strip_prefix(root).unwrap_or(&path).to_path_buf();
            self.sizes.insert(relative.clone(), about.len());
            if about.is_file() && about.len() <= TEXT_BYTES_MAX && is_text(&relative) {
                let bytes =
                    fs::read(&path).with_context(|| format!("cannot read `{}`", path.display()))?;
                self.texts.insert(relative, String::from_utf8_lossy(&bytes).into_owned());
            }
        }
        Ok(())
    }

    /// The texts with this extension.
    pub(super) fn with_extension(&self, wanted: &str) -> impl Iterator<Item = (&Path, &str)> {
        self.texts
            .iter()
            .filter(move |(path, _)| extension(path) == wanted)
            .map(|(path, text)| (path.as_path(), text.as_str()))
    }
}

#[cfg(test)]
impl Tree {
    /// A tree that exists only in a test.
    pub(super) fn of(files: &[(&str, &str)]) -> Self {
        let mut tree = Self::default();
        for (path, text) in files {
            tree.texts.insert(PathBuf::from(path), (*text).to_owned());
            tree.sizes.insert(PathBuf::from(path), u64::try_from(text.len()).unwrap());
        }
        tree
    }
}

pub(super) fn check(tree: &Tree) -> Vec<Broken> {
    let mut broken = Vec::new();
    for (path, text) in tree.with_extension("rs") {
        if !text.starts_with("//!") {
            broken.push(Broken::new(path, 1, "first line", FIRST_LINE));
        }
        let lines = text.lines().count();
        if lines > LINES_MAX {
            let why = format!("{lines} lines, at most {LINES_MAX}: split it where the story turns");
            broken.push(Broken::new(path, LINES_MAX + 1, "file length", why));
        }
        let stem = path.file_stem().unwrap_or_default();
        if DRAWERS.iter().any(|drawer| stem == *drawer) {
            broken.push(Broken::new(path, 0, "file name", "name what is inside: drawers fill up"));
        }
    }
    for (path, text) in &tree.texts {
        for (number, line) in text.lines().enumerate() {
            if UNFINISHED.iter().any(|mark| super::text::has_word(line, mark)) {
                let why = "finish it, or write an issue: marks in the code are forgotten";
                broken.push(Broken::new(path, number + 1, "unfinished", why));
            }
        }
    }
    for (path, bytes) in &tree.sizes {
        if CAPTURES.contains(&extension(path)) && *bytes > CAPTURE_BYTES_MAX {
            let why =
                format!("{bytes} bytes, at most {CAPTURE_BYTES_MAX}: generate large captures");
            broken.push(Broken::new(path, 0, "capture size", why));
        }
    }
    broken
}

const FIRST_LINE: &str = "begin with `//!`: what the file owns, and what it must never do";

fn extension(path: &Path) -> &str {
    path.extension().and_then(|extension| extension.to_str()).unwrap_or_default()
}

fn is_text(path: &Path) -> bool {
    TEXTS.contains(&extension(path)) || path.starts_with(".ci")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(files: &[(&str, &str)]) -> Vec<String> {
        check(&Tree::of(files)).iter().map(Broken::to_string).collect()
    }

    #[test]
    fn a_file_without_its_first_line_is_named() {
        let broken = rules(&[("tc/src/main.rs", "fn main() {}\n")]);

        assert!(broken[0].starts_with("tc/src/main.rs:1: first line:"), "{broken:?}");
    }

    #[test]
    fn a_long_file_is_named_where_it_becomes_too_long() {
        let text = format!("//! Long.\n{}", "//\n".repeat(LINES_MAX));
        let broken = rules(&[("daemon/src/app.rs", &text)]);

        assert!(broken[0].starts_with("daemon/src/app.rs:601: file length:"), "{broken:?}");
    }

    #[test]
    fn unfinished_work_is_found_in_code_and_prose_but_not_inside_words() {
        let mark = UNFINISHED[0];
        let code = format!("//! A.\n// {mark}: later\n");
        let prose = format!("{mark}S are fine as part of a word\n");

        let broken = rules(&[("a/src/lib.rs", &code), ("docs/b.md", &prose)]);

        assert_eq!(broken.len(), 1);
        assert!(broken[0].starts_with("a/src/lib.rs:2: unfinished:"), "{broken:?}");
    }

    #[test]
    fn a_drawer_is_named() {
        assert_eq!(rules(&[("daemon/src/utils.rs", "//! All sorts.\n")]).len(), 1);
    }

    #[test]
    fn a_large_capture_is_refused_by_its_size() {
        let mut tree = Tree::default();
        tree.sizes.insert("captures/testdata/big.pcap".into(), CAPTURE_BYTES_MAX + 1);
        tree.sizes.insert("captures/testdata/small.pcap".into(), CAPTURE_BYTES_MAX);

        let broken = check(&tree);

        assert_eq!(broken.len(), 1);
        assert_eq!(broken[0].rule, "capture size");
    }

    #[test]
    fn build_output_is_not_read() {
        let root = tempfile::tempdir().unwrap();
        for folder in ["target/debug", "src"] {
            fs::create_dir_all(root.path().join(folder)).unwrap();
            fs::write(root.path().join(folder).join("a.rs"), "fn f() {}").unwrap();
        }

        let tree = Tree::read(root.path()).unwrap();

        assert_eq!(tree.texts.keys().collect::<Vec<_>>(), [Path::new("src/a.rs")]);
    }
}
