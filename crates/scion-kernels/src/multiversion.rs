//! Functions compiled once for each instruction set.

/// Declares functions whose bodies are compiled for AVX-512, AVX2 and the compilation target, and chosen among at
/// run time. What a body calls takes part in that only where it is inlined. The compiler neither reorders nor
/// contracts floating-point arithmetic, so all versions give the same bits.
macro_rules! multiversioned {
    ($(#[$meta:meta])* $visibility:vis unsafe fn $($rest:tt)*) => {
        multiversioned!(@ [unsafe] [$(#[$meta])* $visibility] $($rest)*);
    };
    ($(#[$meta:meta])* $visibility:vis fn $($rest:tt)*) => {
        multiversioned!(@ [] [$(#[$meta])* $visibility] $($rest)*);
    };
    (@ [$($unsafety:tt)?] [$($head:tt)*]
        $name:ident($($argument:ident: $type:ty),* $(,)?) $(-> $result:ty)? $body:block) => {
        #[allow(clippy::too_many_arguments)]
        $($head)* $($unsafety)? fn $name($($argument: $type),*) $(-> $result)? {
            #[inline(always)]
            #[allow(clippy::too_many_arguments)]
            $($unsafety)? fn portable($($argument: $type),*) $(-> $result)? $body

            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
            #[allow(clippy::too_many_arguments, unused_unsafe)]
            $($unsafety)? fn avx512($($argument: $type),*) $(-> $result)? {
                // SAFETY: where the function is unsafe, its caller keeps the contract.
                unsafe { portable($($argument),*) }
            }

            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma")]
            #[allow(clippy::too_many_arguments, unused_unsafe)]
            $($unsafety)? fn avx2($($argument: $type),*) $(-> $result)? {
                // SAFETY: as above.
                unsafe { portable($($argument),*) }
            }

            // SAFETY: the instruction set was detected on this machine; the rest as above.
            #[allow(unused_unsafe)]
            unsafe {
                match $crate::gemm::Isa::detect() {
                    #[cfg(target_arch = "x86_64")]
                    isa if isa >= $crate::gemm::Isa::Avx512 => avx512($($argument),*),
                    #[cfg(target_arch = "x86_64")]
                    $crate::gemm::Isa::Avx2 => avx2($($argument),*),
                    _ => portable($($argument),*),
                }
            }
        }
    };
}
