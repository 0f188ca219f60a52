// Attention of one new position to the positions before it and to itself. Keys and values are read once.
//
// They are float32 or bfloat16 numbers (T). All arithmetic is float32.
#pragma once
#include <algorithm>
#include <limits>

#include "lanes.hpp"

namespace dalle {

constexpr int MOST_QUERIES = 6;  // that share one reading

// out[c .. c + 16 B) of G queries: the sum over positions, first to last, of share times value.
template <int G, int B, class T>
void mix(const float* shares, int stride, const T* values, int positions, int width, float* out) {
    V a[G][B];
    for (int g = 0; g < G; ++g)
        for (int b = 0; b < B; ++b) a[g][b] = zero();
    for (int p = 0; p < positions; ++p, values += width) {
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

// q (G, width), scaled; keys, values (positions, width); shares: room for (G, stride), stride >= positions rounded up to
// 16. out (G, width).
template <int G, class T>
void attend_group(const float* q, const T* keys, const T* values, int positions, int width, float* shares, int stride,
                  float* out) {
    for (int p = 0; p < positions; p += 4) {
        const T* key[4];  // behind the last position the last one again
        for (int i = 0; i < 4; ++i) key[i] = keys + size_t(std::min(p + i, positions - 1)) * width;
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
        for (int g = 0; g < G; ++g) _mm_storeu_ps(shares + g * stride + p, sums(a[g][0], a[g][1], a[g][2], a[g][3]));
    }
    const int padded = (positions + LANES - 1) / LANES * LANES;
    for (int g = 0; g < G; ++g) {
        float* row = shares + g * stride;
        for (int p = positions; p < padded; ++p) row[p] = -std::numeric_limits<float>::infinity();
        V most = load(row);
        for (int p = LANES; p < padded; p += LANES) most = max(most, load(row + p));
        const V top = splat(largest(most));
        V total = zero();
        for (int p = 0; p < padded; p += LANES) {
            V e = exp(load(row + p) - top);
            total = total + e;
            store(row + p, e);
        }
        const V scale = splat(1.0f / sum(total));
        for (int p = 0; p < padded; p += LANES) store(row + p, load(row + p) * scale);
    }
    int column = 0;
    for (; column + 4 * LANES <= width; column += 4 * LANES)
        mix<G, 4, T>(shares, stride, values + column, positions, width, out + column);
    for (; column < width; column += LANES)
        mix<G, 1, T>(shares, stride, values + column, positions, width, out + column);
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
