#line 2 "f32.h"
// The kernels that follow take f32.
#undef NAMED
#undef REAL
#undef READ
#undef READ_FOUR
#undef WRITE
#undef WRITE_FOUR
#define NAMED(name) name##_f32
#define REAL f32
#define READ(x, at) ((x)[at])
#define READ_FOUR(x, at, count, aligned) four_f32(x, at, count, aligned)
#define WRITE(x, at, value) ((x)[at] = (value))
#define WRITE_FOUR(x, at, four, count, aligned) write_four_f32(x, at, four, count, aligned)
