//! Frames that the kernel generates.

use std::io::ErrorKind;

use anyhow::{Context, Result};
use aya::Ebpf;
use aya::programs::{ProgramError, TestRun, TestRunAttrs, TestRunOptions, Xdp};
use nix::net::if_::if_nametoindex;

use super::frame::{FIRST_PORT, FRAME_BYTES, Flow};
use super::{Generator, load_object};

/// Frames per batch in the kernel: as many as one NAPI poll processes.
const BATCH: u32 = 64;

/// `BPF_PROG_TEST_RUN` with `BPF_F_TEST_XDP_LIVE_FRAMES`
/// (<https://docs.kernel.org/bpf/bpf_prog_run.html>): the kernel generates frames, runs our XDP
/// program on each, and follows its verdict. `XDP_TX` sends them by `ndo_xdp_xmit` of their ingress
/// device, as if the pod's driver had sent them.
///
/// The veth's other end must have NAPI (an XDP program, or GRO), or it drops all of them.
#[derive(Debug)]
pub(crate) struct LiveFrames {
    ebpf: Ebpf,
    frame: [u8; FRAME_BYTES],
    context: [u8; 24],
}

impl LiveFrames {
    /// A generator of `flow` on `link` of the calling thread's namespace, in which
    /// [`Generator::send`] must be called, too.
    ///
    /// # Errors
    /// When there is no such link, or the program can't be loaded.
    pub(crate) fn new(link: &str, flow: &Flow) -> Result<Self> {
        let ifindex = if_nametoindex(link).with_context(|| format!("no link {link} here"))?;
        let mut ebpf = load_object(FIRST_PORT, flow.port)?;
        let program: &mut Xdp =
            ebpf.program_mut("generate").context("no program generate")?.try_into()?;
        program.load()?;
        // `struct xdp_md` of include/uapi/linux/bpf.h; other fields stay 0.
        let (data_end, ingress_ifindex) = (4..8, 12..16);
        let mut context = [0; 24];
        context[data_end].copy_from_slice(&(FRAME_BYTES as u32).to_ne_bytes());
        context[ingress_ifindex].copy_from_slice(&ifindex.to_ne_bytes());
        Ok(Self { ebpf, frame: flow.frame(0)?, context })
    }
}

impl Generator for LiveFrames {
    fn send(&mut self, count: u32) -> Result<()> {
        let program: &Xdp =
            self.ebpf.program("generate").context("no program generate")?.try_into()?;
        let outcome = program.test_run(TestRunOptions {
            data_in: Some(&self.frame),
            ctx_in: Some(&self.context),
            repeat: count,
            attrs: TestRunAttrs::new().xdp_live_frames(BATCH),
            ..Default::default()
        });
        match outcome {
            Err(ProgramError::SyscallError(error))
                if error.io_error.kind() == ErrorKind::Interrupted =>
            {
                Ok(())
            }
            outcome => Ok(outcome.map(drop)?),
        }
    }
}
