//! Fields of a recipe in words.

use toml::{Table, Value};

/// One phrase for each graft, restructure and other field.
pub(crate) fn changes(overrides: &Table) -> Vec<String> {
    let mut phrases = Vec::new();
    for (name, value) in overrides {
        match value {
            Value::Array(entries) if entries.iter().all(Value::is_table) => {
                let tables = entries.iter().filter_map(Value::as_table);
                phrases.extend(tables.map(|entry| if name == "graft" { graft(entry) } else { kind(entry) }));
            }
            Value::Boolean(false) => phrases.push(format!("no [{name}]")),
            other => fields(name, other, &mut phrases),
        }
    }
    phrases
}

/// Such as "attention → hyena-x (kernel 4) in blocks interleaved 0.5, init inherit".
fn graft(entry: &Table) -> String {
    let part = |name| entry.get(name).map_or(String::new(), plain);
    let operator = entry.get("operator").and_then(Value::as_table).map_or(String::new(), kind);
    let blocks = match part("blocks").as_str() {
        "all" => "all blocks".into(),
        some => format!("blocks {some}"),
    };
    let named = ["target", "operator", "blocks"];
    let rest = entry.iter().filter(|(name, _)| !named.contains(&name.as_str()));
    let rest: String = rest.map(|(name, value)| format!(", {name} {}", plain(value))).collect();
    format!("{} → {operator} in {blocks}{rest}", part("target"))
}

/// A choice with its settings, such as "sliding-window (left 4, right 4)".
fn kind(table: &Table) -> String {
    let kind = table.get("kind").map_or(String::new(), plain);
    let settings: Table = table.clone().into_iter().filter(|(name, _)| name != "kind").collect();
    if settings.is_empty() {
        kind
    } else {
        format!("{kind} ({})", plain(&settings.into())).trim_start().into()
    }
}

/// A value without the marks of TOML.
fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(values) => values.iter().map(plain).collect::<Vec<_>>().join(", "),
        Value::Table(table) => {
            let settings = table.iter().map(|(name, value)| format!("{name} {}", plain(value)));
            settings.collect::<Vec<_>>().join(", ")
        }
        other => other.to_string(),
    }
}

/// Every field of a section by its path.
fn fields(path: &str, value: &Value, phrases: &mut Vec<String>) {
    match value {
        Value::Table(table) => {
            table.iter().for_each(|(name, value)| fields(&format!("{path}.{name}"), value, phrases))
        }
        other => phrases.push(format!("{path} = {}", plain(other))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_read_as_phrases() {
        let overrides = r#"
            seed = 2
            finetune = false
            distill = { loss = "l1", lr = 2e-3 }
            graft = [
                { target = "attention", blocks = { interleaved = 0.5 }, operator = { kind = "hyena-x", kernel = 4 }, init = "inherit" },
                { target = "mlp", blocks = "all", operator = { kind = "mlp", ratio = 3 } },
                { target = "mlp", blocks = [1, 3], operator = { kind = "identity" } },
            ]
            restructure = [{ kind = "parallel-pairs", pairs = "all" }]
        "#;
        let mut found = changes(&toml::from_str(overrides).unwrap());
        found.sort();
        let mut expected = [
            "seed = 2",
            "no [finetune]",
            "distill.loss = l1",
            "distill.lr = 0.002",
            "attention → hyena-x (kernel 4) in blocks interleaved 0.5, init inherit",
            "mlp → mlp (ratio 3) in all blocks",
            "mlp → identity in blocks 1, 3",
            "parallel-pairs (pairs all)",
        ];
        expected.sort_unstable();
        assert_eq!(found, expected);
    }
}
