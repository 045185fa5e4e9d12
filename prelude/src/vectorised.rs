//! Layer 0: loops compiled for the vector instructions of the machine they run on.

/// Calls `f` in a copy that is compiled for the widest vector instructions of this machine. `f` has
/// to be written `#[inline(always)] || ...`, and what it calls in its loops has to be inlined too:
/// a call that remains runs code for every machine.
///
/// pulp's own way to take closures calls them by value, through a function that compilers do not
/// inline.
#[inline(always)]
pub(crate) fn vectorised<R>(f: impl FnMut() -> R) -> R {
    struct Called<F>(F);

    impl<R, F: FnMut() -> R> pulp::WithSimd for Called<F> {
        type Output = R;

        #[inline(always)]
        fn with_simd<S: pulp::Simd>(mut self, _: S) -> R {
            (self.0)()
        }
    }

    pulp::Arch::new().dispatch(Called(f))
}
