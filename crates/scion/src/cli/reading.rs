use std::path::PathBuf;

use clap::Args;

use crate::checkpoint::Checkpoint;
use crate::config::Recipe;
use crate::error::Result;
use crate::model::{Architecture, architecture_of};
use crate::plan::grafted_architecture;

/// What a checkpoint of the original layout does not tell.
#[derive(Args)]
pub struct Reading {
    /// Attention heads, where neither the file nor its width tells
    #[arg(long)]
    pub heads: Option<usize>,
    /// The recipe whose [[graft]] entries say what was grafted into a checkpoint of the original layout
    #[arg(long)]
    pub recipe: Option<PathBuf>,
}

impl Reading {
    /// The architecture of an opened checkpoint.
    pub fn architecture(&self, file: &Checkpoint) -> Result<Architecture> {
        match &self.recipe {
            Some(path) => grafted_architecture(file, &Recipe::read(path)?, self.heads),
            None => architecture_of(file, self.heads),
        }
    }
}
