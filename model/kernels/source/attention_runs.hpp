// Attention of one query to the cached positions that it sees, which are given as runs of neighbouring positions.
// No other position is read. Keys and values are float32 or bfloat16.
#pragma once
#include <algorithm>
#include <limits>
#include <vector>

#include "lanes.hpp"

namespace dalle {

struct Run {  // as model/kernels/ordinary.py has it
    int32_t first, count;
};

// shares[0 .. count): q's products with the keys of a run. Up to three shares behind them are written too.
template <class T>
void scores(const float* q, const T* keys, int count, int width, float* shares) {
    for (int p = 0; p < count; p += 4) {
        const T* key[4];  // behind the last position the last one again
        for (int i = 0; i < 4; ++i) key[i] = keys + size_t(std::min(p + i, count - 1)) * width;
        V a[4] = {zero(), zero(), zero(), zero()};
        for (int c = 0; c < width; c += LANES) {
            V query = load(q + c);
            for (int i = 0; i < 4; ++i) a[i] = fma(query, load(key[i] + c), a[i]);
        }
        _mm_storeu_ps(shares + p, sums(a[0], a[1], a[2], a[3]));
    }
}

// shares (count, with room to a multiple of 16) -> e^share / their sum.
inline void soften(float* shares, int count) {
    const int padded = (count + LANES - 1) / LANES * LANES;
    for (int p = count; p < padded; ++p) shares[p] = -std::numeric_limits<float>::infinity();
    V most = load(shares);
    for (int p = LANES; p < padded; p += LANES) most = max(most, load(shares + p));
    const V top = splat(largest(most));
    V total = zero();
    for (int p = 0; p < padded; p += LANES) {
        V e = exp(load(shares + p) - top);
        total = total + e;
        store(shares + p, e);
    }
    const V scale = splat(1.0f / sum(total));
    for (int p = 0; p < padded; p += LANES) store(shares + p, load(shares + p) * scale);
}

// out[0 .. 16 B): the sum over the runs' positions, first to last, of share times value.
template <int B, class T>
void mix(const float* shares, const T* values, const Run* runs, int count, int width, float* out) {
    V a[B];
    for (int b = 0; b < B; ++b) a[b] = zero();
    for (int r = 0; r < count; ++r) {
        const T* value = values + size_t(runs[r].first) * width;
        for (int p = 0; p < runs[r].count; ++p, ++shares, value += width) {
            const V share = splat(*shares);
            for (int b = 0; b < B; ++b) a[b] = fma(share, load(value + b * LANES), a[b]);
        }
    }
    for (int b = 0; b < B; ++b) store(out + b * LANES, a[b]);
}

// q (width), scaled; keys, values (positions, width); at least one position is seen. out (width).
template <class T>
void attend_runs(const float* q, const T* keys, const T* values, const Run* runs, int count, int width, float* out) {
    thread_local std::vector<float> memory;
    int seen = 0;
    for (int r = 0; r < count; ++r) seen += runs[r].count;
    float* shares = aligned(memory, seen + LANES);
    for (int r = 0, at = 0; r < count; at += runs[r++].count)
        scores(q, keys + size_t(runs[r].first) * width, runs[r].count, width, shares + at);
    soften(shares, seen);
    int column = 0;
    for (; column + 4 * LANES <= width; column += 4 * LANES)
        mix<4>(shares, values + column, runs, count, width, out + column);
    for (; column < width; column += LANES) mix<1>(shares, values + column, runs, count, width, out + column);
}

}  // namespace dalle
