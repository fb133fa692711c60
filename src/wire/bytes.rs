//! Canonical bytes: big-endian, length-prefixed, nothing optional left out. One text has one encoding,
//! because what is signed must not be sayable in two ways. Reading is bounded and never panics.

use crate::ids::{Address, Hash};

/// Appends canonical bytes.
#[derive(Default)]
pub struct Writer(Vec<u8>);

impl Writer {
    /// Empty.
    pub fn new() -> Self {
        Self::default()
    }

    /// One byte.
    pub fn u8(mut self, value: u8) -> Self {
        self.0.push(value);
        self
    }

    /// Two bytes, big-endian.
    pub fn u16(mut self, value: u16) -> Self {
        self.0.extend(value.to_be_bytes());
        self
    }

    /// Eight bytes, big-endian.
    pub fn u64(mut self, value: u64) -> Self {
        self.0.extend(value.to_be_bytes());
        self
    }

    /// Bytes as they are: for fixed lengths only.
    pub fn fixed(mut self, value: &[u8]) -> Self {
        self.0.extend_from_slice(value);
        self
    }

    /// A text behind its length (u8). Cut at a character border when it is longer than 255 bytes.
    pub fn text(mut self, value: &str) -> Self {
        let mut end = value.len().min(255);
        while !value.is_char_boundary(end) {
            end -= 1;
        }
        self.0.push(u8::try_from(end).unwrap_or(255));
        self.0.extend_from_slice(&value.as_bytes()[..end]);
        self
    }

    /// What was written.
    pub fn done(self) -> Vec<u8> {
        self.0
    }
}

/// The bytes do not say what they should.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadBytes {
    /// Cut off.
    #[error("{field}: needs {needed} bytes, {left} are left")]
    Short {
        /// What was being read.
        field: &'static str,
        /// Its length.
        needed: usize,
        /// What there was.
        left: usize,
    },
    /// More than there should be.
    #[error("{left} bytes behind the end")]
    Trailing {
        /// How many.
        left: usize,
    },
    /// A value outside its range.
    #[error("{field}: {found} is not a known value")]
    Value {
        /// What was being read.
        field: &'static str,
        /// What stood there.
        found: u64,
    },
    /// Not UTF-8.
    #[error("{field}: not UTF-8")]
    Text {
        /// What was being read.
        field: &'static str,
    },
}

/// Takes canonical bytes apart.
pub struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// Over all of `bytes`.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// The next `needed` bytes.
    pub fn take(&mut self, field: &'static str, needed: usize) -> Result<&'a [u8], BadBytes> {
        let (head, tail) = self.0.split_at_checked(needed).ok_or(BadBytes::Short {
            field,
            needed,
            left: self.0.len(),
        })?;
        self.0 = tail;
        Ok(head)
    }

    /// The next `N` bytes.
    pub fn fixed<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N], BadBytes> {
        let mut bytes = [0; N];
        bytes.copy_from_slice(self.take(field, N)?);
        Ok(bytes)
    }

    /// One byte.
    pub fn u8(&mut self, field: &'static str) -> Result<u8, BadBytes> {
        self.fixed::<1>(field).map(|[byte]| byte)
    }

    /// Two bytes.
    pub fn u16(&mut self, field: &'static str) -> Result<u16, BadBytes> {
        self.fixed(field).map(u16::from_be_bytes)
    }

    /// Eight bytes.
    pub fn u64(&mut self, field: &'static str) -> Result<u64, BadBytes> {
        self.fixed(field).map(u64::from_be_bytes)
    }

    /// A byte that is 0 or 1.
    pub fn flag(&mut self, field: &'static str) -> Result<bool, BadBytes> {
        match self.u8(field)? {
            0 => Ok(false),
            1 => Ok(true),
            found => Err(BadBytes::Value {
                field,
                found: found.into(),
            }),
        }
    }

    /// 32 bytes.
    pub fn hash(&mut self, field: &'static str) -> Result<Hash, BadBytes> {
        self.fixed(field).map(Hash)
    }

    /// 20 bytes.
    pub fn address(&mut self, field: &'static str) -> Result<Address, BadBytes> {
        self.fixed(field).map(Address)
    }

    /// A text behind its length.
    pub fn text(&mut self, field: &'static str) -> Result<String, BadBytes> {
        let len = self.u8(field)?;
        let bytes = self.take(field, len.into())?;
        std::str::from_utf8(bytes)
            .map(str::to_owned)
            .map_err(|_| BadBytes::Text { field })
    }

    /// Nothing may be left.
    pub fn end(self) -> Result<(), BadBytes> {
        if self.0.is_empty() {
            Ok(())
        } else {
            Err(BadBytes::Trailing { left: self.0.len() })
        }
    }
}
