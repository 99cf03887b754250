//! The position table that every DiT shares, frozen and in no need of storing.

/// DiT's fixed position table for a square grid: [grid², dim] row-major, tokens in raster order. The first half of a
/// row encodes the token's column, the second its row; each is [sin(p·ω), cos(p·ω)], ω_k = 10000^(−k/(dim/4)), in f64
/// (facebookresearch/DiT `models.py`, `get_2d_sincos_pos_embed`). `dim` is a multiple of 4.
pub fn sincos_positions(grid: usize, dim: usize) -> Vec<f32> {
    let quarter = dim / 4;
    let omega: Vec<f64> = (0..quarter).map(|k| 10000f64.powf(-(k as f64) / quarter as f64)).collect();
    let mut out = Vec::with_capacity(grid * grid * dim);
    for token in 0..grid * grid {
        for position in [token % grid, token / grid] {
            let angles = omega.iter().map(|w| position as f64 * w);
            out.extend(angles.clone().map(|a| a.sin() as f32));
            out.extend(angles.map(|a| a.cos() as f32));
        }
    }
    out
}
