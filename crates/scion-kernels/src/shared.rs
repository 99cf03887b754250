//! A slice that several threads write at disjoint places.

use std::marker::PhantomData;

/// A mutable slice handed to parallel tasks which promise to write disjoint elements.
pub(crate) struct SharedMut<'a> {
    start: *mut f32,
    len: usize,
    owner: PhantomData<&'a mut [f32]>,
}

// SAFETY: the pointer is only written through `unsafe` functions whose callers promise disjoint elements.
unsafe impl Sync for SharedMut<'_> {}

impl<'a> SharedMut<'a> {
    /// Borrows the slice for as long as the tasks run.
    pub fn new(slice: &'a mut [f32]) -> Self {
        Self { start: slice.as_mut_ptr(), len: slice.len(), owner: PhantomData }
    }

    /// Pointer to the element at `offset`, `span` elements of which must lie inside the slice.
    pub fn at(&self, offset: usize, span: usize) -> *mut f32 {
        assert!(offset + span <= self.len, "{offset} + {span} is outside {} elements", self.len);
        // SAFETY: just checked to be inside the slice.
        unsafe { self.start.add(offset) }
    }
}
