//! What the rest of the daemon holds of the captures: orders go to the recorder's thread and are answered from there,
//! everything else is read from what the recorder has published. Never opens a file but to hand it out.

use std::{
    fs::File,
    io::{self, ErrorKind},
    path::{Path, PathBuf},
    sync::{
        Arc,
        mpsc::{self, RecvTimeoutError, TrySendError},
    },
    time::Duration,
};

use captures::StopReason;
use tokio::sync::watch;

use super::{
    CaptureError, CaptureRequest, CaptureView, Keep, Recorder, Stage,
    catalogue::{self, Catalogue},
    plan::Plan,
};
use crate::{board::Board, flow::view::RingsView};

/// Orders that wait for the recorder.
pub(super) const ORDERS_MAX: usize = 16;
/// How long an answer may take: the disk may be slow, and an earlier run's file may have to be repaired first.
const ANSWER_MAX: Duration = Duration::from_secs(30);

/// What the recorder publishes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// The capture that runs.
    pub running: Option<CaptureView>,
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
}

/// Keeps captures in `dir`: the manager for everyone, and the recorder for the thread that has the packets.
pub fn open(
    dir: &Path,
    keep: Keep,
    stage: Box<dyn Stage>,
    board: Arc<Board>,
) -> io::Result<(CaptureManager, Recorder)> {
    let catalogue = Catalogue::open(dir, keep)?;
    let (sender, orders) = mpsc::sync_channel(ORDERS_MAX);
    let (publisher, published) = watch::channel(Arc::default());
    let manager = CaptureManager {
        dir: dir.to_owned(),
        board: Arc::clone(&board),
        orders: sender,
        published,
    };
    Ok((manager, Recorder::new(catalogue, stage, board, orders, publisher)))
}

impl CaptureManager {
    /// Starts a capture. Waits for the filter's names, the kernel and the disk.
    pub fn start(&self, request: CaptureRequest) -> Result<CaptureView, CaptureError> {
        if let Some(running) = &self.snapshot().running {
            return Err(CaptureError::Running(running.id.clone()));
        }
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
        let Some(running) = self.snapshot().running.clone() else { return };
        if let Err(error) = self.stop(&running.id, StopReason::Interrupted) {
            tracing::error!(%error, "a running capture was not ended");
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
        snapshot.running.iter().chain(snapshot.finished.iter().rev()).cloned().collect()
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

    /// Everything as it is published: the latest, and what is still to come.
    #[must_use]
    pub fn follow(&self) -> watch::Receiver<Arc<Snapshot>> {
        self.published.clone()
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
