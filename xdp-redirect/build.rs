//! Compiles the BPF programs into `OUT_DIR/redirect.bpf.o`.

mod compile_bpf;

use std::process::ExitCode;

fn main() -> ExitCode {
    println!("cargo::rerun-if-changed=src/guard.bpf.h");
    println!("cargo::rerun-if-changed=src/drops.bpf.h");
    println!("cargo::rerun-if-changed=src/neighbours.bpf.h");
    println!("cargo::rerun-if-changed=src/rate_limit.bpf.h");
    println!("cargo::rerun-if-changed=src/tunnels.bpf.h");
    compile_bpf::compile("src/redirect.bpf.c")
}
