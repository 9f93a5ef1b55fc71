//! Completion scripts and man pages, made from the command line's definition.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use clap::CommandFactory;
use clap_complete::aot::{Shell as Target, generate};

use crate::cli::{Cli, Shell};
use crate::output::print;

/// Prints a shell's completion script.
pub(super) fn completion(shell: Shell) -> Result<()> {
    Ok(print(&script(shell))?)
}

fn script(shell: Shell) -> String {
    let target = match shell {
        Shell::Bash => Target::Bash,
        Shell::Zsh => Target::Zsh,
        Shell::Fish => Target::Fish,
    };
    let mut script = Vec::new();
    generate(target, &mut Cli::command(), "podgate", &mut script);
    String::from_utf8_lossy(&script).into_owned()
}

/// Writes a page for each command to `dir`.
pub(super) fn pages(dir: &Path) -> Result<()> {
    fs::create_dir_all(dir).with_context(|| format!("can't create {}", dir.display()))?;
    clap_mangen::generate_to(Cli::command(), dir)
        .with_context(|| format!("can't write man pages to {}", dir.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_shell_completes_all_commands() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let script = script(shell);
            for word in ["status", "identity", "metrics-listen"] {
                assert!(script.contains(word), "{shell:?}: {word}");
            }
        }
    }

    #[test]
    fn each_command_has_a_page() {
        let dir = tempfile::tempdir().unwrap();
        pages(dir.path()).unwrap();
        for name in ["podgate.1", "podgate-status.1", "podgate-endpoint-add.1"] {
            let page = fs::read_to_string(dir.path().join(name)).unwrap();
            assert!(page.contains("Exit codes") || page.contains("SYNOPSIS"), "{name}");
        }
    }
}
