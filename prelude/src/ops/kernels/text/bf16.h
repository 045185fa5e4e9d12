#line 2 "bf16.h"
// The kernels that follow take bf16, and compute in f32.
#undef NAMED
#undef REAL
#undef READ
#undef READ_FOUR
#undef WRITE
#undef WRITE_FOUR
#define NAMED(name) name##_bf16
#define REAL u16
#define READ(x, at) of_bf16((x)[at])
#define READ_FOUR(x, at, count, aligned) four_half(x, 0u, at, count, aligned)
#define WRITE(x, at, value) ((x)[at] = to_bf16(value))
#define WRITE_FOUR(x, at, four, count, aligned) write_four_bf16(x, at, four, count, aligned)
