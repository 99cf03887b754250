use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::operator::{AttentionConfig, MlpConfig, OperatorConfig, Slot};

/// Named sizes of the original DiTs: (name, width, depth, heads).
pub const PRESETS: [(&str, usize, usize, usize); 5] = [
    ("dit-xl", 1152, 28, 16),
    ("dit-l", 1024, 24, 16),
    ("dit-b", 768, 12, 12),
    ("dit-s", 384, 12, 6),
    ("dit-d14", 1152, 14, 16),
];

/// Published text-to-image models: (name, tokens of a prompt, sides of images, side from which on they are told the image's
/// size).
const TEXT_PRESETS: [(&str, usize, &[usize], usize); 2] = [
    ("pixart-sigma", 300, &[256, 512, 1024, 2048], usize::MAX),
    ("pixart-alpha", 120, &[256, 512, 1024], 1024),
];

/// Sizes of a diffusion transformer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Fields", into = "Fields")]
pub struct DitConfig {
    /// Height and width of the input, in latent or image pixels. Text-to-image models take others too.
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
    pub mlp_ratio: f64,
    /// Whether the output holds variance channels behind the noise channels.
    pub learn_sigma: bool,
    /// What images are conditioned on, and with it the model's family.
    pub conditions: Conditions,
}

/// What a model's images are conditioned on, beside the timestep.
#[derive(Clone, Debug, PartialEq)]
pub enum Conditions {
    /// A class; every block has a modulation network of its own (adaLN-Zero): DiT.
    Classes {
        /// Number of classes, without the null class.
        count: usize,
        /// Whether the label table has a row for the null class, which guidance and label dropout need.
        null: bool,
    },
    /// A prompt, which every block attends to; one modulation network serves all blocks (adaLN-single): PixArt.
    Text(TextConfig),
}

/// What a text-to-image model is told of prompts and images.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TextConfig {
    /// Width of the text encoder's tokens; 4096 for T5-XXL.
    pub width: usize,
    /// Tokens that a prompt is cut to.
    #[serde(default = "prompt_tokens")]
    pub tokens: usize,
    /// What positions are divided by, beside the grid over the one of `input_size`.
    #[serde(default = "no_interpolation")]
    pub interpolation: f64,
    /// Whether the image's height, width and aspect ratio are conditions too (PixArt-α of 1024 pixels).
    #[serde(default)]
    pub size_conditions: bool,
}

fn prompt_tokens() -> usize {
    300
}

fn no_interpolation() -> f64 {
    1.0
}

/// [`DitConfig`] as recipes and checkpoint headers have it.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Fields {
    input_size: usize,
    patch: usize,
    in_channels: usize,
    hidden: usize,
    depth: usize,
    heads: usize,
    #[serde(default = "ratio")]
    mlp_ratio: f64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    num_classes: Option<usize>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    null_class: Option<bool>,
    #[serde(default = "yes")]
    learn_sigma: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    text: Option<TextConfig>,
}

fn ratio() -> f64 {
    4.0
}

fn yes() -> bool {
    true
}

impl TryFrom<Fields> for DitConfig {
    type Error = String;

    fn try_from(fields: Fields) -> std::result::Result<Self, String> {
        let Fields { num_classes, null_class, text, .. } = fields;
        let conditions = match (num_classes, text) {
            (Some(count), None) => Conditions::Classes { count, null: null_class.unwrap_or(true) },
            (None, Some(text)) if null_class.is_none() => Conditions::Text(text),
            (None, None) => {
                return Err("missing field `num_classes`, or `text` for a text-to-image model".into());
            }
            _ => {
                return Err(
                    "`text` stands for a text-to-image model, which has no `num_classes` or `null_class`"
                        .into(),
                );
            }
        };
        Ok(Self {
            input_size: fields.input_size,
            patch: fields.patch,
            in_channels: fields.in_channels,
            hidden: fields.hidden,
            depth: fields.depth,
            heads: fields.heads,
            mlp_ratio: fields.mlp_ratio,
            learn_sigma: fields.learn_sigma,
            conditions,
        })
    }
}

impl From<DitConfig> for Fields {
    fn from(sizes: DitConfig) -> Self {
        let (num_classes, null_class, text) = match sizes.conditions {
            Conditions::Classes { count, null } => (Some(count), Some(null), None),
            Conditions::Text(text) => (None, None, Some(text)),
        };
        Self {
            input_size: sizes.input_size,
            patch: sizes.patch,
            in_channels: sizes.in_channels,
            hidden: sizes.hidden,
            depth: sizes.depth,
            heads: sizes.heads,
            mlp_ratio: sizes.mlp_ratio,
            num_classes,
            null_class,
            learn_sigma: sizes.learn_sigma,
            text,
        }
    }
}

impl DitConfig {
    /// A preset by name: `dit-{xl,l,b,s,d14}-{2,4,8}-SIZE`, SIZE being the image's side in pixels
    /// (the latent is an eighth of it), e.g. `dit-xl-2-256`; `pixart-sigma-{256,512,1024,2048}` or
    /// `pixart-alpha-{256,512,1024}`.
    ///
    /// # Errors
    /// When the name is none of these, listing them.
    pub fn preset(name: &str) -> Result<Self> {
        let unknown = || {
            let names: Vec<&str> = PRESETS.iter().map(|p| p.0).collect();
            Error::Usage(format!(
                "unknown preset \"{name}\": expected one of {} followed by -2, -4 or -8 and the image size, such as \
                 dit-xl-2-256, or pixart-sigma or pixart-alpha and the size, such as pixart-sigma-1024",
                names.join(", ")
            ))
        };
        let config =
            if name.starts_with("pixart-") { Self::text_preset(name) } else { Self::class_preset(name) };
        let config = config.ok_or_else(unknown)?;
        config.check()?;
        Ok(config)
    }

    fn class_preset(name: &str) -> Option<Self> {
        let mut parts = name.rsplitn(3, '-');
        let (size, patch, model) = (parts.next()?, parts.next()?, parts.next()?);
        let &(_, hidden, depth, heads) = PRESETS.iter().find(|p| p.0 == model)?;
        let patch: usize = patch.parse().ok().filter(|p| [2, 4, 8].contains(p))?;
        let size: usize = size.parse().ok().filter(|size: &usize| size.is_multiple_of(8))?;
        let conditions = Conditions::Classes { count: 1000, null: true };
        Some(Self { patch, hidden, depth, heads, ..Self::latent(size, conditions) })
    }

    fn text_preset(name: &str) -> Option<Self> {
        let (model, size) = name.rsplit_once('-')?;
        let &(_, tokens, sides, told_from) = TEXT_PRESETS.iter().find(|p| p.0 == model)?;
        let size = size.parse().ok().filter(|size| sides.contains(size))?;
        let text = TextConfig {
            width: 4096,
            tokens,
            interpolation: size as f64 / 512.0,
            size_conditions: size >= told_from,
        };
        Some(Self::latent(size, Conditions::Text(text)))
    }

    /// The XL size for latents of images of `size` pixels.
    fn latent(size: usize, conditions: Conditions) -> Self {
        Self {
            input_size: size / 8,
            patch: 2,
            in_channels: 4,
            hidden: 1152,
            depth: 28,
            heads: 16,
            mlp_ratio: 4.0,
            learn_sigma: true,
            conditions,
        }
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
        if self.in_channels == 0 || self.depth == 0 {
            return fail("in_channels and depth must be at least 1".into());
        }
        match &self.conditions {
            Conditions::Classes { count: 0, .. } => return fail("num_classes must be at least 1".into()),
            Conditions::Classes { .. } => {}
            Conditions::Text(text) => text.check(self.hidden).or_else(fail)?,
        }
        MlpConfig { ratio: self.mlp_ratio }.hidden(self.hidden).map(|_| ())
    }

    /// Rows and columns of an image's tokens.
    pub fn grid(&self) -> [usize; 2] {
        [self.input_size / self.patch; 2]
    }

    /// Tokens an image: (input_size / patch)².
    pub fn tokens(&self) -> usize {
        self.grid().iter().product()
    }

    /// Channels of the output.
    pub fn out_channels(&self) -> usize {
        self.in_channels * if self.learn_sigma { 2 } else { 1 }
    }

    /// Elements of one input image.
    pub fn image_len(&self) -> usize {
        self.in_channels * self.input_size * self.input_size
    }

    /// What the model is told of text, where it is a text-to-image model.
    pub fn text(&self) -> Option<&TextConfig> {
        match &self.conditions {
            Conditions::Classes { .. } => None,
            Conditions::Text(text) => Some(text),
        }
    }

    /// Number of classes.
    ///
    /// # Errors
    /// When images are conditioned on text.
    pub fn classes(&self) -> Result<usize> {
        match &self.conditions {
            Conditions::Classes { count, .. } => Ok(*count),
            Conditions::Text(_) => Err(Error::Usage(
                "this is a text-to-image model, which knows prompts and no classes; draw from it with scion generate"
                    .into(),
            )),
        }
    }

    /// The label that stands for no condition, which guidance and label dropout need.
    pub fn null_label(&self) -> Option<usize> {
        match &self.conditions {
            Conditions::Classes { count, null } => null.then_some(*count),
            Conditions::Text(_) => Some(super::NULL_PROMPT),
        }
    }

    /// The operator that the untouched model has in a slot.
    pub fn native_operator(&self, slot: Slot) -> OperatorConfig {
        match slot {
            Slot::Attention => OperatorConfig::Attention(AttentionConfig { heads: self.heads }),
            Slot::Mlp => OperatorConfig::Mlp(MlpConfig { ratio: self.mlp_ratio }),
        }
    }
}

impl TextConfig {
    fn check(&self, hidden: usize) -> std::result::Result<(), String> {
        if self.width == 0 || self.tokens == 0 {
            return Err("text.width and text.tokens must be at least 1".into());
        }
        if !(self.interpolation.is_finite() && self.interpolation > 0.0) {
            return Err(format!("text.interpolation must be above 0, found {}", self.interpolation));
        }
        if self.size_conditions && !hidden.is_multiple_of(3) {
            return Err(format!("text.size_conditions needs a hidden width that 3 divides, found {hidden}"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Architecture;

    #[test]
    fn preset_sizes_are_the_published_counts() {
        for (name, expected) in [
            ("dit-xl-2-256", 675_129_632 - 256 * 1152),
            ("dit-l-2-256", 458_102_816 - 256 * 1024),
            ("dit-b-2-256", 130_512_416 - 256 * 768),
            ("dit-s-2-256", 32_963_360 - 256 * 384),
            ("pixart-sigma-1024", 610_856_096),
            ("pixart-sigma-2048", 610_856_096),
            // Two networks of 256 → 384 → 384 beside Σ's.
            ("pixart-alpha-1024", 610_856_096 + 2 * (257 * 384 + 385 * 384)),
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
        for name in [
            "dit-xl-2",
            "dit-xxl-2-256",
            "dit-xl-3-256",
            "dit-xl-2-250",
            "dit-xl-2-x",
            "pixart-sigma",
            "pixart-alpha-2048",
            "pixart-beta-512",
        ] {
            assert!(DitConfig::preset(name).is_err(), "{name}");
        }
    }

    #[test]
    fn both_families_are_written_and_read() {
        for preset in ["dit-s-2-256", "pixart-sigma-2048", "pixart-alpha-1024"] {
            let sizes = DitConfig::preset(preset).unwrap();
            let text = serde_json::to_string(&sizes).unwrap();
            assert_eq!(serde_json::from_str::<DitConfig>(&text).unwrap(), sizes, "{text}");
        }
        let dit = serde_json::to_string(&DitConfig::preset("dit-s-2-256").unwrap()).unwrap();
        assert!(!dit.contains("text"), "older programs refuse fields that they do not know");
        let refused = |text: &str| serde_json::from_str::<DitConfig>(text).unwrap_err().to_string();
        assert!(
            refused(&dit.replace("\"num_classes\":1000,", "").replace("\"null_class\":true,", ""))
                .contains("text")
        );
        let both = dit.replace("\"patch\"", "\"text\":{\"width\":8},\"patch\"");
        assert!(refused(&both).contains("num_classes"));
        assert!(refused(&both.replace("width", "depth")).contains("depth"));
    }

    #[test]
    fn impossible_text_settings_are_refused() {
        let sizes = DitConfig::preset("pixart-sigma-512").unwrap();
        let refused = |edit: &dyn Fn(&mut TextConfig)| {
            let mut sizes = DitConfig { hidden: 64, ..sizes.clone() };
            let Conditions::Text(text) = &mut sizes.conditions else { unreachable!("PixArt reads text") };
            edit(text);
            sizes.check().unwrap_err().to_string()
        };
        assert!(refused(&|text| text.width = 0).contains("text.width"));
        assert!(refused(&|text| text.interpolation = 0.0).contains("text.interpolation"));
        assert!(refused(&|text| text.size_conditions = true).contains("3 divides, found 64"));
        assert!(sizes.classes().unwrap_err().to_string().contains("scion generate"));
    }
}
