//! What the numbers suggest, in words, each piece with the rule and the numbers behind it.

use crate::metrics::median;
use crate::operator::Slot;
use crate::report::analysis::{Advice, AnalysisResults, OperatorResult};
use crate::report::results::Estimate;
use crate::report::{estimate_text, significant};

/// Kurtosis of a Laplace distribution, whose errors the absolute loss suits.
const LAPLACE: f64 = 6.0;

/// Up to here a kurtosis is nearer, by ratio, to the normal distribution's 3, whose errors the squared loss suits: √(3·6).
const NEARER_NORMAL: f64 = 4.242_640_687_119_285;

/// A loss of stage 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Loss {
    L1,
    L2,
    Huber,
}

impl Loss {
    /// Its name in recipes.
    fn name(self) -> &'static str {
        match self {
            Self::L1 => "l1",
            Self::L2 => "l2",
            Self::Huber => "huber",
        }
    }
}

/// What the outputs of a slot's operators are like.
struct Tails {
    /// Median over the blocks.
    kurtosis: f64,
    /// Least and most.
    range: [f64; 2],
    /// Blocks with channels that stand out.
    outliers: usize,
    blocks: usize,
}

impl Tails {
    fn of<'a>(operators: impl Iterator<Item = &'a OperatorResult>) -> Option<Self> {
        let operators: Vec<_> = operators.filter(|o| o.output.all.kurtosis.is_finite()).collect();
        let mut found: Vec<f64> = operators.iter().map(|o| o.output.all.kurtosis).collect();
        found.sort_by(f64::total_cmp);
        let (first, last) = (*found.first()?, *found.last()?);
        let outliers = operators.iter().filter(|o| o.output.all.outliers > 0).count();
        let kurtosis = median(found.iter().copied())?;
        Some(Self { kurtosis, range: [first, last], outliers, blocks: found.len() })
    }

    /// The loss that suits them.
    fn loss(&self) -> Loss {
        if self.kurtosis >= LAPLACE {
            Loss::L1
        } else if self.kurtosis <= NEARER_NORMAL && 2 * self.outliers <= self.blocks {
            Loss::L2
        } else {
            Loss::Huber
        }
    }
}

/// The advice, and `[[graft]]` entries that follow it.
pub(super) fn of(results: &AnalysisResults) -> (Vec<Advice>, String) {
    let (mut advice, mut recipe) = (Vec::new(), String::new());
    for slot in Slot::ALL {
        let tails = Tails::of(results.slot(slot));
        let order = order(results, slot);
        if let Some(tails) = &tails {
            advice.push(Advice { topic: format!("Loss for {}", plural(slot)), text: loss_text(tails) });
        }
        advice.push(Advice {
            topic: format!("{} first", capital(&plural(slot))),
            text: order_text(results, slot, &order),
        });
        if let (Some(tails), false) = (tails, order.is_empty()) {
            recipe.push_str(&recipe_of(slot, &order, tails.loss()));
        }
    }
    if let Some(text) = replaced_text(results) {
        advice.push(Advice { topic: "The run’s new operators".into(), text });
    }
    advice.push(Advice { topic: "By which rules".into(), text: rules(results) });
    advice.push(Advice { topic: "How far to trust this".into(), text: TRUST.into() });
    (advice, recipe)
}

/// The advice in a line.
pub(super) fn headline(results: &AnalysisResults) -> String {
    const SHOWN: usize = 3;
    let named = |slot: Slot| {
        let order = order(results, slot);
        let first: Vec<String> =
            order[..order.len().div_ceil(2).min(SHOWN)].iter().map(usize::to_string).collect();
        let blocks = joined(&first).to_lowercase();
        (!first.is_empty()).then(|| format!("{} in {blocks}", plural(slot)))
    };
    let parts: Vec<String> = Slot::ALL.into_iter().filter_map(named).collect();
    if parts.is_empty() {
        return "What the operators of this model do".into();
    }
    format!("Start with {}", parts.join(", and with "))
}

const TRUST: &str = "Tails are those of what stage 1 has to copy, not of the errors it will make, which nobody knows before. \
    Operators were taken out one at a time: several together can cost more than the sum. The paper found l1 best for \
    attention and l2 for MLPs, and its best half of the blocks was every second one, ahead of the most local half: try \
    { interleaved = 0.5 } beside this choice.";

fn loss_text(tails: &Tails) -> String {
    let number = |v: f64| significant(v, 3);
    format!(
        "{}. The outputs have a median kurtosis of {} ({} to {} over {} blocks), and channels that stand out in {} of them.",
        tails.loss().name(),
        number(tails.kurtosis),
        number(tails.range[0]),
        number(tails.range[1]),
        tails.blocks,
        tails.outliers
    )
}

/// How the advice follows from the numbers.
fn rules(results: &AnalysisResults) -> String {
    let order = if results.baseline.is_some() {
        format!(
            "attention by the sum of two ranks, how little the loss grows without the operator and how much attention falls \
             within {} tokens in raster order; MLPs by the first of the two alone",
            results.reach
        )
    } else {
        format!(
            "attention by how much of it falls within {} tokens in raster order, for want of images to take the loss on",
            results.reach
        )
    };
    format!(
        "Loss: the squared error suits tails as of a normal distribution (kurtosis 3), the absolute error tails as of a \
         Laplace distribution (6) or heavier. So l2 up to {}, l1 from 6, huber between, and huber instead of l2 where more \
         than half of the blocks have channels that stand out. Blocks: the better half, {order}.",
        significant(NEARER_NORMAL, 3)
    )
}

/// Blocks of a slot, those first whose replacement should hurt least: by the sum of their ranks in what the removal of the
/// operator costs and, for attention, in locality, of those that were measured.
fn order(results: &AnalysisResults, slot: Slot) -> Vec<usize> {
    let blocks: Vec<usize> = match slot {
        Slot::Attention => results.locality.iter().map(|look| look.block).collect(),
        Slot::Mlp => results.slot(slot).map(|operator| operator.block).collect(),
    };
    let costs: Option<Vec<f64>> =
        blocks.iter().map(|&block| Some(cost(results, slot, block)?.value)).collect();
    let distant: Vec<f64> = blocks.iter().filter_map(|&block| local(results, block).map(|v| -v)).collect();
    let mut scores = vec![0; blocks.len()];
    let locality = (slot == Slot::Attention).then_some(distant);
    if costs.is_none() && locality.is_none() {
        return Vec::new();
    }
    for values in costs.iter().chain(&locality) {
        ranks(values).into_iter().zip(&mut scores).for_each(|(rank, score)| *score += rank);
    }
    let mut order: Vec<usize> = (0..blocks.len()).collect();
    let tie = |i: usize| costs.as_ref().map_or(0.0, |costs| costs[i]);
    order.sort_by(|&a, &b| scores[a].cmp(&scores[b]).then(tie(a).total_cmp(&tie(b))));
    order.into_iter().map(|i| blocks[i]).collect()
}

/// The place of each value among all, the smallest being 0.
fn ranks(values: &[f64]) -> Vec<usize> {
    values.iter().map(|value| values.iter().filter(|other| other.total_cmp(value).is_lt()).count()).collect()
}

fn operator(results: &AnalysisResults, slot: Slot, block: usize) -> Option<&OperatorResult> {
    results.slot(slot).find(|operator| operator.block == block)
}

/// What the removal of an operator costs in loss.
fn cost(results: &AnalysisResults, slot: Slot, block: usize) -> Option<Estimate> {
    operator(results, slot, block)?.removed.as_ref().map(|change| change.loss)
}

/// Share of a block's attention within the reach.
fn local(results: &AnalysisResults, block: usize) -> Option<f64> {
    let look = results.locality.iter().find(|look| look.block == block)?;
    look.usual().curve.get(results.reach).copied()
}

fn order_text(results: &AnalysisResults, slot: Slot, order: &[usize]) -> String {
    let (Some((&last, _)), Some(&first)) = (order.split_last(), order.first()) else {
        let why = match slot {
            Slot::Attention if results.locality.is_empty() => {
                "the model has no softmax attention over all tokens"
            }
            _ => "it takes images (--data) to tell what they are worth",
        };
        return format!("No order: {why}.");
    };
    let half = &order[..order.len().div_ceil(2)];
    let names: Vec<String> = half.iter().map(usize::to_string).collect();
    let facts = |block: usize| {
        let cost = cost(results, slot, block).map(|change| cost_text(results, &change));
        let local = local(results, block).filter(|_| slot == Slot::Attention).map(|local| {
            format!("{} of its attention falls within {} tokens", significant(local, 2), results.reach)
        });
        format!("block {block}: {}", cost.into_iter().chain(local).collect::<Vec<_>>().join(", and "))
    };
    let mut text =
        format!("{}, in this order. First {}. Last {}.", joined(&names), facts(first), facts(last));
    if let (Some(low), Some(high)) = (cost(results, slot, first), cost(results, slot, last))
        && !apart(&low, &high)
    {
        text.push_str(
            " By the loss alone the two cannot be told apart: more images (--images) would say more.",
        );
    }
    text
}

/// Whether two changes differ by more than 1.96 standard errors of their difference.
fn apart(a: &Estimate, b: &Estimate) -> bool {
    let error = a.stderr.zip(b.stderr).map_or(f64::NAN, |(a, b)| a.hypot(b));
    (a.value - b.value).abs() > 1.96 * error
}

/// A change of the loss, also as a share of the loss.
fn cost_text(results: &AnalysisResults, change: &Estimate) -> String {
    let share = results.baseline.as_ref().map_or(f64::NAN, |base| 100.0 * change.value / base.loss.value);
    let way = if change.value < 0.0 { "falls" } else { "grows" };
    let by = Estimate { value: change.value.abs(), ..*change };
    format!("without it the loss {way} by {} ({} %)", estimate_text(&by), significant(share.abs(), 2))
}

/// What a run's operators cost, where there is one.
fn replaced_text(results: &AnalysisResults) -> Option<String> {
    let costs = |operator: &OperatorResult| {
        let replaced = operator.replaced.as_ref()?;
        let at = format!("{} of block {}", operator.slot.name(), operator.block);
        Some((replaced.change.loss, replaced.operator.clone(), at))
    };
    let mut found: Vec<_> = results.operators.iter().filter_map(costs).collect();
    found.sort_by(|a, b| a.0.value.total_cmp(&b.0.value));
    let ((least, name, place), (most, other_name, other_place)) = (found.first()?, found.last()?);
    Some(format!(
        "Each of the {} was put into the model alone. {name} as {place} raises the loss least, by {}; {other_name} as \
         {other_place} most, by {}.",
        found.len(),
        estimate_text(least),
        estimate_text(most)
    ))
}

fn recipe_of(slot: Slot, order: &[usize], loss: Loss) -> String {
    let mut half = order[..order.len().div_ceil(2)].to_vec();
    half.sort_unstable();
    let operator = match slot {
        Slot::Attention => "{ kind = \"hyena-x\" }",
        Slot::Mlp => "{ kind = \"mlp\", ratio = 3 }",
    };
    format!(
        "# {}: a recipe of its own, since [distill] has one loss\n[[graft]]\ntarget = \"{}\"\nblocks = {half:?}\noperator = \
         {operator}\n\n[distill]\nloss = \"{}\"\n\n",
        capital(&plural(slot)),
        slot.name(),
        loss.name()
    )
}

fn plural(slot: Slot) -> String {
    match slot {
        Slot::Attention => "attention".into(),
        Slot::Mlp => "MLPs".into(),
    }
}

fn capital(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}

/// A list in running text.
fn joined(names: &[String]) -> String {
    let noun = if names.len() == 1 { "Block" } else { "Blocks" };
    match names.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{noun} {} and {last}", rest.join(", ")),
        _ => format!("{noun} {}", names.concat()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::analysis::tests::sample;

    #[test]
    fn the_loss_follows_the_tails() {
        let tails = |kurtosis, outliers| Tails { kurtosis, range: [3.0, 9.0], outliers, blocks: 4 }.loss();
        assert_eq!([tails(3.0, 0), tails(4.2, 2), tails(4.2, 3)], [Loss::L2, Loss::L2, Loss::Huber]);
        assert_eq!([tails(4.3, 0), tails(6.0, 0), tails(90.0, 4)], [Loss::Huber, Loss::L1, Loss::L1]);
    }

    #[test]
    fn blocks_that_matter_little_and_look_nearby_come_first() {
        // Costs 0.3, 0.1, 0.2; locality 0.2, 0.5, 0.8: ranks 2+2, 0+1, 1+0, and block 1 costs less than 2.
        let results = sample();
        assert_eq!(order(&results, Slot::Attention), [1, 2, 0]);
        let (advice, recipe) = of(&results);
        let text = |topic: &str| &advice.iter().find(|a| a.topic == topic).unwrap().text;
        assert!(text("Attention first").starts_with("Blocks 1 and 2, in this order."), "{advice:?}");
        assert!(text("Attention first").contains("within 2 tokens"), "{advice:?}");
        // 0.1 of a loss of 0.06.
        assert!(text("Attention first").contains("grows by 0.100\u{a0}±\u{a0}0.010 (167 %)"), "{advice:?}");
        assert!(text("Loss for attention").starts_with("l1. "), "{advice:?}");
        assert!(recipe.contains("target = \"attention\"\nblocks = [1, 2]"), "{recipe}");
    }

    #[test]
    fn without_images_locality_alone_decides_and_mlps_have_no_order() {
        let mut results = AnalysisResults { baseline: None, ..sample() };
        results.operators.iter_mut().for_each(|operator| operator.removed = None);
        assert_eq!(order(&results, Slot::Attention), [2, 1, 0]);
        assert_eq!(order(&results, Slot::Mlp), [0usize; 0]);
        let (advice, recipe) = of(&results);
        assert!(advice.iter().any(|a| a.text.contains("for want of images")), "{advice:?}");
        assert!(advice.iter().any(|a| a.text.contains("(--data)")), "{advice:?}");
        assert!(!recipe.contains("mlp"), "{recipe}");
    }
}
