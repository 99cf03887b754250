//! Where arrays lie, and what becomes of their memory once they are freed.

use std::alloc::{GlobalAlloc, Layout, System};
#[cfg(target_os = "linux")]
use std::sync::atomic::{AtomicUsize, Ordering};

/// The system's allocator, but for large blocks on boundaries of cache lines: loads and stores of whole vectors then touch
/// one line each rather than two. For programs to name as their `#[global_allocator]`.
pub struct CacheLines;

impl CacheLines {
    const LINE: usize = 64;
    /// Blocks of fewer bytes are left where they fall.
    const FROM: usize = 4096;
    /// Blocks of as many bytes are asked huge pages for.
    const HUGE_FROM: usize = 1 << 18;

    fn aligned(layout: Layout) -> Layout {
        match layout.size() >= Self::FROM {
            true => layout.align_to(Self::LINE).unwrap_or(layout),
            false => layout,
        }
    }
}

// SAFETY: every call goes to the system's allocator, with the same stricter layout for the same size and alignment.
unsafe impl GlobalAlloc for CacheLines {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise, passed on.
        let block = unsafe { System.alloc(Self::aligned(layout)) };
        ask_for_huge_pages(block, layout.size());
        block
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as above.
        let block = unsafe { System.alloc_zeroed(Self::aligned(layout)) };
        ask_for_huge_pages(block, layout.size());
        block
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: as above; `alloc` saw the same layout.
        unsafe { System.dealloc(block, Self::aligned(layout)) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if layout.size().max(size) < Self::FROM {
            // SAFETY: as above.
            return unsafe { System.realloc(block, layout, size) };
        }
        // SAFETY: the caller promises a size that makes a valid layout, and a block of the old one; both blocks hold what
        // is copied.
        unsafe {
            let grown = self.alloc(Layout::from_size_align_unchecked(size, layout.align()));
            if !grown.is_null() {
                std::ptr::copy_nonoverlapping(block, grown, size.min(layout.size()));
                self.dealloc(block, layout);
            }
            grown
        }
    }
}

/// End of the part of the heap for which [`ask_for_huge_pages`] has asked.
#[cfg(target_os = "linux")]
static ASKED_TO: AtomicUsize = AtomicUsize::new(0);

/// Asks for huge pages under a large block, where the system gives them to those who ask: rows that lie far apart are then
/// found without a walk through page tables. If the heap has grown for the block, it is asked for all that it has grown by,
/// before anything touches the rest.
#[cfg(target_os = "linux")]
fn ask_for_huge_pages(block: *mut u8, size: usize) {
    const PAGE: usize = 4096;
    if size < CacheLines::HUGE_FROM || block.is_null() {
        return;
    }
    let (mut first, mut end) = (block.addr(), block.addr() + size);
    let asked = ASKED_TO.load(Ordering::Relaxed);
    // SAFETY: an increment of zero asks where the heap ends.
    let heap = unsafe { libc::sbrk(0) }.addr();
    if end <= heap {
        if end <= asked {
            return;
        }
        first = if asked == 0 { first } else { asked };
        end = heap;
        ASKED_TO.store(heap, Ordering::Relaxed);
    }
    let first = first.next_multiple_of(PAGE);
    // SAFETY: advice about whole pages of the block or the heap; their contents stay.
    unsafe {
        libc::madvise(
            block.with_addr(first).cast(),
            end.saturating_sub(first) / PAGE * PAGE,
            libc::MADV_HUGEPAGE,
        );
    }
}

#[cfg(not(target_os = "linux"))]
fn ask_for_huge_pages(_: *mut u8, _: usize) {}

/// Gives freed memory that [`keep_freed_memory`] held back to the system: between pieces of work whose memory is compared.
pub fn release_freed_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: malloc_trim touches free memory only.
    unsafe {
        libc::malloc_trim(0);
    }
    // What the heap grows by from here on is asked for anew.
    #[cfg(target_os = "linux")]
    ASKED_TO.store(0, Ordering::Relaxed);
}

/// Keeps freed memory in the process, so that a training step reuses the pages of the one before instead of
/// having the system clear new ones. Does nothing where the allocator is not glibc's.
pub fn keep_freed_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: mallopt only sets allocator parameters; it is called before threads are started.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, 1 << 30);
        libc::mallopt(libc::M_TRIM_THRESHOLD, i32::MAX);
        libc::mallopt(libc::M_TOP_PAD, 256 << 20);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_aligned_as_asked_and_keep_their_contents_when_they_grow() {
        // From left alone to aligned, to such as huge pages are asked for, and back.
        let sizes = [100, 4096, CacheLines::HUGE_FROM + 1, 5000, 64];
        for align in [1, 8, 64, 256] {
            let mut layout = Layout::from_size_align(8, align).unwrap();
            // SAFETY: layouts are those of the blocks, and writes and reads stay inside.
            unsafe {
                let mut block = CacheLines.alloc_zeroed(layout);
                (0..8).for_each(|i| *block.add(i) += i as u8);
                for size in sizes {
                    block = CacheLines.realloc(block, layout, size);
                    layout = Layout::from_size_align(size, align).unwrap();
                    let line = if size >= CacheLines::FROM { CacheLines::LINE } else { 1 };
                    assert!(block.addr().is_multiple_of(align.max(line)), "{size} bytes, aligned to {align}");
                    assert!((0..8).all(|i| *block.add(i) == i as u8), "{size} bytes, aligned to {align}");
                }
                CacheLines.dealloc(block, layout);
            }
        }
    }
}
