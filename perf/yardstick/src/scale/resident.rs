//! Memory of this process, as the kernel counts it.

use std::fs;

/// The most memory that was resident at one time since [`reset_peak`], bytes. `None` where the
/// kernel does not tell (proc_pid_status(5), `VmHWM`).
#[must_use]
pub(crate) fn peak_resident() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}

/// Begins to count the peak anew, from what is resident now (proc_pid_clear_refs(5), value 5).
/// Where that is forbidden the peak stays, which makes figures worse, never better.
pub(crate) fn reset_peak() {
    let _ = fs::write("/proc/self/clear_refs", "5");
}

#[cfg(test)]
mod tests {
    use std::hint::black_box;

    use super::*;

    #[test]
    fn the_peak_holds_what_was_resident_for_a_moment() {
        const BYTES: usize = 64 << 20;
        drop(black_box(vec![1_u8; BYTES]));
        assert!(peak_resident().unwrap() >= BYTES as u64);
    }
}
