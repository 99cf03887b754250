//! Threads that stay awake between the short parallel pieces of a step.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rayon::Yield;

/// Looks for work in vain after which the system may give the core to others: asking it takes longer than a look.
const SYSTEM_ASKED_EVERY: u32 = 64;

/// Runs `f`, on a thread of a Rayon pool; the pool's other threads look for work all the while, where they would go to sleep
/// and have to be woken whenever there is none. Whoever else wants their cores gets them. On any other thread just runs `f`.
pub fn keep_awake<R>(f: impl FnOnce() -> R) -> R {
    struct Awake(Arc<AtomicBool>);
    impl Drop for Awake {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let done = Arc::new(AtomicBool::new(false));
    let _awake = Awake(done.clone());
    if let Some(mine) = rayon::current_thread_index() {
        rayon::spawn_broadcast(move |thread| {
            let mut idle = 0u32;
            while thread.index() != mine && !done.load(Ordering::Relaxed) {
                if rayon::yield_now() == Some(Yield::Idle) {
                    idle = idle.wrapping_add(1);
                    match idle.is_multiple_of(SYSTEM_ASKED_EVERY) {
                        true => std::thread::yield_now(),
                        false => std::hint::spin_loop(),
                    }
                }
            }
        });
    }
    f()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rayon::prelude::*;

    #[test]
    fn threads_work_while_they_are_kept_awake_and_after() {
        let sum = || (0..10_000u64).into_par_iter().map(|x| x * x).sum::<u64>();
        let expected = sum();
        assert_eq!(keep_awake(sum), expected);
        for threads in [1, 2, 3] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            // One inside another, and one that ends in a panic.
            assert_eq!(pool.install(|| keep_awake(|| keep_awake(sum) + sum())), 2 * expected);
            let failed =
                std::panic::AssertUnwindSafe(|| pool.install(|| keep_awake(|| panic!("on purpose"))));
            assert!(std::panic::catch_unwind(failed).is_err());
            assert_eq!(pool.install(sum), expected);
        }
    }
}
