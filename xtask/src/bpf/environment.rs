//! Which variables of an outer cargo a BPF build must not see. Must never remove what configures the
//! network, the registry or the user's folders.

use std::{env, process::Command};

/// Removes from `command` whatever cargo, rustup or a build script set for the host build around it.
pub fn forget_outer_cargo(command: &mut Command) -> &mut Command {
    for (name, _) in env::vars_os() {
        if name.to_str().is_some_and(belongs_to_outer_cargo) {
            command.env_remove(&name);
        }
    }
    command
}

/// `CARGO_*` that describe the user's machine rather than the build that is under way.
const KEPT: [&str; 7] = [
    "CARGO_HOME",
    "CARGO_HTTP_",
    "CARGO_NET_",
    "CARGO_REGISTR",
    "CARGO_SOURCE_",
    "CARGO_TERM_",
    "CARGO_CACHE_",
];

/// What cargo sets for build scripts, compilers and wrappers outside the `CARGO_` and `RUST` families.
/// `LD_LIBRARY_PATH` points into the host toolchain there, whose LLVM is not the BPF compiler's.
const OTHERS: [&str; 12] = [
    "DEBUG",
    "HOST",
    "LD_LIBRARY_PATH",
    "MAKEFLAGS",
    "MFLAGS",
    "NUM_JOBS",
    "OPT_LEVEL",
    "OUT_DIR",
    "PROFILE",
    "TARGET",
    "CLIPPY_ARGS",
    "__CARGO_FIX_YOLO",
];

fn belongs_to_outer_cargo(name: &str) -> bool {
    if name.starts_with("CARGO") {
        return !KEPT.iter().any(|kept| name.starts_with(kept));
    }
    name.starts_with("RUSTC")
        || name.starts_with("RUSTDOC")
        || name.starts_with("DEP_")
        || name == "RUSTFLAGS"
        || name == "RUSTUP_TOOLCHAIN"
        || OTHERS.contains(&name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_outer_build_is_forgotten() {
        for name in [
            "CARGO",
            "CARGO_ENCODED_RUSTFLAGS",
            "CARGO_MAKEFLAGS",
            "CARGO_MANIFEST_DIR",
            "CARGO_PKG_NAME",
            "CARGO_TARGET_DIR",
            "CARGO_BUILD_TARGET",
            "CARGO_PROFILE_TEST_OPT_LEVEL",
            "RUSTC",
            "RUSTC_WORKSPACE_WRAPPER",
            "RUSTC_WRAPPER",
            "RUSTDOCFLAGS",
            "RUSTFLAGS",
            "RUSTUP_TOOLCHAIN",
            "OUT_DIR",
            "LD_LIBRARY_PATH",
        ] {
            assert!(belongs_to_outer_cargo(name), "{name}");
        }
    }

    #[test]
    fn the_users_own_settings_stay() {
        for name in [
            "HOME",
            "PATH",
            "CARGO_HOME",
            "CARGO_NET_OFFLINE",
            "CARGO_HTTP_PROXY",
            "CARGO_REGISTRIES_CRATES_IO_PROTOCOL",
            "CARGO_TERM_COLOR",
            "RUSTUP_HOME",
            "RUST_BACKTRACE",
            "https_proxy",
        ] {
            assert!(!belongs_to_outer_cargo(name), "{name}");
        }
    }
}
