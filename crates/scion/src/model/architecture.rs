use serde::{Deserialize, Serialize};

use super::config::{Conditions, DitConfig, TextConfig};
use crate::error::{Error, Result};
use crate::operator::{
    AttentionConfig, Flops, KvCompressionConfig, LinearAttentionConfig, MlpHyenaXConfig, NeighborhoodConfig,
    OperatorConfig, SlidingWindowConfig, Slot,
};

/// Width of the sinusoidal features of timesteps and sizes.
pub(super) const FREQUENCIES: usize = 256;

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
            graft.operator.check_grid(self.dit.grid())?;
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

    /// Checks that the model runs on inputs of this height and width.
    ///
    /// # Errors
    /// When it knows only its own size, the sides do not divide into patches, or an operator depends on the grid of tokens.
    pub fn check_size(&self, height: usize, width: usize) -> Result<()> {
        let DitConfig { input_size, patch, hidden, depth, .. } = self.dit;
        if [height, width] == [input_size; 2] {
            return Ok(());
        }
        let fail = |why: String| Err(Error::Usage(format!("inputs of {height}×{width}: {why}")));
        if self.dit.text().is_none() {
            return fail(format!("this model takes {input_size}×{input_size} alone"));
        }
        if height == 0 || width == 0 || !height.is_multiple_of(patch) || !width.is_multiple_of(patch) {
            return fail(format!("they do not divide into patches of {patch}"));
        }
        let grid = [height / patch, width / patch];
        for (block, slot) in (0..depth).flat_map(|block| Slot::ALL.map(|slot| (block, slot))) {
            let operator = self.operator(block, slot);
            operator
                .check(hidden, grid[0] * grid[1])
                .and_then(|()| operator.check_grid(grid))
                .or_else(|e| fail(format!("{} of block {block}: {e}", slot.name())))?;
        }
        Ok(())
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
        let linear = |inputs: usize, outputs: usize| (inputs + 1) * outputs;
        let embed = linear(in_channels * patch_values, d) + linear(FREQUENCIES, d) + linear(d, d);
        let (conditions, modulation) = match &self.dit.conditions {
            Conditions::Classes { count, null } => ((count + usize::from(*null)) * d, linear(d, 2 * d)),
            Conditions::Text(TextConfig { width, size_conditions, .. }) => {
                let sizes = 2 * (linear(FREQUENCIES, d / 3) + linear(d / 3, d / 3));
                let sizes = if *size_conditions { sizes } else { 0 };
                (linear(*width, d) + linear(d, d) + linear(d, 6 * d) + sizes, 2 * d)
            }
        };
        let last = modulation + linear(d, patch_values * self.dit.out_channels());
        let blocks: usize = (0..self.dit.depth).map(|block| self.block_parameters(block)).sum();
        embed + conditions + last + blocks + self.pairs.len() * self.merge_parameters()
    }

    /// Number of parameters of a block: its operators, their modulation, and its attention to the prompt if it has one.
    pub fn block_parameters(&self, block: usize) -> usize {
        let d = self.dit.hidden;
        let operators: usize = Slot::ALL.iter().map(|&slot| self.operator(block, slot).parameters(d)).sum();
        operators
            + match self.dit.conditions {
                Conditions::Classes { .. } => 6 * d * d + 6 * d,
                Conditions::Text(_) => 6 * d + 4 * d * d + 4 * d,
            }
    }

    /// Number of parameters of a pair's merge.
    pub fn merge_parameters(&self) -> usize {
        2 * self.dit.hidden * self.dit.hidden + self.dit.hidden
    }

    /// Floating-point operations of one forward pass for one image, counted as [`OperatorConfig::flops`] does;
    /// normalisations are left out. A prompt counts with all the tokens that it may have.
    pub fn flops(&self) -> usize {
        let DitConfig { hidden: d, patch, in_channels, .. } = self.dit;
        let tokens = self.dit.tokens();
        let embed = 2 * tokens * d * in_channels * patch * patch;
        let conditioning = 2 * (FREQUENCIES * d + d * d)
            + match &self.dit.conditions {
                Conditions::Classes { .. } => 2 * d * 2 * d,
                Conditions::Text(text) => 2 * text.tokens * (text.width * d + d * d) + 2 * d * 6 * d,
            };
        let last = 2 * tokens * d * patch * patch * self.dit.out_channels();
        let blocks: usize = (0..self.dit.depth).map(|block| self.block_flops(block)).sum();
        embed + conditioning + last + blocks + self.pairs.len() * self.merge_flops()
    }

    /// Multiply-adds ×2 of a block for one image: its operators, their modulation, and attention to the prompt.
    pub fn block_flops(&self, block: usize) -> usize {
        let DitConfig { hidden: d, heads, .. } = self.dit;
        let tokens = self.dit.tokens();
        let operators: usize =
            Slot::ALL.iter().map(|&slot| self.operator(block, slot).flops(d, tokens).total()).sum();
        operators
            + match &self.dit.conditions {
                Conditions::Classes { .. } => 2 * d * 6 * d,
                Conditions::Text(text) => {
                    let projections = 2 * 2 * (tokens + text.tokens) * d * d;
                    projections + tokens * text.tokens * (2 * 2 * d + 3 * heads)
                }
            }
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
        | OperatorConfig::KvCompression(KvCompressionConfig { heads, .. })
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
    use crate::operator::MlpConfig;

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
    fn text_to_image_models_take_other_sizes_as_far_as_their_operators_do() {
        let model = Architecture::native(DitConfig::preset("pixart-sigma-512").unwrap());
        model.check_size(64, 96).unwrap();
        let refused = |model: &Architecture, size: [usize; 2]| {
            model.check_size(size[0], size[1]).unwrap_err().to_string()
        };
        assert!(refused(&model, [64, 95]).contains("patches of 2"));
        let graft =
            |slot, operator| model.with_grafts(vec![Replacement { block: 3, slot, operator }]).unwrap();
        let window = OperatorConfig::Neighborhood(NeighborhoodConfig {
            heads: 0,
            window: crate::operator::GridWindow::Square(7),
        });
        let near = graft(Slot::Attention, window);
        near.check_size(32, 32).unwrap();
        let message = refused(&near, [32, 128]);
        assert!(message.contains("attention of block 3") && message.contains("square grid"), "{message}");
        let compressed = KvCompressionConfig { heads: 0, factor: 2 };
        let compressed = graft(Slot::Attention, OperatorConfig::KvCompression(compressed));
        compressed.check_size(32, 128).unwrap();
        let message = refused(&compressed, [32, 46]);
        assert!(message.contains("attention of block 3") && message.contains("found 16×23"), "{message}");
        let fixed = graft(Slot::Mlp, OperatorConfig::MlpHyenaX(MlpHyenaXConfig::default()));
        assert!(refused(&fixed, [32, 32]).contains("mlp of block 3"));
        let dit = Architecture::native(DitConfig::preset("dit-s-2-256").unwrap());
        dit.check_size(32, 32).unwrap();
        assert!(refused(&dit, [32, 64]).contains("32×32 alone"));
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
