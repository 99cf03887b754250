//! Large maps in overlapping tiles whose overlaps are blended, as diffusers' `tiled_encode` and `tiled_decode` do it.

use std::ops::Range;

use super::AutoencoderConfig;
use crate::convolution::Map;

/// Share of a tile that overlaps the next.
const OVERLAP: f64 = 0.25;

/// How one side of an input is cut, and how outputs are put together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tiles {
    /// Side of a tile of the input.
    side: usize,
    /// From the beginning of one to that of the next.
    step: usize,
    /// Rows or columns of the output that fade from one tile to the next.
    blend: usize,
    /// Rows or columns of a tile's output that are kept.
    keep: usize,
}

impl Tiles {
    /// For images; `sample` is a tile's side in pixels.
    pub(super) fn of_image(config: &AutoencoderConfig, sample: usize) -> Self {
        Self::new(sample, sample / config.factor())
    }

    /// For latents.
    pub(super) fn of_latent(config: &AutoencoderConfig, sample: usize) -> Self {
        Self::new(sample / config.factor(), sample)
    }

    fn new(input: usize, output: usize) -> Self {
        let blend = (output as f64 * OVERLAP) as usize;
        let step = (input as f64 * (1.0 - OVERLAP)) as usize;
        Self { side: input, step, blend, keep: output - blend }
    }

    /// The length of the last tile of a side.
    pub(super) fn last(&self, length: usize) -> usize {
        (length - 1) % self.step + 1
    }

    fn ranges(&self, length: usize) -> impl Iterator<Item = Range<usize>> {
        (0..length).step_by(self.step).map(move |first| first..length.min(first + self.side))
    }

    /// Runs `f` on every tile. Only two rows of tiles are held.
    pub(super) fn run(&self, input: &Map, f: impl Fn(Map) -> Map) -> Map {
        let [rows, columns, _] = input.shape;
        let mut bands = Vec::new();
        let mut above: Vec<Map> = Vec::new();
        for rows in self.ranges(rows) {
            let mut band: Vec<Map> = Vec::new();
            for (j, columns) in self.ranges(columns).enumerate() {
                let mut tile = f(crop(input, rows.clone(), columns));
                if let Some(above) = above.get(j) {
                    fade_rows(above, &mut tile, self.blend);
                }
                if let Some(left) = band.last() {
                    fade_columns(left, &mut tile, self.blend);
                }
                band.push(tile);
            }
            let kept =
                |tile: &Map| crop(tile, 0..tile.shape[0].min(self.keep), 0..tile.shape[1].min(self.keep));
            bands.push(beside(&band.iter().map(kept).collect::<Vec<_>>()));
            above = band;
        }
        below(bands)
    }
}

fn crop(map: &Map, rows: Range<usize>, columns: Range<usize>) -> Map {
    let [_, width, channels] = map.shape;
    let line = |row: usize| {
        &map.data[(row * width + columns.start) * channels..(row * width + columns.end) * channels]
    };
    Map { shape: [rows.len(), columns.len(), channels], data: rows.flat_map(line).copied().collect() }
}

/// The first rows of `tile` fade in from the last of the tile above.
fn fade_rows(above: &Map, tile: &mut Map, blend: usize) {
    let [rows, columns, channels] = tile.shape;
    let blend = blend.min(rows).min(above.shape[0]);
    let line = columns * channels;
    let from = &above.data[(above.shape[0] - blend) * line..];
    for (i, (to, from)) in tile.data.chunks_exact_mut(line).zip(from.chunks_exact(line)).enumerate() {
        fade(from, to, i as f64 / blend as f64);
    }
}

/// The first columns of `tile` fade in from the last of the tile to the left.
fn fade_columns(left: &Map, tile: &mut Map, blend: usize) {
    let [_, columns, channels] = tile.shape;
    let blend = blend.min(columns).min(left.shape[1]);
    let lines =
        tile.data.chunks_exact_mut(columns * channels).zip(left.data.chunks_exact(left.shape[1] * channels));
    for (to, from) in lines {
        let from = &from[(left.shape[1] - blend) * channels..];
        for (i, (to, from)) in to.chunks_exact_mut(channels).zip(from.chunks_exact(channels)).enumerate() {
            fade(from, to, i as f64 / blend as f64);
        }
    }
}

fn fade(from: &[f32], to: &mut [f32], share: f64) {
    let (old, new) = ((1.0 - share) as f32, share as f32);
    to.iter_mut().zip(from).for_each(|(to, from)| *to = from * old + *to * new);
}

/// Maps of as many rows, side by side.
fn beside(maps: &[Map]) -> Map {
    let [rows, _, channels] = maps[0].shape;
    let columns = maps.iter().map(|map| map.shape[1]).sum();
    let mut data = Vec::with_capacity(rows * columns * channels);
    for row in 0..rows {
        for map in maps {
            let line = map.shape[1] * channels;
            data.extend_from_slice(&map.data[row * line..(row + 1) * line]);
        }
    }
    Map { shape: [rows, columns, channels], data }
}

/// Maps of as many columns, one below the other.
fn below(maps: Vec<Map>) -> Map {
    let [_, columns, channels] = maps[0].shape;
    let rows = maps.iter().map(|map| map.shape[0]).sum();
    Map { shape: [rows, columns, channels], data: maps.into_iter().flat_map(|map| map.data).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Tiles that are copied come together as the map that they were cut from, whatever its size.
    #[test]
    fn pieces_make_the_whole() {
        let tiles = Tiles::new(8, 8);
        assert_eq!(tiles, Tiles { side: 8, step: 6, blend: 2, keep: 6 });
        for (rows, columns) in [(8, 8), (9, 20), (13, 7), (1, 30)] {
            let map =
                Map { shape: [rows, columns, 2], data: (0..rows * columns * 2).map(|i| i as f32).collect() };
            let found = tiles.run(&map, |tile| tile);
            assert_eq!(found.shape, map.shape);
            let worst = found.data.iter().zip(&map.data).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
            assert!(worst < 1e-3, "{rows}×{columns}: {worst}");
        }
        assert_eq!((tiles.last(8), tiles.last(12), tiles.last(13)), (2, 6, 1));
    }

    /// One row of two tiles, one black, one white.
    #[test]
    fn overlaps_fade() {
        let map = Map { shape: [1, 12, 1], data: (0..12).map(|i| i as f32).collect() };
        let value = |tile: Map| {
            let white = if tile.data[0] == 0.0 { 0.0 } else { 1.0 };
            Map { shape: tile.shape, data: vec![white; tile.data.len()] }
        };
        let found = Tiles { side: 8, step: 6, blend: 2, keep: 6 }.run(&map, value).data;
        assert_eq!(found, [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.5, 1.0, 1.0, 1.0, 1.0]);
    }
}
