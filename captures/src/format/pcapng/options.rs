//! Option lists of pcapng blocks, written in place.
//! Never writes an option that its 16-bit length cannot hold, or text that a terminal obeys.

use super::pad;

/// Longest value of an option; longer text is cut at a character.
pub const OPTION_MAX: usize = 65_535;

/// Appends options to a block's body.
#[derive(Debug)]
pub(in crate::format) struct Options<'a> {
    out: &'a mut Vec<u8>,
    start: usize,
}

impl<'a> Options<'a> {
    pub(in crate::format) fn new(out: &'a mut Vec<u8>) -> Self {
        let start = out.len();
        Self { out, start }
    }

    /// A value of at most [`OPTION_MAX`] bytes; what is longer is cut there.
    pub(super) fn bytes(&mut self, code: u16, value: &[u8]) {
        let value = &value[..value.len().min(OPTION_MAX)];
        let len = u16::try_from(value.len()).unwrap_or(u16::MAX);
        self.out.extend_from_slice(&code.to_le_bytes());
        self.out.extend_from_slice(&len.to_le_bytes());
        self.out.extend_from_slice(value);
        pad(self.out, value.len());
    }

    /// A 64-bit number, if there is one.
    pub(super) fn number(&mut self, code: u16, value: Option<u64>) {
        if let Some(value) = value {
            self.bytes(code, &value.to_le_bytes());
        }
    }

    /// A time, if there is one: the high word first.
    pub(super) fn time(&mut self, code: u16, time_ns: Option<u64>) {
        self.number(code, time_ns.map(|time_ns| time_ns.rotate_left(32)));
    }

    /// Text, if there is some.
    pub(in crate::format) fn text(&mut self, code: u16, text: Option<&str>) {
        if let Some(text) = text {
            self.bytes(code, plain(text, OPTION_MAX).as_bytes());
        }
    }

    /// A capture filter in tcpdump's language: its kind, 0, then the text.
    pub(super) fn filter(&mut self, code: u16, expression: Option<&str>) {
        if let Some(expression) = expression {
            let value = format!("\0{}", plain(expression, OPTION_MAX - 1));
            self.bytes(code, value.as_bytes());
        }
    }

    /// Ends the list, if there is one.
    pub(in crate::format) fn end(self) {
        if self.out.len() > self.start {
            self.out.extend_from_slice(&[0; 4]);
        }
    }
}

/// `text` with control characters written as Rust escapes (`\n`, `\u{1b}`), cut to `max` bytes
/// between two characters.
///
/// Comments quote what came over the wire, and tshark prints them.
fn plain(text: &str, max: usize) -> String {
    let mut plain = String::with_capacity(text.len().min(max));
    for character in text.chars() {
        let before = plain.len();
        if character.is_control() {
            plain.extend(character.escape_default());
        } else {
            plain.push(character);
        }
        if plain.len() > max {
            plain.truncate(before);
            break;
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_escaped_and_other_text_is_not() {
        assert_eq!(plain("a\nb\u{1b}[2J\0 é\\n", OPTION_MAX), "a\\nb\\u{1b}[2J\\u{0} é\\n");
    }

    #[test]
    fn long_text_is_cut_between_characters_and_never_inside_an_escape() {
        let text = "é".repeat(40_000);
        let cut = plain(&text, OPTION_MAX);
        assert_eq!(cut.len(), 65_534);
        assert!(text.starts_with(&cut));
        assert_eq!(plain("abc\n", 4), "abc");
    }

    #[test]
    fn an_empty_list_has_no_end() {
        let mut out = Vec::new();
        Options::new(&mut out).end();
        assert!(out.is_empty());
        let mut options = Options::new(&mut out);
        options.bytes(9, &[9]);
        options.end();
        assert_eq!(out, [9, 0, 1, 0, 9, 0, 0, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn times_have_their_high_word_first() {
        let mut out = Vec::new();
        Options::new(&mut out).time(2, Some(0x0102_0304_0506_0708));
        assert_eq!(out, [2, 0, 8, 0, 4, 3, 2, 1, 8, 7, 6, 5]);
    }
}
