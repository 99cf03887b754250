use clap::ValueEnum;

use super::reference::Reference;
use super::set::Rows;
use crate::metrics::NeighbourOptions;

/// What can be measured of a set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Metric {
    /// Fréchet distance: FID in Inception's features
    #[value(alias = "fid")]
    Frechet,
    /// Fréchet distance of spatial features: sFID in Inception's
    #[value(alias = "sfid")]
    SpatialFrechet,
    /// Kernel distance
    Kid,
    /// Inception Score
    #[value(alias = "is")]
    InceptionScore,
    /// Precision and recall
    #[value(alias = "pr")]
    PrecisionRecall,
    /// Density and coverage
    #[value(alias = "dc")]
    DensityCoverage,
    /// Share of images in the class asked for
    Accuracy,
    /// Fréchet distance of each class, and their mean
    #[value(alias = "intra-fid")]
    PerClass,
}

impl Metric {
    /// In the order of tables.
    pub const ALL: [Self; 8] = [
        Self::Frechet,
        Self::SpatialFrechet,
        Self::Kid,
        Self::InceptionScore,
        Self::PrecisionRecall,
        Self::DensityCoverage,
        Self::Accuracy,
        Self::PerClass,
    ];

    /// What is missing for this metric, if anything is.
    pub(super) fn lacking(
        self,
        rows: &Rows,
        reference: &Reference,
        neighbours: NeighbourOptions,
    ) -> Option<&'static str> {
        let reference_rows = reference.rows();
        let no_rows =
            reference_rows.is_none().then_some("needs the reference's rows, not only its statistics");
        // All four shares of neighbourhoods come from one pass.
        let too_few = || {
            let NeighbourOptions { precision_recall, density_coverage } = neighbours;
            let theirs = reference_rows.map_or(usize::MAX, |r| r.features.len());
            let enough =
                precision_recall.max(density_coverage) < theirs && precision_recall < rows.features.len();
            (!enough).then_some(
                "needs more rows than neighbours, of precision and recall as of density and coverage",
            )
        };
        match self {
            Self::Frechet => None,
            Self::SpatialFrechet => (rows.spatial.is_none() || reference.spatial().is_none())
                .then_some("needs spatial features of the samples and of the reference"),
            Self::Kid => no_rows,
            Self::InceptionScore => {
                rows.probabilities.is_none().then_some("needs class probabilities of the samples")
            }
            Self::PrecisionRecall | Self::DensityCoverage => no_rows.or_else(too_few),
            Self::Accuracy => (rows.predicted.is_none() || rows.labels.is_none())
                .then_some("needs labels of the samples, and a classifier of the data's classes"),
            Self::PerClass => no_rows.or_else(|| {
                let known = rows.labels.is_some() && reference_rows.is_some_and(|r| r.labels.is_some());
                (!known).then_some("needs labels of the samples and of the reference")
            }),
        }
    }

    /// Whether images or rows of the reference are looked at even where its statistics are stored.
    pub(super) fn needs_reference_rows(self) -> bool {
        match self {
            Self::Kid | Self::PrecisionRecall | Self::DensityCoverage | Self::PerClass => true,
            Self::Frechet | Self::SpatialFrechet | Self::InceptionScore | Self::Accuracy => false,
        }
    }

    /// The name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Frechet => "frechet",
            Self::SpatialFrechet => "spatial-frechet",
            Self::Kid => "kid",
            Self::InceptionScore => "inception-score",
            Self::PrecisionRecall => "precision-recall",
            Self::DensityCoverage => "density-coverage",
            Self::Accuracy => "accuracy",
            Self::PerClass => "per-class",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_command_line() {
        assert_eq!(Metric::ALL.as_slice(), Metric::value_variants());
        for metric in Metric::ALL {
            assert_eq!(metric.to_possible_value().unwrap().get_name(), metric.name());
        }
    }
}
