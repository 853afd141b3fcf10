//! Asks linnet over and over while something else goes on, and keeps how long each answer took. Ends when told.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use super::linnet::Linnet;

/// How long the answers to one path took.
#[derive(Debug, Default)]
pub(crate) struct Answers {
    pub(crate) count: u32,
    pub(crate) worst: Duration,
    total: Duration,
}

impl Answers {
    pub(crate) fn mean(&self) -> Duration {
        self.total / self.count.max(1)
    }
}

/// Asks for each path in turn until `done`; every answer has to be a 200.
pub(crate) fn poll<'a>(
    linnet: &Linnet,
    paths: &[&'a str],
    done: &AtomicBool,
) -> BTreeMap<&'a str, Answers> {
    let mut answers: BTreeMap<&str, Answers> = BTreeMap::new();
    for path in paths.iter().cycle() {
        if done.load(Ordering::Relaxed) && answers.len() == paths.len() {
            break;
        }
        let mut curl = linnet.curl(path);
        let output = curl.args(["-o", "/dev/null", "-w", "%{http_code} %{time_total}"]).output();
        let text = String::from_utf8(output.unwrap().stdout).unwrap();
        let (status, seconds) = text.split_once(' ').unwrap();
        assert_eq!(status, "200", "{path}");
        let took = Duration::from_secs_f64(seconds.trim().parse().unwrap());
        let answers = answers.entry(path).or_default();
        answers.count += 1;
        answers.total += took;
        answers.worst = answers.worst.max(took);
    }
    answers
}
