//! The sequence graph of one side's data, as points for a plot over time: what was sent, sent again, acknowledged and
//! selectively acknowledged, and how far the receiver's window reached. Never has more than [`POINTS_MAX`] of them.

/// Points of one side.
pub const POINTS_MAX: usize = 5_000;

/// What a point is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PointKind {
    /// New data, from start to end.
    Data,
    /// Data that was sent again.
    Retransmission,
    /// Data that was overtaken.
    Reordered,
    /// What is acknowledged, up to the end.
    Acknowledgment,
    /// A block that is selectively acknowledged.
    Selective,
    /// How far the window reaches, up to the end.
    Window,
}

impl PointKind {
    /// Whether there is one for each segment, so that some may be left out.
    const fn is_ordinary(self) -> bool {
        match self {
            Self::Data | Self::Acknowledgment | Self::Window => true,
            Self::Retransmission | Self::Reordered | Self::Selective => false,
        }
    }
}

/// One point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Point {
    /// When, ns of the file's time.
    pub at_ns: u64,
    /// Where it begins.
    pub start: u32,
    /// Where it ends.
    pub end: u32,
    /// What it is.
    pub kind: PointKind,
}

/// Points in order of time. Where there are too many, half of those that are ordinary are left out, again and again;
/// where those were few, half of all.
#[derive(Clone, Debug, Default)]
pub struct Graph {
    points: Vec<Point>,
    /// One in 2^n ordinary points is there.
    halvings: u32,
    /// Ordinary points that came.
    ordinary: u64,
    /// Points of other kinds that were left out.
    left_out: u64,
}

impl Graph {
    pub(super) fn add(&mut self, point: Point) {
        if point.kind.is_ordinary() {
            self.ordinary += 1;
            if self.ordinary & ((1 << self.halvings) - 1) != 0 {
                return;
            }
        }
        if self.points.len() == POINTS_MAX {
            self.halve();
        }
        self.points.push(point);
    }

    fn halve(&mut self) {
        let mut stays = false;
        self.points.retain(|point| {
            stays ^= point.kind.is_ordinary();
            stays || !point.kind.is_ordinary()
        });
        self.halvings = (self.halvings + 1).min(62);
        if self.points.len() > POINTS_MAX / 4 * 3 {
            let before = self.points.len();
            self.points.retain(|point| {
                stays ^= !point.kind.is_ordinary();
                stays || point.kind.is_ordinary()
            });
            self.left_out += (before - self.points.len()) as u64;
        }
    }

    /// Each, in order of time.
    #[must_use]
    pub fn points(&self) -> &[Point] {
        &self.points
    }

    /// One in as many of what was sent, acknowledged and advertised is there.
    #[must_use]
    pub const fn one_in(&self) -> u64 {
        1 << self.halvings
    }

    /// Points of other kinds that were left out.
    #[must_use]
    pub const fn left_out(&self) -> u64 {
        self.left_out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fill(graph: &mut Graph, kind: PointKind, count: u32) {
        (0..count)
            .for_each(|n| graph.add(Point { at_ns: u64::from(n), start: n, end: n + 1, kind }));
    }

    #[test]
    fn what_is_ordinary_makes_room_for_what_is_not() {
        let mut graph = Graph::default();
        fill(&mut graph, PointKind::Retransmission, 100);
        fill(&mut graph, PointKind::Data, 100_000);
        let again = graph.points().iter().filter(|point| point.kind == PointKind::Retransmission);
        assert_eq!((again.count(), graph.left_out()), (100, 0));
        assert!(graph.points().len() <= POINTS_MAX && graph.points().len() > POINTS_MAX / 4);
        assert!(graph.one_in() >= 32);
    }

    #[test]
    fn any_number_of_any_kind_fits() {
        let mut graph = Graph::default();
        fill(&mut graph, PointKind::Selective, 100_000);
        assert!(graph.points().len() <= POINTS_MAX);
        assert_eq!(graph.points().len() as u64 + graph.left_out(), 100_000);
    }
}
