//! Compiles BPF programs in C with clang: what build scripts share.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::{env, fs};

const INSTALL: &str = "on Debian: apt-get install clang libbpf-dev linux-libc-dev";

/// Compiles `source`, a path from the crate's folder that ends in `.c`, into a file of the same
/// name in `OUT_DIR` that ends in `.o`.
pub(crate) fn compile(source: &str) -> ExitCode {
    println!("cargo::rerun-if-changed={source}");
    println!("cargo::rerun-if-env-changed=CLANG");
    match try_compile(source) {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            println!("cargo::error={message}");
            ExitCode::FAILURE
        }
    }
}

fn try_compile(source: &str) -> Result<(), String> {
    let variable = |name| env::var(name).map_err(|_| format!("{name} is not set; run cargo"));
    let object = PathBuf::from(variable("OUT_DIR")?)
        .join(Path::new(source).with_extension("o").file_name().unwrap_or_default());
    // The program runs on the machine that the crate is built for, so byte order follows it.
    let target = match variable("CARGO_CFG_TARGET_ENDIAN")?.as_str() {
        "big" => "bpfeb",
        _ => "bpfel",
    };
    let clang = env::var("CLANG").unwrap_or_else(|_| "clang".into());

    let mut command = Command::new(&clang);
    command.args(["-O2", "-g", "-Wall", "-Wextra", "-Werror", "-target", target]);
    // With a bpf target clang does not look into Debian's per-architecture folder, where
    // asm/types.h is.
    let multiarch = format!("/usr/include/{}-linux-gnu", variable("CARGO_CFG_TARGET_ARCH")?);
    if Path::new(&multiarch).is_dir() {
        command.arg("-isystem").arg(&multiarch);
    }
    command.arg("-c").arg(source).arg("-o").arg(&object);

    let output =
        command.output().map_err(|error| format!("can't run {clang} ({error}); {INSTALL}"))?;
    if output.status.success() {
        return Ok(());
    }
    // A stale object must not be taken for a fresh one by a later step.
    let _ = fs::remove_file(&object);
    let stderr = String::from_utf8_lossy(&output.stderr);
    let cause = stderr.lines().find(|line| line.contains("error")).unwrap_or("no message");
    Err(format!("{clang} can't compile {source}: {cause}; if a header is missing, {INSTALL}"))
}
