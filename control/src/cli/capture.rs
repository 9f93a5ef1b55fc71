//! `podgate capture`: arguments.

use std::path::PathBuf;

use clap::Args;
use podgate_api::{CAPTURE_SECONDS_MAX, CaptureRequest, PacketFilter, PodName, SNAP_LEN_MAX};

use super::{SocketArgs, examples};

pub(super) const CAPTURE_ABOUT: &str = "\
Write packets of pods to a file (pcapng), as they were received and as they were transmitted.

Each packet is there twice if it was forwarded: before policy, and after it. Its comment has the \
verdict, the reason, and the rules that decided. Wireshark and tshark show comments \
(`frame.comment`), and `podgate replay` reads the file. A packet is before policy on the interface \
that it was received from, and after policy on the one that it was transmitted to.

The file has the payload of pods' traffic: only clients of the admin's socket may capture. One \
capture runs at a time, and it ends at the first of its limits, or on Ctrl-C. While it runs, \
workers process packets without the fast path. Packets that are captured faster than they can be \
written are lost, and counted.";

pub(super) const CAPTURE_EXAMPLES: &str = examples! {
    "podgate capture --pod shop/cart-0 -w cart.pcapng"
    "podgate capture --pod shop/cart-0 --pod shop/db-0 --flow protocol=tcp,port=5432 -w db.pcapng"
    "podgate capture --pod shop/cart-0 --flow verdict=dropped --seconds 600 -w drops.pcapng"
    "podgate capture --pod shop/cart-0 -w - | tshark -r - -T fields -e frame.number -e frame.comment"
};

/// Arguments of `podgate capture`.
#[derive(Args, Debug, Clone)]
pub struct CaptureArgs {
    /// How to reach the agent.
    #[command(flatten)]
    pub socket: SocketArgs,
    /// Pod of this node whose packets are captured; may be repeated.
    #[arg(long, value_name = "NS/NAME", required = true)]
    pub pod: Vec<PodName>,
    /// Only packets that match all that is given of protocol=, port=, ip= and
    /// verdict=dropped|forwarded; may be repeated, for packets that match any of the filters.
    #[arg(long, value_name = "FILTER")]
    pub flow: Vec<PacketFilter>,
    /// The file to write, which must not exist; - is standard output.
    #[arg(short, long, value_name = "FILE")]
    pub write: PathBuf,
    /// Maximum number of bytes of each packet. Truncated packets can't be replayed.
    #[arg(short, long, value_name = "BYTES", default_value_t = SNAP_LEN_MAX,
          value_parser = clap::value_parser!(u32).range(64..=i64::from(SNAP_LEN_MAX)))]
    pub snap_length: u32,
    /// End after this many copies of packets.
    #[arg(long, value_name = "N", default_value_t = 1_000_000)]
    pub packets: u64,
    /// End after this many bytes of packets.
    #[arg(long, value_name = "N", default_value_t = 256 << 20)]
    pub bytes: u64,
    /// End after this many seconds.
    #[arg(long, value_name = "N", default_value_t = 60,
          value_parser = clap::value_parser!(u32).range(1..=i64::from(CAPTURE_SECONDS_MAX)))]
    pub seconds: u32,
}

impl CaptureArgs {
    /// The request to the agent.
    #[must_use]
    pub fn request(&self) -> CaptureRequest {
        CaptureRequest {
            pods: self.pod.clone(),
            filters: self.flow.clone(),
            snap_len: self.snap_length,
            packets: self.packets,
            bytes: self.bytes,
            seconds: self.seconds,
        }
    }
}
