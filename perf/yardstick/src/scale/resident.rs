//! Resident memory of this process.

use std::fs;

/// Peak resident memory since [`reset_peak`], bytes. `None` if the kernel doesn't report it
/// (proc_pid_status(5), `VmHWM`).
#[must_use]
pub(crate) fn peak_resident() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}

/// Resets the peak to the current resident memory (proc_pid_clear_refs(5), value 5). Without the
/// permission the peak stays, so figures are too high rather than too low.
pub(crate) fn reset_peak() {
    let _ = fs::write("/proc/self/clear_refs", "5");
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
