//! Resident memory of processes.

use std::fs;

use anyhow::{Context as _, Result};

/// Peak resident memory of this process since [`reset_peak`], bytes. `None` if the kernel doesn't
/// report it.
#[must_use]
pub(crate) fn peak_resident() -> Option<u64> {
    of(std::process::id()).ok().map(|resident| resident.peak)
}

/// Resets the peak to the current resident memory (proc_pid_clear_refs(5), value 5). Without the
/// permission the peak stays, so figures are too high rather than too low.
pub(crate) fn reset_peak() {
    let _ = fs::write("/proc/self/clear_refs", "5");
}

/// Resident memory of a process, bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Resident {
    /// At present.
    pub(super) now: u64,
    /// The most since its start, or since the peak was reset.
    pub(super) peak: u64,
}

/// Resident memory of a process (proc_pid_status(5), `VmRSS` and `VmHWM`).
///
/// # Errors
/// When the kernel doesn't report it.
pub(super) fn of(pid: u32) -> Result<Resident> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let value = |name| field(&status, name).with_context(|| format!("no {name} of process {pid}"));
    Ok(Resident { now: value("VmRSS:")?, peak: value("VmHWM:")? })
}

/// Bytes of the field `name`, with its colon, of a file of proc(5) that has one in kB on each line.
pub(crate) fn field(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}

pub(crate) fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

#[cfg(test)]
mod tests {
    use std::hint::black_box;

    use super::*;

    #[test]
    fn the_peak_includes_memory_that_was_freed_again() {
        const BYTES: usize = 64 << 20;
        drop(black_box(vec![1_u8; BYTES]));
        assert!(peak_resident().unwrap() >= BYTES as u64);
    }
}
