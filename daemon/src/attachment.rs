//! A daemon and its attacher: one whose attacher dies goes on with what it holds, says so, and takes the next attacher.
//! Without one the programs count on, since they stay on their hooks; interfaces are not followed, and captures and rules
//! wait.

use std::{
    sync::{Arc, atomic::Ordering},
    thread,
};

use tokio_util::sync::CancellationToken;

use crate::{
    board::Board,
    capture::CaptureManager,
    live::{self, Keeper, LiveError, Remote, Succession, Verb},
    live_rules::restore,
    rules::{ReadRule, Rules},
};

const ENDS_TOO: &str = "the attacher has died, and the daemon ends with it";

/// Both ends, and who has to know.
#[derive(Debug)]
pub struct Attachment {
    /// The attacher.
    pub remote: Remote,
    /// Where the next one comes; absent where the daemon ends with its attacher.
    pub succession: Option<Succession>,
    /// Where it is told.
    pub board: Arc<Board>,
    /// What needs an attacher to go on.
    pub captures: Arc<CaptureManager>,
    /// What the next attacher has to be told.
    pub rules: Arc<Rules>,
    /// Where the rules are kept.
    pub keeper: Arc<Keeper>,
    /// Those of the configuration.
    pub configured: Vec<ReadRule>,
}

/// For a daemon that ends with its attacher: the token is cancelled when that has died.
pub fn end_with(attacher: &Remote) -> std::io::Result<CancellationToken> {
    let lost = CancellationToken::new();
    let tell = lost.clone();
    let socket = attacher.descriptor()?;
    thread::Builder::new().name("attachment".into()).spawn(move || {
        live::wait_for_end(&socket);
        tracing::error!("{ENDS_TOO}");
        tell.cancel();
    })?;
    Ok(lost)
}

impl Attachment {
    /// Watches over it on a thread of its own, which ends with the process. The token is cancelled where the daemon cannot
    /// go on.
    pub fn start(self) -> std::io::Result<CancellationToken> {
        let lost = CancellationToken::new();
        let tell = lost.clone();
        thread::Builder::new().name("attachment".into()).spawn(move || {
            while self.turn() {}
            tell.cancel();
        })?;
        Ok(lost)
    }

    /// From one attacher to the next.
    fn turn(&self) -> bool {
        let Ok(socket) = self.remote.descriptor() else { return false };
        live::wait_for_end(&socket);
        self.board.attacher_gone.store(true, Ordering::Relaxed);
        let Some(succession) = &self.succession else {
            tracing::error!("{ENDS_TOO}");
            return false;
        };
        tracing::error!(
            "the attacher has died: what is watched is counted on, but interfaces are not followed, and captures and rules wait; start `linnet run` again"
        );
        self.captures.interrupt();
        let taken = succession.next().and_then(|socket| self.remote.replace(socket));
        if let Err(error) = taken {
            tracing::error!(%error, "no other attacher can be waited for");
            return false;
        }
        tracing::info!("going on with another attacher");
        if let Err(error) = self.bring_up_to_date() {
            tracing::error!(%error, "the rules may not be what they were");
        }
        self.board.attacher_gone.store(false, Ordering::Relaxed);
        true
    }

    fn bring_up_to_date(&self) -> Result<(), LiveError> {
        let failed = |source| LiveError::Syscall { call: "bpf", map: "KEPT_RULES", source };
        let kept = self.keeper.rules().map_err(failed)?;
        // Nothing may be in force that nobody knows of.
        if kept.is_some_and(|text| !restore(&self.rules, &text, &self.configured))
            && let Err(error) = self.rules.restore(self.configured.clone())
        {
            tracing::error!(%error, "the configuration's rules are not in force either");
        }
        self.remote.perform(&Verb::Serving).map(drop)
    }
}
