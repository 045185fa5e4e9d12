#line 2 "language.h"
// The words of this text in each of its three languages: OpenCL C, Metal Shading Language and
// CUDA C++. A kernel is written
//
//     KERNEL NAMED(name)(IN(f32) x, OUT(f32) y, VALUE(u64) n PLACE) { ... }
//
// and reads its place as GROUP (which work group), LANE (which work item of the group) and LANES
// (their number, a power of two up to MOST_LANES). Metal numbers the arguments in their order.

// Products and sums are not contracted (nvcc: -fmad=false), so that all three round alike and the
// largest of a row minus itself is zero.

#define MOST_LANES 256

#if defined(__OPENCL_VERSION__)

#pragma OPENCL FP_CONTRACT OFF
typedef ushort u16;
typedef uint u32;
typedef ulong u64;
typedef float f32;
#define KERNEL __kernel void
#define FUNCTION static inline
#define GLOBAL __global
#define IN(T) __global const T* restrict
#define OUT(T) __global T* restrict
#define VALUE(T) const T
#define SHARED __local
#define SHARED_POINTER(T) __local T*
#define PLACE
#define GROUP ((u64)get_group_id(0))
#define LANE ((u32)get_local_id(0))
#define LANES ((u32)get_local_size(0))
#define BARRIER() barrier(CLK_LOCAL_MEM_FENCE)
#define BITS_OF(x) as_uint(x)
#define OF_BITS(x) as_float(x)
#define EXP(x) exp(x)
#define LOG(x) log(x)
#define SQRT(x) sqrt(x)

#elif defined(__METAL_VERSION__)

#pragma METAL fp math_mode(safe)
#pragma METAL fp contract(off)
#include <metal_stdlib>
using namespace metal;
typedef ushort u16;
typedef uint u32;
typedef ulong u64;
typedef float f32;
#define KERNEL kernel void
#define FUNCTION static inline
#define GLOBAL device
#define IN(T) device const T*
#define OUT(T) device T*
#define VALUE(T) constant T&
#define SHARED threadgroup
#define SHARED_POINTER(T) threadgroup T*
#define PLACE                                                                                      \
    , uint metal_group [[threadgroup_position_in_grid]],                                           \
        uint metal_lane [[thread_position_in_threadgroup]],                                        \
        uint metal_lanes [[threads_per_threadgroup]]
#define GROUP ((u64)metal_group)
#define LANE ((u32)metal_lane)
#define LANES ((u32)metal_lanes)
#define BARRIER() threadgroup_barrier(mem_flags::mem_threadgroup)
#define BITS_OF(x) as_type<uint>(x)
#define OF_BITS(x) as_type<float>((uint)(x))
#define EXP(x) precise::exp(x)
#define LOG(x) precise::log(x)
#define SQRT(x) precise::sqrt(x)

#else

typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef float f32;
#define KERNEL extern "C" __global__ void
#define FUNCTION static __device__ __forceinline__
#define GLOBAL
#define IN(T) const T* __restrict__
#define OUT(T) T* __restrict__
#define VALUE(T) const T
#define SHARED __shared__
#define SHARED_POINTER(T) T*
#define PLACE
#define GROUP ((u64)blockIdx.x)
#define LANE ((u32)threadIdx.x)
#define LANES ((u32)blockDim.x)
#define BARRIER() __syncthreads()
#define BITS_OF(x) __float_as_uint(x)
#define OF_BITS(x) __uint_as_float(x)
#define EXP(x) expf(x)
#define LOG(x) logf(x)
#define SQRT(x) sqrtf(x)

#endif

#define MINUS_INFINITY OF_BITS(0xff800000u)

// bf16 is the upper half of an f32.
FUNCTION f32 of_bf16(u16 x) { return OF_BITS((u32)x << 16); }

// Rounds to nearest, ties to even. NaN stays NaN: rounding could carry it to infinity.
FUNCTION u16 to_bf16(f32 x) {
    const u32 bits = BITS_OF(x);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return (u16)((bits >> 16) | 0x40u);
    return (u16)((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

// f16 has 5 bits of exponent and 10 of fraction. The smallest have no leading one.
FUNCTION f32 of_f16(u16 x) {
    const u32 sign = (u32)(x & 0x8000u) << 16, exponent = (x >> 10) & 31u, fraction = x & 1023u;
    if (exponent == 0u) {
        const f32 size = (f32)fraction * OF_BITS(0x33800000u); // 2^-24
        return sign ? -size : size;
    }
    return OF_BITS(sign | (exponent == 31u ? 255u : exponent + 112u) << 23 | fraction << 13);
}

// The lanes of a group read and write four consecutive elements at a time where they can.
typedef struct {
    f32 at[4];
} Four;

FUNCTION Four four_zeros(void) {
    Four x;
    x.at[0] = x.at[1] = x.at[2] = x.at[3] = 0.0f;
    return x;
}

// The elements from `at` on, of which there are `count` (up to 4); zero for the others. If
// `aligned`, the address is a multiple of four elements.
FUNCTION Four four_f32(IN(f32) x, u64 at, u32 count, u32 aligned) {
    Four four = four_zeros();
    if (aligned && count == 4u) {
        const float4 v = *(GLOBAL const float4*)(x + at);
        four.at[0] = v.x;
        four.at[1] = v.y;
        four.at[2] = v.z;
        four.at[3] = v.w;
        return four;
    }
#pragma unroll
    for (u32 k = 0; k < 4u; k++) {
        if (k < count) four.at[k] = x[at + k];
    }
    return four;
}

// The same of bf16, or of f16 if `is_f16`.
FUNCTION f32 of_half(u16 x, u32 is_f16) { return is_f16 ? of_f16(x) : of_bf16(x); }

FUNCTION Four four_half(IN(u16) x, u32 is_f16, u64 at, u32 count, u32 aligned) {
    Four four = four_zeros();
    if (aligned && count == 4u) {
        const ushort4 v = *(GLOBAL const ushort4*)(x + at);
        four.at[0] = of_half(v.x, is_f16);
        four.at[1] = of_half(v.y, is_f16);
        four.at[2] = of_half(v.z, is_f16);
        four.at[3] = of_half(v.w, is_f16);
        return four;
    }
#pragma unroll
    for (u32 k = 0; k < 4u; k++) {
        if (k < count) four.at[k] = of_half(x[at + k], is_f16);
    }
    return four;
}

FUNCTION void write_four_f32(OUT(f32) x, u64 at, Four four, u32 count, u32 aligned) {
    if (aligned && count == 4u) {
        float4 v;
        v.x = four.at[0];
        v.y = four.at[1];
        v.z = four.at[2];
        v.w = four.at[3];
        *(GLOBAL float4*)(x + at) = v;
        return;
    }
#pragma unroll
    for (u32 k = 0; k < 4u; k++) {
        if (k < count) x[at + k] = four.at[k];
    }
}

FUNCTION void write_four_bf16(OUT(u16) x, u64 at, Four four, u32 count, u32 aligned) {
    if (aligned && count == 4u) {
        ushort4 v;
        v.x = to_bf16(four.at[0]);
        v.y = to_bf16(four.at[1]);
        v.z = to_bf16(four.at[2]);
        v.w = to_bf16(four.at[3]);
        *(GLOBAL ushort4*)(x + at) = v;
        return;
    }
#pragma unroll
    for (u32 k = 0; k < 4u; k++) {
        if (k < count) x[at + k] = to_bf16(four.at[k]);
    }
}

FUNCTION u64 less(u64 a, u64 b) { return a < b ? a : b; }
