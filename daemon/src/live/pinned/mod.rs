//! The folder of pinned maps: where the objects of several namespaces meet, and what a next start finds. One attacher
//! owns it at a time. Must never remove what linnet did not put there, nor use a folder where others can put something.

pub(in crate::live) mod adopt;
mod carry;
pub(in crate::live) mod holders;
pub(in crate::live) mod keeper;
pub(in crate::live) mod layout;
pub(in crate::live) mod link_pins;
pub(in crate::live) mod records;
pub(in crate::live) mod register;

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io,
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::{Component, Path, PathBuf},
    time::Duration,
};

use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
    mount::{MsFlags, mount},
    sys::statfs::{fstatfs, statfs},
};

use crate::live::LiveError;

/// Where Linux mounts its BPF file system.
const BPF_FS: &str = "/sys/fs/bpf";
/// `BPF_FS_MAGIC` (include/uapi/linux/magic.h).
const BPF_FS_MAGIC: i64 = 0xcafe_4a11;
/// Folder beside the pins with what is known about filters that may outlive the daemon.
const FILTERS: &str = "filters";
/// How long a daemon may take to end.
const DAEMON_MAX: Duration = Duration::from_secs(20);
/// Folder with the pins of links.
const LINKS: &str = "links";
/// Folder for maps that are about to take the place of others.
pub(in crate::live) const STAGING: &str = "next";
/// Start of the name of a folder that pins are being moved into.
pub(in crate::live) const MOVING: &str = "moving-";
/// Start of the name of a folder with maps that could not be adopted.
pub(in crate::live) const BACKUP: &str = "old-";

/// What a stop in order does with the pinned maps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnStop {
    /// It removes them.
    #[default]
    Remove,
    /// It leaves them to the next start.
    Keep,
}

/// What stays when a [`PinDir`] is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::live) enum Leave {
    /// Everything: it is an earlier run's, and nobody has decided about it, or it is to be gone on from.
    All,
    /// What an earlier run left in a backup.
    Backups,
    /// Nothing.
    Nothing,
}

/// A folder of pins that this process owns; left as was said when dropped.
#[derive(Debug)]
pub(in crate::live) struct PinDir {
    path: PathBuf,
    leave: Leave,
    _lock: Flock<File>,
}

impl PinDir {
    /// Takes the folder over, with all that an attacher that died left in it.
    pub(in crate::live) fn claim(path: &Path) -> Result<Self, LiveError> {
        refuse_link(path)?;
        let path = normal(path)?;
        ensure_bpf_fs(&path)?;
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&path)
            .map_err(|source| failed("create", &path, source))?;
        let lock = lock(&path)?;
        refuse_link(&path.join(LINKS))?;
        Ok(Self { path, leave: Leave::All, _lock: lock })
    }

    /// What is to stay.
    pub(in crate::live) fn leave(&mut self, leave: Leave) {
        self.leave = leave;
    }

    /// Whether everything is to stay.
    pub(in crate::live) fn stay(&self) -> bool {
        self.leave == Leave::All
    }

    /// Takes every program off its hook: it counts into maps that will not be used.
    pub(in crate::live) fn clear_hooks(&self) -> Result<(), LiveError> {
        let (links, filters, _) = clear_hooks(&self.path)?;
        if links + filters > 0 {
            tracing::info!(path = %self.path.display(), links, filters, "took off what an earlier run left");
        }
        Ok(())
    }

    /// The folder.
    pub(in crate::live) fn path(&self) -> &Path {
        &self.path
    }

    /// Where a map is pinned.
    pub(in crate::live) fn map(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Where links are pinned.
    pub(in crate::live) fn links(&self) -> PathBuf {
        self.path.join(LINKS)
    }

    /// Where filters are remembered.
    pub(in crate::live) fn filters(&self) -> PathBuf {
        self.path.join(FILTERS)
    }
}

impl Drop for PinDir {
    fn drop(&mut self) {
        let path = &self.path;
        let cleared = match self.leave {
            Leave::All => Ok(()),
            Leave::Backups => clear_hooks(path)
                .and_then(|_| remove_pins(path))
                .and_then(|_| remove_folders(path, is_staging).map(drop)),
            Leave::Nothing => clear(path).map(drop),
        };
        let removed = cleared.and_then(|()| match self.leave {
            // Whatever is in it is meant to be.
            Leave::All | Leave::Backups if !is_empty(path) => Ok(()),
            Leave::All | Leave::Backups | Leave::Nothing => remove_folder(path),
        });
        if let Err(error) = removed {
            tracing::warn!(%error, "pins were left behind");
        }
    }
}

fn is_empty(path: &Path) -> bool {
    fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_none())
}

/// What [`detach`] removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Detached {
    /// Pinned maps.
    pub pins: usize,
    /// Daemons without an attacher.
    pub daemons: usize,
    /// Pinned links, each with a program on a hook.
    pub links: usize,
    /// Folders of maps that could not be adopted.
    pub backups: usize,
    /// Filters in clsact qdiscs.
    pub filters: usize,
    /// Interfaces that could not be cleaned, and are still remembered.
    pub kept: usize,
}

/// Removes what an attacher that was killed left: programs on their hooks, by links that are pinned and by filters in
/// clsact qdiscs, and the maps.
pub fn detach(pins: &Path) -> Result<Detached, LiveError> {
    refuse_link(pins)?;
    let pins = normal(pins)?;
    match fs::metadata(&pins) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Detached::default()),
        Err(source) => return Err(failed("look at", &pins, source)),
        Ok(_) if !is_bpf_fs(&pins) => return Err(LiveError::NotPins { path: pins }),
        Ok(_) => {}
    }
    let _lock = lock(&pins)?;
    refuse_link(&pins.join(LINKS))?;
    // While its map is pinned: that is what it is known by.
    let daemons = holders::end_holders(&pins.join("FLOWS"), None, DAEMON_MAX);
    let detached = clear(&pins)?;
    remove_folder(&pins)?;
    Ok(Detached { daemons, ..detached })
}

/// Whether an attacher that died, or was told to keep them, left maps there that nobody has taken over.
#[must_use]
pub fn left_in(pins: &Path) -> bool {
    pins.join("META").exists() && lock(pins).is_ok()
}

/// Whoever can change the link can have another folder's pins used.
fn refuse_link(path: &Path) -> Result<(), LiveError> {
    if fs::symlink_metadata(path).is_ok_and(|found| found.is_symlink()) {
        let problem = "it is a link".to_owned();
        return Err(LiveError::PinFolder { path: path.to_owned(), problem });
    }
    Ok(())
}

/// Locks the folder itself, which ends with the process, however it ends. It has to be a folder where nobody else can
/// put anything.
fn lock(path: &Path) -> Result<Flock<File>, LiveError> {
    let flags = libc::O_NOFOLLOW | libc::O_DIRECTORY;
    let folder = File::options().read(true).custom_flags(flags).open(path);
    let folder = folder.map_err(|source| failed("open", path, source))?;
    let found = folder.metadata().map_err(|source| failed("look at", path, source))?;
    let (owner, mode) = (found.uid(), found.mode() & 0o777);
    let problem = if owner != 0 && owner != nix::unistd::geteuid().as_raw() {
        Some(format!("it is owned by the user {owner}"))
    } else {
        (mode & 0o022 != 0).then(|| format!("others can write to it (its mode is {mode:o})"))
    };
    if let Some(problem) = problem {
        return Err(LiveError::PinFolder { path: path.to_owned(), problem });
    }
    if !is_bpf_fs_of(&folder) {
        return Err(LiveError::NotPins { path: path.to_owned() });
    }
    Flock::lock(folder, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| {
        if errno == Errno::EWOULDBLOCK {
            LiveError::InUse { path: path.to_owned(), pid: owner_of(path) }
        } else {
            failed("lock", path, io::Error::from(errno))
        }
    })
}

/// The process that holds the lock, from the kernel's list.
fn owner_of(path: &Path) -> String {
    let inode = fs::metadata(path).map(|meta| meta.ino()).unwrap_or(0);
    let locks = fs::read_to_string("/proc/locks").unwrap_or_default();
    locks
        .lines()
        .filter(|line| line.contains("FLOCK"))
        .find_map(|line| {
            let fields: Vec<_> = line.split_whitespace().collect();
            let file = fields.get(5)?.rsplit(':').next()?;
            (file == inode.to_string()).then(|| fields.get(4).map(ToString::to_string))?
        })
        .unwrap_or_else(|| "unknown".to_owned())
}

/// Takes programs off their hooks: how many links, how many filters, and how many interfaces could not be cleaned.
fn clear_hooks(path: &Path) -> Result<(usize, usize, usize), LiveError> {
    let links = link_pins::clear(&path.join(LINKS), &BTreeSet::new())?;
    let (filters, kept) = records::clear(&path.join(FILTERS), &[])?;
    Ok((links, filters, kept))
}

/// Removes the pins that linnet makes, the backups, and the filters that the folder remembers. Everything else stays.
fn clear(path: &Path) -> Result<Detached, LiveError> {
    let (links, filters, kept) = clear_hooks(path)?;
    let pins = remove_pins(path)?;
    let backups = remove_folders(path, is_backup)? + remove_folders(path, is_moving)?;
    remove_folders(path, is_staging)?;
    Ok(Detached { pins, daemons: 0, links, backups, filters, kept })
}

/// Makes a folder that only its owner may look into, unless it is there.
fn make_folder(path: &Path) -> Result<(), LiveError> {
    match fs::DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other.map_err(|source| failed("create", path, source)),
    }
}

/// The names of linnet's pins, of whatever version: in this folder they are those in capitals.
pub(in crate::live) fn pinned(path: &Path) -> Result<Vec<String>, LiveError> {
    let is_ours = |name: &String| {
        let mut bytes = name.bytes();
        bytes.next().is_some_and(|first| first.is_ascii_uppercase())
            && bytes.all(|it| it.is_ascii_uppercase() || it.is_ascii_digit() || it == b'_')
    };
    Ok(names(path)?.into_iter().filter(is_ours).collect())
}

/// Removes those; returns how many there were. `META` goes first: without it the others are no whole set any more.
pub(in crate::live) fn remove_pins(path: &Path) -> Result<usize, LiveError> {
    let mut pinned = pinned(path)?;
    pinned.sort_by_key(|name| name != "META");
    let mut removed = 0;
    for pin in pinned.into_iter().map(|name| path.join(name)) {
        match fs::remove_file(&pin) {
            Ok(()) => removed += 1,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            // A folder is nothing of linnet's.
            Err(_) if pin.is_dir() => {}
            Err(source) => return Err(failed("remove", &pin, source)),
        }
    }
    Ok(removed)
}

pub(in crate::live) fn is_staging(name: &str) -> bool {
    name == STAGING
}

pub(in crate::live) fn is_moving(name: &str) -> bool {
    is_dated(name, MOVING)
}

pub(in crate::live) fn is_backup(name: &str) -> bool {
    is_dated(name, BACKUP)
}

fn is_dated(name: &str, start: &str) -> bool {
    let date = name.strip_prefix(start).unwrap_or_default();
    !date.is_empty() && date.bytes().all(|byte| byte.is_ascii_digit())
}

/// The folders of such names.
pub(in crate::live) fn folders(
    path: &Path,
    is: fn(&str) -> bool,
) -> Result<Vec<PathBuf>, LiveError> {
    let named = names(path)?.into_iter().filter(|name| is(name)).map(|name| path.join(name));
    Ok(named.filter(|path| path.is_dir() && !path.is_symlink()).collect())
}

/// Removes folders with all that is in them; returns how many.
pub(in crate::live) fn remove_folders(
    path: &Path,
    is: fn(&str) -> bool,
) -> Result<usize, LiveError> {
    let folders = folders(path, is)?;
    for folder in &folders {
        fs::remove_dir_all(folder).map_err(|source| failed("remove", folder, source))?;
    }
    Ok(folders.len())
}

fn names(path: &Path) -> Result<Vec<String>, LiveError> {
    let unreadable = |source| failed("read", path, source);
    let mut names = Vec::new();
    for entry in fs::read_dir(path).map_err(unreadable)? {
        names.extend(entry.map_err(unreadable)?.file_name().into_string().ok());
    }
    Ok(names)
}

/// Removes the folder, unless there is something in it that linnet did not make or could not clean.
fn remove_folder(path: &Path) -> Result<(), LiveError> {
    match fs::remove_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => {
            tracing::warn!(path = %path.display(), "kept the folder: there is more in it than linnet's pins");
            Ok(())
        }
        other => other.map_err(|source| failed("remove", path, source)),
    }
}

/// The path without links and dots, so that its parts are what they seem. What does not exist has no `..` to follow.
fn normal(path: &Path) -> Result<PathBuf, LiveError> {
    let absolute = std::path::absolute(path).map_err(|source| failed("find", path, source))?;
    let mut rest = Vec::new();
    let mut nearest = absolute.as_path();
    loop {
        match nearest.canonicalize() {
            Ok(mut found) => {
                found.extend(rest.iter().rev());
                return Ok(found);
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(failed("find", path, source)),
        }
        match (nearest.components().next_back(), nearest.parent()) {
            (Some(Component::Normal(name)), Some(parent)) => {
                rest.push(name.to_owned());
                nearest = parent;
            }
            _ => return Err(failed("find", path, io::ErrorKind::NotFound.into())),
        }
    }
}

/// Pins live on a BPF file system; systemd mounts one, but containers and small systems may not.
fn ensure_bpf_fs(path: &Path) -> Result<(), LiveError> {
    let mut nearest = path;
    while !nearest.exists() {
        nearest = nearest.parent().unwrap_or_else(|| Path::new("/"));
    }
    if is_bpf_fs(nearest) {
        return Ok(());
    }
    let none = None::<&str>;
    let mounted = if path.starts_with(BPF_FS) {
        mount(Some("bpf"), BPF_FS, Some("bpf"), MsFlags::empty(), none).map_err(io::Error::from)
    } else {
        Err(io::Error::new(io::ErrorKind::InvalidInput, "it lies outside of /sys/fs/bpf"))
    };
    mounted.map_err(|source| LiveError::BpfFs { path: path.to_owned(), source })?;
    tracing::info!(path = BPF_FS, "mounted the BPF file system");
    Ok(())
}

fn is_bpf_fs(at: &Path) -> bool {
    statfs(at).is_ok_and(|fs| fs.filesystem_type().0 == BPF_FS_MAGIC)
}

fn is_bpf_fs_of(folder: &File) -> bool {
    fstatfs(folder).is_ok_and(|fs| fs.filesystem_type().0 == BPF_FS_MAGIC)
}

pub(in crate::live) fn failed(what: &'static str, path: &Path, source: io::Error) -> LiveError {
    if source.kind() == io::ErrorKind::PermissionDenied {
        return LiveError::Privilege { what: format!("{what} `{}`", path.display()), source };
    }
    LiveError::File { what, path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_is_no_bpf_file_system_is_refused_and_left_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("FLOWS");
        fs::write(&file, "mine").unwrap();
        assert!(matches!(detach(folder.path()), Err(LiveError::NotPins { .. })));
        let around =
            Path::new("/sys/fs/bpf/../../..").join(folder.path().strip_prefix("/").unwrap());
        for path in [folder.path(), &around] {
            assert!(PinDir::claim(path).is_err(), "{}", path.display());
        }
        assert_eq!(fs::read_to_string(file).unwrap(), "mine");
        assert!(!is_bpf_fs(folder.path()));
        assert_eq!(detach(&folder.path().join("absent")).unwrap(), Detached::default());
    }

    #[test]
    fn a_path_loses_its_dots_and_links() {
        let folder = tempfile::tempdir().unwrap();
        let real = folder.path().canonicalize().unwrap();
        fs::create_dir(real.join("a")).unwrap();
        std::os::unix::fs::symlink(real.join("a"), real.join("link")).unwrap();
        assert_eq!(normal(&real.join("link/../a/./b/c")).unwrap(), real.join("a/b/c"));
        assert!(normal(&real.join("absent/../a")).is_err());
    }
}
