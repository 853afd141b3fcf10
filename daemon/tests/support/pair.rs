//! One TCP connection between a lab's two ends, both in the test's hands: it is quiet whenever the test is. Never
//! waits without a bound.

use std::{
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use lab::{Family, Lab};

/// Longest wait for the other end; the lab's losses are repaired in less.
const ANSWER_MAX: Duration = Duration::from_secs(20);

#[derive(Debug)]
pub(crate) struct Pair {
    pub(crate) client: TcpStream,
    pub(crate) server: TcpStream,
}

impl Pair {
    pub(crate) fn open(lab: &Lab, port: u16) -> Self {
        Self::open_over(lab, Family::V4, port)
    }

    pub(crate) fn open_over(lab: &Lab, family: Family, port: u16) -> Self {
        let [pair] = <[Self; 1]>::try_from(Self::many_to(lab, family, port, 1)).unwrap();
        pair
    }

    /// So many connections to one port, in order.
    pub(crate) fn many(lab: &Lab, port: u16, count: usize) -> Vec<Self> {
        Self::many_to(lab, Family::V4, port, count)
    }

    fn many_to(lab: &Lab, family: Family, port: u16, count: usize) -> Vec<Self> {
        let at = lab.server_socket(family, port);
        let listener = lab.server().run(|| TcpListener::bind(at)).unwrap().unwrap();
        let connect = || {
            let client = TcpStream::connect_timeout(&at, ANSWER_MAX).unwrap();
            Self::of(client, listener.accept().unwrap().0)
        };
        lab.client().run(|| (0..count).map(|_| connect()).collect()).unwrap()
    }

    fn of(client: TcpStream, server: TcpStream) -> Self {
        for end in [&client, &server] {
            end.set_nodelay(true).unwrap();
            end.set_read_timeout(Some(ANSWER_MAX)).unwrap();
            end.set_write_timeout(Some(ANSWER_MAX)).unwrap();
        }
        Self { client, server }
    }

    /// Requests of one segment, each answered by `answer_bytes`.
    pub(crate) fn exchange(&mut self, rounds: usize, answer_bytes: usize) {
        let mut received = vec![0; answer_bytes];
        for round in 0..rounds {
            let request = [u8::try_from(round % 251).unwrap(); 100];
            self.client.write_all(&request).unwrap();
            self.server.read_exact(&mut [0; 100]).unwrap();
            self.server.write_all(&vec![request[0] ^ 0xff; answer_bytes]).unwrap();
            self.client.read_exact(&mut received).unwrap();
        }
    }

    /// Does `work` while connections exchange so many rounds again and again, with a pause between.
    pub(crate) fn busy_during(
        pairs: &mut [Self],
        rounds: usize,
        pause: Duration,
        work: impl FnOnce(),
    ) {
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    pairs.iter_mut().for_each(|pair| pair.exchange(rounds, 200));
                    thread::sleep(pause);
                }
            });
            // Or else a failure would wait for the traffic, which does not end.
            let done = catch_unwind(AssertUnwindSafe(work));
            stop.store(true, Ordering::Relaxed);
            if let Err(panic) = done {
                resume_unwind(panic);
            }
        });
    }

    /// The client's port, which tells the connection apart.
    pub(crate) fn client_port(&self) -> u16 {
        self.client.local_addr().unwrap().port()
    }
}
