//! Command lines of `hubble observe` (cilium `hubble/cmd/observe/flows_filter_test.go`) and the
//! requests that they make.

use clap::Parser;
use podgate_hubble::proto::flow::{
    EventTypeFilter, FlowFilter, IpVersion, TcpFlags, TrafficDirection, Verdict, Workload,
};

use super::*;

#[derive(Parser, Debug)]
struct Line {
    #[command(flatten)]
    args: ObserveArgs,
}

fn parse(line: &str) -> Result<ObserveArgs, String> {
    let words = std::iter::once("observe").chain(line.split_whitespace());
    Line::try_parse_from(words).map(|line| line.args).map_err(|error| error.to_string())
}

fn request(line: &str) -> Result<GetFlowsRequest, String> {
    parse(line)?.request()
}

/// The allowlist and the denylist.
fn lists(line: &str) -> [Vec<FlowFilter>; 2] {
    let request = request(line).unwrap();
    [request.whitelist, request.blacklist]
}

fn strings(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

/// A filter with these fields.
macro_rules! filter {
    ($($field:ident: $value:expr),* $(,)?) => {
        FlowFilter { $($field: $value,)* ..FlowFilter::default() }
    };
}

#[test]
fn values_of_a_filter_are_alternatives_and_filters_are_combined() {
    assert_eq!(lists(""), [vec![], vec![]]);
    let line = "--from-ip 1.2.3.4 --from-ip 5.6.7.8 --not --to-ip 5.5.5.5 --verdict DROPPED -t l7";
    let allow = filter! {
        source_ip: strings(&["1.2.3.4", "5.6.7.8"]),
        verdict: vec![Verdict::Dropped.into()],
        event_type: vec![EventTypeFilter { r#type: 129, ..EventTypeFilter::default() }],
    };
    let deny = filter! { destination_ip: strings(&["5.5.5.5"]) };
    assert_eq!(lists(line), [vec![allow], vec![deny]]);
}

#[test]
fn a_filter_about_either_end_is_one_of_each() {
    let line = "--ip 1.2.3.4 --ip 5.6.7.8 --verdict DROPPED --not --pod deathstar \
                --not --http-status 200 --http-method get --http-path /page/\\d+ --node-name k8s*";
    let common = filter! {
        verdict: vec![Verdict::Dropped.into()],
        http_method: strings(&["get"]),
        http_path: strings(&["/page/\\d+"]),
        node_name: strings(&["k8s*"]),
    };
    let ips = strings(&["1.2.3.4", "5.6.7.8"]);
    let allow = vec![
        FlowFilter { source_ip: ips.clone(), ..common.clone() },
        FlowFilter { destination_ip: ips, ..common },
    ];
    let (pod, status) = (strings(&["deathstar"]), strings(&["200"]));
    let deny = vec![
        filter! { source_pod: pod.clone(), http_status_code: status.clone() },
        filter! { destination_pod: pod, http_status_code: status },
    ];
    assert_eq!(lists(line), [allow, deny]);

    let app = vec![Workload { name: "app".into(), kind: "Deployment".into() }];
    let line = "--pod cilium --to-workload Deployment/app";
    let allow = vec![
        filter! { source_pod: strings(&["cilium"]), destination_workload: app.clone() },
        filter! { destination_pod: strings(&["cilium"]), destination_workload: app },
    ];
    assert_eq!(lists(line), [allow, vec![]]);
}

#[test]
fn namespaces_are_put_before_pods_and_services() {
    let both = |name: &str| {
        let pod = strings(&[name]);
        vec![filter! { source_pod: pod.clone() }, filter! { destination_pod: pod }]
    };
    assert_eq!(lists("-n foo"), [both("foo/"), vec![]]);
    assert_eq!(lists("-A"), [both("/"), vec![]]);
    assert_eq!(lists("-n foo --pod bar"), [both("foo/bar"), vec![]]);
    assert_eq!(lists("-n foo --pod foo/bar"), [both("foo/bar"), vec![]]);
    let services = |name: &str| {
        let name = strings(&[name]);
        vec![filter! { source_service: name.clone() }, filter! { destination_service: name }]
    };
    assert_eq!(lists("--service bar -n foo"), [services("foo/bar"), vec![]]);
    let two = filter! { destination_pod: strings(&["a/x", "b/x"]), source_pod: strings(&["/"]) };
    let line = "--to-namespace a --to-pod x --to-namespace b --from-all-namespaces";
    assert_eq!(lists(line), [vec![two], vec![]]);
    let error = request("-n foo --pod bar/x").unwrap_err();
    assert!(error.starts_with("namespace conflict"), "{error}");
}

#[test]
fn every_filter_sets_its_field() {
    let flags = TcpFlags { syn: true, ack: true, ..TcpFlags::default() };
    let sub_type =
        |r#type, sub_type| vec![EventTypeFilter { r#type, match_sub_type: true, sub_type }];
    for (line, expected) in [
        ("--from-label a=b,c", filter! { source_label: strings(&["a=b,c"]) }),
        ("--to-service s", filter! { destination_service: strings(&["s"]) }),
        ("--to-port 80", filter! { destination_port: strings(&["80"]) }),
        ("--from-fqdn *.a", filter! { source_fqdn: strings(&["*.a"]) }),
        ("--from-identity world", filter! { source_identity: vec![2] }),
        ("--to-identity reserved:health", filter! { destination_identity: vec![4] }),
        ("--to-identity 12345", filter! { destination_identity: vec![12345] }),
        ("--protocol http", filter! { protocol: strings(&["http"]) }),
        ("--drop-reason-desc POLICY_DENIED", filter! { drop_reason_desc: vec![133] }),
        (
            "--traffic-direction Egress",
            filter! { traffic_direction: vec![TrafficDirection::Egress.into()] },
        ),
        ("-t trace:to-host", filter! { event_type: sub_type(4, 2) }),
        ("-t 255:127", filter! { event_type: sub_type(255, 127) }),
        ("--tcp-flags syn,ACK", filter! { tcp_flags: vec![flags] }),
        ("--http-url x", filter! { http_url: strings(&["x"]) }),
        ("--cluster c", filter! { node_name: strings(&["c/"]) }),
        ("--to-cluster c", filter! { destination_cluster_name: strings(&["c"]) }),
        ("--node-label a", filter! { node_labels: strings(&["a"]) }),
        ("--snat-ip 10.0.0.0/8", filter! { source_ip_xlated: strings(&["10.0.0.0/8"]) }),
        ("--uuid u", filter! { uuid: strings(&["u"]) }),
        ("-6", filter! { ip_version: vec![IpVersion::IPv6.into()] }),
        ("-4", filter! { ip_version: vec![IpVersion::IPv4.into()] }),
        ("--ip-version v4", filter! { ip_version: vec![IpVersion::IPv4.into()] }),
    ] {
        assert_eq!(lists(line), [vec![expected], vec![]], "{line}");
    }
    let header = &lists("--http-header a:b:c")[0][0].http_header[0];
    assert_eq!((header.key.as_str(), header.value.as_str()), ("a", "b:c"));
    assert_eq!(lists("--interface eth0")[0][0].interface[0].name, "eth0");
    let raw = r#"--allowlist {"source_pod":["a/b"]} --denylist {"verdict":["AUDIT"]}"#;
    let audit = filter! { verdict: vec![Verdict::Audit.into()] };
    assert_eq!(lists(raw), [vec![filter! { source_pod: strings(&["a/b"]) }], vec![audit]]);
}

#[test]
fn what_can_not_be_combined_is_named() {
    let error = request("--from-ip 1.2.3.4 --from-fqdn doesnt.work").unwrap_err();
    assert_eq!(error, "filters --from-ip and --from-fqdn cannot be combined");
    for pair in [
        "--port 1 --to-port 1",
        "--identity 1 --from-identity 1",
        "--workload a --to-workload a",
        "--fqdn a --from-fqdn a",
        "--ip 1.1.1.1 --to-ip 1.1.1.1",
        "--label a --from-label a",
        "--service a --from-service a",
        "--pod a --to-pod a",
        "-n a --from-namespace a",
        "-A --to-all-namespaces",
        "--ip 1.1.1.1 --pod a",
        "--from-ip 1.1.1.1 --from-namespace a",
        "-n a --to-service a",
        "--node-name a --cluster b",
    ] {
        let error = request(pair).unwrap_err();
        assert!(error.ends_with("cannot be combined"), "{pair}: {error}");
        // What is excluded is another filter.
        let (first, second) = pair.split_once(" -").unwrap();
        assert!(request(&format!("{first} --not -{second}")).is_ok(), "{pair}");
    }
    for fine in [
        "--to-service foo --from-service bar --from-identity world --to-identity world \
         --to-ip 1.2.3.4 --from-pod blib --from-port 1172 --to-port 11245 --workload buzz",
        "--service bar --from-identity world --pod blib --namespace test --workload buzz",
    ] {
        assert!(request(fine).is_ok(), "{fine}");
    }
}

#[test]
fn wrong_values_and_places_are_named() {
    for (line, expected) in [
        ("--not", "--not at the end"),
        ("--not --not --pod a", "--not --not"),
        ("--verdict dropped", "--verdict \"dropped\": is not a verdict"),
        ("--drop-reason-desc X", "--drop-reason-desc \"X\""),
        ("-t some-invalid-type", "--type \"some-invalid-type\""),
        ("-t trace:some-invalid-sub-type", "--type"),
        ("-t drop:to-host", "--type"),
        ("--identity nobody", "--identity \"nobody\""),
        ("--tcp-flags syn,x", "--tcp-flags \"syn,x\": \"x\""),
        ("--traffic-direction up", "--traffic-direction"),
        ("--http-header a", "--http-header \"a\": is not NAME:VALUE"),
        ("--ip-version 5", "--ip-version"),
        ("--trace-id 1", "--trace-id is not supported: podgate does not read trace headers"),
        ("--ip-trace-id 1", "--ip-trace-id is not supported"),
        ("--encrypted", "--encrypted is not supported"),
        ("--unencrypted", "--unencrypted is not supported"),
        ("--cel-expression true", "--cel-expression is not supported: combine"),
        ("--allowlist {", "--allowlist {: "),
        ("--denylist {\"x\":1}", "--denylist {\"x\":1}: "),
    ] {
        let error = request(line).unwrap_err();
        assert!(error.starts_with(expected), "{line}: {error}");
    }
}

#[test]
fn selectors_are_those_of_hubble() {
    let number = |line: &str| request(line).map(|request| request.number);
    assert_eq!(number(""), Ok(20));
    assert_eq!(number("--last 7"), Ok(7));
    assert_eq!(number("--all"), Ok(u64::MAX));
    assert_eq!(number("-f"), Ok(0));
    assert_eq!(number("-f --last 3"), Ok(3));
    assert_eq!(number("--since 10m"), Ok(0));
    assert_eq!(number("--input-file -"), Ok(0));
    let first = request("--first 5").unwrap();
    assert!(first.first && first.number == 5);
    let follow = request("-f --until 1s").unwrap();
    assert!(follow.follow && follow.until.is_none());
    let since = request("--since 1970-01-01T00:00:07Z").unwrap().since.unwrap();
    assert_eq!((since.seconds, since.nanos), (7, 0));
    for bad in ["--first 1 --last 1", "--first 1 --all", "--first 1 -f", "--last 1 --all"] {
        assert!(number(bad).is_err(), "{bad}");
    }
}

#[test]
fn times_are_durations_before_now_or_rfc_3339() {
    let now: Timestamp = "2019-07-01T14:00:00Z".parse().unwrap();
    for (text, expected) in [
        ("10s", "2019-07-01T13:59:50Z"),
        ("5m", "2019-07-01T13:55:00Z"),
        ("20h", "2019-06-30T18:00:00Z"),
        ("1h30m", "2019-07-01T12:30:00Z"),
        ("1.5s", "2019-07-01T13:59:58.5Z"),
        ("500ms", "2019-07-01T13:59:59.5Z"),
        ("2019-06-30T18:00:00Z", "2019-06-30T18:00:00Z"),
        ("2019-06-30", "2019-06-30T00:00:00Z"),
        ("2019-06-30T18Z", "2019-06-30T18:00:00Z"),
        ("2019-06-30T18:45Z", "2019-06-30T18:45:00Z"),
        ("2019-06-30T18+02:00", "2019-06-30T16:00:00Z"),
        ("2019-06-30T18:45+02:00", "2019-06-30T16:45:00Z"),
    ] {
        assert_eq!(time_at(text, now).unwrap().to_string(), expected, "{text}");
    }
    for bad in ["", "10", "m", "-5m", "1y", "5m x", "2019-13-01", "now", "9e999h", "99999999999h"] {
        assert!(time_at(bad, now).is_err(), "{bad}");
    }
}

#[test]
fn times_are_printed_as_they_are_named() {
    let time: Timestamp = "2026-01-02T15:04:05.678Z".parse().unwrap();
    let printed = |format: TimeFormat| time.strftime(format.pattern()).to_string();
    for (format, expected) in [
        (TimeFormat::StampMilli, "Jan  2 15:04:05.678"),
        (TimeFormat::YearMonthDay, "2026-01-02"),
        (TimeFormat::YearMonthDayHour, "2026-01-02T15Z"),
        (TimeFormat::YearMonthDayHourMinute, "2026-01-02T15:04Z"),
        (TimeFormat::Rfc3339, "2026-01-02T15:04:05Z"),
        (TimeFormat::Rfc3339Milli, "2026-01-02T15:04:05.678Z"),
        (TimeFormat::Rfc3339Micro, "2026-01-02T15:04:05.678000Z"),
        (TimeFormat::Rfc3339Nano, "2026-01-02T15:04:05.678Z"),
        (TimeFormat::Rfc1123Z, "Fri, 02 Jan 2026 15:04:05 +0000"),
    ] {
        assert_eq!(printed(format), expected);
        let name = format.to_possible_value().unwrap().get_name().to_owned();
        assert!(parse(&format!("--time-format {name}")).is_ok(), "{name}");
    }
    assert!(parse("--ip-translation=false").is_ok_and(|args| !args.format.ip_translation));
    assert!(parse("--ip-translation").is_ok_and(|args| args.format.ip_translation));
}

#[test]
fn the_server_is_the_agent_unless_another_is_named() {
    let address = |line: &str| parse(line).unwrap().source.address().to_string();
    assert_eq!(address("--socket /a/podgate.sock"), "unix:///a/hubble.sock");
    assert_eq!(address("--server localhost:4245"), "localhost:4245");
    assert_eq!(address("--server unix:///b.sock"), "unix:///b.sock");
    assert!(parse("--server localhost").is_err());
    assert!(parse("--tls --server a:1").is_err());
    let tls = "--tls --server a:1 --tls-ca-cert-files ca.pem --tls-server-name b";
    let tls = parse(tls).unwrap().source.client_tls().unwrap();
    assert_eq!((tls.ca.to_str(), tls.server_name.as_deref()), (Some("ca.pem"), Some("b")));
}

#[test]
fn filters_alone_are_read_as_on_the_command_line() {
    let read = |line: &str| read_filters(line.split_whitespace().map(str::to_owned).collect());
    for line in ["", "--verdict=DROPPED --not --to-port=53 --pod shop/cart", "-t l7 -4"] {
        assert_eq!(read(line).map(|(allow, deny)| [allow, deny]), Ok(lists(line)), "{line}");
    }
    assert_eq!(read("--nonsense=1"), Err("unexpected argument '--nonsense' found".to_owned()));
    for bad in ["--help", "--last=5", "shop", "--verdict=X", "--not", "--pod", "--port=x"] {
        let error = read(bad).unwrap_err();
        assert!(!error.is_empty() && !error.contains('\n'), "{bad}: {error}");
    }
}
