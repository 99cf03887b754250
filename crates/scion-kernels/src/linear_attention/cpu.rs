//! Linear attention, a head of an image at a time.

use rayon::prelude::*;

use super::{EPS, FeatureMap, LinearAttention};
use crate::array::{Array, unfilled};
use crate::attention::{Head, Sizes};
use crate::backend::Kernel;
use crate::gemm::{MatRef, Precision, Products, vmath};
use crate::shared::SharedMut;
use crate::sums::{axpy, dot};

/// What a thread needs for one head after another.
struct Scratch {
    /// φ(q) and φ(k), [T, head].
    q: Vec<f32>,
    k: Vec<f32>,
    /// Σφ(k)ᵀ·v, [head, head], and Σφ(k), [head].
    moments: Vec<f32>,
    mass: Vec<f32>,
    /// Sum of each query's weights, [T].
    weights: Vec<f32>,
    products: Products,
}

impl Scratch {
    fn new(precision: Precision) -> Self {
        let empty = Vec::new;
        let products = Products::new(precision);
        Self { q: empty(), k: empty(), moments: empty(), mass: empty(), weights: empty(), products }
    }

    /// Fills everything from one head's packed q, k, v.
    fn fill(&mut self, h: Head, s: Sizes, map: FeatureMap, qkv: &[f32]) {
        for (part, features) in [&mut self.q, &mut self.k].into_iter().enumerate() {
            features.resize(s.tokens * s.head, 0.0);
            for (t, row) in features.chunks_exact_mut(s.head).enumerate() {
                map.apply(&qkv[h.part(part, t)..][..s.head], row);
            }
        }
        self.moments.resize(s.head * s.head, 0.0);
        let (keys, values) = (MatRef::new(&self.k, s.tokens, s.head), h.matrix(qkv, 2, 0, s.tokens));
        self.products.multiply(keys.t(), values, &mut self.moments, s.head, false);
        self.mass.clear();
        self.mass.resize(s.head, 0.0);
        self.k.chunks_exact(s.head).for_each(|row| axpy(&mut self.mass, 1.0, row));
        self.weights.clear();
        self.weights.extend(self.q.chunks_exact(s.head).map(|q| inner(q, &self.mass) + EPS));
    }
}

impl FeatureMap {
    fn apply(self, x: &[f32], y: &mut [f32]) {
        match self {
            Self::EluPlusOne => {
                vmath::exp(x, y);
                // Above zero the identity plus one.
                y.iter_mut().zip(x).for_each(|(y, &x)| *y = if x > 0.0 { x + 1.0 } else { *y });
            }
            Self::Relu => y.iter_mut().zip(x).for_each(|(y, &x)| *y = x.max(0.0)),
        }
    }

    /// The slope where the map has the value `y`.
    fn slope(self, y: f32) -> f32 {
        match self {
            Self::EluPlusOne => y.min(1.0),
            Self::Relu => {
                if y > 0.0 {
                    1.0
                } else {
                    0.0
                }
            }
        }
    }
}

impl Kernel<1> for LinearAttention {
    fn forward(&self, [qkv]: &[Array; 1], keep: bool) -> (Array, Vec<Array>) {
        let s = Sizes::new(qkv, self.heads);
        // SAFETY: the tasks below write the output of every image and head.
        let mut out = unsafe { unfilled(s.batch * s.tokens * s.width()) };
        let shared = SharedMut::new(&mut out);
        (0..s.batch * s.heads).into_par_iter().for_each_init(
            || (Scratch::new(self.precision), Vec::new()),
            |(scratch, mixed), task| {
                let h = Head::new(s, task);
                scratch.fill(h, s, self.map, qkv.values());
                mixed.resize(s.tokens * s.head, 0.0);
                let Scratch { q, moments, products, .. } = scratch;
                let (queries, moments) =
                    (MatRef::new(q, s.tokens, s.head), MatRef::new(moments, s.head, s.head));
                products.multiply(queries, moments, mixed, s.head, false);
                for (t, (row, weight)) in mixed.chunks_exact(s.head).zip(&scratch.weights).enumerate() {
                    // SAFETY: each (image, head) task writes its own columns.
                    let out = unsafe { std::slice::from_raw_parts_mut(shared.at(h.out(t), s.head), s.head) };
                    out.iter_mut().zip(row).for_each(|(out, x)| *out = x / weight);
                }
            },
        );
        let out = Array::from_vec(out, [s.batch, s.tokens, s.width()]);
        let kept = if keep { vec![out.clone()] } else { Vec::new() };
        (out, kept)
    }

    fn backward(
        &self,
        [qkv]: &[Array; 1],
        kept: &[Array],
        grad: &Array,
        _wanted: [bool; 1],
    ) -> [Option<Array>; 1] {
        let s = Sizes::new(qkv, self.heads);
        // SAFETY: the tasks below write q, k and v of every image and head.
        let mut d_qkv = unsafe { unfilled(qkv.values().len()) };
        let shared = SharedMut::new(&mut d_qkv);
        (0..s.batch * s.heads).into_par_iter().for_each_init(
            || Scratch::new(self.precision),
            |scratch, task| {
                let h = Head::new(s, task);
                self.head_backward(h, s, qkv.values(), kept[0].values(), grad.values(), &shared, scratch);
            },
        );
        [Some(Array::from_vec(d_qkv, qkv.dims()))]
    }
}

impl LinearAttention {
    /// Gradient of one head: with `n = dO / w` and `e = −dO·O / w` of each query, Q and K the features and M, z their
    /// moments, dM = Qᵀ·n, dz = Qᵀ·e, dQ = n·Mᵀ + e·zᵀ, dK = V·dMᵀ + 1·dzᵀ, dV = K·dM.
    #[expect(clippy::too_many_arguments)]
    fn head_backward(
        &self,
        h: Head,
        s: Sizes,
        qkv: &[f32],
        out: &[f32],
        grad: &[f32],
        d_qkv: &SharedMut,
        scratch: &mut Scratch,
    ) {
        let (tokens, head) = (s.tokens, s.head);
        scratch.fill(h, s, self.map, qkv);
        let Scratch { q, k, moments, mass, weights, products } = scratch;
        let tall = |values| MatRef::new(values, tokens, head);
        let square = |values| MatRef::new(values, head, head);
        let values = h.matrix(qkv, 2, 0, tokens);
        let mut n = vec![0f32; tokens * head];
        let mut e = vec![0f32; tokens];
        for (t, (n, e)) in n.chunks_exact_mut(head).zip(&mut e).enumerate() {
            let (d_out, out) = (&grad[h.out(t)..][..head], &out[h.out(t)..][..head]);
            let weight = weights[t];
            n.iter_mut().zip(d_out).for_each(|(n, d)| *n = d / weight);
            *e = -inner(d_out, out) / weight;
        }
        let (mut d_moments, mut d_mass) = (vec![0f32; head * head], vec![0f32; head]);
        products.multiply(tall(q).t(), tall(&n), &mut d_moments, head, false);
        q.chunks_exact(head).zip(&e).for_each(|(q, &e)| axpy(&mut d_mass, e, q));
        let mut d = vec![0f32; tokens * head];
        products.multiply(tall(&n), square(moments).t(), &mut d, head, false);
        d.chunks_exact_mut(head).zip(&e).for_each(|(d, &e)| axpy(d, e, mass));
        self.write(h, 0, &d, Some(q), d_qkv);
        products.multiply(values, square(&d_moments).t(), &mut d, head, false);
        d.chunks_exact_mut(head).for_each(|d| axpy(d, 1.0, &d_mass));
        self.write(h, 1, &d, Some(k), d_qkv);
        products.multiply(tall(k), square(&d_moments), &mut d, head, false);
        self.write(h, 2, &d, None, d_qkv);
    }

    /// Writes the gradient [T, head] of q, k or v (0, 1, 2), through the map where its values are given.
    fn write(&self, h: Head, part: usize, d: &[f32], features: Option<&[f32]>, d_qkv: &SharedMut) {
        let head = h.width();
        for (t, d) in d.chunks_exact(head).enumerate() {
            // SAFETY: each (image, head) task writes its own columns.
            let to = unsafe { std::slice::from_raw_parts_mut(d_qkv.at(h.part(part, t), head), head) };
            match features {
                Some(features) => {
                    let values = &features[t * head..(t + 1) * head];
                    to.iter_mut().zip(d).zip(values).for_each(|((to, d), &y)| *to = d * self.map.slope(y));
                }
                None => to.copy_from_slice(d),
            }
        }
    }
}

multiversioned! {
    /// The inner product.
    fn inner(a: &[f32], b: &[f32]) -> f32 {
        dot::<16>(a, b)
    }
}
