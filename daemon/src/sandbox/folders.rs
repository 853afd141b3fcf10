//! The daemon's folders, made by the attacher for the daemon's user. Follows no link, and gives away nothing but what
//! was root's in a folder that only root could write to.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io,
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, fchown},
    path::Path,
};

use super::Identity;

/// Entries of a folder that are handed over with it.
const ENTRIES_MAX: usize = 4_096;

/// Makes a folder of the daemon's, or hands over one that an earlier version left as root.
pub fn prepare(path: &Path, identity: &Identity) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o750).create(path)?;
    let folder = open(path, libc::O_DIRECTORY)?;
    let found = folder.metadata()?;
    let (uid, gid) = (identity.uid.as_raw(), identity.gid.as_raw());
    if found.uid() == uid || found.uid() != nix::unistd::geteuid().as_raw() {
        return Ok(());
    }
    // Its entries first: from here on its user can put links there.
    for entry in fs::read_dir(path)?.take(ENTRIES_MAX) {
        let entry = entry?;
        if let Ok(file) = open(&entry.path(), libc::O_NONBLOCK) {
            let found_file = file.metadata()?;
            if found_file.is_file() && found_file.nlink() == 1 && found_file.uid() == found.uid() {
                fchown(&file, Some(uid), Some(gid))?;
            }
        }
    }
    fchown(&folder, Some(uid), Some(gid))
}

fn open(path: &Path, flags: i32) -> io::Result<File> {
    OpenOptions::new().read(true).custom_flags(flags | libc::O_NOFOLLOW).open(path)
}
