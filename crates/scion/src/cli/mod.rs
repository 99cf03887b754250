//! The command line: parses, calls one function a command, prints.

/// `println!` whose failure is an error of the calling function instead of a panic.
macro_rules! say {
    ($($text:tt)*) => { $crate::cli::written(writeln!(std::io::stdout(), $($text)*))? };
}

mod analyze;
mod bench;
mod claim;
mod component;
mod convert;
mod encode;
mod encode_text;
mod evaluate;
mod forward;
mod generate;
mod geneval;
mod graft;
mod inspect;
mod neighbours;
mod plan;
mod precision;
mod reading;
mod sample;
mod space;
mod sweep;
mod tokenize;

use std::io::{ErrorKind, IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

use crate::config::PrecisionConfig;
use crate::error::{Error, Result};

/// Grafts pretrained diffusion transformers: replaces operators, repairs the model, samples, measures, compares.
#[derive(Parser)]
#[command(name = "scion", version, propagate_version = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    common: Common,
}

/// Options of every command.
#[derive(Args, Clone)]
struct Common {
    /// Where to compute
    #[arg(long, value_enum, default_value_t = DeviceChoice::Cpu, global = true)]
    device: DeviceChoice,
    /// Seed of everything that is drawn; overrides the recipe's
    #[arg(long, global = true)]
    seed: Option<u64>,
    /// Threads to compute with; all cores by default
    #[arg(long, global = true)]
    threads: Option<usize>,
    /// No progress
    #[arg(long, short, global = true)]
    quiet: bool,
}

/// Devices that this build can compute on.
#[derive(Clone, Copy, ValueEnum)]
enum DeviceChoice {
    Cpu,
}

#[derive(Subcommand)]
enum Command {
    /// The main job on the embedded model and data, to a report
    #[command(after_help = "Examples:\n  scion quickstart\n  scion quickstart --out my-run --dry-run")]
    Quickstart(graft::QuickstartArguments),
    /// Every stage of a recipe; goes on where it stopped
    #[command(
        after_help = "Examples:\n  scion run recipes/quickstart.toml --out runs/first\n  scion run my.toml --dry-run"
    )]
    Run(graft::RunArguments),
    /// Many runs that differ in a few fields of a recipe, compared on one page; goes on where it stopped
    #[command(
        after_help = "Examples:\n  scion sweep recipes/study.toml --dry-run\n  scion sweep recipes/study.toml --out runs/study"
    )]
    Sweep(sweep::SweepArguments),
    /// What a recipe would change: blocks, parameters, FLOPs
    #[command(after_help = "Examples:\n  scion plan recipes/quickstart.toml\n  scion plan xl2.toml --json")]
    Plan(plan::PlanArguments),
    /// What a checkpoint holds: its layout, sizes and grafts
    #[command(
        after_help = "Examples:\n  scion inspect DiT-XL-2-256x256.pt\n  scion inspect embedded --tensors"
    )]
    Inspect(inspect::InspectArguments),
    /// Writes a checkpoint in another layout
    #[command(
        after_help = "Examples:\n  scion convert DiT-XL-2-256x256.pt xl2.safetensors --layout scion --dtype bf16\n  scion convert DiT-XL-2-256x256.pt xl2 --layout diffusers\n  scion convert model.pt half-y.safetensors --layout scion --recipe recipes/paper/hyena-y-50.toml\n  scion convert DiT-XL-2-256x256.pt stage1.safetensors --layout scion --recipe recipes/paper/hyena-y-50.toml --operators 'stage1/hyena_y/block_{block}/l1/scaled_pred=False/seed={block}/checkpoints/best_train.pt'"
    )]
    Convert(convert::ConvertArguments),
    /// Runs a model once on given inputs, for comparing with other implementations
    #[command(
        after_help = "Examples:\n  scion forward model.pt --inputs in.safetensors --output out.safetensors\n  scion forward pipeline/vae --inputs image.safetensors --output latent.safetensors\n\nThe inputs hold x [N,C,H,W] f32, t [N] i64 or f32, and y [N] i64 or, for a text-to-image model, text [N,L,D] f32 and mask [N,L]; the output holds out [N,C_out,H,W] f32.\nFor the folder of a text encoder they hold ids [N,L] i64 and mask [N,L], and the output out [N,L,D] f32.\nFor an autoencoder they hold image [N,C,H,W], whose latents' mean is out, or latent [N,C,h,w], whose image is out; latents are not scaled."
    )]
    Forward(forward::ForwardArguments),
    /// Turns a folder of images into latents to train on
    #[command(
        after_help = "Examples:\n  scion encode imagenet/train --vae sd-vae-ft-ema --out latents --flip\n  scion encode photos --vae pipeline/vae --size 512 --out latents\n\nImages lie in a sub-folder for each class, or directly in the folder with a caption NAME.txt beside each. A call that was interrupted goes on where it stopped."
    )]
    Encode(encode::EncodeArguments),
    /// Draws images of prompts with a text-to-image pipeline
    #[command(
        after_help = "Examples:\n  scion generate PixArt-Sigma-XL-2-1024-MS \"a small cactus with a happy face in the Sahara\" --out cactus.png\n  scion generate PixArt-Sigma-XL-2-1024-MS --prompts prompts.txt --count 4 --out pictures --transformer stage2.safetensors\n  scion generate PixArt-Sigma-XL-2-1024-MS --geneval embedded --out drawn\n\nThe folder is a pipeline's as diffusers writes it. --seed gives every image noise of its own by its number."
    )]
    Generate(generate::GenerateArguments),
    /// Prints the token ids of prompts, a line for each, as a pipeline's tokenizer gives them
    #[command(after_help = "Example:\n  scion tokenize PixArt-Sigma-XL-2-1024-MS --prompts prompts.txt")]
    Tokenize(tokenize::TokenizeArguments),
    /// Trains a model from nothing, as the recipe's [pretrain] says
    #[command(after_help = "Example:\n  scion pretrain recipes/teacher.toml --out runs/teacher")]
    Pretrain(graft::RunArguments),
    /// A recipe up to stage 1: new operators regressed on the old ones
    #[command(after_help = "Example:\n  scion distill recipes/quickstart.toml --out runs/first")]
    Distill(graft::RunArguments),
    /// A recipe up to stage 2: the grafted model finetuned
    #[command(after_help = "Example:\n  scion finetune recipes/quickstart.toml --out runs/first")]
    Finetune(graft::RunArguments),
    /// Draws images from a model
    #[command(
        after_help = "Examples:\n  scion sample embedded --count 50 --out grid.png\n  scion sample embedded --count 50 --out grid.png --film film.png\n  scion sample embedded stage1.safetensors stage2.safetensors --count 10 --out same-noise.png\n  scion sample stage2.safetensors --class 7 --count 100 --out sneakers\n  scion sample stage2.safetensors --count 10000 --cfg 1.5 --out samples.npz\n  scion sample DiT-XL-2-256x256.pt --vae sd-vae-ft-ema --count 8 --cfg 4 --out pictures.png"
    )]
    Sample(sample::SampleArguments),
    /// Scores sets of images against a reference
    #[command(
        after_help = "Examples:\n  scion evaluate samples.npz\n  scion evaluate a.npz b.npz --reference real.npz --markdown\n  scion evaluate a-features.npz --reference b-features.npz\n  scion evaluate features.npz --save-stats reference.npz\n  scion evaluate samples.npz --preprocess adm --reference VIRTUAL_imagenet256_labeled.npz"
    )]
    Evaluate(evaluate::EvaluateArguments),
    /// Scores text-to-image models: do their images show what the prompts name?
    #[command(
        after_help = "Examples:\n  scion geneval prompts --out evaluation_metadata.jsonl\n  scion generate PixArt-Sigma-XL-2-1024-MS --geneval embedded --out drawn\n  scion geneval score drawn --detections found.json"
    )]
    Geneval(geneval::GenevalArguments),
    /// What to know of a model before grafting it: activations, where attention looks, what operators are worth, advice
    #[command(
        after_help = "Examples:\n  scion analyze embedded\n  scion analyze embedded --run scion-quickstart --out analysis\n  scion analyze my-model.pt --data my-images --samples 16 --steps 10"
    )]
    Analyze(analyze::AnalyzeArguments),
    /// The training images nearest to a set's images: does a model repeat what it saw?
    #[command(
        after_help = "Examples:\n  scion neighbours samples.npz --out nearest.png\n  scion neighbours samples --training imagenet/train --inception pt_inception-2015-12-05-6726825d.pth"
    )]
    Neighbours(neighbours::NeighboursArguments),
    /// Times the kernels and the stages on this machine
    #[command(
        after_help = "Examples:\n  scion bench\n  scion bench --only dit-train,distil-swa --precision bf16 --json\n  scion bench --pixart 1024,2048 --precision auto --runs 3"
    )]
    Bench(bench::BenchArguments),
    /// Makes the HTML report of a run folder anew, or compares several runs on one page
    #[command(
        after_help = "Examples:\n  scion report runs/first\n  scion report runs/first runs/second --out comparison.html"
    )]
    Report {
        /// The run's folder, or those of several runs
        #[arg(required = true, value_name = "RUN")]
        runs: Vec<PathBuf>,
        /// The page that compares several runs; comparison.html by default
        #[arg(long)]
        out: Option<PathBuf>,
    },
    /// Prints a completion script for a shell
    #[command(
        after_help = "Example:\n  scion completions bash > ~/.local/share/bash-completion/completions/scion"
    )]
    Completions {
        /// The shell
        shell: Shell,
    },
}

/// Parses the process's arguments, runs the command, and returns its exit code.
pub fn main() -> ExitCode {
    scion_kernels::keep_freed_memory();
    let Arguments { command, common } = Arguments::parse();
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .without_time()
        .with_target(false)
        .with_max_level(tracing::Level::WARN)
        .init();
    match set_threads(&common).and_then(|()| execute(command, &common)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            let usage = matches!(error, Error::Recipe { .. } | Error::Usage(_) | Error::Plan(_));
            ExitCode::from(if usage { 2 } else { 1 })
        }
    }
}

fn execute(command: Command, common: &Common) -> Result<()> {
    match command {
        Command::Quickstart(arguments) => graft::quickstart(&arguments, common),
        Command::Run(arguments) => graft::run(&arguments, common, crate::run::Until::Report),
        Command::Distill(arguments) => graft::run(&arguments, common, crate::run::Until::Distill),
        Command::Finetune(arguments) => graft::run(&arguments, common, crate::run::Until::Finetune),
        Command::Pretrain(arguments) => graft::pretrain(&arguments, common),
        Command::Sweep(arguments) => sweep::sweep(&arguments, common),
        Command::Plan(arguments) => plan::plan(&arguments, common),
        Command::Inspect(arguments) => inspect::inspect(&arguments),
        Command::Convert(arguments) => convert::convert(&arguments),
        Command::Forward(arguments) => forward::forward(&arguments),
        Command::Encode(arguments) => encode::encode(&arguments, common),
        Command::Generate(arguments) => generate::generate(&arguments, common),
        Command::Tokenize(arguments) => tokenize::tokenize(&arguments),
        Command::Sample(arguments) => sample::sample(&arguments, common),
        Command::Evaluate(arguments) => evaluate::evaluate(&arguments, common),
        Command::Geneval(arguments) => geneval::geneval(&arguments, common),
        Command::Analyze(arguments) => analyze::analyze(&arguments, common),
        Command::Neighbours(arguments) => neighbours::neighbours(&arguments),
        Command::Bench(arguments) => bench::bench(&arguments),
        Command::Report { runs, out } => {
            let page = match (&runs[..], out) {
                ([run], None) => crate::report::from_run_dir(run)?,
                ([_], Some(_)) => {
                    let detail = "--out is for several runs; the report of one lies in its folder";
                    return Err(Error::Usage(detail.into()));
                }
                (_, out) => {
                    let out = out.unwrap_or_else(|| "comparison.html".into());
                    crate::report::compare_runs(&runs, &out)?;
                    out
                }
            };
            say!("{}", page.display());
            Ok(())
        }
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Arguments::command(), "scion", &mut script);
            written(std::io::stdout().write_all(&script))
        }
    }
}

/// What became of a write to standard output. A reader that has gone, as `head` does, is no error.
fn written(outcome: std::io::Result<()>) -> Result<()> {
    match outcome {
        Err(e) if e.kind() != ErrorKind::BrokenPipe => Err(Error::io("write to", "standard output", e)),
        _ => Ok(()),
    }
}

/// Most threads that are of use to anyone.
const MAX_THREADS: usize = 1024;

fn set_threads(common: &Common) -> Result<()> {
    let DeviceChoice::Cpu = common.device;
    if common.threads.is_some_and(|threads| threads == 0 || threads > MAX_THREADS) {
        return Err(Error::Usage(format!("--threads must lie between 1 and {MAX_THREADS}")));
    }
    let threads = common.threads.unwrap_or(0); // 0 is one a core
    // The main thread takes part: most parallel pieces are too short to be handed over and waited for.
    rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .use_current_thread()
        .build_global()
        .map_err(|e| Error::Usage(format!("--threads {threads}: {e}")))
}

/// Chooses the operand precision of all products.
fn set_precision(precision: PrecisionConfig) {
    scion_kernels::set_precision(precision.operands());
}
