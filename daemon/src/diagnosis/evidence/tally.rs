//! How often something was seen, first and last. Never when it was not.

/// A count with its time range.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// How often.
    pub count: u32,
    first_ns: u64,
    last_ns: u64,
}

impl Tally {
    /// Counts one more.
    pub const fn add(&mut self, now_ns: u64) {
        if self.count == 0 {
            self.first_ns = now_ns;
        }
        self.count = self.count.saturating_add(1);
        self.last_ns = now_ns;
    }

    /// Counts one less: it was none.
    pub(super) const fn withdraw(&mut self) {
        self.count = self.count.saturating_sub(1);
    }

    /// First and last, if there was any; in the order of time where that went backwards.
    #[must_use]
    pub fn span(&self) -> Option<(u64, u64)> {
        let ordered = (self.first_ns.min(self.last_ns), self.first_ns.max(self.last_ns));
        (self.count > 0).then_some(ordered)
    }
}
