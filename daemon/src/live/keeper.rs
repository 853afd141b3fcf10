//! What outlives a daemon beside the kernel's tables: a few figures and the rules in force, in memory that the attacher
//! holds on to and never reads. Its size is sealed, so that no daemon can leave more behind.

use std::{fs::File, io, os::unix::fs::FileExt as _};

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};

/// Bytes of the figures: five, and the length of the rules.
const FIGURES: u64 = 5 * 8;
const RULES_AT: u64 = FIGURES + 8;
/// Longest text of rules.
const RULES_MAX: usize = 1 << 20;

/// Figures of a daemon that the kernel does not have, and its successor goes on from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Kept {
    /// When the first of them began, ns since the epoch.
    pub since_ns: u64,
    /// Flows that closed.
    pub closed: u64,
    /// Flows that were idle for too long.
    pub aged: u64,
    /// Flows that were seen to be evicted.
    pub evicted: u64,
    /// Records without room.
    pub forgotten: u64,
}

/// Where they are kept.
#[derive(Debug)]
pub struct Keeper(pub(super) File);

impl Keeper {
    /// A new one.
    pub fn new(first: Kept) -> io::Result<Self> {
        let file = memory("linnet-kept")?;
        file.set_len(RULES_AT + RULES_MAX as u64)?;
        fcntl_add_seals(&file, SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL)?;
        let keeper = Self(file);
        keeper.keep(first)?;
        Ok(keeper)
    }

    /// Replaces the figures.
    pub fn keep(&self, kept: Kept) -> io::Result<()> {
        let fields = [kept.since_ns, kept.closed, kept.aged, kept.evicted, kept.forgotten];
        self.0.write_all_at(&fields.map(u64::to_le_bytes).concat(), 0)
    }

    /// The figures.
    pub fn kept(&self) -> io::Result<Kept> {
        let mut fields = [[0; 8]; 5];
        self.0.read_exact_at(fields.as_flattened_mut(), 0)?;
        let [since_ns, closed, aged, evicted, forgotten] = fields.map(u64::from_le_bytes);
        Ok(Kept { since_ns, closed, aged, evicted, forgotten })
    }

    /// Replaces the rules. A text that is cut short by a kill is no text any more.
    pub fn keep_rules(&self, text: &str) -> io::Result<()> {
        if text.len() > RULES_MAX {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        let length = |length: usize| self.0.write_all_at(&(length as u64).to_le_bytes(), FIGURES);
        length(0)?;
        self.0.write_all_at(text.as_bytes(), RULES_AT)?;
        length(text.len())
    }

    /// The rules, where any were put in force.
    pub fn rules(&self) -> io::Result<Option<String>> {
        let mut length = [0; 8];
        self.0.read_exact_at(&mut length, FIGURES)?;
        let length = usize::try_from(u64::from_le_bytes(length)).unwrap_or(usize::MAX);
        if length == 0 || length > RULES_MAX {
            return Ok(None);
        }
        let mut text = vec![0; length];
        self.0.read_exact_at(&mut text, RULES_AT)?;
        Ok(String::from_utf8(text).ok())
    }
}

/// Memory as a file without a name.
pub(super) fn memory(name: &str) -> io::Result<File> {
    Ok(memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?.into())
}

/// Lets nobody change it any more.
pub(super) fn seal(file: &File) -> io::Result<()> {
    let all = SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL;
    Ok(fcntl_add_seals(file, all)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_comes_back_and_no_more_fits() {
        let first = Kept { since_ns: 7, ..Kept::default() };
        let keeper = Keeper::new(first).unwrap();
        assert_eq!((keeper.kept().unwrap(), keeper.rules().unwrap()), (first, None));
        let next = Kept { closed: 3, aged: u64::MAX, ..first };
        keeper.keep(next).unwrap();
        keeper.keep_rules("a long text").unwrap();
        keeper.keep_rules("short").unwrap();
        assert_eq!(keeper.rules().unwrap().as_deref(), Some("short"));
        assert_eq!(keeper.kept().unwrap(), next);
        assert!(keeper.keep_rules(&"x".repeat(RULES_MAX + 1)).is_err());
        assert!(keeper.0.set_len(1 << 30).is_err() && keeper.0.set_len(1).is_err());
    }

    #[test]
    fn what_is_sealed_stays_as_it_is() {
        let file = memory("test").unwrap();
        file.write_all_at(b"mine", 0).unwrap();
        seal(&file).unwrap();
        assert!(file.write_all_at(b"yours", 0).is_err() && file.set_len(0).is_err());
    }
}
