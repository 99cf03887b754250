use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::operator::{
    AttentionConfig, Flops, LinearAttentionConfig, MlpConfig, MlpHyenaXConfig, NeighborhoodConfig,
    OperatorConfig, SlidingWindowConfig, Slot,
};

/// Named sizes of the original models: (name, width, depth, heads).
pub const PRESETS: [(&str, usize, usize, usize); 5] = [
    ("dit-xl", 1152, 28, 16),
    ("dit-l", 1024, 24, 16),
    ("dit-b", 768, 12, 12),
    ("dit-s", 384, 12, 6),
    ("dit-d14", 1152, 14, 16),
];

/// Sizes of a diffusion transformer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DitConfig {
    /// Height and width of the input, in latent or image pixels.
    pub input_size: usize,
    /// Side of the square patch that becomes one token.
    pub patch: usize,
    /// Channels of the input; 4 for Stable Diffusion latents.
    pub in_channels: usize,
    /// Token width D.
    pub hidden: usize,
    /// Number of blocks.
    pub depth: usize,
    /// Attention heads a block.
    pub heads: usize,
    /// Hidden width of the MLP over D.
    #[serde(default = "ratio")]
    pub mlp_ratio: f64,
    /// Number of classes, without the null class.
    pub num_classes: usize,
    /// Whether the label table has a row for the null class, which guidance and label dropout need.
    #[serde(default = "yes")]
    pub null_class: bool,
    /// Whether the output holds variance channels behind the noise channels.
    #[serde(default = "yes")]
    pub learn_sigma: bool,
}

fn ratio() -> f64 {
    4.0
}

fn yes() -> bool {
    true
}

impl DitConfig {
    /// A preset by name: `dit-{xl,l,b,s,d14}-{2,4,8}-SIZE`, SIZE being the image's side in pixels
    /// (the latent is an eighth of it), e.g. `dit-xl-2-256`.
    ///
    /// # Errors
    /// When the name is none of these, listing them.
    pub fn preset(name: &str) -> Result<Self> {
        let unknown = || {
            let names: Vec<&str> = PRESETS.iter().map(|p| p.0).collect();
            Error::Usage(format!(
                "unknown preset \"{name}\": expected one of {} followed by -2, -4 or -8 and the image size, such as dit-xl-2-256",
                names.join(", ")
            ))
        };
        let mut parts = name.rsplitn(3, '-');
        let (Some(size), Some(patch), Some(model)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(unknown());
        };
        let &(_, hidden, depth, heads) = PRESETS.iter().find(|p| p.0 == model).ok_or_else(unknown)?;
        let patch: usize = patch.parse().ok().filter(|p| [2, 4, 8].contains(p)).ok_or_else(unknown)?;
        let size: usize = size.parse().map_err(|_| unknown())?;
        let config = Self {
            input_size: size / 8,
            patch,
            in_channels: 4,
            hidden,
            depth,
            heads,
            mlp_ratio: 4.0,
            num_classes: 1000,
            null_class: true,
            learn_sigma: true,
        };
        if !size.is_multiple_of(8) {
            return Err(unknown());
        }
        config.check()?;
        Ok(config)
    }

    /// Checks that the sizes fit one another.
    ///
    /// # Errors
    /// A usage error that names the field.
    pub fn check(&self) -> Result<()> {
        let fail = |detail: String| Err(Error::Usage(format!("model: {detail}")));
        if self.patch == 0 || self.input_size == 0 || !self.input_size.is_multiple_of(self.patch) {
            return fail(format!(
                "input_size {} does not divide into patches of {}",
                self.input_size, self.patch
            ));
        }
        if self.heads == 0 || !self.hidden.is_multiple_of(self.heads) {
            return fail(format!("hidden {} does not divide into {} heads", self.hidden, self.heads));
        }
        if self.hidden == 0 || !self.hidden.is_multiple_of(4) {
            return fail(format!(
                "hidden must be a multiple of 4 for the position table, found {}",
                self.hidden
            ));
        }
        if self.in_channels == 0 || self.depth == 0 || self.num_classes == 0 {
            return fail("in_channels, depth and num_classes must be at least 1".into());
        }
        MlpConfig { ratio: self.mlp_ratio }.hidden(self.hidden).map(|_| ())
    }

    /// Tokens an image: (input_size / patch)².
    pub fn tokens(&self) -> usize {
        (self.input_size / self.patch).pow(2)
    }

    /// Channels of the output.
    pub fn out_channels(&self) -> usize {
        self.in_channels * if self.learn_sigma { 2 } else { 1 }
    }

    /// Elements of one input image.
    pub fn image_len(&self) -> usize {
        self.in_channels * self.input_size * self.input_size
    }

    /// The operator that the untouched model has in a slot.
    pub fn native_operator(&self, slot: Slot) -> OperatorConfig {
        match slot {
            Slot::Attention => OperatorConfig::Attention(AttentionConfig { heads: self.heads }),
            Slot::Mlp => OperatorConfig::Mlp(MlpConfig { ratio: self.mlp_ratio }),
        }
    }
}

/// One replaced operator of an [`Architecture`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Replacement {
    /// Index of the block, from 0.
    pub block: usize,
    /// The slot inside the block.
    pub slot: Slot,
    /// What stands there instead.
    pub operator: OperatorConfig,
}

/// A model's sizes and what was edited in it: all that is needed to build it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Architecture {
    /// Sizes of the model.
    pub dit: DitConfig,
    /// Replaced operators, ordered by block and slot.
    #[serde(default)]
    pub grafts: Vec<Replacement>,
    /// Consecutive blocks that run side by side, ascending.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pairs: Vec<[usize; 2]>,
}

impl Architecture {
    /// The untouched model.
    pub fn native(dit: DitConfig) -> Self {
        Self { dit, grafts: Vec::new(), pairs: Vec::new() }
    }

    /// The same sizes with these replacements, after checking each.
    ///
    /// # Errors
    /// When a block does not exist, a slot is named twice, an operator cannot stand in its slot, or its
    /// settings do not fit the model.
    pub fn with_grafts(&self, mut grafts: Vec<Replacement>) -> Result<Self> {
        grafts.sort_by_key(|g| (g.block, g.slot));
        for graft in &mut grafts {
            let (block, depth) = (graft.block, self.dit.depth);
            let place = format!("{} of block {block}", graft.slot.name());
            if block >= depth {
                return Err(Error::Plan(format!(
                    "{place}: the model has {depth} blocks, 0 to {}",
                    depth - 1
                )));
            }
            if !graft.operator.fits(graft.slot) {
                let name = graft.operator.name();
                return Err(Error::Plan(format!("{place}: {name} is no operator for this slot")));
            }
            fill_in(&mut graft.operator, &self.dit);
            graft.operator.check(self.dit.hidden, self.dit.tokens())?;
        }
        for pair in grafts.windows(2) {
            if (pair[0].block, pair[0].slot) == (pair[1].block, pair[1].slot) {
                let (block, slot) = (pair[0].block, pair[0].slot.name());
                return Err(Error::Plan(format!("{slot} of block {block} is grafted twice")));
            }
        }
        Ok(Self { grafts, ..self.clone() })
    }

    /// The same model with these blocks side by side, and no others.
    ///
    /// # Errors
    /// When a pair's blocks do not follow one another or do not exist, or a block is in two pairs.
    pub fn with_pairs(&self, mut pairs: Vec<[usize; 2]>) -> Result<Self> {
        pairs.sort_unstable();
        for &[first, second] in &pairs {
            if first.checked_add(1) != Some(second) {
                return Err(Error::Plan(format!(
                    "blocks {first} and {second} cannot run side by side: a pair is two consecutive blocks, such as [0, 1]"
                )));
            }
            if second >= self.dit.depth {
                let (depth, last) = (self.dit.depth, self.dit.depth - 1);
                return Err(Error::Plan(format!(
                    "blocks {first} and {second} cannot be a pair: the model has {depth} blocks, 0 to {last}"
                )));
            }
        }
        if let Some(meeting) = pairs.windows(2).find(|w| w[0][1] >= w[1][0]) {
            return Err(Error::Plan(format!("block {} is in two pairs", meeting[1][0])));
        }
        Ok(Self { pairs, ..self.clone() })
    }

    /// The operator in a slot.
    pub fn operator(&self, block: usize, slot: Slot) -> OperatorConfig {
        self.replacement(block, slot).map_or_else(|| self.dit.native_operator(slot), |g| g.operator.clone())
    }

    /// The replacement in a slot, if it was grafted.
    pub fn replacement(&self, block: usize, slot: Slot) -> Option<&Replacement> {
        self.grafts.iter().find(|g| (g.block, g.slot) == (block, slot))
    }

    /// Number of parameters, the frozen position table left out as in the original's count.
    pub fn parameters(&self) -> usize {
        let DitConfig { hidden: d, patch, in_channels, .. } = self.dit;
        let patch_values = patch * patch;
        let embed = d * in_channels * patch_values + d;
        let time = 256 * d + d + d * d + d;
        let labels = (self.dit.num_classes + usize::from(self.dit.null_class)) * d;
        let last = 2 * d * d + 2 * d + (d + 1) * patch_values * self.dit.out_channels();
        let blocks: usize = (0..self.dit.depth).map(|block| self.block_parameters(block)).sum();
        embed + time + labels + last + blocks + self.pairs.len() * self.merge_parameters()
    }

    /// Number of parameters of a block: its operators and their modulation.
    pub fn block_parameters(&self, block: usize) -> usize {
        let d = self.dit.hidden;
        let operators: usize = Slot::ALL.iter().map(|&slot| self.operator(block, slot).parameters(d)).sum();
        operators + 6 * d * d + 6 * d
    }

    /// Number of parameters of a pair's merge.
    pub fn merge_parameters(&self) -> usize {
        2 * self.dit.hidden * self.dit.hidden + self.dit.hidden
    }

    /// Floating-point operations of one forward pass for one image, counted as [`OperatorConfig::flops`] does;
    /// normalisations are left out.
    pub fn flops(&self) -> usize {
        let DitConfig { hidden: d, patch, in_channels, .. } = self.dit;
        let tokens = self.dit.tokens();
        let embed = 2 * tokens * d * in_channels * patch * patch;
        let conditioning = 2 * (256 * d + d * d) + 2 * d * 2 * d;
        let last = 2 * tokens * d * patch * patch * self.dit.out_channels();
        let blocks: usize = (0..self.dit.depth).map(|block| self.block_flops(block)).sum();
        embed + conditioning + last + blocks + self.pairs.len() * self.merge_flops()
    }

    /// Multiply-adds ×2 of a block for one image: its operators and their modulation.
    pub fn block_flops(&self, block: usize) -> usize {
        let (d, tokens) = (self.dit.hidden, self.dit.tokens());
        let operators: usize =
            Slot::ALL.iter().map(|&slot| self.operator(block, slot).flops(d, tokens).total()).sum();
        operators + 2 * d * 6 * d
    }

    /// Multiply-adds ×2 of a pair's merge for one image.
    pub fn merge_flops(&self) -> usize {
        2 * self.dit.tokens() * 2 * self.dit.hidden * self.dit.hidden
    }

    /// Cost of every operator in a slot kind, over all blocks.
    pub fn operator_flops(&self, slot: Slot) -> Flops {
        (0..self.dit.depth).map(|b| self.operator(b, slot).flops(self.dit.hidden, self.dit.tokens())).fold(
            Flops::default(),
            |a, b| Flops { operator: a.operator + b.operator, features: a.features + b.features },
        )
    }
}

/// Gives the model's number of heads or tokens to operators that leave theirs open.
fn fill_in(operator: &mut OperatorConfig, model: &DitConfig) {
    let (open, value) = match operator {
        OperatorConfig::Attention(AttentionConfig { heads })
        | OperatorConfig::SlidingWindow(SlidingWindowConfig { heads, .. })
        | OperatorConfig::Neighborhood(NeighborhoodConfig { heads, .. })
        | OperatorConfig::LinearAttention(LinearAttentionConfig { heads, .. }) => (heads, model.heads),
        OperatorConfig::MlpHyenaX(MlpHyenaXConfig { tokens, .. }) => (tokens, model.tokens()),
        _ => return,
    };
    if *open == 0 {
        *open = value;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn preset_sizes_are_the_published_counts() {
        for (name, expected) in [
            ("dit-xl-2-256", 675_129_632 - 256 * 1152),
            ("dit-l-2-256", 458_102_816 - 256 * 1024),
            ("dit-b-2-256", 130_512_416 - 256 * 768),
            ("dit-s-2-256", 32_963_360 - 256 * 384),
        ] {
            assert_eq!(
                Architecture::native(DitConfig::preset(name).unwrap()).parameters(),
                expected,
                "{name}"
            );
        }
    }

    #[test]
    fn unknown_presets_are_refused() {
        for name in ["dit-xl-2", "dit-xxl-2-256", "dit-xl-3-256", "dit-xl-2-250", "dit-xl-2-x"] {
            assert!(DitConfig::preset(name).is_err(), "{name}");
        }
    }

    #[test]
    fn overlapping_and_misplaced_grafts_are_refused() {
        let model = Architecture::native(DitConfig::preset("dit-s-2-256").unwrap());
        let mlp = Replacement {
            block: 3,
            slot: Slot::Mlp,
            operator: OperatorConfig::Mlp(MlpConfig { ratio: 3.0 }),
        };
        assert!(model.with_grafts(vec![mlp.clone(), mlp.clone()]).unwrap_err().to_string().contains("twice"));
        let far = Replacement { block: 12, ..mlp.clone() };
        assert!(model.with_grafts(vec![far]).unwrap_err().to_string().contains("12 blocks"));
        let wrong = Replacement { slot: Slot::Attention, ..mlp };
        assert!(model.with_grafts(vec![wrong]).is_err());
    }

    #[test]
    fn pairs_add_the_published_parameters() {
        let model = Architecture::native(DitConfig::preset("dit-xl-2-256").unwrap());
        let pairs = (0..14).map(|j| [2 * j, 2 * j + 1]).collect();
        let wide = model.with_pairs(pairs).unwrap();
        // The published count holds the position table, ours does not.
        assert_eq!(wide.parameters(), 712_304_672 - 256 * 1152);
        assert_eq!(wide.flops() - model.flops(), 14 * 2 * 256 * 2304 * 1152);
    }

    #[test]
    fn impossible_pairs_are_refused() {
        let model = Architecture::native(DitConfig::preset("dit-s-2-256").unwrap());
        let refused = |pairs: &[[usize; 2]]| model.with_pairs(pairs.to_vec()).unwrap_err().to_string();
        assert!(refused(&[[0, 2]]).contains("consecutive"));
        assert!(refused(&[[3, 2]]).contains("consecutive"));
        assert!(refused(&[[11, 12]]).contains("12 blocks, 0 to 11"));
        assert!(refused(&[[4, 5], [3, 4]]).contains("block 4 is in two pairs"));
        assert!(refused(&[[4, 5], [4, 5]]).contains("block 4 is in two pairs"));
    }

    #[test]
    fn headers_from_before_pairs_are_read() {
        let model = Architecture::native(DitConfig::preset("dit-s-2-256").unwrap());
        let text = serde_json::to_string(&model).unwrap();
        assert!(!text.contains("pairs"), "older programs refuse fields that they do not know");
        assert_eq!(serde_json::from_str::<Architecture>(&text).unwrap(), model);
        let paired = model.with_pairs(vec![[2, 3]]).unwrap();
        let text = serde_json::to_string(&paired).unwrap();
        assert_eq!(serde_json::from_str::<Architecture>(&text).unwrap(), paired);
        let unknown = text.replace("\"pairs\"", "\"triples\"");
        assert!(serde_json::from_str::<Architecture>(&unknown).unwrap_err().to_string().contains("triples"));
    }
}
