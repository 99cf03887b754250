//! The diffusers layout, as a table of name pairs plus three small reshapes: fused projections are split, a DiT's timestep and
//! label embedders are copied into every block, and its position table is not stored. The table here is DiT's.
//! Source: huggingface/diffusers `scripts/convert_dit_to_diffusers.py`, `transformers/dit_transformer_2d.py`.

use std::collections::BTreeMap;
use std::path::Path;

use super::tensor::{Stored, TensorEntry};
use crate::error::{Error, Result};

/// The one tensor of the original layout that diffusers does not store.
pub(super) const POS_EMBED: &str = "pos_embed";

/// (original, diffusers) modules outside the blocks; each has a weight and a bias.
const OUTER: [(&str, &str); 3] = [
    ("x_embedder.proj", "pos_embed.proj"),
    ("final_layer.adaLN_modulation.1", "proj_out_1"),
    ("final_layer.linear", "proj_out_2"),
];

/// (original outside the blocks, diffusers inside every block).
const COPIED: [(&str, &str); 5] = [
    ("t_embedder.mlp.0.weight", "norm1.emb.timestep_embedder.linear_1.weight"),
    ("t_embedder.mlp.0.bias", "norm1.emb.timestep_embedder.linear_1.bias"),
    ("t_embedder.mlp.2.weight", "norm1.emb.timestep_embedder.linear_2.weight"),
    ("t_embedder.mlp.2.bias", "norm1.emb.timestep_embedder.linear_2.bias"),
    ("y_embedder.embedding_table.weight", "norm1.emb.class_embedder.embedding_table.weight"),
];

/// (original, diffusers) modules inside a block; each has a weight and a bias.
const INNER: [(&str, &str); 4] = [
    ("adaLN_modulation.1", "norm1.linear"),
    ("attn.proj", "attn1.to_out.0"),
    ("mlp.fc1", "ff.net.0.proj"),
    ("mlp.fc2", "ff.net.2"),
];

/// The thirds of `attn.qkv`, in order of its rows.
pub(super) const THIRDS: [&str; 3] = ["attn1.to_q", "attn1.to_k", "attn1.to_v"];

pub(super) const KINDS: [&str; 2] = ["weight", "bias"];

/// What a diffusers tensor is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Piece {
    /// The original tensor as it is.
    Whole,
    /// One of as many equal runs of the original's rows.
    Rows { place: usize, of: usize },
    /// One of `depth` equal copies.
    Copy,
}

/// One line of the table: a diffusers tensor and the original it comes from.
#[derive(Clone, Debug)]
pub(super) struct Pair {
    pub(super) original: String,
    pub(super) diffusers: String,
    pub(super) piece: Piece,
}

/// The whole table for a model of `depth` blocks; a piece's lines are in order of rows or of blocks.
pub(super) fn table(depth: usize) -> Vec<Pair> {
    let mut pairs = Vec::new();
    let mut add =
        |original: String, diffusers: String, piece| pairs.push(Pair { original, diffusers, piece });
    for kind in KINDS {
        for (original, diffusers) in OUTER {
            add(format!("{original}.{kind}"), format!("{diffusers}.{kind}"), Piece::Whole);
        }
    }
    for i in 0..depth {
        for (original, diffusers) in COPIED {
            add(original.into(), format!("transformer_blocks.{i}.{diffusers}"), Piece::Copy);
        }
        for kind in KINDS {
            for (place, module) in THIRDS.iter().enumerate() {
                let diffusers = format!("transformer_blocks.{i}.{module}.{kind}");
                add(
                    format!("blocks.{i}.attn.qkv.{kind}"),
                    diffusers,
                    Piece::Rows { place, of: THIRDS.len() },
                );
            }
            for (original, diffusers) in INNER {
                let diffusers = format!("transformer_blocks.{i}.{diffusers}.{kind}");
                add(format!("blocks.{i}.{original}.{kind}"), diffusers, Piece::Whole);
            }
        }
    }
    pairs
}

/// A tensor of the original layout, as a file stores it.
#[derive(Clone, Debug)]
pub(super) enum Part {
    /// Stored whole.
    Whole(Stored),
    /// Stored as parts stacked along the first axis, each with its name in the file.
    Rows(TensorEntry, Vec<(String, Stored)>),
    /// Stored several times; read once all copies are seen to be equal.
    Copies(Vec<(String, Stored)>),
}

impl Part {
    pub(super) fn entry(&self) -> &TensorEntry {
        match self {
            Self::Whole(stored) => &stored.entry,
            Self::Rows(entry, _) => entry,
            Self::Copies(copies) => &copies[0].1.entry,
        }
    }

    /// The elements in row-major order.
    pub(super) fn read_f32(&self, path: &Path, name: &str) -> Result<Vec<f32>> {
        match self {
            Self::Whole(stored) => stored.read_f32(name),
            Self::Rows(entry, parts) => {
                let mut out = Vec::with_capacity(entry.numel());
                for (name, stored) in parts {
                    out.extend(stored.read_f32(name)?);
                }
                Ok(out)
            }
            Self::Copies(copies) => {
                let (first_name, first) = &copies[0];
                for (other_name, other) in &copies[1..] {
                    if !first.same_bytes(other)? {
                        let detail = format!(
                            "`{other_name}` differs from `{first_name}`; the original layout has one `{name}` for every block, \
                             so the copies must be equal"
                        );
                        return Err(Error::Tensors { path: path.into(), detail });
                    }
                }
                first.read_f32(first_name)
            }
        }
    }
}

/// Whether the names are those of a DiT saved by diffusers.
pub(super) fn is_diffusers<'a>(mut names: impl Iterator<Item = &'a String>) -> bool {
    names.any(|name| name.starts_with("transformer_blocks.") && name.contains(".norm1.emb.class_embedder."))
}

/// The number of blocks: one more than the largest number after `prefix`.
pub(super) fn depth<'a>(names: impl Iterator<Item = &'a str>, prefix: &str) -> usize {
    let indices =
        names.filter_map(|name| name.strip_prefix(prefix)?.split('.').next()?.parse::<usize>().ok());
    indices.max().map_or(0, |last| last.saturating_add(1))
}

/// The diffusers tensors that make up one original.
struct Group {
    piece: Piece,
    found: Vec<(String, Stored)>,
    missing: Vec<String>,
}

/// Presents diffusers' tensors under the original names of the table for their number of blocks. Names the table lacks stay
/// as they are, so that strict loading reports them as unused; an incomplete qkv or set of copies is an error here.
pub(super) fn to_original(
    path: &Path,
    mut stored: BTreeMap<String, Stored>,
    table: impl Fn(usize) -> Vec<Pair>,
) -> Result<BTreeMap<String, Part>> {
    let depth = depth(stored.keys().map(String::as_str), "transformer_blocks.");
    // A damaged name cannot make the table huge: every block has tensors.
    if depth > stored.len() {
        return Err(Error::invalid(
            path,
            format!("has a block numbered {} but only {} tensors", depth - 1, stored.len()),
        ));
    }
    let mut groups: BTreeMap<String, Group> = BTreeMap::new();
    for Pair { original, diffusers, piece } in table(depth) {
        let group = groups.entry(original).or_insert(Group { piece, found: vec![], missing: vec![] });
        match stored.remove(&diffusers) {
            Some(tensor) => group.found.push((diffusers, tensor)),
            None => group.missing.push(diffusers),
        }
    }
    let mut parts: BTreeMap<String, Part> =
        stored.into_iter().map(|(name, tensor)| (name, Part::Whole(tensor))).collect();
    for (original, Group { piece, mut found, missing }) in groups {
        if found.is_empty() {
            continue; // reported under its original name by the strict loader
        }
        if !missing.is_empty() {
            let detail = format!("`{original}` needs the missing tensors {}", missing.join(", "));
            return Err(Error::Tensors { path: path.into(), detail });
        }
        let part = match piece {
            Piece::Whole => Part::Whole(found.swap_remove(0).1),
            Piece::Copy => Part::Copies(found),
            Piece::Rows { .. } => Part::Rows(stacked(path, &original, &found)?, found),
        };
        parts.insert(original, part);
    }
    Ok(parts)
}

fn stacked(path: &Path, original: &str, rows: &[(String, Stored)]) -> Result<TensorEntry> {
    let first = &rows[0].1.entry;
    let equal = rows.iter().all(|(_, some)| some.entry == *first);
    if !equal || first.shape.is_empty() {
        let all: Vec<_> =
            rows.iter().map(|(name, t)| format!("{name} {:?} {:?}", t.entry.dtype, t.entry.shape)).collect();
        let detail = format!("`{original}` is made of tensors that must be alike: {}", all.join(", "));
        return Err(Error::Tensors { path: path.into(), detail });
    }
    let mut entry = first.clone();
    entry.shape[0] = entry.shape[0].saturating_mul(rows.len()); // a huge first axis can hide behind an empty second
    Ok(entry)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_names_each_diffusers_tensor_once() {
        let pairs = table(3);
        let names: std::collections::BTreeSet<_> = pairs.iter().map(|p| &p.diffusers).collect();
        assert_eq!(names.len(), pairs.len());
        assert_eq!(pairs.len(), 6 + 3 * (5 + 6 + 8));
        assert_eq!(depth(names.iter().map(|n| n.as_str()), "transformer_blocks."), 3);
    }
}
