//! Compiles the XDP program into `OUT_DIR/redirect.bpf.o`.

mod compile_bpf;

use std::process::ExitCode;

fn main() -> ExitCode {
    compile_bpf::compile("src/redirect.bpf.c")
}
