// Sixteen float32 values at a time, on every processor that we compile for: one AVX-512 register or two of AVX2.
//
// Each operation gives the same bits on both, so a sum has one order wherever it is computed.
#pragma once
#include <immintrin.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

namespace dalle {

constexpr int LANES = 16;
using bf16 = uint16_t;  // the upper half of a float32
struct f16 {            // IEEE 754's binary16
    uint16_t bits;
};

// What is multiplied in bfloat16 where the library is built for such processors: inputs of linear layers, and the cache.
// Elsewhere it stays float32.
#if defined(__AVX512BF16__)
using Narrow = bf16;
#else
using Narrow = float;
#endif

#if defined(__AVX512F__)

struct V {
    __m512 v;
};
inline V zero() { return {_mm512_setzero_ps()}; }
inline V splat(float x) { return {_mm512_set1_ps(x)}; }
inline V load(const float* p) { return {_mm512_loadu_ps(p)}; }
inline V load(const bf16* p) {
    __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
    return {_mm512_castsi512_ps(_mm512_slli_epi32(wide, 16))};
}
inline V load(const f16* p) {
    return {_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))};
}
inline V load(const int8_t* p) {
    __m512i wide = _mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
    return {_mm512_cvtepi32_ps(wide)};
}
inline void store(float* p, V a) { _mm512_storeu_ps(p, a.v); }
inline V fma(V a, V b, V c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
inline V operator+(V a, V b) { return {_mm512_add_ps(a.v, b.v)}; }
inline V operator-(V a, V b) { return {_mm512_sub_ps(a.v, b.v)}; }
inline V operator*(V a, V b) { return {_mm512_mul_ps(a.v, b.v)}; }
inline V operator/(V a, V b) { return {_mm512_div_ps(a.v, b.v)}; }
// If one of the two is NaN, the second is given.
inline V max(V a, V b) { return {_mm512_max_ps(a.v, b.v)}; }
inline V min(V a, V b) { return {_mm512_min_ps(a.v, b.v)}; }
inline V nearest(V a) { return {_mm512_roundscale_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)}; }
// 2^n for whole n from -126 to 127.
inline V power_of_two(V n) {
    __m512i whole = _mm512_add_epi32(_mm512_cvtps_epi32(n.v), _mm512_set1_epi32(127));
    return {_mm512_castsi512_ps(_mm512_slli_epi32(whole, 23))};
}
// 0 where x < least, else a; NaN is not less.
inline V unless_below(V x, V least, V a) {
    return {_mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x.v, least.v, _CMP_NLT_UQ), a.v)};
}
// Bit i says whether lane i of a is at least b's.
inline uint32_t at_least(V a, V b) { return _mm512_cmp_ps_mask(a.v, b.v, _CMP_GE_OQ); }
inline __m256 lower(V a) { return _mm512_castps512_ps256(a.v); }
inline __m256 upper(V a) {
    return _mm256_castpd_ps(_mm512_extractf64x4_pd(_mm512_castps_pd(a.v), 1));
}
#if defined(__AVX512BF16__)
// Rounded to the nearest, ties to even; denormal numbers to 0.
inline __m256i narrowed(V a) { return (__m256i)_mm512_cvtneps_pbh(a.v); }
inline void store(bf16* p, V a) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), narrowed(a)); }

// Sixteen pairs of bfloat16 numbers.
struct Pairs {
    __m512i v;
};
inline Pairs pairs(const bf16* p) { return {_mm512_loadu_si512(p)}; }
// Of the numbers that are left, 16 or more; zeros after them.
inline Pairs pairs(const bf16* p, int left) {
    if (left >= 2 * LANES) return pairs(p);
    return {_mm512_zextsi256_si512(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))};
}
inline Pairs splat(uint32_t pair) { return {_mm512_set1_epi32(int(pair))}; }
// c + the products of both numbers of each pair.
inline V fma(Pairs a, Pairs b, V c) { return {_mm512_dpbf16_ps(c.v, (__m512bh)a.v, (__m512bh)b.v)}; }
#endif

#else

struct V {
    __m256 a, b;
};
inline V zero() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
inline V splat(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
inline V load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
inline __m256 widen(const bf16* p) {
    __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
    return _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16));
}
inline V load(const bf16* p) { return {widen(p), widen(p + 8)}; }
inline V load(const f16* p) {
    auto eight = reinterpret_cast<const __m128i*>(p);
    return {_mm256_cvtph_ps(_mm_loadu_si128(eight)), _mm256_cvtph_ps(_mm_loadu_si128(eight + 1))};
}
inline __m256 widen(const int8_t* p) {
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
}
inline V load(const int8_t* p) { return {widen(p), widen(p + 8)}; }
inline void store(float* p, V x) {
    _mm256_storeu_ps(p, x.a);
    _mm256_storeu_ps(p + 8, x.b);
}
inline V fma(V x, V y, V z) { return {_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)}; }
inline V operator+(V x, V y) { return {_mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b)}; }
inline V operator-(V x, V y) { return {_mm256_sub_ps(x.a, y.a), _mm256_sub_ps(x.b, y.b)}; }
inline V operator*(V x, V y) { return {_mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b)}; }
inline V operator/(V x, V y) { return {_mm256_div_ps(x.a, y.a), _mm256_div_ps(x.b, y.b)}; }
inline V max(V x, V y) { return {_mm256_max_ps(x.a, y.a), _mm256_max_ps(x.b, y.b)}; }
inline V min(V x, V y) { return {_mm256_min_ps(x.a, y.a), _mm256_min_ps(x.b, y.b)}; }
inline V nearest(V x) {
    constexpr int how = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
    return {_mm256_round_ps(x.a, how), _mm256_round_ps(x.b, how)};
}
inline __m256 power_of_two(__m256 n) {
    __m256i whole = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
    return _mm256_castsi256_ps(_mm256_slli_epi32(whole, 23));
}
inline V power_of_two(V n) { return {power_of_two(n.a), power_of_two(n.b)}; }
inline V unless_below(V x, V least, V y) {
    return {_mm256_and_ps(_mm256_cmp_ps(x.a, least.a, _CMP_NLT_UQ), y.a),
            _mm256_and_ps(_mm256_cmp_ps(x.b, least.b, _CMP_NLT_UQ), y.b)};
}
inline uint32_t at_least(V x, V y) {
    uint32_t low = _mm256_movemask_ps(_mm256_cmp_ps(x.a, y.a, _CMP_GE_OQ));
    uint32_t high = _mm256_movemask_ps(_mm256_cmp_ps(x.b, y.b, _CMP_GE_OQ));
    return low | high << 8;
}
inline __m256 lower(V x) { return x.a; }
inline __m256 upper(V x) { return x.b; }

#endif

// The sum of all lanes: the halves, their halves, and so on.
inline float sum(V a) {
    __m256 eight = _mm256_add_ps(lower(a), upper(a));
    __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps(two, two, 1)));
}

// The sums of four vectors' lanes.
inline __m128 sums(V a, V b, V c, V d) {
    __m256 ab = _mm256_hadd_ps(_mm256_add_ps(lower(a), upper(a)), _mm256_add_ps(lower(b), upper(b)));
    __m256 cd = _mm256_hadd_ps(_mm256_add_ps(lower(c), upper(c)), _mm256_add_ps(lower(d), upper(d)));
    __m256 all = _mm256_hadd_ps(ab, cd);
    return _mm_add_ps(_mm256_castps256_ps128(all), _mm256_extractf128_ps(all, 1));
}

inline float largest(V a) {
    __m256 eight = _mm256_max_ps(lower(a), upper(a));
    __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(two, _mm_shuffle_ps(two, two, 1)));
}

// e^x for x up to 88, within 2 units of the last place; 0 below -87. The polynomial of Cephes' expf (Moshier).
inline V exp(V x) {
    const V lowest = splat(-87.0f);
    V clamped = max(lowest, x);
    V n = nearest(clamped * splat(1.44269504088896341f));
    V r = fma(n, splat(-0.693359375f), clamped);
    r = fma(n, splat(2.12194440e-4f), r);
    V p = splat(1.9875691500e-4f);
    p = fma(p, r, splat(1.3981999507e-3f));
    p = fma(p, r, splat(8.3334519073e-3f));
    p = fma(p, r, splat(4.1665795894e-2f));
    p = fma(p, r, splat(1.6666665459e-1f));
    p = fma(p, r, splat(5.0000001201e-1f));
    p = fma(p, r * r, r + splat(1.0f));
    return unless_below(x, lowest, p * power_of_two(n));
}

// The error function, within 3e-7: the rational approximation of Eigen's generic_fast_erf_float.
inline V erf(V x) {
    x = max(splat(-4.0f), min(splat(4.0f), x));
    const V y = x * x;
    V p = splat(-2.72614225801306e-10f);
    p = fma(p, y, splat(2.77068142495902e-08f));
    p = fma(p, y, splat(-2.10102402082508e-06f));
    p = fma(p, y, splat(-5.69250639462346e-05f));
    p = fma(p, y, splat(-7.34990630326855e-04f));
    p = fma(p, y, splat(-2.95459980854025e-03f));
    p = fma(p, y, splat(-1.60960333262415e-02f));
    V q = splat(-1.45660718464996e-05f);
    q = fma(q, y, splat(-2.13374055278905e-04f));
    q = fma(q, y, splat(-1.68282697438203e-03f));
    q = fma(q, y, splat(-7.37332916720468e-03f));
    q = fma(q, y, splat(-1.42647390514189e-02f));
    return x * p / q;
}

// One number of a cache.
inline float number(float x) { return x; }
inline float number(bf16 x) {
    const uint32_t bits = uint32_t(x) << 16;
    float wide;
    std::memcpy(&wide, &bits, sizeof(wide));
    return wide;
}
inline void set(float& to, float x) { to = x; }
inline void set(bf16& to, float x) {  // to the nearest, halves to even
    uint32_t bits;
    std::memcpy(&bits, &x, sizeof(bits));
    to = x == x ? bf16((bits + 0x7FFF + (bits >> 16 & 1)) >> 16) : bf16(0x7FC0);
}

// Room for so many floats, at the start of a cache line: loads that cross two lines take twice as long.
inline float* aligned(std::vector<float>& memory, size_t floats) {
    if (memory.size() < floats + LANES) memory.resize(floats + LANES);
    auto at = reinterpret_cast<uintptr_t>(memory.data());
    return reinterpret_cast<float*>((at + 63) / 64 * 64);
}

}  // namespace dalle
