use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{BufWriter, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::events::EventFile;
use super::results::peak_memory;
use crate::atomic::{self, AtomicFile};
use crate::config::Recipe;
use crate::error::{Error, Result};
use crate::report::results::StageTiming;

/// A run's folder: its resolved recipe, log, checkpoints, samples and results.
#[derive(Debug)]
pub struct RunFolder {
    root: PathBuf,
    log: BufWriter<File>,
    /// The stage that is at work, and its values for TensorBoard.
    events: Option<(String, EventFile)>,
    /// Held for as long as this value lives; the system releases it when the process ends, however it ends.
    _lock: File,
}

/// Wall time of a stage over all the sessions of a run, as far as they were noted.
#[derive(Debug)]
pub struct StageClock {
    stage: &'static str,
    before: f64,
    started: Instant,
}

impl StageClock {
    /// Seconds so far.
    pub fn seconds(&self) -> f64 {
        self.before + self.started.elapsed().as_secs_f64()
    }
}

const LOG: &str = "metrics.jsonl";
const EVENTS: &str = "events";
const STAGES: &str = "stages.json";
const LOCK: &str = ".scion.lock";

/// The fingerprint of a run's teacher.
pub(crate) const TEACHER: &str = "teacher.sha256";

/// Where a run keeps the embedded teacher.
pub(super) const UNPACKED_TEACHER: &str = "teacher.safetensors";

/// Where a run keeps its prompts' embeddings, and what they are of.
pub(super) const PROMPTS: &str = "prompts.safetensors";
pub(super) const PROMPTS_RECORD: &str = "prompts.json";

/// Where a run keeps the images or latents that its teacher drew, and those drawn so far.
pub(super) const TEACHER_IMAGES: &str = "teacher-images.npz";
pub(super) const TEACHER_LATENTS: &str = "teacher-latents.safetensors";
pub(super) const TEACHER_IMAGE_PARTS: &str = "teacher-images.parts";

impl RunFolder {
    /// Opens a folder for a recipe, making it where it does not exist.
    ///
    /// # Errors
    /// When the folder holds a run of another recipe, another process works in it, or it cannot be written.
    pub fn open(root: &Path, recipe: &Recipe) -> Result<Self> {
        fs::create_dir_all(root).map_err(|e| Error::io("create the folder", root, e))?;
        // Only a folder that was opened before may hold a recipe of ours; any other is the user's own file.
        let ours = root.join(LOCK).exists();
        let (path, text) = (root.join("recipe.toml"), recipe.to_toml());
        let found = match fs::read_to_string(&path) {
            Ok(found) => Some(found),
            Err(e) if e.kind() == ErrorKind::NotFound => None,
            Err(e) => return Err(Error::io("read", &path, e)),
        };
        // A run that failed before its first step left nothing to keep.
        if found.as_ref().is_some_and(|found| *found != text) && (!ours || has_work(root)?) {
            return Err(Error::Exists {
                path: root.into(),
                detail:
                    "holds a run of another recipe; choose another --out, or delete the folder to start over"
                        .into(),
            });
        }
        let lock = lock(root)?;
        if found.as_ref() == Some(&text) {
            remove_leftovers(root)?;
        } else {
            atomic::write(&path, text.as_bytes())?;
        }
        let log = root.join(LOG);
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&log)
            .map_err(|e| Error::io("open", &log, e))?;
        Ok(Self { root: root.into(), log: BufWriter::new(file), events: None, _lock: lock })
    }

    /// Makes the run one of the teacher with this [`fingerprint`](crate::model::fingerprint).
    ///
    /// # Errors
    /// When it is the run of another teacher, whose work cannot be used on.
    pub fn claim(&self, teacher: &str) -> Result<()> {
        let path = self.path(TEACHER);
        match fs::read_to_string(&path) {
            Ok(found) if found.trim() == teacher => Ok(()),
            Ok(_) if has_work(&self.root)? => Err(Error::Exists {
                path: self.root.clone(),
                detail: "holds a run of a teacher with other weights; choose another --out, or delete the folder to start over"
                    .into(),
            }),
            Ok(_) => atomic::write(&path, teacher.as_bytes()),
            Err(e) if e.kind() == ErrorKind::NotFound => atomic::write(&path, teacher.as_bytes()),
            Err(e) => Err(Error::io("read", &path, e)),
        }
    }

    /// Whether the run has got to anything that a change of what it is of would spoil.
    ///
    /// # Errors
    /// When the folder cannot be listed.
    pub(super) fn has_work(&self) -> Result<bool> {
        has_work(&self.root)
    }

    /// A path inside the folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// The folder itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Writes a value as JSON.
    ///
    /// # Errors
    /// When the disk refuses it.
    pub fn save_json(&self, name: &str, value: &impl Serialize) -> Result<()> {
        let text = serde_json::to_string_pretty(value).expect("plain data serialises");
        atomic::write(&self.path(name), text.as_bytes())
    }

    /// Reads what [`RunFolder::save_json`] wrote.
    ///
    /// # Errors
    /// When the file is missing or damaged.
    pub fn load_json<T: DeserializeOwned>(&self, name: &str) -> Result<T> {
        let path = self.path(name);
        let text = fs::read_to_string(&path).map_err(|e| Error::io("read", &path, e))?;
        serde_json::from_str(&text).map_err(|e| Error::invalid(&path, format!("is damaged: {e}")))
    }

    /// Removes a file that is no longer needed.
    ///
    /// # Errors
    /// When it exists and cannot be removed.
    pub fn remove(&self, name: &str) -> Result<()> {
        match fs::remove_file(self.path(name)) {
            Err(e) if e.kind() != ErrorKind::NotFound => Err(Error::io("remove", self.path(name), e)),
            _ => Ok(()),
        }
    }

    /// Times of the stages so far, over all the sessions of the run.
    ///
    /// # Errors
    /// When the file that keeps them is damaged.
    pub fn stages(&self) -> Result<Vec<StageTiming>> {
        if self.path(STAGES).exists() { self.load_json(STAGES) } else { Ok(Vec::new()) }
    }

    /// Starts the clock of a stage, at the time that earlier sessions noted.
    ///
    /// # Errors
    /// When the file that keeps the times is damaged.
    pub fn start_stage(&self, stage: &'static str) -> Result<StageClock> {
        let before = self.stages()?.iter().find(|s| s.name == stage).map_or(0.0, |s| s.seconds);
        Ok(StageClock { stage, before, started: Instant::now() })
    }

    /// Notes the time of a stage: at its end, and whenever its work so far is safe on disk.
    ///
    /// # Errors
    /// When the disk refuses it.
    pub fn note_stage(&self, clock: &StageClock) -> Result<()> {
        let mut stages = self.stages()?;
        let timing = StageTiming {
            name: clock.stage.into(),
            seconds: clock.seconds(),
            peak_rss_bytes: Some(peak_memory()),
        };
        match stages.iter_mut().find(|s| s.name == clock.stage) {
            Some(noted) => *noted = timing,
            None => stages.push(timing),
        }
        self.save_json(STAGES, &stages)
    }

    /// Appends a line to the log of the stage that [`RunFolder::begin_log`] began.
    ///
    /// # Errors
    /// When the disk refuses it.
    pub fn log(&mut self, stage: &str, entry: &impl Serialize) -> Result<()> {
        let path = self.path(LOG);
        let io = |e| Error::io("write", &path, e);
        let mut line = serde_json::Map::from_iter([("stage".to_string(), stage.into())]);
        if let Ok(serde_json::Value::Object(fields)) = serde_json::to_value(entry) {
            line.extend(fields);
        }
        if let Some((_, events)) = self.events.as_mut().filter(|(begun, _)| begun == stage) {
            let (step, values) = scalars(&line);
            events.scalars(step, &values)?;
        }
        writeln!(self.log, "{}", serde_json::Value::Object(line)).map_err(io)?;
        self.log.flush().map_err(io)
    }

    /// The log's entries of a stage.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn logged(&self, stage: &str) -> Result<Vec<serde_json::Value>> {
        let path = self.path(LOG);
        let text = fs::read_to_string(&path).map_err(|e| Error::io("read", &path, e))?;
        let entries = text.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
        Ok(entries.filter(|entry| entry["stage"] == stage).collect())
    }

    /// Begins to log a stage, of which `step` steps are done. Lines beyond are dropped: work that was lost with an
    /// interruption and is done again.
    ///
    /// # Errors
    /// When the log cannot be rewritten.
    pub fn begin_log(&mut self, stage: &str, step: u64) -> Result<()> {
        let path = self.path(LOG);
        let text = fs::read_to_string(&path).map_err(|e| Error::io("read", &path, e))?;
        let keep = |line: &&str| {
            serde_json::from_str::<serde_json::Value>(line)
                .is_ok_and(|v| v["stage"] != stage || v["step"].as_u64().is_some_and(|s| s <= step))
        };
        let kept: String = text.lines().filter(keep).map(|l| format!("{l}\n")).collect();
        atomic::write(&path, kept.as_bytes())?;
        let file = OpenOptions::new().append(true).open(&path).map_err(|e| Error::io("open", &path, e))?;
        self.log = BufWriter::new(file);
        let events = EventFile::begin(&self.path(EVENTS).join(stage), step + 1)?;
        self.events = Some((stage.into(), events));
        Ok(())
    }
}

/// The step of a log line, and its numbers under the names that TensorBoard shows; where a line is of one part of the
/// model, that is in front.
fn scalars(line: &serde_json::Map<String, serde_json::Value>) -> (u64, Vec<(String, f32)>) {
    let part: Vec<String> = ["slot", "block", "second"]
        .iter()
        .filter_map(|name| line.get(*name))
        .map(|value| value.as_str().map_or_else(|| value.to_string(), String::from))
        .collect();
    let numbers = line.iter().filter(|(name, _)| !["step", "block", "second"].contains(&name.as_str()));
    let values = numbers.filter_map(|(name, value)| {
        let tag = if part.is_empty() { name.clone() } else { format!("{name}/{}", part.join(" ")) };
        Some((tag, value.as_f64()? as f32))
    });
    (line.get("step").and_then(serde_json::Value::as_u64).unwrap_or(0), values.collect())
}

/// Keeps a second process from working in the same folder.
fn lock(root: &Path) -> Result<File> {
    let path = root.join(LOCK);
    let file = OpenOptions::new().create(true).append(true).open(&path);
    let file = file.map_err(|e| Error::io("create", &path, e))?;
    // A process that was just killed may hold it for another moment.
    let mut locked = file.try_lock();
    for _ in 0..20 {
        if !matches!(locked, Err(TryLockError::WouldBlock)) {
            break;
        }
        std::thread::sleep(Duration::from_millis(50));
        locked = file.try_lock();
    }
    match locked {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(Error::Exists {
            path: root.into(),
            detail: "another scion process is at work in it; wait for it, or choose another --out".into(),
        }),
        // Some network file systems have no locks.
        Err(TryLockError::Error(e)) if e.kind() == ErrorKind::Unsupported => Ok(file),
        Err(TryLockError::Error(e)) => Err(Error::io("lock", &path, e)),
    }
}

/// Whether a run has got to anything: a log line, weights, captured activations or images by the teacher.
fn has_work(root: &Path) -> Result<bool> {
    let io = |e| Error::io("list", root, e);
    for entry in fs::read_dir(root).map_err(io)? {
        let entry = entry.map_err(io)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let file = [".safetensors", ".act", ".html"].iter().any(|end| name.ends_with(end));
        let line = name == LOG && entry.metadata().map_err(io)?.len() > 0;
        let images = [TEACHER_IMAGES, TEACHER_LATENTS, TEACHER_IMAGE_PARTS].contains(&&*name);
        if line || images || (file && ![UNPACKED_TEACHER, PROMPTS].contains(&&*name)) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Removes the temporary files of a session that was killed while it wrote; caches among them can be large.
fn remove_leftovers(root: &Path) -> Result<()> {
    let io = |e| Error::io("list", root, e);
    for entry in fs::read_dir(root).map_err(io)? {
        let entry = entry.map_err(io)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if AtomicFile::is_leftover(&name) {
            fs::remove_file(entry.path()).map_err(|e| Error::io("remove", entry.path(), e))?;
        }
    }
    Ok(())
}
