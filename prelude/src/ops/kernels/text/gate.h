#line 2 "gate.h"
// The gate of an MLP: y = f(g) u with f(g) = g s.
//   silu (kind 0): s = sigmoid(g)
//   gelu (kind 1): s = sigmoid(2 a), a = sqrt(2 / pi) (g + 0.044715 g^3)

#ifndef ELEMENTS_PER_LANE
#define ELEMENTS_PER_LANE 4u
#define GELU_SCALE 1.5957691216057308f
#define GELU_CUBIC 0.044715f

FUNCTION f32 sigmoid(f32 x) { return 1.0f / (1.0f + EXP(-x)); }

FUNCTION f32 gate_share(f32 g, u32 kind) {
    return sigmoid(kind == 0u ? g : GELU_SCALE * (g + GELU_CUBIC * g * g * g));
}

// f'(g) for s = gate_share(g).
FUNCTION f32 gate_slope(f32 g, f32 s, u32 kind) {
    const f32 inner = kind == 0u ? 1.0f : GELU_SCALE * (1.0f + 3.0f * GELU_CUBIC * g * g);
    // Where s is 0 or 1 the slope is s, and `inner` may be infinite.
    const f32 bend = s * (1.0f - s);
    return bend == 0.0f ? s : s + g * bend * inner;
}
#endif

KERNEL NAMED(gate)(IN(REAL) g, IN(REAL) u, OUT(REAL) y, VALUE(u64) elements, VALUE(u32) kind PLACE) {
    for (u32 k = 0; k < ELEMENTS_PER_LANE; k++) {
        const u64 at = (GROUP * ELEMENTS_PER_LANE + k) * LANES + LANE;
        if (at < elements) {
            const f32 own = READ(g, at);
            WRITE(y, at, own * gate_share(own, kind) * READ(u, at));
        }
    }
}

// dg = dy u f'(g), du = dy f(g).
KERNEL NAMED(gate_backward)(IN(REAL) g, IN(REAL) u, IN(REAL) dy, OUT(REAL) dg, OUT(REAL) du,
                            VALUE(u64) elements, VALUE(u32) kind PLACE) {
    for (u32 k = 0; k < ELEMENTS_PER_LANE; k++) {
        const u64 at = (GROUP * ELEMENTS_PER_LANE + k) * LANES + LANE;
        if (at < elements) {
            const f32 own = READ(g, at), s = gate_share(own, kind), up = READ(dy, at);
            WRITE(dg, at, up * READ(u, at) * gate_slope(own, s, kind));
            WRITE(du, at, up * own * s);
        }
    }
}

// x *= factor[0]
KERNEL NAMED(scale)(OUT(REAL) x, IN(f32) factor, VALUE(u64) elements PLACE) {
    const f32 by = factor[0];
    for (u32 k = 0; k < ELEMENTS_PER_LANE; k++) {
        const u64 at = (GROUP * ELEMENTS_PER_LANE + k) * LANES + LANE;
        if (at < elements) WRITE(x, at, READ(x, at) * by);
    }
}
