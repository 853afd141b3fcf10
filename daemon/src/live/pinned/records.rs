//! What is known about filters that may outlive the daemon: a folder for each interface that may have some. Links end
//! with their process, but filters in a clsact qdisc do not, and a BPF file system holds no files that could name them.
//! Must never forget an interface that could not be cleaned.

use std::{
    fs, io,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
};

use crate::live::{AttachRequest, LiveError, attach, namespace, pinned::failed, process, qdisc};

/// Folder inside of a record: the clsact qdisc is linnet's own.
const MADE: &str = "made";

/// The record of one interface. Its name is `INDEX:[NAMESPACE/]NAME`: an interface can be renamed at any time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::live) struct FilterRecord {
    path: PathBuf,
    namespace: Option<String>,
    ifindex: u32,
}

impl FilterRecord {
    /// The record of an interface, which need not exist yet.
    pub(in crate::live) fn of(folder: &Path, request: &AttachRequest, ifindex: u32) -> Self {
        // A BPF file system refuses dots.
        let namespace = request.namespace.as_deref().map(process::name_for_record);
        let place = AttachRequest { namespace: namespace.clone(), ..request.clone() };
        let name = place.to_string().replace('%', "%25").replace('/', "%2F").replace('.', "%2E");
        let path = folder.join(format!("{ifindex}:{name}"));
        Self { path, namespace, ifindex }
    }

    /// The record that a folder stands for.
    fn read(path: PathBuf) -> Option<Self> {
        let (index, name) = path.file_name()?.to_str()?.split_once(':')?;
        let ifindex = index.parse().ok()?;
        let name = name.replace("%2E", ".").replace("%2F", "/").replace("%25", "%");
        let namespace = name.split_once('/').map(|(namespace, _)| namespace.to_owned());
        Some(Self { path, namespace, ifindex })
    }

    /// Says that the interface may get filters, before it does.
    pub(in crate::live) fn remember(&self) -> Result<(), LiveError> {
        make_folder(&self.path)
    }

    /// Says that the interface's clsact qdisc is linnet's own.
    pub(in crate::live) fn remember_qdisc(&self) -> Result<(), LiveError> {
        make_folder(&self.path.join(MADE))
    }

    /// After the filters have gone: removes the qdisc, if linnet made it and nobody else uses it, and forgets all.
    pub(in crate::live) fn forget(&self) {
        if !self.path.is_dir() {
            return;
        }
        if let Err(error) = self.clean(|_| 0).and_then(|_| self.remove()) {
            tracing::warn!(%error, record = %self.path.display(), "the clsact qdisc stays");
        }
    }

    /// Removes from the interface what linnet left on it; `remove` takes the filters off an interface by its name, and
    /// returns how many there were.
    fn clean(&self, remove: impl FnOnce(&str) -> usize + Send) -> Result<usize, LiveError> {
        let is_gone = |error: &LiveError| matches!(error, LiveError::Namespace { source, .. } if source.kind() == io::ErrorKind::NotFound);
        let made = self.path.join(MADE).is_dir();
        let cleaned = namespace::within(self.namespace.as_deref(), || {
            // One that has gone took everything along.
            let Some(name) = namespace::name_of(self.ifindex)? else { return Ok(0) };
            let removed = remove(&name);
            if made {
                qdisc::remove_if_empty(self.ifindex)
                    .map_err(|source| LiveError::Qdisc { interface: name, source })?;
            }
            Ok(removed)
        });
        match cleaned {
            Err(error) if is_gone(&error) => {
                let namespace = self.namespace.as_deref().unwrap_or_default();
                if process::namespace_of_record(namespace).is_some() {
                    let ifindex = self.ifindex;
                    tracing::warn!(
                        namespace,
                        ifindex,
                        "the process whose network namespace that is has ended; should the namespace live on, linnet's filters are still on that interface: `tc filter show dev .. ingress` and egress show them"
                    );
                }
                Ok(0)
            }
            other => other,
        }
    }

    /// Forgets an interface that has gone, and has taken everything along.
    pub(in crate::live) fn remove(&self) -> Result<(), LiveError> {
        for path in [self.path.join(MADE), self.path.clone()] {
            match fs::remove_dir(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                other => other.map_err(|source| failed("remove", &path, source))?,
            }
        }
        Ok(())
    }
}

fn make_folder(path: &Path) -> Result<(), LiveError> {
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(|source| failed("create", path, source))
}

/// Cleans every interface of the folder but some; returns how many filters were removed, and how many records stay since
/// their interface could not be cleaned.
pub(in crate::live) fn clear(
    folder: &Path,
    but: &[&FilterRecord],
) -> Result<(usize, usize), LiveError> {
    let unreadable = |source| failed("read", folder, source);
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok((0, 0)),
        other => other.map_err(unreadable)?,
    };
    let (mut removed, mut kept) = (0, 0);
    for entry in entries {
        let path = entry.map_err(unreadable)?.path();
        let Some(record) = FilterRecord::read(path.clone()) else {
            tracing::warn!(path = %path.display(), "left alone what is no record of linnet's");
            kept += 1;
            continue;
        };
        if but.contains(&&record) {
            kept += 1;
            continue;
        }
        match record.clean(attach::remove_stale_filters) {
            Ok(filters) => {
                removed += filters;
                if let Err(error) = record.remove() {
                    tracing::warn!(%error, record = %path.display(), "the record stays: there is something in it");
                    kept += 1;
                }
            }
            Err(error) => {
                tracing::warn!(%error, record = %path.display(), "filters may be left; the record is kept");
                kept += 1;
            }
        }
    }
    if kept == 0 {
        fs::remove_dir(folder).map_err(|source| failed("remove", folder, source))?;
    }
    Ok((removed, kept))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interface_comes_back_from_its_record() {
        for text in ["eth0", "eth0.100", "blue/eth0.7", "50%.d/br%2E", "blue/a:b"] {
            let request: AttachRequest = text.parse().unwrap();
            let record = FilterRecord::of(Path::new("/x"), &request, 7);
            let name = record.path.file_name().unwrap().to_str().unwrap();
            assert!(!name.contains(['.', '/']), "{name}");
            assert_eq!(FilterRecord::read(record.path.clone()), Some(record));
        }
        assert_eq!(FilterRecord::read("/x/eth0".into()), None, "without an index");
    }

    #[test]
    fn what_cannot_be_cleaned_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let filters = folder.path().join("filters");
        // The first process started long before what this record is of.
        let other = "7:pid:1@18446744073709551615%2Feth0";
        for name in ["eth0", "4000000000:gone", "7:no-such-namespace%2Feth0", other] {
            fs::create_dir_all(filters.join(name)).unwrap();
        }
        assert_eq!(clear(&filters, &[]).unwrap(), (0, 1));
        assert!(filters.join("eth0").is_dir());
        fs::remove_dir(filters.join("eth0")).unwrap();
        assert_eq!(clear(&filters, &[]).unwrap(), (0, 0));
        assert!(!filters.exists());
    }
}
