//! Screens of a small node.

use std::time::{Duration, Instant};

use podgate_api::{DropCount, Family, LinkCounts, Status, WorkerStatus};
use podgate_hubble::proto::flow::layer7::Record;
use podgate_hubble::proto::flow::{
    CiliumEventType, Endpoint, Flow, Http, Ip, L7FlowType, Layer7, LostEvent, Policy, Verdict,
    Workload,
};
use podgate_hubble::proto::observer::GetFlowsResponse;
use podgate_hubble::proto::observer::get_flows_response::ResponseTypes;
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::model::Model;
use super::plain_text;
use super::screen::{Outcome, View, draw};
use super::updates::{RuleCounts, Sample, Update, rules};
use crate::cli::Tab;

/// Counters, which grew `times` times.
fn sample(at: Instant, times: u64) -> Update {
    let link = |link: &str, pod: Option<&str>, rate: u64, lost: u64| LinkCounts {
        link: link.into(),
        pod: pod.map(str::to_owned),
        received: rate * times,
        rx_ring_full: lost * times,
        ..LinkCounts::default()
    };
    let drop = |reason: &str, packets: u64| DropCount {
        reason: reason.into(),
        packets: packets * times,
        bytes: packets * times * 60,
    };
    let worker = |worker, received| WorkerStatus {
        worker,
        received: received * times,
        forwarded: received * times * 9 / 10,
        dropped: received * times / 10,
        flows: 7,
        held_frames: 1,
    };
    let status = Status {
        workers: vec![worker(0, 1000), worker(1, 20)],
        drops: vec![drop("policy_denied", 34), drop("spoofed_source", 3)],
        links: vec![
            link("pg-xsk", None, 500, 0),
            link("veth1a", Some("shop/cart-7d9f-x"), 1000, 0),
            link("veth2b", Some("shop/flood"), 30, 5),
        ],
        ..crate::output::status_without_links()
    };
    let rule = |policy: &str, rule: &str, verdict: &str, hits: u64, bytes: u64| RuleCounts {
        name: [policy, rule, verdict].map(str::to_owned),
        hits: hits * times,
        bytes: bytes * times,
    };
    let rules = vec![
        rule("CiliumNetworkPolicy shop/cart", "spec.ingress[0]", "allowed", 4, 60_000),
        rule("CiliumNetworkPolicy shop/cart", "spec.ingressDeny[0]", "denied", 700, 42_000),
        rule("", "others", "denied", 1, 60),
        rule("", "others", "conflict", 0, 0),
        rule("(all policies)", "(default deny, ingress)", "denied", 30, 1800),
    ];
    Update::Sample(Box::new(Sample { at, status, sleeps: vec![3 * times, 200 * times], rules }))
}

fn pod(name: &str) -> Option<Endpoint> {
    let workload = Workload { name: "cart".into(), kind: "Deployment".into() };
    let (namespace, pod_name) = ("shop".into(), name.into());
    Some(Endpoint { namespace, pod_name, workloads: vec![workload], ..Endpoint::default() })
}

fn policy(name: &str, rule: Option<&str>) -> Vec<Policy> {
    let labels = rule.map(|rule| format!("podgate:rule={rule}")).into_iter().collect();
    let (name, namespace, kind) = (name.into(), "shop".into(), "CiliumNetworkPolicy".into());
    vec![Policy { name, namespace, kind, labels, ..Policy::default() }]
}

fn verdict(verdict: Verdict, by: Vec<Policy>) -> Flow {
    let flow = Flow {
        verdict: verdict.into(),
        source: pod("flood"),
        destination: pod("cart-7d9f-x"),
        event_type: Some(CiliumEventType { r#type: 5, sub_type: 0 }),
        ..Flow::default()
    };
    match verdict {
        Verdict::Dropped => Flow { ingress_denied_by: by, ..flow },
        _ => Flow { ingress_allowed_by: by, ..flow },
    }
}

fn response(url: &str, code: u32, latency_ns: u64) -> Flow {
    let (url, method) = (url.to_owned(), "GET".to_owned());
    let http = Http { code, method, url, ..Http::default() };
    Flow {
        verdict: Verdict::Forwarded.into(),
        source: pod("cart-7d9f-x"),
        ip: Some(Ip { source: "10.0.0.1".into(), ..Ip::default() }),
        is_reply: Some(true),
        event_type: Some(CiliumEventType { r#type: 129, sub_type: 0 }),
        l7: Some(Layer7 {
            r#type: L7FlowType::Response.into(),
            latency_ns,
            record: Some(Record::Http(http)),
        }),
        ..Flow::default()
    }
}

fn flow(flow: Flow) -> Update {
    let response_types = Some(ResponseTypes::Flow(flow.into()));
    Update::Flow(Box::new(GetFlowsResponse { response_types, ..GetFlowsResponse::default() }))
}

/// Two seconds of a node.
fn model() -> Model {
    let start = Instant::now();
    let mut model = Model::default();
    model.update(sample(start, 10));
    for _ in 0..20 {
        model.update(flow(verdict(Verdict::Dropped, policy("cart", None))));
        model.update(flow(response("http://cart/docs?q=\x1b", 200, 4_000_000)));
    }
    model.update(flow(verdict(Verdict::Redirected, policy("cart", Some("spec.ingress[0]")))));
    model.update(flow(response("http://cart/slow", 503, 900_000_000)));
    let lost = LostEvent { num_events_lost: 5, ..LostEvent::default() };
    let response_types = Some(ResponseTypes::LostEvents(lost));
    let lost = GetFlowsResponse { response_types, ..GetFlowsResponse::default() };
    model.update(Update::Flow(Box::new(lost)));
    assert!(!model.has_rates());
    model.update(sample(start + Duration::from_secs(2), 12));
    assert!(model.has_rates());
    model
}

fn screen(model: &Model, view: &mut View) -> String {
    let mut terminal = Terminal::new(TestBackend::new(92, 9)).unwrap();
    terminal.draw(|frame| draw(frame, model, view)).unwrap();
    terminal.backend().to_string()
}

fn press(view: &mut View, model: &Model, keys: &str) -> Outcome {
    let press = |view: &mut View, code| view.key(KeyEvent::new(code, KeyModifiers::NONE), model);
    keys.chars().fold(Outcome::Continue, |_, key| {
        press(
            view,
            match key {
                '\t' => KeyCode::Tab,
                '\n' => KeyCode::Enter,
                '\x1b' => KeyCode::Esc,
                '\x08' => KeyCode::Backspace,
                key => KeyCode::Char(key),
            },
        )
    })
}

#[test]
fn every_table_has_its_screen() {
    let (model, mut view) = (model(), View::new(Tab::Endpoints));
    for (key, name) in ["1", "2", "3", "4", "5"].into_iter().zip(Tab::ALL) {
        press(&mut view, &model, key);
        insta::assert_snapshot!(format!("screen_{}", name.title()), screen(&model, &mut view));
    }
}

#[test]
fn rows_are_sorted_and_filtered() {
    let (model, mut view) = (model(), View::new(Tab::Endpoints));
    // The last column, in the other order.
    press(&mut view, &model, "ssssr/VETH\n");
    insta::assert_snapshot!("screen_filtered", screen(&model, &mut view));
    press(&mut view, &model, "/x");
    insta::assert_snapshot!("screen_typing", screen(&model, &mut view));
    // Keys that are part of the filter are no commands.
    assert_eq!(press(&mut view, &model, "q\x08\x1b"), Outcome::Continue);
    assert!(screen(&model, &mut view).contains("pg-xsk"));
    assert_eq!(press(&mut view, &model, "q"), Outcome::Quit);
}

#[test]
fn a_pause_freezes_all_tables() {
    let (mut model, mut view) = (model(), View::new(Tab::Drops));
    press(&mut view, &model, "p");
    let paused = screen(&model, &mut view);
    model.update(sample(Instant::now() + Duration::from_secs(9), 99));
    assert_eq!(screen(&model, &mut view), paused);
    assert!(paused.contains("PAUSED"), "{paused}");
    press(&mut view, &model, "\t");
    assert!(screen(&model, &mut view).contains("SERVER"));
    press(&mut view, &model, "3p");
    assert_ne!(screen(&model, &mut view), paused);
}

#[test]
fn a_problem_is_shown_until_the_next_sample() {
    let mut model = model();
    model.update(Update::Problem("the agent\x1b is gone".into()));
    assert_eq!(model.summary(), "the agent^[ is gone");
    model.update(sample(Instant::now(), 20));
    assert!(model.summary().starts_with("podgate 0.1.0 ready"), "{}", model.summary());
}

#[test]
fn a_small_screen_and_no_data_are_fine() {
    let mut view = View::new(Tab::Requests);
    for (width, height) in [(1, 1), (20, 3), (300, 100)] {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| draw(frame, &Model::default(), &mut view)).unwrap();
        terminal.draw(|frame| draw(frame, &model(), &mut view)).unwrap();
    }
}

#[test]
fn all_tables_as_text() {
    insta::assert_snapshot!(plain_text(&model(), None, 3));
}

#[test]
fn counters_of_rules_are_read_by_their_labels() {
    let labels =
        [("policy", "NetworkPolicy shop/web"), ("rule", "spec.ingress[0]"), ("verdict", "denied")];
    let other = [("policy", ""), ("rule", "others"), ("verdict", "allowed")];
    let families = [
        Family::counter("podgate_rule_bytes_total", "").with(&other, 7).with(&labels, 600),
        Family::counter("podgate_rule_hits_total", "").with(&labels, 6).with(&other, 1),
        Family::counter("podgate_default_deny_packets_total", "")
            .with(&[("direction", "egress")], 3),
    ];
    let read: Vec<_> =
        rules(&families).into_iter().map(|it| (it.name.join("|"), it.hits, it.bytes)).collect();
    let expected = [
        ("NetworkPolicy shop/web|spec.ingress[0]|denied".to_owned(), 6, 600),
        ("|others|allowed".to_owned(), 1, 7),
        ("(all policies)|(default deny, egress)|denied".to_owned(), 3, 0),
    ];
    assert_eq!(read, expected);
}

#[test]
fn names_are_bounded() {
    let mut model = Model::default();
    for number in 0..5000 {
        model.update(flow(response(&format!("http://cart/{number}"), 200, 1)));
    }
    let table = model.table(Tab::Requests);
    assert_eq!(table.rows.len(), 1025);
    assert!(table.rows.iter().any(|row| row[0].printed() == "(others)"));
}
