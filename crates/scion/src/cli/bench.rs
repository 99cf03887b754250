use std::io::Write;

use clap::{Args, ValueEnum};

use super::set_precision;
use crate::bench::{
    Comparison, Distilled, Measurement, WORKLOADS, Workload, measure, measure_lengths, measure_pixart,
    peak_gflops,
};
use crate::config::PrecisionConfig;
use crate::error::Result;

#[derive(Args)]
pub struct BenchArguments {
    /// The workloads, separated by commas; by default all but xl2-stage1 and xl2-stage2, which need gigabytes
    #[arg(long, value_delimiter = ',')]
    only: Vec<Workload>,
    /// Operand precision of products
    #[arg(long, value_enum, default_value_t = Precisions::Both)]
    precision: Precisions,
    /// Timed steps of each
    #[arg(long, default_value_t = 7)]
    runs: usize,
    /// Instead, one step of stage 1 of token mixers on one image of so many tokens, separated by commas
    #[arg(long, value_delimiter = ',', conflicts_with = "only", value_parser = parse_tokens)]
    lengths: Vec<usize>,
    /// Instead, PixArt-Σ's forward pass for images of so many pixels a side, separated by commas, with and without the
    /// paper's graft; needs gigabytes and minutes
    #[arg(
        long,
        value_name = "SIDES",
        value_delimiter = ',',
        conflicts_with_all = ["only", "lengths"],
        value_parser = ["256", "512", "1024", "2048"]
    )]
    pixart: Vec<String>,
    /// Print one JSON object a line
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Precisions {
    F32,
    Bf16,
    /// The one that pays on this machine
    Auto,
    Both,
}

pub fn bench(arguments: &BenchArguments) -> Result<()> {
    let precisions: &[PrecisionConfig] = match arguments.precision {
        Precisions::F32 => &[PrecisionConfig::F32],
        Precisions::Bf16 => &[PrecisionConfig::Bf16],
        Precisions::Auto => &[PrecisionConfig::Auto.resolved()],
        Precisions::Both => &[PrecisionConfig::F32, PrecisionConfig::Bf16],
    };
    if !arguments.pixart.is_empty() {
        return pixart(arguments, precisions);
    }
    let all: Vec<Workload> =
        WORKLOADS.iter().map(|(_, workload)| *workload).filter(|workload| !workload.is_large()).collect();
    let chosen = if arguments.only.is_empty() { &all } else { &arguments.only };
    if !arguments.json {
        say!(
            "{:<20} {:>5} {:>10} {:>10} {:>10} {:>9} {:>7} {:>10} {:>10}",
            "workload",
            "",
            "median ms",
            "min",
            "max",
            "GFLOP/s",
            "of peak",
            "images/s",
            "memory"
        );
    }
    let show = |found: Measurement| match arguments.json {
        true => print_json(&found),
        false => print(&found),
    };
    for &precision in precisions {
        set_precision(precision);
        if !arguments.lengths.is_empty() {
            for operator in Distilled::MIXERS {
                measure_lengths(operator, &arguments.lengths, precision, arguments.runs, show)?;
            }
            continue;
        }
        let peak = peak_gflops(scion_kernels::precision());
        for &workload in chosen {
            show(measure(workload, precision, arguments.runs, peak)?)?;
        }
        if !arguments.json {
            say!("{:<20} {:>5} {:>42.0} GFLOP/s", "product's peak", name(precision), peak);
        }
    }
    Ok(())
}

/// Most tokens that are measured: a step of attention takes minutes, its activations gigabytes.
const MAX_TOKENS: usize = 1 << 16;

fn parse_tokens(text: &str) -> Result<usize, String> {
    let tokens = text.parse().map_err(|_| format!("{text} is no number of tokens"))?;
    if (1..=MAX_TOKENS).contains(&tokens) {
        Ok(tokens)
    } else {
        Err(format!("tokens must lie between 1 and {MAX_TOKENS}"))
    }
}

/// PixArt-Σ as it is and with the graft: two rows a size and precision, and what the graft gained.
fn pixart(arguments: &BenchArguments, precisions: &[PrecisionConfig]) -> Result<()> {
    if !arguments.json {
        let shares = "attention's share of time, FLOPs";
        say!(
            "{:<27} {:>6} {:>5} {:>10} {:>10} {:>10} {:>8}  {shares}",
            "one image",
            "tokens",
            "",
            "median ms",
            "min",
            "max",
            "TFLOPs"
        );
    }
    for &precision in precisions {
        set_precision(precision);
        for side in &arguments.pixart {
            let found = measure_pixart(side, precision, arguments.runs)?;
            if arguments.json { print_json(&found)? } else { print_comparison(&found)? }
        }
    }
    Ok(())
}

fn print_comparison(found: &Comparison) -> Result<()> {
    let graft = format!("  hyena-x in {} blocks", found.grafted_blocks.len());
    for (name, passes) in [(&found.model, &found.native), (&graft, &found.grafted)] {
        say!(
            "{:<27} {:>6} {:>5} {:>10.1} {:>10.1} {:>10.1} {:>8.2} {:>25.1}% {:>5.1}%",
            name,
            found.tokens,
            self::name(found.precision),
            passes.times.median_ms,
            passes.times.min_ms,
            passes.times.max_ms,
            passes.gflop / 1e3,
            100.0 * passes.attention_share_of_time,
            100.0 * passes.attention_share_of_flops
        );
    }
    let paper =
        found.paper_speed_up.map_or_else(String::new, |paper| format!(" (the paper, on a GPU: {paper:.2})"));
    say!("  {:.2} times as fast{paper}, {} MiB", found.speed_up, found.peak_rss_bytes >> 20);
    Ok(())
}

fn print_json(found: &impl serde::Serialize) -> Result<()> {
    say!("{}", serde_json::to_string(found).expect("measurements are plain data"));
    Ok(())
}

fn print(found: &Measurement) -> Result<()> {
    let number = |value: Option<f64>, digits: usize| {
        value.map_or_else(|| "—".to_string(), |value| format!("{value:.digits$}"))
    };
    say!(
        "{:<20} {:>5} {:>10.2} {:>10.2} {:>10.2} {:>9} {:>7} {:>10} {:>6} MiB",
        found.tokens.map_or_else(|| found.workload.clone(), |tokens| format!("{} {tokens}", found.workload)),
        name(found.precision),
        found.times.median_ms,
        found.times.min_ms,
        found.times.max_ms,
        number(found.gflops, 0),
        found.share_of_peak.map_or_else(|| "—".into(), |share| format!("{:.0}%", 100.0 * share)),
        number(found.images_per_s, 1),
        found.peak_rss_bytes >> 20
    );
    Ok(())
}

fn name(precision: PrecisionConfig) -> &'static str {
    match precision {
        PrecisionConfig::F32 => "f32",
        PrecisionConfig::Bf16 => "bf16",
        PrecisionConfig::Auto => "auto",
    }
}
