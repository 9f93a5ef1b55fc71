//! The page's files, as `scripts/ui` built them.

/// A file of the page.
pub(crate) struct Asset {
    /// Its path in URLs.
    pub(crate) path: &'static str,
    /// Its media type.
    pub(crate) media_type: &'static str,
    /// Its content.
    pub(crate) content: &'static [u8],
}

/// All of them.
pub(crate) const ASSETS: [Asset; 4] = [
    Asset {
        path: "/",
        media_type: "text/html; charset=utf-8",
        content: include_bytes!("../assets/index.html"),
    },
    Asset {
        path: "/app.js",
        media_type: "text/javascript; charset=utf-8",
        content: include_bytes!("../assets/app.js"),
    },
    Asset {
        path: "/app.css",
        media_type: "text/css; charset=utf-8",
        content: include_bytes!("../assets/app.css"),
    },
    Asset {
        path: "/icon.svg",
        media_type: "image/svg+xml",
        content: include_bytes!("../assets/icon.svg"),
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_is_small_and_names_no_other_server() {
        let size: usize = ASSETS.iter().map(|asset| asset.content.len()).sum();
        assert!(size < 300 << 10, "{size} bytes");
        let page = String::from_utf8_lossy(ASSETS[0].content);
        assert!(!page.contains("://") && !page.contains("<style") && !page.contains("style="));
        assert!(
            page.contains("/app.js") && page.contains("/app.css") && page.contains("/icon.svg")
        );
    }
}
