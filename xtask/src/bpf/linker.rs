//! One `bpf-linker`, asked whether it runs and which LLVM it was built against. Must never install one.

use super::compiler::{ask, leading_number};
use std::{
    env, fmt, fs,
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

/// The release that `cargo xtask setup` installs; LLVM 22's misaligned access needs 0.13 or later.
pub const LINKER_VERSION: &str = "0.13.0";

/// A linker that runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Linker {
    /// The executable.
    pub path: PathBuf,
    /// As `bpf-linker --version` prints it.
    pub release: String,
    /// Read from the executable; `None` where it does not say, and then the link itself is the test.
    pub llvm_major: Option<u32>,
}

impl Linker {
    /// Runs `path --version`; the error says why it will not do.
    pub fn probe(path: &Path) -> Result<Self, String> {
        let about = ask(path, &["--version"])?;
        let release = about.split_whitespace().last().unwrap_or("unknown").to_owned();
        let llvm_major = fs::read(path).ok().and_then(|image| llvm_of(&image));
        Ok(Self { path: path.to_path_buf(), release, llvm_major })
    }

    /// Whether this linker reads the bitcode of a compiler with `llvm_major`.
    pub fn matches(&self, llvm_major: u32) -> bool {
        self.llvm_major.is_none_or(|own| own == llvm_major)
    }

    /// Changes when the file is replaced, even by the same release.
    pub fn identity(&self) -> String {
        let about = fs::metadata(&self.path).ok();
        let bytes = about.as_ref().map_or(0, fs::Metadata::len);
        let modified_s = about
            .and_then(|about| about.modified().ok())
            .and_then(|time| SystemTime::duration_since(&time, UNIX_EPOCH).ok())
            .map_or(0, |age| age.as_secs());
        format!("{self}, {bytes} bytes, modified {modified_s}")
    }
}

impl fmt::Display for Linker {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "bpf-linker {} at {}", self.release, self.path.display())?;
        match self.llvm_major {
            Some(major) => write!(out, " (LLVM {major})"),
            None => write!(out, " (LLVM unknown)"),
        }
    }
}

/// Where `cargo xtask setup` installs `bin/bpf-linker`: outside any checkout, since it takes a minute to build.
pub fn cache() -> Option<PathBuf> {
    let cache = match env::var_os("XDG_CACHE_HOME") {
        Some(folder) if !folder.is_empty() => PathBuf::from(folder),
        _ => PathBuf::from(env::var_os("HOME")?).join(".cache"),
    };
    Some(cache.join("linnet/bpf-linker"))
}

/// The LLVM major in an executable: the shared library that it needs (`libLLVM.so.22.1`, `libLLVM-19.so.1`),
/// or the producer string of a statically linked bitcode writer (`LLVM22.1.8`).
fn llvm_of(image: &[u8]) -> Option<u32> {
    ["libLLVM.so.", "libLLVM-"]
        .iter()
        .find_map(|name| number_after(image, name))
        .or_else(|| number_after(image, "LLVM"))
}

/// The number right behind the first `name` that has one and a dot after it.
fn number_after(image: &[u8], name: &str) -> Option<u32> {
    image.windows(name.len()).enumerate().filter(|(_, window)| *window == name.as_bytes()).find_map(
        |(at, _)| {
            let rest = &image[at + name.len()..];
            let text: String = rest.iter().take(4).map(|byte| char::from(*byte)).collect();
            text.contains('.').then(|| leading_number(&text)).flatten()
        },
    )
}

#[cfg(test)]
mod tests {
    use super::{super::compiler::tests::fake_tool, *};

    #[test]
    fn the_llvm_major_is_read_from_the_needed_library() {
        assert_eq!(llvm_of(b"\0libgcc_s.so.1\0libLLVM.so.22.1\0"), Some(22));
        assert_eq!(llvm_of(b"\0libLLVM-19.so.1\0"), Some(19));
    }

    #[test]
    fn a_static_linker_says_it_in_the_bitcode_producer() {
        assert_eq!(llvm_of(b"see LLVM 22 builds\0LLVM21.1.0\0"), Some(21));
    }

    #[test]
    fn an_executable_that_does_not_say_is_given_the_benefit_of_the_doubt() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("bpf-linker");
        fake_tool(&path, "echo bpf-linker 0.13.0");

        let linker = Linker::probe(&path).unwrap();

        assert_eq!((linker.llvm_major, linker.release.as_str()), (None, "0.13.0"));
        assert!(linker.matches(22));
    }

    #[test]
    fn another_llvm_does_not_match() {
        let linker = Linker { path: "l".into(), release: "0.13.0".into(), llvm_major: Some(21) };

        assert!(!linker.matches(22));
    }

    #[test]
    fn a_linker_whose_library_is_gone_says_why() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("bpf-linker");
        fake_tool(&path, "echo 'libLLVM.so.22.1: cannot open shared object file' >&2; exit 127");

        let reason = Linker::probe(&path).unwrap_err();

        assert!(reason.contains("libLLVM.so.22.1"), "{reason}");
    }
}
