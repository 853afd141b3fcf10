//! The cargo call that compiles and links both objects. Must never run in the environment of the cargo
//! around it: that one's compiler, flags and wrappers are for the host.

use super::{CoreLibrary, TARGET, Toolchain, environment::forget_outer_cargo};
use crate::workspace::Workspace;
use anyhow::{Context, Result, bail};
use std::{
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

/// The profile of the root manifest: debug information for BTF, one codegen unit.
const PROFILE: &str = "bpf";

/// What the compiler and the linker are told (docs/decisions and docs/development.md say why).
const FLAGS: [&str; 4] = [
    "-Ctarget-cpu=v3",
    "-Clink-arg=--cpu-features=+allows-misaligned-mem-access",
    "-Cdebuginfo=2",
    "-Clink-arg=--btf",
];

/// What happens to the compiler's messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Messages {
    /// They become part of the error; for build scripts.
    Captured,
    /// They go to the terminal as they come.
    Shown,
}

/// Builds both packages and returns the object files of `xdp` and `tc`.
pub(super) fn build(
    workspace: &Workspace,
    toolchain: &Toolchain,
    messages: Messages,
) -> Result<(PathBuf, PathBuf)> {
    let folder = workspace.bpf_target();
    let mut command = command(&workspace.root, toolchain, &folder);
    match messages {
        Messages::Captured => command.stdout(Stdio::piped()).stderr(Stdio::piped()),
        Messages::Shown => command.stdout(Stdio::inherit()).stderr(Stdio::inherit()),
    };
    let output = command
        .stdin(Stdio::null())
        .spawn()
        .and_then(std::process::Child::wait_with_output)
        .with_context(|| format!("cannot run `{}`", toolchain.compiler.cargo.display()))?;
    if !output.status.success() {
        bail!("the BPF objects do not build with {toolchain}{}", said(&output));
    }
    let objects = folder.join(TARGET).join(PROFILE);
    let [xdp, tc] = ["xdp", "tc"].map(|name| objects.join(name));
    for object in [&xdp, &tc] {
        if !object.is_file() {
            bail!("cargo reported success but left no `{}`", object.display());
        }
    }
    Ok((xdp, tc))
}

fn command(root: &Path, toolchain: &Toolchain, folder: &Path) -> Command {
    let Toolchain { compiler, linker } = toolchain;
    let mut command = Command::new(&compiler.cargo);
    forget_outer_cargo(&mut command)
        .current_dir(root)
        // BPF is a tier 3 target of a stable compiler: the kernel crates use unstable features.
        .env("RUSTC_BOOTSTRAP", "1")
        .env("RUSTC", &compiler.rustc)
        .args(["build", "--package", "xdp", "--package", "tc"])
        .args(["--profile", PROFILE, "--target", TARGET])
        .arg("--target-dir")
        .arg(folder)
        .args(["--config", &setting("linker", &quoted(&linker.path.to_string_lossy()))])
        .args(["--config", &setting("rustflags", &list(&FLAGS))]);
    match compiler.core {
        CoreLibrary::Prebuilt => {}
        CoreLibrary::FromSource => {
            command.args(["-Z", "build-std=core"]);
        }
    }
    command
}

fn setting(key: &str, value: &str) -> String {
    format!("target.{TARGET}.{key}={value}")
}

/// A TOML basic string.
fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

fn list(items: &[&str]) -> String {
    let items: Vec<String> = items.iter().map(|item| quoted(item)).collect();
    format!("[{}]", items.join(", "))
}

fn said(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stderr);
    if text.is_empty() { String::new() } else { format!(":\n{text}") }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{Compiler, Linker, compiler::tests::fake_tool},
        *,
    };

    fn toolchain(cargo: &Path, core: CoreLibrary) -> Toolchain {
        Toolchain {
            compiler: Compiler {
                rustc: "/usr/bin/rustc".into(),
                cargo: cargo.to_path_buf(),
                release: "1.96.0".into(),
                llvm_major: 22,
                core,
            },
            linker: Linker {
                path: "/opt/a \"b\"/bpf-linker".into(),
                release: "0.13.0".into(),
                llvm_major: Some(22),
            },
        }
    }

    fn arguments(core: CoreLibrary) -> String {
        let toolchain = toolchain(Path::new("/usr/bin/cargo"), core);
        let command = command(Path::new("/src"), &toolchain, Path::new("/out"));
        let arguments: Vec<_> = command.get_args().map(|part| part.to_string_lossy()).collect();
        arguments.join(" ")
    }

    #[test]
    fn paths_are_quoted_for_toml() {
        let arguments = arguments(CoreLibrary::Prebuilt);

        assert!(arguments.contains(r#"linker="/opt/a \"b\"/bpf-linker""#), "{arguments}");
        assert!(arguments.contains(r#"rustflags=["-Ctarget-cpu=v3", "#), "{arguments}");
    }

    #[test]
    fn core_is_built_only_where_it_is_not_shipped() {
        assert!(arguments(CoreLibrary::FromSource).contains("-Z build-std=core"));
        assert!(!arguments(CoreLibrary::Prebuilt).contains("build-std"));
    }

    #[test]
    fn a_failed_compilation_is_an_error_with_the_compilers_words() {
        let scratch = tempfile::tempdir().unwrap();
        let cargo = scratch.path().join("cargo");
        fake_tool(&cargo, "echo 'error[E0425]: cannot find value' >&2; exit 101");
        let workspace =
            Workspace { root: scratch.path().to_path_buf(), target: scratch.path().to_path_buf() };

        let error =
            build(&workspace, &toolchain(&cargo, CoreLibrary::Prebuilt), Messages::Captured)
                .unwrap_err();

        assert!(error.to_string().contains("error[E0425]"), "{error}");
    }
}
