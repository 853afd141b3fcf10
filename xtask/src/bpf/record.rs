//! Two small files: one says which toolchain this host has, so that cargo can watch it appear or change; one
//! lies beside the objects and says what linked them, so that objects of another linker are thrown away. Must
//! never be read as truth about the host: only the search knows what is installed.

use super::{Search, TARGET, Toolchain};
use crate::workspace::Workspace;
use anyhow::{Context, Result};
use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    time::Duration,
};

/// How far back a build script dates its own change; any time before it was started will do.
const BACK_DATED: Duration = Duration::from_secs(3600);

/// The file that names the toolchain.
#[derive(Debug)]
pub struct Record {
    folder: PathBuf,
    of_build_script: bool,
}

impl Record {
    /// For `cargo xtask`: a change makes cargo run the daemon's build script again.
    pub fn of_xtask(workspace: &Workspace) -> Self {
        Self { folder: workspace.bpf_target(), of_build_script: false }
    }

    /// For the build script: its own change must not make cargo run it a second time.
    pub fn of_build_script(workspace: &Workspace) -> Self {
        Self { folder: workspace.bpf_target(), of_build_script: true }
    }

    /// The file to watch.
    pub fn path(&self) -> PathBuf {
        self.folder.join("toolchain.txt")
    }

    /// Notes which toolchain this host has, without building anything.
    pub fn note(&self, search: &Search) -> Result<()> {
        self.update(search.toolchain().ok().as_ref()).map(drop)
    }

    /// Brings both files up to date, removes objects that another toolchain linked, and returns the lock
    /// under which the objects may be built: cargo's own lock does not cover the removal.
    pub(super) fn update(&self, found: Option<&Toolchain>) -> Result<File> {
        let folder = &self.folder;
        fs::create_dir_all(folder)
            .with_context(|| format!("cannot make the folder `{}`", folder.display()))?;
        let lock = File::create(folder.join("linnet.lock"))
            .and_then(|file| file.lock().map(|()| file))
            .with_context(|| format!("cannot lock `{}`", folder.display()))?;
        let text = found.map_or_else(|| "none\n".to_owned(), describe);
        if found.is_some() {
            keep_only_objects_of(&folder.join(TARGET), &text)?;
        }
        let path = self.path();
        if fs::read_to_string(&path).ok().as_deref() != Some(text.as_str()) {
            self.write(&text).with_context(|| format!("cannot write `{}`", path.display()))?;
        }
        Ok(lock)
    }

    fn write(&self, text: &str) -> std::io::Result<()> {
        fs::write(self.path(), text)?;
        if self.of_build_script {
            let file = File::options().append(true).open(self.path())?;
            let written = file.metadata()?.modified()?;
            file.set_modified(written - BACK_DATED)?;
        }
        Ok(())
    }
}

/// Cargo relinks when sources, flags or the compiler change, but not when the linker does.
fn keep_only_objects_of(objects: &Path, toolchain: &str) -> Result<()> {
    let linked_by = objects.join("linked-by.txt");
    if fs::read_to_string(&linked_by).is_ok_and(|text| text == toolchain) {
        return Ok(());
    }
    if objects.exists() {
        fs::remove_dir_all(objects)
            .with_context(|| format!("cannot remove stale `{}`", objects.display()))?;
    }
    fs::create_dir_all(objects)
        .and_then(|()| fs::write(&linked_by, toolchain))
        .with_context(|| format!("cannot write `{}`", linked_by.display()))
}

fn describe(toolchain: &Toolchain) -> String {
    let Toolchain { compiler, linker } = toolchain;
    format!("{compiler}\n{}\n{}\n", compiler.cargo.display(), linker.identity())
}

#[cfg(test)]
mod tests {
    use super::{
        super::{Compiler, CoreLibrary, Linker},
        *,
    };

    fn workspace(target: &Path) -> Workspace {
        Workspace { root: target.to_path_buf(), target: target.to_path_buf() }
    }

    fn toolchain(linker: &str) -> Toolchain {
        Toolchain {
            compiler: Compiler {
                rustc: "/usr/bin/rustc".into(),
                cargo: "/usr/bin/cargo".into(),
                release: "1.96.0".into(),
                llvm_major: 22,
                core: CoreLibrary::Prebuilt,
            },
            linker: Linker { path: linker.into(), release: "0.13.0".into(), llvm_major: Some(22) },
        }
    }

    #[test]
    fn objects_of_another_linker_are_removed_and_those_of_the_same_one_stay() {
        let target = tempfile::tempdir().unwrap();
        let record = Record::of_xtask(&workspace(target.path()));
        drop(record.update(Some(&toolchain("/a"))).unwrap());
        let object = target.path().join("bpf").join(TARGET).join("xdp");
        fs::write(&object, "elf").unwrap();

        drop(record.update(None).unwrap());
        drop(record.update(Some(&toolchain("/a"))).unwrap());
        assert!(object.exists());

        drop(record.update(Some(&toolchain("/b"))).unwrap());
        assert!(!object.exists());
    }

    #[test]
    fn a_build_scripts_own_change_lies_in_the_past() {
        let target = tempfile::tempdir().unwrap();
        let record = Record::of_build_script(&workspace(target.path()));
        let lock = record.update(Some(&toolchain("/a"))).unwrap();

        let watched = fs::metadata(record.path()).unwrap().modified().unwrap();
        let started = lock.metadata().unwrap().modified().unwrap();

        assert!(watched < started);
    }

    #[test]
    fn a_toolchain_that_appears_changes_the_watched_file() {
        let target = tempfile::tempdir().unwrap();
        let record = Record::of_xtask(&workspace(target.path()));
        drop(record.update(None).unwrap());
        let before = fs::read_to_string(record.path()).unwrap();

        drop(record.update(Some(&toolchain("/a"))).unwrap());

        assert_ne!(before, fs::read_to_string(record.path()).unwrap());
    }
}
