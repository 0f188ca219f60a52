// Attention of one new position to the positions before it and to itself. Keys and values are read once.
//
// They are float32 numbers, or bfloat16 where the processor multiplies these. Then queries and shares are rounded to
// bfloat16, too. Scores, the softmax and all sums are float32.
#pragma once
#include <algorithm>

#include "lanes.hpp"
#include "softmax.hpp"

namespace dalle {

constexpr int MOST_QUERIES = 6;  // that share one reading
constexpr int MOST_WIDTH = 512;  // of a head

constexpr int AHEAD = 32;  // positions that are fetched before they are read

template <class T>
void prefetch(const T* numbers, int count) {
    for (int i = 0; i < count; i += int(64 / sizeof(T))) __builtin_prefetch(numbers + i);
}

// Two bfloat16 numbers, and one, in memory that also holds floats.
using Twice = uint32_t __attribute__((may_alias));
using Half = bf16 __attribute__((may_alias));

// scores[g * stride + p] of G queries: query times key.
template <int G>
void compare(const float* q, const float* keys, int positions, int width, float* scores, int stride) {
    for (int p = 0; p < positions; p += 4) {
        const float* key[4];  // behind the last position the last one again
        for (int i = 0; i < 4; ++i) key[i] = keys + size_t(std::min(p + i, positions - 1)) * width;
        for (int i = 0; i < 4; ++i) prefetch(key[i] + AHEAD * width, width);
        V a[G][4];
        for (int g = 0; g < G; ++g)
            for (int i = 0; i < 4; ++i) a[g][i] = zero();
        for (int c = 0; c < width; c += LANES) {
            V part[4];
#pragma GCC unroll 4
            for (int i = 0; i < 4; ++i) part[i] = load(key[i] + c);
#pragma GCC unroll 6
            for (int g = 0; g < G; ++g) {
                V query = load(q + g * width + c);
#pragma GCC unroll 4
                for (int i = 0; i < 4; ++i) a[g][i] = fma(query, part[i], a[g][i]);
            }
        }
#pragma GCC unroll 6
        for (int g = 0; g < G; ++g) _mm_storeu_ps(scores + g * stride + p, sums(a[g][0], a[g][1], a[g][2], a[g][3]));
    }
}

// out[c .. c + 16 B) of G queries: the sum over positions, first to last, of share times value.
template <int G, int B>
void mix_columns(const float* shares, int stride, const float* values, int positions, int width, float* out) {
    V a[G][B];
    for (int g = 0; g < G; ++g)
        for (int b = 0; b < B; ++b) a[g][b] = zero();
    for (int p = 0; p < positions; ++p, values += width) {
        prefetch(values + AHEAD * width, B * LANES);
        V value[B];
#pragma GCC unroll 4
        for (int b = 0; b < B; ++b) value[b] = load(values + b * LANES);
#pragma GCC unroll 6
        for (int g = 0; g < G; ++g) {
            V share = splat(shares[g * stride + p]);
#pragma GCC unroll 4
            for (int b = 0; b < B; ++b) a[g][b] = fma(share, value[b], a[g][b]);
        }
    }
    for (int g = 0; g < G; ++g)
        for (int b = 0; b < B; ++b) store(out + g * width + b * LANES, a[g][b]);
}

template <int G>
void mix(float* shares, int stride, const float* values, int positions, int width, float* out) {
    int column = 0;
    for (; column + 4 * LANES <= width; column += 4 * LANES)
        mix_columns<G, 4>(shares, stride, values + column, positions, width, out + column);
    for (; column < width; column += LANES)
        mix_columns<G, 1>(shares, stride, values + column, positions, width, out + column);
}

#if defined(__AVX512BF16__)

template <int G>
void compare(const float* q, const bf16* keys, int positions, int width, float* scores, int stride) {
    bf16 rounded[G * MOST_WIDTH];
    for (int i = 0; i < G * width; i += LANES) store(rounded + i, load(q + i));
    for (int p = 0; p < positions; p += 4) {
        const bf16* key[4];  // behind the last position the last one again
        for (int i = 0; i < 4; ++i) key[i] = keys + size_t(std::min(p + i, positions - 1)) * width;
        for (int i = 0; i < 4; ++i) prefetch(key[i] + AHEAD * width, width);
        V a[G][4];
        for (int g = 0; g < G; ++g)
            for (int i = 0; i < 4; ++i) a[g][i] = zero();
        for (int c = 0; c < width; c += 2 * LANES) {
            Pairs part[4];
#pragma GCC unroll 4
            for (int i = 0; i < 4; ++i) part[i] = pairs(key[i] + c, width - c);
#pragma GCC unroll 6
            for (int g = 0; g < G; ++g) {
                Pairs query = pairs(rounded + g * width + c, width - c);
#pragma GCC unroll 4
                for (int i = 0; i < 4; ++i) a[g][i] = fma(query, part[i], a[g][i]);
            }
        }
#pragma GCC unroll 6
        for (int g = 0; g < G; ++g) _mm_storeu_ps(scores + g * stride + p, sums(a[g][0], a[g][1], a[g][2], a[g][3]));
    }
}

// Columns 0 .. 32 B of G queries; 0 .. 16 if `columns` is 16. Two positions at a time: their values are put side by side.
template <int G, int B>
void mix_columns(const float* shares, int stride, const bf16* values, int positions, int width, int columns, float* out) {
    V low[G][B], high[G][B];
    for (int g = 0; g < G; ++g)
        for (int b = 0; b < B; ++b) low[g][b] = high[g][b] = zero();
    for (int p = 0; p < positions; p += 2, values += 2 * width) {
        const bf16* second = p + 1 < positions ? values + width : values;  // else its share is 0
        prefetch(values + AHEAD * width, B * 2 * LANES);
        prefetch(second + AHEAD * width, B * 2 * LANES);
        Pairs lower[B], upper[B];
#pragma GCC unroll 2
        for (int b = 0; b < B; ++b) {
            Pairs one = pairs(values + b * 2 * LANES, columns), two = pairs(second + b * 2 * LANES, columns);
            lower[b] = {_mm512_unpacklo_epi16(one.v, two.v)};
            upper[b] = {_mm512_unpackhi_epi16(one.v, two.v)};
        }
#pragma GCC unroll 6
        for (int g = 0; g < G; ++g) {
            Pairs share = splat(reinterpret_cast<const Twice*>(shares + g * stride)[p / 2]);
#pragma GCC unroll 2
            for (int b = 0; b < B; ++b) {
                low[g][b] = fma(share, lower[b], low[g][b]);
                high[g][b] = fma(share, upper[b], high[g][b]);
            }
        }
    }
    // Of each 8 columns the first 4 stand in `low`.
    for (int g = 0; g < G; ++g)
        for (int b = 0; b < B; ++b) {
            float first[LANES], last[LANES];
            store(first, low[g][b]);
            store(last, high[g][b]);
            for (int c = 0; c < std::min(columns, 2 * LANES); c += 8) {
                std::memcpy(out + g * width + b * 2 * LANES + c, first + c / 2, 4 * sizeof(float));
                std::memcpy(out + g * width + b * 2 * LANES + c + 4, last + c / 2, 4 * sizeof(float));
            }
        }
}

// The shares are rounded in place.
template <int G>
void mix(float* shares, int stride, const bf16* values, int positions, int width, float* out) {
    for (int g = 0; g < G; ++g)
        for (int p = 0; p < positions; p += LANES)
            store(reinterpret_cast<Half*>(shares + g * stride) + p, load(shares + g * stride + p));
    int column = 0;
    for (; column + 4 * LANES <= width; column += 4 * LANES)
        mix_columns<G, 2>(shares, stride, values + column, positions, width, 4 * LANES, out + column);
    for (; column < width; column += 2 * LANES)
        mix_columns<G, 1>(shares, stride, values + column, positions, width, width - column, out + column);
}

#endif

// q (G, width), scaled; keys, values (positions, width); shares: room for (G, stride), stride >= positions rounded up to
// 16. out (G, width).
template <int G, class T>
void attend_group(const float* q, const T* keys, const T* values, int positions, int width, float* shares, int stride,
                  float* out) {
    compare<G>(q, keys, positions, width, shares, stride);
    prefetch(values, std::min(positions, AHEAD) * width);
    for (int g = 0; g < G; ++g) soften(shares + g * stride, positions);
    mix<G>(shares, stride, values, positions, width, out);
}

// Any number of queries that share keys and values.
template <class T>
void attend(int queries, const float* q, const T* keys, const T* values, int positions, int width, float* shares,
            int stride, float* out) {
    using Attend = void (*)(const float*, const T*, const T*, int, int, float*, int, float*);
    static constexpr Attend of[MOST_QUERIES] = {attend_group<1, T>, attend_group<2, T>, attend_group<3, T>,
                                                attend_group<4, T>, attend_group<5, T>, attend_group<6, T>};
    for (int g = 0; g < queries; g += MOST_QUERIES) {
        int together = std::min(MOST_QUERIES, queries - g);
        of[together - 1](q + g * width, keys, values, positions, width, shares, stride, out + g * width);
    }
}

}  // namespace dalle
