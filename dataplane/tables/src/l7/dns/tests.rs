//! Messages: well formed, hostile, and what is learned from them.

use proptest::prelude::*;

use super::name::READS;
use super::*;
use crate::address::Address;

/// A name on the wire, without compression.
fn wire(name: &str) -> Vec<u8> {
    let labels = name.split('.').filter(|label| !label.is_empty());
    let mut bytes: Vec<u8> =
        labels.flat_map(|label| [&[label.len() as u8], label.as_bytes()].concat()).collect();
    bytes.push(0);
    bytes
}

fn header(flags: u16, counts: [u16; 4]) -> Vec<u8> {
    [0x1234, flags].into_iter().chain(counts).flat_map(u16::to_be_bytes).collect()
}

fn question(name: &[u8], kind: u16, class: u16) -> Vec<u8> {
    [name, &kind.to_be_bytes(), &class.to_be_bytes()].concat()
}

fn record(owner: &[u8], kind: u16, ttl: u32, data: &[u8]) -> Vec<u8> {
    let len = (data.len() as u16).to_be_bytes();
    let class = CLASS_IN.to_be_bytes();
    [owner, &kind.to_be_bytes(), &class, &ttl.to_be_bytes(), &len, data].concat()
}

fn query(name: &str) -> Vec<u8> {
    [header(0x0100, [1, 0, 0, 0]), question(&wire(name), kind::A, CLASS_IN)].concat()
}

/// A response to a query for `name` with these answers.
fn response(name: &str, answers: &[Vec<u8>]) -> Vec<u8> {
    let counts = [1, answers.len() as u16, 0, 0];
    let question = question(&wire(name), kind::A, CLASS_IN);
    [header(0x8180, counts), question, answers.concat()].concat()
}

/// A pointer to the name in the question.
const QNAME: &[u8] = &[0xc0, 12];

fn learned(message: &[u8]) -> Vec<(String, u32)> {
    let response = Response::parse(message).unwrap();
    response.addresses().map(|(address, ttl)| (address.to_string(), ttl)).collect()
}

fn parsed(message: &[u8]) -> &'static str {
    match Query::parse(message) {
        Ok(_) => "query",
        Err(QueryError::NotAQuery) => "not a query",
        Err(QueryError::Malformed(_)) => "malformed",
        Err(QueryError::Opcode(_)) => "opcode",
        Err(QueryError::Undecidable(_)) => "undecidable",
    }
}

#[test]
fn a_query_names_what_it_asks_for_in_lower_case() {
    let query = Query::parse(&query("WWW.Example.com")).unwrap();
    assert_eq!(query.question.name.text(), b"www.example.com");
    assert_eq!((query.header.id, query.question.kind), (0x1234, kind::A));
    assert!(query.edns.is_none() && query.header.recursion_desired());
    let root = Query::parse(&self::query(".")).unwrap();
    assert_eq!(root.question.name.text(), b"");
}

#[test]
fn what_is_no_single_standard_question_is_denied() {
    let name = wire("a.b");
    let one = question(&name, kind::A, CLASS_IN);
    let with = |flags, counts, rest: &[u8]| [header(flags, counts), rest.to_vec()].concat();
    let cases: [(&str, Vec<u8>); 14] = [
        ("not a query", query("a.b")[..11].to_vec()),
        ("not a query", with(0x8000, [1, 0, 0, 0], &one)),
        ("malformed", query("a.b")[..16].to_vec()),
        ("malformed", with(0, [1, 0, 0, 0], &[&one[..], b"x"].concat())),
        ("malformed", with(0, [2, 0, 0, 0], &[&one[..], &one].concat())),
        ("malformed", with(0, [0, 0, 0, 0], b"")),
        ("malformed", with(0x0200, [1, 0, 0, 0], &one)),
        ("malformed", with(0, [1, 1, 0, 0], &[&one[..], &record(QNAME, 1, 1, &[1; 4])].concat())),
        ("opcode", with(0x2800, [1, 0, 0, 0], &one)),
        ("undecidable", with(0, [1, 0, 0, 0], &question(&name, kind::A, 3))),
        ("undecidable", with(0, [1, 0, 0, 0], &question(&name, kind::AXFR, CLASS_IN))),
        ("undecidable", with(0, [1, 0, 0, 0], &question(b"\x03a.b\0", kind::A, CLASS_IN))),
        ("query", with(0, [1, 0, 0, 0], &question(&name, 65_280, CLASS_IN))),
        ("query", with(0, [1, 0, 0, 1], &[&one[..], &record(&[0], 250, 1, b"tsig")].concat())),
    ];
    for (expected, message) in cases {
        assert_eq!(parsed(&message), expected, "{}", message.escape_ascii());
    }
}

#[test]
fn names_that_loop_or_are_too_long_are_malformed() {
    let ask = |name: &[u8]| parsed(&[header(0, [1, 0, 0, 0]), question(name, 1, 1)].concat());
    assert_eq!(ask(&[0xc0, 12]), "malformed", "itself");
    assert_eq!(ask(&[0xc0, 14]), "malformed", "forwards");
    assert_eq!(ask(&[0xc0, 2]), "malformed", "into the header");
    assert_eq!(ask(&[1, b'a', 0xc0, 12]), "malformed", "a loop of labels");
    assert_eq!(ask(&[0x40, 0]), "malformed", "a reserved type of label");
    assert_eq!(ask(&[0x80, 0]), "malformed");
    let label = [&[63], &[b'x'; 63][..]].concat();
    let longest = [&label.repeat(3)[..], &[61], &[b'y'; 61], &[0]].concat();
    assert_eq!((longest.len(), ask(&longest)), (255, "query"));
    let longer = [&label.repeat(3)[..], &[62], &[b'y'; 62], &[0]].concat();
    assert_eq!((longer.len(), ask(&longer)), (256, "malformed"));
}

#[test]
fn edns_is_read_with_its_cookie() {
    let with = |opt: &[u8], more: u16| {
        let question = question(&wire("a"), kind::A, CLASS_IN);
        [header(0, [1, 0, 0, more]), question, opt.to_vec()].concat()
    };
    let options = [&[0, 3, 0, 1, 9][..], &[0, 10, 0, 8, 1, 2, 3, 4, 5, 6, 7, 8]].concat();
    let opt = record(&[0], kind::OPT, 0x8000, &options);
    let message = with(&opt, 1);
    let edns = Query::parse(&message).unwrap().edns.unwrap();
    assert!(edns.dnssec_ok);
    assert_eq!(&message[edns.cookie.unwrap()], &[1, 2, 3, 4, 5, 6, 7, 8]);
    let twice = with(&[&opt[..], &opt].concat(), 2);
    assert_eq!(parsed(&twice), "malformed");
    let named = with(&record(b"\x01a\0", kind::OPT, 0, &[]), 1);
    assert_eq!(parsed(&named), "malformed");
    let cut = with(&record(&[0], kind::OPT, 0, &[0, 10, 0, 9, 1]), 1);
    assert_eq!(parsed(&cut), "malformed");
}

#[test]
fn addresses_are_those_of_the_queried_name_through_its_aliases() {
    let a = |owner: &[u8], ttl, last| record(owner, kind::A, ttl, &[192, 0, 2, last]);
    let plain = response("a.b", &[a(QNAME, 60, 1), a(&wire("A.B"), 30, 2)]);
    assert_eq!(learned(&plain), [("192.0.2.1".into(), 60), ("192.0.2.2".into(), 30)]);
    let cname =
        |owner: &str, target: &str, ttl| record(&wire(owner), kind::CNAME, ttl, &wire(target));
    let in_order = [cname("a.b", "c.d", 20), cname("c.d", "e.f", 50), a(&wire("e.f"), 40, 3)];
    let expected = [("192.0.2.3".to_owned(), 20)];
    assert_eq!(learned(&response("a.b", &in_order)), expected);
    let mut reversed = in_order.clone();
    reversed.reverse();
    assert_eq!(learned(&response("a.b", &reversed)), expected);
    let others = [cname("x.y", "z", 9), a(&wire("x.y"), 1, 4), a(&wire("z"), 1, 5), a(QNAME, 7, 6)];
    assert_eq!(learned(&response("a.b", &others)), [("192.0.2.6".into(), 7)]);
    let looping = [cname("a.b", "c.d", 9), cname("c.d", "a.b", 9), a(QNAME, 7, 6)];
    assert_eq!(learned(&response("a.b", &looping)), []);
}

#[test]
fn addresses_that_no_packet_goes_to_are_not_learned() {
    let mapped = Address::v4([192, 0, 2, 1]).bits().to_be_bytes();
    let answers = [
        record(QNAME, kind::AAAA, 5, &mapped),
        record(QNAME, kind::AAAA, 5, &[0; 16]),
        record(QNAME, kind::A, 5, &[224, 0, 0, 1]),
        record(QNAME, kind::A, 5, &[0; 4]),
        record(QNAME, kind::A, 0x8000_0001, &[192, 0, 2, 9]),
        record(QNAME, 16, 5, &[192, 0, 2, 9]),
    ];
    assert_eq!(learned(&response("a.b", &answers)), [("192.0.2.9".into(), 0)]);
}

#[test]
fn hints_of_service_bindings_are_learned() {
    let params = [
        &[0, 1][..],
        &[0],
        &[0, 1, 0, 3, 2, b'h', b'2'],
        &[0, 4, 0, 8, 192, 0, 2, 1, 192, 0, 2, 2],
        &[0, 6, 0, 16, 0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1],
    ]
    .concat();
    let service = record(QNAME, kind::HTTPS, 9, &params);
    let names: Vec<_> = learned(&response("a.b", &[service])).into_iter().map(|(a, _)| a).collect();
    assert_eq!(names, ["192.0.2.1", "192.0.2.2", "2001:db8::1"]);
    let cut = record(QNAME, kind::HTTPS, 9, &params[..params.len() - 3]);
    assert_eq!(learned(&response("a.b", &[cut])).len(), 2);
}

/// A response to a query for the servers of a service, with records after the answers.
fn services(answers: &[Vec<u8>], others: &[Vec<u8>]) -> Vec<u8> {
    let counts = [1, answers.len() as u16, 0, others.len() as u16];
    let question = question(&wire("_x._tcp.a.b"), kind::SRV, CLASS_IN);
    [header(0x8180, counts), question, answers.concat(), others.concat()].concat()
}

#[test]
fn addresses_of_the_targets_of_services_are_learned() {
    let srv = |target: &str, ttl| {
        record(QNAME, kind::SRV, ttl, &[&[0, 1, 0, 1, 0, 80][..], &wire(target)].concat())
    };
    let a = |owner: &str, last| record(&wire(owner), kind::A, 60, &[192, 0, 2, last]);
    let answers = [srv("one.a.b", 30), srv("Two.a.b", 90)];
    let others = [
        a("two.A.b", 2),
        a("three.a.b", 3),
        record(
            &wire("one.a.b"),
            kind::AAAA,
            60,
            &[0x20, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1],
        ),
        record(&wire("one.a.b"), 16, 60, &[3, b'a', b'b', b'c']),
    ];
    let expected = [("192.0.2.2".to_owned(), 60), ("2001::1".to_owned(), 30)];
    assert_eq!(learned(&services(&answers, &others)), expected);
    assert_eq!(learned(&services(&[], &others)), [], "nobody's target");
    let foreign = record(&wire("_y.a.b"), kind::SRV, 9, &[&[0; 6][..], &wire("one.a.b")].concat());
    assert_eq!(learned(&services(&[foreign], &others)), []);
    let cut = record(QNAME, kind::SRV, 9, &[0, 1, 0]);
    assert_eq!(learned(&services(&[cut], &others)), []);
    // For a question of another type, records after the answers are ignored.
    let counts = [1, 1, 0, 1];
    let asked = question(&wire("a.b"), kind::A, CLASS_IN);
    let message = [header(0x8180, counts), asked, srv("one.a.b", 9), a("one.a.b", 1)].concat();
    assert_eq!(learned(&message), []);
}

/// How many names are read to find the addresses of a response.
fn reads(message: &[u8]) -> usize {
    let response = Response::parse(message).unwrap();
    let before = READS.get();
    response.addresses().for_each(drop);
    READS.get() - before
}

/// Whoever answers could otherwise stop a worker for seconds by one message.
#[test]
fn no_response_takes_more_than_a_few_reads_of_names_for_each_record() {
    const HALF: usize = 2600;
    // Each name that is read has as many labels as one may have.
    let long = [&[1, b'a'].repeat(126)[..], &[0]].concat();
    let text = record(QNAME, 16, 60, &long);
    let at = (header(0, [0; 4]).len() + wire("_x._tcp.a.b").len() + 4 + 2 + 10) as u16;
    let pointer = (0xc000 | at).to_be_bytes();
    for srv in [record(&pointer, kind::SRV, 60, &[]), record(QNAME, kind::SRV, 60, &[0; 7])] {
        let answers = [vec![text.clone()], vec![srv; HALF]].concat();
        let others = vec![record(&pointer, kind::A, 60, &[10, 1, 2, 3]); HALF / 2];
        let reads = reads(&services(&answers, &others));
        assert!(reads <= 4 * answers.len() + others.len(), "{reads}");
    }

    // Aliases in the opposite order, behind aliases of another name.
    let name = |nth: usize| wire(&format!("a{nth:02}.b"));
    let mut answers = vec![record(&wire("c.d"), kind::CNAME, 60, &wire("e.f")); HALF];
    answers.extend((0..15).rev().map(|nth| {
        let owner = if nth == 0 { QNAME.to_vec() } else { name(nth) };
        record(&owner, kind::CNAME, 60, &name(nth + 1))
    }));
    answers.push(record(&name(15), kind::A, 60, &[10, 1, 2, 3]));
    let reads = reads(&response("a.b", &answers));
    assert!(reads <= 2 * answers.len(), "{reads}");
}

#[test]
fn malformed_responses_are_told_from_bare_errors() {
    let good = response("a.b", &[record(QNAME, kind::A, 1, &[1; 4])]);
    assert!(Response::parse(&good).is_ok());
    assert!(Response::parse(&[&good[..], b"x"].concat()).is_err());
    assert!(Response::parse(&good[..good.len() - 1]).is_err());
    assert!(Response::parse(&query("a.b")).is_err());
    assert!(Response::parse(&response("a.b", &[record(QNAME, kind::A, 1, &[1; 5])])).is_err());
    let bare = header(0x8181, [0; 4]);
    assert!(Response::parse(&bare).unwrap().question.is_none());
    assert!(Response::parse(&header(0x8180, [0; 4])).is_err(), "it says nothing");
    assert!(Response::parse(&[&bare[..], b"x"].concat()).is_err());
}

#[test]
fn an_error_without_a_question_has_at_most_edns() {
    const ROOT: &[u8] = &[0];
    let opt = |extended: u32| record(ROOT, kind::OPT, extended << 24, &[0, 3, 0, 1, b'x']);
    let error =
        |flags, counts, records: &[Vec<u8>]| [header(flags, counts), records.concat()].concat();
    let (formerr, noerror) = (0x8181, 0x8180);
    for message in [
        error(formerr, [0, 0, 0, 1], &[opt(0)]),
        // BADVERS: its code is in both, and the header's part is zero.
        error(noerror, [0, 0, 0, 1], &[opt(1)]),
    ] {
        let response = Response::parse(&message).unwrap();
        assert!(response.question.is_none() && response.addresses().next().is_none());
        assert!(Response::parse(&[&message[..], b"x"].concat()).is_err());
        assert!(Response::parse(&message[..message.len() - 1]).is_err());
    }
    let address = || record(ROOT, kind::A, 9, &[192, 0, 2, 1]);
    for message in [
        error(noerror, [0, 0, 0, 1], &[opt(0)]),
        error(formerr, [0, 0, 0, 2], &[opt(0), opt(0)]),
        error(formerr, [0, 0, 0, 1], &[record(&wire("a"), kind::OPT, 0, &[])]),
        error(formerr, [0, 0, 0, 1], &[address()]),
        error(formerr, [0, 0, 0, 2], &[opt(0), address()]),
        error(formerr, [0, 0, 1, 0], &[opt(0)]),
        error(formerr, [0, 1, 0, 0], &[address()]),
    ] {
        assert!(Response::parse(&message).is_err(), "{message:?}");
    }
}

proptest! {
    #[test]
    fn arbitrary_messages_do_not_panic(message: Vec<u8>, counts in prop::array::uniform4(0..4_u16)) {
        let _ = (Query::parse(&message), Response::parse(&message).map(|r| r.addresses().count()));
        for flags in [0x0100, 0x8180] {
            let message = [header(flags, counts), message.clone()].concat();
            let _ = Query::parse(&message);
            let _ = Response::parse(&message).map(|r| r.addresses().count());
        }
    }

    #[test]
    fn a_message_that_was_cut_or_changed_does_not_panic(
        cut in 0..120_usize, at in 0..120_usize, byte: u8,
    ) {
        let alias = record(QNAME, kind::CNAME, 9, &[1, b'x', 0xc0, 12]);
        let mut message = response("aa.bb", &[alias, record(&[0xc0, 35], kind::A, 9, &[9; 4])]);
        if let Some(place) = message.get_mut(at) {
            *place = byte;
        }
        message.truncate(cut);
        let _ = Query::parse(&message);
        let _ = Response::parse(&message).map(|r| r.addresses().count());
    }
}
