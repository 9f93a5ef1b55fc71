//! The runner of truth tables: each row by the naive interpreter, by the compiled tables, and by
//! packets through a whole worker. The tables follow the changes of each step, and must be those
//! that the objects give from nothing.

use std::collections::BTreeSet;

use podgate_policy::truth::{Expect, Row, ServiceCall, TruthTable};
use podgate_policy::{Compiled, Compiler, compile};
use podgate_tables::policy::Verdict;
use podgate_tables::service::{Backend, L4Addr, WithoutBackends};

use crate::by_names::by_names;
use crate::packets::{Bench, can_ask, can_send, is_sent};
use crate::support::{Answer, ask_oracle, ask_tables};

/// The result of a table.
#[derive(Default)]
pub(crate) struct Outcome {
    /// Rows of all steps.
    pub(crate) rows: usize,
    /// Rows that packets could ask.
    pub(crate) by_packets: usize,
    /// Verdicts of the rows, in order, for each step.
    pub(crate) verdicts: Vec<Vec<Verdict>>,
    /// Rows that came out otherwise than expected, or on which the executors disagree.
    pub(crate) failures: Vec<String>,
}

/// Asks every row of every step.
pub(crate) fn run(mut table: TruthTable) -> Result<Outcome, String> {
    let (mut outcome, mut compiler) = (Outcome::default(), Compiler::new());
    loop {
        compiler.update(&table.store);
        let compiled = compiler.compiled();
        if by_names(&compiled) != by_names(&compile(&table.store)) {
            let step = outcome.verdicts.len();
            outcome.failures.push(format!("step {step}: changes lead to other tables"));
        }
        outcome.run_step(&table, &compiled);
        if !table.advance()? {
            return Ok(outcome);
        }
    }
}

impl Outcome {
    fn run_step(&mut self, table: &TruthTable, compiled: &Compiled) {
        let step = self.verdicts.len();
        let mut bench = Bench::new(compiled, &table.rows);
        let mut verdicts = Vec::new();
        for row in &table.rows {
            if let Some(call) = &row.service {
                if let Err(what) = check_backends(compiled, row, call) {
                    self.failures.push(format!("step {step}: {}: {what}", row.text));
                    continue;
                }
                if call.backends.is_empty() {
                    self.by_packets += 1;
                    if bench.ask_without_backend(row) != call.rejected {
                        self.failures.push(format!("step {step}: {}: by packets", row.text));
                    }
                    verdicts.push(Verdict::Deny);
                    continue;
                }
            }
            let request = row.request.as_ref();
            let (answer, causes) = ask_tables(compiled, &row.subject, row.local, request);
            let (said, may_be) = ask_oracle(&table.store, &row.subject, row.local, request);
            let mut fail = |what: String| {
                let text = &row.text;
                self.failures.push(format!("step {step}: {text}: {what} (by {causes:?})"));
            };
            if !is_expected(row, &answer) {
                fail(format!("expected {:?}, tables say {answer:?}", row.expect));
            }
            if said != answer {
                fail(format!("tables say {answer:?}, oracle says {said:?}"));
            }
            if can_ask(row) && can_send(request) {
                self.by_packets += 1;
                let decision = compiled.tables.decide(&row.subject, row.local);
                let protocol = decision.l7.protocol().ok().flatten();
                let seen = bench.ask(&with_port_of_client(compiled, row), protocol);
                let request = match request {
                    Some(request) if is_sent(request, answer.verdict, protocol) => answer.request,
                    // Without an inspector, nothing passes.
                    _ => seen.request,
                };
                if seen != (Answer { request, ..answer }) {
                    fail(format!("tables say {answer:?}, packets see {seen:?}"));
                }
            }
            for ((wanted, seen), may_be) in
                [&row.egress, &row.ingress].into_iter().zip(&causes).zip(&may_be)
            {
                if !may_be.contains(seen) {
                    fail(format!("the oracle has other causes: {may_be:?}"));
                }
                if wanted.as_ref().is_some_and(|wanted| !seen.starts_with(wanted.as_str())) {
                    fail(format!("expected cause {wanted:?}"));
                }
            }
            verdicts.push(answer.verdict);
        }
        self.rows += verdicts.len();
        self.verdicts.push(verdicts);
    }
}

/// Checks that the tables have the backends that the objects give a service, and if there are none,
/// that this is expected.
fn check_backends(compiled: &Compiled, row: &Row, call: &ServiceCall) -> Result<(), String> {
    let service = compiled.tables.service(call.frontend, row.subject.tuple.protocol);
    let port = service.ok_or("the tables have no such service")?.ok();
    let backends = port.iter().flat_map(|port| port.backends.iter().map(Backend::target));
    let backends: BTreeSet<_> = backends.collect();
    if backends != call.backends {
        return Err(format!("tables have {backends:?}, objects {:?}", call.backends));
    }
    if !backends.is_empty() {
        return Ok(());
    }
    let rejected = port.is_none_or(|port| port.without_backends == WithoutBackends::Reject);
    let expected = if call.rejected { Expect::Reject } else { Expect::Deny };
    if rejected != call.rejected || row.expect.is_some_and(|expect| expect != expected) {
        return Err(format!("expected {:?}, without backends: {call:?}", row.expect));
    }
    Ok(())
}

/// The row with a source port for which a worker chooses its backend.
fn with_port_of_client(compiled: &Compiled, row: &Row) -> Row {
    let mut row = row.clone();
    let Some(ServiceCall { frontend, .. }) = row.service else { return row };
    let tuple = &mut row.subject.tuple;
    let port = compiled.tables.service(frontend, tuple.protocol).and_then(Result::ok);
    let port = port.expect("its backends were found");
    let chosen = |client| {
        let client = L4Addr { address: tuple.src, port: client };
        let backend = port.choose(client, |_| true)?;
        (backend == L4Addr { address: tuple.dst, port: tuple.dst_port }).then_some(())
    };
    let found = (40_000..41_000).find(|client| chosen(*client).is_some());
    tuple.src_port = found.expect("each backend is chosen by some port");
    row
}

fn is_expected(row: &Row, answer: &Answer) -> bool {
    match (row.expect, &row.request) {
        (None, _) => true,
        (Some(Expect::Deny), _) => answer.verdict == Verdict::Deny,
        (Some(Expect::Allow), None) => answer.verdict == Verdict::Allow,
        (Some(Expect::Inspect), _) => answer.verdict == Verdict::Inspect,
        (Some(Expect::Allow), Some(_)) => answer.request == Some(true),
        (Some(Expect::DenyRequest), _) => answer.request == Some(false),
        // Not of a flow that policy decides on.
        (Some(Expect::Reject), _) => false,
    }
}
