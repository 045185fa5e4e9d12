#line 2 "group.h"
// What the lanes of a group compute together. Pairs of lanes are joined in a fixed order, so
// results are the same in every run.

FUNCTION f32 group_sum(SHARED_POINTER(f32) shared, f32 own, u32 lane, u32 lanes) {
    shared[lane] = own;
    BARRIER();
    for (u32 reach = lanes / 2u; reach > 0u; reach /= 2u) {
        if (lane < reach) shared[lane] += shared[lane + reach];
        BARRIER();
    }
    const f32 sum = shared[0];
    // The next sum overwrites it.
    BARRIER();
    return sum;
}

// The maximum of a row, and the sum of exp(x - maximum).
typedef struct {
    f32 top;
    f32 sum;
} Peak;

FUNCTION Peak no_peak(void) {
    Peak peak;
    peak.top = MINUS_INFINITY;
    peak.sum = 0.0f;
    return peak;
}

// Minus infinity adds nothing; NaN makes the sum NaN.
FUNCTION Peak peak_with(Peak peak, f32 x) {
    if (x > peak.top) {
        peak.sum = peak.sum * EXP(peak.top - x) + 1.0f;
        peak.top = x;
    } else if (x != MINUS_INFINITY) {
        peak.sum += EXP(x - peak.top);
    }
    return peak;
}

FUNCTION f32 peak_share(f32 top, f32 sum, f32 of) {
    return top == of ? sum : sum * EXP(top - of);
}

FUNCTION Peak group_peak(SHARED_POINTER(f32) tops, SHARED_POINTER(f32) sums, Peak own, u32 lane,
                         u32 lanes) {
    tops[lane] = own.top;
    sums[lane] = own.sum;
    BARRIER();
    for (u32 reach = lanes / 2u; reach > 0u; reach /= 2u) {
        if (lane < reach) {
            const f32 a = tops[lane], b = tops[lane + reach];
            const f32 top = a > b ? a : b;
            sums[lane] = peak_share(a, sums[lane], top) + peak_share(b, sums[lane + reach], top);
            tops[lane] = top;
        }
        BARRIER();
    }
    Peak peak;
    peak.top = tops[0];
    peak.sum = sums[0];
    BARRIER();
    return peak;
}

// sums[row] = sum of the row of x (rows x columns). A group per row.
KERNEL sum_rows(IN(f32) x, OUT(f32) sums, VALUE(u64) columns, VALUE(u64) first PLACE) {
    SHARED f32 shared[MOST_LANES];
    const u64 row = GROUP;
    f32 sum = 0.0f;
    for (u64 j = LANE; j < columns; j += LANES) sum += x[row * columns + j];
    sum = group_sum(shared, sum, LANE, LANES);
    if (LANE == 0u) sums[first + row] = sum;
}
