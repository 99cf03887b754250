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
                image_forward(x, b, &row[self.gate * width..][..width], y);
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
                image_backward(b, dy, gate, db, &mut dm[self.gate * width..][..width]);
            });
        [
            wanted[0].then(|| grad.clone()),
            wanted[1].then(|| Array::from_vec(db, branch.dims())),
            wanted[2].then(|| Array::from_vec(dm, modulation.dims())),
        ]
    }
}

multiversioned! {
    /// All tokens of one image; `gate` is as long as a token.
    fn image_forward(x: &[f32], branch: &[f32], gate: &[f32], y: &mut [f32]) {
        let width = gate.len();
        for ((y, x), b) in y.chunks_exact_mut(width).zip(x.chunks_exact(width)).zip(branch.chunks_exact(width)) {
            for (((y, x), b), gate) in y.iter_mut().zip(x).zip(b).zip(gate) {
                *y = x + gate * b;
            }
        }
    }
}

multiversioned! {
    /// Gradients of one image's branch and gate; the latter is added to.
    fn image_backward(branch: &[f32], dy: &[f32], gate: &[f32], db: &mut [f32], dgate: &mut [f32]) {
        let width = gate.len();
        for ((db, b), dy) in
            db.chunks_exact_mut(width).zip(branch.chunks_exact(width)).zip(dy.chunks_exact(width))
        {
            for ((((db, b), dy), gate), dgate) in db.iter_mut().zip(b).zip(dy).zip(gate).zip(&mut *dgate) {
                *db = dy * gate;
                *dgate += dy * b;
            }
        }
    }
}
