//! Strict loading: which names are missing, unused or misshapen.

use std::collections::BTreeMap;
use std::path::Path;

use crate::error::{Error, Result};

/// Names listed of each kind before the rest is only counted.
const LISTED: usize = 10;

/// Compares the tensors a model needs with those a file holds, by name and shape. The error lists the first ten
/// missing, unused and misshapen names, and how many there are of each.
pub fn check_names<'a>(
    path: &Path,
    expected: &[(String, Vec<usize>)],
    found: impl IntoIterator<Item = (&'a str, &'a [usize])>,
) -> Result<()> {
    let mut unused: BTreeMap<&str, &[usize]> = found.into_iter().collect();
    let (mut missing, mut misshapen) = (Vec::new(), Vec::new());
    for (name, shape) in expected {
        match unused.remove(name.as_str()) {
            None => missing.push(format!("{name} {shape:?}")),
            Some(actual) if actual != shape => {
                misshapen.push(format!("{name} (expected {shape:?}, found {actual:?})"))
            }
            Some(_) => {}
        }
    }
    let unused = unused.iter().map(|(name, shape)| format!("{name} {shape:?}")).collect();
    let kinds = [("missing", missing), ("unused", unused), ("misshapen", misshapen)];
    let parts: Vec<_> =
        kinds.iter().filter(|(_, names)| !names.is_empty()).map(|(kind, names)| list(kind, names)).collect();
    if parts.is_empty() {
        return Ok(());
    }
    let detail = format!("the tensors do not fit the model: {}", parts.join("; "));
    Err(Error::Tensors { path: path.into(), detail })
}

fn list(kind: &str, names: &[String]) -> String {
    let shown = names[..names.len().min(LISTED)].join(", ");
    let rest =
        if names.len() > LISTED { format!(" and {} more", names.len() - LISTED) } else { String::new() };
    format!("{} {kind}: {shown}{rest}", names.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_every_kind_and_counts_the_rest() {
        let expected: Vec<_> = (0..14).map(|i| (format!("w{i:02}"), vec![i, 2])).collect();
        let (short, good) = ([12, 3], [13, 2]);
        let found = [("w12", short.as_slice()), ("w13", good.as_slice()), ("extra", good.as_slice())];
        let message = check_names(Path::new("f.pt"), &expected, found).unwrap_err().to_string();
        assert!(
            message.contains("12 missing: w00 [0, 2], ") && message.contains("w09 [9, 2] and 2 more"),
            "{message}"
        );
        assert!(message.contains("1 unused: extra [13, 2]"), "{message}");
        assert!(message.contains("1 misshapen: w12 (expected [12, 2], found [12, 3])"), "{message}");
        assert!(check_names(Path::new("f.pt"), &expected[13..], [("w13", good.as_slice())]).is_ok());
    }
}
