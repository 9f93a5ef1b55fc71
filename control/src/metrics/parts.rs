//! Metrics of the agent's parts: threads, tables, memory, sources, certificates.

use podgate_api::{Family, Health, MemoryUse, TableFill};

/// Metrics of all parts; `scrapes` are those that were answered, rejected and failed.
pub(super) fn families(health: &Health, scrapes: [u64; 3]) -> Vec<Family> {
    let mut families = table_families(&health.tables);
    families.extend(thread_families(health));
    families.push(memory_family(&health.memory));
    families.push(
        Family::gauge(
            "podgate_sync_age_seconds",
            "Time since objects were last known to be up to date, 0 while they are",
        )
        .with(&[], health.sync_age_s),
    );
    families.push(certificate_family(health));
    let outcomes = ["answered", "rejected", "failed"].into_iter().zip(scrapes);
    let family =
        Family::counter("podgate_scrapes_total", "Connections of the metrics endpoint by outcome");
    families.push(
        outcomes
            .fold(family, |family, (outcome, count)| family.with(&[("outcome", outcome)], count)),
    );
    families
}

fn table_families(tables: &[TableFill]) -> Vec<Family> {
    let family = |name, help, value: fn(&TableFill) -> u64| {
        tables.iter().fold(Family::gauge(name, help), |family, table| {
            family.with(&[("table", &table.name)], value(table))
        })
    };
    let pressure = Family::gauge(
        "podgate_table_pressure_ratio",
        "Fraction of a table's entries in use, 0 to 1",
    );
    let part = |table: &TableFill| table.used as f64 / table.capacity.max(1) as f64;
    let pressure = tables
        .iter()
        .fold(pressure, |family, table| family.with(&[("table", &table.name)], part(table)));
    let by_map =
        Family::gauge("cilium_bpf_map_pressure", "The same, under the name that Cilium has for it");
    let by_map = tables
        .iter()
        .fold(by_map, |family, table| family.with(&[("map_name", &table.name)], part(table)));
    vec![
        family("podgate_table_entries", "Entries in use", |table| table.used),
        family("podgate_table_entries_max", "Entries that a table has room for", |table| {
            table.capacity
        }),
        pressure,
        by_map,
    ]
}

fn thread_families(health: &Health) -> [Family; 2] {
    let mut alive = Family::gauge(
        "podgate_worker_alive",
        "1 if the worker made progress within the last seconds, else 0",
    );
    let mut cpu =
        Family::counter("podgate_thread_cpu_seconds_total", "CPU time used by the agent's threads");
    for thread in &health.threads {
        if let Some(worker) = thread.name.strip_prefix("pg-worker-") {
            alive = alive.with(&[("worker", worker)], u64::from(thread.alive));
        }
        cpu = cpu.with(&[("thread", &thread.name)], thread.cpu_ms as f64 / 1e3);
    }
    [alive, cpu]
}

fn memory_family(memory: &MemoryUse) -> Family {
    let MemoryUse { resident, frames, rings, pools, bpf } = *memory;
    Family::gauge(
        "podgate_memory_bytes",
        "Memory: resident in the process, and of that its packet frames; rings, AF_XDP pools and BPF \
         objects in the kernel",
    )
    .with(&[("kind", "resident")], resident)
    .with(&[("kind", "frames")], frames)
    .with(&[("kind", "rings")], rings)
    .with(&[("kind", "pools")], pools)
    .with(&[("kind", "bpf")], bpf)
}

fn certificate_family(health: &Health) -> Family {
    let family = Family::gauge(
        "podgate_certificate_expiry_timestamp_seconds",
        "When a certificate of the agent expires, seconds since 1970; 0 if it can't be read",
    );
    health.certificates.iter().fold(family, |family, certificate| {
        family.with(&[("certificate", &certificate.name)], certificate.expires_s.unwrap_or(0))
    })
}
