//! The table that normalises characters, as SentencePiece compiles it: the length of a trie in bytes, the trie as a double
//! array of 32-bit units, and the texts that its values point into, each ended by a zero. It is read by the tokenizer's
//! library, which trusts it; so it is walked through here first.

/// What a unit of the double array holds.
struct Unit(u32);

impl Unit {
    fn has_value(&self) -> bool {
        self.0 >> 8 & 1 == 1
    }

    fn value(&self) -> usize {
        (self.0 & 0x7fff_ffff) as usize
    }

    /// The byte that leads here; something else in units that hold a value.
    fn label(&self) -> u32 {
        self.0 & 0x8000_00ff
    }

    fn offset(&self) -> usize {
        ((self.0 >> 10) as usize) << ((self.0 & 1 << 9) >> 6)
    }
}

/// Checks that no text can lead out of the table. The error says in words what is wrong.
pub(super) fn check(charsmap: &[u8]) -> Result<(), String> {
    let damaged = |what: &str| format!("its precompiled_charsmap is damaged: {what}");
    let (length, rest) = charsmap.split_first_chunk().ok_or_else(|| damaged("it has no length"))?;
    let length = u32::from_le_bytes(*length) as usize;
    let (trie, texts) = rest.split_at_checked(length).ok_or_else(|| damaged("its trie is cut short"))?;
    let texts = str::from_utf8(texts).map_err(|_| damaged("its texts are not UTF-8"))?;
    let (units, odd) = trie.as_chunks();
    if units.is_empty() || !odd.is_empty() {
        return Err(damaged("its trie is no list of units"));
    }
    let unit = |place: usize| units.get(place).map(|bytes| Unit(u32::from_le_bytes(*bytes)));
    let mut seen = vec![false; units.len()];
    let mut open = vec![0];
    while let Some(place) = open.pop() {
        let node = unit(place).ok_or_else(|| damaged("its trie leads out of itself"))?;
        let base = place ^ node.offset();
        // All 256 places that a byte leads to.
        if base | 0xff >= units.len() {
            return Err(damaged("its trie leads out of itself"));
        }
        let value = unit(base).filter(|_| place > 0 && node.has_value()).map(|leaf| leaf.value());
        if value.is_some_and(|value| !texts.is_char_boundary(value)) {
            return Err(damaged("its trie points beside a text"));
        }
        for byte in 1..=0xff {
            let next = base ^ byte;
            if unit(next).is_some_and(|next| next.label() == byte as u32) && !seen[next] {
                seen[next] = true;
                open.push(next);
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use tokenizers::normalizers::Precompiled;

    use super::super::sentencepiece::Model;
    use super::*;

    fn fixture() -> Vec<u8> {
        let packed: &[u8] = include_bytes!("../../../../fixtures/text/tokenizer/spiece.model.gz");
        let mut model = Vec::new();
        flate2::read::GzDecoder::new(packed).read_to_end(&mut model).unwrap();
        Model::read(&model).unwrap().charsmap
    }

    #[test]
    fn damage_is_found_before_it_is_met() {
        let whole = fixture();
        assert_eq!(check(&whole), Ok(()));
        for (length, expected) in [(0, "no length"), (3, "no length"), (1000, "cut short")] {
            assert!(check(&whole[..length]).unwrap_err().contains(expected), "{length}");
        }
        assert!(check(&[0; 4]).unwrap_err().contains("no list"));
        assert!(check(&[4, 0, 0, 0, 0, 0, 0, 0]).unwrap_err().contains("out of itself"));
        // Whatever passes does not panic where it is used.
        let texts: Vec<String> = ('\u{a0}'..'\u{3400}').step_by(7).map(|c| format!("{c}\u{301}")).collect();
        let mut refused = 0;
        for turn in 0..60u32 {
            let mut charsmap = whole.clone();
            for step in 0..200 {
                let at = (turn * 200 + step).wrapping_mul(0x9e37_79b9) as usize % whole.len();
                charsmap[at.max(4)] ^= 1 << (step % 8);
            }
            if check(&charsmap).is_err() {
                refused += 1;
            } else if let Ok(table) = Precompiled::from(&charsmap) {
                for text in &texts {
                    let _ = table.transform(text);
                }
            }
        }
        assert!(refused > 10, "{refused}");
    }
}
