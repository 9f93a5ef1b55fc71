//! Compiles the BPF programs of the traffic module with clang into `OUT_DIR/traffic.bpf.o`.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::{env, fs};

const SOURCE: &str = "src/traffic/traffic.bpf.c";
const INSTALL: &str = "on Debian: apt-get install clang libbpf-dev linux-libc-dev";

fn main() -> ExitCode {
    println!("cargo::rerun-if-changed={SOURCE}");
    println!("cargo::rerun-if-env-changed=CLANG");
    match compile() {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            println!("cargo::error={message}");
            ExitCode::FAILURE
        }
    }
}

fn compile() -> Result<(), String> {
    let variable = |name| env::var(name).map_err(|_| format!("{name} is not set; run cargo"));
    let object = PathBuf::from(variable("OUT_DIR")?).join("traffic.bpf.o");
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
    command.arg("-c").arg(SOURCE).arg("-o").arg(&object);

    let output =
        command.output().map_err(|error| format!("can't run {clang} ({error}); {INSTALL}"))?;
    if output.status.success() {
        return Ok(());
    }
    // A stale object must not be taken for a fresh one by a later step.
    let _ = fs::remove_file(&object);
    let stderr = String::from_utf8_lossy(&output.stderr);
    let cause = stderr.lines().find(|line| line.contains("error")).unwrap_or("no message");
    Err(format!("{clang} can't compile {SOURCE}: {cause}; if a header is missing, {INSTALL}"))
}
