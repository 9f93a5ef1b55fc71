//! ClientHellos and ServerHellos, whole, in pieces and malformed.

use super::*;

const SUITES: &[u8] = &[0, 2, 0x13, 0x01];

fn with_len_u16(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as u16).to_be_bytes(), bytes].concat()
}

fn extension(number: u16, data: &[u8]) -> Vec<u8> {
    [&number.to_be_bytes()[..], &with_len_u16(data)].concat()
}

/// The extension `server_name` with entries of a type and a name.
fn names(entries: &[(u8, &[u8])]) -> Vec<u8> {
    let list: Vec<u8> = entries
        .iter()
        .flat_map(|(kind, name)| [vec![*kind], with_len_u16(name)].concat())
        .collect();
    extension(0, &with_len_u16(&list))
}

fn body(extensions: &[u8]) -> Vec<u8> {
    [&[3, 3][..], &[7; 32], &[0], SUITES, &[1, 0], &with_len_u16(extensions)].concat()
}

fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    [&[kind][..], &(body.len() as u32).to_be_bytes()[1..], body].concat()
}

fn record(content: u8, bytes: &[u8]) -> Vec<u8> {
    [&[content, 3, 1][..], &with_len_u16(bytes)].concat()
}

fn hello_with(extensions: &[u8]) -> Vec<u8> {
    record(22, &message(1, &body(extensions)))
}

fn name_in(extensions: &[u8]) -> Result<Option<Vec<u8>>, NameError> {
    let stream = hello_with(extensions);
    let hello = client_hello(&stream).unwrap().unwrap();
    assert_eq!(hello.len, stream.len());
    hello.server_name().map(|name| name.map(<[u8]>::to_vec))
}

#[test]
fn the_name_is_found_among_any_extensions() {
    let grease = extension(0x0a0a, b"");
    let outer = extension(0xfe0d, &[0; 40]);
    let name = names(&[(0, b"a.example")]);
    for extensions in [
        name.clone(),
        [&grease[..], &name, &outer].concat(),
        [&outer[..], &grease, &extension(43, &[2, 3, 4]), &name].concat(),
    ] {
        assert_eq!(name_in(&extensions), Ok(Some(b"a.example".to_vec())));
    }
    assert_eq!(name_in(&grease), Ok(None));
    assert_eq!(name_in(b""), Ok(None));
}

#[test]
fn a_hello_without_extensions_has_no_name() {
    let without = [&[3, 1][..], &[7; 32], &[0], SUITES, &[1, 0]].concat();
    let stream = record(22, &message(1, &without));
    assert_eq!(client_hello(&stream).unwrap().unwrap().server_name(), Ok(None));
}

#[test]
fn a_name_that_can_be_read_in_two_ways_is_an_error() {
    let one = names(&[(0, b"a")]);
    let cut = &one[..one.len() - 1];
    for (what, extensions) in [
        ("two entries", names(&[(0, b"a"), (0, b"b")])),
        ("the same twice", names(&[(0, b"a"), (0, b"a")])),
        ("another type", names(&[(1, b"a")])),
        ("another type first", names(&[(1, b"x"), (0, b"a")])),
        ("an empty list", names(&[])),
        ("an empty name", names(&[(0, b"")])),
        ("an empty extension, which only servers send", extension(0, b"")),
        ("two extensions", [one.clone(), one.clone()].concat()),
        ("two extensions of two names", [one.clone(), names(&[(0, b"b")])].concat()),
        ("bytes after the list", extension(0, &[0, 4, 0, 0, 1, b'a', 9])),
        ("bytes in the list", extension(0, &[0, 5, 0, 0, 1, b'a', 9])),
        ("a list that is cut off", extension(0, &[0, 9, 0, 0, 1, b'a'])),
        ("an extension that is cut off", cut.to_vec()),
    ] {
        assert_eq!(name_in(&extensions), Err(NameError), "{what}");
    }
}

#[test]
fn a_malformed_hello_is_an_error() {
    let good = body(&names(&[(0, b"a")]));
    let change = |at: usize, to: u8| {
        let mut body = good.clone();
        body[at] = to;
        body
    };
    let bodies = [
        ("version 2", change(0, 2)),
        ("a session id of 33 bytes", change(34, 33)),
        ("no cipher suites", change(36, 0)),
        ("half a cipher suite", change(36, 1)),
        ("no compression methods", change(39, 0)),
        ("extensions that are too long", change(42, 200)),
        ("extensions that are too short", change(42, 1)),
        ("bytes after the extensions", [&good[..], b"x"].concat()),
    ];
    for (what, body) in bodies {
        let stream = record(22, &message(1, &body));
        let hello = client_hello(&stream).unwrap().unwrap();
        assert_eq!(hello.server_name(), Err(NameError), "{what}");
    }
    for cut in 0..good.len() {
        let stream = record(22, &message(1, &good[..cut]));
        let hello = client_hello(&stream).unwrap().unwrap();
        let expected = if cut == 41 { Ok(None) } else { Err(NameError) };
        assert_eq!(hello.server_name(), expected, "cut at {cut}");
    }
}

#[test]
fn a_hello_may_span_records_of_any_size() {
    let whole = message(1, &body(&names(&[(0, b"a.example")])));
    for size in 1..whole.len() {
        let stream: Vec<u8> = whole.chunks(size).flat_map(|part| record(22, part)).collect();
        for cut in 0..stream.len() {
            assert_eq!(client_hello(&stream[..cut]), Ok(None), "records of {size}, cut at {cut}");
        }
        let behind = [&stream[..], b"what follows"].concat();
        let hello = client_hello(&behind).unwrap().unwrap();
        assert_eq!((hello.len, hello.server_name()), (stream.len(), Ok(Some(&b"a.example"[..]))));
    }
}

#[test]
fn what_is_no_hello_is_known_at_once() {
    let hello = message(1, &body(b""));
    let (first, second) = hello.split_at(9);
    for (what, stream, invalid) in [
        ("HTTP", b"G".to_vec(), Invalid::NotTls),
        ("SSL 2.0", vec![0x80], Invalid::NotTls),
        ("SSL 2.0 in two bytes of length", vec![0x00, 0x2e], Invalid::NotTls),
        ("SSH", b"SSH-2.0".to_vec(), Invalid::NotTls),
        ("version 2", vec![22, 2], Invalid::NotTls),
        ("an alert", record(21, &[1, 0]), Invalid::Malformed),
        ("early data", record(23, b"x"), Invalid::Malformed),
        ("a record without content", vec![22, 3, 1, 0, 0], Invalid::Malformed),
        ("a record that is too long", vec![22, 3, 1, 0x40, 1], Invalid::Malformed),
        ("another message", record(22, &[16]), Invalid::Malformed),
        ("a hello after another message", record(22, &[0, 0, 0, 0, 1]), Invalid::Malformed),
        ("too long a hello", record(22, &[1, 0, 0x40, 0]), Invalid::TooLong),
        ("bytes after the hello", record(22, &[&hello[..], &[1]].concat()), Invalid::Malformed),
        (
            "another record in between",
            [record(22, first), record(21, &[1, 0]), record(22, second)].concat(),
            Invalid::Malformed,
        ),
        (
            "an empty record in between",
            [record(22, first), record(22, b""), record(22, second)].concat(),
            Invalid::Malformed,
        ),
    ] {
        assert_eq!(client_hello(&stream), Err(invalid), "{what}");
    }
}

#[test]
fn a_hello_in_too_many_records_is_too_long() {
    let whole = message(1, &body(&extension(21, &[0; 8000])));
    let stream: Vec<u8> = whole.chunks(1).flat_map(|part| record(22, part)).collect();
    assert_eq!(client_hello(&stream[..HELLO_RECORDS_MAX]), Ok(None));
    assert_eq!(client_hello(&stream[..=HELLO_RECORDS_MAX]), Err(Invalid::TooLong));
    let longest = body(b"");
    let padding = HELLO_MAX - HANDSHAKE_HEADER - longest.len() - 4;
    let stream = hello_with(&extension(21, &vec![0; padding]));
    assert!(matches!(client_hello(&stream), Ok(Some(_))));
}

#[test]
fn a_hello_retry_request_is_told_from_a_server_hello() {
    let server = |random: &[u8; 32]| {
        let rest = [&[0, 0x13, 0x01, 0][..], &with_len_u16(&extension(43, &[3, 4]))].concat();
        message(2, &[&[3, 3][..], random, &rest].concat())
    };
    let (retry, hello) = (server(&RETRY_RANDOM), server(&[7; 32]));
    for size in 1..retry.len() {
        let records = |whole: &[u8]| -> Vec<u8> {
            whole.chunks(size).flat_map(|part| record(22, part)).collect()
        };
        let stream = records(&retry);
        for cut in 0..stream.len() {
            assert_eq!(server_message(&stream[..cut]), Ok(None), "cut at {cut}");
        }
        let len = stream.len();
        let behind = [&stream[..], &record(20, &[1])].concat();
        assert_eq!(server_message(&behind), Ok(Some(ServerMessage::RetryRequest { len })));
        assert_eq!(server_message(&records(&hello)), Ok(Some(ServerMessage::Hello)));
    }
    // TLS 1.2 may send its whole flight in one record.
    let flight = record(22, &[&hello[..], &message(11, &[0; 900])].concat());
    assert_eq!(server_message(&flight[..60]), Ok(Some(ServerMessage::Hello)));
    let warning = record(21, &[1, 112]);
    let other = Record { content: ContentType::Alert, len: 2 };
    assert_eq!(server_message(&warning), Ok(Some(ServerMessage::Other(other))));
    for (stream, invalid) in [
        (b"HTTP/1.1".to_vec(), Invalid::NotTls),
        (record(23, b"x"), Invalid::Malformed),
        (record(22, &[0, 0, 0, 0]), Invalid::Malformed),
        (record(22, &[&retry[..], &[4]].concat()), Invalid::Malformed),
    ] {
        assert_eq!(server_message(&stream), Err(invalid));
    }
}

#[test]
fn names_are_host_names_and_nothing_else() {
    let longest = ["a"; 128].join(".");
    for name in ["a", "A.Example", "xn--bcher-kva.example", "_x.a-b", "1.a", "0x7f000001", &longest]
    {
        assert!(is_server_name(name.as_bytes()), "{name}");
    }
    let too_long = ["a"; 129].join(".");
    for name in [
        "",
        ".",
        "a.",
        "a.example.",
        ".a",
        "a..b",
        "a b",
        "a\0",
        "a.example\0.b",
        "bücher.example",
        "*",
        "*.example",
        "a:443",
        "10.0.0.1",
        "10.1",
        "1",
        "::1",
        "[::1]",
        "a/b",
        &too_long,
    ] {
        assert!(!is_server_name(name.as_bytes()), "{name:?}");
    }
}
