//! Which instruction set the CPU code uses, decided once per process.

use std::sync::OnceLock;

/// Instruction sets the CPU code is written for, weakest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Isa {
    /// Whatever the compilation target guarantees.
    Portable,
    /// AVX2 with fused multiply-add.
    Avx2,
    /// AVX-512 F, BW and VL.
    Avx512,
    /// AVX-512 with bf16 dot products (Zen 4, Cooper Lake, Sapphire Rapids and later).
    Avx512Bf16,
    /// The same with matrix registers, AMX (Sapphire Rapids and later, where the system permits their use).
    Amx,
}

impl Isa {
    /// The best set this machine has, capped by the environment variable `SCION_ISA`
    /// (`portable`, `avx2`, `avx512`, `avx512bf16` or `amx`; anything else is ignored).
    pub fn detect() -> Self {
        static DETECTED: OnceLock<Isa> = OnceLock::new();
        *DETECTED.get_or_init(|| {
            let cap = match std::env::var("SCION_ISA").as_deref() {
                Ok("portable") => Isa::Portable,
                Ok("avx2") => Isa::Avx2,
                Ok("avx512") => Isa::Avx512,
                Ok("avx512bf16") => Isa::Avx512Bf16,
                _ => Isa::Amx,
            };
            cap.min(Self::of_machine())
        })
    }

    #[cfg(target_arch = "x86_64")]
    fn of_machine() -> Self {
        let avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
        let avx512 = avx2
            && is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512vl");
        let bf16 = avx512 && is_x86_feature_detected!("avx512bf16");
        if bf16 && super::amx::request() {
            Isa::Amx
        } else if bf16 {
            Isa::Avx512Bf16
        } else if avx512 {
            Isa::Avx512
        } else if avx2 {
            Isa::Avx2
        } else {
            Isa::Portable
        }
    }

    #[cfg(not(target_arch = "x86_64"))]
    fn of_machine() -> Self {
        Isa::Portable
    }
}
