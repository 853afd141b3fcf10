//! The highest rate at which nothing is lost: doubling, then bisecting. Never runs anything itself, and never trusts a
//! single loss: a rate has failed when it lost twice.

/// The first rate, frames/s.
const RATE_FIRST: u64 = 500_000;
/// Below this there is no search.
const RATE_LEAST: u64 = 31_250;
/// Above this there is no pace, only the sender's own.
pub const RATE_MOST: u64 = 4_000_000;
/// Steps between the highest good rate and the lowest bad one, each by their geometric mean: the fourth root of 2 is left.
pub const STEPS: u32 = 2;
/// Trials of a rate.
const TRIALS: usize = 2;
/// The part of a wanted rate that counts as reached.
const REACHED: f64 = 0.95;

/// What came of a trial.
#[derive(Clone, Copy, Debug)]
pub struct Outcome {
    /// Frames per second that were sent.
    pub rate: u64,
    /// Whether all of them are in the file.
    pub whole: bool,
}

/// What came of a search.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// The highest rate without loss, as it was sent; 0 where there was none.
    pub rate: u64,
    /// Whether the sender could not send more with the tool at work, so that the tool may be able to.
    pub is_senders_limit: bool,
}

/// Searches with trials of a rate; `None` is as quick as the sender can.
pub fn search<E>(mut trial: impl FnMut(Option<u64>) -> Result<Outcome, E>) -> Result<Found, E> {
    let mut best = Found { rate: 0, is_senders_limit: false };
    let mut again = |rate: u64| -> Result<(Outcome, bool), E> {
        let wanted = (rate < RATE_MOST).then_some(rate);
        let mut outcome = trial(wanted)?;
        for _ in 1..TRIALS {
            if outcome.whole {
                break;
            }
            outcome = trial(wanted)?;
        }
        let limited = wanted.is_none_or(|wanted| is_short(outcome.rate, wanted));
        Ok((outcome, limited))
    };
    let (mut good, mut bad) = (0, 0);
    let mut rate = RATE_FIRST;
    loop {
        let (outcome, limited) = again(rate)?;
        if outcome.whole {
            if outcome.rate > best.rate {
                best = Found { rate: outcome.rate, is_senders_limit: limited };
            }
            if limited {
                return Ok(best);
            }
            good = rate;
            if bad != 0 {
                break;
            }
            rate *= 2;
        } else {
            bad = rate;
            if good != 0 || rate <= RATE_LEAST {
                break;
            }
            rate /= 2;
        }
    }
    if good == 0 {
        return Ok(best);
    }
    for _ in 0..STEPS {
        let middle = mean(good, bad);
        let (outcome, limited) = again(middle)?;
        if outcome.whole {
            good = middle;
            if outcome.rate > best.rate {
                best = Found { rate: outcome.rate, is_senders_limit: limited };
            }
        } else {
            bad = middle;
        }
    }
    // More was sent, and was lost.
    best.is_senders_limit = false;
    Ok(best)
}

#[expect(clippy::cast_precision_loss, reason = "rates are far below 2^53")]
fn is_short(reached: u64, wanted: u64) -> bool {
    (reached as f64) < wanted as f64 * REACHED
}

/// The geometric mean.
fn mean(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    u64::try_from(product.isqrt()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A tool that is whole up to a rate, and a sender with a limit.
    fn find(tool: u64, sender: u64) -> Found {
        let trial = |rate: Option<u64>| {
            let rate = rate.unwrap_or(u64::MAX).min(sender);
            Ok::<_, ()>(Outcome { rate, whole: rate <= tool })
        };
        search(trial).unwrap()
    }

    #[test]
    fn the_limit_of_a_tool_is_found_within_a_fourth_root_of_two() {
        for tool in [40_000, 130_000, 500_000, 900_000, 1_999_999] {
            let found = find(tool, 3_000_000);
            assert!(found.rate <= tool && found.rate * 120 / 100 >= tool, "{tool}: {found:?}");
            assert!(!found.is_senders_limit);
        }
    }

    #[test]
    fn a_limit_of_the_sender_is_told_as_such() {
        let found = find(u64::MAX, 1_300_000);
        assert_eq!(found, Found { rate: 1_300_000, is_senders_limit: true });
        let found = find(u64::MAX, 9_000_000);
        assert_eq!(found, Found { rate: 9_000_000, is_senders_limit: true });
    }

    #[test]
    fn a_tool_that_always_loses_has_no_rate() {
        assert_eq!(find(0, 3_000_000), Found { rate: 0, is_senders_limit: false });
    }

    #[test]
    fn one_loss_is_no_failure() {
        let mut lost = false;
        let found = search(|rate| {
            let rate = rate.unwrap_or(3_000_000).min(3_000_000);
            let whole = rate < 700_000 && (rate != 500_000 || std::mem::replace(&mut lost, true));
            Ok::<_, ()>(Outcome { rate, whole })
        });
        assert!(found.unwrap().rate >= 500_000);
    }
}
