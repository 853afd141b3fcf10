//! What the rest of the daemon holds of the captures: orders go to the recorder's thread and are answered from there,
//! everything else is read from what the recorder has published. Never opens a file but to hand it out.

use std::{
    collections::HashMap,
    fs::File,
    io::{self, ErrorKind},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{self, RecvTimeoutError, TrySendError},
    },
    time::Duration,
};

use captures::StopReason;
use tokio::sync::watch;

use super::{
    CAPTURES_MAX, CaptureError, CaptureRequest, CaptureView, HostLimits, Recorder, Stage,
    catalogue::{self, Catalogue},
    plan::Plan,
    stage_orders::StageOrders,
};
use crate::{board::Board, flow::view::RingsView};

/// Orders that wait for the recorder.
pub(super) const ORDERS_MAX: usize = 16;
/// How long an answer may take: the disk may be slow, and an earlier run's file may have to be repaired first.
const ANSWER_MAX: Duration = Duration::from_secs(30);

/// What the recorder publishes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// Those that run, the oldest first.
    pub running: Vec<CaptureView>,
    /// Those that have ended, the oldest first.
    pub finished: Arc<Vec<CaptureView>>,
    /// What became of the ring's records.
    pub rings: RingsView,
}

impl Snapshot {
    /// One capture.
    #[must_use]
    pub fn get(&self, id: &str) -> Option<&CaptureView> {
        self.running.iter().chain(self.finished.iter()).find(|view| view.id == id)
    }
}

/// How many readers follow each capture's file as it grows.
#[derive(Debug, Default)]
pub(super) struct Readers(Mutex<HashMap<String, usize>>);

impl Readers {
    /// Whether a capture has any.
    pub(super) fn has(&self, id: &str) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).contains_key(id)
    }

    fn change(&self, id: &str, change: impl FnOnce(&mut usize)) {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(id.to_owned()).or_default();
        change(count);
        if *count == 0 {
            counts.remove(id);
        }
    }
}

/// A reader of one capture, for as long as it is there.
#[derive(Debug)]
pub struct Reading {
    readers: Arc<Readers>,
    id: String,
    changes: watch::Receiver<Arc<Snapshot>>,
}

impl Reading {
    /// The capture as it is, if there still is one.
    pub fn view(&mut self) -> Option<CaptureView> {
        self.changes.borrow_and_update().get(&self.id).cloned()
    }

    /// Waits until anything has changed. Returns false where nothing more will.
    pub async fn changed(&mut self) -> bool {
        self.changes.changed().await.is_ok()
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        self.readers.change(&self.id, |count| *count -= 1);
    }
}

/// What the recorder is asked to do.
#[derive(Debug)]
pub(super) enum Task {
    Start(Box<Plan>),
    /// Ends a capture; one that has ended stays as it is.
    Stop {
        id: String,
        reason: StopReason,
    },
    /// Removes a capture; one that runs ends first.
    Remove {
        id: String,
    },
    /// Ends whatever runs.
    Shutdown,
}

/// What became of it: the capture that was meant, if any.
pub(super) type Answer = Result<Option<CaptureView>, CaptureError>;

/// A task, and where its answer goes.
#[derive(Debug)]
pub(super) struct Order {
    pub(super) task: Task,
    pub(super) reply: mpsc::SyncSender<Answer>,
}

/// The captures of this daemon, to everyone but the recorder.
#[derive(Debug)]
pub struct CaptureManager {
    dir: PathBuf,
    board: Arc<Board>,
    orders: mpsc::SyncSender<Order>,
    published: watch::Receiver<Arc<Snapshot>>,
    readers: Arc<Readers>,
    payload_max: Option<u32>,
}

/// Keeps captures in `dir`: the manager for everyone, and the recorder for the thread that has the packets.
pub fn open(
    dir: &Path,
    limits: HostLimits,
    stage: Arc<dyn Stage>,
    board: Arc<Board>,
) -> io::Result<(CaptureManager, Recorder)> {
    let catalogue = Catalogue::open(dir, limits)?;
    let (sender, orders) = mpsc::sync_channel(ORDERS_MAX);
    let (publisher, published) = watch::channel(Arc::default());
    let readers = Arc::new(Readers::default());
    let manager = CaptureManager {
        dir: dir.to_owned(),
        board: Arc::clone(&board),
        orders: sender,
        published,
        readers: Arc::clone(&readers),
        payload_max: limits.payload_max,
    };
    Ok((
        manager,
        Recorder::new(catalogue, StageOrders::new(stage)?, board, orders, (publisher, readers)),
    ))
}

impl CaptureManager {
    /// Starts a capture. Waits for the filter's names, the kernel and the disk.
    pub fn start(&self, mut request: CaptureRequest) -> Result<CaptureView, CaptureError> {
        if self.snapshot().running.len() >= CAPTURES_MAX {
            return Err(CaptureError::TooMany);
        }
        let payload_bytes = [request.payload_bytes, self.payload_max];
        request.payload_bytes = payload_bytes.into_iter().flatten().min();
        let plan = Plan::new(request, &self.board.interfaces.latest())?;
        let started = self.ask(Task::Start(Box::new(plan)))?;
        started.ok_or(CaptureError::Unavailable("linnet is stopping"))
    }

    /// Ends a running capture, with all that was on its way; one that has ended stays as it is. Waits for the disk.
    pub fn stop(&self, id: &str, reason: StopReason) -> Result<CaptureView, CaptureError> {
        self.get(id)?;
        let ended = self.ask(Task::Stop { id: id.to_owned(), reason })?;
        ended.ok_or_else(|| CaptureError::Unknown(id.to_owned()))
    }

    /// Ends whatever runs, since nothing copies packets for it any more. Waits for the disk.
    pub fn interrupt(&self) {
        for running in &self.snapshot().running {
            if let Err(error) = self.stop(&running.id, StopReason::Interrupted) {
                tracing::error!(%error, "a running capture was not ended");
            }
        }
    }

    /// Removes a capture and its file; a running one ends first. Waits for the disk.
    pub fn remove(&self, id: &str) -> Result<(), CaptureError> {
        self.get(id)?;
        self.ask(Task::Remove { id: id.to_owned() }).map(drop)
    }

    /// Ends whatever runs. Waits for the disk.
    pub fn shutdown(&self) {
        if let Err(error) = self.ask(Task::Shutdown) {
            tracing::error!(%error, "a running capture was not ended");
        }
    }

    /// One capture.
    pub fn get(&self, id: &str) -> Result<CaptureView, CaptureError> {
        let found = self.snapshot().get(id).cloned();
        found.ok_or_else(|| CaptureError::Unknown(id.to_owned()))
    }

    /// Every capture, the latest first.
    #[must_use]
    pub fn list(&self) -> Vec<CaptureView> {
        let snapshot = self.snapshot();
        let (running, finished) = (snapshot.running.iter().rev(), snapshot.finished.iter().rev());
        running.chain(finished).cloned().collect()
    }

    /// The file of a capture, to be read up to its `bytes`. Waits for the disk.
    pub fn open(&self, id: &str) -> Result<(File, CaptureView), CaptureError> {
        let view = self.get(id)?;
        match File::open(catalogue::path(&self.dir, &view.id)) {
            Ok(file) => Ok((file, view)),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                Err(CaptureError::Unknown(id.to_owned()))
            }
            Err(error) => Err(CaptureError::Failed(error.into())),
        }
    }

    /// What became of the ring's records.
    #[must_use]
    pub fn rings(&self) -> RingsView {
        self.snapshot().rings
    }

    /// Counts as a reader of a capture from here on, and tells of its changes.
    #[must_use]
    pub fn read(&self, id: &str) -> Reading {
        self.readers.change(id, |count| *count += 1);
        let (readers, changes) = (Arc::clone(&self.readers), self.published.clone());
        Reading { readers, id: id.to_owned(), changes }
    }

    fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.published.borrow())
    }

    fn ask(&self, task: Task) -> Answer {
        let ended = "captures are not to be had: their thread has ended; restart linnet";
        let (reply, answer) = mpsc::sync_channel(1);
        self.orders.try_send(Order { task, reply }).map_err(|error| {
            CaptureError::Unavailable(match error {
                TrySendError::Full(_) => "too many orders wait for the capture; try again later",
                TrySendError::Disconnected(_) => ended,
            })
        })?;
        answer.recv_timeout(ANSWER_MAX).unwrap_or_else(|error| {
            Err(CaptureError::Unavailable(match error {
                RecvTimeoutError::Timeout => {
                    "the capture's disk is too slow to answer; look at the capture again later"
                }
                RecvTimeoutError::Disconnected => ended,
            }))
        })
    }
}
