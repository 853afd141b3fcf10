//! When and where in the file something was: so that whoever is told of it can look. Never keeps a list without a bound.

use datapath::{
    Ktime,
    tcp::{classes::CLASSES, verdict},
};

/// A frame and its time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mark {
    /// Number of the frame, from 1.
    pub frame: u64,
    /// When it passed.
    pub at: Ktime,
}

impl Mark {
    /// Nanoseconds since `earlier`; 0 where time went backwards.
    #[inline]
    #[must_use]
    pub const fn since_ns(self, earlier: Self) -> u64 {
        let elapsed_ns = self.at.since(earlier.at);
        if elapsed_ns > 0 { elapsed_ns.cast_unsigned() } else { 0 }
    }
}

/// From one frame to another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Span {
    /// The first one.
    pub from: Mark,
    /// The last one.
    pub until: Mark,
}

impl Span {
    /// How long it took.
    #[must_use]
    pub const fn duration_ns(&self) -> u64 {
        self.until.since_ns(self.from)
    }
}

/// How often something was, and between which frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Occurrences {
    /// Segments.
    pub count: u64,
    /// The first and the last one.
    pub span: Span,
}

impl Occurrences {
    pub(super) const fn add(&mut self, mark: Mark) {
        if self.count == 0 {
            self.span.from = mark;
        }
        self.span.until = mark;
        self.count += 1;
    }
}

/// Segments by verdict and by Wireshark's class.
#[derive(Clone, Debug, Default)]
pub(super) struct Told {
    pub(super) verdicts: [Occurrences; verdict::BITS.len()],
    pub(super) classes: [Occurrences; CLASSES],
}

impl Told {
    pub(super) fn add(&mut self, verdict: u32, classes: u32, mark: Mark) {
        each(verdict, &mut self.verdicts, mark);
        each(classes, &mut self.classes, mark);
    }
}

fn each(bits: u32, occurrences: &mut [Occurrences], mark: Mark) {
    let mut left = bits;
    while left != 0 {
        if let Some(occurrence) = occurrences.get_mut(left.trailing_zeros() as usize) {
            occurrence.add(mark);
        }
        left &= left - 1;
    }
}

/// The first `MAX` of something, and how many more there were.
#[derive(Clone, Debug)]
pub struct Kept<T, const MAX: usize> {
    kept: Vec<T>,
    beyond: u64,
}

impl<T, const MAX: usize> Default for Kept<T, MAX> {
    fn default() -> Self {
        Self { kept: Vec::new(), beyond: 0 }
    }
}

impl<T, const MAX: usize> Kept<T, MAX> {
    pub(super) fn push(&mut self, one: T) {
        if self.kept.len() < MAX {
            self.kept.push(one);
        } else {
            self.beyond += 1;
        }
    }

    pub(super) fn extend(&mut self, ones: impl IntoIterator<Item = T>) {
        ones.into_iter().for_each(|one| self.push(one));
    }

    /// The first ones.
    #[must_use]
    pub fn as_slice(&self) -> &[T] {
        &self.kept
    }

    /// All there were.
    #[must_use]
    pub const fn count(&self) -> u64 {
        self.kept.len() as u64 + self.beyond
    }

    /// Those that were not kept.
    #[must_use]
    pub const fn beyond(&self) -> u64 {
        self.beyond
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_counted() {
        let mut kept = Kept::<u32, 2>::default();
        (0..5).for_each(|number| kept.push(number));
        assert_eq!((kept.as_slice(), kept.beyond(), kept.count()), (&[0, 1][..], 3, 5));
    }

    #[test]
    fn time_that_goes_backwards_stands_still() {
        let [early, late] = [1, 2].map(|frame| Mark { frame, at: Ktime(frame) });
        assert_eq!((late.since_ns(early), early.since_ns(late)), (1, 0));
    }
}
