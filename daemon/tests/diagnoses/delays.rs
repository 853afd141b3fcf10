//! Scenes of windows, queues, ways and answers.

use lab::synth::{
    Side::{Originator as O, Responder as R},
    stage::{Offer, Segment, Stage},
};

use super::{FULL, bulk, has, open};

/// The originator's window is 0 for as long as this.
fn shut_for(stage: &mut Stage, ms: u64) {
    open(stage);
    bulk(stage, 10);
    stage.send(O, Segment { window: 0, ..Segment::default() }).wait_ms(ms);
    stage.ack(O).wait_ms(1);
    bulk(stage, 3);
}

pub(super) fn shut(stage: &mut Stage) {
    shut_for(stage, 700);
}

pub(super) fn shut_for_a_moment(stage: &mut Stage) {
    shut_for(stage, 50);
}

/// The originator takes `window` bytes, and gets two segments at a time.
fn windows_of(stage: &mut Stage, window: u16) {
    let offer = Offer { window_scale: Some(0), ..Offer::default() };
    stage.handshake(offer, offer);
    stage.send(O, Segment { window, ..Segment::default() });
    for _ in 0..20 {
        stage.data(R, FULL).data(R, FULL).wait_ms(1);
        stage.send(O, Segment { window, ..Segment::default() }).wait_ms(9);
    }
}

pub(super) fn window_filled(stage: &mut Stage) {
    windows_of(stage, 2_920);
}

pub(super) fn window_wide(stage: &mut Stage) {
    windows_of(stage, 29_200);
}

fn flights(stage: &mut Stage, offer: Offer) {
    stage.handshake(offer, offer);
    stage.data(O, 300).wait_ms(10);
    stage.ack(R);
    for _ in 0..6 {
        for _ in 0..44 {
            stage.data(R, FULL);
        }
        stage.wait_ms(1);
        stage.send(O, Segment { window: 65_535, ..Segment::default() }).wait_ms(10);
    }
}

pub(super) fn unscaled(stage: &mut Stage) {
    flights(stage, Offer { window_scale: None, ..Offer::default() });
}

pub(super) fn scaled(stage: &mut Stage) {
    flights(stage, Offer::default());
}

/// `count` acknowledgments with `window` segments in flight, one each `gap_ns`. Returns how far it was acknowledged.
fn slide(stage: &mut Stage, mut acknowledged: u32, [window, count]: [u32; 2], gap_ns: u64) -> u32 {
    for _ in 0..count {
        let sent = stage.sent(R);
        for _ in 0..window.saturating_sub((sent - acknowledged) / FULL) {
            stage.data(R, FULL);
        }
        stage.wait_ns(gap_ns);
        acknowledged += FULL;
        stage.send(O, Segment { window: 2_000, ..has(acknowledged) });
    }
    acknowledged
}

pub(super) fn queue_grows(stage: &mut Stage) {
    open(stage);
    let acknowledged = slide(stage, 1, [4, 200], 2_500_000);
    slide(stage, acknowledged, [40, 1_200], 2_500_000);
}

pub(super) fn way_grows(stage: &mut Stage) {
    open(stage);
    let acknowledged = slide(stage, 1, [4, 200], 2_500_000);
    slide(stage, acknowledged, [4, 200], 25_000_000);
}

fn mark(stage: &mut Stage, marks: u32) {
    let offer = Offer { ecn: true, ..Offer::default() };
    stage.handshake(offer, offer);
    for number in 0..60 {
        let ecn = if number < marks { 3 } else { 2 };
        stage.send(R, Segment { payload: FULL, ecn, ..Segment::default() }).wait_ms(1);
        stage.ack(O);
    }
}

pub(super) fn marked(stage: &mut Stage) {
    mark(stage, 4);
}

pub(super) fn marked_twice(stage: &mut Stage) {
    mark(stage, 2);
}

pub(super) fn bleached(stage: &mut Stage) {
    let offer = Offer { ecn: true, ..Offer::default() };
    stage.handshake(offer, offer);
    bulk(stage, 25);
}

pub(super) fn ecn_not_agreed(stage: &mut Stage) {
    stage.handshake(Offer { ecn: true, ..Offer::default() }, Offer::default());
    bulk(stage, 25);
}

/// The responder's packets take another number of hops after a while, and its acknowledgments `ms`.
fn hops(stage: &mut Stage, ms: u64) {
    open(stage);
    for _ in 0..15 {
        stage.data(O, 100).wait_ms(10);
        stage.ack(R).wait_ms(5);
    }
    for _ in 0..15 {
        stage.data(O, 100).wait_ms(ms);
        stage.send(R, Segment { hops: Some(49), ..Segment::default() }).wait_ms(5);
    }
}

pub(super) fn other_way(stage: &mut Stage) {
    hops(stage, 30);
}

pub(super) fn other_hops(stage: &mut Stage) {
    hops(stage, 10);
}

/// Flights of four segments, whose acknowledgments take `ms`.
fn far_by(stage: &mut Stage, ms: u64) {
    open(stage);
    for _ in 0..25 {
        let start = stage.sent(R);
        stage.data(R, FULL).data(R, FULL).data(R, FULL).data(R, FULL).wait_ms(ms);
        stage.send(O, has(start + 2 * FULL)).ack(O);
    }
}

pub(super) fn answered_nearby(stage: &mut Stage) {
    far_by(stage, 100);
}

pub(super) fn a_bit_slower(stage: &mut Stage) {
    far_by(stage, 25);
}

/// The responder acknowledges at once and answers after `ms`.
fn answers_after(stage: &mut Stage, ms: u64) {
    open(stage);
    for _ in 0..6 {
        stage.data(O, 100).wait_ms(10);
        stage.ack(R).wait_ms(ms);
        stage.data(R, 500).wait_ms(1);
        stage.ack(O).wait_ms(50);
    }
}

pub(super) fn thinks_long(stage: &mut Stage) {
    answers_after(stage, 600);
}

pub(super) fn thinks(stage: &mut Stage) {
    answers_after(stage, 60);
}

/// A question for `a.test`, or the answer with this code.
fn message(answer: Option<u8>) -> Vec<u8> {
    let flags = match answer {
        None => [0x01, 0x00],
        Some(code) => [0x81, 0x80 | code],
    };
    let mut message = vec![0x12, 0x34];
    message.extend(flags);
    message.extend([0, 1, 0, 0, 0, 0, 0, 0]);
    message.extend(b"\x01a\x04test\x00\x00\x01\x00\x01");
    message
}

pub(super) fn asked_in_vain(stage: &mut Stage) {
    stage.datagram(O, &message(None)).wait_ms(2_000);
    stage.datagram(O, &message(None));
}

pub(super) fn answered_at_last(stage: &mut Stage) {
    asked_in_vain(stage);
    stage.wait_ms(10).datagram(R, &message(Some(0)));
}

pub(super) fn server_failed(stage: &mut Stage) {
    stage.datagram(O, &message(None)).wait_ms(20);
    stage.datagram(R, &message(Some(2)));
}

pub(super) fn no_such_name(stage: &mut Stage) {
    stage.datagram(O, &message(None)).wait_ms(20);
    stage.datagram(R, &message(Some(3)));
}

pub(super) fn answered_late(stage: &mut Stage) {
    stage.datagram(O, &message(None)).wait_ms(800);
    stage.datagram(R, &message(Some(0)));
}

pub(super) fn answered_in_time(stage: &mut Stage) {
    stage.datagram(O, &message(None)).wait_ms(100);
    stage.datagram(R, &message(Some(0)));
}
