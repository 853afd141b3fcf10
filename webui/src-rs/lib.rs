//! The page that the daemon serves, built into the binary. Nothing here is fetched from anywhere else.
#![forbid(unsafe_code)]

/// One file of the page.
#[derive(Clone, Copy, Debug)]
pub struct Asset {
    /// Its content.
    pub bytes: &'static [u8],
    /// Its media type.
    pub content_type: &'static str,
}

/// The file of that name.
#[must_use]
pub fn asset(name: &str) -> Option<Asset> {
    let (bytes, content_type): (&'static [u8], _) = match name {
        "index.html" => (include_bytes!("../page/index.html"), "text/html; charset=utf-8"),
        "page.js" => (include_bytes!("../page/page.js"), "text/javascript; charset=utf-8"),
        "page.css" => (include_bytes!("../page/page.css"), "text/css; charset=utf-8"),
        _ => return None,
    };
    Some(Asset { bytes, content_type })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_keeps_to_its_content_security_policy() {
        let page = std::str::from_utf8(asset("index.html").unwrap().bytes).unwrap();
        assert!(
            !page.contains("<script>") && !page.contains("<style") && !page.contains(" style=")
        );
        assert!(!page.contains("http://") && !page.contains("https://"), "nothing from outside");
        let script = std::str::from_utf8(asset("page.js").unwrap().bytes).unwrap();
        assert!(!script.contains("innerHTML"), "outside text stays text");
    }

    #[test]
    fn other_names_are_absent() {
        assert!(asset("../Cargo.toml").is_none());
    }
}
