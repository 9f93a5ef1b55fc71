//! The log on stderr, and its filter, which SIGHUP reads again.

use std::fs;
use std::io::{self, IsTerminal};

use anyhow::{Context, Result};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Registry, fmt, reload};

/// Largest filter file, bytes.
const FILE_MAX: u64 = 64 * 1024;

/// The filter of the running log.
pub(crate) struct LogFilter {
    /// The argument: directives, or `@FILE`.
    argument: String,
    handle: reload::Handle<EnvFilter, Registry>,
}

impl LogFilter {
    /// Starts the log of this process.
    ///
    /// # Errors
    /// When the filter can't be read or understood, or a log was started before.
    pub(crate) fn start(argument: &str) -> Result<Self> {
        let (filter, handle) = reload::Layer::new(parse(argument)?);
        let lines = fmt::layer().with_ansi(io::stderr().is_terminal()).with_writer(io::stderr);
        tracing_subscriber::registry().with(filter).with(lines).try_init()?;
        Ok(Self { argument: argument.to_owned(), handle })
    }

    /// Reads the filter again, if it is in a file. Returns what is in force from now on.
    ///
    /// # Errors
    /// When it can't be read or understood; the former filter stays.
    pub(crate) fn reload(&self) -> Result<String> {
        let filter = parse(&self.argument)?;
        let shown = filter.to_string();
        self.handle.reload(filter)?;
        Ok(shown)
    }
}

/// The filter that `--log` names: directives, or the lines of `@FILE` joined, without comments.
fn parse(argument: &str) -> Result<EnvFilter> {
    let directives = match argument.strip_prefix('@') {
        Some(file) => directives_of(file).with_context(|| format!("--log {argument}"))?,
        None => argument.to_owned(),
    };
    EnvFilter::try_new(&directives)
        .map_err(|error| anyhow::anyhow!("--log {argument}: {directives:?}: {error}"))
}

fn directives_of(file: &str) -> Result<String> {
    let metadata = fs::metadata(file)?;
    // Opening a FIFO would block the control thread until there is a writer.
    anyhow::ensure!(metadata.is_file(), "is not a regular file");
    anyhow::ensure!(metadata.len() <= FILE_MAX, "is larger than {FILE_MAX} bytes");
    let text = fs::read_to_string(file)?;
    let lines = text.lines().map(|line| line.split('#').next().unwrap_or_default().trim());
    let directives: Vec<_> = lines.filter(|line| !line.is_empty()).collect();
    anyhow::ensure!(!directives.is_empty(), "holds no level or directive, such as `info`");
    Ok(directives.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_is_read_from_the_argument_or_from_a_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let argument = format!("@{}", path.display());
        assert_eq!(
            parse("info,podgate::sources=debug").unwrap().to_string().matches(',').count(),
            1
        );
        assert!(parse(&argument).unwrap_err().to_string().contains("log"));
        for (text, parsed) in [("debug\n", "debug"), ("# why\nwarn # less\n\n", "warn")] {
            fs::write(&path, text).unwrap();
            assert_eq!(parse(&argument).unwrap().to_string(), parsed);
        }
        for bad in ["", "# nothing\n", "podgate=loudest"] {
            fs::write(&path, bad).unwrap();
            assert!(parse(&argument).is_err(), "{bad}");
        }
    }
}
