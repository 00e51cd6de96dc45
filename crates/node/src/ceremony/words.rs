//! A hash in words, for people who compare it by voice: proquints (Wilkerson 2009), which are pronounceable in most
//! languages, need no list of words, and differ audibly where the bits differ.

use concordat_events::Hash;

/// Syllables read aloud: 96 bits, more than anybody can search for a second ceremony with the same ones.
const WORDS: usize = 6;

const CONSONANTS: &[u8; 16] = b"bdfghjklmnprstvz";
const VOWELS: &[u8; 4] = b"aiou";

/// The first 96 bits of a hash as six words of five letters.
pub fn words(hash: &Hash) -> String {
    let (pairs, _) = hash.as_bytes().as_chunks::<2>();
    pairs.iter().take(WORDS).map(|pair| word(u16::from_be_bytes(*pair))).collect::<Vec<_>>().join(" ")
}

fn word(bits: u16) -> String {
    let consonant = |shift: u16| letter(CONSONANTS, usize::from(bits >> shift & 15));
    let vowel = |shift: u16| letter(VOWELS, usize::from(bits >> shift & 3));
    [consonant(12), vowel(10), consonant(6), vowel(4), consonant(0)].into_iter().collect()
}

fn letter(from: &[u8], at: usize) -> char {
    // The masks above keep within both alphabets.
    from.get(at).copied().map_or('?', char::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_those_of_the_paper_and_differ_with_every_bit() {
        // The examples of the paper: 127.0.0.1 and 63.84.220.193.
        assert_eq!((word(0x7f00), word(0x0001)), ("lusab".into(), "babad".into()));
        assert_eq!((word(0x3f54), word(0xdcc1)), ("gutih".into(), "tugad".into()));
        let zero = words(&Hash::ZERO);
        assert_eq!(zero.split(' ').count(), WORDS);
        for bit in 0..WORDS * 16 {
            let mut bytes = [0; 32];
            bytes[bit / 8] = 1 << (bit % 8);
            let other = words(&Hash::from_bytes(bytes));
            assert_eq!(zero.chars().zip(other.chars()).filter(|(a, b)| a != b).count(), 1);
        }
    }
}
