//! Which flows, in which order, from where: one page of the table. Keyset paging, so that a page costs the same
//! wherever it lies and a changing table neither repeats nor skips what did not move.

use std::{net::IpAddr, str::FromStr};

use datapath::{ConntrackState, tcp::classes};

use super::{FlowId, FlowRecord, FlowTable, community_id::address};

/// Most flows of one page.
pub const PAGE_MAX: usize = 1_000;
/// Flows of a page when the client does not say.
pub const PAGE_DEFAULT: usize = 200;

macro_rules! sort_fields {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)*) => {
        /// What flows can be sorted by. Sums count both directions; round trips take the worse one.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum SortField { $($(#[$doc])* $variant,)* }

        impl SortField {
            /// Every field.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The name in a query.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }
        }
    };
}

sort_fields! {
    /// When the last packet was seen.
    LastSeen = "last_seen",
    /// When the first packet was seen.
    FirstSeen = "first_seen",
    /// Wire packets.
    Packets = "packets",
    /// Bytes of whole frames.
    Bytes = "bytes",
    /// Bits per second over the last sweep interval.
    Rate = "rate",
    /// Handshake round trip.
    HandshakeRtt = "handshake_rtt_ns",
    /// Median round trip.
    RttP50 = "rtt.p50_ns",
    /// 99th percentile of round trips.
    RttP99 = "rtt.p99_ns",
    /// Segments sent again, in whichever way.
    Retransmissions = "retransmissions",
}

/// A page's order, filter and place.
#[derive(Clone, Debug)]
pub struct FlowQuery {
    /// What to sort by.
    pub sort: SortField,
    /// Greatest first.
    pub descending: bool,
    /// Most flows to return, at most [`PAGE_MAX`].
    pub limit: usize,
    /// Continue after this flow.
    pub after: Option<Cursor>,
    /// Which flows.
    pub filter: FlowFilter,
}

impl Default for FlowQuery {
    fn default() -> Self {
        Self {
            sort: SortField::LastSeen,
            descending: true,
            limit: PAGE_DEFAULT,
            after: None,
            filter: FlowFilter::default(),
        }
    }
}

/// An interface: the observation points that it has, and flows of those that it had.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// Its name as in `/interfaces`.
    pub interface: String,
    /// Its points as of now.
    pub points: Vec<u32>,
}

impl Place {
    fn has(&self, record: &FlowRecord) -> bool {
        match &record.place {
            Some(settled) => settled.interface == self.interface,
            None => self.points.contains(&record.key.observation_point),
        }
    }
}

/// Exact matches, all of which must hold.
#[derive(Clone, Debug, Default)]
pub struct FlowFilter {
    /// IP protocol number.
    pub protocol: Option<u8>,
    /// An endpoint's address.
    pub address: Option<IpAddr>,
    /// An endpoint's port.
    pub port: Option<u16>,
    /// Connection state.
    pub state: Option<ConntrackState>,
    /// Interface.
    pub place: Option<Place>,
    /// Only flows in the kernel's table (true) or only ended ones (false).
    pub live: Option<bool>,
}

impl FlowFilter {
    /// Whether a flow is wanted.
    #[must_use]
    pub fn matches(&self, record: &FlowRecord) -> bool {
        let key = &record.key;
        let ports = [u16::from_be(key.lower_port), u16::from_be(key.upper_port)];
        self.protocol.is_none_or(|protocol| key.protocol == protocol)
            && self.port.is_none_or(|port| ports.contains(&port))
            && self.state.is_none_or(|state| record.state.name() == state.name())
            && self.place.as_ref().is_none_or(|place| place.has(record))
            && self.live.is_none_or(|live| record.ended.is_none() == live)
            && self.address.is_none_or(|wanted| {
                [key.lower, key.upper].iter().any(|end| address(key, *end) == wanted)
            })
    }
}

/// Where a page ended: the sort value and the id of its last flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cursor {
    /// Value of the sort field.
    pub value: u64,
    /// Breaks ties.
    pub id: FlowId,
}

/// One page.
#[derive(Clone, Debug)]
pub struct FlowPage {
    /// The flows, in order.
    pub flows: Vec<FlowRecord>,
    /// Where the next page starts; absent on the last.
    pub next: Option<Cursor>,
    /// Flows that match, on all pages.
    pub total: usize,
}

impl SortField {
    /// A flow's value of this field; all are non-negative, so one type holds them.
    #[must_use]
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "rates are finite and not negative"
    )]
    pub fn value(self, record: &FlowRecord) -> u64 {
        let (a, b) = (&record.from_originator, &record.from_responder);
        match self {
            Self::LastSeen => record.last_seen_ns,
            Self::FirstSeen => record.first_seen_ns,
            Self::Packets => a.packets + b.packets,
            Self::Bytes => a.bytes + b.bytes,
            Self::Rate => (a.bits_per_second + b.bits_per_second) as u64,
            Self::HandshakeRtt => record.handshake_rtt_ns.unwrap_or(0),
            Self::RttP50 => a.rtt.quantiles_ns[0].max(b.rtt.quantiles_ns[0]),
            Self::RttP99 => a.rtt.quantiles_ns[2].max(b.rtt.quantiles_ns[2]),
            Self::Retransmissions => sent_again(&a.classes) + sent_again(&b.classes),
        }
    }
}

/// Segments of every class that means "sent again".
#[must_use]
pub fn sent_again(counters: &[u32; classes::CLASSES]) -> u64 {
    (0..classes::CLASSES)
        .filter(|bit| classes::RETRANSMITTED & (1 << bit) != 0)
        .map(|bit| u64::from(counters[bit]))
        .sum()
}

/// A sort that no field has.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "flows cannot be sorted by `{given}`; use one of {known}, with `-` in front for greatest first, or leave it out",
    known = names()
)]
pub struct UnknownSort {
    given: String,
}

fn names() -> String {
    SortField::ALL.iter().map(|field| field.name()).collect::<Vec<_>>().join(", ")
}

impl FromStr for SortField {
    type Err = UnknownSort;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        let known = Self::ALL.iter().find(|field| field.name() == name);
        known.copied().ok_or_else(|| UnknownSort { given: name.into() })
    }
}

impl FlowTable {
    /// One page of the flows that match.
    #[must_use]
    pub fn page(&self, query: &FlowQuery) -> FlowPage {
        let mut total = 0;
        let mut keys = Vec::new();
        self.for_each(|record| {
            if !query.filter.matches(record) {
                return;
            }
            total += 1;
            let place = (query.sort.value(record), record.id);
            let further = query.after.is_none_or(|after| {
                let after = (after.value, after.id);
                if query.descending { place < after } else { place > after }
            });
            if further {
                keys.push(place);
            }
        });
        let limit = query.limit.clamp(1, PAGE_MAX);
        let in_order = |a: &(u64, FlowId), b: &(u64, FlowId)| {
            if query.descending { b.cmp(a) } else { a.cmp(b) }
        };
        let more = keys.len() > limit;
        if more {
            keys.select_nth_unstable_by(limit - 1, in_order);
            keys.truncate(limit);
        }
        keys.sort_unstable_by(in_order);
        let next =
            keys.last().filter(|_| more).map(|(value, id)| Cursor { value: *value, id: *id });
        let flows = keys.iter().filter_map(|(_, id)| self.get(*id)).collect();
        FlowPage { flows, next, total }
    }
}

#[cfg(test)]
mod tests {
    use datapath::{
        FlowKey,
        layout::{FlowEntry, HANDSHAKE_MEASURED},
    };
    use proptest::prelude::*;

    use super::*;
    use crate::flow::{FlowIdSource, expiry::Timeouts, table::Seen};

    fn table(flows: u16) -> FlowTable {
        let table = FlowTable::new(FlowIdSource::new(b"test"), 1_000, Timeouts::default());
        for port in 0..flows {
            let key = FlowKey { lower_port: port.to_be(), protocol: 6, ..FlowKey::default() };
            let mut entry = FlowEntry::EMPTY;
            entry.halves[0].bytes = u64::from(port / 3);
            table.observe(Seen { key: &key, entry: &entry, samples: None, now_ns: 0 }, 1);
        }
        table
    }

    /// Few values of each field, so that many flows share them.
    fn flows() -> impl Strategy<Value = Vec<[u8; 6]>> {
        prop::collection::vec(prop::array::uniform6(0..3_u8), 0..60)
    }

    /// A table in which each flow has these values of its sort fields; ids are in no order.
    fn table_of(flows: &[[u8; 6]]) -> FlowTable {
        let table = FlowTable::new(FlowIdSource::new(b"test"), 1_000, Timeouts::default());
        for (port, values) in (0..).zip(flows) {
            let [first, last, packets, bytes, again, trips] = values.map(u32::from);
            let key = FlowKey { lower_port: u16::to_be(port), protocol: 6, ..FlowKey::default() };
            let mut entry = FlowEntry::EMPTY;
            entry.head.first_seen_ns = u64::from(first);
            // Twice, so that there are rates.
            table.observe(Seen { key: &key, entry: &entry, samples: None, now_ns: 0 }, 1);
            entry.head.handshake_rtt_ns = u64::from(trips);
            entry.head.bits = if trips > 0 { HANDSHAKE_MEASURED } else { 0 };
            entry.halves[0].last_seen_ns = u64::from(first + last);
            entry.halves[0].packets = u64::from(packets);
            entry.halves[1].bytes = u64::from(bytes);
            entry.halves[1].classes[0] = again;
            entry.halves[0].rtt_samples = 1;
            entry.halves[0].rtt_buckets[usize::from(values[5])] = 1;
            entry.halves[0].rtt_max_ticks = u32::MAX;
            let now_ns = 1_000_000_000;
            table.observe(Seen { key: &key, entry: &entry, samples: None, now_ns }, 2);
        }
        table
    }

    proptest! {
        #[test]
        fn pages_hold_every_flow_once_and_in_order(
            flows in flows(),
            sort in prop::sample::select(SortField::ALL),
            descending: bool,
            limit in 1..20_usize,
        ) {
            let table = table_of(&flows);
            let mut query = FlowQuery { sort, descending, limit, ..FlowQuery::default() };
            let mut seen = Vec::new();
            loop {
                let page = table.page(&query);
                prop_assert_eq!(page.total, flows.len());
                prop_assert!(page.flows.len() <= limit);
                seen.extend(page.flows.iter().map(|flow| (sort.value(flow), flow.id)));
                let Some(next) = page.next else { break };
                prop_assert!(seen.len() < flows.len(), "a page after the last");
                query.after = Some(next);
            }
            prop_assert_eq!(seen.len(), flows.len());
            let mut sorted = seen.clone();
            sorted.sort_unstable();
            sorted.dedup();
            if descending {
                sorted.reverse();
            }
            prop_assert_eq!(seen, sorted);
        }
    }

    /// What the property above stands on.
    #[test]
    fn the_values_reach_every_sort_field() {
        let table = table_of(&[[0; 6], [2; 6]]);
        for sort in SortField::ALL {
            let query = FlowQuery { sort: *sort, descending: false, ..FlowQuery::default() };
            let page = table.page(&query);
            let [low, high] = [0, 1].map(|index| sort.value(&page.flows[index]));
            assert!(low < high, "{}: {low} and {high}", sort.name());
        }
    }

    #[test]
    fn filters_hold_together() {
        let table = table(10);
        let filter = FlowFilter { port: Some(4), protocol: Some(6), ..FlowFilter::default() };
        let page = table.page(&FlowQuery { filter, ..FlowQuery::default() });
        assert_eq!((page.total, page.flows.len()), (1, 1));
        let filter = FlowFilter { protocol: Some(17), ..FlowFilter::default() };
        assert_eq!(table.page(&FlowQuery { filter, ..FlowQuery::default() }).total, 0);
    }

    #[test]
    fn an_unknown_sort_names_the_known_ones() {
        let error = "speed".parse::<SortField>().unwrap_err().to_string();
        assert!(error.contains("`speed`") && error.contains("rtt.p99_ns"), "{error}");
    }
}
