//! A kernel's release as a number to compare. Must never decide what a kernel has: distributions carry features back
//! into releases that look older.

use std::{fmt, str::FromStr};

/// `6.1` and everything that is called so: `6.1.0-18-amd64`, `6.1.119+`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Release {
    /// The first number.
    pub major: u32,
    /// The second.
    pub minor: u32,
}

/// A text that begins with no release.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no kernel release; write two numbers, like \"6.1\"")]
pub struct NoRelease(pub String);

impl Release {
    /// Oldest one that linnet runs on.
    pub const MIN: Self = Self::new(5, 19);

    /// From its numbers.
    #[must_use]
    pub const fn new(major: u32, minor: u32) -> Self {
        Self { major, minor }
    }
}

impl FromStr for Release {
    type Err = NoRelease;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let none = || NoRelease(text.to_owned());
        let (major, rest) = text.split_once('.').ok_or_else(none)?;
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let number = |digits: &str| digits.parse::<u32>().map_err(|_| none());
        if !major.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(none());
        }
        Ok(Self { major: number(major)?, minor: number(&rest[..digits])? })
    }
}

impl fmt::Display for Release {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_of_distributions_are_read() {
        for (text, major, minor) in [
            ("6.18.44-fc-v669", 6, 18),
            ("5.14.0-362.8.1.el9_3.x86_64", 5, 14),
            ("6.1.0-18-amd64", 6, 1),
            ("5.15.0-1051-azure", 5, 15),
            ("5.15.90.1-microsoft-standard-WSL2", 5, 15),
            ("6.6-rc1", 6, 6),
            ("6.12+", 6, 12),
            ("4.18.0-513.el8", 4, 18),
            ("5.19", 5, 19),
        ] {
            assert_eq!(text.parse(), Ok(Release::new(major, minor)), "{text}");
        }
    }

    #[test]
    fn what_is_no_release_is_named() {
        for text in ["", "6", "six.one", "-6.1", "+6.1", "6.", "6.x", ".1", "99999999999.1"] {
            let error = text.parse::<Release>().unwrap_err();
            assert!(error.to_string().contains(&format!("`{text}`")), "{error}");
        }
    }

    #[test]
    fn numbers_are_compared_as_numbers() {
        assert!(Release::new(5, 9) < Release::MIN && Release::new(5, 19) >= Release::MIN);
        assert!(Release::new(6, 10) > Release::new(6, 7) && Release::new(10, 0) > Release::MIN);
    }
}
