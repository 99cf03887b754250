//! Functions compiled once for each instruction set.

/// Declares functions whose bodies are compiled for AVX-512, AVX2 and the compilation target, and chosen among at
/// run time. What a body calls takes part in that only where it is inlined. The compiler neither reorders nor
/// contracts floating-point arithmetic, so all versions give the same bits.
macro_rules! multiversioned {
    ($(#[$meta:meta])* $visibility:vis fn $name:ident($($argument:ident: $type:ty),* $(,)?) $(-> $result:ty)? $body:block) => {
        $(#[$meta])*
        #[allow(clippy::too_many_arguments)]
        $visibility fn $name($($argument: $type),*) $(-> $result)? {
            #[inline(always)]
            #[allow(clippy::too_many_arguments)]
            fn portable($($argument: $type),*) $(-> $result)? $body

            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
            #[allow(clippy::too_many_arguments)]
            fn avx512($($argument: $type),*) $(-> $result)? {
                portable($($argument),*)
            }

            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma")]
            #[allow(clippy::too_many_arguments)]
            fn avx2($($argument: $type),*) $(-> $result)? {
                portable($($argument),*)
            }

            match $crate::gemm::Isa::detect() {
                // SAFETY: the instruction set was detected on this machine.
                #[cfg(target_arch = "x86_64")]
                isa if isa >= $crate::gemm::Isa::Avx512 => unsafe { avx512($($argument),*) },
                // SAFETY: as above.
                #[cfg(target_arch = "x86_64")]
                $crate::gemm::Isa::Avx2 => unsafe { avx2($($argument),*) },
                _ => portable($($argument),*),
            }
        }
    };
}
