//! Views of odd frames: cut short, with too many tags, tunnels with all their fields.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

/// Addresses that are told apart from everything else.
const MACS: [u8; 12] = [0xaa; 12];

fn ethernet(ethertype: u16, payload: &[u8]) -> Vec<u8> {
    [&MACS[..], &ethertype.to_be_bytes(), payload].concat()
}

fn tagged(kinds: &[u16], ethertype: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = MACS.to_vec();
    for kind in kinds {
        frame.extend(kind.to_be_bytes());
        frame.extend([0, 100]);
    }
    frame.extend(ethertype.to_be_bytes());
    frame.extend(payload);
    frame
}

fn ipv4(protocol: u8, fragment: u16, payload: &[u8]) -> Vec<u8> {
    let mut header = vec![0; 20];
    header[0] = 0x45;
    header[6..8].copy_from_slice(&fragment.to_be_bytes());
    header[9] = protocol;
    [header, payload.to_vec()].concat()
}

fn ipv6(next: u8, payload: &[u8]) -> Vec<u8> {
    let mut header = vec![0; 40];
    header[0] = 0x60;
    header[6] = next;
    [header, payload.to_vec()].concat()
}

fn udp(source: u16, destination: u16, payload: &[u8]) -> Vec<u8> {
    let ports = [source.to_be_bytes(), destination.to_be_bytes()].concat();
    [&ports, &[0; 4][..], payload].concat()
}

/// A packet that is carried.
fn carried() -> Vec<u8> {
    ipv4(6, 0, b"inner")
}

fn seen(view: View, frame: &[u8]) -> Option<Vec<u8>> {
    let seen = view.of(frame, LinkType::ETHERNET)?;
    Some([seen.head, seen.tail].concat())
}

fn inner(frame: &[u8]) -> Option<Vec<u8>> {
    seen(View::Inner, frame)
}

fn behind_zeros(ethertype: u16, packet: &[u8]) -> Vec<u8> {
    [&[0; 12][..], &ethertype.to_be_bytes(), packet].concat()
}

#[test]
fn one_and_two_tags_are_looked_through_and_a_third_stays() {
    let plain = ethernet(IPV4, b"payload");
    assert_eq!(seen(View::Untagged, &plain).unwrap(), plain);
    for kinds in [&[0x8100_u16][..], &[0x88a8], &[0x9100], &[0x88a8, 0x8100], &[0x8100, 0x8100]] {
        assert_eq!(seen(View::Untagged, &tagged(kinds, IPV4, b"payload")).unwrap(), plain);
    }
    let three = tagged(&[0x88a8, 0x8100, 0x8100], IPV4, b"payload");
    let left = tagged(&[0x8100], IPV4, b"payload");
    assert_eq!(seen(View::Untagged, &three).unwrap(), left);
    assert_eq!(seen(View::AsItIs, &three).unwrap(), three);
}

#[test]
fn a_tag_that_is_cut_stays() {
    let frame = tagged(&[0x8100], IPV4, b"payload");
    for length in 0..16 {
        assert_eq!(seen(View::Untagged, &frame[..length]).unwrap(), frame[..length]);
    }
    assert_eq!(seen(View::Untagged, &frame[..16]).unwrap(), MACS);
    assert_eq!(seen(View::Untagged, &frame[..17]).unwrap(), [&MACS[..], &[8]].concat());
}

#[test]
fn ip_in_ip_is_seen_behind_zero_addresses() {
    let six = ipv6(6, b"inner");
    for (outer, expected) in [
        (ethernet(IPV4, &ipv4(4, 0, &carried())), behind_zeros(IPV4, &carried())),
        (ethernet(IPV4, &ipv4(41, 0, &six)), behind_zeros(IPV6, &six)),
        (ethernet(IPV6, &ipv6(4, &carried())), behind_zeros(IPV4, &carried())),
        (ethernet(IPV6, &ipv6(41, &six)), behind_zeros(IPV6, &six)),
        (tagged(&[0x88a8, 0x8100], IPV4, &ipv4(4, 0, &carried())), behind_zeros(IPV4, &carried())),
    ] {
        assert_eq!(inner(&outer).unwrap(), expected);
    }
    assert_eq!(inner(&ethernet(IPV4, &ipv4(4, 0, &six))), None, "another version than its type's");
    assert_eq!(inner(&ethernet(IPV4, &ipv4(4, 0, &[]))), None, "nothing is carried");
}

#[test]
fn raw_ip_packets_have_tunnels_too() {
    let packet = ipv4(4, 0, &carried());
    let seen = View::Inner.of(&packet, LinkType::RAW).unwrap();
    assert_eq!([seen.head, seen.tail].concat(), behind_zeros(IPV4, &carried()));
    assert_eq!(View::Inner.of(&[0x50; 60], LinkType::RAW), None);
    assert_eq!(View::Inner.of(&[], LinkType::RAW), None);
}

#[test]
fn gre_has_up_to_three_fields_and_no_routing() {
    let gre = |flags: u16, kind: u16, fields: usize, packet: &[u8]| {
        let header = [flags.to_be_bytes(), kind.to_be_bytes()].concat();
        ethernet(IPV4, &ipv4(47, 0, &[&header, &vec![0x77; fields * 4], packet].concat()))
    };
    for (flags, fields) in [
        (0, 0),
        (0x8000, 1),
        (0x2000, 1),
        (0x1000, 1),
        (0xa000, 2),
        (0x3000, 2),
        (0x9000, 2),
        (0xb000, 3),
    ] {
        let frame = gre(flags, IPV4, fields, &carried());
        assert_eq!(inner(&frame).unwrap(), behind_zeros(IPV4, &carried()), "{flags:#x}");
    }
    let bridged = tagged(&[0x8100], IPV4, &carried());
    assert_eq!(inner(&gre(0, BRIDGED, 0, &bridged)).unwrap(), ethernet(IPV4, &carried()));
    assert_eq!(inner(&gre(0x4000, IPV4, 1, &carried())), None, "routing");
    assert_eq!(inner(&gre(0x0001, IPV4, 0, &carried())), None, "version 1");
    assert_eq!(inner(&gre(0, 0x880b, 0, &carried())), None, "PPP");
}

#[test]
fn vxlan_is_found_by_either_port_and_needs_its_flag() {
    let bridged = ethernet(IPV4, &carried());
    let vxlan = |flags: u8| [&[flags, 0, 0, 0, 0, 0, 7, 0][..], &bridged].concat();
    for (source, destination) in [(9, 4789), (4789, 9), (9, 8472), (8472, 9)] {
        let frame = ethernet(IPV4, &ipv4(17, 0, &udp(source, destination, &vxlan(8))));
        assert_eq!(inner(&frame).unwrap(), bridged);
        let frame = ethernet(IPV6, &ipv6(17, &udp(source, destination, &vxlan(8))));
        assert_eq!(inner(&frame).unwrap(), bridged);
    }
    assert_eq!(inner(&ethernet(IPV4, &ipv4(17, 0, &udp(9, 4789, &vxlan(0))))), None);
    assert_eq!(inner(&ethernet(IPV4, &ipv4(17, 0, &udp(9, 4790, &vxlan(8))))), None);
}

#[test]
fn geneve_has_options_and_carries_ip_or_ethernet() {
    let geneve = |first: u8, kind: u16, options: usize, packet: &[u8]| {
        let header = [&[first, 0][..], &kind.to_be_bytes(), &[0, 0, 7, 0]].concat();
        let payload = [&header, &vec![0x77; options], packet].concat();
        ethernet(IPV4, &ipv4(17, 0, &udp(9, 6081, &payload)))
    };
    let bridged = ethernet(IPV4, &carried());
    assert_eq!(inner(&geneve(0, BRIDGED, 0, &bridged)).unwrap(), bridged);
    assert_eq!(inner(&geneve(2, BRIDGED, 8, &bridged)).unwrap(), bridged);
    assert_eq!(
        inner(&geneve(0x3f, IPV4, 252, &carried())).unwrap(),
        behind_zeros(IPV4, &carried())
    );
    assert_eq!(inner(&geneve(0x40, BRIDGED, 0, &bridged)), None, "version 1");
    assert_eq!(inner(&geneve(0, 0x0806, 0, &bridged)), None, "ARP");
}

#[test]
fn only_whole_packets_and_first_fragments_are_looked_into() {
    let more = ethernet(IPV4, &ipv4(4, 0x2000, &carried()));
    assert_eq!(inner(&more).unwrap(), behind_zeros(IPV4, &carried()));
    assert_eq!(inner(&ethernet(IPV4, &ipv4(4, 1, &carried()))), None);
    let fragment = |offset: u8| [&[4, 0, 0, offset, 0, 0, 0, 0][..], &carried()].concat();
    assert!(inner(&ethernet(IPV6, &ipv6(44, &fragment(1)))).is_some());
    assert_eq!(inner(&ethernet(IPV6, &ipv6(44, &fragment(8)))), None);
}

#[test]
fn extension_headers_are_skipped_as_far_as_the_bounds_go() {
    let behind = |count: usize, units: u8| {
        let mut payload = Vec::new();
        for index in 0..count {
            let next = if index + 1 == count { 4 } else { 60 };
            payload.extend([next, units]);
            payload.resize(payload.len() + 6 + usize::from(units) * 8, 0);
        }
        payload.extend(carried());
        ethernet(IPV6, &ipv6(60, &payload))
    };
    let expected = behind_zeros(IPV4, &carried());
    assert_eq!(inner(&behind(1, 0)).unwrap(), expected);
    assert_eq!(inner(&behind(EXTENSIONS_MAX, 0)).unwrap(), expected);
    assert_eq!(inner(&behind(EXTENSIONS_MAX + 1, 0)), None);
    // 54 bytes, and 57 units of eight: 510 bytes.
    assert_eq!(inner(&behind(1, 56)).unwrap(), expected);
    assert_eq!(inner(&behind(1, 57)), None, "it begins at byte 518");
}

#[test]
fn what_is_cut_short_shows_what_is_there_or_nothing() {
    let bridged = ethernet(IPV4, &carried());
    let payload = [&[8, 0, 0, 0, 0, 0, 7, 0][..], &bridged].concat();
    let frame = tagged(&[0x8100], IPV4, &ipv4(17, 0, &udp(9, 4789, &payload)));
    let begins = frame.len() - bridged.len();
    for length in 0..=frame.len() {
        let there = length.checked_sub(begins + ETHERNET_HEADER);
        let expected = there.map(|there| bridged[..ETHERNET_HEADER + there].to_vec());
        assert_eq!(inner(&frame[..length]), expected, "{length}");
    }
}

#[test]
fn bytes_are_read_across_the_seam() {
    let seen = Seen { head: &[1, 2, 3], tail: &[4, 5] };
    assert_eq!(seen.bytes(0), Some([1, 2, 3]));
    assert_eq!(seen.bytes(1), Some([2, 3, 4, 5]));
    assert_eq!(seen.bytes(2), Some([3, 4]));
    assert_eq!(seen.bytes(3), Some([4, 5]));
    assert_eq!(seen.bytes::<4>(2), None);
    assert_eq!(seen.bytes::<1>(5), None);
    assert_eq!(seen.bytes::<1>(usize::MAX), None);
}

/// Frames that are often tunnels: random bytes behind true beginnings.
fn frames() -> impl Strategy<Value = Vec<u8>> {
    let beginnings = prop_oneof![
        Just(Vec::new()),
        Just(ethernet(IPV4, &ipv4(47, 0, &[]))),
        Just(ethernet(IPV4, &ipv4(17, 0, &udp(1, PORT_GENEVE, &[])))),
        Just(ethernet(IPV6, &ipv6(60, &[]))),
        Just(tagged(&[0x8100, 0x8100], IPV4, &ipv4(17, 0, &udp(PORT_VXLAN, 1, &[8])))),
        Just(ipv6(0, &[])),
    ];
    (beginnings, vec(any::<u8>(), 0..80)).prop_map(|(begin, rest)| [begin, rest].concat())
}

proptest! {
    #[test]
    fn views_of_any_bytes_are_parts_of_them(frame in frames(), raw in any::<bool>()) {
        let link_type = if raw { LinkType::RAW } else { LinkType::ETHERNET };
        for view in [View::AsItIs, View::Untagged, View::Inner] {
            if let Some(seen) = view.of(&frame, link_type) {
                prop_assert!(frame.ends_with(seen.tail));
                prop_assert!(seen.head.len() <= ETHERNET_HEADER);
            }
        }
    }

    #[test]
    fn what_is_beyond_the_reach_of_a_view_changes_none_of_its_bytes(
        frame in frames(),
        rest in vec(any::<u8>(), 600..601),
        reach in 0_u32..64,
    ) {
        let whole = [frame, rest].concat();
        for view in [View::AsItIs, View::Untagged, View::Inner] {
            let cut = &whole[..whole.len().min(view.reach(reach) as usize)];
            let read = |frame: &[u8]| {
                let bytes = seen(view, frame)?;
                let length = bytes.len().min(reach as usize);
                Some(bytes[..length].to_vec())
            };
            prop_assert_eq!(read(cut), read(&whole), "{:?}", view);
        }
    }
}
