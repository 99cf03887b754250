use super::set::Rows;
use crate::error::{Error, Result};
use crate::metrics::{Features, Gaussian, Moments, Sampled, StatsFile};

/// What sample sets are compared with: rows, stored statistics, or both.
pub struct Reference {
    name: String,
    rows: Option<Rows>,
    gaussian: Gaussian,
    spatial: Option<Gaussian>,
    count: Option<usize>,
    stored: bool,
}

impl Reference {
    /// From rows and statistics, of which one must be there. Statistics go before rows in Fréchet distances, since
    /// ADM's reference batches hold those of the whole data set beside images of a part.
    ///
    /// # Errors
    /// `Usage` if there is neither, or too few rows.
    pub fn new(name: String, rows: Option<Rows>, stored: Option<StatsFile>) -> Result<Self> {
        let named = |e: Error| Error::Usage(format!("{name}: {e}"));
        let is_stored = stored.is_some();
        let (moments, spatial) = match (stored, &rows) {
            (Some(stored), _) => (stored.features, stored.spatial),
            (None, Some(rows)) => (
                Moments::of(&rows.features).map_err(named)?,
                rows.spatial.as_ref().map(Moments::of).transpose().map_err(named)?,
            ),
            (None, None) => return Err(named(Error::Usage("neither rows nor statistics".into()))),
        };
        Ok(Self {
            gaussian: Gaussian::new(&moments)?,
            spatial: spatial.as_ref().map(Gaussian::new).transpose()?,
            count: moments.count(),
            stored: is_stored,
            rows,
            name,
        })
    }

    /// What the user knows it by.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Number of rows behind the Fréchet distance, where it is known.
    pub fn count(&self) -> Option<usize> {
        self.count
    }

    /// The rows, if they are there.
    pub fn rows(&self) -> Option<&Rows> {
        self.rows.as_ref()
    }

    /// For the Fréchet distance.
    pub(super) fn features(&self) -> Sampled<'_> {
        self.side(&self.gaussian, |rows| Some(&rows.features))
    }

    /// For that of spatial features.
    pub(super) fn spatial(&self) -> Option<Sampled<'_>> {
        Some(self.side(self.spatial.as_ref()?, |rows| rows.spatial.as_ref()))
    }

    fn side<'a>(
        &'a self,
        gaussian: &'a Gaussian,
        rows: impl Fn(&'a Rows) -> Option<&'a Features>,
    ) -> Sampled<'a> {
        let rows = if self.stored { None } else { self.rows.as_ref().and_then(rows) };
        Sampled { gaussian, rows }
    }
}
