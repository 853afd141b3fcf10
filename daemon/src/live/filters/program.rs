//! Which slot has which filter, and the program that runs them all. Must never run a filter that is not wanted, or look
//! at a view that the packet does not have.
//!
//! ```text
//! views = look_up(0), or pass;  matched = wanted & those of everything;  nothing wanted: pass
//! for each view, and link that filters of it are for:     the packet has none, or another: next
//!     for each half of the slots:                         all decided: next
//!         for each filter:                                not wanted: next
//!             the filter                                  matched: found |= its bit
//! tail call
//! ```
//!
//! A filter that is not wanted is what the verifier looks at first, on its way to the end: so it holds no more than one
//! way out of each filter open at a time, and walks through each filter by itself.

use std::{
    mem::offset_of,
    os::fd::{AsRawFd as _, BorrowedFd},
};

use captures::{Filter, LinkType, filter::Instruction};
use datapath::{
    Link,
    layout::{VIEW_AT_MAX, Views},
};

use super::{
    FiltersError,
    asm::{Assembler, Condition, Label, Operand, Operator, Register, Size, Width, Word},
    translate::{BASE, Exits, LENGTH, VIEWS, translate},
};
use crate::live::Object;

/// Most filters of one program.
pub const SLOTS_MAX: u8 = 64;

/// Bits of `wanted` and `matched` that are looked at together: what an instruction's value holds.
const HALF: u8 = 32;

/// Longest translation of one filter, for the offsets of its jumps.
pub(super) const FILTER_WORDS_MAX: usize = 23_000;
/// Distance after which a jump over many filters gets a place to land and go on from.
const ISLAND_EVERY: usize = 8_000;
// Between two islands are one filter at most, beside what is counted.
const _: () = assert!(FILTER_WORDS_MAX + ISLAND_EVERY < 32_000);

/// The packet.
const CONTEXT: Register = Register::R6;
/// The bits found in this half.
const FOUND: Register = Register::R4;
/// The bits wanted of this half.
const WANTED: Register = Register::R5;
/// Below the scratch words: the key 0.
const KEY: i16 = -72;
/// `bpf_map_lookup_elem` and `bpf_tail_call` (include/uapi/linux/bpf.h).
const LOOK_UP: u32 = 1;
const TAIL_CALL: u32 = 12;

/// The place of a filter: its bit in `wanted` and `matched`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot(u8);

impl Slot {
    /// `None` from [`SLOTS_MAX`] on.
    #[must_use]
    pub fn new(number: u8) -> Option<Self> {
        (number < SLOTS_MAX).then_some(Self(number))
    }

    /// Its bit.
    #[must_use]
    pub const fn bit(self) -> u64 {
        1 << self.0
    }

    const fn half(self) -> u8 {
        self.0 / HALF
    }

    const fn bit_in_half(self) -> u32 {
        1 << (self.0 % HALF)
    }
}

/// A way to look at a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum View {
    /// As it is on the wire.
    Wire = 0,
    /// Without VLAN tags.
    Untagged = 1,
    /// What a tunnel carries.
    Tunneled = 2,
}

/// One way in which a packet may match a filter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alternative {
    /// What it looks at.
    pub view: View,
    /// What that has to begin with: Ethernet or raw IP.
    pub link: Link,
    /// The compiled expression.
    pub instructions: Vec<Instruction>,
}

impl Alternative {
    /// All ways of these filters, each of which may be for frames of another link.
    #[must_use]
    pub fn of(filters: &[Filter]) -> Vec<Self> {
        let of_filter = |filter: &Filter| {
            let is_raw = filter.link_type() == LinkType::RAW;
            let link = if is_raw { Link::RawIp } else { Link::Ethernet };
            let alternative = |(view, instructions): (captures::View, &[_])| Self {
                view: match view {
                    captures::View::AsItIs => View::Wire,
                    captures::View::Untagged => View::Untagged,
                    captures::View::Inner => View::Tunneled,
                },
                link,
                instructions: instructions.to_vec(),
            };
            filter.views().map(alternative).collect::<Vec<_>>()
        };
        filters.iter().flat_map(of_filter).collect()
    }
}

/// Up to [`SLOTS_MAX`] filters.
#[derive(Clone, Debug, Default)]
pub struct FilterSet {
    /// Slots that everything matches.
    everything: u64,
    alternatives: Vec<(Slot, Alternative)>,
}

impl FilterSet {
    /// Lets every packet match.
    pub fn match_all(&mut self, slot: Slot) {
        self.everything |= slot.bit();
    }

    /// Adds a way to match. A slot without one matches nothing.
    pub fn push(&mut self, slot: Slot, alternative: Alternative) {
        self.alternatives.push((slot, alternative));
    }

    /// The program for one kind of hook.
    pub(super) fn program(
        &self,
        object: Object,
        views: BorrowedFd<'_>,
        (next, place): (BorrowedFd<'_>, u32),
    ) -> Result<Vec<Word>, FiltersError> {
        let end = End { next: next.as_raw_fd(), place, pass: pass(object) };
        let mut program =
            Program { asm: Assembler::default(), ahead: Vec::new(), island: 0, slot: 0 };
        program.begin(views.as_raw_fd(), self.everything, end);
        for view in [View::Wire, View::Untagged, View::Tunneled] {
            for link in [Link::Ethernet, Link::RawIp] {
                let of_both = |it: &&(Slot, Alternative)| it.1.view == view && it.1.link == link;
                let filters: Vec<_> = self.alternatives.iter().filter(of_both).collect();
                if !filters.is_empty() {
                    program.view(view, link, &filters)?;
                }
            }
        }
        end.append(&mut program.asm);
        let slot = program.slot;
        program.asm.finish().map_err(|_| FiltersError::TooLong { slot, max: FILTER_WORDS_MAX })
    }
}

/// What passes a packet on.
const fn pass(object: Object) -> u32 {
    match object {
        // XDP_PASS
        Object::Xdp => 2,
        // TCX_NEXT, which is TC_ACT_UNSPEC
        Object::Tc => u32::MAX,
    }
}

/// How a program ends.
#[derive(Clone, Copy)]
struct End {
    next: i32,
    place: u32,
    pass: u32,
}

impl End {
    fn append(self, asm: &mut Assembler) {
        asm.copy(Register::R1, CONTEXT);
        asm.set_map(Register::R2, self.next);
        asm.set(Register::R3, Operand::Value(self.place));
        asm.call(TAIL_CALL);
        asm.set(Register::R0, Operand::Value(self.pass));
        asm.exit();
    }
}

struct Program {
    asm: Assembler,
    /// Where the jumps over what is being written lead, which is still to come.
    ahead: Vec<Label>,
    /// Where they were last given a place to land.
    island: usize,
    slot: u8,
}

impl Program {
    fn begin(&mut self, views: i32, everything: u64, end: End) {
        let Self { asm, .. } = self;
        let (nothing, wanted) = (asm.label(), asm.label());
        asm.copy(CONTEXT, Register::R1);
        asm.store_zero(Size::Word, Register::R10, KEY);
        asm.copy(Register::R2, Register::R10);
        asm.arithmetic(
            Width::Full,
            Operator::Add,
            Register::R2,
            Operand::Value(i32::from(KEY).cast_unsigned()),
        );
        asm.set_map(Register::R1, views);
        asm.call(LOOK_UP);
        asm.jump_if(Width::Full, Condition::Equal, Register::R0, Operand::Value(0), nothing);
        asm.copy(VIEWS, Register::R0);
        asm.load(Size::Double, WANTED, VIEWS, field(offset_of!(Views, wanted)));
        asm.set_wide(FOUND, everything);
        asm.arithmetic(Width::Full, Operator::And, FOUND, Operand::Register(WANTED));
        asm.store(Size::Double, VIEWS, field(offset_of!(Views, matched)), FOUND);
        let all = Operand::Register(FOUND);
        asm.jump_if(Width::Full, Condition::NotEqual, WANTED, all, wanted);
        asm.place(nothing);
        end.append(asm);
        asm.place(wanted);
        self.island = self.asm.len();
    }

    /// The filters that look at one view of packets of one link.
    fn view(
        &mut self,
        view: View,
        link: Link,
        filters: &[&(Slot, Alternative)],
    ) -> Result<(), FiltersError> {
        let absent = self.asm.label();
        self.ahead.push(absent);
        let of_view = |offset: usize| field(offset + view as usize * size_of::<u32>());
        let free = Register::R2;
        let asm = &mut self.asm;
        asm.load(Size::Word, free, VIEWS, field(offset_of!(Views, link)));
        let link = Operand::Value(link as u32);
        asm.jump_if(Width::Half, Condition::NotEqual, free, link, absent);
        asm.load(Size::Word, LENGTH, VIEWS, of_view(offset_of!(Views, len)));
        asm.jump_if(Width::Half, Condition::Equal, LENGTH, Operand::Value(0), absent);
        asm.load(Size::Word, BASE, VIEWS, of_view(offset_of!(Views, at)));
        // It never is; the verifier has to see that.
        let at_most = Operand::Value(number(VIEW_AT_MAX));
        asm.jump_if(Width::Full, Condition::Greater, BASE, at_most, absent);
        let bytes = Operand::Value(number(offset_of!(Views, bytes)));
        asm.arithmetic(Width::Full, Operator::Add, BASE, bytes);
        asm.arithmetic(Width::Full, Operator::Add, BASE, Operand::Register(VIEWS));
        for half in 0..SLOTS_MAX / HALF {
            let of_half = |it: &&&(Slot, Alternative)| it.0.half() == half;
            let filters: Vec<_> = filters.iter().filter(of_half).copied().collect();
            if !filters.is_empty() {
                self.half(half, &filters)?;
            }
        }
        self.land();
        Ok(())
    }

    fn half(&mut self, half: u8, filters: &[&(Slot, Alternative)]) -> Result<(), FiltersError> {
        let decided = self.asm.label();
        self.ahead.push(decided);
        let of_half = |offset: usize| field(offset + usize::from(half) * size_of::<u32>());
        let free = Register::R2;
        let asm = &mut self.asm;
        asm.load(Size::Word, WANTED, VIEWS, of_half(offset_of!(Views, wanted)));
        asm.load(Size::Word, FOUND, VIEWS, of_half(offset_of!(Views, matched)));
        asm.set(free, Operand::Register(FOUND));
        asm.arithmetic(Width::Half, Operator::Xor, free, Operand::Value(u32::MAX));
        asm.arithmetic(Width::Half, Operator::And, WANTED, Operand::Register(free));
        asm.jump_if(Width::Half, Condition::Equal, WANTED, Operand::Value(0), decided);
        for (slot, alternative) in filters {
            self.island();
            self.filter(*slot, alternative)?;
        }
        self.asm.store(Size::Word, VIEWS, of_half(offset_of!(Views, matched)), FOUND);
        self.land();
        Ok(())
    }

    fn filter(&mut self, slot: Slot, alternative: &Alternative) -> Result<(), FiltersError> {
        let asm = &mut self.asm;
        let (filter, matched, next) = (asm.label(), asm.label(), asm.label());
        let start = asm.len();
        let bit = Operand::Value(slot.bit_in_half());
        asm.jump_if(Width::Half, Condition::AnyBit, WANTED, bit, filter);
        asm.jump(next);
        asm.place(filter);
        let exits = Exits { matched, rejected: next };
        let original_len = field(offset_of!(Views, original_len));
        translate(asm, &alternative.instructions, exits, original_len)
            .map_err(|source| FiltersError::Senseless { slot: slot.0, source })?;
        if asm.is_used(matched) {
            asm.place(matched);
            asm.arithmetic(Width::Half, Operator::Or, FOUND, bit);
        }
        asm.place(next);
        if asm.len() - start > FILTER_WORDS_MAX {
            return Err(FiltersError::TooLong { slot: slot.0, max: FILTER_WORDS_MAX });
        }
        self.slot = slot.0;
        Ok(())
    }

    /// Where the jumps over what has just been written land.
    fn land(&mut self) {
        if let Some(here) = self.ahead.pop() {
            self.asm.place(here);
        }
    }

    /// A place for the jumps that are under way to land and go on from, where they have come far.
    fn island(&mut self) {
        if self.asm.len() - self.island < ISLAND_EVERY {
            return;
        }
        let over = self.asm.label();
        self.asm.jump(over);
        for label in &mut self.ahead {
            self.asm.place(*label);
            *label = self.asm.label();
            self.asm.jump(*label);
        }
        self.asm.place(over);
        self.island = self.asm.len();
    }
}

/// Of a field at the front of `Views`.
fn field(offset: usize) -> i16 {
    i16::try_from(offset).expect("the fields in front of the bytes are within 100 bytes")
}

fn number(value: usize) -> u32 {
    u32::try_from(value).expect("views are some kilobytes")
}
