use rayon::prelude::*;

use super::GatedResidual;
use crate::array::{Array, unfilled};
use crate::backend::Kernel;

impl Kernel<3> for GatedResidual {
    fn forward(&self, [x, branch, modulation]: &[Array; 3], _keep: bool) -> (Array, Vec<Array>) {
        let [_, tokens, width] = x.dims()[..] else { unreachable!("tokens are [N, T, D]") };
        // SAFETY: every element is written below.
        let mut y = unsafe { unfilled(x.values().len()) };
        y.par_chunks_mut(tokens * width)
            .zip(x.values().par_chunks(tokens * width))
            .zip(branch.values().par_chunks(tokens * width))
            .zip(modulation.values().par_chunks(modulation.width()))
            .for_each(|(((y, x), b), row)| {
                let gate = &row[self.gate * width..][..width];
                for ((y, x), b) in
                    y.chunks_exact_mut(width).zip(x.chunks_exact(width)).zip(b.chunks_exact(width))
                {
                    for i in 0..width {
                        y[i] = x[i] + gate[i] * b[i];
                    }
                }
            });
        (Array::from_vec(y, x.dims()), Vec::new())
    }

    fn backward(
        &self,
        [_, branch, modulation]: &[Array; 3],
        _kept: &[Array],
        grad: &Array,
        wanted: [bool; 3],
    ) -> [Option<Array>; 3] {
        let [_, tokens, width] = branch.dims()[..] else { unreachable!("tokens are [N, T, D]") };
        // SAFETY: every element is written below.
        let mut db = unsafe { unfilled(branch.values().len()) };
        let mut dm = vec![0f32; modulation.values().len()];
        db.par_chunks_mut(tokens * width)
            .zip(dm.par_chunks_mut(modulation.width()))
            .zip(branch.values().par_chunks(tokens * width))
            .zip(grad.values().par_chunks(tokens * width))
            .zip(modulation.values().par_chunks(modulation.width()))
            .for_each(|((((db, dm), b), dy), row)| {
                let gate = &row[self.gate * width..][..width];
                let dgate = &mut dm[self.gate * width..][..width];
                for ((db, b), dy) in
                    db.chunks_exact_mut(width).zip(b.chunks_exact(width)).zip(dy.chunks_exact(width))
                {
                    for i in 0..width {
                        db[i] = dy[i] * gate[i];
                        dgate[i] += dy[i] * b[i];
                    }
                }
            });
        [
            wanted[0].then(|| grad.clone()),
            wanted[1].then(|| Array::from_vec(db, branch.dims())),
            wanted[2].then(|| Array::from_vec(dm, modulation.dims())),
        ]
    }
}
