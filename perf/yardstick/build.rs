//! Compiles the BPF programs of the traffic module into `OUT_DIR/traffic.bpf.o`.

#[path = "../../xdp-redirect/compile_bpf.rs"]
mod compile_bpf;

use std::process::ExitCode;

fn main() -> ExitCode {
    compile_bpf::compile("src/traffic/traffic.bpf.c")
}
