//! Round trips from the timestamps that come back (RFC 7323), by the rules of pping: the first packet with a new value, and
//! the first echo of it. For connections of which acknowledgments measure nothing; never finer than the sender's tick.

use datapath::{Ktime, tcp::after};

/// Values that are waited for at a time; new ones are not followed until there is room.
const VALUES_MAX: usize = 8;

/// Values of one side that have not come back yet.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Values {
    newest: Option<u32>,
    waiting: [(u32, Ktime); VALUES_MAX],
    count: usize,
}

impl Values {
    /// The side sent something that will be acknowledged. The first value of a connection that is joined in the middle may
    /// have been sent before.
    pub(super) fn sent(&mut self, value: u32, is_syn: bool, now: Ktime) {
        let is_new = self.newest.map_or(is_syn, |newest| after(value, newest));
        if self.newest.is_none() || is_new {
            self.newest = Some(value);
        }
        if is_new && self.count < VALUES_MAX {
            self.waiting[self.count] = (value, now);
            self.count += 1;
        }
    }

    /// The other side returned a value. Returns the time that it took.
    pub(super) fn came_back(&mut self, echo: u32, now: Ktime) -> Option<u64> {
        let waiting = &self.waiting[..self.count];
        let done = waiting.iter().take_while(|(value, _)| !after(*value, echo)).count();
        let (value, sent_at) = *waiting.get(done.checked_sub(1)?)?;
        self.waiting.copy_within(done..self.count, 0);
        self.count -= done;
        (value == echo).then(|| now.since(sent_at).max(0).cast_unsigned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_echo_of_a_new_value_measures() {
        let mut values = Values::default();
        values.sent(10, true, Ktime(1_000));
        values.sent(10, false, Ktime(1_500));
        values.sent(11, false, Ktime(2_000));
        assert_eq!(values.came_back(10, Ktime(5_000)), Some(4_000));
        assert_eq!(values.came_back(10, Ktime(5_500)), None, "once");
        assert_eq!(values.came_back(11, Ktime(6_000)), Some(4_000));
    }

    #[test]
    fn the_first_value_in_the_middle_of_a_connection_is_unsure() {
        let mut values = Values::default();
        values.sent(10, false, Ktime(1_000));
        assert_eq!(values.came_back(10, Ktime(5_000)), None);
    }

    #[test]
    fn values_that_never_come_back_give_way() {
        let mut values = Values::default();
        (0..100).for_each(|n| values.sent(n, true, Ktime(u64::from(n))));
        assert_eq!(values.count, VALUES_MAX);
        assert_eq!(values.came_back(200, Ktime(300)), None);
        values.sent(201, false, Ktime(400));
        assert_eq!(values.came_back(201, Ktime(500)), Some(100));
    }
}
