//! Where this checkout and its build directory are. Must never build or run anything.

use std::{
    env,
    path::{Path, PathBuf},
};

/// Cargo leaves this file at the top of every target directory that it makes.
const TARGET_MARK: &str = "CACHEDIR.TAG";

/// The checkout and the target directory that the current cargo works in.
#[derive(Debug, Clone)]
pub struct Workspace {
    /// The folder of the root `Cargo.toml`.
    pub root: PathBuf,
    /// Cargo's target directory for the host; the BPF build gets a folder of its own below it.
    pub target: PathBuf,
}

impl Workspace {
    /// For a build script: `out_dir` is its `OUT_DIR`, which lies below the target directory.
    pub fn of_build_script(out_dir: &Path) -> Self {
        let target = target_above(out_dir).unwrap_or_else(|| out_dir.to_path_buf());
        Self { root: root(), target }
    }

    /// For `cargo xtask`: the running executable lies below the target directory.
    pub fn of_this_program() -> Self {
        let root = root();
        let target = env::current_exe()
            .ok()
            .and_then(|program| target_above(&program))
            .unwrap_or_else(|| root.join("target"));
        Self { root, target }
    }

    /// Where the BPF objects and the record of their toolchain lie.
    pub fn bpf_target(&self) -> PathBuf {
        self.target.join("bpf")
    }

    /// A program of this workspace, built with `--release`.
    pub fn release_program(&self, name: &str) -> PathBuf {
        self.target.join("release").join(name)
    }
}

/// The root as it was when xtask was compiled: a checkout that moves is compiled anew by cargo.
fn root() -> PathBuf {
    let xtask = Path::new(env!("CARGO_MANIFEST_DIR"));
    xtask.parent().unwrap_or(xtask).to_path_buf()
}

/// The nearest folder above `path` that cargo marked as a target directory.
fn target_above(path: &Path) -> Option<PathBuf> {
    path.ancestors()
        .skip(1)
        .find(|folder| folder.join(TARGET_MARK).is_file())
        .map(Path::to_path_buf)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn the_nearest_marked_folder_is_the_target_directory() {
        let scratch = tempfile::tempdir().unwrap();
        let target = scratch.path().join("target");
        let out = target.join("x86_64-unknown-linux-gnu/release/build/daemon-1/out");
        fs::create_dir_all(&out).unwrap();
        fs::write(target.join(TARGET_MARK), "").unwrap();

        assert_eq!(Workspace::of_build_script(&out).target, target);
    }

    #[test]
    fn without_a_mark_a_build_script_stays_inside_its_own_folder() {
        let scratch = tempfile::tempdir().unwrap();

        assert_eq!(Workspace::of_build_script(scratch.path()).target, scratch.path());
    }

    #[test]
    fn the_root_holds_the_workspace_manifest() {
        assert!(root().join("Cargo.toml").is_file());
        assert!(root().join("xtask/Cargo.toml").is_file());
    }
}
