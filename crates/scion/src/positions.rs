//! The position tables of diffusion transformers, frozen and in no need of storing.

/// DiT's fixed position table for a square grid: [grid², dim] row-major, tokens in raster order
/// (facebookresearch/DiT `models.py`, `get_2d_sincos_pos_embed`). `dim` is a multiple of 4.
pub fn sincos_positions(grid: usize, dim: usize) -> Vec<f32> {
    sincos_grid([grid, grid], dim, |place, _| place as f32)
}

/// Positions of a grid of `rows` and `columns`: [rows·columns, dim] row-major, tokens in raster order. The first half of a
/// row encodes the token's column, the second its row; each is [sin(p·ω), cos(p·ω)], ω_k = 10000^(−k/(dim/4)), in f64, of
/// p = `coordinate(place, side)` along that side. `dim` is a multiple of 4.
pub fn sincos_grid(
    [rows, columns]: [usize; 2],
    dim: usize,
    coordinate: impl Fn(usize, usize) -> f32,
) -> Vec<f32> {
    let quarter = dim / 4;
    let omega: Vec<f64> = (0..quarter).map(|k| 10000f64.powf(-(k as f64) / quarter as f64)).collect();
    let along = |side: usize| -> Vec<f32> {
        let half = |place: usize| {
            let position = f64::from(coordinate(place, side));
            let angles = omega.iter().map(move |w| position * w);
            angles.clone().map(|a| a.sin() as f32).chain(angles.map(|a| a.cos() as f32))
        };
        (0..side).flat_map(half).collect()
    };
    let (by_row, by_column) = (along(rows), along(columns));
    let mut out = Vec::with_capacity(rows * columns * dim);
    for token in 0..rows * columns {
        out.extend_from_slice(&by_column[token % columns * 2 * quarter..][..2 * quarter]);
        out.extend_from_slice(&by_row[token / columns * 2 * quarter..][..2 * quarter]);
    }
    out
}
