//! The architecture of a DiT, read off its tensors' shapes.

use super::{Checkpoint, diffusers};
use crate::error::{Error, Result};

/// What tensor shapes tell about a DiT.
#[derive(Clone, Debug, PartialEq)]
pub struct DitShape {
    /// Width D of the token stream.
    pub hidden: usize,
    /// Number of blocks.
    pub depth: usize,
    /// Attention heads, where `config.json` or a published width tells; shapes alone do not.
    pub heads: Option<usize>,
    /// Side of a patch in latent pixels.
    pub patch: usize,
    /// Channels of the latent.
    pub in_channels: usize,
    /// Channels of the output: `in_channels`, doubled when the variance is learned.
    pub out_channels: usize,
    /// Classes, without the null label.
    pub num_classes: usize,
    /// Whether the label table has one row more than classes, for dropped labels. True unless the file tells otherwise.
    pub label_dropout: bool,
    /// Hidden width of the first stored MLP over D; 4 when every block's MLP is replaced.
    pub mlp_ratio: f64,
    /// Tokens per image, where the file stores the position table or its config gives the image's size.
    pub tokens: Option<usize>,
}

impl DitShape {
    /// Whether the output carries variances beside the noise.
    pub fn learn_sigma(&self) -> bool {
        self.out_channels == 2 * self.in_channels
    }
}

/// (width, heads) of the published models S, B, L and XL.
const PUBLISHED_HEADS: [(usize, usize); 4] = [(384, 6), (768, 12), (1024, 16), (1152, 16)];

impl Checkpoint {
    /// Reads the architecture off the shapes of the embedders, the blocks and the final layer. An error names the
    /// tensor that is missing or has an impossible shape.
    pub fn infer_dit(&self) -> Result<DitShape> {
        let (hidden, in_channels, patch) = self.patches()?;
        let depth = self.blocks()?;
        let [rows, _] = self.dims("y_embedder.embedding_table.weight")?;
        let (num_classes, label_dropout) = self.classes(rows)?;
        Ok(DitShape {
            hidden,
            depth,
            heads: self.heads(hidden)?,
            patch,
            in_channels,
            out_channels: self.out_channels(patch, in_channels)?,
            num_classes,
            label_dropout,
            mlp_ratio: self.mlp_ratio(0..depth, hidden)?.unwrap_or(4.0),
            tokens: self.tokens(patch)?,
        })
    }

    /// Width of the token stream, channels of the latent and side of a patch.
    ///
    /// # Errors
    /// When there is no patch embedder of the published shape.
    pub fn patches(&self) -> Result<(usize, usize, usize)> {
        let [hidden, in_channels, patch, patch_w] = self.dims("x_embedder.proj.weight")?;
        if patch != patch_w || [hidden, in_channels, patch].contains(&0) {
            return Err(self.misshapen("x_embedder.proj.weight", "(D, C, p, p)"));
        }
        Ok((hidden, in_channels, patch))
    }

    /// Number of blocks.
    pub(super) fn blocks(&self) -> Result<usize> {
        let depth = diffusers::depth(self.names(), "blocks.");
        if depth == 0 || depth > self.names().count() {
            return Err(self.tensors_error(&format!(
                "has names for {depth} blocks (blocks.N.…); expected those of a DiT"
            )));
        }
        Ok(depth)
    }

    pub(super) fn out_channels(&self, patch: usize, in_channels: usize) -> Result<usize> {
        let [rows, _] = self.dims("final_layer.linear.weight")?;
        let known =
            [in_channels, 2 * in_channels].into_iter().find(|channels| patch * patch * channels == rows);
        known.ok_or_else(|| {
            let wanted = format!("(p²·C, D) or (p²·2C, D) with p = {patch} and C = {in_channels}");
            self.misshapen("final_layer.linear.weight", &wanted)
        })
    }

    pub(super) fn heads(&self, hidden: usize) -> Result<Option<usize>> {
        let published = PUBLISHED_HEADS.iter().find(|(width, _)| *width == hidden).map(|(_, heads)| *heads);
        let Some(heads) = self.config_number("num_attention_heads") else { return Ok(published) };
        if heads == 0 || !hidden.is_multiple_of(heads) {
            let detail =
                format!("config.json gives {heads} attention heads, which do not divide the width {hidden}");
            return Err(self.tensors_error(&detail));
        }
        Ok(Some(heads))
    }

    /// Classes and whether there is a null row: told by diffusers' config or by a training file's `num_classes`.
    fn classes(&self, rows: usize) -> Result<(usize, bool)> {
        let argument = self.source().arguments.get("num_classes").and_then(serde_json::Value::as_u64);
        let told =
            self.config_number("num_embeds_ada_norm").or(argument.and_then(|n| usize::try_from(n).ok()));
        match told {
            Some(classes) if classes == rows => Ok((classes, false)),
            Some(classes) if classes.checked_add(1) != Some(rows) => {
                let detail = format!(
                    "the label table has {rows} rows, but the file's settings give {classes} classes"
                );
                Err(self.tensors_error(&detail))
            }
            _ if rows < 2 => Err(self.misshapen("y_embedder.embedding_table.weight", "(classes + 1, D)")),
            _ => Ok((rows - 1, true)),
        }
    }

    /// Hidden width over D of the first stored MLP among `blocks`, if there is one.
    ///
    /// # Errors
    /// When that MLP's first weight is no matrix.
    pub fn mlp_ratio(&self, blocks: impl IntoIterator<Item = usize>, hidden: usize) -> Result<Option<f64>> {
        let mut names = blocks.into_iter().map(|i| format!("blocks.{i}.mlp.fc1.weight"));
        let stored = names.find(|name| self.entry(name).is_some());
        stored.map(|name| self.dims(&name).map(|[rows, _]| rows as f64 / hidden as f64)).transpose()
    }

    pub(super) fn tokens(&self, patch: usize) -> Result<Option<usize>> {
        if self.entry(diffusers::POS_EMBED).is_some() {
            let [_, tokens, _] = self.dims(diffusers::POS_EMBED)?;
            return Ok(Some(tokens));
        }
        let side = self.config_number("sample_size").map(|size| size / patch);
        Ok(side.and_then(|side| side.checked_mul(side)))
    }

    fn config_number(&self, field: &str) -> Option<usize> {
        usize::try_from(self.config()?.get(field)?.as_u64()?).ok()
    }

    pub(super) fn dims<const N: usize>(&self, name: &str) -> Result<[usize; N]> {
        let entry = self
            .entry(name)
            .ok_or_else(|| self.tensors_error(&format!("has no tensor `{name}`; expected a DiT")))?;
        entry.shape.as_slice().try_into().map_err(|_| self.misshapen(name, &format!("{N} axes")))
    }

    pub(super) fn misshapen(&self, name: &str, expected: &str) -> Error {
        let found = self.entry(name).map(|entry| entry.shape.as_slice()).unwrap_or_default();
        self.tensors_error(&format!("tensor `{name}` has shape {found:?}; expected {expected}"))
    }

    pub(super) fn tensors_error(&self, detail: &str) -> Error {
        Error::Tensors { path: self.path().into(), detail: detail.into() }
    }
}
