//! The decoder against RFC 7541 Appendix C, two other encoders, and hostile blocks; the writer
//! against another decoder.

use proptest::prelude::*;

use super::encode::{self, Indexing};
use super::{DEFAULT_TABLE_SIZE, Decoder, HpackError, Part, Representation, huffman, integer};

/// Name, value and representation of a field.
type Field = (Vec<u8>, Vec<u8>, Representation);

fn hex(text: &str) -> Vec<u8> {
    let digits: String = text.split_whitespace().collect();
    let byte = |at: usize| u8::from_str_radix(&digits[at..at + 2], 16).unwrap();
    (0..digits.len()).step_by(2).map(byte).collect()
}

fn latin1(text: &str) -> Vec<u8> {
    text.chars().map(|c| c as u8).collect()
}

/// The fields of a block, and the sizes of the table that it says.
fn decode(decoder: &mut Decoder, block: &[u8]) -> Result<(Vec<Field>, Vec<u32>), HpackError> {
    let (mut fields, mut sizes) = (Vec::new(), Vec::new());
    decoder.decode(block, &mut Vec::new(), |part| match part {
        Part::Field { name, value, representation, .. } => {
            fields.push((name.to_vec(), value.to_vec(), representation));
        }
        Part::TableSize(size) => sizes.push(size),
    })?;
    Ok((fields, sizes))
}

fn fails(block: &str) -> HpackError {
    decode(&mut Decoder::new(0), &hex(block)).unwrap_err()
}

/// Decodes blocks of one connection, and compares fields, written `name: value`, and the size of
/// the table after each block.
fn assert_blocks(decoder: &mut Decoder, blocks: &[(&str, &[&str], usize)]) {
    for (block, expected, size) in blocks {
        let (fields, _) = decode(decoder, &hex(block)).unwrap();
        let fields = fields.iter().map(|(name, value, _)| {
            format!("{}: {}", String::from_utf8_lossy(name), String::from_utf8_lossy(value))
        });
        assert_eq!(fields.collect::<Vec<_>>(), *expected);
        assert_eq!(decoder.table().size(), *size, "{expected:?}");
    }
}

#[test]
fn single_fields_of_appendix_c_2() {
    for (block, name, value, representation, size) in [
        (
            "400a 6375 7374 6f6d 2d6b 6579 0d63 7573 746f 6d2d 6865 6164 6572",
            "custom-key",
            "custom-header",
            Representation::Incremental,
            55,
        ),
        (
            "040c 2f73 616d 706c 652f 7061 7468",
            ":path",
            "/sample/path",
            Representation::WithoutIndexing,
            0,
        ),
        (
            "1008 7061 7373 776f 7264 0673 6563 7265 74",
            "password",
            "secret",
            Representation::NeverIndexed,
            0,
        ),
        ("82", ":method", "GET", Representation::Indexed, 0),
    ] {
        let mut decoder = Decoder::new(DEFAULT_TABLE_SIZE);
        let (fields, sizes) = decode(&mut decoder, &hex(block)).unwrap();
        assert_eq!(fields, [(name.into(), value.into(), representation)]);
        assert!(sizes.is_empty());
        assert_eq!(decoder.table().size(), size);
    }
}

#[test]
fn requests_of_appendix_c_3_and_c_4() {
    let common = [":method: GET", ":scheme: http", ":path: /", ":authority: www.example.com"];
    let first = common.as_slice();
    let second = &[&common[..], &["cache-control: no-cache"]].concat()[..];
    let third = &[
        ":method: GET",
        ":scheme: https",
        ":path: /index.html",
        ":authority: www.example.com",
        "custom-key: custom-value",
    ][..];
    for blocks in [
        [
            "8286 8441 0f77 7777 2e65 7861 6d70 6c65 2e63 6f6d",
            "8286 84be 5808 6e6f 2d63 6163 6865",
            "8287 85bf 400a 6375 7374 6f6d 2d6b 6579 0c63 7573 746f 6d2d 7661 6c75 65",
        ],
        [
            "8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff",
            "8286 84be 5886 a8eb 1064 9cbf",
            "8287 85bf 4088 25a8 49e9 5ba9 7d7f 8925 a849 e95b b8e8 b4bf",
        ],
    ] {
        let [one, two, three] = blocks;
        let blocks = [(one, first, 57), (two, second, 110), (three, third, 164)];
        assert_blocks(&mut Decoder::new(DEFAULT_TABLE_SIZE), &blocks);
    }
}

#[test]
fn responses_of_appendix_c_5_and_c_6_evict_entries() {
    let date = "date: Mon, 21 Oct 2013 20:13:21 GMT";
    let common = ["cache-control: private", date, "location: https://www.example.com"];
    let first = &[&[":status: 302"], &common[..]].concat()[..];
    let second = &[&[":status: 307"], &common[..]].concat()[..];
    let third = &[
        ":status: 200",
        "cache-control: private",
        "date: Mon, 21 Oct 2013 20:13:22 GMT",
        "location: https://www.example.com",
        "content-encoding: gzip",
        "set-cookie: foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1",
    ][..];
    for blocks in [
        [
            "4803 3330 3258 0770 7269 7661 7465 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 2032 \
             303a 3133 3a32 3120 474d 546e 1768 7474 7073 3a2f 2f77 7777 2e65 7861 6d70 6c65 2e63 \
             6f6d",
            "4803 3330 37c1 c0bf",
            "88c1 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 2032 303a 3133 3a32 3220 474d 54c0 \
             5a04 677a 6970 7738 666f 6f3d 4153 444a 4b48 514b 425a 584f 5157 454f 5049 5541 5851 \
             5745 4f49 553b 206d 6178 2d61 6765 3d33 3630 303b 2076 6572 7369 6f6e 3d31",
        ],
        [
            "4882 6402 5885 aec3 771a 4b61 96d0 7abe 9410 54d4 44a8 2005 9504 0b81 66e0 82a6 2d1b \
             ff6e 919d 29ad 1718 63c7 8f0b 97c8 e9ae 82ae 43d3",
            "4883 640e ffc1 c0bf",
            "88c1 6196 d07a be94 1054 d444 a820 0595 040b 8166 e084 a62d 1bff c05a 839b d9ab 77ad \
             94e7 821d d7f2 e6c7 b335 dfdf cd5b 3960 d5af 2708 7f36 72c1 ab27 0fb5 291f 9587 3160 \
             65c0 03ed 4ee5 b106 3d50 07",
        ],
    ] {
        let [one, two, three] = blocks;
        let mut decoder = Decoder::new(DEFAULT_TABLE_SIZE);
        // The examples' table has 256 bytes.
        decode(&mut decoder, &hex("3f e1 01")).unwrap();
        assert_blocks(&mut decoder, &[(one, first, 222), (two, second, 222), (three, third, 215)]);
    }
}

#[test]
fn blocks_of_another_encoder_decode_to_its_fields() {
    type Block = (Option<u32>, String, Vec<(String, String, bool)>);
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/corpora/hpack/vectors.jsonl");
    for line in std::fs::read_to_string(file).unwrap().lines() {
        let mut decoder = Decoder::new(DEFAULT_TABLE_SIZE);
        for (limit, block, expected) in serde_json::from_str::<Vec<Block>>(line).unwrap() {
            if let Some(limit) = limit {
                decoder.set_limit(limit);
            }
            let (fields, _) = decode(&mut decoder, &hex(&block)).unwrap();
            assert_eq!(fields.len(), expected.len());
            for ((name, value, representation), (n, v, never)) in fields.iter().zip(&expected) {
                assert_eq!((name, value), (&latin1(n), &latin1(v)));
                // That encoder takes an entry that is equal, whatever the setting.
                let is_never = *representation == Representation::NeverIndexed;
                assert!(is_never == *never || *representation == Representation::Indexed);
            }
            assert!(decoder.heap() < 3 * DEFAULT_TABLE_SIZE as usize);
        }
    }
}

#[test]
fn integers_of_appendix_c_1_and_their_bound() {
    assert_eq!(integer::decode(&[0b1110_1010], 5), Ok((10, &[][..])));
    assert_eq!(integer::decode(&[0xff, 0x9a, 0x0a, 7], 5), Ok((1337, &[7][..])));
    assert_eq!(integer::decode(&[42], 8), Ok((42, &[][..])));
    assert_eq!(integer::decode(&[0x7f, 0x80, 0x80, 0], 7), Ok((127, &[][..])), "in more bytes");
    let largest = [0x1f, 0xff, 0xff, 0xff, 0x7f];
    assert_eq!(integer::decode(&largest, 5), Ok(((1 << 28) + 30, &[][..])));
    let too_large = [0x1f, 0x80, 0x80, 0x80, 0x80, 0x01];
    assert_eq!(integer::decode(&too_large, 5), Err(HpackError::IntegerTooLarge));
    assert_eq!(integer::decode(&[0x1f, 0x80], 5), Err(HpackError::Truncated));
    assert_eq!(integer::decode(&[], 5), Err(HpackError::Truncated));
}

#[test]
fn malformed_blocks_fail_with_the_cause() {
    for (block, expected) in [
        ("80", HpackError::NoSuchEntry),
        ("be", HpackError::NoSuchEntry),
        ("7f 00 00", HpackError::NoSuchEntry),
        ("ff ff ff ff ff ff", HpackError::IntegerTooLarge),
        ("40 05 61", HpackError::Truncated),
        ("40", HpackError::Truncated),
        ("40 01 61", HpackError::Truncated),
        ("00 ff ff ff ff 7f", HpackError::Truncated),
        // All ones: the end of a string, and padding of eight bits.
        ("00 84 ff ff ff ff 00", HpackError::InvalidHuffman),
        ("00 81 ff 00", HpackError::InvalidHuffman),
        // `a` has five bits, and the padding has a zero.
        ("00 81 18 00", HpackError::InvalidHuffman),
        ("3f e2 1f", HpackError::TableTooLarge),
        ("82 20", HpackError::TableSizeWithinBlock),
    ] {
        assert_eq!(fails(block), expected, "{block}");
    }
    assert_eq!(decode(&mut Decoder::new(0), &hex("00 81 1f 00")).unwrap().0[0].0, b"a");
}

#[test]
fn a_lower_limit_must_be_followed_by_a_size() {
    let insert = hex("4001 6101 62");
    let lowered = |limits: &[u32], block: &str| {
        let mut decoder = Decoder::new(1 << 16);
        decode(&mut decoder, &insert).unwrap();
        limits.iter().for_each(|limit| decoder.set_limit(*limit));
        decode(&mut decoder, &hex(block)).map(|(_, sizes)| (sizes, decoder.table().size()))
    };
    assert_eq!(lowered(&[100], "82"), Err(HpackError::TableSizeMissing));
    assert_eq!(lowered(&[100], "3f 4582"), Ok((vec![100], 34)));
    assert_eq!(lowered(&[0], "2082"), Ok((vec![0], 0)));
    assert_eq!(lowered(&[100], "3f 4682"), Err(HpackError::TableTooLarge));
    assert_eq!(lowered(&[100], ""), Ok((vec![], 34)), "an empty block says nothing");
    // The smallest limit counts, and a larger one may follow.
    assert_eq!(lowered(&[0, 100], "3f 4582"), Err(HpackError::TableSizeMissing));
    assert_eq!(lowered(&[0, 100], "203f 4582"), Ok((vec![0, 100], 0)));
    assert_eq!(lowered(&[8192], "82"), Ok((vec![], 34)));
    assert_eq!(lowered(&[8192], "3fe1 3f82"), Ok((vec![8192], 34)));
    assert_eq!(lowered(&[1 << 20], "3fe1 ff07"), Err(HpackError::TableTooLarge), "the quota");
}

#[test]
fn an_entry_may_be_evicted_for_one_that_has_its_name() {
    let mut decoder = Decoder::new(0);
    // A table for one entry of 40 bytes.
    let (fields, _) = decode(&mut decoder, &hex("3f 09 4003 6162 6301 64 7e01 65 be")).unwrap();
    let shown: Vec<_> = fields.iter().map(|(n, v, _)| (&n[..], &v[..])).collect();
    assert_eq!(shown, [(&b"abc"[..], &b"d"[..]), (b"abc", b"e"), (b"abc", b"e")]);
    // One that is too large empties the table.
    assert_eq!(decode(&mut decoder, &hex("7e07 61616161616161")).unwrap().0.len(), 1);
    assert_eq!(decoder.table().size(), 0);
    assert_eq!(decode(&mut decoder, &hex("be")), Err(HpackError::NoSuchEntry));
}

fn a_field() -> impl Strategy<Value = (Vec<u8>, Vec<u8>)> {
    let name = prop_oneof![
        prop::sample::select(&[":path", ":status", "cookie", "x-a", "x-b"][..])
            .prop_map(|name| name.as_bytes().to_vec()),
        prop::collection::vec(any::<u8>(), 0..20),
    ];
    let value = prop_oneof![
        prop::sample::select(&["/", "200", "", "abc"][..]).prop_map(|text| text.into()),
        prop::collection::vec(any::<u8>(), 0..300),
    ];
    (name, value)
}

fn blocks() -> impl Strategy<Value = Vec<Vec<(Vec<u8>, Vec<u8>)>>> {
    prop::collection::vec(prop::collection::vec(a_field(), 1..12), 1..8)
}

proptest! {
    #[test]
    fn blocks_of_a_third_encoder_decode_to_its_fields(blocks in blocks()) {
        let (mut encoder, mut decoder) = (loona_hpack::Encoder::new(), Decoder::new(0));
        for fields in blocks {
            let block = encoder.encode(fields.iter().map(|(n, v)| (&n[..], &v[..])));
            let (decoded, _) = decode(&mut decoder, &block).unwrap();
            let decoded: Vec<_> = decoded.into_iter().map(|(n, v, _)| (n, v)).collect();
            prop_assert_eq!(decoded, fields);
            prop_assert!(decoder.heap() < 3 * DEFAULT_TABLE_SIZE as usize);
        }
    }

    #[test]
    fn written_blocks_decode_to_their_fields(blocks in blocks(), never: bool) {
        let (mut theirs, mut ours) = (loona_hpack::Decoder::new(), Decoder::new(0));
        let indexing = if never { Indexing::Never } else { Indexing::Allowed };
        for fields in blocks {
            let mut block = Vec::new();
            encode::table_size(&mut block, 100);
            fields.iter().for_each(|(n, v)| encode::field(&mut block, n, v, indexing));
            prop_assert_eq!(&theirs.decode(&block).unwrap(), &fields);
            let (decoded, sizes) = decode(&mut ours, &block).unwrap();
            prop_assert_eq!(sizes, [100]);
            prop_assert_eq!(ours.table().size(), 0);
            for ((name, value, representation), expected) in decoded.into_iter().zip(&fields) {
                prop_assert_eq!((&name, &value), (&expected.0, &expected.1));
                prop_assert_eq!(representation == Representation::NeverIndexed, never);
            }
        }
    }

    #[test]
    fn any_block_gets_an_answer(blocks: Vec<Vec<u8>>, limits: Vec<u16>) {
        let mut decoder = Decoder::new(0);
        let mut limits = limits.into_iter();
        for block in blocks {
            if let Some(limit) = limits.next() {
                decoder.set_limit(limit.into());
            }
            if decode(&mut decoder, &block).is_err() {
                break;
            }
            prop_assert!(decoder.table().size() <= decoder.table().size_max());
            prop_assert!(decoder.heap() < 3 * DEFAULT_TABLE_SIZE as usize);
        }
    }

    #[test]
    fn integers_survive(value in 0..1u32 << 28, prefix in 4..8u32) {
        let mut block = Vec::new();
        integer::encode(&mut block, 0, prefix, value);
        prop_assert_eq!(integer::decode(&block, prefix), Ok((value, &[][..])));
    }

    #[test]
    fn huffman_codes_of_arbitrary_bytes_do_not_panic(coded: Vec<u8>) {
        let mut decoded = Vec::new();
        let _ = huffman::decode(&coded, &mut decoded);
        prop_assert!(decoded.len() <= 2 * coded.len());
    }
}
