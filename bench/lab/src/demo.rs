//! The demo's traffic: a modest, endless mix of everything the generators can do, over IPv4 and
//! IPv6, until a stop. Never loads a core by more than a quarter.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use serde::Serialize;

use crate::lab::{Family, Lab};
use crate::traffic::bulk::{self, Bulk, Sends};
use crate::traffic::dns::{self, Dns};
use crate::traffic::http::{self, Http, Reuse};
use crate::traffic::ping::{self, Ping};
use crate::traffic::request_response::{self, RequestResponse};
use crate::traffic::udp_stream::{self, UdpStream};
use crate::traffic::{Stop, TrafficError};

/// From a failed run to the next.
const RETRY: Duration = Duration::from_secs(2);
/// Each run of a generator.
const RUN_LIMIT: Duration = Duration::from_secs(120);

/// How each generator fared.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct DemoReport {
    /// By the generator's name.
    pub generators: BTreeMap<&'static str, Runs>,
}

/// The runs of one generator.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Runs {
    /// Runs that did all they should.
    pub completed: u64,
    /// Runs that failed, other than by the stop.
    pub failed: u64,
    /// Why the last of them failed.
    pub last_error: Option<String>,
}

/// The demo with its servers listening.
#[derive(Debug)]
pub struct Demo<'a> {
    lab: &'a Lab,
    http_v4: http::Server,
    http_v6: http::Server,
    _dns: [dns::Server; 2],
}

/// One thing that a generator does again and again.
type Run<'a> = Box<dyn Fn(&Stop) -> Result<(), TrafficError> + Send + 'a>;

impl<'a> Demo<'a> {
    /// Starts the servers.
    pub fn start(lab: &'a Lab) -> Result<Self, TrafficError> {
        Ok(Self {
            lab,
            http_v4: http::Server::start(lab, Family::V4, 80)?,
            http_v6: http::Server::start(lab, Family::V6, 80)?,
            _dns: [dns::Server::start(lab, Family::V4)?, dns::Server::start(lab, Family::V6)?],
        })
    }

    /// Generates traffic until the stop.
    #[must_use]
    pub fn run(&self, stop: &Stop) -> DemoReport {
        let report = Mutex::new(DemoReport::default());
        thread::scope(|scope| {
            for (name, pause, run) in self.generators() {
                let report = &report;
                scope.spawn(move || repeat(name, pause, &run, stop, report));
            }
        });
        report.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    /// Every generator: its name, its pause between runs, and what it does.
    fn generators(&self) -> Vec<(&'static str, Duration, Run<'_>)> {
        let ms = Duration::from_millis;
        vec![
            ("http, kept", ms(800), self.http(Family::V4, Reuse::KeepAlive, 12_000, ms(150))),
            ("http, closed", ms(500), self.http(Family::V4, Reuse::Close, 3_000, ms(250))),
            ("http, kept, v6", ms(1100), self.http(Family::V6, Reuse::KeepAlive, 25_000, ms(350))),
            ("download", ms(3000), self.bulk(Family::V4, Sends::Server, 1_500_000, 5001)),
            ("upload, v6", ms(4000), self.bulk(Family::V6, Sends::Client, 600_000, 5002)),
            ("request-response", ms(200), self.request_response(Family::V4, 300, ms(50))),
            ("request-response, v6", ms(300), self.request_response(Family::V6, 150, ms(100))),
            ("dns", ms(300), self.dns(Family::V4)),
            ("dns, v6", ms(700), self.dns(Family::V6)),
            ("udp stream", ms(1000), self.udp_stream()),
            ("ping", ms(500), self.ping(Family::V4)),
            ("ping, v6", ms(500), self.ping(Family::V6)),
        ]
    }

    fn http(
        &self,
        family: Family,
        reuse: Reuse,
        response_bytes: u64,
        interval: Duration,
    ) -> Run<'_> {
        let limit = RUN_LIMIT;
        let plan = Http {
            family,
            requests: 12,
            response_bytes,
            reuse,
            interval,
            limit,
            ..Http::default()
        };
        let server = match family {
            Family::V4 => self.http_v4.address(),
            Family::V6 => self.http_v6.address(),
        };
        Box::new(move |stop| http::fetch_until(self.lab, &plan, server, stop).map(drop))
    }

    fn bulk(&self, family: Family, sends: Sends, bytes: u64, port: u16) -> Run<'_> {
        // Loss-based: its rate follows from loss and delay, so that it leaves room for the others.
        let congestion = Some("cubic".to_owned());
        let plan = Bulk { family, bytes, sends, congestion, port, limit: RUN_LIMIT };
        Box::new(move |stop| bulk::run_until(self.lab, &plan, stop).map(drop))
    }

    fn request_response(&self, family: Family, rounds: u32, interval: Duration) -> Run<'_> {
        let limit = RUN_LIMIT;
        let plan =
            RequestResponse { family, rounds, interval, limit, ..RequestResponse::default() };
        Box::new(move |stop| request_response::run_until(self.lab, &plan, stop).map(drop))
    }

    fn dns(&self, family: Family) -> Run<'_> {
        let interval = Duration::from_millis(300);
        let plan = Dns { family, interval, limit: RUN_LIMIT, ..Dns::default() };
        Box::new(move |stop| dns::ask_until(self.lab, &plan, stop).map(drop))
    }

    fn udp_stream(&self) -> Run<'_> {
        let interval = Duration::from_millis(20);
        let plan = UdpStream { datagrams: 500, interval, limit: RUN_LIMIT, ..UdpStream::default() };
        Box::new(move |stop| udp_stream::run_until(self.lab, &plan, stop).map(drop))
    }

    fn ping(&self, family: Family) -> Run<'_> {
        let interval = Duration::from_millis(500);
        let plan = Ping { family, count: 20, interval, limit: RUN_LIMIT };
        Box::new(move |stop| ping::run_until(self.lab, &plan, stop).map(drop))
    }
}

/// Runs one generator again and again until the stop.
fn repeat(
    name: &'static str,
    pause: Duration,
    run: &Run<'_>,
    stop: &Stop,
    report: &Mutex<DemoReport>,
) {
    loop {
        let outcome = run(stop);
        let mut all = report.lock().unwrap_or_else(PoisonError::into_inner);
        let runs = all.generators.entry(name).or_default();
        let wait = match outcome {
            Ok(()) => {
                runs.completed += 1;
                pause
            }
            Err(error) if error.is_stop() => return,
            Err(error) => {
                runs.failed += 1;
                runs.last_error = Some(error.to_string());
                RETRY
            }
        };
        drop(all);
        if stop.wait(wait) {
            return;
        }
    }
}
