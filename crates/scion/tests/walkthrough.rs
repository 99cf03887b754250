//! The code that `docs/adding-an-operator.md` shows is the code that there is.

use std::path::Path;

/// A piece of code and the file that it is said to be in.
struct Quote {
    file: String,
    lines: Vec<String>,
}

/// Fenced blocks that follow a line which is nothing but a file's name and a colon.
fn quotes(page: &str) -> Vec<Quote> {
    let mut found: Vec<Quote> = Vec::new();
    let (mut file, mut inside) = (None, false);
    for line in page.lines() {
        if line.starts_with("```") {
            inside = !inside;
            if let Some(file) = file.take().filter(|_| inside) {
                found.push(Quote { file, lines: Vec::new() });
            } else if inside {
                found.push(Quote { file: String::new(), lines: Vec::new() });
            }
        } else if inside {
            found.last_mut().unwrap().lines.push(line.trim().into());
        } else if let Some(name) = line.strip_prefix('`').and_then(|rest| rest.strip_suffix("`:")) {
            file = Some(name.into());
        }
    }
    found.retain(|quote| !quote.file.is_empty());
    found
}

/// The first line that is not where the quote says: right behind the line before, or anywhere behind a `…`.
fn missing<'a>(quote: &'a Quote, text: &str) -> Option<&'a str> {
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    // Where the quote may go on, and whether lines may be left out before it does.
    let (mut places, mut skips): (Vec<usize>, bool) = (vec![0], true);
    for wanted in &quote.lines {
        if wanted == "…" {
            skips = true;
            continue;
        }
        let fits = |&at: &usize| lines.get(at) == Some(&wanted.as_str());
        places = match (skips, places.first()) {
            (true, Some(&first)) => (first..lines.len()).filter(fits).map(|at| at + 1).collect(),
            _ => places.into_iter().filter(fits).map(|at| at + 1).collect(),
        };
        skips = false;
        if places.is_empty() {
            return Some(wanted);
        }
    }
    None
}

#[test]
fn the_walkthrough_quotes_the_sources() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let page = std::fs::read_to_string(root.join("docs/adding-an-operator.md")).unwrap();
    let quotes = quotes(&page);
    assert!(quotes.len() >= 10);
    for quote in quotes {
        let text =
            std::fs::read_to_string(root.join(&quote.file)).unwrap_or_else(|e| panic!("{}: {e}", quote.file));
        assert_eq!(missing(&quote, &text), None, "not in {}", quote.file);
    }
}

#[test]
fn a_quote_that_is_not_in_the_source_is_noticed() {
    let quote =
        |lines: &[&str]| Quote { file: "a".into(), lines: lines.iter().map(|l| l.to_string()).collect() };
    let text = "one\n  two\nthree\nfour";
    assert_eq!(missing(&quote(&["two", "three"]), text), None);
    assert_eq!(missing(&quote(&["one", "…", "four"]), text), None);
    assert_eq!(missing(&quote(&["one", "three"]), text), Some("three"));
    assert_eq!(missing(&quote(&["four", "…", "one"]), text), Some("one"));
}
