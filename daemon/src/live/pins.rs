//! The folder of pinned maps: where the objects of several namespaces meet. One daemon owns it at a time. Must never
//! remove what linnet did not put there.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::DirBuilderExt as _,
    path::{Component, Path, PathBuf},
};

use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
    mount::{MsFlags, mount},
    sys::statfs::statfs,
};

use super::{LiveError, records};

/// Where Linux mounts its BPF file system.
const BPF_FS: &str = "/sys/fs/bpf";
/// `BPF_FS_MAGIC` (include/uapi/linux/magic.h).
const BPF_FS_MAGIC: i64 = 0xcafe_4a11;
/// Folder beside the pins with what is known about filters that may outlive the daemon.
const FILTERS: &str = "filters";
/// Maps that the objects of all namespaces share, by the names of their pins. A name that is given up has to stay in
/// the list of [`clear`], or an earlier version's pin is left behind.
pub(super) const SHARED: [&str; 22] = [
    "META",
    "FLOWS",
    "EMBRYONIC",
    "ENDED",
    "SERVICES",
    "SERVICE_RTT",
    "SERVICE_LAST",
    "FRAGMENTS",
    "HOOKS",
    "CAPTURE_CONFIG",
    "CAPTURE_RING",
    "CAPTURE_STATS",
    "CAPTURE_SCRATCH",
    "RULES_CONFIG",
    "RULE_NETWORKS",
    "RULE_ADDRESSES",
    "RULE_PORT_CLASSES",
    "RULE_PORTS",
    "RULE_PROTOCOLS",
    "RULE_HOOKS",
    "RULE_ACTIONS",
    "UNTRACKED",
];

/// A folder of pins that this process owns; emptied and removed when dropped.
#[derive(Debug)]
pub(super) struct PinDir {
    path: PathBuf,
    _lock: Flock<File>,
}

impl PinDir {
    /// Takes the folder over. What a daemon that died left in it is removed.
    pub(super) fn claim(path: &Path) -> Result<Self, LiveError> {
        let path = normal(path)?;
        ensure_bpf_fs(&path)?;
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&path)
            .map_err(|source| failed("create", &path, source))?;
        let lock = lock(&path)?;
        let Detached { pins, filters, .. } = clear(&path)?;
        if pins + filters > 0 {
            tracing::info!(path = %path.display(), pins, filters, "removed what an earlier run left");
        }
        Ok(Self { path, _lock: lock })
    }

    /// Where a map is pinned.
    pub(super) fn map(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Where filters are remembered.
    pub(super) fn filters(&self) -> PathBuf {
        self.path.join(FILTERS)
    }
}

impl Drop for PinDir {
    fn drop(&mut self) {
        if let Err(error) = clear(&self.path).and_then(|_| remove_folder(&self.path)) {
            tracing::warn!(%error, "pins were left behind");
        }
    }
}

/// What [`detach`] removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Detached {
    /// Pinned maps.
    pub pins: usize,
    /// Filters in clsact qdiscs.
    pub filters: usize,
    /// Interfaces that could not be cleaned, and are still remembered.
    pub kept: usize,
}

/// Removes what a daemon that was killed left: links end with their process, but pins and clsact filters do not.
pub fn detach(pins: &Path) -> Result<Detached, LiveError> {
    let pins = normal(pins)?;
    match fs::metadata(&pins) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Detached::default()),
        Err(source) => return Err(failed("look at", &pins, source)),
        Ok(_) if !is_bpf_fs(&pins) => return Err(LiveError::NotPins { path: pins }),
        Ok(_) => {}
    }
    let _lock = lock(&pins)?;
    let detached = clear(&pins)?;
    remove_folder(&pins)?;
    Ok(detached)
}

/// Locks the folder itself, which ends with the process, however it ends.
fn lock(path: &Path) -> Result<Flock<File>, LiveError> {
    let folder = File::open(path).map_err(|source| failed("open", path, source))?;
    Flock::lock(folder, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| {
        if errno == Errno::EWOULDBLOCK {
            LiveError::InUse { path: path.to_owned(), pid: owner(path) }
        } else {
            failed("lock", path, io::Error::from(errno))
        }
    })
}

/// The process that holds the lock, from the kernel's list.
fn owner(path: &Path) -> String {
    use std::os::unix::fs::MetadataExt as _;
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

/// Removes the pins that linnet makes, and the filters that the folder remembers. Everything else stays.
fn clear(path: &Path) -> Result<Detached, LiveError> {
    let (filters, kept) = records::clear(&path.join(FILTERS))?;
    let mut cleared = Detached { pins: 0, filters, kept };
    for pin in SHARED.map(|name| path.join(name)) {
        match fs::remove_file(&pin) {
            Ok(()) => cleared.pins += 1,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(failed("remove", &pin, source)),
        }
    }
    Ok(cleared)
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

pub(super) fn failed(what: &'static str, path: &Path, source: io::Error) -> LiveError {
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
