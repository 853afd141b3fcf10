//! One Rust compiler, asked whether it can compile for BPF. Must never install or choose: it only answers.

use super::{TARGET, environment::forget_outer_cargo};
use std::{
    fmt,
    path::{Path, PathBuf},
    process::Command,
};

/// The oldest compiler that the workspace's manifests accept (`rust-version`), as (major, minor).
const RELEASE_MIN: &str = env!("CARGO_PKG_RUST_VERSION");

/// Where `core` for the BPF target comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CoreLibrary {
    /// The compiler ships it (Debian: `libstd-rust-web-dev-bpf`).
    Prebuilt,
    /// Only its source is there (rustup: `rust-src`; Debian: `rust-web-src`); cargo builds it.
    FromSource,
}

/// A compiler that can build the objects, with the cargo that belongs to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Compiler {
    /// The real executable, not rustup's shim.
    pub rustc: PathBuf,
    /// The cargo of the same release.
    pub cargo: PathBuf,
    /// As `rustc -vV` prints it.
    pub release: String,
    /// The linker has to be built against the same one.
    pub llvm_major: u32,
    /// Whether `core` has to be built first.
    pub core: CoreLibrary,
}

impl Compiler {
    /// Asks `rustc` for its release, its LLVM and its libraries; the error says why it will not do.
    pub fn probe(rustc: &Path, cargo: &Path) -> Result<Self, String> {
        let about = ask(rustc, &["-vV"])?;
        let release = field(&about, "release:")
            .ok_or_else(|| format!("`{} -vV` names no release", rustc.display()))?
            .to_owned();
        if version(&release) < version(RELEASE_MIN) {
            return Err(format!(
                "`{}` is rustc {release}; {RELEASE_MIN} or later is needed",
                rustc.display()
            ));
        }
        let llvm_major = field(&about, "LLVM version:")
            .and_then(leading_number)
            .ok_or_else(|| format!("`{} -vV` names no LLVM version", rustc.display()))?;
        let sysroot = PathBuf::from(ask(rustc, &["--print", "sysroot"])?.trim());
        let core = core_library(&sysroot).ok_or_else(|| {
            format!("`{}` has neither `core` for {TARGET} nor the library source", rustc.display())
        })?;
        if !cargo.is_file() {
            return Err(format!("`{}` has no cargo at `{}`", rustc.display(), cargo.display()));
        }
        Ok(Self {
            rustc: rustc.to_path_buf(),
            cargo: cargo.to_path_buf(),
            release,
            llvm_major,
            core,
        })
    }
}

impl fmt::Display for Compiler {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let core = match self.core {
            CoreLibrary::Prebuilt => "core prebuilt",
            CoreLibrary::FromSource => "core from source",
        };
        let (rustc, release, llvm) = (self.rustc.display(), &self.release, self.llvm_major);
        write!(out, "rustc {release} at {rustc} (LLVM {llvm}, {core})")
    }
}

/// Runs a tool outside the current cargo's environment and returns its standard output.
pub(super) fn ask(program: &Path, arguments: &[&str]) -> Result<String, String> {
    let output = forget_outer_cargo(&mut Command::new(program))
        .args(arguments)
        // Asking about a toolchain must not download one.
        .env("RUSTUP_AUTO_INSTALL", "0")
        .output()
        .map_err(|error| format!("`{}` cannot be run: {error}", program.display()))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let first = said.lines().next().unwrap_or("it said nothing");
        return Err(format!("`{} {}` failed: {first}", program.display(), arguments.join(" ")));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn field<'text>(text: &'text str, name: &str) -> Option<&'text str> {
    text.lines().find_map(|line| line.strip_prefix(name)).map(str::trim)
}

/// The number that `text` begins with.
pub(super) fn leading_number(text: &str) -> Option<u32> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    text[..end].parse().ok()
}

/// (major, minor) of `1.96.0`, `1.97.0-nightly` or `1.93`.
fn version(release: &str) -> (u32, u32) {
    let mut parts = release.split('.').map(|part| leading_number(part).unwrap_or(0));
    (parts.next().unwrap_or(0), parts.next().unwrap_or(0))
}

fn core_library(sysroot: &Path) -> Option<CoreLibrary> {
    let rustlib = sysroot.join("lib/rustlib");
    let prebuilt = rustlib.join(TARGET).join("lib").read_dir().is_ok_and(|files| {
        files.flatten().any(|file| {
            let name = file.file_name();
            let name = name.to_string_lossy();
            name.starts_with("libcore-") && name.ends_with(".rlib")
        })
    });
    let source = rustlib.join("src/rust/library/core/src/lib.rs").is_file();
    match (prebuilt, source) {
        (true, _) => Some(CoreLibrary::Prebuilt),
        (false, true) => Some(CoreLibrary::FromSource),
        (false, false) => None,
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use std::fs;

    /// A shell script that answers as a tool would. Another process writes it: a descriptor open for
    /// writing here would be inherited by other tests' children and make the script "busy".
    pub(in crate::bpf) fn fake_tool(path: &Path, script: &str) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let written = Command::new("/bin/sh")
            .args(["-c", r#"printf '#!/bin/sh\n%s\n' "$1" > "$0" && chmod 755 "$0""#])
            .arg(path)
            .arg(script)
            .status();
        assert!(written.unwrap().success());
    }

    /// A compiler folder `bin/{rustc,cargo}` whose sysroot is `home`.
    pub(in crate::bpf) fn fake_compiler(
        home: &Path,
        release: &str,
        llvm: &str,
    ) -> (PathBuf, PathBuf) {
        let rustc = home.join("bin/rustc");
        fake_tool(
            &rustc,
            &format!(
                "case $1 in -vV) printf 'release: {release}\\nLLVM version: {llvm}\\n';; \
                 *) echo {};; esac",
                home.display()
            ),
        );
        let cargo = home.join("bin/cargo");
        fake_tool(&cargo, "true");
        (rustc, cargo)
    }

    /// Gives a fake compiler the prebuilt library.
    pub(in crate::bpf) fn with_core(home: &Path) {
        let folder = home.join("lib/rustlib").join(TARGET).join("lib");
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("libcore-1.rlib"), "").unwrap();
    }

    #[test]
    fn a_compiler_with_a_prebuilt_core_is_used_as_it_is() {
        let home = tempfile::tempdir().unwrap();
        let (rustc, cargo) = fake_compiler(home.path(), "1.96.0", "22.1.8");
        with_core(home.path());

        let compiler = Compiler::probe(&rustc, &cargo).unwrap();

        assert_eq!(compiler.llvm_major, 22);
        assert_eq!(compiler.core, CoreLibrary::Prebuilt);
        assert_eq!(compiler.release, "1.96.0");
    }

    #[test]
    fn the_library_source_is_enough() {
        let home = tempfile::tempdir().unwrap();
        let (rustc, cargo) = fake_compiler(home.path(), "1.97.0-nightly", "22.1.4");
        let source = home.path().join("lib/rustlib/src/rust/library/core/src");
        fs::create_dir_all(&source).unwrap();
        fs::write(source.join("lib.rs"), "").unwrap();

        let compiler = Compiler::probe(&rustc, &cargo).unwrap();

        assert_eq!(compiler.core, CoreLibrary::FromSource);
    }

    #[test]
    fn a_compiler_without_any_core_is_refused() {
        let home = tempfile::tempdir().unwrap();
        let (rustc, cargo) = fake_compiler(home.path(), "1.96.0", "22.1.8");

        let reason = Compiler::probe(&rustc, &cargo).unwrap_err();

        assert!(reason.contains("neither `core`"), "{reason}");
    }

    #[test]
    fn debian_12s_own_rustc_is_too_old() {
        let home = tempfile::tempdir().unwrap();
        let (rustc, cargo) = fake_compiler(home.path(), "1.63.0", "14.0.6");
        with_core(home.path());

        let reason = Compiler::probe(&rustc, &cargo).unwrap_err();

        assert!(reason.contains("rustc 1.63.0"), "{reason}");
    }

    #[test]
    fn a_missing_compiler_is_named() {
        let reason = Compiler::probe(Path::new("/nowhere/rustc"), Path::new("/nowhere/cargo"));

        assert!(reason.unwrap_err().contains("`/nowhere/rustc` cannot be run"));
    }
}
