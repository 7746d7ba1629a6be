//! What an operator calls a standby: short, printable, safe in a policy, a metric's label and a file.

use std::fmt;
use std::str::FromStr;

/// Bytes in a name at most.
pub const NAME_LEN_MAX: usize = 64;

/// A standby's name: 1 to 64 of `a-z A-Z 0-9 . _ -`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
pub struct StandbyName(String);

/// The text cannot name a standby.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` cannot name a standby: expected 1 to 64 of a-z A-Z 0-9 . _ -")]
pub struct InvalidName {
    text: String,
}

impl StandbyName {
    /// `text` if it can be a name.
    pub fn new(text: &str) -> Result<Self, InvalidName> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        if text.is_empty() || text.len() > NAME_LEN_MAX || !text.bytes().all(allowed) {
            return Err(InvalidName { text: text.chars().take(NAME_LEN_MAX).collect() });
        }
        Ok(Self(text.to_owned()))
    }

    /// Its text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for StandbyName {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        Self::new(text)
    }
}

impl fmt::Display for StandbyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
