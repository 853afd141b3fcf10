//! The private places of one run: a folder for socket, state and log, and a pin folder in the BPF file
//! system. Must never be shared between runs, so that each one may remove all of its own.

use anyhow::{Context, Result};
use std::{
    env,
    fs::{self, DirBuilder},
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    process,
    sync::atomic::{AtomicU32, Ordering},
};

/// Where the BPF file system is mounted.
const BPF_FILE_SYSTEM: &str = "/sys/fs/bpf";

/// Tells the runs of one process apart.
static RUNS: AtomicU32 = AtomicU32::new(0);

/// Folders that vanish with this value.
#[derive(Debug)]
pub(super) struct Scratch {
    folder: PathBuf,
    pins: PathBuf,
}

impl Scratch {
    pub(super) fn make() -> Result<Self> {
        let run = RUNS.fetch_add(1, Ordering::Relaxed);
        let name = format!("linnet-lab-{}-{run}", process::id());
        let folder = env::temp_dir().join(&name);
        DirBuilder::new()
            .mode(0o700)
            .create(&folder)
            .with_context(|| format!("cannot make the folder `{}`", folder.display()))?;
        let scratch = Self { folder, pins: Path::new(BPF_FILE_SYSTEM).join(name) };
        for part in [scratch.run(), scratch.state()] {
            fs::create_dir(&part)
                .with_context(|| format!("cannot make the folder `{}`", part.display()))?;
        }
        Ok(scratch)
    }

    pub(super) fn run(&self) -> PathBuf {
        self.folder.join("run")
    }

    pub(super) fn state(&self) -> PathBuf {
        self.folder.join("state")
    }

    pub(super) fn socket(&self) -> PathBuf {
        self.run().join("api.sock")
    }

    pub(super) fn log(&self) -> PathBuf {
        self.folder.join("linnet.log")
    }

    pub(super) fn capture(&self) -> PathBuf {
        self.folder.join("lab.pcapng")
    }

    /// Made by the daemon, which also removes it; what a killed daemon left is removed here.
    pub(super) fn pins(&self) -> &Path {
        &self.pins
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        for folder in [&self.folder, &self.pins] {
            // Nothing more can be done about a folder that will not go.
            let _ = fs::remove_dir_all(folder);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_stays_behind() {
        let scratch = Scratch::make().unwrap();
        fs::write(scratch.log(), "text").unwrap();
        let folder = scratch.folder.clone();

        drop(scratch);

        assert!(!folder.exists());
    }
}
