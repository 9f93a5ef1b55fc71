//! Text from pods and objects, made safe for a terminal.

use std::fmt::Write as _;

/// Text in which every character is visible: a control character becomes `^[` and the like, as `cat
/// -v` writes it, and any other that does not print by itself its code, `\u{202e}`.
///
/// These are escaped, by Unicode's general categories: controls (Cc), format characters (Cf:
/// direction overrides and isolates, zero-width characters, tags), line and paragraph separators
/// (Zl, Zp), spaces other than U+0020 (Zs), private, unassigned and surrogate codes (Co, Cn, Cs),
/// and marks that change the character before them (Mn, Me); and the letters and symbols that are
/// blank.
#[must_use]
pub fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            ' '..='~' => escaped.push(character),
            '\0'..='\x1f' | '\x7f' => {
                escaped.push('^');
                escaped.push(char::from(character as u8 ^ 0x40));
            }
            _ if prints(character) => escaped.push(character),
            _ => escaped.extend(character.escape_unicode()),
        }
    }
    escaped
}

/// JSON with every character that [`escape`] escapes written as `\uXXXX`: the same values, safe on
/// a terminal. All of those stand inside of strings, where JSON allows that (RFC 8259, section 7).
#[must_use]
pub fn escape_json(json: &str) -> String {
    // Most JSON has none of them.
    if json.bytes().fold(0, u8::max) < 0x7f {
        return json.to_owned();
    }
    let mut escaped = String::with_capacity(json.len());
    for character in json.chars() {
        if character != '\x7f' && (character.is_ascii() || prints(character)) {
            escaped.push(character);
            continue;
        }
        for unit in character.encode_utf16(&mut [0; 2]) {
            // Writing to a string does not fail.
            let _ = write!(escaped, "\\u{unit:04x}");
        }
    }
    escaped
}

/// Whether a character that is not ASCII prints by itself.
fn prints(character: char) -> bool {
    /// Letters and a symbol that are blank: Hangul fillers, the Braille pattern without dots.
    const BLANK: [char; 5] = ['\u{115f}', '\u{1160}', '\u{2800}', '\u{3164}', '\u{ffa0}'];
    // The library escapes by the categories above, and by `Grapheme_Extend` for marks.
    !BLANK.contains(&character) && character.escape_debug().len() == 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_written_as_cat_does() {
        assert_eq!(escape("a\tb\n\x1b[2J\x7f\0\u{9b}"), "a^Ib^J^[[2J^?^@\\u{9b}");
    }

    #[test]
    fn letters_of_every_script_are_left() {
        let text = "/straße/日本語/Привет/العربية/🦀 'quoted' \"twice\" back\\slash";
        assert_eq!(escape(text), text);
    }

    #[test]
    fn whatever_does_not_print_is_escaped() {
        let overrides = ('\u{202a}'..='\u{202e}').chain('\u{2066}'..='\u{2069}');
        let zero_width = ('\u{200b}'..='\u{200f}').chain('\u{2060}'..='\u{2064}');
        let others = [
            '\u{85}',
            '\u{a0}',
            '\u{ad}',
            '\u{301}',
            '\u{34f}',
            '\u{61c}',
            '\u{115f}',
            '\u{1160}',
            '\u{180e}',
            '\u{2003}',
            '\u{2028}',
            '\u{2029}',
            '\u{2800}',
            '\u{3000}',
            '\u{3164}',
            '\u{e000}',
            '\u{fe0f}',
            '\u{feff}',
            '\u{ffa0}',
            '\u{fff9}',
            '\u{ffff}',
            '\u{1d173}',
            '\u{e0041}',
            '\u{e0100}',
            '\u{10ffff}',
        ];
        for character in overrides.chain(zero_width).chain(others) {
            let code = format!("\\u{{{:x}}}", character as u32);
            assert_eq!(escape(&format!("a{character}b")), format!("a{code}b"));
        }
    }

    #[test]
    fn escaped_json_has_the_same_values_and_only_what_prints() {
        let text = "a\u{202e}b\u{e0041}c\u{7f}\u{9b}é\n\"\\";
        let json = serde_json::to_string(text).unwrap();
        let escaped = escape_json(&json);
        assert_eq!(escaped, r#""a\u202eb\udb40\udc41c\u007f\u009bé\n\"\\""#);
        assert_eq!(serde_json::from_str::<String>(&escaped).unwrap(), text);
    }
}
