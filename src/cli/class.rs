//! The class code: 80 random bits that the machines of one class agree on, spoken as five words. The words are
//! proquints (Daniel S. Wilkerson, "A Proposal for Proquints", arXiv:0901.4016): 16 bits each, consonant and vowel
//! in turn, so that they can be read aloud.
//!
//! Rule: the code never travels. Two values follow from it, by HKDF-SHA256 with labels of their own: the seed of the
//! simulated world (KMS root, attestation root), which stays on each machine, and the key of the class door, which
//! goes over the network in the path of every request. Who has seen the key knows neither code nor seed.
//!
//! No `Debug`; wiped on drop. Faults name the place in a word, never the word.

use dstack_simulator::SharedSecret;
use rand_core::{OsRng, RngCore};
use std::str::FromStr;

/// 80 bits: too many to search, few enough to read aloud.
const CODE_LEN: usize = 10;
const WORDS: usize = CODE_LEN / 2;
const WORD_LEN: usize = 5;
const CONSONANTS: &[u8; 16] = b"bdfghjklmnprstvz";
const VOWELS: &[u8; 4] = b"aiou";

const WORLD_LABEL: &str = "synod/class/v1/simulated world";
const DOOR_LABEL: &str = "synod/class/v1/door";

/// What the machines of a class have in common.
pub(crate) struct ClassCode(SharedSecret<CODE_LEN>);

/// Why a text is no class code.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ClassFault {
    #[error(
        "class code: expected five words of five letters, as in lusab-babad-gutih-tugad-bisog, found {found} word(s); \
         copy the line that synod devnet printed"
    )]
    Words { found: usize },
    #[error(
        "class code: expected five letters in each word, found {found} in word {word}; copy the line that synod devnet \
         printed"
    )]
    Letters { word: usize, found: usize },
    #[error(
        "class code: expected one of {expected} as letter {letter} of word {word}, found {found:?}; copy the line that \
         synod devnet printed"
    )]
    Letter {
        word: usize,
        letter: usize,
        expected: &'static str,
        found: char,
    },
}

impl ClassCode {
    /// A new class.
    pub(crate) fn fresh() -> anyhow::Result<Self> {
        let mut bytes = [0; CODE_LEN];
        OsRng.try_fill_bytes(&mut bytes)?;
        Ok(Self(SharedSecret::new(bytes)))
    }

    /// For people: five words with `-` between them.
    pub(crate) fn words(&self) -> String {
        let (pairs, _) = self.0.expose().as_chunks::<2>();
        let words: Vec<String> = pairs
            .iter()
            .map(|pair| word(u16::from_be_bytes(*pair)))
            .collect();
        words.join("-")
    }

    /// Seed of the simulated world: whoever has it holds every key of that world.
    pub(crate) fn world_seed(&self) -> [u8; 32] {
        *self.0.derive(WORLD_LABEL)
    }

    /// Key of the class door.
    pub(crate) fn door_key(&self) -> [u8; 32] {
        *self.0.derive(DOOR_LABEL)
    }

    /// The same code?
    pub(crate) fn is(&self, other: &Self) -> bool {
        self.0.expose() == other.0.expose()
    }
}

impl FromStr for ClassCode {
    type Err = ClassFault;

    fn from_str(text: &str) -> Result<Self, ClassFault> {
        let words: Vec<&str> = text
            .split(|c: char| c == '-' || c.is_whitespace())
            .filter(|word| !word.is_empty())
            .collect();
        let found = words.len();
        let words: [&str; WORDS] = words.try_into().map_err(|_| ClassFault::Words { found })?;
        let mut bytes = [0; CODE_LEN];
        let (pairs, _) = bytes.as_chunks_mut::<2>();
        for (at, (pair, word)) in pairs.iter_mut().zip(words).enumerate() {
            *pair = number(at + 1, word)?.to_be_bytes();
        }
        Ok(Self(SharedSecret::new(bytes)))
    }
}

/// Consonants carry 4 bits and vowels 2, from the highest bit down: 4 + 2 + 4 + 2 + 4.
const PLACES: [(&[u8], &str, u32); WORD_LEN] = [
    (CONSONANTS, "bdfghjklmnprstvz", 12),
    (VOWELS, "aiou", 10),
    (CONSONANTS, "bdfghjklmnprstvz", 6),
    (VOWELS, "aiou", 4),
    (CONSONANTS, "bdfghjklmnprstvz", 0),
];

fn word(number: u16) -> String {
    PLACES
        .iter()
        .map(|(letters, _, shift)| {
            // both alphabets are as long as a power of two: what is above stays out
            let index = usize::from(number >> shift) % letters.len();
            char::from(letters[index])
        })
        .collect()
}

fn number(word: usize, text: &str) -> Result<u16, ClassFault> {
    let found = text.chars().count();
    if found != WORD_LEN {
        return Err(ClassFault::Letters { word, found });
    }
    let mut number = 0;
    for (at, (found, (letters, expected, shift))) in text.chars().zip(PLACES).enumerate() {
        let lower = found.to_ascii_lowercase();
        let value = (0_u16..)
            .zip(letters)
            .find(|(_, l)| char::from(**l) == lower);
        let Some((value, _)) = value else {
            return Err(ClassFault::Letter {
                word,
                letter: at + 1,
                expected,
                found,
            });
        };
        number |= value << shift;
    }
    Ok(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_those_of_the_proposal() {
        // IPv4 addresses and their proquints, from the paper
        let paper = [
            ([127, 0, 0, 1], "lusab babad"),
            ([63, 84, 220, 193], "gutih tugad"),
            ([140, 98, 193, 141], "mudof sakat"),
            ([64, 255, 6, 200], "haguz biram"),
            ([128, 30, 52, 45], "mabiv gibot"),
            ([147, 67, 119, 2], "natag lisaf"),
            ([212, 58, 253, 68], "tibup zujah"),
            ([216, 68, 232, 21], "todah vobij"),
            ([198, 81, 129, 136], "sinid makam"),
            ([12, 110, 110, 204], "budov kuras"),
        ];
        for ([a, b, c, d], words) in paper {
            let found = [
                word(u16::from_be_bytes([a, b])),
                word(u16::from_be_bytes([c, d])),
            ];
            assert_eq!(found.join(" "), words);
        }
    }

    #[test]
    fn every_number_has_one_word_and_comes_back() {
        for n in 0..=u16::MAX {
            assert_eq!(number(1, &word(n)), Ok(n));
        }
    }

    #[test]
    fn a_code_comes_back_in_any_case_and_with_spaces() {
        let code = ClassCode::fresh().expect("randomness");
        let words = code.words();
        assert_eq!(words.len(), 29);
        for text in [
            words.clone(),
            words.to_uppercase(),
            words.replace('-', " "),
            format!("  {} ", words.replace('-', "  - ")),
        ] {
            assert!(text.parse::<ClassCode>().is_ok_and(|again| again.is(&code)));
        }
        let other = ClassCode::fresh().expect("randomness");
        assert!(!other.is(&code), "80 bits do not come twice");
    }

    fn fault(text: &str) -> ClassFault {
        text.parse::<ClassCode>().map(drop).expect_err("no code")
    }

    #[test]
    fn what_is_no_code_is_refused_with_what_was_expected() {
        let good = "lusab-babad-gutih-tugad-bisog";
        assert!(good.parse::<ClassCode>().is_ok());
        assert_eq!(fault(""), ClassFault::Words { found: 0 });
        assert_eq!(fault("lusab-babad"), ClassFault::Words { found: 2 });
        assert_eq!(
            fault(&format!("{good}-lusab")),
            ClassFault::Words { found: 6 }
        );
        assert_eq!(
            fault(&good.replace("gutih", "guti")),
            ClassFault::Letters { word: 3, found: 4 }
        );
        for (from, to, letter, expected, found) in [
            ("gutih", "eutih", 1, "bdfghjklmnprstvz", 'e'),
            ("gutih", "getih", 2, "aiou", 'e'),
            ("gutih", "gutiq", 5, "bdfghjklmnprstvz", 'q'),
            ("gutih", "gut\u{131}h", 4, "aiou", '\u{131}'),
        ] {
            let expected = ClassFault::Letter {
                word: 3,
                letter,
                expected,
                found,
            };
            assert_eq!(fault(&good.replace(from, to)), expected);
        }
        let text = fault("lusab-babad-gutih-tugad-bisoq").to_string();
        assert!(
            !text.contains("bisoq") && text.contains("synod devnet"),
            "{text}"
        );
    }

    #[test]
    fn what_follows_from_a_code_is_fixed_and_kept_apart() {
        let code: ClassCode = "lusab-babad-gutih-tugad-bisog".parse().expect("a code");
        assert_ne!(code.world_seed(), code.door_key());
        // python3: HKDF with salt "synod-shared-secret/v1" over 7f0000013f54dcc10723 and each label
        assert_eq!(
            hex::encode(code.world_seed()),
            "d9646966e1e76f04eb0d92261eb639b8a34521b4e4248cdd2c58375943d637a2"
        );
        assert_eq!(
            hex::encode(code.door_key()),
            "84cd5c53dbfe198f4fa8c96c960c44a6a3c3c964cc88b4930b92edaad52e5c49"
        );
    }
}
