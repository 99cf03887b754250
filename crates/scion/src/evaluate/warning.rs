//! What makes scores doubtful.

use serde::Serialize;

use super::audit::{Audit, Pixels};
use super::entry::{Entry, Scores};
use super::reference::Reference;
use super::set::Rows;
use crate::metrics::Splits;

/// A doubt, for programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum WarningKind {
    /// Fewer samples than feature dimensions, so that the covariance is singular.
    FewSamples,
    /// The same of the reference.
    FewReferenceSamples,
    /// A class with no more images than feature dimensions.
    FewInAClass,
    /// A last split of the Inception Score that is much shorter than the others, and counts as much.
    UnevenSplits,
    /// Sets of unequal counts in one table.
    CountsDiffer,
    /// Sets of unequal image sizes in one table.
    SizesDiffer,
    /// Pixels look rescaled or wrapped instead of clipped.
    Unclipped,
    /// Exact copies within a set.
    Duplicates,
    /// Images that another set holds too.
    SharedWithSet,
    /// Images that the reference holds too.
    SharedWithReference,
}

/// A doubt, for programs and for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Warning {
    pub kind: WarningKind,
    pub message: String,
}

/// Wrapped pixels in a thousand that raise a warning; photographs have fewer than one in ten thousand.
const SPECKLES: f64 = 1e-3;
/// Pixels from which on a set without black or white is strange.
const MANY_PIXELS: usize = 50_000;

/// Warnings about one set and its reference.
pub(super) fn of_set(rows: &Rows, reference: &Reference, scores: &Scores, splits: Splits) -> Vec<Warning> {
    let mut warnings = Vec::new();
    let mut warn = |kind, message: String| warnings.push(Warning { kind, message });
    let widest = match (&scores.spatial_frechet, &rows.spatial) {
        (Some(_), Some(spatial)) => spatial.dim().max(rows.features.dim()),
        _ => rows.features.dim(),
    };
    let gaussian = scores.frechet.is_some() || scores.spatial_frechet.is_some();
    let (n, d) = (rows.features.len(), widest);
    if gaussian && n <= d {
        let message = format!(
            "{n} samples are too few for {d} dimensions: the covariance is singular and the Fréchet distance far too \
             high; compare only with sets of {n}"
        );
        warn(WarningKind::FewSamples, message);
    }
    if let Some(count) = reference.count().filter(|&count| gaussian && count <= d) {
        let message = format!("the reference's {count} rows are too few for {d} dimensions");
        warn(WarningKind::FewReferenceSamples, message);
    }
    let classes = scores.per_class.iter().flat_map(|found| &found.classes);
    if let Some(least) = classes.map(|class| class.samples.min(class.reference)).min().filter(|n| *n <= d) {
        let message = format!(
            "classes of as few as {least} images are too few for {d} dimensions: their Fréchet distances are far too high"
        );
        warn(WarningKind::FewInAClass, message);
    }
    let (last, others) = splits.last_and_others(n);
    if scores.inception_score.is_some() && 2 * last < others {
        let message = format!(
            "the last split of the Inception Score holds {last} images and counts as much as the others of {others}: take \
             another number of images, or --splits"
        );
        warn(WarningKind::UnevenSplits, message);
    }
    if let Some(message) = rows.audit.pixels().and_then(unclipped) {
        warn(WarningKind::Unclipped, message);
    }
    let copies = rows.audit.copies();
    if copies > 0 {
        warn(WarningKind::Duplicates, format!("{copies} of {n} are exact copies of others in the set"));
    }
    let shared = reference.rows().map_or(0, |theirs| rows.audit.shared(&theirs.audit));
    if shared > 0 {
        warn(WarningKind::SharedWithReference, format!("{shared} of {n} are in the reference too"));
    }
    warnings
}

/// Whether pixels look as if nobody had clipped them to the range.
fn unclipped(pixels: &Pixels) -> Option<String> {
    let Pixels { total, lowest, highest, speckles, clipped, .. } = *pixels;
    if clipped > 0 {
        return Some(format!(
            "{clipped} of {total} float values lay outside 0 to 255 and were clipped; other programs may not clip"
        ));
    }
    if speckles as f64 > SPECKLES * total as f64 {
        return Some(format!(
            "{speckles} of {total} pixel values jump from one end of the range to the other and back, as values do \
             that were converted to 8 bits without clipping"
        ));
    }
    if total >= MANY_PIXELS && lowest > 0 && highest < u8::MAX {
        return Some(format!(
            "all pixel values lie between {lowest} and {highest}: the images look rescaled instead of clipped"
        ));
    }
    None
}

/// Adds warnings about sets in the light of each other.
pub(super) fn compare_sets(entries: &mut [Entry], audits: &[Audit]) {
    let names: Vec<(String, usize)> = entries.iter().map(|e| (e.set.clone(), e.samples)).collect();
    let Some((first, count)) = names.first() else { return };
    let shape = |audit: &Audit| audit.pixels().map(|pixels| pixels.shape);
    for (i, entry) in entries.iter_mut().enumerate() {
        let mut warn = |kind, message: String| entry.warnings.push(Warning { kind, message });
        if names[i].1 != *count {
            let message = format!(
                "{} samples against {count} of {first}: distances depend on the number, so compare equal ones",
                names[i].1
            );
            warn(WarningKind::CountsDiffer, message);
        }
        if let (Some(a), Some(b)) = (shape(&audits[i]), shape(&audits[0]))
            && a != b
        {
            warn(WarningKind::SizesDiffer, format!("images of {a} against {b} of {first}"));
        }
        for (j, (other, _)) in names.iter().enumerate().take(i) {
            let shared = audits[i].shared(&audits[j]);
            if shared > 0 {
                warn(WarningKind::SharedWithSet, format!("{shared} of {} are in {other} too", names[i].1));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::ImageShape;

    #[test]
    fn clipped_pixels_raise_no_warning() {
        let shape = ImageShape { channels: 1, height: 1, width: 1 };
        let clean = Pixels { shape, total: 100_000, lowest: 0, highest: 255, speckles: 3, clipped: 0 };
        assert_eq!(unclipped(&clean), None);
        assert_eq!(unclipped(&Pixels { lowest: 4, ..clean }), None, "a white pixel is enough");
        assert_eq!(
            unclipped(&Pixels { lowest: 4, highest: 250, speckles: 0, total: 100, ..clean }),
            None,
            "too few to tell"
        );
        let found = |pixels: Pixels| unclipped(&pixels).unwrap();
        assert!(found(Pixels { lowest: 4, highest: 250, ..clean }).contains("between 4 and 250"));
        assert!(found(Pixels { speckles: 2000, ..clean }).contains("without clipping"));
        assert!(found(Pixels { clipped: 7, ..clean }).contains("7 of 100000 float values"));
    }
}
