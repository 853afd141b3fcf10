//! Bounds of generators: a deadline and a stop request that every wait looks at. Never lets a wait
//! outlive either by more than [`SLICE`].

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::{LIMIT_MAX, TrafficError};
use crate::clock::{monotonic_ns, nanos};
use crate::error::LabError;
use crate::namespace::Namespace;

/// The longest wait that does not look at the stop request.
pub(super) const SLICE: Duration = Duration::from_millis(200);

/// A request to stop, shared by those who ask and those who obey.
#[derive(Debug, Clone, Default)]
pub struct Stop {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    is_set: Mutex<bool>,
    changed: Condvar,
}

impl Stop {
    /// Not yet asked.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Asks everyone who shares it to stop; it cannot be taken back.
    pub fn stop(&self) {
        *self.shared.is_set.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.shared.changed.notify_all();
    }

    /// True once asked.
    #[must_use]
    pub fn is_set(&self) -> bool {
        *self.shared.is_set.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for `duration` or the request; true where it was asked.
    pub fn wait(&self, duration: Duration) -> bool {
        let is_set = self.shared.is_set.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.shared.changed.wait_timeout_while(is_set, duration, |is_set| !*is_set);
        *waited.unwrap_or_else(PoisonError::into_inner).0
    }
}

/// The time and the stop request of one run.
#[derive(Debug, Clone)]
pub struct Budget {
    stop: Stop,
    limit: Duration,
    deadline_ns: u64,
}

impl Budget {
    /// From here on `limit`, at most [`LIMIT_MAX`].
    #[must_use]
    pub fn new(limit: Duration, stop: &Stop) -> Self {
        let limit = limit.min(LIMIT_MAX);
        Self { stop: stop.clone(), limit, deadline_ns: monotonic_ns() + nanos(limit) }
    }

    /// Refuses to go on where the time is up or a stop was asked for.
    pub fn check(&self, doing: &'static str) -> Result<(), TrafficError> {
        if self.stop.is_set() {
            return Err(TrafficError::Stopped { doing });
        }
        if monotonic_ns() >= self.deadline_ns {
            return Err(TrafficError::Deadline { doing, limit_ms: self.limit.as_millis() });
        }
        Ok(())
    }

    /// Waits until CLOCK_MONOTONIC is `at_ns`; refuses as [`Self::check`].
    pub fn sleep_until(&self, at_ns: u64, doing: &'static str) -> Result<(), TrafficError> {
        let until_ns = at_ns.min(self.deadline_ns);
        let wait_ns = until_ns.saturating_sub(monotonic_ns());
        if wait_ns > 0 && self.stop.wait(Duration::from_nanos(wait_ns)) {
            return Err(TrafficError::Stopped { doing });
        }
        if until_ns < at_ns { self.check(doing) } else { Ok(()) }
    }

    /// What is left, at least a millisecond.
    #[must_use]
    pub fn left(&self) -> Duration {
        let left = Duration::from_nanos(self.deadline_ns.saturating_sub(monotonic_ns()));
        left.max(Duration::from_millis(1))
    }

    /// The request it obeys.
    #[must_use]
    pub fn stop(&self) -> &Stop {
        &self.stop
    }
}

/// Threads that serve until dropped.
#[derive(Debug)]
pub(super) struct Background {
    stop: Stop,
    threads: Vec<JoinHandle<()>>,
}

impl Background {
    /// Nothing yet.
    pub(super) fn new() -> Self {
        Self { stop: Stop::new(), threads: Vec::new() }
    }

    /// Runs `work` on a thread inside `namespace` until the stop it is given.
    pub(super) fn spawn(
        &mut self,
        namespace: &Namespace,
        name: &str,
        work: impl FnOnce(Stop) + Send + 'static,
    ) -> Result<(), LabError> {
        let (entry, stop) = (namespace.entry(), self.stop.clone());
        let body = move || {
            if entry.enter().is_ok() {
                work(stop);
            }
        };
        let thread = thread::Builder::new()
            .name(name.to_owned())
            .spawn(body)
            .map_err(|source| LabError::Thread { name: name.to_owned(), source })?;
        self.threads.push(thread);
        Ok(())
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        self.stop.stop();
        for thread in self.threads.drain(..) {
            thread.join().ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stop_ends_every_wait_at_once() {
        let stop = Stop::new();
        let budget = Budget::new(Duration::from_secs(60), &stop);
        stop.stop();
        assert!(stop.wait(Duration::from_secs(60)));
        let later = monotonic_ns() + nanos(Duration::from_secs(60));
        assert!(budget.sleep_until(later, "wait").is_err_and(|error| error.is_stop()));
    }

    #[test]
    fn a_spent_budget_says_so() {
        let budget = Budget::new(Duration::ZERO, &Stop::new());
        let error = budget.check("count").expect_err("no time was given");
        assert!(matches!(error, TrafficError::Deadline { doing: "count", .. }));
    }
}
