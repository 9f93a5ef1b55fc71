//! What the kernel says about this process: its threads, memory, and BPF objects (proc(5)).

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Instant;

use podgate_api::ThreadStatus;

/// Milliseconds of a clock tick: the kernel's `USER_HZ` is 100 on every architecture that podgate
/// runs on.
const TICK_MS: u64 = 10;

/// The name of the thread that starts the others.
const CONTROL: &str = "control";

/// Threads that are shown by name. Others are counted together.
const PREFIX: &str = "pg-";

/// CPU times of the process's threads.
#[derive(Debug, Default)]
pub(super) struct Threads {
    checked: Option<Instant>,
    /// CPU time, milliseconds, and load, percent, by name.
    by_name: BTreeMap<String, (u64, u64)>,
}

impl Threads {
    /// Reads the CPU times; loads are since the last call.
    pub(super) fn check(&mut self) {
        let now = Instant::now();
        let elapsed = self.checked.map(|checked| now.duration_since(checked).as_millis() as u64);
        let mut by_name = BTreeMap::new();
        for (name, cpu_ms) in read_threads(Path::new("/proc/self/task"), std::process::id()) {
            by_name.entry(name).or_insert((0, 0)).0 += cpu_ms;
        }
        for (name, (cpu_ms, load)) in &mut by_name {
            if let (Some(elapsed), Some((before, _))) = (elapsed, self.by_name.get(name)) {
                *load = cpu_ms.saturating_sub(*before) * 100 / elapsed.max(1);
            }
        }
        (self.checked, self.by_name) = (Some(now), by_name);
    }

    /// The threads at the last check.
    pub(super) fn status(&self) -> Vec<ThreadStatus> {
        let status = |(name, (cpu_ms, load_percent)): (&String, &(u64, u64))| ThreadStatus {
            name: name.clone(),
            alive: true,
            cpu_ms: *cpu_ms,
            load_percent: *load_percent,
        };
        self.by_name.iter().map(status).collect()
    }
}

/// Names and CPU times of threads, milliseconds. One that ends meanwhile is left out.
fn read_threads(tasks: &Path, process: u32) -> Vec<(String, u64)> {
    let Ok(entries) = fs::read_dir(tasks) else { return Vec::new() };
    let thread = |entry: fs::DirEntry| {
        let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
        let (name, cpu_ms) = parse_stat(&stat)?;
        let is_first = entry.file_name().to_str() == Some(&process.to_string());
        let name = match name {
            _ if is_first => CONTROL,
            name if name.starts_with(PREFIX) => name,
            _ => "other",
        };
        Some((name.to_owned(), cpu_ms))
    };
    entries.flatten().filter_map(thread).collect()
}

/// Name and CPU time of a thread, milliseconds, from its `stat` file: fields 2, 14 and 15.
fn parse_stat(stat: &str) -> Option<(&str, u64)> {
    let (head, rest) = stat.rsplit_once(')')?;
    let (_, name) = head.split_once('(')?;
    let mut fields = rest.split_whitespace().skip(11);
    let mut ticks = || fields.next()?.parse::<u64>().ok();
    Some((name, (ticks()? + ticks()?) * TICK_MS))
}

/// Resident memory of the process; zero if it can't be read.
pub(super) fn resident_bytes() -> u64 {
    field(&fs::read_to_string("/proc/self/status").unwrap_or_default(), "VmRSS:") << 10
}

/// Memory of the BPF programs and maps that the process has open; zero if it can't be read.
pub(super) fn bpf_bytes() -> u64 {
    let Ok(files) = fs::read_dir("/proc/self/fd") else { return 0 };
    let is_bpf = |entry: &fs::DirEntry| {
        let target = fs::read_link(entry.path()).unwrap_or_default();
        matches!(target.to_str(), Some("anon_inode:bpf-map" | "anon_inode:bpf-prog"))
    };
    let bpf = files.flatten().filter(is_bpf);
    let bytes = bpf.map(|entry| {
        let info = Path::new("/proc/self/fdinfo").join(entry.file_name());
        field(&fs::read_to_string(info).unwrap_or_default(), "memlock:")
    });
    bytes.sum()
}

/// The number after `name` in a file of names and values.
fn field(text: &str, name: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_has_its_name_and_the_time_in_user_and_kernel_mode() {
        let stat = "77 (pg-worker-0) R 1 1 1 0 -1 4194368 9 0 0 0 120 34 0 0 20 0 3 0 1 2 3";
        assert_eq!(parse_stat(stat), Some(("pg-worker-0", 1540)));
        // A name may have any characters.
        let stat = "77 (a) b) R 1 1 1 0 -1 4194368 9 0 0 0 1 0 0 0 20";
        assert_eq!(parse_stat(stat), Some(("a) b", 10)));
        assert_eq!(parse_stat("77 (a) R 1"), None);
        assert_eq!(parse_stat(""), None);
    }

    #[test]
    fn this_process_has_memory_and_a_first_thread() {
        assert!(resident_bytes() > 1 << 20);
        let mut threads = Threads::default();
        threads.check();
        assert!(threads.status().iter().any(|thread| thread.name == CONTROL));
    }

    #[test]
    fn a_field_is_read_by_its_whole_name() {
        let text = "pos:\t0\nmemlock:\t4096\nmap_id:\t7\n";
        assert_eq!((field(text, "memlock:"), field(text, "missing:")), (4096, 0));
    }
}
