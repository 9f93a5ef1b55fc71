//! Allocations of decisions. One test in a separate program, because allocations of all threads are
//! counted.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests")]

use clap::Parser;
use podgate_yardstick::alloc::{COUNTING, Counting};
use podgate_yardstick::scale::{Args, measure};

#[global_allocator]
static ALLOCATOR: Counting = COUNTING;

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    args: Args,
}

#[test]
fn decisions_allocate_nothing_and_have_both_outcomes() {
    for labels in ["shared", "unique"] {
        let args = Cli::parse_from(["policy", "--quick", "--pods", "600", "--labels", labels]).args;
        for decisions in measure(&args).unwrap().decisions {
            assert_eq!(decisions.allocations, Some(0), "{decisions:?}");
            assert!(decisions.allowed > 0 && decisions.denied > 0, "{decisions:?}");
        }
    }
}
