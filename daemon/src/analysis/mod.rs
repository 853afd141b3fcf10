//! What connections did, from their segments and the verdicts on them: how long acknowledgments and answers took, what was
//! in flight, when a side stood still and what it waited for. Pure: segments and time in, findings out; no clock, no I/O.
//!
//! An [`Analyzer`] is fed with what a replay classified of each frame, and has a [`Connection`] for each flow, by
//! [`order`](datapath::replay::ReplayFlow::order). Work for a segment does not grow with what came before, and everything
//! that is kept has a bound named `*_MAX`.

pub mod connection;
pub mod flight;
pub mod graph;
pub mod handshake;
pub mod mark;
pub mod pace;
pub mod responses;
pub mod samples;
pub mod side;
pub mod spin;
pub mod timeouts;
mod timestamps;
pub mod view;
pub mod window;

use datapath::replay::Classified;

pub use connection::Connection;
pub use mark::{Kept, Mark, Occurrences, Span};
pub use samples::Samples;
pub use side::Side;

/// Connections that are analyzed; segments of further ones are counted.
pub const CONNECTIONS_MAX: usize = 1 << 18;

/// All connections of a file.
#[derive(Debug, Default)]
pub struct Analyzer {
    /// By order of their flow, which other protocols have a part in.
    connections: Vec<Option<Box<Connection>>>,
    count: usize,
    is_drawn: bool,
    not_analyzed: u64,
}

impl Analyzer {
    /// One that draws the sequence graph of each connection.
    #[must_use]
    pub fn with_graphs() -> Self {
        Self { is_drawn: true, ..Self::default() }
    }

    /// Takes the segments of frame number `frame` into account.
    #[inline]
    pub fn frame(&mut self, frame: u64, classified: &[Classified]) {
        for one in classified {
            match self.connection_of(one.flow) {
                Some(connection) => connection.segment(one, frame),
                None => self.not_analyzed += 1,
            }
        }
    }

    #[inline]
    fn connection_of(&mut self, order: u64) -> Option<&mut Connection> {
        let index = usize::try_from(order).ok()?;
        if self.connections.get(index).is_none_or(Option::is_none) {
            if self.count == CONNECTIONS_MAX {
                return None;
            }
            self.count += 1;
            if self.connections.len() <= index {
                self.connections.resize_with(index + 1, || None);
            }
            let connection =
                if self.is_drawn { Connection::drawn() } else { Connection::default() };
            self.connections[index] = Some(Box::new(connection));
        }
        self.connections[index].as_deref_mut()
    }

    /// Nothing more comes.
    pub fn finish(&mut self) {
        self.connections.iter_mut().flatten().for_each(|connection| connection.finish());
    }

    /// The connection of a flow.
    #[must_use]
    pub fn connection(&self, order: u64) -> Option<&Connection> {
        self.connections.get(usize::try_from(order).ok()?)?.as_deref()
    }

    /// Takes out the connection of a flow.
    pub fn take(&mut self, order: u64) -> Option<Box<Connection>> {
        self.connections.get_mut(usize::try_from(order).ok()?)?.take()
    }

    /// Segments of connections beyond [`CONNECTIONS_MAX`].
    #[must_use]
    pub const fn not_analyzed(&self) -> u64 {
        self.not_analyzed
    }
}
