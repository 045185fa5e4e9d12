#line 2 "softmax.h"
// Causal softmax: p[i, j] = softmax_j(scale s[i, j]) over the keys j visible to row i, 0 elsewhere.
// Row i is the query at position start + i % queries, which sees the last `window` keys up to its
// own. A group per row.

#ifndef VISIBLE
#define VISIBLE(first, end, keys, queries, start, window)                                          \
    const u64 position = (start) + GROUP % (queries);                                              \
    const u64 first = position < (window) ? 0u : position - (window) + 1u;                         \
    const u64 end = less(position + 1u, keys)
#endif

KERNEL NAMED(causal_softmax)(IN(REAL) s, OUT(REAL) p, VALUE(u64) keys, VALUE(u64) queries,
                             VALUE(u64) start, VALUE(u64) window, VALUE(f32) scale PLACE) {
    SHARED f32 tops[MOST_LANES];
    SHARED f32 sums[MOST_LANES];
    VISIBLE(first, end, keys, queries, start, window);
    const u64 row = GROUP * keys;
    Peak peak;
    PEAK_OF_ROW(peak, s, row + first, row + end, scale, tops, sums);
    const f32 share = 1.0f / peak.sum;
    for (u64 j = LANE; j < keys; j += LANES) {
        f32 own = 0.0f;
        if (j >= first && j < end) own = EXP(READ(s, row + j) * scale - peak.top) * share;
        WRITE(p, row + j, own);
    }
}

// ds = scale p (dp - sum_j p dp), with p computed again from s.
KERNEL NAMED(causal_softmax_backward)(IN(REAL) s, IN(REAL) dp, OUT(REAL) ds, VALUE(u64) keys,
                                      VALUE(u64) queries, VALUE(u64) start, VALUE(u64) window,
                                      VALUE(f32) scale PLACE) {
    SHARED f32 tops[MOST_LANES];
    SHARED f32 sums[MOST_LANES];
    VISIBLE(first, end, keys, queries, start, window);
    const u64 row = GROUP * keys;
    Peak peak;
    PEAK_OF_ROW(peak, s, row + first, row + end, scale, tops, sums);
    const f32 share = 1.0f / peak.sum;
    f32 mean = 0.0f;
    for (u64 j = first + LANE; j < end; j += LANES)
        mean += EXP(READ(s, row + j) * scale - peak.top) * share * READ(dp, row + j);
    mean = group_sum(sums, mean, LANE, LANES);
    for (u64 j = LANE; j < keys; j += LANES) {
        f32 own = 0.0f;
        if (j >= first && j < end) {
            const f32 p = EXP(READ(s, row + j) * scale - peak.top) * share;
            own = scale * p * (READ(dp, row + j) - mean);
        }
        WRITE(ds, row + j, own);
    }
}
