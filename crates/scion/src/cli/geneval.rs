use std::io::Write;
use std::path::{Path, PathBuf};
#[cfg(feature = "geneval-onnx")]
use std::sync::Mutex;

use clap::{Args, Subcommand};

use super::Common;
use crate::atomic;
use crate::checkpoint::ensure_absent;
use crate::error::{Error, Result};
use crate::geneval::{
    Detections, Folder, OFFICIAL_PROMPTS, Report, Rules, Summary, Warning, WarningKind, markdown,
    read_records, score, table, warnings, write_records,
};
#[cfg(feature = "geneval-onnx")]
use crate::run::Progress;

#[derive(Args)]
pub struct GenevalArguments {
    #[command(subcommand)]
    command: GenevalCommand,
}

#[derive(Subcommand)]
enum GenevalCommand {
    /// Writes the benchmark's 553 prompts, for generation
    #[command(
        after_help = "Example:\n  scion geneval prompts --out evaluation_metadata.jsonl\n\nscion generate --geneval evaluation_metadata.jsonl draws images of them; lines that are left out there are not drawn."
    )]
    Prompts {
        /// Write to a file instead
        #[arg(long)]
        out: Option<PathBuf>,
    },
    /// Judges a folder of images by what a detector saw in them
    #[command(
        after_help = "Examples:\n  scion geneval score drawn --detections found.json --markdown\n  scion geneval score drawn --detector detector.onnx --colors clip.onnx --color-texts colors.safetensors\n\ndocs/geneval.md describes the folder and the files."
    )]
    Score(ScoreArguments),
    /// Scores of results that were written before, by Scion or by GenEval's own program
    #[command(after_help = "Example:\n  scion geneval summary results.jsonl")]
    Summary {
        /// Results (.jsonl)
        results: PathBuf,
        #[command(flatten)]
        output: Output,
    },
}

#[derive(Args)]
struct ScoreArguments {
    /// The images: FOLDER/00000/metadata.jsonl, FOLDER/00000/samples/0000.png and so on
    folder: PathBuf,
    /// What a detector saw in them (.json)
    #[arg(long, required_unless_present = "detector", conflicts_with = "detector")]
    detections: Option<PathBuf>,
    #[command(flatten)]
    networks: NetworkArguments,
    /// Where to write what became of each image; results.jsonl in the folder by default
    #[arg(long)]
    results: Option<PathBuf>,
    #[command(flatten)]
    rules: RuleArguments,
    #[command(flatten)]
    output: Output,
}

/// Networks that look at the images here, in builds with the feature `geneval-onnx`.
#[derive(Args)]
struct NetworkArguments {
    /// A detector to look at them with (.onnx)
    #[arg(long)]
    detector: Option<PathBuf>,
    /// Names of the detector's classes, a line each; COCO's 80 by default
    #[arg(long, requires = "detector")]
    classes: Option<PathBuf>,
    /// An image encoder to tell colours with (.onnx)
    #[arg(long, requires_all = ["detector", "color_texts"])]
    colors: Option<PathBuf>,
    /// Its features of the colours' names (.safetensors)
    #[arg(long, requires = "colors")]
    color_texts: Option<PathBuf>,
    /// Also write what was seen, for use as --detections (.json)
    #[arg(long, requires = "detector")]
    save_detections: Option<PathBuf>,
}

/// The rules' settings; the defaults are GenEval's.
#[derive(Args)]
struct RuleArguments {
    /// Objects count above this score
    #[arg(long, default_value_t = Rules::default().threshold)]
    threshold: f32,
    /// The same for prompts that count
    #[arg(long, default_value_t = Rules::default().counting_threshold)]
    counting_threshold: f32,
    /// Most objects of a class
    #[arg(long, default_value_t = Rules::default().max_objects)]
    max_objects: usize,
    /// Leave out objects that overlap a surer one of their class at least so much; 1 leaves none out
    #[arg(long, default_value_t = Rules::default().max_overlap)]
    max_overlap: f64,
    /// Share of both sizes by which objects must be apart to lie beside each other
    #[arg(long, default_value_t = Rules::default().position_threshold)]
    position_threshold: f32,
}

impl RuleArguments {
    fn rules(&self) -> Result<Rules> {
        let shares = [
            ("--threshold", f64::from(self.threshold)),
            ("--counting-threshold", f64::from(self.counting_threshold)),
            ("--max-overlap", self.max_overlap),
            ("--position-threshold", f64::from(self.position_threshold)),
        ];
        if let Some((name, value)) = shares.into_iter().find(|(_, value)| !(0.0..=1.0).contains(value)) {
            return Err(Error::Usage(format!("{name} {value}: expected 0 to 1")));
        }
        if self.max_objects == 0 {
            return Err(Error::Usage("--max-objects 0: expected at least 1".into()));
        }
        Ok(Rules {
            threshold: self.threshold,
            counting_threshold: self.counting_threshold,
            max_objects: self.max_objects,
            max_overlap: self.max_overlap,
            position_threshold: self.position_threshold,
        })
    }
}

#[derive(Args)]
struct Output {
    /// Print JSON
    #[arg(long, conflicts_with = "markdown")]
    json: bool,
    /// Print a Markdown table
    #[arg(long)]
    markdown: bool,
    /// Write to a file instead
    #[arg(long)]
    out: Option<PathBuf>,
}

impl Output {
    fn print(&self, report: &Report) -> Result<()> {
        report.warnings.iter().for_each(|warning| eprintln!("warning: {}", warning.message));
        let text = match (self.json, self.markdown) {
            (true, _) => format!("{}\n", serde_json::to_string(report).expect("scores are plain data")),
            (_, true) => markdown(report),
            _ => table(report),
        };
        write(self.out.as_deref(), &text)
    }
}

pub fn geneval(arguments: &GenevalArguments, common: &Common) -> Result<()> {
    match &arguments.command {
        GenevalCommand::Prompts { out } => {
            out.iter().try_for_each(|path| ensure_absent(path))?;
            write(out.as_deref(), OFFICIAL_PROMPTS)
        }
        GenevalCommand::Score(arguments) => score_folder(arguments, common),
        GenevalCommand::Summary { results, output } => {
            output.out.iter().try_for_each(|path| ensure_absent(path))?;
            let summary = Summary::of(&read_records(results)?);
            output.print(&report(results, None, summary, vec![]))
        }
    }
}

fn score_folder(arguments: &ScoreArguments, common: &Common) -> Result<()> {
    let rules = arguments.rules.rules()?;
    let results = arguments.results.clone().unwrap_or_else(|| arguments.folder.join("results.jsonl"));
    let outputs =
        [Some(&results), arguments.output.out.as_ref(), arguments.networks.save_detections.as_ref()];
    outputs.into_iter().flatten().try_for_each(|path| ensure_absent(path))?;
    let folder = Folder::open(&arguments.folder)?;
    let (detections, source) = match (&arguments.detections, &arguments.networks.detector) {
        (Some(path), _) => (Detections::read(path)?, path),
        (None, Some(path)) => (arguments.networks.detect(path, &folder, &rules, common.quiet)?, path),
        (None, None) => return Err(Error::Usage("give --detections or --detector".into())),
    };
    if let Some(path) = &arguments.networks.save_detections {
        detections.write(path)?;
    }
    let records = score(&folder, &detections, &rules, source)?;
    write_records(&results, &records)?;
    let warnings = warnings(&folder, &detections, &rules);
    let found = report(&arguments.folder, Some((&detections, rules)), Summary::of(&records), warnings);
    arguments.output.print(&found)
}

impl NetworkArguments {
    #[cfg(not(feature = "geneval-onnx"))]
    fn detect(&self, detector: &Path, _: &Folder, _: &Rules, _: bool) -> Result<Detections> {
        Err(Error::Usage(format!(
            "--detector {}: this program was built without networks; build it with --features geneval-onnx, or give \
             --detections",
            detector.display()
        )))
    }

    #[cfg(feature = "geneval-onnx")]
    fn detect(&self, detector: &Path, folder: &Folder, rules: &Rules, quiet: bool) -> Result<Detections> {
        use crate::geneval::onnx::{ColorClassifier, Detector, colored_classes, detect};

        let classes = self.class_names()?;
        let detector = Detector::open(detector, classes.len())?;
        let colored = colored_classes(&folder.prompts);
        let colors = match (&self.colors, &self.color_texts) {
            (Some(encoder), Some(texts)) => Some(ColorClassifier::open(encoder, texts, colored.into_iter())?),
            _ if colored.is_empty() => None,
            _ => {
                let detail = "prompts of this folder ask for colours; give --colors and --color-texts";
                return Err(Error::Usage(detail.into()));
            }
        };
        let count = folder.samples.len() as u64;
        let progress = Mutex::new((Progress::new("detection", count, 0, quiet), 0));
        let seen = || {
            let (progress, done) = &mut *progress.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            *done += 1;
            progress.set(*done, "");
        };
        detect(folder, &detector, colors.as_ref(), &classes, rules, seen)
    }

    #[cfg(feature = "geneval-onnx")]
    fn class_names(&self) -> Result<Vec<String>> {
        let Some(path) = &self.classes else {
            return Ok(crate::geneval::CLASSES.map(str::to_owned).to_vec());
        };
        let text = std::fs::read_to_string(path).map_err(|e| Error::io("read", path, e))?;
        let names: Vec<String> = text.lines().map(|line| line.trim().to_owned()).collect();
        if names.is_empty() || names.iter().any(String::is_empty) {
            return Err(Error::invalid(path, "has an empty line; expected the name of a class on each"));
        }
        Ok(names)
    }
}

fn report(
    set: &Path,
    by: Option<(&Detections, Rules)>,
    summary: Summary,
    mut warnings: Vec<Warning>,
) -> Report {
    let missing: Vec<&str> = summary.missing().into_iter().map(|tag| tag.name()).collect();
    if !missing.is_empty() {
        let message = format!("the overall score lacks {}: there are no images of it", missing.join(", "));
        warnings.push(Warning { kind: WarningKind::TagsMissing, message });
    }
    Report {
        set: set.display().to_string(),
        detector: by.map(|(detections, _)| detections.detector.clone()),
        color_classifier: by.and_then(|(detections, _)| detections.color_classifier.clone()),
        rules: by.map(|(_, rules)| rules),
        summary,
        warnings,
    }
}

fn write(out: Option<&Path>, text: &str) -> Result<()> {
    match out {
        Some(path) => atomic::write(path, text.as_bytes()),
        None => super::written(write!(std::io::stdout(), "{text}")),
    }
}
