//! Weights packed once for many products.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use crate::array::Array;
use crate::gemm::{Element, Epilogue, MatRef, PackedB, Precision, matmul, matmul_packed};

/// The packed weights of models that run many times unchanged, such as one that images are drawn from.
///
/// They are kept, with the weights they were made of, until this is dropped: for a model that changes between passes it
/// only grows. Products of f32 operands do without: packing costs them little, and memory would double.
#[derive(Default)]
pub struct PackedWeights(RefCell<HashMap<Key, Held>>);

/// Address, rows, columns and precision of a weight.
type Key = (usize, usize, usize, Precision);

struct Held {
    /// Keeps the address from being used by another tensor, and the values from being changed in place.
    _weight: Array,
    packed: Rc<PackedB>,
}

thread_local! {
    static IN_USE: RefCell<Option<PackedWeights>> = const { RefCell::new(None) };
}

impl std::fmt::Debug for PackedWeights {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PackedWeights({})", self.0.borrow().len())
    }
}

impl PackedWeights {
    /// Runs `f`; in it, forward passes without gradients pack the weights of linear layers and MLPs here at first use,
    /// and later find them. A weight that has been changed meanwhile is another tensor, and is packed anew.
    pub fn scope<R>(&self, f: impl FnOnce() -> R) -> R {
        /// Puts things back, after a panic as well.
        struct Lent<'a>(&'a PackedWeights, Option<PackedWeights>);
        impl Drop for Lent<'_> {
            fn drop(&mut self) {
                let used = IN_USE.replace(self.1.take());
                self.0.0.replace(used.unwrap_or_default().0.into_inner());
            }
        }
        let mine = PackedWeights(RefCell::new(self.0.take()));
        let _lent = Lent(self, IN_USE.replace(Some(mine)));
        f()
    }
}

/// `c = activation(a · Wᵀ + b)` for a weight of [out, in]; with `reuse`, by way of the [`PackedWeights`] in use.
pub(crate) fn times_weight<A: Element, C: Element>(
    precision: Precision,
    a: MatRef<'_, A>,
    weight: &Array,
    c: &mut [C],
    epilogue: Epilogue<'_, C>,
    reuse: bool,
) {
    let (outputs, inputs) = (weight.rows(), weight.width());
    let b = MatRef::new(weight.values(), outputs, inputs).t();
    let in_use = reuse && precision == Precision::Bf16 && IN_USE.with_borrow(Option::is_some);
    if !in_use {
        return matmul(precision, a, b, c, outputs, false, epilogue);
    }
    let key = (weight.values().as_ptr().addr(), outputs, inputs, precision);
    // Nothing stays borrowed while products run: a thread that waits for them may take up other work.
    let found = with_held(|held| held.get(&key).map(|held| held.packed.clone()));
    let packed = found.unwrap_or_else(|| {
        let packed = Rc::new(PackedB::pack(precision, b));
        let held = Held { _weight: weight.clone(), packed: packed.clone() };
        with_held(|all| all.insert(key, held));
        packed
    });
    matmul_packed(a, &packed, c, outputs, false, epilogue);
}

/// The weights held by the [`PackedWeights`] in use.
fn with_held<R>(see: impl FnOnce(&mut HashMap<Key, Held>) -> R) -> R {
    IN_USE.with_borrow(|in_use| see(&mut in_use.as_ref().expect("a scope is open").0.borrow_mut()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn product(x: &[f32], weight: &Array) -> Vec<f32> {
        let mut y = vec![0.0; 2 * weight.rows()];
        let x = MatRef::new(x, 2, weight.width());
        times_weight(Precision::Bf16, x, weight, &mut y, Epilogue::default(), true);
        y
    }

    #[test]
    fn held_weights_give_the_same_bits_and_are_told_apart() {
        let values = |seed: usize| (0..15).map(|i| (i * 7 + seed) as f32 / 11.0 - 0.6).collect::<Vec<f32>>();
        let weights = [0, 1].map(|seed| Array::from_vec(values(seed), [5, 3]));
        let x = values(2)[..6].to_vec();
        let plain = weights.each_ref().map(|w| product(&x, w));
        assert_ne!(plain[0], plain[1]);
        let held = PackedWeights::default();
        for _ in 0..2 {
            let found = held.scope(|| weights.each_ref().map(|w| product(&x, w)));
            assert_eq!(found, plain);
        }
        assert_eq!(held.0.borrow().len(), 2);
        assert!(IN_USE.take().is_none());
    }

    #[test]
    fn a_changed_weight_is_packed_anew() {
        let mut weight = Array::from_vec(vec![1.0; 15], [5, 3]);
        let (x, held) = (vec![1.0; 6], PackedWeights::default());
        assert_eq!(held.scope(|| product(&x, &weight)), [3.0; 10]);
        let mut tensor = weight.into_primitive();
        tensor.storage_mut::<f32>().fill(2.0);
        weight = Array::new(tensor);
        assert_eq!(held.scope(|| product(&x, &weight)), [6.0; 10]);
    }

    #[test]
    fn scopes_nest_and_survive_a_panic() {
        let weight = Array::from_vec(vec![1.0; 6], [2, 3]);
        let (outer, inner) = (PackedWeights::default(), PackedWeights::default());
        outer.scope(|| {
            let failed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                inner.scope(|| panic!("on purpose"))
            }));
            assert!(failed.is_err());
            product(&[1.0; 6], &weight);
        });
        assert!(inner.0.borrow().is_empty());
        assert_eq!(outer.0.borrow().len(), 1);
    }
}
