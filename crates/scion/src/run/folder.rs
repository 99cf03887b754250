use std::fs::{self, File, OpenOptions};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::results::peak_memory;
use crate::config::Recipe;
use crate::error::{Error, Result};
use crate::report::results::StageTiming;

/// A run's folder: its resolved recipe, log, checkpoints, samples and results.
#[derive(Debug)]
pub struct RunFolder {
    root: PathBuf,
    log: BufWriter<File>,
}

const LOG: &str = "metrics.jsonl";
const STAGES: &str = "stages.json";

impl RunFolder {
    /// Opens a folder for a recipe, making it where it does not exist.
    ///
    /// # Errors
    /// When the folder holds a run of another recipe, or cannot be written.
    pub fn open(root: &Path, recipe: &Recipe) -> Result<Self> {
        fs::create_dir_all(root).map_err(|e| Error::io("create the folder", root, e))?;
        remove_leftovers(root)?;
        let (path, text) = (root.join("recipe.toml"), recipe.to_toml());
        match fs::read_to_string(&path) {
            Ok(found) if found != text => {
                return Err(Error::Exists {
                    path: root.into(),
                    detail: "holds a run of another recipe; choose another --out, or delete the folder to start over"
                        .into(),
                });
            }
            Ok(_) => {}
            Err(_) => write_atomically(&path, text.as_bytes())?,
        }
        let log = root.join(LOG);
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&log)
            .map_err(|e| Error::io("open", &log, e))?;
        Ok(Self { root: root.into(), log: BufWriter::new(file) })
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
        write_atomically(&self.path(name), text.as_bytes())
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
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                Err(Error::io("remove", self.path(name), e))
            }
            _ => Ok(()),
        }
    }

    /// Times of the stages finished so far, over all the sessions of the run.
    ///
    /// # Errors
    /// When the file that keeps them is damaged.
    pub fn stages(&self) -> Result<Vec<StageTiming>> {
        if self.path(STAGES).exists() { self.load_json(STAGES) } else { Ok(Vec::new()) }
    }

    /// Notes that a stage has finished after `time` in this session.
    ///
    /// # Errors
    /// When the disk refuses it.
    pub fn finish_stage(&self, name: &str, time: Duration) -> Result<()> {
        let mut stages = self.stages()?;
        stages.retain(|s| s.name != name);
        let peak_rss_bytes = Some(peak_memory());
        stages.push(StageTiming { name: name.into(), seconds: time.as_secs_f64(), peak_rss_bytes });
        self.save_json(STAGES, &stages)
    }

    /// Appends a line to the log.
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

    /// Drops log lines of a stage beyond `step`: work that was lost with an interruption and is done again.
    ///
    /// # Errors
    /// When the log cannot be rewritten.
    pub fn rewind_log(&mut self, stage: &str, step: u64) -> Result<()> {
        let path = self.path(LOG);
        let text = fs::read_to_string(&path).map_err(|e| Error::io("read", &path, e))?;
        let keep = |line: &&str| {
            serde_json::from_str::<serde_json::Value>(line)
                .is_ok_and(|v| v["stage"] != stage || v["step"].as_u64().is_some_and(|s| s <= step))
        };
        let kept: String = text.lines().filter(keep).map(|l| format!("{l}\n")).collect();
        write_atomically(&path, kept.as_bytes())?;
        let file = OpenOptions::new().append(true).open(&path).map_err(|e| Error::io("open", &path, e))?;
        self.log = BufWriter::new(file);
        Ok(())
    }
}

/// Removes the temporary files of a session that was killed while it wrote; caches among them can be large.
fn remove_leftovers(root: &Path) -> Result<()> {
    let io = |e| Error::io("list", root, e);
    for entry in fs::read_dir(root).map_err(io)? {
        let entry = entry.map_err(io)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with(".tmp") || (name.starts_with('.') && name.ends_with(".tmp")) {
            fs::remove_file(entry.path()).map_err(|e| Error::io("remove", entry.path(), e))?;
        }
    }
    Ok(())
}

/// Writes a file under a temporary name, syncs it and renames it.
///
/// # Errors
/// When the disk refuses it.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> Result<()> {
    let io = |e| Error::io("write", path, e);
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut builder = tempfile::Builder::new();
    // Temporary files are private by default; results are not.
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644));
    let mut file = builder.tempfile_in(folder).map_err(io)?;
    file.write_all(bytes).map_err(io)?;
    file.as_file().sync_all().map_err(io)?;
    file.persist(path).map_err(|e| io(e.error))?;
    Ok(())
}
