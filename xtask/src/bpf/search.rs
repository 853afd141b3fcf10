//! The hunt for a compiler and a linker that fit each other: explicit overrides, then rustup's nightlies,
//! then the system's compiler. Must never install anything, and must never ignore an override.

use super::{
    Compiler, Linker, NotBuilt, Toolchain, Unavailable,
    compiler::ask,
    linker::{LINKER_VERSION, cache},
};
use std::{
    env,
    path::{Path, PathBuf},
};

/// `off` builds without objects on purpose.
pub(super) const SWITCH: &str = "LINNET_BPF";
/// The compiler to use instead of searching for one.
pub(super) const RUSTC_OVERRIDE: &str = "LINNET_BPF_RUSTC";
/// The cargo for it; by default the `cargo` beside the compiler.
pub(super) const CARGO_OVERRIDE: &str = "LINNET_BPF_CARGO";
/// The `bpf-linker` to use instead of searching for one.
pub(super) const LINKER_OVERRIDE: &str = "LINNET_BPF_LINKER";

/// Where to look. Public fields make a search of fake folders possible in tests.
#[derive(Debug, Clone, Default)]
pub struct Search {
    /// `LINNET_BPF=off`.
    pub off: bool,
    /// `LINNET_BPF_RUSTC`: when set, no other compiler is considered.
    pub rustc: Option<PathBuf>,
    /// `LINNET_BPF_CARGO`.
    pub cargo: Option<PathBuf>,
    /// `LINNET_BPF_LINKER`: when set, no other linker is considered.
    pub linker: Option<PathBuf>,
    /// rustup's executable, where there is one.
    pub rustup: Option<PathBuf>,
    /// Folders of a compiler that is not rustup's.
    pub system_folders: Vec<PathBuf>,
    /// Folders that may hold `bpf-linker`, in order.
    pub linker_folders: Vec<PathBuf>,
}

impl Search {
    /// The places of this host and this environment.
    pub fn of_this_host() -> Self {
        let path: Vec<PathBuf> =
            env::var_os("PATH").map_or_else(Vec::new, |path| env::split_paths(&path).collect());
        let home = env::var_os("HOME").map(PathBuf::from);
        let cargo_home = env::var_os("CARGO_HOME")
            .map(PathBuf::from)
            .or_else(|| home.as_ref().map(|home| home.join(".cargo")));
        let cargo_bin = cargo_home.map(|home| home.join("bin"));
        let rustup = path
            .iter()
            .chain(cargo_bin.as_ref())
            .map(|folder| folder.join("rustup"))
            .find(|program| program.is_file());
        let mut linker_folders = path;
        linker_folders.extend(cargo_bin);
        linker_folders.extend(cache().map(|cache| cache.join("bin")));
        Self {
            off: env::var_os(SWITCH).is_some_and(|value| value == "off"),
            rustc: variable(RUSTC_OVERRIDE),
            cargo: variable(CARGO_OVERRIDE),
            linker: variable(LINKER_OVERRIDE),
            rustup,
            system_folders: vec!["/usr/bin".into(), "/usr/local/bin".into()],
            linker_folders,
        }
    }

    /// Why nothing is to be built, where the operator said so.
    pub fn switched_off(&self) -> Option<NotBuilt> {
        self.off.then(|| NotBuilt {
            reason: format!("the BPF objects are switched off by `{SWITCH}=off`"),
            remedy: format!("unset `{SWITCH}`"),
        })
    }

    /// The first compiler that has a linker of its LLVM.
    pub fn toolchain(&self) -> Result<Toolchain, Unavailable> {
        let mut reasons = Vec::new();
        for candidate in self.compilers() {
            let found = candidate.and_then(|compiler| {
                let linker = self.linker(compiler.llvm_major)?;
                Ok(Toolchain { compiler, linker })
            });
            match found {
                Ok(toolchain) => return Ok(toolchain),
                Err(reason) => reasons.push(reason),
            }
        }
        let reason = reasons.join("; ");
        Err(if self.rustc.is_some() || self.linker.is_some() {
            Unavailable::BadOverride(format!(
                "{reason}; correct or unset `{RUSTC_OVERRIDE}`, `{CARGO_OVERRIDE}` and `{LINKER_OVERRIDE}`"
            ))
        } else {
            Unavailable::Missing(NotBuilt {
                reason: format!("no BPF toolchain: {reason}"),
                remedy: "run `cargo xtask setup` (on Debian as root), or see docs/development.md"
                    .to_owned(),
            })
        })
    }

    /// Every compiler in the order of preference, or why it will not do.
    pub fn compilers(&self) -> Vec<Result<Compiler, String>> {
        if let Some(rustc) = &self.rustc {
            let cargo = self.cargo.clone().unwrap_or_else(|| rustc.with_file_name("cargo"));
            return vec![Compiler::probe(rustc, &cargo)];
        }
        let mut found: Vec<_> = self.nightlies();
        for folder in &self.system_folders {
            let rustc = folder.join("rustc");
            if rustc.is_file() {
                let cargo = self.cargo.clone().unwrap_or_else(|| folder.join("cargo"));
                found.push(Compiler::probe(&rustc, &cargo));
            }
        }
        if found.is_empty() {
            found.push(Err("neither a rustup nightly nor a system compiler is installed".into()));
        }
        found
    }

    /// The first linker that reads the bitcode of `llvm_major`, or why each one will not do.
    pub fn linker(&self, llvm_major: u32) -> Result<Linker, String> {
        if let Some(path) = &self.linker {
            let linker = Linker::probe(path)?;
            return if linker.matches(llvm_major) {
                Ok(linker)
            } else {
                Err(mismatch(&linker, llvm_major))
            };
        }
        let mut reasons = Vec::new();
        for folder in &self.linker_folders {
            let path = folder.join("bpf-linker");
            if !path.is_file() {
                continue;
            }
            match Linker::probe(&path) {
                Ok(linker) if linker.matches(llvm_major) => return Ok(linker),
                Ok(linker) => reasons.push(mismatch(&linker, llvm_major)),
                Err(reason) => reasons.push(reason),
            }
        }
        reasons.dedup();
        Err(if reasons.is_empty() {
            format!("no `bpf-linker` {LINKER_VERSION} for LLVM {llvm_major} is installed")
        } else {
            reasons.join("; ")
        })
    }

    /// rustup's nightlies; the undated one first, then the newest date.
    fn nightlies(&self) -> Vec<Result<Compiler, String>> {
        let Some(rustup) = &self.rustup else { return Vec::new() };
        let list = match ask(rustup, &["toolchain", "list"]) {
            Ok(list) => list,
            Err(reason) => return vec![Err(reason)],
        };
        let mut names: Vec<&str> = list
            .lines()
            .filter_map(|line| line.split_whitespace().next())
            .filter(|name| name.starts_with("nightly"))
            .collect();
        names.sort_by_key(|name| {
            let dated = name["nightly".len()..].starts_with("-2");
            (dated, std::cmp::Reverse(*name))
        });
        names.into_iter().map(|name| self.nightly(rustup, name)).collect()
    }

    fn nightly(&self, rustup: &Path, name: &str) -> Result<Compiler, String> {
        let rustc = ask(rustup, &["which", "--toolchain", name, "rustc"])?;
        let rustc = Path::new(rustc.trim());
        let cargo = self.cargo.clone().unwrap_or_else(|| rustc.with_file_name("cargo"));
        Compiler::probe(rustc, &cargo)
    }
}

fn variable(name: &str) -> Option<PathBuf> {
    env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from)
}

fn mismatch(linker: &Linker, llvm_major: u32) -> String {
    format!("{linker} does not match the compiler's LLVM {llvm_major}")
}

#[cfg(test)]
mod tests {
    use super::{
        super::compiler::tests::{fake_compiler, fake_tool, with_core},
        *,
    };

    /// A linker that names its LLVM as a real one does, in its bytes.
    fn fake_linker(folder: &Path, llvm: &str) {
        fake_tool(
            &folder.join("bpf-linker"),
            &format!("echo bpf-linker 0.13.0 # libLLVM.so.{llvm}"),
        );
    }

    fn system(folder: &Path) -> Search {
        Search {
            system_folders: vec![folder.join("bin")],
            linker_folders: vec![folder.join("linker")],
            ..Search::default()
        }
    }

    #[test]
    fn a_system_compiler_and_a_linker_of_its_llvm_make_a_toolchain() {
        let host = tempfile::tempdir().unwrap();
        fake_compiler(host.path(), "1.96.0", "22.1.8");
        with_core(host.path());
        fake_linker(&host.path().join("linker"), "22.1");

        let toolchain = system(host.path()).toolchain().unwrap();

        assert_eq!(toolchain.compiler.rustc, host.path().join("bin/rustc"));
        assert_eq!(toolchain.linker.llvm_major, Some(22));
    }

    #[test]
    fn a_linker_of_another_llvm_is_passed_over_for_a_later_one_that_fits() {
        let host = tempfile::tempdir().unwrap();
        fake_linker(&host.path().join("old"), "21.1");
        fake_linker(&host.path().join("linker"), "22.1");
        let mut search = system(host.path());
        search.linker_folders.insert(0, host.path().join("old"));

        let linker = search.linker(22).unwrap();

        assert_eq!(linker.path, host.path().join("linker/bpf-linker"));
    }

    #[test]
    fn without_a_linker_the_reason_names_it_and_the_remedy_is_one_command() {
        let host = tempfile::tempdir().unwrap();
        fake_compiler(host.path(), "1.96.0", "22.1.8");
        with_core(host.path());

        let Err(Unavailable::Missing(not_built)) = system(host.path()).toolchain() else {
            panic!("a toolchain without a linker")
        };

        assert!(not_built.reason.contains("no `bpf-linker`"), "{}", not_built.reason);
        assert!(not_built.remedy.contains("cargo xtask setup"), "{}", not_built.remedy);
    }

    #[test]
    fn a_nightly_with_the_source_comes_before_the_system_compiler() {
        let host = tempfile::tempdir().unwrap();
        fake_compiler(host.path(), "1.96.0", "22.1.8");
        with_core(host.path());
        let nightly = host.path().join("nightly");
        fake_compiler(&nightly, "1.97.0-nightly", "22.1.4");
        with_core(&nightly);
        let rustup = host.path().join("rustup");
        fake_tool(
            &rustup,
            &format!(
                "case $1 in toolchain) printf 'stable-x (default)\\nnightly-x\\n';; \
                 which) echo {}/bin/rustc;; esac",
                nightly.display()
            ),
        );
        let search = Search { rustup: Some(rustup), ..system(host.path()) };

        let compilers = search.compilers();

        assert_eq!(compilers[0].as_ref().unwrap().release, "1.97.0-nightly");
        assert_eq!(compilers[1].as_ref().unwrap().release, "1.96.0");
    }

    #[test]
    fn an_override_that_does_not_work_is_an_error_and_not_a_missing_toolchain() {
        let host = tempfile::tempdir().unwrap();
        fake_compiler(host.path(), "1.96.0", "22.1.8");
        with_core(host.path());
        fake_linker(&host.path().join("linker"), "22.1");
        let search = Search { rustc: Some("/nowhere/rustc".into()), ..system(host.path()) };

        let Err(Unavailable::BadOverride(message)) = search.toolchain() else {
            panic!("the override was ignored")
        };

        assert!(message.contains(RUSTC_OVERRIDE), "{message}");
    }

    #[test]
    fn an_empty_host_says_what_is_missing() {
        let Err(Unavailable::Missing(not_built)) = Search::default().toolchain() else {
            panic!("a toolchain out of nothing")
        };

        assert!(not_built.reason.contains("neither a rustup nightly nor a system compiler"));
    }

    #[test]
    fn switched_off_is_honoured() {
        let search = Search { off: true, ..Search::default() };

        assert!(search.switched_off().is_some_and(|not_built| not_built.reason.contains(SWITCH)));
        assert_eq!(Search::default().switched_off(), None);
    }
}
