//! Hears of interfaces that come, go and change in the namespaces that are in use, and of namespaces that are made and
//! removed. What it hears is only a reason to look: what counts is the list that the kernel gives then, so that news
//! that is lost costs nothing but that look. Must never keep a namespace alive that has lost its name, or its process.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::fs::MetadataExt as _,
    },
    path::Path,
    sync::Arc,
    time::Duration,
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        eventfd::EventFd,
        inotify::{AddWatchFlags, InitFlags, Inotify},
        statfs::statfs,
    },
};

use crate::live::{
    LiveError,
    links::{self, Interface},
    namespace::{self, NAMESPACES},
    netlink::Socket,
    process,
};

/// `NSFS_MAGIC` (include/uapi/linux/magic.h): a file that is a namespace, rather than one that is to become one.
const NSFS_MAGIC: i64 = 0x6e73_6673;

/// One namespace that is listened to.
#[derive(Debug)]
struct Space {
    /// Which of the namespaces of this name.
    number: u64,
    /// Its file's device and inode: no other has them while the sockets are open.
    identity: (u64, u64),
    /// The process that it is named by.
    process: Option<Arc<OwnedFd>>,
    news: Socket,
    questions: Socket,
}

/// All of them.
#[derive(Debug)]
pub(in crate::live) struct Monitor {
    spaces: BTreeMap<Option<String>, Space>,
    names: Option<Inotify>,
    wake: Arc<EventFd>,
    opened: u64,
}

/// What a namespace holds.
#[derive(Debug)]
pub(in crate::live) enum View {
    /// There is none of that name.
    Absent,
    /// Its file is there and is no namespace yet.
    Unfinished,
    /// Its interfaces.
    There {
        /// Which of the namespaces that had this name.
        number: u64,
        /// As of now.
        interfaces: Vec<Interface>,
        /// Indexes of interfaces that went since the last look: one that has such an index now is another.
        went: BTreeSet<u32>,
    },
}

impl Monitor {
    /// Listens to nothing yet; `wake` ends a wait.
    pub(in crate::live) const fn new(wake: Arc<EventFd>) -> Self {
        Self { spaces: BTreeMap::new(), names: None, wake, opened: 0 }
    }

    /// Waits until there is something to look at, or for so long.
    pub(in crate::live) fn wait(&self, most: Duration) -> io::Result<()> {
        let mut fds = vec![PollFd::new(self.wake.as_fd(), PollFlags::POLLIN)];
        fds.extend(self.names.iter().map(|names| PollFd::new(names.as_fd(), PollFlags::POLLIN)));
        for space in self.spaces.values() {
            fds.push(PollFd::new(space.news.as_fd(), PollFlags::POLLIN));
            let process = space.process.iter();
            fds.extend(process.map(|it| PollFd::new(it.as_fd(), PollFlags::POLLIN)));
        }
        let most = PollTimeout::try_from(most).unwrap_or(PollTimeout::MAX);
        match poll(&mut fds, most) {
            Ok(_) | Err(Errno::EINTR) => {
                // A word is for one wait; where there was none, there is none to take.
                let _none = self.wake.read();
                Ok(())
            }
            Err(errno) => Err(errno.into()),
        }
    }

    /// Looks at a namespace, and listens to it from here on.
    pub(in crate::live) fn look(&mut self, name: Option<&str>) -> Result<View, LiveError> {
        let failed = |source: io::Error| LiveError::Links {
            namespace: name.unwrap_or("the daemon's own").to_owned(),
            source,
        };
        let key = name.map(ToOwned::to_owned);
        let (identity, process) = match name.map(|name| (process::pid_of(name), name)) {
            None => ((0, 0), None),
            Some((Some(pid), _)) => match process::namespace(pid) {
                Ok(found) if !found.ended => {
                    let identity = namespace::identity(&found.namespace).map_err(failed)?;
                    (identity, Some(found.process))
                }
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
                Ok(_) | Err(_) => {
                    self.spaces.remove(&key);
                    return Ok(View::Absent);
                }
            },
            Some((None, name)) => {
                let path = Path::new(NAMESPACES).join(name);
                self.listen_to_names();
                let Ok(found) = fs::metadata(&path) else {
                    self.spaces.remove(&key);
                    return Ok(View::Absent);
                };
                if statfs(&path).is_ok_and(|fs| fs.filesystem_type().0 != NSFS_MAGIC) {
                    self.spaces.remove(&key);
                    return Ok(View::Unfinished);
                }
                ((found.dev(), found.ino()), None)
            }
        };
        if self.spaces.get(&key).is_some_and(|space| space.identity != identity) {
            self.spaces.remove(&key);
        }
        if !self.spaces.contains_key(&key) {
            let open = || {
                Socket::of_links()
                    .and_then(|news| Socket::open().map(|questions| (news, questions)))
                    .map_err(failed)
            };
            let (news, questions) = namespace::within(name, open)?;
            self.opened += 1;
            let space = Space { number: self.opened, identity, process, news, questions };
            self.spaces.insert(key.clone(), space);
        }
        let Some(space) = self.spaces.get(&key) else { return Ok(View::Absent) };
        // The news first: what comes after it is news of the next time.
        let (went, lost) = links::gone(&space.news).map_err(failed)?;
        if lost {
            tracing::info!(namespace = name, "news of interfaces was lost: looking at all of them");
        }
        let interfaces = links::list(&space.questions).map_err(failed)?;
        Ok(View::There { number: space.number, interfaces, went })
    }

    /// Hears of names that come and go; where that cannot be, the looks at an interval find them.
    fn listen_to_names(&mut self) {
        if self.names.is_none() {
            let flags = InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK;
            let events = AddWatchFlags::IN_CREATE | AddWatchFlags::IN_DELETE;
            self.names = Inotify::init(flags)
                .ok()
                .filter(|names| names.add_watch(NAMESPACES, events).is_ok());
        }
        if let Some(names) = &self.names {
            // What they say does not matter.
            while names.read_events().is_ok_and(|events| !events.is_empty()) {}
        }
    }
}
