//! The words and signs of a filter expression, with their places, split as libpcap's scanner splits them.
//! Never says what they mean.

/// One word, number or sign.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Token<'a> {
    /// Where it begins, in bytes.
    pub(super) at: usize,
    /// As it is written.
    pub(super) text: &'a str,
}

impl Token<'_> {
    /// Where it ends, in bytes.
    pub(super) fn end(self) -> usize {
        self.at + self.text.len()
    }

    /// The word without the backslash that keeps it from being a keyword.
    pub(super) fn word(&self) -> &str {
        self.text.strip_prefix('\\').unwrap_or(self.text)
    }

    /// Its value, where it is a number in C's notation.
    pub(super) fn number(self) -> Option<u32> {
        if let Some(hex) = self.text.strip_prefix("0x").or_else(|| self.text.strip_prefix("0X")) {
            return u32::from_str_radix(hex, 16).ok();
        }
        let octal = self.text.len() > 1 && self.text.starts_with('0');
        u32::from_str_radix(self.text, if octal { 8 } else { 10 }).ok()
    }
}

/// Signs of two characters.
const PAIRS: [&str; 8] = ["&&", "||", ">=", "<=", "==", "!=", "<<", ">>"];

/// All of an expression, from left to right.
pub(super) fn tokens(expression: &str) -> Vec<Token<'_>> {
    let mut tokens = Vec::new();
    let mut brackets = 0_usize;
    let mut at = 0;
    while let Some(first) = expression[at..].chars().next() {
        if first.is_ascii_whitespace() {
            at += 1;
            continue;
        }
        let text = &expression[at..at + length(&expression[at..], first, brackets > 0)];
        match first {
            '[' => brackets += 1,
            ']' => brackets = brackets.saturating_sub(1),
            _ => {}
        }
        tokens.push(Token { at, text });
        at += text.len();
    }
    tokens
}

/// Bytes of the token that `rest` begins with. Between brackets a colon stands between an offset and a size; elsewhere
/// it is part of an address.
fn length(rest: &str, first: char, in_brackets: bool) -> usize {
    if first == '\\' {
        return rest.find([' ', '!', '(', ')', '\n', '\t']).unwrap_or(rest.len());
    }
    if first.is_ascii_alphanumeric() || (!in_brackets && rest.starts_with("::")) {
        let belongs = |one: char| {
            one.is_ascii_alphanumeric()
                || matches!(one, '-' | '_' | '.')
                || (one == ':' && !in_brackets)
        };
        let run = &rest[..rest.find(|one| !belongs(one)).unwrap_or(rest.len())];
        return run.trim_end_matches(['-', '_']).len();
    }
    let pair = PAIRS.iter().any(|pair| rest.starts_with(pair));
    if pair { 2 } else { first.len_utf8() }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn texts(expression: &str) -> Vec<&str> {
        tokens(expression).iter().map(|token| token.text).collect()
    }

    #[test]
    fn words_numbers_and_signs_are_told_apart() {
        assert_eq!(texts("tcp port 80"), ["tcp", "port", "80"]);
        assert_eq!(texts("net 10.0.0.0/8&&!udp"), ["net", "10.0.0.0", "/", "8", "&&", "!", "udp"]);
        assert_eq!(texts("portrange 1-1023"), ["portrange", "1-1023"]);
        assert_eq!(texts("host fe80::1 or ::1"), ["host", "fe80::1", "or", "::1"]);
        assert_eq!(texts("ip proto \\tcp)"), ["ip", "proto", "\\tcp", ")"]);
        let flags = "tcp[4:4]&(tcp-syn|1)!=0";
        let expected =
            ["tcp", "[", "4", ":", "4", "]", "&", "(", "tcp-syn", "|", "1", ")", "!=", "0"];
        assert_eq!(texts(flags), expected);
    }

    #[test]
    fn places_are_those_in_the_expression() {
        let found = tokens(" tcp  prot");
        assert_eq!(found.iter().map(|token| token.at).collect::<Vec<_>>(), [1, 6]);
        assert_eq!(found[1].end(), 10);
    }

    #[test]
    fn numbers_are_cs() {
        let number = |text| Token { at: 0, text }.number();
        assert_eq!([number("47"), number("0x2f"), number("057")], [Some(47); 3]);
        assert_eq!((number("0"), number("gre"), number("99999999999")), (Some(0), None, None));
    }

    proptest! {
        #[test]
        fn every_text_is_split_into_what_it_holds(text in "\\PC{0,60}") {
            let found = tokens(&text);
            let together: String = found.iter().map(|token| token.text).collect();
            let without_space: String =
                text.chars().filter(|one| !one.is_ascii_whitespace()).collect();
            let held: String = together.chars().filter(|one| !one.is_ascii_whitespace()).collect();
            prop_assert_eq!(held, without_space);
            prop_assert!(found.iter().all(|token| &text[token.at..token.end()] == token.text));
        }
    }
}
