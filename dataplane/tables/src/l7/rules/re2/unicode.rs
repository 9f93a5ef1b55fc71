//! Unicode's tables, as RE2 has them.
//!
//! The tables are regex-syntax's, without the characters that are newer than [`AGE`]. RE2 has no
//! unassigned characters in `C`, and only the names below. `tests/corpora/re2/unicode.jsonl` has
//! RE2's own tables, which a test compares.

use std::sync::LazyLock;

use regex_syntax::hir::{Class, ClassUnicode, ClassUnicodeRange, HirKind};

use super::code_points::{CodePoints, MAX};

/// The version of Unicode that RE2 has had since 2023 (`re2/unicode_groups.cc`).
const AGE: &str = "15.1";

/// Characters whose category changed after [`AGE`]: the older and the newer category.
const RECATEGORIZED: [(u32, &str, &str); 1] = [(0x1171e, "Mn", "Mc")];

const SURROGATES: (u32, u32) = (0xd800, 0xdfff);

/// General categories by the names that RE2 knows.
const CATEGORIES: &str = "\
    C L M N P S Z Cc Cf Co Cs Ll Lm Lo Lt Lu Mc Me Mn Nd Nl No Pc Pd Pe Pf Pi Po Ps Sc Sk Sm So \
    Zl Zp Zs";

/// Scripts by the names that RE2 knows.
const SCRIPTS: &str = "\
    Adlam Ahom Anatolian_Hieroglyphs Arabic Armenian Avestan Balinese Bamum Bassa_Vah Batak \
    Bengali Bhaiksuki Bopomofo Brahmi Braille Buginese Buhid Canadian_Aboriginal Carian \
    Caucasian_Albanian Chakma Cham Cherokee Chorasmian Common Coptic Cuneiform Cypriot \
    Cypro_Minoan Cyrillic Deseret Devanagari Dives_Akuru Dogra Duployan Egyptian_Hieroglyphs \
    Elbasan Elymaic Ethiopic Georgian Glagolitic Gothic Grantha Greek Gujarati Gunjala_Gondi \
    Gurmukhi Han Hangul Hanifi_Rohingya Hanunoo Hatran Hebrew Hiragana Imperial_Aramaic \
    Inherited Inscriptional_Pahlavi Inscriptional_Parthian Javanese Kaithi Kannada Katakana Kawi \
    Kayah_Li Kharoshthi Khitan_Small_Script Khmer Khojki Khudawadi Lao Latin Lepcha Limbu \
    Linear_A Linear_B Lisu Lycian Lydian Mahajani Makasar Malayalam Mandaic Manichaean Marchen \
    Masaram_Gondi Medefaidrin Meetei_Mayek Mende_Kikakui Meroitic_Cursive Meroitic_Hieroglyphs \
    Miao Modi Mongolian Mro Multani Myanmar Nabataean Nag_Mundari Nandinagari New_Tai_Lue Newa \
    Nko Nushu Nyiakeng_Puachue_Hmong Ogham Ol_Chiki Old_Hungarian Old_Italic Old_North_Arabian \
    Old_Permic Old_Persian Old_Sogdian Old_South_Arabian Old_Turkic Old_Uyghur Oriya Osage \
    Osmanya Pahawh_Hmong Palmyrene Pau_Cin_Hau Phags_Pa Phoenician Psalter_Pahlavi Rejang Runic \
    Samaritan Saurashtra Sharada Shavian Siddham SignWriting Sinhala Sogdian Sora_Sompeng \
    Soyombo Sundanese Syloti_Nagri Syriac Tagalog Tagbanwa Tai_Le Tai_Tham Tai_Viet Takri Tamil \
    Tangsa Tangut Telugu Thaana Thai Tibetan Tifinagh Tirhuta Toto Ugaritic Vai Vithkuqi Wancho \
    Warang_Citi Yezidi Yi Zanabazar_Square";

/// Categories of the characters of group names (`re2/parse.cc`, `IsValidCaptureName`).
const OF_GROUP_NAMES: [&str; 10] = ["Lu", "Ll", "Lt", "Lm", "Lo", "Nl", "Mn", "Mc", "Nd", "Pc"];

/// The characters that RE2 names so in `\p{…}`, if it knows the name.
pub(super) fn named(name: &str) -> Option<CodePoints> {
    let is_one_of = |names: &str| names.split_ascii_whitespace().any(|known| known == name);
    match name {
        "Any" => Some(CodePoints::new([(0, MAX)])),
        "Cs" => Some(CodePoints::new([SURROGATES])),
        // Without unassigned characters.
        "C" => Some(["Cc", "Cf", "Co", "Cs"].iter().filter_map(|name| named(name)).fold(
            CodePoints::default(),
            |mut all, category| {
                all.union(&category);
                all
            },
        )),
        name if is_one_of(CATEGORIES) => {
            let mut category = of_age(&format!("gc={name}"));
            for (point, older, newer) in RECATEGORIZED {
                let point = CodePoints::new([(point, point)]);
                if name == older {
                    category.union(&point);
                } else if name == newer {
                    category = category.intersect(&point.complement());
                }
            }
            Some(category)
        }
        name if is_one_of(SCRIPTS) => Some(of_age(&format!("sc={name}"))),
        _ => None,
    }
}

/// Whether RE2 accepts the name of a capturing group.
pub(super) fn is_group_name(name: &str) -> bool {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
    if name.chars().all(is_plain) {
        return !name.is_empty();
    }
    let allowed: Vec<_> = OF_GROUP_NAMES.iter().filter_map(|name| named(name)).collect();
    name.chars().all(|c| allowed.iter().any(|category| category.contains(u32::from(c))))
}

/// Adds the other cases of each character (Unicode's simple case folding).
pub(super) fn fold_case(points: &mut CodePoints) {
    points.fold(case_folds());
}

/// Pairs of characters that match each other where case is ignored, both ways, sorted.
pub(super) fn case_folds() -> &'static [(u32, u32)] {
    static FOLDS: LazyLock<Vec<(u32, u32)>> = LazyLock::new(|| {
        let mut folds = Vec::new();
        let known = of_age("Changes_When_Casemapped");
        let points = known.ranges().iter().flat_map(|(first, last)| *first..=*last);
        for c in points.filter_map(char::from_u32) {
            let mut cases = ClassUnicode::new([ClassUnicodeRange::new(c, c)]);
            // It fails only where regex-syntax was built without Unicode's tables.
            cases.try_case_fold_simple().unwrap_or_default();
            let others = cases.iter().flat_map(|r| u32::from(r.start())..=u32::from(r.end()));
            let others = others.filter(|other| *other != u32::from(c) && known.contains(*other));
            folds.extend(others.map(|other| (u32::from(c), other)));
        }
        folds
    });
    &FOLDS
}

/// A property of regex-syntax, without characters newer than [`AGE`].
fn of_age(property: &str) -> CodePoints {
    property_of_syntax(property).intersect(&property_of_syntax(&format!("age={AGE}")))
}

/// A property of regex-syntax; nothing if it is unknown.
fn property_of_syntax(property: &str) -> CodePoints {
    let hir = regex_syntax::Parser::new().parse(&format!(r"\p{{{property}}}"));
    match hir.map(regex_syntax::hir::Hir::into_kind) {
        Ok(HirKind::Class(Class::Unicode(class))) => CodePoints::new(
            class.iter().map(|range| (u32::from(range.start()), u32::from(range.end()))),
        ),
        // A class of one character.
        Ok(HirKind::Literal(literal)) => {
            let text = std::str::from_utf8(&literal.0).unwrap_or_default();
            CodePoints::new(text.chars().map(|c| (u32::from(c), u32::from(c))))
        }
        _ => CodePoints::default(),
    }
}

/// All names that RE2 knows.
#[cfg(test)]
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    ["Any"]
        .into_iter()
        .chain([CATEGORIES, SCRIPTS].map(str::split_ascii_whitespace).into_iter().flatten())
}
