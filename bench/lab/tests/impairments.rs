//! The lab does to traffic what its plan says: measured by the endpoints' kernels, not by the lab.

use std::time::Duration;

use lab::traffic::bulk::{self, Bulk, Sends};
use lab::traffic::ping::{self, Ping};
use lab::traffic::request_response::{self, RequestResponse};
use lab::traffic::udp_stream::{self, UdpStream};
use lab::{DropCause, Family, Impairment, Lab, Loss, Plan, Reorder, require_root};

#[test]
fn the_measured_round_trip_is_the_delay_set() {
    if !require_root("round trips through the relay") {
        return;
    }
    for (rtt_ms, rounds) in [(5, 200), (20, 100), (100, 20)] {
        let rtt = Duration::from_millis(rtt_ms);
        let lab = Lab::build(Plan::new("rtt").with_rtt(rtt)).unwrap();
        for family in [Family::V4, Family::V6] {
            let interval = Duration::from_millis(2);
            let plan = RequestResponse { family, rounds, interval, ..RequestResponse::default() };
            let measured = request_response::run(&lab, &plan).unwrap();

            let set_us = u32::try_from(rtt.as_micros()).unwrap();
            // 5 % and 50 us for each of the two crossings.
            let slack_us = set_us / 20 + 100;
            let kernel_us = measured.client.min_rtt_us;
            let process_us = measured.round_trip.p50_ns / 1000;
            println!("set {set_us} us: {family:?} min_rtt {kernel_us} us, p50 {process_us} us");
            let report = lab.report();
            let late_ns = [report.to_server.late_mean_ns, report.to_client.late_mean_ns];
            println!("    the relay was late by {late_ns:?} ns on average");
            assert!((set_us..=set_us + slack_us).contains(&kernel_us), "min_rtt {kernel_us} us");
            // The processes' own wake-ups are part of what they measure: not the lab's to answer for.
            if rtt_ms >= 20 {
                assert!(process_us.abs_diff(set_us.into()) <= slack_us.into(), "{process_us} us");
            }
        }
    }
}

/// A lost segment takes an acknowledgement with it, so the other end's timer may resend what had
/// arrived: such a needless one is answered with a duplicate SACK, which the kernel counts.
#[test]
fn every_nth_loss_is_the_kernels_own_retransmission_count() {
    if !require_root("known loss") {
        return;
    }
    let rtt = Duration::from_millis(4);
    let both_ways = Plan::new("losses").with_rtt(rtt).with_loss(Loss::EveryNthData(20));
    let mut one_way = Plan::new("loss").with_rtt(rtt);
    one_way.to_server.loss = Loss::EveryNthData(20);
    for (plan, dropped_min) in [(one_way, [10, 0]), (both_ways, [10, 10])] {
        let lab = Lab::build(plan).unwrap();
        for family in [Family::V4, Family::V6] {
            let interval = Duration::ZERO;
            let plan = RequestResponse { family, rounds: 200, interval, ..Default::default() };
            let measured = request_response::run(&lab, &plan).unwrap();

            let report = lab.report();
            let ends = [measured.client, measured.server];
            for ((end, way), least) in
                ends.iter().zip([&report.to_server, &report.to_client]).zip(dropped_min)
            {
                let dropped = u32::try_from(way.dropped_data_from(end.local).count()).unwrap();
                println!("{family:?}: dropped {dropped}, {} resent needlessly", end.dsack_dups);
                assert!(dropped >= least);
                assert_eq!(end.total_retrans, dropped + end.dsack_dups, "{end:?}");
                assert_eq!(way.dropped_socket + way.dropped_queue, 0);
                assert!(way.dropped.iter().all(|drop| drop.cause == DropCause::Loss));
            }
        }
    }
}

#[test]
fn a_clean_relay_carries_a_bulk_transfer_faster_than_200_mbit_per_s() {
    if !require_root("bulk transfer") {
        return;
    }
    let lab = Lab::build(Plan::new("bulk")).unwrap();
    for sends in [Sends::Client, Sends::Server] {
        let plan = Bulk { bytes: 100 << 20, sends, ..Bulk::default() };
        let measured = bulk::run(&lab, &plan).unwrap();
        println!("{sends:?}: {} Mbit/s", measured.bits_per_s / 1_000_000);
        assert!(measured.bits_per_s > 200_000_000, "{measured:?}");
    }
    let report = lab.report();
    let socket_drops = report.to_server.dropped_socket + report.to_client.dropped_socket;
    assert_eq!(socket_drops, 0, "{report:?}");
}

#[test]
fn a_rate_limit_holds_and_its_queue_drops() {
    if !require_root("rate limit") {
        return;
    }
    let mut plan = Plan::new("rate").with_rtt(Duration::from_millis(10));
    plan.to_client.rate_bits_per_s = Some(20_000_000);
    plan.to_client.queue_bytes = 30_000;
    let lab = Lab::build(plan).unwrap();

    let congestion = Some("reno".to_owned());
    let measured =
        bulk::run(&lab, &Bulk { bytes: 5 << 20, congestion, ..Bulk::default() }).unwrap();

    let report = lab.report().to_client;
    println!("{} bit/s, {} dropped at the queue", measured.bits_per_s, report.dropped_queue);
    assert!((10_000_000..20_000_000).contains(&measured.bits_per_s), "{measured:?}");
    assert!(report.dropped_queue > 0 && report.dropped_loss == 0);
    assert!(u64::from(measured.server.total_retrans) >= report.dropped_queue);
}

#[test]
fn reordered_and_duplicated_segments_are_seen_by_the_endpoint() {
    if !require_root("reordering and duplication") {
        return;
    }
    let mut plan = Plan::new("reorder").with_rtt(Duration::from_millis(10));
    let extra_delay = Duration::from_millis(2);
    plan.to_client.reorder = Some(Reorder { every_nth: 40, extra_delay });
    plan.to_client.duplicate_every_nth = Some(60);
    let lab = Lab::build(plan).unwrap();

    let measured = bulk::run(&lab, &Bulk { bytes: 2 << 20, ..Bulk::default() }).unwrap();

    let report = lab.report().to_client;
    println!(
        "{} reordered, {} duplicated: {:?}",
        report.reordered, report.duplicated, measured.server
    );
    assert!(report.reordered > 20 && report.duplicated > 10);
    assert_eq!(report.forwarded + report.held, report.frames + report.duplicated);
    assert!(measured.server.dsack_dups > 0, "the client told of duplicates");
}

#[test]
fn random_loss_is_about_its_probability_and_spares_address_resolution() {
    if !require_root("random loss") {
        return;
    }
    let mut plan = Plan::new("random");
    plan.to_server = Impairment { loss: Loss::Probability(0.2), ..Impairment::default() };
    let lab = Lab::build(plan).unwrap();

    let interval = Duration::from_micros(200);
    for family in [Family::V4, Family::V6] {
        let plan = UdpStream { family, datagrams: 2000, interval, ..UdpStream::default() };
        let measured = udp_stream::run(&lab, &plan).unwrap();
        println!("{family:?}: {measured:?}");
        assert!((1480..=1720).contains(&measured.received), "{measured:?}");
        assert_eq!((measured.duplicates, measured.out_of_order), (0, 0));
    }
}

#[test]
fn pings_take_the_delay_set() {
    if !require_root("pings") || !lab::require_tool("ping", "pings") {
        return;
    }
    let lab = Lab::build(Plan::new("ping").with_rtt(Duration::from_millis(20))).unwrap();
    for family in [Family::V4, Family::V6] {
        let interval = Duration::from_millis(20);
        let measured = ping::run(&lab, &Ping { family, interval, ..Ping::default() }).unwrap();
        println!("{family:?}: {measured:?}");
        assert_eq!((measured.sent, measured.received), (10, 10));
        assert!((20_000_000..21_100_000).contains(&measured.min_ns), "{measured:?}");
    }
}
