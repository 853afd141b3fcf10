//! How long each side took to answer the other one: from the last data of a request to the first data of what comes back.
//! Never of requests that overlap, nor where anything in between was lost.

use super::{mark::Mark, samples::Samples};

/// Response times of one side.
#[derive(Clone, Debug, Default)]
pub struct Responses {
    times: Samples,
    overlapping: u64,
    disturbed: u64,
}

impl Responses {
    /// From the last data of the other side until here, and from here on until this side's first data.
    #[must_use]
    pub const fn times(&self) -> &Samples {
        &self.times
    }

    /// Answers that are not measured, since requests were pipelined, or both sides sent at once.
    #[must_use]
    pub const fn overlapping(&self) -> u64 {
        self.overlapping
    }

    /// Answers that are not measured, since something was sent again, late, or not captured in between.
    #[must_use]
    pub const fn disturbed(&self) -> u64 {
        self.disturbed
    }
}

/// Whose turn it is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Turn {
    by: usize,
    last: Mark,
    is_disturbed: bool,
}

/// Data of one side, as far as turns go.
#[derive(Clone, Copy, Debug)]
pub(super) struct Said {
    pub(super) by: usize,
    pub(super) mark: Mark,
    /// It was sent before, is late, or something before it is missing.
    pub(super) is_disturbed: bool,
    /// It acknowledges all that the other side sent, and the other side had acknowledged all that this one did.
    pub(super) is_alone: bool,
}

impl Turn {
    /// Takes data into account, which may be the `responses` of its side.
    #[inline]
    pub(super) fn take(turn: &mut Option<Self>, said: Said, responses: &mut Responses) {
        let Said { by, mark, is_disturbed, is_alone } = said;
        match turn {
            Some(own) if own.by == by => {
                own.is_disturbed |= is_disturbed;
                own.last = mark;
                return;
            }
            Some(request) if request.is_disturbed || is_disturbed => responses.disturbed += 1,
            Some(_) if !is_alone => responses.overlapping += 1,
            Some(request) => responses.times.add(mark.since_ns(request.last)),
            None => {}
        }
        *turn = Some(Self { by, last: mark, is_disturbed });
    }
}

#[cfg(test)]
mod tests {
    use datapath::Ktime;

    use super::*;

    /// Data as `(by, at_ms, is_disturbed, is_alone)`; returns the answers of side 1.
    fn answers(said: &[(usize, u64, bool, bool)]) -> Responses {
        let (mut turn, mut responses) = (None, [Responses::default(), Responses::default()]);
        for (by, at_ms, is_disturbed, is_alone) in said.iter().copied() {
            let mark = Mark { frame: at_ms, at: Ktime(at_ms * 1_000_000) };
            Turn::take(&mut turn, Said { by, mark, is_disturbed, is_alone }, &mut responses[by]);
        }
        let [_, of_responder] = responses;
        of_responder
    }

    #[test]
    fn an_answer_begins_after_the_last_of_the_request() {
        let responses = answers(&[
            (0, 1, false, true),
            (0, 5, false, true),
            (1, 25, false, true),
            (1, 90, false, true),
            (0, 95, false, true),
            (1, 100, false, true),
        ]);
        assert_eq!(responses.times().kept(), [20_000_000, 5_000_000]);
    }

    #[test]
    fn overlapping_requests_measure_nothing() {
        let responses = answers(&[(0, 1, false, true), (1, 25, false, false)]);
        assert_eq!((responses.times().count(), responses.overlapping()), (0, 1));
    }

    #[test]
    fn a_loss_in_between_measures_nothing() {
        for said in [
            [(0, 1, false, true), (0, 2, true, true), (1, 25, false, true)],
            [(0, 1, false, true), (0, 2, false, true), (1, 25, true, true)],
        ] {
            let responses = answers(&said);
            assert_eq!((responses.times().count(), responses.disturbed()), (0, 1));
        }
    }
}
