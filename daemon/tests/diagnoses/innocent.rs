//! Scenes in which something is sent again and the network lost nothing.

use lab::synth::{
    Side::{Originator as O, Responder as R},
    stage::{Offer, Segment, Stage},
};

use super::{FULL, at, bulk, has, open};

/// Codes that would blame the network, or a timer's silence on it.
pub(crate) const LOSSES: [&str; 4] =
    ["network_loss_upstream", "network_loss_downstream", "tail_loss", "retransmission_timeouts"];

/// What a scene is called, and how it goes.
type Named = (&'static str, fn(&mut Stage));

/// All of them.
pub(crate) const SCENES: &[Named] = &[
    ("arrived twice", arrived_twice),
    ("the first one is echoed", first_is_echoed),
    ("acknowledged too soon", too_soon),
    ("the window was shut", window_was_shut),
    ("routers told", routers_told),
];

/// A time-out of the last segment each time, and the receiver tells then that it got it twice.
fn arrived_twice(stage: &mut Stage) {
    open(stage);
    for _ in 0..6 {
        let start = stage.sent(O);
        stage.data(O, 100).wait_ms(250);
        stage.send(O, Segment { payload: 100, ..at(start) }).wait_ms(20);
        stage.ack(R).wait_ms(2);
        let selective = Some([start, start + 100]);
        stage.send(R, Segment { selective, ..Segment::default() }).wait_ms(200);
    }
}

/// The acknowledgment of what was sent again answers what was sent first.
fn first_is_echoed(stage: &mut Stage) {
    let offer = Offer { timestamps: true, ..Offer::default() };
    stage.handshake(offer, offer);
    let stamped = Segment { timestamps: true, ..Segment::default() };
    for _ in 0..6 {
        let (start, echo) = (stage.sent(O), stage.clock_ms());
        let data = Segment { start: Some(start), payload: 100, ..stamped };
        stage.send(O, data).wait_ms(250);
        stage.send(O, data).wait_ms(15);
        stage.send(R, Segment { echo, ..stamped }).wait_ms(200);
    }
}

/// The acknowledgment comes sooner than anything from there can.
fn too_soon(stage: &mut Stage) {
    open(stage);
    for _ in 0..6 {
        let start = stage.sent(O);
        stage.data(O, 100).wait_ms(250);
        stage.send(O, Segment { payload: 100, ..at(start) }).wait_ms(2);
        stage.ack(R).wait_ms(200);
    }
}

/// The receiver shuts its window and drops what was on its way.
fn window_was_shut(stage: &mut Stage) {
    open(stage);
    bulk(stage, 10);
    let start = stage.sent(R);
    for _ in 0..8 {
        stage.data(R, FULL);
    }
    stage.wait_ms(1);
    for _ in 0..3 {
        stage.send(O, Segment { window: 0, ..has(start + FULL) }).wait_ms(1);
    }
    stage.wait_ms(60).send(O, has(start + FULL)).wait_ms(20);
    for number in 1..8 {
        stage.send(R, at(start + number * FULL));
    }
    stage.wait_ms(1).ack(O).wait_ms(1);
    bulk(stage, 10);
}

/// A router drops large packets, and tells of each.
fn routers_told(stage: &mut Stage) {
    open(stage);
    for _ in 0..4 {
        stage.data(R, FULL).icmp_error(R, 3, 4, 1_400);
    }
    stage.wait_ms(300);
    for number in 0..4 {
        stage.send(R, Segment { payload: 1_360, ..at(1 + number * FULL) }).wait_ms(1);
        stage.send(R, Segment { payload: 100, ..at(1 + number * FULL + 1_360) }).wait_ms(1);
        stage.send(O, has(1 + (number + 1) * FULL)).wait_ms(20);
    }
}
