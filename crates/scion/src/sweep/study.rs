use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use toml::{Table, Value};

use crate::config::{Recipe, explain};
use crate::error::{Error, Result};

/// Questions about grafts, each with the recipes whose runs answer it.
#[derive(Clone, Debug)]
pub struct Study {
    /// Where it was read from.
    pub path: PathBuf,
    /// Its heading; the file's name where it has none.
    pub title: String,
    /// What is asked, in the file's order.
    pub questions: Vec<Question>,
    /// The file's text.
    pub text: String,
}

/// A question and the variants that are compared for it.
#[derive(Clone, Debug)]
pub struct Question {
    /// Its heading.
    pub title: String,
    /// What is asked, in a sentence; may be empty.
    pub ask: String,
    /// What is compared.
    pub variants: Vec<Variant>,
}

/// The base recipe with some fields changed.
#[derive(Clone, Debug)]
pub struct Variant {
    /// Unique among its question's.
    pub name: String,
    /// The fields that replace those of the base recipe.
    pub overrides: Table,
    /// The recipe that this makes.
    pub recipe: Recipe,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct StudyFile {
    title: Option<String>,
    base: Base,
    #[serde(rename = "question")]
    questions: Vec<QuestionEntry>,
}

#[derive(Deserialize)]
#[serde(
    untagged,
    expecting = "expected base = \"RECIPE.toml\" or the sections of a recipe, as in [base.model]"
)]
enum Base {
    File(PathBuf),
    Inline(Table),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct QuestionEntry {
    title: String,
    #[serde(default)]
    ask: String,
    #[serde(rename = "variant")]
    variants: Vec<VariantEntry>,
}

#[derive(Deserialize)]
struct VariantEntry {
    name: String,
    #[serde(flatten)]
    overrides: Table,
}

impl Study {
    /// Reads a study; `seed` replaces that of the base recipe.
    ///
    /// # Errors
    /// When the study or its base cannot be read, a name is used twice, or a variant is no valid recipe; the error names
    /// question, variant and field.
    pub fn read(path: &Path, seed: Option<u64>) -> Result<Self> {
        let text = fs::read_to_string(path).map_err(|e| Error::io("read the study", path, e))?;
        let fail = |detail: String| Error::Recipe { path: path.into(), detail };
        let file: StudyFile = toml::from_str(&text).map_err(|e| fail(explain(&e, &text)))?;
        let mut base = match file.base {
            Base::Inline(table) => table,
            Base::File(name) => read_table(&path.parent().unwrap_or(Path::new("")).join(name))?,
        };
        if let Some(seed) = seed {
            let seed = i64::try_from(seed).map_err(|_| {
                Error::Usage(format!("--seed {seed}: a study's seed must be at most {}", i64::MAX))
            })?;
            base.insert("seed".into(), seed.into());
        }
        if file.questions.is_empty() {
            return Err(fail("holds no [[question]]".into()));
        }
        let questions = file.questions.into_iter().map(|entry| question(entry, &base, path));
        let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        Ok(Self {
            path: path.into(),
            title: file.title.unwrap_or(stem),
            questions: questions.collect::<Result<_>>()?,
            text,
        })
    }
}

fn read_table(path: &Path) -> Result<Table> {
    let text = fs::read_to_string(path).map_err(|e| Error::io("read the base recipe", path, e))?;
    toml::from_str(&text).map_err(|e| Error::Recipe { path: path.into(), detail: explain(&e, &text) })
}

fn question(entry: QuestionEntry, base: &Table, path: &Path) -> Result<Question> {
    let fail = |detail: String| Error::Recipe {
        path: path.into(),
        detail: format!("question \"{}\"{detail}", entry.title),
    };
    if entry.variants.is_empty() {
        return Err(fail(" has no [[question.variant]]".into()));
    }
    let mut variants: Vec<Variant> = Vec::new();
    for VariantEntry { name, overrides } in entry.variants {
        if variants.iter().any(|other| other.name == name) {
            return Err(fail(format!(" has two variants named \"{name}\"")));
        }
        let recipe = merged(base, &overrides).and_then(|table| parse(&table));
        let recipe = recipe.map_err(|detail| fail(format!(", variant \"{name}\": {detail}")))?;
        variants.push(Variant { name, overrides, recipe });
    }
    Ok(Question { title: entry.title, ask: entry.ask, variants })
}

/// The base with overrides laid over it, table by table; `false` in the place of a section leaves it out.
fn merged(base: &Table, overrides: &Table) -> Result<Table, String> {
    let mut table = base.clone();
    let (left_out, laid_over): (Table, Table) =
        overrides.clone().into_iter().partition(|(_, value)| *value == Value::Boolean(false));
    for name in left_out.keys() {
        if table.remove(name).is_none() {
            return Err(format!("{name} = false leaves out a section that the base recipe does not have"));
        }
    }
    lay_over(&mut table, laid_over);
    Ok(table)
}

fn lay_over(table: &mut Table, overrides: Table) {
    for (name, value) in overrides {
        match (table.get_mut(&name), value) {
            (Some(Value::Table(below)), Value::Table(above)) => lay_over(below, above),
            (_, value) => _ = table.insert(name, value),
        }
    }
}

/// The recipe that a table says; an error is told without the line of a text that nobody wrote.
fn parse(table: &Table) -> Result<Recipe, String> {
    let text = toml::to_string(table).map_err(|e| e.to_string())?;
    Recipe::parse(&text, Path::new("")).map_err(|error| {
        let Error::Recipe { detail, .. } = error else { return error.to_string() };
        let told = detail.strip_prefix("line ").and_then(|rest| rest.split_once(": "));
        match told.and_then(|(line, message)| Some((field(&text, line.parse().ok()?), message))) {
            Some((field, message)) if field.is_empty() => message.into(),
            Some((field, message)) => format!("{field}: {message}"),
            None => detail,
        }
    })
}

/// The field on a line of a recipe, with the section that it stands in.
fn field(text: &str, line: usize) -> String {
    let lines: Vec<&str> = text.lines().take(line).collect();
    let header = lines.iter().rev().find(|l| l.starts_with('['));
    let section = header.map_or("", |l| l.trim_matches(['[', ']']));
    let key =
        lines.last().filter(|l| !l.starts_with('[')).and_then(|l| l.split_once(" = ")).map_or("", |l| l.0);
    [section, key].into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(".")
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASE: &str = "[base.model]\ncheckpoint = \"embedded\"\n[base.distill]\nsteps = 5\nbatch = 4\n[base.finetune]\nsteps = 7\n";

    fn study(variants: &str) -> Result<Study> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("losses.toml");
        let text = format!("{BASE}[[question]]\ntitle = \"Which?\"\n{variants}");
        fs::write(&path, text).unwrap();
        Study::read(&path, Some(9))
    }

    fn refused(variants: &str) -> String {
        study(variants).unwrap_err().to_string()
    }

    #[test]
    fn overrides_go_table_by_table_and_arrays_replace() {
        let graft = |blocks: &str| {
            format!(
                "graft = [{{ target = \"mlp\", blocks = {blocks}, operator = {{ kind = \"mlp\", ratio = 2 }} }}]\n"
            )
        };
        let study = study(&format!(
            "[[question.variant]]\nname = \"a\"\n{}distill = {{ loss = \"l2\" }}\nfinetune = false\n[[question.variant]]\nname = \"b\"\n{}seed = 3\n",
            graft("[0, 1]"),
            graft("\"all\""),
        ))
        .unwrap();
        assert_eq!(study.title, "losses");
        let [a, b] = &study.questions[0].variants[..] else { panic!("{study:?}") };
        let distill = a.recipe.distill.as_ref().unwrap();
        assert_eq!((distill.steps, distill.batch, distill.loss), (5, 4, crate::train::RegressionLoss::L2));
        assert!(a.recipe.finetune.is_none());
        assert_eq!(b.recipe.finetune.as_ref().unwrap().steps, 7);
        assert_eq!((a.recipe.seed, b.recipe.seed), (9, 3));
        assert_eq!((a.recipe.grafts.len(), b.recipe.grafts.len()), (1, 1));
    }

    #[test]
    fn errors_name_question_variant_and_field() {
        let variant = |text: &str| format!("[[question.variant]]\nname = \"odd one\"\n{text}\n");
        for (text, parts) in [
            ("distill = { los = \"l2\" }", ["distill.los: unknown field `los`", "did you mean `loss`"]),
            ("distill = { loss = \"l3\" }", ["distill.loss: unknown variant `l3`", "huber"]),
            ("distil = false", ["distil = false", "does not have"]),
            ("distil = { steps = 3 }", ["unknown field `distil`", "did you mean `distill`"]),
            ("sample = { count = 3 }", ["sample.count", "at least 10"]),
            ("finetune = { steps = 0 }", ["finetune.steps", "at least 1"]),
        ] {
            let message = refused(&variant(text));
            assert!(message.contains("losses.toml: question \"Which?\", variant \"odd one\": "), "{message}");
            assert!(parts.iter().all(|part| message.contains(part)), "{message}");
            assert!(!message.contains("line "), "{message}");
        }
        let twice = variant("") + &variant("");
        assert!(refused(&twice).contains("two variants named \"odd one\""), "{}", refused(&twice));
        assert!(refused("").contains("line 8: missing field `variant`"), "{}", refused(""));
        assert!(refused("variant = []\n").contains("no [[question.variant]]"));
        assert!(refused("asks = \"\"\n").contains("did you mean `ask`"), "{}", refused("asks = \"\"\n"));
    }
}
