// Attention of one query to the cached positions that it sees, which are given as runs of neighbouring positions.
// No other position is read. Keys and values are float32 or bfloat16. Those of the text may lie in another slot, which
// has read the same one: what several rows share is then read from memory once.
#pragma once
#include <algorithm>
#include <vector>

#include "lanes.hpp"
#include "softmax.hpp"

namespace dalle {

struct Run {  // as model/kernels/ordinary.py has it; none goes beyond the end of the text from within it
    int32_t first, count;
};

template <class T>
struct Kept {  // (positions, width) each, of one head
    const T *keys, *values, *text_keys, *text_values;
    int32_t text;  // positions before this one are those of the text
    const T* keys_of(Run run, int width) const { return (run.first < text ? text_keys : keys) + size_t(run.first) * width; }
    const T* values_of(Run run, int width) const {
        return (run.first < text ? text_values : values) + size_t(run.first) * width;
    }
};

constexpr int SOON = 4096;  // bytes from what is read now to what is fetched; 2 and 8 KiB took 5 to 30 % longer (Zen 5)

// shares[0 .. count): q's products with the keys of a run. Up to three shares behind them are written too.
template <class T>
void scores(const float* q, const T* keys, int count, int width, float* shares) {
    for (int p = 0; p < count; p += 4) {
        const T* key[4];  // behind the last position the last one again
        for (int i = 0; i < 4; ++i) key[i] = keys + size_t(std::min(p + i, count - 1)) * width;
        V a[4] = {zero(), zero(), zero(), zero()};
        for (int c = 0; c < width; c += LANES) {
            V query = load(q + c);
            for (int i = 0; i < 4; ++i) {
                a[i] = fma(query, load(key[i] + c), a[i]);
                __builtin_prefetch(key[i] + SOON / sizeof(T) + c);
            }
        }
        _mm_storeu_ps(shares + p, sums(a[0], a[1], a[2], a[3]));
    }
}

// out[0 .. 16 B): the sum over the runs' positions, first to last, of share times value.
template <int B, class T>
void mix(const float* shares, const Kept<T>& kept, int column, const Run* runs, int count, int width, float* out) {
    V a[B];
    for (int b = 0; b < B; ++b) a[b] = zero();
    for (int r = 0; r < count; ++r) {
        const T* value = kept.values_of(runs[r], width) + column;
        for (int p = 0; p < runs[r].count; ++p, ++shares, value += width) {
            const V share = splat(*shares);
            for (int b = 0; b < B; ++b) {
                a[b] = fma(share, load(value + b * LANES), a[b]);
                __builtin_prefetch(value + SOON / sizeof(T) + b * LANES);
            }
        }
    }
    for (int b = 0; b < B; ++b) store(out + column + b * LANES, a[b]);
}

// q (width), scaled; at least one position is seen. out (width).
template <class T>
void attend_runs(const float* q, const Kept<T>& kept, const Run* runs, int count, int width, float* out) {
    thread_local std::vector<float> memory;
    int seen = 0;
    for (int r = 0; r < count; ++r) seen += runs[r].count;
    float* shares = aligned(memory, seen + LANES);
    for (int r = 0, at = 0; r < count; at += runs[r++].count)
        scores(q, kept.keys_of(runs[r], width), runs[r].count, width, shares + at);
    const T* values = kept.values_of(runs[0], width);
    for (size_t i = 0; i < SOON / sizeof(T); i += LANES) __builtin_prefetch(values + i);
    soften(shares, seen);
    int column = 0;
    for (; column + 4 * LANES <= width; column += 4 * LANES)
        mix<4>(shares, kept, column, runs, count, width, out);
    for (; column < width; column += LANES) mix<1>(shares, kept, column, runs, count, width, out);
}

}  // namespace dalle
