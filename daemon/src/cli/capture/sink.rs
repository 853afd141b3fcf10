//! The files that `linnet capture` writes, and their names. Must never touch what a file holds before there is something
//! to write, nor write over a file of the same capture while names do not repeat.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, ErrorKind, IsTerminal as _, Write as _},
    os::fd::{AsFd as _, OwnedFd},
    path::{Path, PathBuf},
};

use jiff::{Timestamp, fmt::strtime, tz::TimeZone};

use crate::cli::{ExitWith, exit};

/// Where the bytes go.
#[derive(Debug)]
pub(super) struct Sink {
    file: File,
    /// The path, where this command made the file.
    made: Option<PathBuf>,
    /// Whether what the file held before is gone.
    begun: bool,
    /// Where there is a file after it.
    names: Option<Names>,
    files: u64,
}

impl Sink {
    /// Opens the file without touching what it holds: that is lost only once a capture has started. With a time
    /// (nanoseconds since 1970) it is the first of several, of that time.
    pub(super) fn open(path: &Path, start_ns: Option<u64>) -> Result<Self, ExitWith> {
        let is_stdout = path == Path::new("-");
        let Some(start_ns) = start_ns else {
            return if is_stdout { Self::stdout() } else { Self::at(path, None) };
        };
        if is_stdout {
            let message = "-G begins new files, which standard output cannot; name them: `-w 'FILE-%H%M%S.pcapng'`";
            return Err(ExitWith { code: exit::USAGE, message: message.into() });
        }
        let refused = |message| ExitWith { code: exit::USAGE, message };
        let mut names = Names::new(path).map_err(refused)?;
        let first = names.next(start_ns).map_err(refused)?;
        if fs::metadata(&first).is_ok_and(|metadata| !metadata.is_file()) {
            let shown = first.display();
            let message =
                format!("-G begins new files, and `{shown}` is no regular file; name one");
            return Err(ExitWith { code: exit::USAGE, message });
        }
        Self::at(&first, Some(names))
    }

    fn at(path: &Path, names: Option<Names>) -> Result<Self, ExitWith> {
        let refused = |error: io::Error| ExitWith {
            code: exit::FAILED,
            message: format!("cannot write `{}`: {error}", path.display()),
        };
        let sink = |file, made| Self { file, made, begun: false, names, files: 1 };
        match OpenOptions::new().write(true).create_new(true).open(path) {
            Ok(file) => Ok(sink(file, Some(path.to_owned()))),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                let file = OpenOptions::new().write(true).open(path).map_err(refused)?;
                Ok(sink(file, None))
            }
            Err(error) => Err(refused(error)),
        }
    }

    fn stdout() -> Result<Self, ExitWith> {
        let stdout = io::stdout();
        if stdout.is_terminal() {
            let message = "a terminal cannot show packets; write to a file with `-w FILE`, or pipe it: `-w - | wireshark -k -i -`";
            return Err(ExitWith { code: exit::USAGE, message: message.into() });
        }
        // A copy, so that nothing is buffered on its way.
        let copy = stdout.as_fd().try_clone_to_owned().map_err(|error| ExitWith {
            code: exit::FAILED,
            message: format!("cannot write to standard output: {error}"),
        })?;
        Ok(Self { file: File::from(copy), made: None, begun: true, names: None, files: 1 })
    }

    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        if !self.begun {
            self.begun = true;
            if self.file.metadata()?.is_file() {
                self.file.set_len(0)?;
            }
        }
        self.file.write_all(bytes)
    }

    /// Goes on to the next file, whose packets are from this time on.
    pub(super) fn next(&mut self, start_ns: u64) -> io::Result<()> {
        let Some(names) = &mut self.names else { return Ok(()) };
        let path = names.next(start_ns).map_err(io::Error::other)?;
        let opened = OpenOptions::new().write(true).create(true).truncate(true).open(&path);
        self.file = opened.map_err(|error| {
            let what = format!("the next file, `{}`: {error}", path.display());
            io::Error::new(error.kind(), what)
        })?;
        self.files += 1;
        Ok(())
    }

    /// No capture came: a file that was made for it goes.
    pub(super) fn abandon(&self) {
        if let Some(path) = &self.made {
            // What is gone already needs no removing.
            let _gone = fs::remove_file(path);
        }
    }

    /// The first file once more, to see whether its reader is there.
    pub(super) fn receiver(&self) -> io::Result<OwnedFd> {
        self.file.as_fd().try_clone_to_owned()
    }

    pub(super) fn files(&self) -> u64 {
        self.files
    }
}

/// The names of the files of one capture.
#[derive(Debug)]
struct Names {
    /// With conversions of strftime(3).
    template: String,
    zone: TimeZone,
    /// What the template came to for the file before.
    before: Option<String>,
    count: u64,
}

impl Names {
    fn new(path: &Path) -> Result<Self, String> {
        let Some(template) = path.to_str() else {
            return Err(format!("`{}` is not UTF-8, which -G needs", path.display()));
        };
        let zone = TimeZone::system();
        Ok(Self { template: template.to_owned(), zone, before: None, count: 0 })
    }

    /// The name for a file of this time. What the file before it would be called, too, gets the file's number.
    fn next(&mut self, start_ns: u64) -> Result<PathBuf, String> {
        self.count += 1;
        let start = Timestamp::from_nanosecond(i128::from(start_ns));
        let local = start.map_err(|error| error.to_string())?.to_zoned(self.zone.clone());
        let name = strtime::format(&self.template, &local).map_err(|error| {
            let template = &self.template;
            format!("-G takes `{template}` for strftime(3): {error}; write `%%` for a percent sign")
        })?;
        let path = if self.before.as_ref() == Some(&name) {
            numbered(Path::new(&name), self.count)
        } else {
            PathBuf::from(&name)
        };
        self.before = Some(name);
        Ok(path)
    }
}

/// `eth0.pcapng` as `eth0_00002.pcapng`.
fn numbered(path: &Path, number: u64) -> PathBuf {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    let mut name = format!("{stem}_{number:05}");
    if let Some(ending) = path.extension() {
        name = format!("{name}.{}", ending.to_string_lossy());
    }
    path.with_file_name(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(template: &str, times: &[&str]) -> Vec<String> {
        let mut names = Names::new(Path::new(template)).unwrap();
        names.zone = TimeZone::UTC;
        let mut name = |time: &&str| {
            let time: Timestamp = time.parse().unwrap();
            names.next(u64::try_from(time.as_nanosecond()).unwrap()).unwrap()
        };
        times.iter().map(&mut name).map(|path| path.to_str().unwrap().to_owned()).collect()
    }

    #[test]
    fn names_follow_strftime_and_are_numbered_where_they_repeat() {
        let times = ["2026-11-28T10:00:00Z", "2026-11-28T10:40:00Z", "2026-11-28T11:20:00.5Z"];
        assert_eq!(
            names("/tmp/x.d/a-%Y%m%d_%H%M%S.pcapng", &times),
            [
                "/tmp/x.d/a-20261128_100000.pcapng",
                "/tmp/x.d/a-20261128_104000.pcapng",
                "/tmp/x.d/a-20261128_112000.pcapng"
            ]
        );
        assert_eq!(names("a-%H.pcap", &times), ["a-10.pcap", "a-10_00002.pcap", "a-11.pcap"]);
        assert_eq!(names("x.d/a", &times), ["x.d/a", "x.d/a_00002", "x.d/a_00003"]);
        assert_eq!(names("100%%", &times[..1]), ["100%"]);
    }

    #[test]
    fn what_cannot_be_rotated_is_refused() {
        for (path, word) in [("-", "standard output"), ("/dev/null", "regular"), ("a%", "%%")] {
            let refused = Sink::open(Path::new(path), Some(0)).unwrap_err();
            assert_eq!(refused.code, exit::USAGE, "{path}");
            assert!(refused.message.contains(word), "{refused}");
        }
    }

    #[test]
    fn a_file_keeps_what_it_holds_until_a_capture_comes() {
        let folder = tempfile::tempdir().unwrap();
        let (old, new) = (folder.path().join("old"), folder.path().join("new"));
        fs::write(&old, "longer than before").unwrap();
        Sink::open(&old, None).unwrap().abandon();
        Sink::open(&new, None).unwrap().abandon();
        assert_eq!(fs::read(&old).unwrap(), b"longer than before");
        assert!(!new.exists());
        let mut sink = Sink::open(&old, Some(0)).unwrap();
        sink.write(b"pcap").unwrap();
        sink.write(b"ng").unwrap();
        sink.next(0).unwrap();
        sink.write(b"more").unwrap();
        assert_eq!(fs::read(&old).unwrap(), b"pcapng");
        assert_eq!(fs::read(folder.path().join("old_00002")).unwrap(), b"more");
        assert_eq!(sink.files(), 2);
    }
}
