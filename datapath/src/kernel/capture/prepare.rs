//! The first program: shows the packet to the filters. Copies as much of its start as they look at, as often as there are
//! views of it; where that begins is for [`crate::views`] to say. Never decides who wants the packet.

use core::{cell::Cell, ptr};

use aya_ebpf::helpers::{bpf_get_smp_processor_id, bpf_ktime_get_ns};

use super::{CAPTURE_CONFIG, CAPTURE_SCRATCH, CAPTURE_VIEWS, CAPTURE_WANTED, Packet};
use crate::{
    frame::Link,
    hint::opaque,
    layout::{CaptureRecord, Point, STAGE_FILTERS, VIEW_BYTES_MAX, VLAN_PRESENT, Views},
    views::{self, Carried, ETHERNET_HEADER, Head, INNER_AT_MAX, INNER_REACH, TAG, TAGS_MAX},
};

/// `CaptureConfig::views`, and places in `Views`: as it is, without its tags, what a tunnel carries.
const AS_IT_IS: usize = 0;
const UNTAGGED: usize = 1;
const INNER: usize = 2;

/// Where each view is made; in front of the first one there is room for a tag.
const PLACES: [usize; 3] = [16, 16 + VIEW_BYTES_MAX, 16 + 2 * VIEW_BYTES_MAX];

const _: () = assert!(PLACES[INNER] + VIEW_BYTES_MAX <= crate::layout::VIEWS_BYTES);

/// Shows the packet and goes on in the filters, if any capture wants packets of this hook.
#[inline(always)]
pub(super) fn prepare(packet: &impl Packet, point: Point, queue: u32) {
    if point.id == 0 {
        return;
    }
    let mut record = packet.record(point, queue);
    let hook = u32::from(point.id) * 2 + u32::from(record.direction);
    let Some(wanted) = CAPTURE_WANTED.get(hook) else { return };
    if *wanted == 0 {
        return;
    }
    // SAFETY: the helpers only read the CPU's number and a clock.
    let cpu = unsafe {
        record.time_ns = bpf_ktime_get_ns();
        bpf_get_smp_processor_id() as u32
    };
    let Some(scratch) = CAPTURE_SCRATCH.get_ptr_mut(cpu) else { return };
    let Some(views) = CAPTURE_VIEWS.get_ptr_mut(0) else { return };
    // SAFETY: both are this CPU's: hooks run with migration disabled and do not nest on one CPU.
    let views = unsafe {
        (*scratch).record = record;
        &mut *views
    };
    let has_tag = record.flags & VLAN_PRESENT != 0;
    views.wanted = *wanted;
    views.matched = 0;
    views.original_len = record.original_len + if has_tag { TAG as u32 } else { 0 };
    views.link = u32::from(point.link);
    views.len = [0; 3];
    show(packet, point.link(), &record, views);
    packet.go_on(STAGE_FILTERS);
}

/// Fills the views that filters look at.
#[inline(always)]
fn show(packet: &impl Packet, link: Link, record: &CaptureRecord, views: &mut Views) {
    let Some(config) = CAPTURE_CONFIG.get(0) else { return };
    let wants = |view: usize| config.views >> view & 1 != 0;
    let length = record.original_len;
    let reach = least(config.reach, length);
    if !load(packet, 0, views, PLACES[AS_IT_IS], reach) {
        return;
    }
    let is_ethernet = link == Link::Ethernet;
    let kept_tag = if is_ethernet && record.flags & VLAN_PRESENT != 0 { 1 } else { 0 };
    let tags = if is_ethernet {
        tags(views, PLACES[AS_IT_IS], reach as usize, TAGS_MAX - kept_tag)
    } else {
        0
    };
    if wants(UNTAGGED) {
        let place = if tags + kept_tag > 0 && wants(AS_IT_IS) {
            if !load(packet, 0, views, PLACES[UNTAGGED], reach) {
                return;
            }
            PLACES[UNTAGGED]
        } else {
            PLACES[AS_IT_IS]
        };
        views.at[UNTAGGED] = (place + tags * TAG) as u32;
        views.len[UNTAGGED] = strip(views, place, tags, reach);
    }
    if wants(AS_IT_IS) {
        views.at[AS_IT_IS] = PLACES[AS_IT_IS] as u32;
        views.len[AS_IT_IS] = reach;
        if kept_tag > 0 && reach as usize >= views::ADDRESSES {
            put_back(views, record);
        }
    }
    if wants(INNER) {
        show_inner(packet, link, tags, kept_tag, length, reach, views);
    }
}

/// What a tunnel carries.
#[inline(always)]
fn show_inner(
    packet: &impl Packet,
    link: Link,
    tags: usize,
    kept_tag: usize,
    length: u32,
    reach: u32,
    views: &mut Views,
) {
    let tags_and_link = (tags as u32) << 8 | link as u32;
    let mut found = linnet_inner(PLACES[AS_IT_IS] as u32, reach, length, tags_and_link);
    if found == BEYOND {
        let more = least(INNER_REACH as u32, length);
        if !load(packet, 0, views, PLACES[INNER], more) {
            return;
        }
        found = linnet_inner(PLACES[INNER] as u32, more, length, tags_and_link);
    }
    let (kind, at) = (found >> 16, found & 0xffff);
    if found == BEYOND || kind == 0 || at as usize + kept_tag * TAG > INNER_AT_MAX {
        return;
    }
    let Some(left) = length.checked_sub(at) else { return };
    if kind == Carried::Ethernet as u32 {
        let shown = least(reach, left);
        if !load(packet, at, views, PLACES[INNER], shown) {
            return;
        }
        let tags = self::tags(views, PLACES[INNER], shown as usize, TAGS_MAX);
        views.at[INNER] = (PLACES[INNER] + tags * TAG) as u32;
        views.len[INNER] = strip(views, PLACES[INNER], tags, shown);
        return;
    }
    let room = (VIEW_BYTES_MAX - ETHERNET_HEADER) as u32;
    let shown = least(least(reach, room), left);
    if !load(packet, at, views, PLACES[INNER] + ETHERNET_HEADER, shown) {
        return;
    }
    let ethertype = if kind == Carried::Ipv4 as u32 { [0x08, 0x00] } else { [0x86, 0xdd] };
    let header = &mut views.bytes[PLACES[INNER]..PLACES[INNER] + ETHERNET_HEADER];
    header[0] = 0;
    // SAFETY: the header's fourteen bytes, which are inside of the value; word by word, since a loop is one of bytes.
    unsafe {
        let start = header.as_mut_ptr();
        ptr::write_volatile(start.cast::<u32>(), 0);
        ptr::write_volatile(start.add(4).cast::<u32>(), 0);
        ptr::write_volatile(start.add(8).cast::<u32>(), 0);
        ptr::write_volatile(start.add(12), ethertype[0]);
        ptr::write_volatile(start.add(13), ethertype[1]);
    }
    views.at[INNER] = PLACES[INNER] as u32;
    views.len[INNER] = shown + ETHERNET_HEADER as u32;
}

/// What [`linnet_inner`] says where bytes decide that it was not shown.
const BEYOND: u32 = u32::MAX;

/// [`views::inner`] on the bytes of the packet at hand that begin at `place`, of which `shown` are there, of `length`; the
/// number of tags and the link in one word. What is carried in the upper half, and where in the lower one.
#[unsafe(no_mangle)]
#[inline(never)]
pub(super) extern "C" fn linnet_inner(
    place: u32,
    shown: u32,
    length: u32,
    tags_and_link: u32,
) -> u32 {
    let Some(shown) = Shown::of(place, shown, length) else { return 0 };
    let link =
        if tags_and_link & 0xff == Link::RawIp as u32 { Link::RawIp } else { Link::Ethernet };
    let found = views::inner(&shown, link, (tags_and_link >> 8 & 3) as usize);
    shown.say(found.map(|(carried, at)| (carried as u32, at)))
}

/// [`views::behind_extension`] on the same bytes: a function of its own, which the verifier looks at once, and not for each
/// place to which the headers before can lead. Protocol and place in one word, as in what it says.
#[unsafe(no_mangle)]
#[inline(never)]
pub(super) extern "C" fn linnet_extension(
    place: u32,
    shown: u32,
    length: u32,
    protocol_and_at: u32,
) -> u32 {
    let Some(shown) = Shown::of(place, shown, length) else { return 0 };
    let at = (protocol_and_at & 0xffff) as usize;
    shown.say(views::behind_extension(&shown, protocol_and_at >> 16, at))
}

/// The start of a packet.
struct Shown<'a> {
    views: &'a Views,
    place: usize,
    shown: usize,
    length: usize,
    /// Something was looked for that the packet has, and that was not shown.
    is_beyond: Cell<bool>,
}

impl Shown<'_> {
    #[inline(always)]
    fn of(place: u32, shown: u32, length: u32) -> Option<Self> {
        let views = CAPTURE_VIEWS.get_ptr(0)?;
        Some(Self {
            // SAFETY: this CPU's slot, as in `prepare`.
            views: unsafe { &*views },
            place: place as usize,
            shown: shown as usize,
            length: length as usize,
            is_beyond: Cell::new(false),
        })
    }

    /// A number below 256 and a place in one word; 0 for nothing, and [`BEYOND`].
    #[inline(always)]
    fn say(&self, found: Option<(u32, usize)>) -> u32 {
        match found {
            Some((number, at)) => number << 16 | (at as u32 & 0xffff),
            None if self.is_beyond.get() => BEYOND,
            None => 0,
        }
    }

    #[inline(always)]
    fn read(&self, at: usize) -> u32 {
        // Two masks, for the verifier: no place is beyond the first one, and nothing that is looked at beyond the second.
        let index = (opaque(self.place) & 0x3fff) + (opaque(at) & 0x3ff);
        let index = opaque(index);
        if index >= crate::layout::VIEWS_BYTES {
            return 0;
        }
        // SAFETY: the index was just compared with the number of bytes.
        u32::from(unsafe { *self.views.bytes.as_ptr().add(index) })
    }
}

impl Head for Shown<'_> {
    #[inline(always)]
    fn holds(&self, end: usize) -> bool {
        if end > self.shown && end <= self.length {
            self.is_beyond.set(true);
        }
        end <= self.shown
    }

    #[inline(always)]
    fn byte(&self, at: usize) -> Option<u32> {
        if self.holds(at + 1) { Some(self.read(at)) } else { None }
    }

    #[inline(always)]
    fn half(&self, at: usize) -> Option<u32> {
        if self.holds(at + 2) { Some(self.read(at) << 8 | self.read(at + 1)) } else { None }
    }

    #[inline(always)]
    fn behind_extension(&self, protocol: u32, at: usize) -> Option<(u32, usize)> {
        let protocol_and_at = protocol << 16 | (at as u32 & 0xffff);
        let (place, shown, length) = (self.place as u32, self.shown as u32, self.length as u32);
        let said = linnet_extension(place, shown, length, protocol_and_at);
        if said == BEYOND {
            self.is_beyond.set(true);
        }
        // What follows an extension header is never at the packet's start.
        if said == BEYOND || said == 0 {
            None
        } else {
            Some((said >> 16, (said & 0xffff) as usize))
        }
    }
}

/// Tags in the bytes that begin at `place`, at most so many.
#[inline(always)]
fn tags(views: &Views, place: usize, shown: usize, most: usize) -> usize {
    let head = Shown { views, place, shown, length: shown, is_beyond: Cell::new(false) };
    if most < 1 || !views::is_tag(&head, views::ADDRESSES) {
        0
    } else if most < 2 || !views::is_tag(&head, views::ADDRESSES + TAG) {
        1
    } else {
        2
    }
}

/// Moves the addresses over so many tags; how many bytes are left.
#[inline(always)]
fn strip(views: &mut Views, place: usize, tags: usize, shown: u32) -> u32 {
    if tags == 0 {
        return shown;
    }
    let start = views.bytes[place..].as_mut_ptr();
    let by = if tags == 1 { TAG } else { 2 * TAG };
    // SAFETY: inside of the value, as both places are constants. The last word first: what is moved overlaps.
    unsafe {
        for word in [2, 1, 0] {
            let value = ptr::read_volatile(start.add(word * 4).cast::<u32>());
            ptr::write_volatile(start.add(word * 4 + by).cast::<u32>(), value);
        }
    }
    shown - by as u32
}

/// Puts the tag that is kept in metadata back behind the addresses.
#[inline(always)]
fn put_back(views: &mut Views, record: &CaptureRecord) {
    let start = views.bytes[PLACES[AS_IT_IS] - TAG..].as_mut_ptr();
    // SAFETY: inside of the value, as above. The first word first.
    unsafe {
        for word in [0, 1, 2] {
            let value = ptr::read_volatile(start.add(TAG + word * 4).cast::<u32>());
            ptr::write_volatile(start.add(word * 4).cast::<u32>(), value);
        }
        let tag = u32::from(record.vlan_protocol) << 16 | u32::from(record.vlan_tci);
        ptr::write_volatile(start.add(views::ADDRESSES).cast::<u32>(), tag.to_be());
    }
    views.at[AS_IT_IS] = (PLACES[AS_IT_IS] - TAG) as u32;
    views.len[AS_IT_IS] += TAG as u32;
}

/// Copies the packet's bytes to a place of the views.
#[inline(always)]
fn load(packet: &impl Packet, offset: u32, views: &mut Views, place: usize, length: u32) -> bool {
    let length = opaque(length as usize);
    if length == 0 || length > VIEW_BYTES_MAX {
        return false;
    }
    let to = views.bytes[place..].as_mut_ptr();
    // SAFETY: behind each place there is room for `VIEW_BYTES_MAX`.
    unsafe { packet.load(offset, to, length as u32) }
}

#[inline(always)]
const fn least(one: u32, other: u32) -> u32 {
    if one < other { one } else { other }
}
