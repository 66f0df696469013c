//! Signing key files: one key a line, `ed25519 <version> <seed in Base64>`. The first key signs, all are published.

use std::{io, path::Path};

use base64::{Engine, alphabet, engine};
use rand::Rng;

use crate::{read::At, secret::Secret};

/// Padding was never written, but is read.
const BASE64: engine::GeneralPurpose = engine::GeneralPurpose::new(
    &alphabet::STANDARD,
    engine::GeneralPurposeConfig::new()
        .with_encode_padding(false)
        // The last character has bits to spare, and not every tool leaves them zero.
        .with_decode_allow_trailing_bits(true)
        .with_decode_padding_mode(engine::DecodePaddingMode::Indifferent),
);

/// An ed25519 key with its version, which is the second half of its key id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SigningKey {
    /// `a_AbCd` of the key id `ed25519:a_AbCd`.
    pub version: String,
    /// The seed that the key pair is made of.
    pub seed: Secret<[u8; 32]>,
}

/// Why a line is no signing key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SigningKeyError {
    /// Not three words.
    #[error("is not `ed25519 <version> <seed>`")]
    Form,
    /// Another algorithm.
    #[error("is of an algorithm other than ed25519")]
    Algorithm,
    /// A version that cannot be part of a key id.
    #[error("has a version with other characters than letters, digits and underscores")]
    Version,
    /// Not 32 bytes of Base64.
    #[error("has a seed that is not 32 bytes of Base64")]
    Seed,
}

impl SigningKey {
    /// A new key, with a version as Synapse makes them: `a_` and four letters.
    pub fn generate(rng: &mut (impl Rng + rand::CryptoRng)) -> Self {
        let letters: String = (0..4)
            .map(|_| {
                let n = rng.random_range(0..52u8);
                char::from(if n < 26 { b'a' + n } else { b'A' + n - 26 })
            })
            .collect();
        Self { version: format!("a_{letters}"), seed: Secret::new(rng.random()) }
    }

    /// Reads one line.
    pub fn parse(line: &str) -> Result<Self, SigningKeyError> {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [algorithm, version, seed] = words[..] else { return Err(SigningKeyError::Form) };
        if algorithm != "ed25519" {
            return Err(SigningKeyError::Algorithm);
        }
        if !version.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
            return Err(SigningKeyError::Version);
        }
        let seed = BASE64.decode(seed).ok().and_then(|seed| seed.try_into().ok()).ok_or(SigningKeyError::Seed)?;
        Ok(Self { version: version.to_owned(), seed: Secret::new(seed) })
    }

    /// The line that [`Self::parse`] reads, without its end.
    #[must_use]
    pub fn line(&self) -> String {
        format!("ed25519 {} {}", self.version, BASE64.encode(self.seed.expose()))
    }

    /// The key as an unencrypted PKCS#8 document (RFC 8410, without the public key), which is what ruma's
    /// `Ed25519KeyPair::from_der` reads.
    #[must_use]
    pub fn pkcs8(&self) -> Secret<Vec<u8>> {
        const HEAD: [u8; 16] =
            [0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20];
        Secret::new(HEAD.iter().chain(self.seed.expose()).copied().collect())
    }

    /// Writes a key to a file that must not exist yet, readable for its owner alone.
    pub fn create(&self, path: &Path) -> io::Result<()> {
        // Without its key a server is nobody to the others: on the disk before anything else is.
        crate::files::create(path, &format!("{}\n", self.line()), 0o600)
    }
}

/// Our keys: the inline one of tests, or those of the file.
pub(super) fn read(root: &At<'_>, path: &Path) -> Vec<SigningKey> {
    let inline = root.get("signing_key");
    if inline.is_set() {
        return parse_all(&inline, "the key", &inline.str());
    }
    read_file(&root.get("signing_key_path"), path)
}

/// All keys of a file.
pub(super) fn read_file(at: &At<'_>, path: &Path) -> Vec<SigningKey> {
    let Some(text) = at.read_file(path) else { return Vec::new() };
    parse_all(at, &path.display().to_string(), &text)
}

fn parse_all(at: &At<'_>, whence: &str, text: &str) -> Vec<SigningKey> {
    let mut keys = Vec::new();
    for (i, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        match SigningKey::parse(line) {
            Ok(key) => keys.push(key),
            Err(error) => at.wrong(
                format!("names {whence}, whose line {} {error}", i + 1),
                "restore it from a backup; a new key would make other servers distrust this one",
            ),
        }
    }
    if keys.is_empty() {
        at.wrong(
            format!("names {whence}, which holds no key"),
            "restore it from a backup, or remove it to have one made",
        );
    }
    keys
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::{fs, os::unix::fs::PermissionsExt};

    use super::*;

    #[test]
    fn a_line_round_trips() {
        let key = SigningKey::generate(&mut rand::rng());
        assert_eq!(SigningKey::parse(&key.line()).unwrap(), key);
        assert!(key.version.len() == 6 && key.version.starts_with("a_"));
        // Padded Base64 is read as well.
        assert_eq!(SigningKey::parse(&format!("{}=", key.line())).unwrap(), key);
    }

    #[test]
    fn other_lines_are_refused() {
        let seed = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
        assert_eq!(SigningKey::parse("ed25519 a_AbCd"), Err(SigningKeyError::Form));
        assert_eq!(SigningKey::parse(&format!("rsa a_AbCd {seed}")), Err(SigningKeyError::Algorithm));
        assert_eq!(SigningKey::parse(&format!("ed25519 a-b {seed}")), Err(SigningKeyError::Version));
        assert_eq!(SigningKey::parse("ed25519 a_AbCd AAAA"), Err(SigningKeyError::Seed));
        assert_eq!(SigningKey::parse("ed25519 a_AbCd !"), Err(SigningKeyError::Seed));
    }

    #[test]
    fn ruma_reads_the_document() {
        let key = SigningKey::parse("ed25519 1 YJDBA9Xnr2sVqXD9Vj7XVUnmFZcZrlw8Md7kMW+3XA1").unwrap();
        let pair = ruma::signatures::Ed25519KeyPair::from_der(key.pkcs8().expose(), key.version.clone()).unwrap();
        // The test key of the specification's appendix on signing.
        assert_eq!(BASE64.encode(pair.public_key()), "XGX0JRS2Af3be3knz2fBiRbApjm2Dh61gXDJA8kcJNI");
    }

    #[test]
    fn a_file_is_made_once_and_for_its_owner() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("k");
        let key = SigningKey::generate(&mut rand::rng());
        key.create(&path).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), format!("{}\n", key.line()));
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(key.create(&path).is_err());
    }
}
