use crate::checkpoint::Checkpoint;

/// How a file spells the names of an autoencoder's tensors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Spelling {
    /// As diffusers writes them.
    Diffusers,
    /// As diffusers wrote them before version 0.15: attention is `query`, `key`, `value`, `proj_attn`.
    OldDiffusers,
    /// As the code of latent diffusion (CompVis) has them; levels of the decoder are counted from the image.
    CompVis,
}

/// (diffusers, old diffusers, CompVis) parts of an attention.
const ATTENTION: [(&str, &str, &str); 5] = [
    ("group_norm", "group_norm", "norm"),
    ("to_q", "query", "q"),
    ("to_k", "key", "k"),
    ("to_v", "value", "v"),
    ("to_out.0", "proj_attn", "proj_out"),
];

impl Spelling {
    /// That of a file.
    pub(super) fn of(file: &Checkpoint) -> Self {
        if file.names().any(|name| name.starts_with("encoder.down.") || name.starts_with("decoder.up.")) {
            Self::CompVis
        } else if file.names().any(|name| name.contains(".attentions.0.proj_attn.")) {
            Self::OldDiffusers
        } else {
            Self::Diffusers
        }
    }

    /// A tensor's name in the file; `levels` is the number of levels.
    pub(super) fn name(self, name: &str, levels: usize) -> String {
        match self {
            Self::Diffusers => name.into(),
            Self::OldDiffusers => attention(name, |(_, old, _)| old).unwrap_or_else(|| name.into()),
            Self::CompVis => compvis(name, levels),
        }
    }
}

/// An attention's tensor with its part renamed.
fn attention(
    name: &str,
    pick: impl Fn((&'static str, &'static str, &'static str)) -> &'static str,
) -> Option<String> {
    let (block, rest) = name.split_once(".attentions.0.")?;
    let (part, kind) = rest.rsplit_once('.')?;
    let &row = ATTENTION.iter().find(|(current, ..)| *current == part)?;
    Some(format!("{block}.attentions.0.{}.{kind}", pick(row)))
}

fn compvis(name: &str, levels: usize) -> String {
    if let Some(renamed) = attention(name, |(.., compvis)| compvis) {
        return renamed.replace("mid_block.attentions.0", "mid.attn_1");
    }
    let parts: Vec<&str> = name.split('.').collect();
    match parts[..] {
        [part @ ("encoder" | "decoder"), "mid_block", "resnets", i, ..] => {
            let number = if i == "0" { 1 } else { 2 };
            format!("{part}.mid.block_{number}.{}", inner(&parts[4..]))
        }
        [part @ ("encoder" | "decoder"), _, level, kind, i, ..] => {
            let level: usize = level.parse().expect("levels are numbered");
            let (way, level) = if part == "encoder" { ("down", level) } else { ("up", levels - 1 - level) };
            match kind {
                "resnets" => format!("{part}.{way}.{level}.block.{i}.{}", inner(&parts[5..])),
                _ => format!("{part}.{way}.{level}.{way}sample.{}", parts[5..].join(".")),
            }
        }
        _ => name.replace("conv_norm_out", "norm_out"),
    }
}

/// The rest of a residual block's tensor.
fn inner(parts: &[&str]) -> String {
    parts.join(".").replace("conv_shortcut", "nin_shortcut")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Names as they stand in diffusers' table for conversion.
    #[test]
    fn names_are_those_of_the_originals() {
        let cases = [
            ("quant_conv.weight", "quant_conv.weight"),
            ("encoder.conv_in.bias", "encoder.conv_in.bias"),
            ("encoder.conv_norm_out.bias", "encoder.norm_out.bias"),
            (
                "encoder.down_blocks.1.resnets.0.conv_shortcut.weight",
                "encoder.down.1.block.0.nin_shortcut.weight",
            ),
            ("encoder.down_blocks.2.downsamplers.0.conv.bias", "encoder.down.2.downsample.conv.bias"),
            ("decoder.up_blocks.0.resnets.2.norm1.weight", "decoder.up.3.block.2.norm1.weight"),
            ("decoder.up_blocks.2.upsamplers.0.conv.weight", "decoder.up.1.upsample.conv.weight"),
            ("decoder.mid_block.resnets.1.conv2.weight", "decoder.mid.block_2.conv2.weight"),
            ("decoder.mid_block.attentions.0.to_out.0.bias", "decoder.mid.attn_1.proj_out.bias"),
            ("encoder.mid_block.attentions.0.group_norm.bias", "encoder.mid.attn_1.norm.bias"),
        ];
        for (diffusers, compvis) in cases {
            assert_eq!(Spelling::CompVis.name(diffusers, 4), compvis);
            assert_eq!(Spelling::Diffusers.name(diffusers, 4), diffusers);
        }
        let old = |name: &str| Spelling::OldDiffusers.name(name, 4);
        assert_eq!(
            old("encoder.mid_block.attentions.0.to_q.bias"),
            "encoder.mid_block.attentions.0.query.bias"
        );
        assert_eq!(
            old("decoder.mid_block.attentions.0.to_out.0.weight"),
            "decoder.mid_block.attentions.0.proj_attn.weight"
        );
        assert_eq!(old("decoder.conv_out.weight"), "decoder.conv_out.weight");
    }
}
