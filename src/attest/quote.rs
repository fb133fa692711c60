//! Parser of TDX quotes, version 4: bytes to fields, with strict framing.
//!
//! Rule: a byte that carries no claim must have its one allowed value, so two different byte strings are never the
//! same quote. It checks no signature and judges nothing.

use pem_rfc7468::LineEnding;
use sha2::{Digest, Sha256};
use std::fmt;

/// Largest quote that is looked at; real ones have some 5 KB.
pub const QUOTE_MAX: usize = 16 * 1024;
/// Zero bytes that may follow a quote (the buffer of the quoting service).
const PADDING_MAX: usize = 4 * 1024;
const QE_VENDOR: [u8; 16] = [
    0x93, 0x9A, 0x72, 0x33, 0xF7, 0x9C, 0x4C, 0xA9, 0x94, 0x0A, 0x0D, 0xB3, 0x95, 0x7F, 0x06, 0x07,
];
/// Attestation key, quote signature and the head of the certification data.
const SIGNATURE_HEAD: usize = 64 + 64 + 2 + 4;

/// A parsed quote. Nothing in it is verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuoteV4 {
    /// 20 bytes that the quoting service fills as it likes.
    pub user_data: [u8; 20],
    /// TDX module and platform versions.
    pub tee_tcb_svn: [u8; 16],
    /// Measurement of the TDX module.
    pub mr_seam: [u8; 48],
    /// Signer of the TDX module; zero for Intel's.
    pub mr_signer_seam: [u8; 48],
    /// Attributes of the TDX module.
    pub seam_attributes: [u8; 8],
    /// Attributes of the guest; bit 0 of the first byte means that it can be debugged.
    pub td_attributes: [u8; 8],
    /// Processor features of the guest.
    pub xfam: [u8; 8],
    /// Measurement of the guest's firmware.
    pub mr_td: [u8; 48],
    /// Set at launch; dstack writes 01 ‖ compose hash ‖ zeros.
    pub mr_config_id: [u8; 48],
    /// Set at launch.
    pub mr_owner: [u8; 48],
    /// Set at launch.
    pub mr_owner_config: [u8; 48],
    /// Runtime registers 0 to 3.
    pub rtmr: [[u8; 48]; 4],
    /// What the guest wanted quoted.
    pub report_data: [u8; 64],
    /// PCK leaf, PCK CA, root; DER.
    pub certificates: [Vec<u8>; 3],
    /// SHA-256 of the quote without padding and with zeros for the report data: recognises published quotes.
    pub shape: [u8; 32],
}

impl QuoteV4 {
    /// Whether the host may look into the guest.
    pub fn is_debug(&self) -> bool {
        let [first, ..] = self.td_attributes;
        first & 1 != 0
    }

    /// SHA-256 of the root certificate that the quote brings along.
    pub fn root_hash(&self) -> [u8; 32] {
        let [_, _, root] = &self.certificates;
        Sha256::digest(root).into()
    }
}

/// Why bytes are no quote that we read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QuoteRefused {
    /// Larger than anything real.
    #[error("expected a quote of at most {QUOTE_MAX} bytes, found {found}")]
    TooLarge {
        /// Its length.
        found: usize,
    },
    /// It ends inside a field.
    #[error("expected {expected} bytes for {field} in the quote, found {found}")]
    Short {
        /// The field.
        field: &'static str,
        /// Its length.
        expected: usize,
        /// What is left.
        found: usize,
    },
    /// A field that has one allowed value has another.
    #[error("expected {expected} as {field} of the quote, found {found}")]
    Field {
        /// The field.
        field: &'static str,
        /// The value.
        expected: String,
        /// What is there.
        found: String,
    },
    /// The certificates are not written in the one way we accept.
    #[error("expected 3 PEM certificates in canonical form in the quote, found {found}")]
    Certificates {
        /// What is there.
        found: String,
    },
}

/// Parses a quote.
pub fn parse(bytes: &[u8]) -> Result<QuoteV4, QuoteRefused> {
    if bytes.len() > QUOTE_MAX {
        return Err(QuoteRefused::TooLarge { found: bytes.len() });
    }
    let mut reader = Reader(bytes);
    header(&mut reader)?;
    let mut quote = body(&mut reader)?;

    let signed_len = reader.length("length of the signature data")?;
    let (signed, padding) = reader.split("signature data", signed_len)?;
    if padding.len() > PADDING_MAX || padding.iter().any(|byte| *byte != 0) {
        let expected = format!("at most {PADDING_MAX} zero bytes");
        return Err(field(
            "end",
            expected,
            format!("{} bytes, not all zero or too many", padding.len()),
        ));
    }
    quote.certificates = certification(signed)?;
    quote.shape = shape(bytes, padding.len());
    Ok(quote)
}

fn header(reader: &mut Reader<'_>) -> Result<(), QuoteRefused> {
    reader.exactly("version", [4, 0])?;
    reader.exactly("attestation key type (ECDSA P-256)", [2, 0])?;
    reader.exactly("TEE type (TDX)", [0x81, 0, 0, 0])?;
    reader.exactly("reserved header bytes", [0; 4])?;
    reader.exactly("vendor of the quoting enclave", QE_VENDOR)
}

fn body(reader: &mut Reader<'_>) -> Result<QuoteV4, QuoteRefused> {
    Ok(QuoteV4 {
        user_data: reader.take("user data")?,
        tee_tcb_svn: reader.take("TEE_TCB_SVN")?,
        mr_seam: reader.take("MRSEAM")?,
        mr_signer_seam: reader.take("MRSIGNERSEAM")?,
        seam_attributes: reader.take("SEAM attributes")?,
        td_attributes: reader.take("TD attributes")?,
        xfam: reader.take("XFAM")?,
        mr_td: reader.take("MRTD")?,
        mr_config_id: reader.take("MRCONFIGID")?,
        mr_owner: reader.take("MROWNER")?,
        mr_owner_config: reader.take("MROWNERCONFIG")?,
        rtmr: [
            reader.take("RTMR0")?,
            reader.take("RTMR1")?,
            reader.take("RTMR2")?,
            reader.take("RTMR3")?,
        ],
        report_data: reader.take("REPORTDATA")?,
        certificates: Default::default(),
        shape: [0; 32],
    })
}

/// Signature, attestation key, quoting enclave's report and, at the end, the certificates.
fn certification(signed: &[u8]) -> Result<[Vec<u8>; 3], QuoteRefused> {
    let mut reader = Reader(signed);
    let _: [u8; 64] = reader.take("quote signature")?;
    let _: [u8; 64] = reader.take("attestation key")?;
    reader.exactly("type of the outer certification data", [6, 0])?;
    reader.exact_length(
        "length of the outer certification data",
        signed.len().saturating_sub(SIGNATURE_HEAD),
    )?;
    let _: [u8; 384] = reader.take("report of the quoting enclave")?;
    let _: [u8; 64] = reader.take("signature over that report")?;
    reader.exactly("length of the authentication data", [32, 0])?;
    let _: [u8; 32] = reader.take("authentication data")?;
    reader.exactly("type of the inner certification data", [5, 0])?;
    reader.exact_length(
        "length of the certificates",
        reader.0.len().saturating_sub(4),
    )?;
    certificates(reader.0)
}

/// Three certificates, re-encoded and compared: 64 columns, one kind of line end, a final one, then at most one NUL.
fn certificates(bytes: &[u8]) -> Result<[Vec<u8>; 3], QuoteRefused> {
    let refused = |found: &str| QuoteRefused::Certificates {
        found: found.to_owned(),
    };
    let text = std::str::from_utf8(bytes.strip_suffix(&[0]).unwrap_or(bytes))
        .map_err(|_| refused("no text"))?;
    let ending = if text.contains('\r') {
        LineEnding::CRLF
    } else {
        LineEnding::LF
    };
    let mut ders = Vec::new();
    let mut again = String::new();
    for part in text
        .split_inclusive("-----END CERTIFICATE-----")
        .filter(|part| part.contains("-----BEGIN"))
    {
        let (label, der) = pem_rfc7468::decode_vec(part.trim_start().as_bytes())
            .map_err(|error| refused(&error.to_string()))?;
        again += &pem_rfc7468::encode_string(label, ending, &der)
            .map_err(|error| refused(&error.to_string()))?;
        ders.push(der);
        if ders.len() > 3 {
            return Err(refused("more than 3"));
        }
    }
    let count = ders.len();
    let certificates = ders.try_into().map_err(|_| refused(&format!("{count}")))?;
    if again != text || again.matches("-----BEGIN CERTIFICATE-----").count() != 3 {
        return Err(refused("another way of writing them"));
    }
    Ok(certificates)
}

/// Hash without padding and report data.
fn shape(bytes: &[u8], padding: usize) -> [u8; 32] {
    let quote = bytes
        .split_at_checked(bytes.len().saturating_sub(padding))
        .map_or(bytes, |(quote, _)| quote);
    let (head, rest) = quote.split_at_checked(568).unwrap_or((quote, &[]));
    let tail = rest.split_at_checked(64).map_or(&[][..], |(_, tail)| tail);
    Sha256::new_with_prefix(head)
        .chain_update([0; 64])
        .chain_update(tail)
        .finalize()
        .into()
}

fn field(
    field: &'static str,
    expected: impl fmt::Display,
    found: impl fmt::Display,
) -> QuoteRefused {
    QuoteRefused::Field {
        field,
        expected: expected.to_string(),
        found: found.to_string(),
    }
}

/// Takes fields from the front; never reads past the end.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N], QuoteRefused> {
        let (head, rest) = self.0.split_first_chunk::<N>().ok_or(QuoteRefused::Short {
            field,
            expected: N,
            found: self.0.len(),
        })?;
        self.0 = rest;
        Ok(*head)
    }

    fn split(
        &mut self,
        field: &'static str,
        len: usize,
    ) -> Result<(&'a [u8], &'a [u8]), QuoteRefused> {
        self.0.split_at_checked(len).ok_or(QuoteRefused::Short {
            field,
            expected: len,
            found: self.0.len(),
        })
    }

    fn exactly<const N: usize>(
        &mut self,
        name: &'static str,
        expected: [u8; N],
    ) -> Result<(), QuoteRefused> {
        let found: [u8; N] = self.take(name)?;
        if found == expected {
            Ok(())
        } else {
            Err(field(name, hex::encode(expected), hex::encode(found)))
        }
    }

    fn length(&mut self, field: &'static str) -> Result<usize, QuoteRefused> {
        Ok(u32::from_le_bytes(self.take(field)?) as usize)
    }

    fn exact_length(&mut self, name: &'static str, expected: usize) -> Result<(), QuoteRefused> {
        let found = self.length(name)?;
        if found == expected {
            Ok(())
        } else {
            Err(field(name, expected, found))
        }
    }
}
