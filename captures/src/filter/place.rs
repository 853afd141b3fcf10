//! Where in an expression the mistake is: libpcap says what is wrong, but not where.
//! Never compiles a whole expression, and never more than a dozen parts of one.
//!
//! The way: a number that no 32 bits hold is put behind the first words. libpcap reads from left to right, so that it
//! complains about that number where the words before it can stand, and about the words where they cannot. The first
//! word with which the complaint changes is the one at fault. Nothing of this ever gets as far as libpcap's optimiser.

use super::tokens::{Token, tokens};

/// What is put behind; libpcap names it when it gets there (1.10: "number 99999999999 overflows 32 bits").
const PROBE: &str = "99999999999";

/// The place of a mistake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// Bytes from the expression's start.
    pub(super) position: usize,
    /// The word or sign there; empty at the expression's end.
    pub(super) token: String,
}

/// The place of what libpcap complains about with `message`. `complaint` is its message about a shorter text.
pub(super) fn find(
    expression: &str,
    message: &str,
    complaint: impl Fn(&str) -> Option<String>,
) -> Option<Place> {
    if message.contains("rejects all packets") {
        // Each word may be right, and no packet can be all of it.
        return None;
    }
    let tokens = tokens(expression);
    let stands = |count: usize| {
        let end = count.checked_sub(1).map_or(0, |last| tokens[last].end());
        let text = format!("{} {PROBE}", &expression[..end]);
        complaint(&text).is_some_and(|message| message.contains(PROBE))
    };
    if expression.contains(PROBE) || !stands(0) {
        return None;
    }
    let (mut good, mut bad) = (0, tokens.len() + 1);
    while bad - good > 1 {
        let middle = good.midpoint(bad);
        if stands(middle) {
            good = middle;
        } else {
            bad = middle;
        }
    }
    let read = &tokens[..bad.min(tokens.len())];
    if let Some(named) = named(read, message) {
        return Some(place(named));
    }
    let at_end = Place { position: expression.trim_end().len(), token: String::new() };
    Some(tokens.get(good).map_or(at_end, place))
}

fn place(token: &Token<'_>) -> Place {
    Place { position: token.at, token: token.text.to_owned() }
}

/// The last of the words read that the message quotes.
fn named<'t, 'e>(read: &'t [Token<'e>], message: &str) -> Option<&'t Token<'e>> {
    let mut quoted = message.split(['\'', '"']).skip(1).step_by(2);
    let quoted = quoted.next()?;
    read.iter()
        .rev()
        .find(|token| token.word() == quoted || quoted.starts_with(&format!("{}/", token.text)))
}
