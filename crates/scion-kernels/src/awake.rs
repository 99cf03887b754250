//! Threads that stay awake between the short parallel pieces of a step.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rayon::Yield;

/// Looks for work in vain after which the system may give the core to others: asking it takes longer than a look.
const SYSTEM_ASKED_EVERY: u32 = 64;
/// How long `f` waits for the other threads to be there; those that come later go back to sleep.
const GATHERING: Duration = Duration::from_micros(200);

/// Whether threads are being kept awake, of which one call in a process takes care.
static AWAKE: AtomicBool = AtomicBool::new(false);

/// What a call and those that it keeps awake tell each other.
#[derive(Default)]
struct Shared {
    gathered: AtomicUsize,
    begun: AtomicBool,
    done: AtomicBool,
}

/// Runs `f`, on a thread of a Rayon pool; the pool's other threads look for work all the while, where they would go to sleep
/// and have to be woken whenever there is none. They use the cores as a computation would. Just runs `f` on any other thread,
/// inside another such call, and where the pool has more threads than there are cores.
pub fn keep_awake<R>(f: impl FnOnce() -> R) -> R {
    struct Awake(Arc<Shared>);
    impl Drop for Awake {
        fn drop(&mut self) {
            self.0.done.store(true, Ordering::Release);
            AWAKE.store(false, Ordering::Release);
        }
    }
    let threads = rayon::current_num_threads();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let Some(mine) = rayon::current_thread_index() else { return f() };
    if threads == 1 || threads > cores || AWAKE.swap(true, Ordering::Acquire) {
        return f();
    }
    let shared = Arc::new(Shared::default());
    let _awake = Awake(shared.clone());
    let keeper = shared.clone();
    rayon::spawn_broadcast(move |thread| {
        if thread.index() != mine {
            stay_awake(&keeper);
        }
    });
    let started = Instant::now();
    while shared.gathered.load(Ordering::Acquire) < threads - 1 && started.elapsed() < GATHERING {
        std::hint::spin_loop();
    }
    shared.begun.store(true, Ordering::SeqCst);
    f()
}

/// Takes up work until the call is done. A thread that comes after it has begun may be waiting for a part of it, and would
/// never see that part's end from here: it goes back.
fn stay_awake(shared: &Shared) {
    let mut idle = 0u32;
    if shared.begun.load(Ordering::SeqCst) {
        return;
    }
    shared.gathered.fetch_add(1, Ordering::Release);
    while !shared.done.load(Ordering::Acquire) {
        if rayon::yield_now() == Some(Yield::Idle) {
            idle = idle.wrapping_add(1);
            match idle.is_multiple_of(SYSTEM_ASKED_EVERY) {
                true => std::thread::yield_now(),
                false => std::hint::spin_loop(),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rayon::prelude::*;

    // One test, since one call in a process keeps threads awake.
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
        a_thread_that_waits_is_not_kept();
    }

    /// One of two threads is in the middle of a job when the call begins, then waits for another job that `f` holds back until
    /// it has looked around: kept awake where it waits, it would not come back.
    fn a_thread_that_waits_is_not_kept() {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(2).build().unwrap();
        let [running, kept, freed] = [(); 3].map(|()| AtomicBool::new(false));
        let until = |flag: &AtomicBool| {
            while !flag.load(Ordering::Acquire) {
                std::hint::spin_loop();
            }
        };
        let call = || {
            until(&running);
            keep_awake(|| {
                kept.store(true, Ordering::Release);
                until(&freed);
            });
        };
        let other = || {
            running.store(true, Ordering::Release);
            until(&kept);
            rayon::yield_now();
            freed.store(true, Ordering::Release);
        };
        pool.install(|| rayon::join(call, other));
        assert!(freed.into_inner());
    }
}
