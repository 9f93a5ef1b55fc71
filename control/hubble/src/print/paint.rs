//! Colors on a terminal (ECMA-48 SGR), as `hubble observe` uses them.

/// Whether to print colors.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Colors {
    /// Plain text.
    #[default]
    Off,
    /// With escape sequences.
    On,
}

/// A color of the terminal's foreground.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Color {
    Red = 31,
    Green = 32,
    Yellow = 33,
    Magenta = 35,
    Cyan = 36,
}

impl Colors {
    /// `text` in this color. The text must be escaped already.
    pub(super) fn paint(self, color: Color, text: &str) -> String {
        match self {
            Self::Off => text.to_owned(),
            Self::On => format!("\x1b[{}m{text}\x1b[0m", color as u8),
        }
    }
}
