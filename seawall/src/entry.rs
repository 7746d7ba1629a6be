//! Keys and values as text: one JSON form for the API, for import, export and scan, and the encodings of the command
//! line. Bytes that are UTF-8 stand as they are; others, and only others, in base64 under a name that says so.

use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

/// A key, with its value unless only keys were asked for, as JSON.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// The key, if it is UTF-8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// The key otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_base64: Option<String>,
    /// The value, if it is UTF-8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    /// The value otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value_base64: Option<String>,
}

impl Entry {
    /// Of a key and its value.
    pub fn new(key: &[u8], value: &[u8]) -> Self {
        let (value, value_base64) = text_or_base64(value);
        Self { value, value_base64, ..Self::of_key(key) }
    }

    /// Of a key alone.
    pub fn of_key(key: &[u8]) -> Self {
        let (key, key_base64) = text_or_base64(key);
        Self { key, key_base64, ..Self::default() }
    }

    /// The key's bytes.
    pub fn key_bytes(&self) -> Result<Vec<u8>, String> {
        bytes_of("key", self.key.as_deref(), self.key_base64.as_deref())
    }

    /// The value's bytes.
    pub fn value_bytes(&self) -> Result<Vec<u8>, String> {
        bytes_of("value", self.value.as_deref(), self.value_base64.as_deref())
    }
}

fn text_or_base64(bytes: &[u8]) -> (Option<String>, Option<String>) {
    match std::str::from_utf8(bytes) {
        Ok(text) => (Some(text.to_owned()), None),
        Err(_) => (None, Some(STANDARD.encode(bytes))),
    }
}

fn bytes_of(name: &str, text: Option<&str>, base64: Option<&str>) -> Result<Vec<u8>, String> {
    match (text, base64) {
        (Some(text), None) => Ok(text.as_bytes().to_vec()),
        (None, Some(base64)) => Encoding::Base64.decode(base64).map_err(|error| format!("{name}_base64 {error}")),
        (None, None) => Err(format!("there is no `{name}` (nor `{name}_base64`)")),
        (Some(_), Some(_)) => Err(format!("`{name}` and `{name}_base64` are both there")),
    }
}

/// How keys and values are written on the command line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Encoding {
    /// As they are.
    #[default]
    Text,
    /// Two digits a byte.
    Hex,
    /// RFC 4648, padded.
    Base64,
}

impl FromStr for Encoding {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        match name {
            "text" => Ok(Self::Text),
            "hex" => Ok(Self::Hex),
            "base64" => Ok(Self::Base64),
            _ => Err(String::from("expected text, hex or base64")),
        }
    }
}

impl Encoding {
    /// The bytes that `text` stands for.
    pub fn decode(self, text: &str) -> Result<Vec<u8>, String> {
        match self {
            Self::Text => Ok(text.as_bytes().to_vec()),
            Self::Base64 => STANDARD.decode(text).map_err(|error| format!("is not base64: {error}")),
            Self::Hex => {
                let digits = text.as_bytes();
                if !digits.len().is_multiple_of(2) || !digits.iter().all(u8::is_ascii_hexdigit) {
                    return Err(String::from("is not hex: two digits for every byte"));
                }
                let byte = |pair: &[u8]| pair.iter().fold(0, |high, digit| high << 4 | hex_value(*digit));
                Ok(digits.chunks_exact(2).map(byte).collect())
            }
        }
    }

    /// The text that stands for `bytes`; as they are for `Text`.
    pub fn encode(self, bytes: &[u8]) -> Vec<u8> {
        match self {
            Self::Text => bytes.to_vec(),
            Self::Base64 => STANDARD.encode(bytes).into_bytes(),
            Self::Hex => bytes.iter().flat_map(|byte| format!("{byte:02x}").into_bytes()).collect(),
        }
    }
}

fn hex_value(digit: u8) -> u8 {
    char::from(digit).to_digit(16).map_or(0, |value| value as u8)
}

/// `%41` in a path or query is `A`. `+` stays what it is.
pub fn percent_decode(text: &str) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        rest = tail;
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        match rest {
            [high, low, tail @ ..] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
                bytes.push(hex_value(*high) << 4 | hex_value(*low));
                rest = tail;
            }
            _ => return Err(format!("`{text}` has a % that is not followed by two hex digits")),
        }
    }
    Ok(bytes)
}

/// Bytes so that they may stand in a path segment or a query value.
pub fn percent_encode(bytes: &[u8]) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~');
    let one = |&byte: &u8| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") };
    // A segment of dots alone would be taken for a step in the path.
    if bytes.iter().all(|&byte| byte == b'.') {
        return "%2E".repeat(bytes.len());
    }
    bytes.iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_bytes_survive_json_hex_base64_and_percent() {
        let all: Vec<u8> = (0..=255).collect();
        for bytes in [&all[..], b"", b"plain", "\u{e9}\n".as_bytes(), b"..", b"a/b?c&d=e%"] {
            let json = serde_json::to_string(&Entry::new(bytes, bytes)).unwrap();
            let entry: Entry = serde_json::from_str(&json).unwrap();
            assert_eq!(entry.key_bytes().unwrap(), bytes);
            assert_eq!(entry.value_bytes().unwrap(), bytes);
            for encoding in [Encoding::Hex, Encoding::Base64] {
                let text = String::from_utf8(encoding.encode(bytes)).unwrap();
                assert_eq!(encoding.decode(&text).unwrap(), bytes);
            }
            assert_eq!(percent_decode(&percent_encode(bytes)).unwrap(), bytes);
        }
        assert!(!percent_encode(b"..").contains('.'));
    }

    #[test]
    fn what_does_not_decode_says_why() {
        assert!(Encoding::Hex.decode("abc").unwrap_err().contains("two digits"));
        assert!(Encoding::Base64.decode("*").unwrap_err().contains("not base64"));
        assert!(percent_decode("%4").unwrap_err().contains("hex digits"));
        let both = Entry { key: Some("a".into()), key_base64: Some("YQ==".into()), ..Entry::default() };
        assert!(both.key_bytes().unwrap_err().contains("both"));
        assert!(Entry::default().value_bytes().unwrap_err().contains("there is no `value`"));
    }
}
