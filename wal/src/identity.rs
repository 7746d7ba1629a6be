//! Who wrote a byte: cluster, node, timeline and the nonce that tells apart two timelines of one number.
//! All are random except the timeline's number; none is ever derived from an address or a host name.

use std::fmt;
use std::str::FromStr;

/// The text is not 32 hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not an identity: expected 32 hexadecimal digits")]
pub struct ParseIdentityError {
    text: String,
}

macro_rules! identity {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name([u8; 16]);

        impl $name {
            /// A fresh random value.
            pub fn random() -> Self {
                Self(rand::random())
            }

            /// From its stored form.
            pub const fn from_bytes(bytes: [u8; 16]) -> Self {
                Self(bytes)
            }

            /// Its stored form.
            pub const fn to_bytes(self) -> [u8; 16] {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({self})", stringify!($name))
            }
        }

        impl FromStr for $name {
            type Err = ParseIdentityError;

            fn from_str(text: &str) -> Result<Self, ParseIdentityError> {
                let plain = text.len() == 32 && text.bytes().all(|b| b.is_ascii_hexdigit());
                let value = plain.then(|| u128::from_str_radix(text, 16).ok()).flatten();
                // The text shows the bytes in their order, so the number it spells has its highest byte first.
                let mut value = value.ok_or_else(|| ParseIdentityError { text: text.to_owned() })?;
                let mut bytes = [0; 16];
                for byte in bytes.iter_mut().rev() {
                    *byte = (value & 0xFF) as u8;
                    value >>= 8;
                }
                Ok(Self(bytes))
            }
        }
    };
}

identity! {
    /// A cluster: every node, log byte and archive object of one database. Made at `init`.
    ClusterId
}
identity! {
    /// One node of a cluster, for as long as its data directory lives.
    NodeId
}
identity! {
    /// Made at each promotion, so that two promotions that cannot see each other still differ.
    TimelineNonce
}

/// One uninterrupted history, counted from 1; promotion starts a new one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TimelineId(pub u32);

impl TimelineId {
    /// The timeline a cluster is born with.
    pub const FIRST: Self = Self(1);

    /// The number a promotion of this timeline claims first.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for TimelineId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_survives_its_text() {
        let id = ClusterId::random();
        assert_eq!(id.to_string().parse(), Ok(id));
        let id = NodeId::from_bytes([0x01, 0x23, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff]);
        assert_eq!(id.to_string(), "012300000000000000000000000000ff");
        assert_eq!(id.to_string().parse(), Ok(id));
        assert!("123".parse::<NodeId>().is_err());
        assert!("+12300000000000000000000000000ff".parse::<NodeId>().is_err());
    }
}
