//! The name of each diagnosis, and what to check next. The names are those in every answer, and stay.

macro_rules! codes {
    ($($(#[$doc:meta])* $variant:ident, $name:literal, $advice:literal;)*) => {
        /// What is wrong.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Code { $($(#[$doc])* $variant,)* }

        impl Code {
            /// Each of them, in the order of the documentation.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The name in every answer.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// What to check next.
            #[must_use]
            pub const fn advice(self) -> &'static str {
                match self { $(Self::$variant => $advice,)* }
            }
        }
    };
}

codes! {
    /// What was captured has holes that the network has not.
    CaptureLoss, "capture_loss", "The receiver got packets that were not captured. Look for drops of the capture (`loss` in the API, tcpdump's \"dropped by kernel\", an overrun mirror port), capture less with a filter or a shorter snaplen, and look whether packets take several paths.";
    /// One direction is missing.
    OneSidedCapture, "one_sided_capture", "Only one direction passes here. Capture where both do: look for asymmetric routes (`ip route get` at both ends), a mirror port of one direction only, or a filter that fits one side.";
    /// The same frames again.
    DuplicateFrames, "duplicate_frames", "Packets were captured twice. Where the hops left are the same, the mirror port copies both ways in or out, or two interfaces are captured; where they fall, look for both sides of a router in one capture, or a routing loop (`traceroute`).";
    /// Nobody answers.
    SynUnanswered, "syn_unanswered", "Nothing answered the SYNs. Check that the host is up, that no filter on the way or at the host drops silently, and that the way back exists; capture closer to the server to see where the SYN ends.";
    /// The answer came to a later SYN.
    SynRetransmitted, "syn_retransmitted", "The connection took a second or more to come about, because its SYN had to be sent again. Where the answer had passed here, it is lost or filtered on the way back; where none had, look for loss of the SYN beyond here, for a full listen queue (`nstat TcpExtListenDrops`, `ss -ltn` Recv-Q) and for filters that limit new connections.";
    /// A router says that it cannot be reached.
    SynRejected, "syn_rejected", "An ICMP error answered the SYN; its sender is in the display filter's packets. Type and code say whether a rule prohibits it or a route is missing there.";
    /// Nobody listens.
    ConnectionRefused, "connection_refused", "A reset answered the SYN. Check that a process listens on that port and address (`ss -ltn`), or whether a firewall on the way rejects with resets.";
    /// The answer to the SYN was sent again.
    SynAckRetransmitted, "syn_ack_retransmitted", "The server did not hear the handshake's end. Where the ACK passed here: look for a full listen queue (`nstat TcpExtListenOverflows`, `ss -ltn` Recv-Q) or loss beyond here; where none passed, the way to the client loses or filters the SYN-ACK, or the SYN's sender was forged.";
    /// Options did not arrive as they were sent.
    OptionsStripped, "options_stripped", "What one end does contradicts the options that passed here: something on the way changes TCP options. Look for firewalls that normalize TCP, proxies and load balancers, and compare captures of both ends.";
    /// Large packets vanish.
    PmtuBlackHole, "pmtu_black_hole", "Large packets do not arrive and nobody says why. Try `ping -M do -s SIZE` or `tracepath`; let ICMP \"fragmentation needed\" and \"packet too big\" through, clamp the MSS at the tunnel, or set `net.ipv4.tcp_mtu_probing=1`.";
    /// An ICMP error was not obeyed.
    TooBigIgnored, "packet_too_big_ignored", "Packets stay larger than the MTU that a router told. Check that the sender gets the ICMP errors (its firewall, NAT, load balancers that send them to another host) and that its path MTU discovery is on.";
    /// The MSS does not fit the path.
    SegmentSizeBeyondMtu, "segment_size_beyond_mtu", "The ends agreed on segments that do not fit the path, so that each connection starts with lost packets. Clamp the MSS at the tunnel or router (`--clamp-mss-to-pmtu`), or set the interface's MTU.";
    /// A state table forgot the connection.
    IdleTimeout, "idle_timeout", "After a long silence the connection was dead. Look for firewalls, NAT and load balancers with an idle timeout shorter than that, and set keep-alives below it.";
    /// A reset that its sender did not send.
    ForgedReset, "forged_reset", "The reset does not look like its sender's other packets, so that something on the way may have sent it. Compare captures of both ends, and look for intrusion prevention, filters and proxies at that distance.";
    /// Lost before here.
    NetworkLossUpstream, "network_loss_upstream", "Packets were lost between their sender and here. Look at drops and errors of the interfaces and queues on that part of the way (`ip -s link`, `tc -s qdisc`, `ethtool -S`), duplex, optics, policers.";
    /// Lost behind here.
    NetworkLossDownstream, "network_loss_downstream", "Packets that passed here, or their acknowledgments, were lost between here and the receiver. Look at drops and errors of the interfaces and queues on that part of the way, and at the receiver's own (`nstat`, `ethtool -S`).";
    /// The end of a burst was lost.
    TailLoss, "tail_loss", "The last packet of a burst was lost, which only a timer repairs. Find the loss; RACK and tail loss probes at the sender (`net.ipv4.tcp_early_retrans=3`) make it cheaper.";
    /// Timers had to repair.
    RetransmissionTimeouts, "retransmission_timeouts", "Losses were repaired by timers, not by acknowledgments, and the sender stood still meanwhile. Look for losses in bursts, lost retransmissions, SACK that is not permitted, and windows of few segments.";
    /// Sent again without need.
    SpuriousRetransmissions, "spurious_retransmissions", "What had arrived was sent again. Look for sudden delay, for acknowledgments that are lost or held back, and for reordering beyond what the sender tolerates.";
    /// Packets overtake each other.
    Reordering, "reordering", "Packets overtake each other before here. Look for load balancing by packet (bonding in round-robin mode, ECMP by packet), several queues without flow hashing, and for the capture's own queues.";
    /// The receiver's window is shut.
    ReceiverZeroWindow, "receiver_zero_window", "The receiver's process does not read as fast as data comes. Look at that process and its host (CPU, disk, locks), not at the network; then at its receive buffer (`net.ipv4.tcp_rmem`, SO_RCVBUF).";
    /// The window bounds the rate.
    ReceiveWindowLimited, "receive_window_limited", "The sender fills the receiver's window again and again. Raise the receiver's buffer (`net.ipv4.tcp_rmem`, no fixed SO_RCVBUF), or look whether its process reads slowly.";
    /// The window is not scaled.
    WindowScalingOff, "window_scaling_off", "Windows are not scaled, so that at most 64 kB are in flight. Turn on `net.ipv4.tcp_window_scaling`, raise the receive buffer of the end that did not offer it, or find what strips the option.";
    /// Queues are deep.
    Bufferbloat, "bufferbloat", "Round trips grow with the data in flight: a queue on the way is deep. Find the bottleneck, usually the slowest link, and put a queue discipline like fq_codel or cake, or a shaper, on it.";
    /// Routers mark.
    CongestionMarks, "congestion_marks", "A queue on the way marks packets instead of dropping them: the path is congested and ECN works. Look for the bottleneck's load.";
    /// Marks cannot arrive.
    EcnBleached, "ecn_bleached", "Both ends agreed on ECN, and yet packets pass here as not capable of it. Look for routers on the sender's side that clear the field with the DSCP.";
    /// The way has changed.
    PathChange, "path_change", "The number of hops and the least round trip changed together: packets take another way. Look for routing changes at that time.";
    /// The handshake's round trip is another one than that of data.
    HandshakeRttDiffers, "handshake_rtt_differs", "The handshake took another time than data does. Where it was quicker, something near answers for the server (proxy, load balancer, SYN cookies); where it was slower, look for ARP, a cold cache or wake-up on the first packet.";
    /// The application takes its time.
    SlowResponse, "slow_response", "The network is quick and the answers are not: the time passes in the responder's process or behind it. Look at its logs, CPU, and what it calls itself.";
    /// No answer.
    DnsUnanswered, "dns_unanswered", "A question was repeated in vain. Check that the resolver is up and reachable, that UDP port 53 passes both ways, and that large answers are not lost (fragments, EDNS size).";
    /// The server failed.
    DnsFailed, "dns_failed", "The server answered that it failed or refuses. Ask it directly (`dig @SERVER NAME`), look at its forwarders, DNSSEC and access lists.";
    /// The server is slow.
    DnsSlow, "dns_slow", "Names took long to resolve. Compare with the round trip to the resolver; look at its cache and forwarders.";
}
