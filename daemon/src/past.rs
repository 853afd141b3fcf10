//! Interfaces that have gone: they are still listed, and what was seen under their names goes on where one comes back, also
//! under another daemon, so that no metric goes back. Bounded, however often interfaces come and go.

use std::collections::VecDeque;

use sha2::{Digest as _, Sha256};

use crate::{
    board::InterfaceView,
    live::{SEEN_BEFORE_MAX, SeenBefore},
};

/// Interfaces that are still listed after they have gone; the one that went first makes room.
const GONE_MAX: usize = 64;

/// Interfaces of before.
#[derive(Debug, Default)]
pub struct Past {
    /// One for each name.
    gone: VecDeque<InterfaceView>,
    /// Names that are watched again, with what was seen under them before.
    before: Vec<(String, [u64; 2])>,
    /// The same of names that no interface has had since the daemon's start.
    earlier: Vec<SeenBefore>,
}

/// A name in the few bytes that are kept; never 0.
fn hash(name: &str) -> u64 {
    let digest = Sha256::digest(name);
    digest.first_chunk().map_or(1, |bytes| u64::from_le_bytes(*bytes)).max(1)
}

impl Past {
    /// Goes on from what an earlier daemon kept.
    #[must_use]
    pub fn after(kept: &[SeenBefore]) -> Self {
        let earlier = kept.iter().filter(|it| it.name != 0).copied().collect();
        Self { earlier, ..Self::default() }
    }

    /// What a later daemon goes on from: of more names than fit, those that are watched before those that went last.
    #[must_use]
    pub fn kept(&self) -> [SeenBefore; SEEN_BEFORE_MAX] {
        let watched = self.before.iter().map(|(name, seen)| (hash(name), *seen));
        let gone = self.gone.iter().rev().map(|view| (hash(&view.name), seen_at(view)));
        let earlier = self.earlier.iter().map(|it| (it.name, it.seen));
        let mut kept = [SeenBefore::default(); SEEN_BEFORE_MAX];
        for (slot, (name, seen)) in kept.iter_mut().zip(watched.chain(gone).chain(earlier)) {
            *slot = SeenBefore { name, seen };
        }
        kept
    }

    /// A point is no more: its line among those of the last look.
    pub fn add(&mut self, interfaces: &[InterfaceView], point: u32) {
        let Some(view) = interfaces.iter().find(|it| it.point == point) else { return };
        let mut view = view.clone();
        view.state = InterfaceView::GONE;
        view.seen_before = self.take(&view.name);
        if self.gone.len() == GONE_MAX {
            self.gone.pop_front();
        }
        self.gone.push_back(view);
    }

    /// Completes a list of what is watched by what has gone; an interface that came back stands for the one before.
    pub fn join(&mut self, interfaces: &mut Vec<InterfaceView>) {
        let is_there = |interface: &InterfaceView| interface.is_present();
        let names: Vec<_> =
            interfaces.iter().filter(|it| is_there(it)).map(|it| it.name.clone()).collect();
        // Those that are about to leave are among the gone already, or will be.
        interfaces.retain(is_there);
        for name in &names {
            let seen = self.take(name);
            if seen != [0; 2] {
                self.before.push((name.clone(), seen));
            }
        }
        self.before.retain(|(name, _)| names.contains(name));
        for interface in interfaces.iter_mut() {
            let mut before = self.before.iter();
            let known = before.find(|(name, _)| *name == interface.name);
            interface.seen_before = known.map_or([0; 2], |(_, seen)| *seen);
        }
        interfaces.extend(self.gone.iter().cloned());
    }

    /// What was seen under a name, to be kept elsewhere.
    fn take(&mut self, name: &str) -> [u64; 2] {
        let mut sum = [0; 2];
        let known = hash(name);
        for it in self.earlier.extract_if(.., |it| it.name == known) {
            sum = [sum[0] + it.seen[0], sum[1] + it.seen[1]];
        }
        self.before.retain(|(known, seen)| {
            let is_it = known == name;
            if is_it {
                sum = [sum[0] + seen[0], sum[1] + seen[1]];
            }
            !is_it
        });
        self.gone.retain(|view| {
            let is_it = view.name == name;
            if is_it {
                let seen = seen_at(view);
                sum = [sum[0] + seen[0], sum[1] + seen[1]];
            }
            !is_it
        });
        sum
    }
}

/// All that was seen under the name of an interface that has gone.
fn seen_at(view: &InterfaceView) -> [u64; 2] {
    let last = [&view.ingress, &view.egress].map(|side| side.as_ref().map_or(0, |side| side.seen));
    [last[0] + view.seen_before[0], last[1] + view.seen_before[1]]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::board::AttachmentView;

    fn interface(name: &str, point: u32, seen: u64) -> InterfaceView {
        InterfaceView {
            name: name.into(),
            point,
            state: "attached",
            ingress: Some(AttachmentView { seen, ..AttachmentView::default() }),
            ..InterfaceView::default()
        }
    }

    #[test]
    fn an_interface_that_comes_back_goes_on_from_what_was_seen() {
        let mut past = Past::default();
        for round in 0..3 {
            let mut list = vec![interface("a", round, 10)];
            past.join(&mut list);
            assert_eq!(list.len(), 1);
            assert_eq!(list[0].seen_before, [10 * u64::from(round), 0]);
            past.add(&list, round);
            let mut list = Vec::new();
            past.join(&mut list);
            assert_eq!((list.len(), list[0].state), (1, InterfaceView::GONE));
        }
    }

    #[test]
    fn another_daemon_goes_on_from_what_was_seen() {
        let mut past = Past::default();
        let mut list = vec![interface("a", 1, 10), interface("b", 2, 5)];
        past.join(&mut list);
        past.add(&list, 1);
        let mut list = vec![interface("b", 2, 7)];
        past.join(&mut list);
        past.add(&list, 2);
        let mut list = vec![interface("b", 3, 1)];
        past.join(&mut list);
        assert_eq!(list[0].seen_before, [7, 0]);

        let mut later = Past::after(&past.kept());
        let mut list = vec![interface("a", 4, 1), interface("b", 3, 1), interface("c", 5, 1)];
        later.join(&mut list);
        assert_eq!([0, 1, 2].map(|it: usize| list[it].seen_before[0]), [10, 7, 0]);
        // As often as that may be.
        let mut last = Past::after(&later.kept());
        last.join(&mut list);
        assert_eq!([0, 1, 2].map(|it: usize| list[it].seen_before[0]), [10, 7, 0]);
    }

    #[test]
    fn names_that_do_not_come_back_make_room() {
        let mut past = Past::default();
        for round in 0..1_000 {
            let list = [interface(&format!("veth{round}"), 1, 1)];
            past.add(&list, 1);
            past.join(&mut Vec::new());
        }
        assert_eq!((past.gone.len(), past.before.len()), (GONE_MAX, 0));
        assert_eq!(past.gone[0].name, "veth936");
    }
}
