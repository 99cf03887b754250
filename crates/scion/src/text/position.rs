//! T5's positions: a number for each head and bucket of distances, added to the attention logits.

use super::config::T5Config;

/// The bucket of a distance, key's place less query's. Half of the buckets are for keys ahead. Of each half, the nearer
/// half holds one distance a bucket, the rest grows logarithmically up to `max_distance`. In f32, as transformers computes
/// it: elsewhere the borders would move.
pub(super) fn bucket(distance: isize, buckets: usize, max_distance: usize) -> usize {
    let half = buckets / 2;
    let ahead = if distance > 0 { half } else { 0 };
    let (away, exact) = (distance.unsigned_abs(), half / 2);
    if away < exact {
        return ahead + away;
    }
    let range = (max_distance as f64 / exact as f64).ln() as f32;
    let steps = (away as f32 / exact as f32).ln() / range * (half - exact) as f32;
    ahead + (exact + steps as usize).min(half - 1)
}

/// The bias of every head for every distance that occurs.
pub(super) struct PositionBias {
    /// Tokens of the longest sequence.
    longest: usize,
    /// [heads, 2·longest - 1], from the farthest key behind the query to the farthest ahead.
    values: Vec<f32>,
}

impl PositionBias {
    /// From the table `relative_attention_bias`, [buckets, heads].
    pub(super) fn new(table: &[f32], config: &T5Config, longest: usize) -> Self {
        let reach = longest as isize;
        let buckets: Vec<usize> =
            (1 - reach..reach).map(|d| bucket(d, config.buckets, config.max_distance)).collect();
        let values = (0..config.heads)
            .flat_map(|head| buckets.iter().map(move |bucket| table[bucket * config.heads + head]))
            .collect();
        Self { longest, values }
    }

    /// What is added to the logits of one query for the first `keys` keys.
    pub(super) fn row(&self, head: usize, query: usize, keys: usize) -> &[f32] {
        let start = head * (2 * self.longest - 1) + self.longest - 1 - query;
        &self.values[start..start + keys]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::FeedForward;

    #[test]
    fn buckets_are_the_originals() {
        let packed: &[u8] = include_bytes!("../../../../fixtures/text/buckets.json.gz");
        let golden: Vec<(usize, usize, Vec<usize>)> =
            serde_json::from_reader(flate2::read::GzDecoder::new(packed)).unwrap();
        for (buckets, max_distance, expected) in golden {
            let found: Vec<_> = (-1100..=1100).map(|d| bucket(d, buckets, max_distance)).collect();
            assert_eq!(found, expected, "{buckets} buckets up to {max_distance}");
        }
    }

    #[test]
    fn near_distances_have_buckets_of_their_own() {
        let found: Vec<_> = [0, -1, -7, 1, 7, -8, -128, -5000, 128].map(|d| bucket(d, 32, 128)).into();
        assert_eq!(found, [0, 1, 7, 17, 23, 8, 15, 15, 31]);
    }

    #[test]
    fn rows_follow_the_query() {
        let config = T5Config {
            vocabulary: 1,
            width: 1,
            hidden: 1,
            layers: 1,
            heads: 2,
            head_dim: 1,
            buckets: 8,
            max_distance: 16,
            eps: 1e-6,
            feed_forward: FeedForward::Relu,
        };
        let table: Vec<f32> = (0..16).map(|i| i as f32).collect();
        let bias = PositionBias::new(&table, &config, 4);
        for head in 0..2 {
            for query in 0..3 {
                let expected: Vec<f32> =
                    (0..3).map(|key| table[bucket(key - query as isize, 8, 16) * 2 + head]).collect();
                assert_eq!(bias.row(head, query, 3), expected);
            }
        }
    }
}
