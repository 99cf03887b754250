use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

/// Progress of long work: a bar on a terminal, a JSON line now and then elsewhere, nothing when quiet.
#[derive(Debug)]
pub struct Progress {
    bar: ProgressBar,
    what: String,
    lines: bool,
    started: Instant,
    spoke: Instant,
    from: u64,
    total: u64,
}

/// Time between two JSON lines.
const SPEAK_EVERY: Duration = Duration::from_secs(10);

impl Progress {
    /// Progress of `what` over `total` steps, of which `from` are done already.
    pub fn new(what: &str, total: u64, from: u64, quiet: bool) -> Self {
        let terminal = std::io::stderr().is_terminal();
        let bar = if quiet || !terminal { ProgressBar::hidden() } else { ProgressBar::new(total) };
        let style = "{prefix:>22} {wide_bar} {pos}/{len}  {per_sec}  {eta} left  {msg}";
        bar.set_style(ProgressStyle::with_template(style).expect("the template is valid"));
        bar.set_prefix(what.to_string());
        bar.set_position(from);
        bar.reset_eta();
        let now = Instant::now();
        Self { bar, what: what.into(), lines: !quiet && !terminal, started: now, spoke: now, from, total }
    }

    /// Reports `done` steps in total, with a short message such as the loss.
    pub fn set(&mut self, done: u64, message: &str) {
        self.bar.set_position(done);
        self.bar.set_message(message.to_string());
        if self.lines && (self.spoke.elapsed() >= SPEAK_EVERY || done == self.total) {
            self.spoke = Instant::now();
            let elapsed = self.started.elapsed().as_secs_f64();
            let rate = (done - self.from) as f64 / elapsed.max(1e-9);
            let left = (self.total - done) as f64 / rate.max(1e-9);
            let line = serde_json::json!({"work": self.what, "done": done, "of": self.total,
                "per_s": (rate * 100.0).round() / 100.0, "left_s": left.round(), "note": message});
            eprintln!("{line}");
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
