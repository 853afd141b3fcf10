//! Scenes that raise a diagnosis, and near misses. Each is one conversation, packet by packet.

#[path = "delays.rs"]
mod delays;
#[path = "innocent.rs"]
pub(crate) mod innocent;

use daemon::diagnosis::Code;
use lab::synth::{
    Side::{Originator as O, Responder as R},
    stage::{Offer, Segment, Stage},
};

use delays::{
    a_bit_slower, answered_at_last, answered_in_time, answered_late, answered_nearby,
    asked_in_vain, bleached, ecn_not_agreed, marked, marked_twice, no_such_name, other_hops,
    other_way, queue_grows, scaled, server_failed, shut, shut_for_a_moment, thinks, thinks_long,
    unscaled, way_grows, window_filled, window_wide,
};

const RST: u8 = 0x04;
const FIN: u8 = 0x01;
pub(super) const FULL: u32 = 1_460;

/// A diagnosis, what raises it, and what nearly does.
pub(crate) struct Scene {
    pub(crate) code: Code,
    pub(crate) raises: fn(&mut Stage),
    pub(crate) nearly: fn(&mut Stage),
}

pub(crate) const SCENES: &[Scene] = &[
    Scene { code: Code::CaptureLoss, raises: capture_misses_one, nearly: network_loses_one },
    Scene { code: Code::OneSidedCapture, raises: one_side_only, nearly: nobody_is_there },
    Scene { code: Code::DuplicateFrames, raises: copies, nearly: two_copies },
    Scene { code: Code::SynUnanswered, raises: syns_in_vain, nearly: second_syn_answered },
    Scene { code: Code::SynRetransmitted, raises: second_syn_answered, nearly: copied_syn },
    Scene { code: Code::SynRejected, raises: prohibited, nearly: prohibited_once },
    Scene { code: Code::ConnectionRefused, raises: refused, nearly: reset_later },
    Scene { code: Code::SynAckRetransmitted, raises: answer_again, nearly: answer_to_each },
    Scene { code: Code::OptionsStripped, raises: no_timestamps, nearly: not_agreed },
    Scene { code: Code::PmtuBlackHole, raises: large_vanish, nearly: large_pass_once },
    Scene { code: Code::TooBigIgnored, raises: stays_large, nearly: becomes_smaller },
    Scene { code: Code::SegmentSizeBeyondMtu, raises: becomes_smaller, nearly: agreed_smaller },
    Scene { code: Code::IdleTimeout, raises: forgotten, nearly: remembered },
    Scene { code: Code::ForgedReset, raises: reset_from_elsewhere, nearly: reset_from_there },
    Scene { code: Code::NetworkLossUpstream, raises: lost_before, nearly: two_lost_before },
    Scene { code: Code::NetworkLossDownstream, raises: lost_behind, nearly: two_lost_behind },
    Scene { code: Code::TailLoss, raises: last_lost, nearly: gone_away },
    Scene { code: Code::RetransmissionTimeouts, raises: timers, nearly: lost_behind },
    Scene { code: Code::SpuriousRetransmissions, raises: needless, nearly: needless_twice },
    Scene { code: Code::Reordering, raises: overtaken, nearly: lost_before },
    Scene { code: Code::ReceiverZeroWindow, raises: shut, nearly: shut_for_a_moment },
    Scene { code: Code::ReceiveWindowLimited, raises: window_filled, nearly: window_wide },
    Scene { code: Code::WindowScalingOff, raises: unscaled, nearly: scaled },
    Scene { code: Code::Bufferbloat, raises: queue_grows, nearly: way_grows },
    Scene { code: Code::CongestionMarks, raises: marked, nearly: marked_twice },
    Scene { code: Code::EcnBleached, raises: bleached, nearly: ecn_not_agreed },
    Scene { code: Code::PathChange, raises: other_way, nearly: other_hops },
    Scene { code: Code::HandshakeRttDiffers, raises: answered_nearby, nearly: a_bit_slower },
    Scene { code: Code::SlowResponse, raises: thinks_long, nearly: thinks },
    Scene { code: Code::DnsUnanswered, raises: asked_in_vain, nearly: answered_at_last },
    Scene { code: Code::DnsFailed, raises: server_failed, nearly: no_such_name },
    Scene { code: Code::DnsSlow, raises: answered_late, nearly: answered_in_time },
];

pub(super) fn open(stage: &mut Stage) {
    stage.handshake(Offer::default(), Offer::default());
}

/// As many full segments of the responder, each acknowledged 100 us later.
pub(super) fn bulk(stage: &mut Stage, segments: u32) {
    for _ in 0..segments {
        stage.data(R, FULL).wait_ns(90_000);
        stage.ack(O).wait_ns(900_000);
    }
}

fn at(start: u32) -> Segment {
    Segment { start: Some(start), payload: FULL, ..Segment::default() }
}

/// The originator has everything up to `to`.
pub(super) fn has(to: u32) -> Segment {
    Segment { acknowledges: Some(to), ..Segment::default() }
}

fn capture_misses_one(stage: &mut Stage) {
    open(stage);
    bulk(stage, 20);
    stage.send(R, at(1 + 21 * FULL)).wait_ms(1);
    stage.ack(O).wait_ms(1);
    bulk(stage, 20);
}

pub(crate) fn capture_misses_some(stage: &mut Stage) {
    open(stage);
    bulk(stage, 10);
    for number in 0..5 {
        let start = 1 + (10 + number * 2) * FULL;
        stage.send(R, at(start + FULL)).wait_ms(1);
        stage.ack(O).wait_ms(1);
    }
}

fn network_loses_one(stage: &mut Stage) {
    open(stage);
    bulk(stage, 20);
    let start = 1 + 20 * FULL;
    stage.send(R, at(start + FULL)).wait_ms(1);
    stage.send(O, has(start)).wait_ms(20);
    stage.send(R, at(start)).wait_ms(1);
    stage.ack(O);
    bulk(stage, 20);
}

fn one_side_only(stage: &mut Stage) {
    for number in 0..12 {
        let payload = 100;
        let acknowledges = Some(1 + number * 500);
        stage.send(O, Segment { payload, acknowledges, ..Segment::default() }).wait_ms(30);
    }
}

fn nobody_is_there(stage: &mut Stage) {
    for _ in 0..12 {
        stage.send(
            O,
            Segment { start: Some(1), payload: 100, acknowledges: Some(1), ..Segment::default() },
        );
        stage.wait_ms(300);
    }
}

fn copies(stage: &mut Stage) {
    open(stage);
    bulk(stage, 20);
    for _ in 0..5 {
        stage.data(R, FULL).again(1).wait_ms(1);
        stage.ack(O).wait_ms(1);
    }
}

fn two_copies(stage: &mut Stage) {
    open(stage);
    bulk(stage, 20);
    for _ in 0..2 {
        stage.data(R, FULL).again(1).wait_ms(1);
        stage.ack(O).wait_ms(1);
    }
}

fn syns_in_vain(stage: &mut Stage) {
    stage.syn(O, Offer::default()).wait_ms(1_000);
    stage.syn(O, Offer::default()).wait_ms(2_000);
    stage.syn(O, Offer::default());
}

fn second_syn_answered(stage: &mut Stage) {
    stage.syn(O, Offer::default()).wait_ms(1_000);
    open(stage);
    bulk(stage, 3);
}

fn copied_syn(stage: &mut Stage) {
    stage.syn(O, Offer::default()).wait_ms(1);
    open(stage);
    bulk(stage, 3);
}

fn prohibited(stage: &mut Stage) {
    stage.syn(O, Offer::default()).wait_ms(10);
    stage.icmp_error(O, 3, 13, 0).wait_ms(1_000);
    stage.syn(O, Offer::default()).wait_ms(10);
    stage.icmp_error(O, 3, 13, 0);
}

fn prohibited_once(stage: &mut Stage) {
    stage.syn(O, Offer::default()).wait_ms(10);
    stage.icmp_error(O, 3, 13, 0).wait_ms(1_000);
    open(stage);
    bulk(stage, 3);
}

fn refused(stage: &mut Stage) {
    stage.syn(O, Offer::default()).wait_ms(10);
    stage.send(R, Segment { flags: RST, start: Some(0), window: 0, ..Segment::default() });
}

fn reset_later(stage: &mut Stage) {
    open(stage);
    bulk(stage, 5);
    stage.send(R, Segment { flags: RST, ..Segment::default() });
}

fn answer_again(stage: &mut Stage) {
    open(stage);
    stage.wait_ms(1_000);
    stage.syn(R, Offer::default());
}

fn answer_to_each(stage: &mut Stage) {
    stage.syn(O, Offer::default()).wait_ms(1_000);
    stage.syn(O, Offer::default()).wait_ms(10);
    stage.syn(R, Offer::default()).wait_ms(1_000);
    stage.syn(R, Offer::default()).again(0);
    stage.ack(O);
}

fn no_timestamps(stage: &mut Stage) {
    let offer = Offer { timestamps: true, ..Offer::default() };
    stage.handshake(offer, offer);
    bulk(stage, 12);
}

fn not_agreed(stage: &mut Stage) {
    stage.handshake(Offer { timestamps: true, ..Offer::default() }, Offer::default());
    bulk(stage, 12);
}

/// The responder's first two large segments vanish, while a small one behind them arrives.
fn large_vanish(stage: &mut Stage) {
    open(stage);
    stage.data(O, 300).wait_ms(10);
    stage.ack(R);
    large_again(stage, 1);
}

fn large_again(stage: &mut Stage, start: u32) {
    stage.data(R, FULL).data(R, FULL).data(R, 100).wait_ms(1);
    let end = start + 2 * FULL;
    let selective = Some([end, end + 100]);
    stage.send(O, Segment { selective, ..has(start) });
    for wait_ms in [300, 600, 1_200, 2_400] {
        stage.wait_ms(wait_ms).send(R, at(start));
    }
    stage.wait_ms(500);
    stage.send(O, Segment { selective, ..has(start) });
}

fn large_pass_once(stage: &mut Stage) {
    open(stage);
    stage.data(O, 300).wait_ms(10);
    stage.ack(R);
    bulk(stage, 3);
    large_again(stage, 1 + 3 * FULL);
}

fn stays_large(stage: &mut Stage) {
    open(stage);
    stage.data(R, FULL).icmp_error(R, 3, 4, 1_400).wait_ms(2_000);
    for _ in 0..4 {
        stage.send(R, at(1)).wait_ms(500);
    }
    stage.ack(O);
}

fn becomes_smaller(stage: &mut Stage) {
    open(stage);
    stage.data(R, FULL).icmp_error(R, 3, 4, 1_400).wait_ms(20);
    for _ in 0..4 {
        stage.send(R, Segment { payload: 1_360, start: Some(1), ..Segment::default() }).wait_ms(1);
        stage.ack(O).wait_ms(1_000);
    }
}

fn agreed_smaller(stage: &mut Stage) {
    let offer = Offer { segment_max: 1_360, ..Offer::default() };
    stage.handshake(offer, offer);
    stage.data(R, FULL).icmp_error(R, 3, 4, 1_400).wait_ms(20);
    stage.data(R, 1_360).wait_ms(1);
    stage.ack(O);
}

fn forgotten(stage: &mut Stage) {
    open(stage);
    bulk(stage, 3);
    stage.wait_ms(600_000).data(O, 50).wait_ms(10);
    stage.send(R, Segment { flags: RST, ..Segment::default() });
}

/// Keep-alives after that, none of which is answered before the last one is reset.
pub(crate) fn forgotten_between_keep_alives(stage: &mut Stage) {
    open(stage);
    bulk(stage, 3);
    stage.data(O, 50).wait_ms(10);
    stage.ack(R).wait_ms(7_200_000);
    let start = stage.sent(O) - 1;
    for _ in 0..4 {
        stage.send(O, Segment { start: Some(start), payload: 1, ..Segment::default() });
        stage.wait_ms(75_000);
    }
    stage.send(O, Segment { start: Some(start), payload: 1, ..Segment::default() }).wait_ms(10);
    stage.send(R, Segment { flags: RST, ..Segment::default() });
}

fn remembered(stage: &mut Stage) {
    open(stage);
    bulk(stage, 3);
    stage.wait_ms(600_000).data(O, 50).wait_ms(10);
    stage.ack(R).wait_ms(1);
    // Closed in good order, and then idle again: the other end has gone.
    stage.send(R, Segment { flags: FIN, ..Segment::default() }).wait_ms(600_000);
    stage.data(O, 50).wait_ms(10);
    stage.send(R, Segment { flags: RST, ..Segment::default() });
}

fn reset_from_elsewhere(stage: &mut Stage) {
    open(stage);
    bulk(stage, 5);
    stage.send(R, Segment { flags: RST, hops: Some(60), id: Some(7), ..Segment::default() });
    stage.wait_ms(1).data(R, FULL);
}

fn reset_from_there(stage: &mut Stage) {
    open(stage);
    bulk(stage, 5);
    stage.send(R, Segment { flags: RST, hops: Some(51), ..Segment::default() });
}

/// `losses` segments of the responder never pass the first time.
fn lose_before(stage: &mut Stage, losses: u32) {
    open(stage);
    bulk(stage, 20);
    for loss in 0..losses {
        let start = 1 + (20 + loss * 2) * FULL;
        stage.send(R, at(start + FULL)).wait_ms(1);
        for _ in 0..3 {
            stage.send(O, has(start)).wait_ns(100_000);
        }
        stage.wait_ms(15).send(R, at(start)).wait_ms(1);
        stage.ack(O).wait_ms(1);
    }
    bulk(stage, 20);
}

pub(crate) fn lost_before(stage: &mut Stage) {
    lose_before(stage, 4);
}

fn two_lost_before(stage: &mut Stage) {
    lose_before(stage, 2);
}

/// `losses` segments of the responder pass and do not arrive.
fn lose_behind(stage: &mut Stage, losses: u32) {
    open(stage);
    bulk(stage, 20);
    for loss in 0..losses {
        let start = 1 + (20 + loss * 2) * FULL;
        stage.data(R, FULL).data(R, FULL).wait_ms(1);
        for _ in 0..4 {
            stage.send(O, has(start)).wait_ns(100_000);
        }
        stage.wait_ms(11).send(R, at(start)).wait_ms(1);
        stage.ack(O).wait_ms(1);
    }
    bulk(stage, 20);
}

pub(crate) fn lost_behind(stage: &mut Stage) {
    lose_behind(stage, 4);
}

fn two_lost_behind(stage: &mut Stage) {
    lose_behind(stage, 2);
}

fn last_lost(stage: &mut Stage) {
    open(stage);
    bulk(stage, 10);
    stage.data(R, 500).wait_ms(400);
    stage.send(R, Segment { payload: 500, ..at(1 + 10 * FULL) }).wait_ms(1);
    stage.ack(O);
}

fn gone_away(stage: &mut Stage) {
    open(stage);
    bulk(stage, 10);
    stage.data(R, 500);
    for wait_ms in [400, 800, 1_600, 3_200] {
        stage.wait_ms(wait_ms).send(R, Segment { payload: 500, ..at(1 + 10 * FULL) });
    }
}

fn timers(stage: &mut Stage) {
    open(stage);
    bulk(stage, 10);
    for loss in 0..4 {
        let start = 1 + (10 + loss * 2) * FULL;
        stage.data(R, FULL).data(R, FULL).wait_ms(1);
        stage.send(O, has(start)).wait_ms(400);
        stage.send(R, at(start)).wait_ms(1);
        stage.ack(O).wait_ms(1);
    }
}

/// The responder sends `times` segments again that had been acknowledged.
fn again(stage: &mut Stage, times: u32) {
    open(stage);
    bulk(stage, 20);
    for time in 0..times {
        stage.wait_ms(20).send(R, at(1 + (19 - time) * FULL)).wait_ms(1);
        stage.ack(O);
    }
}

fn needless(stage: &mut Stage) {
    again(stage, 4);
}

fn needless_twice(stage: &mut Stage) {
    again(stage, 2);
}

fn overtaken(stage: &mut Stage) {
    open(stage);
    bulk(stage, 20);
    for number in 0..4_u16 {
        let start = 1 + (20 + u32::from(number) * 2) * FULL;
        let id = 30_000 + number * 2;
        stage.send(R, Segment { id: Some(id + 1), ..at(start + FULL) });
        stage.send(R, Segment { id: Some(id), ..at(start) }).wait_ms(1);
        stage.ack(O).wait_ms(1);
    }
}
