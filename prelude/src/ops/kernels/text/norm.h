#line 2 "norm.h"
// RMS norm: y = w x r with r = 1 / sqrt(mean(x^2) + eps).

// A group per row.
KERNEL NAMED(rms_norm)(IN(REAL) x, IN(REAL) w, OUT(REAL) y, VALUE(u64) columns,
                       VALUE(f32) eps PLACE) {
    SHARED f32 shared[MOST_LANES];
    const u64 start = GROUP * columns;
    f32 sum = 0.0f;
    for (u64 j = LANE; j < columns; j += LANES) {
        const f32 own = READ(x, start + j);
        sum += own * own;
    }
    sum = group_sum(shared, sum, LANE, LANES);
    const f32 r = 1.0f / SQRT(sum / (f32)columns + eps);
    for (u64 j = LANE; j < columns; j += LANES)
        WRITE(y, start + j, READ(x, start + j) * r * READ(w, j));
}

// dx = r dy w - x r^3 mean(dy w x); keeps r for the gradient of w. A group per row.
KERNEL NAMED(rms_norm_input)(IN(REAL) x, IN(REAL) w, IN(REAL) dy, OUT(REAL) dx, OUT(f32) inverse,
                             VALUE(u64) columns, VALUE(f32) eps PLACE) {
    SHARED f32 shared[MOST_LANES];
    const u64 start = GROUP * columns;
    f32 sum = 0.0f, pull = 0.0f;
    for (u64 j = LANE; j < columns; j += LANES) {
        const f32 own = READ(x, start + j);
        sum += own * own;
        pull += own * READ(dy, start + j) * READ(w, j);
    }
    sum = group_sum(shared, sum, LANE, LANES);
    pull = group_sum(shared, pull, LANE, LANES);
    const f32 r = 1.0f / SQRT(sum / (f32)columns + eps);
    pull = r * r * r * (pull / (f32)columns);
    for (u64 j = LANE; j < columns; j += LANES) {
        const f32 up = r * READ(dy, start + j) * READ(w, j);
        WRITE(dx, start + j, up - READ(x, start + j) * pull);
    }
    if (LANE == 0u) inverse[GROUP] = r;
}

// parts[b, j] = sum of dy x r over the rows of block b: LANES columns of `height` rows per group.
KERNEL NAMED(rms_norm_weight)(IN(REAL) x, IN(REAL) dy, IN(f32) inverse, OUT(f32) parts,
                              VALUE(u64) rows, VALUE(u64) columns, VALUE(u64) height PLACE) {
    const u64 across = (columns + LANES - 1u) / LANES;
    const u64 block = GROUP / across;
    const u64 column = GROUP % across * LANES + LANE;
    if (column >= columns) return;
    const u64 bottom = less(rows, (block + 1u) * height);
    f32 sum = 0.0f;
    for (u64 row = block * height; row < bottom; row++)
        sum += READ(dy, row * columns + column) * READ(x, row * columns + column) * inverse[row];
    parts[block * columns + column] = sum;
}
