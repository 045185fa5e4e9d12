#line 2 "merge.h"
// The merge W[o, j] = sum_i s[i, o, j] W_i[o, j] of up to 8 sources and the gradient of its
// scales. Bit i of `dtypes` says that source i is f32, bit 8 + i that it is f16; else it is bf16.

#ifndef SOURCES
#define MOST_SOURCES 8u
#define SOURCES                                                                                    \
    IN(u16) w0, IN(u16) w1, IN(u16) w2, IN(u16) w3, IN(u16) w4, IN(u16) w5, IN(u16) w6, IN(u16) w7
#define SOURCES_BY_NUMBER(w)                                                                       \
    GLOBAL const u16* const w[MOST_SOURCES] = {w0, w1, w2, w3, w4, w5, w6, w7}

FUNCTION Four four_of_source(GLOBAL const u16* w, u32 dtypes, u64 at, u32 count, u32 aligned) {
    if (dtypes & 1u) return four_f32((GLOBAL const f32*)w, at, count, aligned);
    return four_half(w, dtypes & 256u, at, count, aligned);
}
#endif

// A group takes `height` rows of 4 LANES columns. The scale of source i at row o, column j is
// scales[first + i * per_source + o * per_row + j * per_column]. If `more`, adds to `before`.
KERNEL NAMED(merge)(OUT(REAL) merged, IN(f32) before, IN(f32) scales, SOURCES, VALUE(u32) count,
                    VALUE(u32) dtypes, VALUE(u32) more, VALUE(u64) rows, VALUE(u64) columns,
                    VALUE(u64) height, VALUE(u64) first, VALUE(u64) per_source,
                    VALUE(u64) per_row, VALUE(u64) per_column PLACE) {
    SOURCES_BY_NUMBER(w);
    const u64 across = (columns + 4u * LANES - 1u) / (4u * LANES);
    const u64 top = GROUP / across * height;
    const u64 bottom = less(rows, top + height);
    const u64 column = (GROUP % across) * (4u * LANES) + 4u * LANE;
    if (column >= columns) return;
    const u32 own = (u32)less(4u, columns - column);
    const u32 aligned = columns % 4u == 0u;
    Four s[MOST_SOURCES];
    for (u64 row = top; row < bottom; row++) {
        if (row == top || per_row != 0u) {
#pragma unroll
            for (u32 i = 0; i < MOST_SOURCES; i++) {
#pragma unroll
                for (u32 k = 0; k < 4u; k++) {
                    const u64 at =
                        first + i * per_source + row * per_row + (column + k) * per_column;
                    s[i].at[k] = i < count && k < own ? scales[at] : 0.0f;
                }
            }
        }
        const u64 at = row * columns + column;
        Four sum = four_zeros();
        if (more) sum = four_f32(before, at, own, aligned);
#pragma unroll
        for (u32 i = 0; i < MOST_SOURCES; i++) {
            if (i < count) {
                const Four x = four_of_source(w[i], dtypes >> i, at, own, aligned);
#pragma unroll
                for (u32 k = 0; k < 4u; k++) sum.at[k] += s[i].at[k] * x.at[k];
            }
        }
        WRITE_FOUR(merged, at, sum, own, aligned);
    }
}

// One scale per column: parts[b, i, j] = sum of dW[o, j] W_i[o, j] over the rows o of block b.
KERNEL NAMED(merge_by_column)(OUT(f32) parts, IN(REAL) gradient, SOURCES, VALUE(u32) count,
                              VALUE(u32) dtypes, VALUE(u64) rows, VALUE(u64) columns,
                              VALUE(u64) height PLACE) {
    SOURCES_BY_NUMBER(w);
    const u64 across = (columns + 4u * LANES - 1u) / (4u * LANES);
    const u64 block = GROUP / across;
    const u64 bottom = less(rows, (block + 1u) * height);
    const u64 column = (GROUP % across) * (4u * LANES) + 4u * LANE;
    if (column >= columns) return;
    const u32 own = (u32)less(4u, columns - column);
    const u32 aligned = columns % 4u == 0u;
    Four sums[MOST_SOURCES];
#pragma unroll
    for (u32 i = 0; i < MOST_SOURCES; i++) sums[i] = four_zeros();
    for (u64 row = block * height; row < bottom; row++) {
        const u64 at = row * columns + column;
        const Four g = READ_FOUR(gradient, at, own, aligned);
#pragma unroll
        for (u32 i = 0; i < MOST_SOURCES; i++) {
            if (i < count) {
                const Four x = four_of_source(w[i], dtypes >> i, at, own, aligned);
#pragma unroll
                for (u32 k = 0; k < 4u; k++) sums[i].at[k] += g.at[k] * x.at[k];
            }
        }
    }
#pragma unroll
    for (u32 i = 0; i < MOST_SOURCES; i++) {
        const u64 to = (block * count + i) * columns + column;
        if (i < count) write_four_f32(parts, to, sums[i], own, aligned);
    }
}

// One scale per row: sums[first + i * per_source + o] = sum of dW[o, j] W_i[o, j] over j. A group
// per row; the last may be shorter than the others, as all have `elements` together.
KERNEL NAMED(merge_by_row)(OUT(f32) sums, IN(REAL) gradient, SOURCES, VALUE(u32) count,
                           VALUE(u32) dtypes, VALUE(u64) elements, VALUE(u64) columns,
                           VALUE(u64) per_source, VALUE(u64) first PLACE) {
    SHARED f32 shared[MOST_SOURCES * MOST_LANES];
    SOURCES_BY_NUMBER(w);
    const u64 start = GROUP * columns, end = less(elements, start + columns);
    const u32 aligned = columns % 4u == 0u;
    f32 own[MOST_SOURCES];
#pragma unroll
    for (u32 i = 0; i < MOST_SOURCES; i++) own[i] = 0.0f;
    for (u64 at = start + 4u * LANE; at < end; at += 4u * LANES) {
        const u32 some = (u32)less(4u, end - at);
        const Four g = READ_FOUR(gradient, at, some, aligned);
#pragma unroll
        for (u32 i = 0; i < MOST_SOURCES; i++) {
            if (i < count) {
                const Four x = four_of_source(w[i], dtypes >> i, at, some, aligned);
#pragma unroll
                for (u32 k = 0; k < 4u; k++) own[i] += g.at[k] * x.at[k];
            }
        }
    }
    // The sums of all sources are joined at once.
#pragma unroll
    for (u32 i = 0; i < MOST_SOURCES; i++) {
        if (i < count) shared[i * MOST_LANES + LANE] = own[i];
    }
    BARRIER();
    for (u32 reach = LANES / 2u; reach > 0u; reach /= 2u) {
        for (u32 i = 0; LANE < reach && i < count; i++)
            shared[i * MOST_LANES + LANE] += shared[i * MOST_LANES + LANE + reach];
        BARRIER();
    }
    for (u32 i = LANE; i < count; i += LANES)
        sums[first + i * per_source + GROUP] = shared[i * MOST_LANES];
}

// One scale per element: products[first + i * elements + e] = dW[e] W_i[e].
KERNEL NAMED(merge_by_element)(OUT(f32) products, IN(REAL) gradient, SOURCES, VALUE(u32) count,
                               VALUE(u32) dtypes, VALUE(u64) elements, VALUE(u64) first PLACE) {
    SOURCES_BY_NUMBER(w);
    const u64 at = (GROUP * LANES + LANE) * 4u;
    if (at >= elements) return;
    const u32 own = (u32)less(4u, elements - at);
    const Four g = READ_FOUR(gradient, at, own, 1u);
#pragma unroll
    for (u32 i = 0; i < MOST_SOURCES; i++) {
        if (i < count) {
            Four x = four_of_source(w[i], dtypes >> i, at, own, 1u);
            const u64 to = first + i * elements + at;
#pragma unroll
            for (u32 k = 0; k < 4u; k++) x.at[k] *= g.at[k];
            write_four_f32(products, to, x, own, to % 4u == 0u);
        }
    }
}

// sums[first + j] = sum over the rows of parts[., j], in order.
KERNEL NAMED(sum_columns)(OUT(REAL) sums, IN(f32) parts, VALUE(u64) rows, VALUE(u64) columns,
                          VALUE(u64) first PLACE) {
    const u64 column = GROUP * LANES + LANE;
    if (column >= columns) return;
    f32 sum = 0.0f;
    for (u64 row = 0; row < rows; row++) sum += parts[row * columns + column];
    WRITE(sums, first + column, sum);
}
