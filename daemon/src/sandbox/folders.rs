//! The daemon's folders, made by the attacher for the daemon's user. Follows no link, and gives away nothing but what
//! was root's in a folder that only root could write to.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io,
    os::{
        fd::AsRawFd as _,
        unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, fchown},
    },
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
    // Its entries first: from here on its user can put links there. By the descriptor, whose folder nobody can replace.
    let itself = format!("/proc/self/fd/{}", folder.as_raw_fd());
    for entry in fs::read_dir(itself)?.take(ENTRIES_MAX) {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_in_it_is_handed_over_but_no_link_and_nothing_behind_one() {
        if !nix::unistd::geteuid().is_root() {
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let outside = folder.path().join("outside");
        fs::write(&outside, "root's").unwrap();
        let own = folder.path().join("own");
        fs::create_dir(&own).unwrap();
        fs::write(own.join("file"), "").unwrap();
        fs::hard_link(&outside, own.join("hard")).unwrap();
        std::os::unix::fs::symlink(&outside, own.join("soft")).unwrap();
        let nobody = Identity::of("nobody").unwrap();
        prepare(&own, &nobody).unwrap();
        let uid = |path: &Path| fs::metadata(path).unwrap().uid();
        assert_eq!((uid(&own), uid(&own.join("file"))), (nobody.uid.as_raw(), nobody.uid.as_raw()));
        assert_eq!(uid(&outside), 0);
        // Of a folder that is its user's already, nothing is handed over.
        fs::write(own.join("later"), "").unwrap();
        prepare(&own, &nobody).unwrap();
        assert_eq!(uid(&own.join("later")), 0);
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(&own, &link).unwrap();
        assert!(prepare(&link, &nobody).is_err());
    }
}
