//! The endpoint file: endpoints to attach at the start.

use std::path::Path;

use anyhow::{Context, Result, anyhow};
use podgate_api::EndpointSpec;
use podgate_policy::manifest;
use serde::Deserialize;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EndpointFile {
    endpoints: Vec<EndpointSpec>,
}

/// Reads an endpoint file, which must be a regular one: a FIFO may have no writer.
///
/// # Errors
/// When it can't be read, or is malformed.
pub(crate) fn read(path: &Path) -> Result<Vec<EndpointSpec>> {
    let (bytes, _) = manifest::read_regular(path)
        .map_err(|error| anyhow!("endpoint file {} {error}", path.display()))?;
    let text = String::from_utf8(bytes).map_err(|error| error.utf8_error());
    let parsed = text.map_err(Into::into).and_then(|text| parse(&text));
    parsed.with_context(|| format!("endpoint file {} is malformed", path.display()))
}

fn parse(text: &str) -> Result<Vec<EndpointSpec>> {
    // Without the excerpt of the file, which has several lines.
    let file: EndpointFile =
        serde_saphyr::from_str(text).map_err(|error| anyhow!("{}", error.without_snippet()))?;
    Ok(file.endpoints)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_read_with_or_without_a_namespace() {
        let text = "endpoints:\n\
                    - {link: hv-admin, pod: admin/adminapp, netns: /run/netns/x}\n\
                    - {link: hv-user, pod: user/userapp, mac: \"02:00:00:00:00:01\"}\n";
        let endpoints = parse(text).unwrap();
        assert_eq!(endpoints[0].netns.as_deref(), Some(Path::new("/run/netns/x")));
        assert_eq!(endpoints[1].pod.to_string(), "user/userapp");
        assert_eq!(parse("endpoints: []\n").unwrap(), []);
    }

    #[test]
    fn what_is_no_regular_file_is_an_error_and_blocks_nobody() {
        let dir = tempfile::tempdir().unwrap();
        let fifo = dir.path().join("endpoints.yaml");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        for (path, what) in [(fifo.as_path(), "a FIFO"), (Path::new("/dev/zero"), "a device")] {
            let error = read(path).unwrap_err().to_string();
            assert!(error.ends_with(&format!("is {what}, not a regular file")), "{error}");
        }
    }

    #[test]
    fn an_unknown_field_is_an_error() {
        for text in ["", "endpoint: []", "endpoints: [{link: a}]", "endpoints: [{link: a, pod: b}]"]
        {
            let error = parse(text).unwrap_err().to_string();
            assert_eq!(error.lines().count(), 1, "{error}");
        }
    }
}
