//! Frames in every wrapping that filters look through, built byte by byte around a plain IPv4 frame.
//! Never checks anything.

const ETHERNET: usize = 14;

/// `frame` behind tags and in tunnels, whole and cut short.
pub(crate) fn wrapped(frame: &[u8]) -> Vec<Vec<u8>> {
    let packet = &frame[ETHERNET..];
    let vxlan = [&[8, 0, 0, 0, 0, 0, 7, 0][..], frame].concat();
    let geneve = |kind: u16, options: u8, inner: &[u8]| {
        let [high, low] = kind.to_be_bytes();
        [&[options, 0, high, low, 0, 0, 7, 0][..], &vec![0x5a; usize::from(options) * 4], inner]
            .concat()
    };
    let gre = |flags: u8, kind: u16, fields: usize, inner: &[u8]| {
        let [high, low] = kind.to_be_bytes();
        [&[flags, 0, high, low][..], &vec![0x5a; fields * 4], inner].concat()
    };
    let options = [&[4, 0, 4, 1, 4, 1, 1, 0][..], packet].concat();
    let later = [&[4, 0, 0, 8, 0, 0, 0, 1][..], packet].concat();
    let six = ipv6(6, &packet[20..]);
    let mut frames = vec![
        tagged(&[0x8100], frame),
        tagged(&[0x88a8, 0x8100], frame),
        tagged(&[0x9100], frame),
        tagged(&[0x88a8, 0x8100, 0x8100], frame),
        over_ipv4(17, &udp(5, 4789, &vxlan)),
        over_ipv4(17, &udp(8472, 5, &vxlan)),
        over_ipv6(17, &udp(5, 4789, &vxlan)),
        over_ipv4(17, &udp(5, 4789, &[&[0; 8], frame].concat())),
        over_ipv4(
            17,
            &udp(5, 4789, &[&[8, 0, 0, 0, 0, 0, 7, 0], &tagged(&[0x8100], frame)[..]].concat()),
        ),
        over_ipv4(
            17,
            &udp(5, 4789, &[&[8, 0, 0, 0, 0, 0, 7, 0], &over_ipv4(4, packet)[..]].concat()),
        ),
        over_ipv4(17, &udp(5, 6081, &geneve(0x6558, 0, frame))),
        over_ipv4(17, &udp(6081, 5, &geneve(0x6558, 63, frame))),
        over_ipv4(17, &udp(5, 6081, &geneve(0x0800, 2, packet))),
        over_ipv4(47, &gre(0, 0x0800, 0, packet)),
        over_ipv4(47, &gre(0xb0, 0x0800, 3, packet)),
        over_ipv4(47, &gre(0x20, 0x6558, 1, frame)),
        over_ipv4(47, &gre(0x40, 0x0800, 1, packet)),
        over_ipv4(47, &gre(0, 0x86dd, 0, &six)),
        over_ipv6(47, &gre(0, 0x0800, 0, packet)),
        over_ipv4(4, packet),
        over_ipv4(41, &six),
        over_ipv6(4, packet),
        over_ipv6(41, &six),
        over_ipv6(60, &options),
        over_ipv6(44, &later),
    ];
    let mut fragment = over_ipv4(4, packet);
    fragment[ETHERNET + 6] = 0x20;
    frames.push(fragment.clone());
    fragment[ETHERNET + 7] = 1;
    frames.push(fragment);
    let in_tag = tagged(&[0x8100], &over_ipv4(17, &udp(5, 4789, &vxlan)));
    frames.extend((20..in_tag.len()).step_by(9).map(|length| in_tag[..length].to_vec()));
    frames.push(in_tag);
    frames
}

fn tagged(kinds: &[u16], frame: &[u8]) -> Vec<u8> {
    let tags = kinds.iter().flat_map(|kind| [kind.to_be_bytes(), [0, 100]].concat());
    [&frame[..12], &tags.collect::<Vec<_>>(), &frame[12..]].concat()
}

fn over_ipv4(protocol: u8, payload: &[u8]) -> Vec<u8> {
    let [high, low] = u16::try_from(20 + payload.len()).unwrap().to_be_bytes();
    let header = [0x45, 0, high, low, 0, 1, 0, 0, 64, protocol, 0, 0, 172, 31, 0, 1, 172, 31, 0, 2];
    [&[0x02; 12][..], &[8, 0], &header, payload].concat()
}

fn over_ipv6(next: u8, payload: &[u8]) -> Vec<u8> {
    [&[0x02; 12][..], &[0x86, 0xdd], &ipv6(next, payload)].concat()
}

fn ipv6(next: u8, payload: &[u8]) -> Vec<u8> {
    let [high, low] = u16::try_from(payload.len()).unwrap().to_be_bytes();
    let address = |last: u8| [&[0xfd][..], &[0; 14], &[last]].concat();
    [&[0x60, 0, 0, 0, high, low, next, 64][..], &address(1), &address(2), payload].concat()
}

fn udp(source: u16, destination: u16, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(8 + payload.len()).unwrap();
    let fields = [source, destination, length, 0];
    [&fields.iter().flat_map(|field| field.to_be_bytes()).collect::<Vec<_>>(), payload].concat()
}
