//! Requests of every API and version, and the answers to them.

use super::*;
use schema::{Field, Kind, List, TOPIC_RESOURCE};

/// Requests of every known API and version, each for the topics `orders` and `jobs` if it names
/// topics, and two partitions of each.
fn requests() -> Vec<(&'static Api, i16, Vec<u8>)> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/corpora/kafka/requests.txt");
    let text = std::fs::read_to_string(path).unwrap();
    let read = |line: &str| {
        let [key, version, frame] = line.split(' ').collect::<Vec<_>>()[..] else { panic!() };
        let bytes = (0..frame.len() / 2)
            .map(|at| u8::from_str_radix(&frame[2 * at..2 * at + 2], 16).unwrap())
            .collect();
        (Api::of(key.parse().unwrap()).unwrap(), version.parse().unwrap(), bytes)
    };
    text.lines().filter(|line| !line.starts_with('#')).map(read).collect()
}

/// Reads a request that arrives in pieces of `size` bytes.
fn names_of(api: &Api, version: i16, frame: &[u8], size: usize) -> (RequestNames, usize) {
    let header = header(frame).unwrap().unwrap();
    assert_eq!((header.api_key, header.api_version), (api.key, version));
    assert_eq!((header.correlation_id, header.client_id), (77, Some(&b"me"[..])));
    assert_eq!(header.frame, frame.len());
    let mut walker = Walker::new(api.flexible, version, api.request, header.len, frame.len());
    let (mut names, mut arrived) = (RequestNames::default(), size.min(frame.len()));
    loop {
        match walker.read(&frame[..arrived], 0).unwrap() {
            Some(Found::End) => return (names, walker.at()),
            Some(found) => names.add(found).unwrap(),
            None => {
                assert!(arrived < frame.len(), "API {} version {version}", api.key);
                arrived = frame.len().min(arrived + size);
            }
        }
    }
}

type Topics = Vec<(Option<Vec<u8>>, Option<[u8; 16]>, Vec<i32>)>;

fn topics(names: &RequestNames) -> Topics {
    let topic = |index| {
        let topic = names.topic(index);
        assert_eq!(topic.resource, TOPIC_RESOURCE);
        (topic.name.map(<[u8]>::to_vec), topic.id, topic.partitions.to_vec())
    };
    (0..names.len()).map(topic).collect()
}

fn has_list(fields: &[Field], wanted: List, version: i16) -> bool {
    fields.iter().filter(|field| field.is_in(version)).any(|field| match field.kind {
        Kind::Array { fields, list, .. } => list == wanted || has_list(fields, wanted, version),
        _ => false,
    })
}

#[test]
fn every_version_of_every_api_is_read() {
    let requests = requests();
    for api in Api::all() {
        for version in api.versions.0..=api.versions.1 {
            let known = requests.iter().any(|(of, v, _)| of.key == api.key && *v == version);
            assert!(known, "API {} version {version}", api.key);
        }
    }
    for (api, version, frame) in &requests {
        let what = format!("API {} version {version}", api.key);
        let (names, end) = names_of(api, *version, frame, usize::MAX);
        let cut_short = api.request.iter().any(|field| matches!(field.kind, Kind::UnreadStruct));
        assert!(end == frame.len() || cut_short, "{what}: {end} of {} bytes", frame.len());
        let found = topics(&names);
        if has_list(api.request, List::Topics, *version) {
            // Lists within two groups or transactions.
            let count = if has_list(api.request, List::Keys, *version) { 4 } else { 2 };
            assert_eq!(found.len(), count, "{what}");
            for (index, (name, id, partitions)) in found.iter().enumerate() {
                let (wanted, number) = if index % 2 == 0 { ("orders", 0) } else { ("jobs", 1) };
                let wanted_id = id.map(|id| id[15]);
                assert!(name.is_some() || wanted_id == Some(number), "{what}: {found:?}");
                assert!(name.as_deref().is_none_or(|name| name == wanted.as_bytes()), "{what}");
                if has_list(api.request, List::Partitions, *version) {
                    assert_eq!(partitions, &[3, 4], "{what}");
                }
            }
        } else {
            assert!(found.is_empty(), "{what}");
        }
        for size in [1, 2, 7] {
            assert_eq!(topics(&names_of(api, *version, frame, size).0), found, "{what}");
        }
    }
}

#[test]
fn a_damaged_request_is_never_read_beyond_its_end() {
    for (api, version, frame) in requests() {
        let start = header(&frame).unwrap().unwrap().len;
        for at in start..frame.len() {
            for value in [0, 1, 0x7f, 0x80, 0xff] {
                let mut frame = frame.clone();
                frame[at] = value;
                let len = frame.len();
                let mut walker = Walker::new(api.flexible, version, api.request, start, len);
                let mut names = RequestNames::default();
                while let Ok(Some(found)) = walker.read(&frame, 0) {
                    if found == Found::End || names.add(found).is_err() {
                        break;
                    }
                }
                assert!(walker.at() <= len);
            }
        }
    }
}

/// What kio and kafka-python read in these answers was compared with what the answers should say.
#[test]
fn denials_have_the_layout_of_their_responses() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/corpora/kafka/answers.txt");
    let mut text = "\
# Answers to the denied requests of requests.txt, which kio reads.
# Versions that Kafka 4 removed are written by kafka-python; OffsetForLeaderEpoch of them by hand.
"
    .to_owned();
    for (api, version, frame) in requests() {
        // They are never denied.
        if [17, 18, 36].contains(&api.key) {
            continue;
        }
        let (names, _) = names_of(api, version, &frame, usize::MAX);
        let answer = answer(api, version, 77, &names).unwrap();
        let answer: String = answer.iter().map(|byte| format!("{byte:02x}")).collect();
        text += &format!("{} {version} {answer}\n", api.key);
    }
    assert_eq!(text, std::fs::read_to_string(path).unwrap());
}

#[test]
fn a_denial_names_the_right_that_lacks() {
    let code = |key: i16, version: i16| {
        let requests = requests();
        let (api, version, frame) =
            requests.iter().find(|(api, v, _)| api.key == key && *v == version).unwrap();
        error_code(api, &names_of(api, *version, frame, usize::MAX).0)
    };
    for (key, version, expected) in [
        (0, 9, 29),
        (1, 12, 29),
        (3, 9, 29),
        (8, 8, 29),
        (11, 9, 30),
        (15, 5, 30),
        (22, 4, 53),
        (24, 3, 29),
        (26, 3, 53),
        (32, 4, 29),
        (60, 0, 31),
        (16, 4, 31),
    ] {
        assert_eq!(code(key, version), expected, "API {key}");
    }
    let init = Api::of(22).unwrap();
    assert_eq!(error_code(init, &RequestNames::default()), 31, "an idempotent producer");
}

/// As Kafka's `SessionErrorContext` answers: no session, and no topics.
#[test]
fn a_session_that_is_ended_is_answered_in_every_version() {
    let fetch = Api::of(1).unwrap();
    for version in 7..=fetch.versions.1 {
        let expected: &[u8] = match version {
            7..=11 => &[0, 0, 0, 18, 0, 0, 0, 77, 0, 0, 0, 0, 0, 71, 0, 0, 0, 0, 0, 0, 0, 0],
            _ => &[0, 0, 0, 17, 0, 0, 0, 77, 0, 0, 0, 0, 0, 0, 71, 0, 0, 0, 0, 1, 0],
        };
        assert_eq!(session_ended(fetch, version, 77).as_deref(), Some(expected), "{version}");
    }
}

#[test]
fn a_fetch_says_what_it_does_with_a_session() {
    let requests = requests();
    let of = |key: i16, version: i16, session: Option<(i32, i32)>| {
        let (api, _, frame) =
            requests.iter().find(|(api, v, _)| api.key == key && *v == version).unwrap();
        let mut frame = frame.clone();
        if let Some((id, epoch)) = session {
            // The requests of the corpus have isolation level, session id and epoch 1.
            let is_of_corpus = |bytes: &[u8]| bytes == [1, 0, 0, 0, 1, 0, 0, 0, 1];
            let at = frame.windows(9).position(is_of_corpus).unwrap() + 1;
            frame[at..at + 8].copy_from_slice(&[id, epoch].map(i32::to_be_bytes).concat());
        }
        names_of(api, version, &frame, usize::MAX).0.fetch_session()
    };
    for version in 7..=18 {
        let full = |closed, opens| Some(FetchSession::Full { closed, opens });
        assert_eq!(of(1, version, None), Some(FetchSession::Continued(1)));
        for (id, epoch, expected) in [
            (0, 0, full(0, true)),
            (5, 0, full(5, true)),
            (5, -1, full(5, false)),
            (5, 1, Some(FetchSession::Continued(5))),
            (0, i32::MIN, Some(FetchSession::Continued(0))),
        ] {
            assert_eq!(of(1, version, Some((id, epoch))), expected, "version {version}");
        }
    }
    assert_eq!((of(1, 6, None), of(3, 9, None)), (None, None));
}

#[test]
fn what_is_no_frame_is_known_at_once() {
    for text in [&b"\x16\x03\x01"[..], b"GET /", b"SSH-2.0", b"\x80", b"\xff\xff\xff\xff"] {
        assert_eq!(header(text), Err(Malformed), "{}", text.escape_ascii());
    }
    for frame in [&[0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0][..], &[0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 1]] {
        assert_eq!(header(frame), Err(Malformed), "{frame:?}");
    }
}

#[test]
fn unknown_versions_and_topic_ids_are_not_offered() {
    let element = |key: i16, min: i16, max: i16| {
        [key, min, max].into_iter().flat_map(i16::to_be_bytes).collect::<Vec<u8>>()
    };
    let elements = |maxima: [i16; 4]| {
        [
            element(0, 3, maxima[0]),
            element(1, 4, maxima[1]),
            element(18, 0, maxima[2]),
            element(999, 0, maxima[3]),
        ]
    };
    for version in [0, 3] {
        let frame = |maxima| {
            let (mut frame, count, tail): (_, _, &[u8]) = match version {
                0 => (vec![0, 0, 0, 0, 0, 0, 0, 77, 0, 0], vec![0, 0, 0, 4], &[]),
                _ => (vec![0, 0, 0, 0, 0, 0, 0, 77, 0, 0], vec![5], &[0]),
            };
            frame.extend(count);
            elements(maxima).iter().for_each(|element| frame.extend([element, tail].concat()));
            frame
        };
        let mut edited = frame([13, 18, 4, 9]);
        versions::limit(&mut edited, version);
        assert_eq!(edited, frame([12, 12, 4, 9]));
        let mut cut = frame([13, 18, 4, 9]);
        cut.truncate(20);
        versions::limit(&mut cut, version);
    }
}
