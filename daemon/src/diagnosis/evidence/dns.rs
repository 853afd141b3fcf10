//! Questions and answers of DNS (RFC 1035) on one pair of ports: how long answers took, and which never came. Reads the
//! header of twelve bytes only; never a name.

use super::Tally;

/// Questions that may be open at a time; further ones are not followed.
const OPEN_MAX: usize = 8;
const HEADER: usize = 12;
const RESPONSE: u8 = 0x80;
const OPCODE: u8 = 0x78;
const SERVER_FAILURE: u8 = 2;
const REFUSED: u8 = 5;

/// What became of the questions of one flow.
#[derive(Clone, Debug, Default)]
pub struct DnsEvidence {
    /// Answers to questions that were seen.
    pub answers: Tally,
    /// Answers that took longer than half a second.
    pub slow: Tally,
    /// The longest that one took, from the first time that it was asked, ns.
    pub slowest_ns: u64,
    /// Answers that say that the server failed or refused.
    pub failures: Tally,
    /// The last of their codes.
    pub failure: u8,
    open: [Option<Open>; OPEN_MAX],
}

/// Answers that take longer are slow: what a person notices with each name.
pub(super) const SLOW_NS: u64 = 500_000_000;

#[derive(Clone, Copy, Debug)]
struct Open {
    sender: u32,
    identifier: u16,
    first_ns: u64,
    last_ns: u64,
    asked: u32,
}

impl DnsEvidence {
    /// Takes a message into account.
    pub(super) fn message(&mut self, sender: u32, payload: &[u8], now_ns: u64) {
        let Some(&[high, low, flags, codes]) = payload.first_chunk::<4>() else { return };
        if payload.len() < HEADER || flags & OPCODE != 0 {
            return;
        }
        let identifier = u16::from_be_bytes([high, low]);
        if flags & RESPONSE == 0 {
            self.question(sender, identifier, now_ns);
        } else {
            self.answer(sender ^ 1, identifier, codes & 0xf, now_ns);
        }
    }

    /// The question that was asked most often in vain: its identifier, how often, first and last.
    #[must_use]
    pub fn unanswered(&self) -> Option<(u16, u32, (u64, u64))> {
        let most = self.open.iter().flatten().max_by_key(|open| open.asked)?;
        Some((most.identifier, most.asked, (most.first_ns, most.last_ns)))
    }

    fn question(&mut self, sender: u32, identifier: u16, now_ns: u64) {
        let is_it = |open: &&mut Open| open.sender == sender && open.identifier == identifier;
        if let Some(open) = self.open.iter_mut().flatten().find(is_it) {
            open.asked += 1;
            open.last_ns = now_ns;
        } else if let Some(free) = self.open.iter_mut().find(|place| place.is_none()) {
            let (first_ns, last_ns) = (now_ns, now_ns);
            *free = Some(Open { sender, identifier, first_ns, last_ns, asked: 1 });
        }
    }

    fn answer(&mut self, asker: u32, identifier: u16, code: u8, now_ns: u64) {
        let is_it = |open: &Open| open.sender == asker && open.identifier == identifier;
        let place = self.open.iter_mut().find(|place| place.as_ref().is_some_and(is_it));
        let Some(open) = place.and_then(Option::take) else { return };
        self.answers.add(now_ns);
        let elapsed_ns = now_ns.saturating_sub(open.first_ns);
        if elapsed_ns > SLOW_NS {
            self.slow.add(now_ns);
        }
        if elapsed_ns > self.slowest_ns {
            self.slowest_ns = elapsed_ns;
        }
        if matches!(code, SERVER_FAILURE | REFUSED) {
            self.failures.add(now_ns);
            self.failure = code;
        }
    }
}
