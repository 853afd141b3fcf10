//! Rust source as the rules see it: comments and literals blanked, words found whole. Must never be mistaken
//! for a parser: it knows just enough of the language to know what is code.

/// The source with the contents of comments, strings and character literals replaced by spaces. Lines stay
/// where they are.
pub(super) fn code_of(source: &str) -> String {
    let mut scanner = Scanner { rest: source, code: String::with_capacity(source.len()) };
    while let Some(next) = scanner.rest.chars().next() {
        scanner.step(next);
    }
    scanner.code
}

struct Scanner<'source> {
    rest: &'source str,
    code: String,
}

impl Scanner<'_> {
    fn step(&mut self, next: char) {
        let in_word = self.code.chars().next_back().is_some_and(is_word);
        if self.rest.starts_with("//") {
            let end = self.rest.find('\n').unwrap_or(self.rest.len());
            self.blank(end);
        } else if self.rest.starts_with("/*") {
            self.blank(block_comment(self.rest));
        } else if let Some(end) = raw_string(self.rest).filter(|_| !in_word) {
            self.blank(end);
        } else if next == '"' {
            self.blank(quoted(self.rest, '"'));
        } else if next == '\'' {
            match character(self.rest) {
                Some(end) => self.blank(end),
                None => self.keep(next),
            }
        } else {
            self.keep(next);
        }
    }

    fn keep(&mut self, next: char) {
        self.code.push(next);
        self.rest = &self.rest[next.len_utf8()..];
    }

    fn blank(&mut self, bytes: usize) {
        let (gone, rest) = self.rest.split_at(bytes);
        self.code.extend(gone.chars().map(|c| if c == '\n' { '\n' } else { ' ' }));
        self.rest = rest;
    }
}

/// The length of a block comment; they nest.
fn block_comment(text: &str) -> usize {
    let mut depth = 0_usize;
    let mut at = 0;
    while at < text.len() {
        let rest = &text.as_bytes()[at..];
        if rest.starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if rest.starts_with(b"*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    text.len()
}

/// The length of a raw string at the start of `text`: `r"..."`, `br#"..."#`, `cr"..."`.
fn raw_string(text: &str) -> Option<usize> {
    let prefix = ["r", "br", "cr"].iter().find(|prefix| {
        text.strip_prefix(**prefix).is_some_and(|rest| rest.starts_with(['"', '#']))
    })?;
    let rest = &text[prefix.len()..];
    let hashes = rest.len() - rest.trim_start_matches('#').len();
    let body = rest[hashes..].strip_prefix('"')?;
    let close = format!("\"{}", "#".repeat(hashes));
    let open = prefix.len() + hashes + 1;
    Some(body.find(&close).map_or(text.len(), |end| open + end + close.len()))
}

/// The length of a literal that ends with an unescaped `quote`.
fn quoted(text: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            c if c == quote => return at + c.len_utf8(),
            _ => {}
        }
    }
    text.len()
}

/// The length of a character literal, or `None` for a lifetime.
fn character(text: &str) -> Option<usize> {
    let mut chars = text.chars().skip(1);
    let first = chars.next()?;
    if first == '\\' {
        return Some(quoted(text, '\''));
    }
    (chars.next()? == '\'').then(|| first.len_utf8() + 2)
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Where `phrase` occurs without being part of a longer word at either end.
pub(super) fn places(line: &str, phrase: &str) -> impl Iterator<Item = usize> {
    let open = phrase.chars().next().is_some_and(is_word);
    let close = phrase.chars().next_back().is_some_and(is_word);
    line.match_indices(phrase).map(|(at, _)| at).filter(move |at| {
        let before = line[..*at].chars().next_back().is_some_and(is_word);
        let after = line[at + phrase.len()..].chars().next().is_some_and(is_word);
        !(open && before || close && after)
    })
}

pub(super) fn has_word(line: &str, phrase: &str) -> bool {
    places(line, phrase).next().is_some()
}

/// Whether a line of code names the crate: `name::...`, `use name...` or `extern crate name`, and not a
/// module of that name inside another path.
pub(super) fn names_crate(line: &str, name: &str) -> bool {
    places(line, name).any(|at| {
        let before = line[..at].trim_end();
        let after = line[at + name.len()..].trim_start();
        let inner = before.ends_with("::") && before.len() > 2;
        let imported = ["use", "crate"].iter().any(|word| {
            before
                .strip_suffix(word)
                .is_some_and(|rest| !rest.chars().next_back().is_some_and(is_word))
        });
        !inner && (after.starts_with("::") || imported)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_literals_are_no_code() {
        let source = "a(); // axum::x\n/* b /* c */ tokio */ d(\"aya::e\\\"\", r#\"f\" g\"#, 'h', b'\\'');\n";

        let code = code_of(source);

        for gone in ["axum", "tokio", "aya", "f\"", "g", "'h'"] {
            assert!(!code.contains(gone), "{gone} in {code}");
        }
        assert!(code.starts_with("a(); "));
        assert!(code.contains(" d("));
        assert_eq!(code.lines().count(), 2);
    }

    #[test]
    fn lifetimes_are_not_taken_for_characters() {
        let code = code_of("fn f<'a>(x: &'a str) -> &'static str { tokio::g(x) }");

        assert!(code.contains("tokio::g"), "{code}");
    }

    #[test]
    fn a_string_over_several_lines_keeps_the_line_numbers() {
        let code = code_of("let a = \"one\ntwo\";\nb();\n");

        assert_eq!(code.lines().nth(2), Some("b();"));
    }

    #[test]
    fn an_unclosed_literal_ends_with_the_file() {
        assert_eq!(code_of("a \"b").trim_end(), "a");
        assert_eq!(code_of("a /* b").trim_end(), "a");
        assert_eq!(code_of("a r#\"b").trim_end(), "a");
    }

    #[test]
    fn a_crate_is_named_by_a_path_or_an_import() {
        for line in
            ["use aya::Ebpf;", "aya::maps::f()", "use aya;", "::aya::f()", "use {aya::Ebpf};"]
        {
            assert!(names_crate(line, "aya"), "{line}");
        }
        for line in
            ["aya_obj::f()", "crate::aya::f()", "let aya = 1;", "himalaya::f()", "because aya"]
        {
            assert!(!names_crate(line, "aya"), "{line}");
        }
    }
}
