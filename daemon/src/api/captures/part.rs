//! Which part of a capture's file a request wants: validators and ranges (RFC 9110, sections 8.8, 13 and 14). Knows
//! nothing of files.

use axum::http::{HeaderMap, header};

use crate::capture::{CaptureState, CaptureView};

/// What a request wants of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    /// All of it.
    Whole,
    /// From the first to the last byte, both included and there.
    Part { first: u64, last: u64 },
    /// Nothing: the client has it already.
    Unchanged,
    /// A part that is not there.
    Outside,
}

/// A finished file stays as it is, byte for byte; a growing one is only weakly the same.
pub(super) fn etag(view: &CaptureView) -> String {
    let weak = match view.state {
        CaptureState::Running => "W/",
        CaptureState::Finished => "",
    };
    format!("{weak}\"{}-{}\"", view.id, view.bytes)
}

/// What a request wants of the file with this tag and length.
pub(super) fn wanted(headers: &HeaderMap, etag: &str, length: u64) -> Wanted {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    if let Some(known) = text(header::IF_NONE_MATCH)
        && (known.trim() == "*" || known.split(',').any(|tag| opaque(tag) == opaque(etag)))
    {
        return Wanted::Unchanged;
    }
    // Weak tags are never the same here (13.1.5), and a date cannot be: there is no Last-Modified.
    let same = |tag: &str| tag.trim() == etag && !etag.starts_with("W/");
    match text(header::RANGE) {
        Some(range) if text(header::IF_RANGE).is_none_or(same) => part(range, length),
        _ => Wanted::Whole,
    }
}

/// The tag without its mark of weakness.
fn opaque(tag: &str) -> &str {
    let tag = tag.trim();
    tag.strip_prefix("W/").unwrap_or(tag)
}

/// One range. Several, other units, and what is no range at all are passed over, as 14.2 allows.
fn part(range: &str, length: u64) -> Wanted {
    let Some((unit, range)) = range.split_once('=') else { return Wanted::Whole };
    let Some((first, last)) = range.trim().split_once('-') else { return Wanted::Whole };
    if !unit.trim().eq_ignore_ascii_case("bytes") {
        return Wanted::Whole;
    }
    let end = length.saturating_sub(1);
    let (first, last) = match (number(first), number(last)) {
        (Some(first), Some(last)) if first <= last => (first, last.min(end)),
        (Some(first), None) if last.is_empty() => (first, end),
        // The last so many bytes.
        (None, Some(count)) if first.is_empty() => {
            (if count == 0 { length } else { length.saturating_sub(count) }, end)
        }
        _ => return Wanted::Whole,
    };
    if first < length { Wanted::Part { first, last } } else { Wanted::Outside }
}

/// Digits and nothing else; as many as there may be.
fn number(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    const STRONG: &str = "\"a-100\"";

    fn ask(pairs: &[(header::HeaderName, &str)], etag: &str) -> Wanted {
        let headers = pairs.iter().map(|(name, value)| (name.clone(), value.parse().unwrap()));
        wanted(&headers.collect(), etag, 100)
    }

    #[test]
    fn one_range_is_a_part() {
        for (range, first, last) in [
            ("bytes=0-0", 0, 0),
            ("bytes=10-19", 10, 19),
            ("bytes=90-", 90, 99),
            ("bytes=90-1000", 90, 99),
            ("bytes=-10", 90, 99),
            ("bytes=-1000", 0, 99),
            ("Bytes = 1-2", 1, 2),
            ("bytes=5-99999999999999999999999", 5, 99),
        ] {
            assert_eq!(
                ask(&[(header::RANGE, range)], STRONG),
                Wanted::Part { first, last },
                "{range}"
            );
        }
    }

    #[test]
    fn a_range_behind_the_end_is_outside() {
        for range in ["bytes=100-", "bytes=100-200", "bytes=-0", "bytes=99999999999999999999999-"] {
            assert_eq!(ask(&[(header::RANGE, range)], STRONG), Wanted::Outside, "{range}");
        }
        let headers = [(header::RANGE, "bytes=0-".parse().unwrap())].into_iter().collect();
        assert_eq!(wanted(&headers, STRONG, 0), Wanted::Outside, "nothing is there yet");
    }

    #[test]
    fn what_is_no_single_range_of_bytes_is_passed_over() {
        for range in [
            "bytes=0-1,5-6",
            "bytes=2-1",
            "bytes=",
            "bytes=-",
            "bytes",
            "lines=0-1",
            "bytes=a-b",
            "bytes=+1-2",
        ] {
            assert_eq!(ask(&[(header::RANGE, range)], STRONG), Wanted::Whole, "{range}");
        }
    }

    #[test]
    fn a_part_is_only_of_the_file_that_the_client_knows() {
        let range = (header::RANGE, "bytes=0-9");
        let part = Wanted::Part { first: 0, last: 9 };
        let if_range = |tag| ask(&[range.clone(), (header::IF_RANGE, tag)], STRONG);
        assert_eq!(if_range(STRONG), part);
        assert_eq!(if_range("\"a-99\""), Wanted::Whole);
        assert_eq!(if_range("Wed, 21 Oct 2015 07:28:00 GMT"), Wanted::Whole);
        let weak = "W/\"a-100\"";
        assert_eq!(ask(&[range.clone(), (header::IF_RANGE, weak)], weak), Wanted::Whole);
        assert_eq!(ask(&[range], weak), part, "a part of a growing file may be had");
    }

    #[test]
    fn who_has_the_file_gets_nothing() {
        let known = |tag| ask(&[(header::IF_NONE_MATCH, tag)], STRONG);
        assert_eq!(known(STRONG), Wanted::Unchanged);
        assert_eq!(known("\"b-1\", W/\"a-100\""), Wanted::Unchanged);
        assert_eq!(known("*"), Wanted::Unchanged);
        assert_eq!(known("\"a-99\""), Wanted::Whole);
    }
}
