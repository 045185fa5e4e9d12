#line 2 "loss.h"
// Losses of rows of logits, and their gradients if `wanted`, at a temperature: a group per row.

#ifndef PEAK_OF_ROW
// The peak of factor * x over columns start..end of a row.
#define PEAK_OF_ROW(peak, x, start, end, factor, tops, sums)                                       \
    do {                                                                                           \
        Peak own = no_peak();                                                                      \
        for (u64 j = (start) + LANE; j < (end); j += LANES)                                        \
            own = peak_with(own, READ(x, j) * (factor));                                           \
        peak = group_peak(tops, sums, own, LANE, LANES);                                           \
    } while (0)
#endif

// sum p_t (log p_t - log p_z); gradient (p_z - p_t) / T.
KERNEL NAMED(kl_divergence)(IN(REAL) z, IN(REAL) t, OUT(f32) losses, OUT(REAL) gradient,
                            VALUE(u64) columns, VALUE(f32) factor, VALUE(u32) wanted PLACE) {
    SHARED f32 tops[MOST_LANES];
    SHARED f32 sums[MOST_LANES];
    const u64 start = GROUP * columns, end = start + columns;
    Peak student, teacher;
    PEAK_OF_ROW(student, z, start, end, factor, tops, sums);
    PEAK_OF_ROW(teacher, t, start, end, factor, tops, sums);
    const f32 log_student = LOG(student.sum), log_teacher = LOG(teacher.sum);
    f32 loss = 0.0f;
    for (u64 j = start + LANE; j < end; j += LANES) {
        const f32 log_q = READ(z, j) * factor - student.top - log_student;
        const f32 log_p = READ(t, j) * factor - teacher.top - log_teacher;
        const f32 p = EXP(log_p);
        loss += p * (log_p - log_q);
        if (wanted) WRITE(gradient, j, (EXP(log_q) - p) * factor);
    }
    loss = group_sum(sums, loss, LANE, LANES);
    if (LANE == 0u) losses[GROUP] = loss;
}

// H = -sum p log p; gradient -p (log p + H) / T.
KERNEL NAMED(entropy)(IN(REAL) z, OUT(f32) losses, OUT(REAL) gradient, VALUE(u64) columns,
                      VALUE(f32) factor, VALUE(u32) wanted PLACE) {
    SHARED f32 tops[MOST_LANES];
    SHARED f32 sums[MOST_LANES];
    const u64 start = GROUP * columns, end = start + columns;
    Peak peak;
    PEAK_OF_ROW(peak, z, start, end, factor, tops, sums);
    const f32 log_sum = LOG(peak.sum);
    f32 loss = 0.0f;
    for (u64 j = start + LANE; j < end; j += LANES) {
        const f32 log_p = READ(z, j) * factor - peak.top - log_sum;
        loss -= EXP(log_p) * log_p;
    }
    loss = group_sum(sums, loss, LANE, LANES);
    if (wanted) {
        for (u64 j = start + LANE; j < end; j += LANES) {
            const f32 log_p = READ(z, j) * factor - peak.top - log_sum;
            WRITE(gradient, j, -EXP(log_p) * (log_p + loss) * factor);
        }
    }
    if (LANE == 0u) losses[GROUP] = loss;
}

// -log p[target]; gradient p - onehot(target).
KERNEL NAMED(cross_entropy)(IN(REAL) z, IN(u32) targets, OUT(f32) losses, OUT(REAL) gradient,
                            VALUE(u64) columns, VALUE(u32) wanted PLACE) {
    SHARED f32 tops[MOST_LANES];
    SHARED f32 sums[MOST_LANES];
    const u64 start = GROUP * columns, end = start + columns, target = start + targets[GROUP];
    Peak peak;
    PEAK_OF_ROW(peak, z, start, end, 1.0f, tops, sums);
    const f32 log_sum = LOG(peak.sum);
    if (wanted) {
        for (u64 j = start + LANE; j < end; j += LANES) {
            const f32 p = EXP(READ(z, j) - peak.top - log_sum);
            WRITE(gradient, j, j == target ? p - 1.0f : p);
        }
    }
    if (LANE == 0u) losses[GROUP] = log_sum - (READ(z, target) - peak.top);
}
