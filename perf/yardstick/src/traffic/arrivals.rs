//! Counts arriving packets.

use anyhow::{Context, Result};
use aya::Ebpf;
use aya::maps::PerCpuArray;
use aya::programs::{SchedClassifier, TcAttachType};
use podgate_tests::lab::Netns;

use super::load_object;

/// Counts and drops the UDP packets that arrive on a pod's `eth0`, until the value is dropped.
#[derive(Debug)]
pub(crate) struct Arrivals {
    ebpf: Ebpf,
}

/// Numbers of UDP packets that have arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Arrived {
    /// To the measured port.
    pub(crate) measured: u64,
    /// To any other.
    pub(crate) other: u64,
}

impl Arrivals {
    /// Starts to count in `pod`; packets to the UDP port `measured` are counted separately.
    ///
    /// # Errors
    /// When the program can't be attached, which needs Linux 6.6.
    pub(crate) fn attach(pod: &Netns, measured: u16) -> Result<Self> {
        let mut ebpf = load_object(0, measured)?;
        pod.inside(|| {
            let program = ebpf.program_mut("arrivals").context("no program arrivals")?;
            let program: &mut SchedClassifier = program.try_into()?;
            program.load()?;
            program.attach("eth0", TcAttachType::Ingress)?;
            Ok(())
        })?;
        Ok(Self { ebpf })
    }

    /// The counts so far.
    ///
    /// # Errors
    /// When the map can't be read.
    pub(crate) fn count(&self) -> Result<Arrived> {
        let map = self.ebpf.map("ARRIVED").context("no map ARRIVED")?;
        let map = PerCpuArray::<_, u64>::try_from(map)?;
        let sum = |key| anyhow::Ok(map.get(&key, 0)?.iter().sum());
        Ok(Arrived { measured: sum(0)?, other: sum(1)? })
    }
}
