//! Figures and foreign text for a terminal. Never lets a control character through.

use std::borrow::Cow;

/// Foreign text with everything that could move a cursor or change its direction made visible.
#[must_use]
pub fn printable(text: &str) -> Cow<'_, str> {
    let bad = |c: char| {
        c.is_control()
            || matches!(c, '\u{61c}' | '\u{2028}'..='\u{2029}' | '\u{200e}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    if text.contains(bad) {
        let escape = |c: char| if bad(c) { c.escape_unicode().to_string() } else { c.to_string() };
        Cow::Owned(text.chars().map(escape).collect())
    } else {
        Cow::Borrowed(text)
    }
}

/// A time span with the unit that fits: `850 ns`, `1.25 ms`, `3.40 s`.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
pub fn span(ns: u64) -> String {
    match ns {
        0..1_000 => format!("{ns} ns"),
        1_000..1_000_000 => format!("{:.3} µs", ns as f64 / 1e3).replace(".000", ""),
        1_000_000..1_000_000_000 => format!("{:.2} ms", ns as f64 / 1e6),
        _ => format!("{:.2} s", ns as f64 / 1e9),
    }
}

/// How long ago, roughly: `12 s`, `5 min`, `3 h`, `2 d`.
#[must_use]
pub fn age(ns: u64) -> String {
    match ns / 1_000_000_000 {
        s @ 0..120 => format!("{s} s"),
        s @ 120..7_200 => format!("{} min", s / 60),
        s @ 7_200..172_800 => format!("{} h", s / 3_600),
        s => format!("{} d", s / 86_400),
    }
}

/// Bytes with a decimal prefix: `1.5 MB`.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
pub fn si_bytes(bytes: u64) -> String {
    si(bytes as f64, "B")
}

/// Bits per second with a decimal prefix: `20.1 Mbit/s`.
#[must_use]
pub fn si_bits(bits_per_second: f64) -> String {
    si(bits_per_second, "bit/s")
}

fn si(value: f64, unit: &str) -> String {
    let (scaled, prefix) = match value {
        v if v < 1e3 => return format!("{v:.0} {unit}"),
        v if v < 1e6 => (v / 1e3, "k"),
        v if v < 1e9 => (v / 1e6, "M"),
        v if v < 1e12 => (v / 1e9, "G"),
        v => (v / 1e12, "T"),
    };
    format!("{scaled:.1} {prefix}{unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_become_visible() {
        assert_eq!(printable("eth0"), "eth0");
        assert_eq!(printable("a\u{1b}[2Jb\u{202e}"), "a\\u{1b}[2Jb\\u{202e}");
    }

    #[test]
    fn figures_have_units() {
        assert_eq!(span(850), "850 ns");
        assert_eq!(span(20_250_000), "20.25 ms");
        assert_eq!(age(119_999_999_999), "119 s");
        assert_eq!(age(7_199_000_000_000), "119 min");
        assert_eq!(si_bytes(1_500_000), "1.5 MB");
        assert_eq!(si_bits(20_100_000.0), "20.1 Mbit/s");
    }
}
