//! Decoded images to bytes.

/// Pixel values in [-1, 1] as bytes: `trunc(clamp(127.5 x + 128, 0, 255))`, the rounding of DiT's `sample_ddp.py`.
/// Not-a-number becomes 0.
pub fn to_bytes(pixels: &[f32]) -> Vec<u8> {
    pixels.iter().map(|x| (127.5 * x + 128.0).clamp(0.0, 255.0) as u8).collect()
}

#[cfg(test)]
mod tests {
    use super::to_bytes;

    #[test]
    fn bytes_truncate_and_saturate() {
        // 127.5·(-1)+128 = 0.5, 127.5·0.999+128 = 255.37, 127.5·(-0.002)+128 = 127.745
        let pixels = [-1.0, -9.0, 0.0, 0.999, 1.0, 9.0, -0.002, f32::NAN];
        assert_eq!(to_bytes(&pixels), [0, 0, 128, 255, 255, 255, 127, 0]);
    }
}
