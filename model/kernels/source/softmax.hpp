// The softmax over one row, in float32.
#pragma once
#include <limits>

#include "lanes.hpp"

namespace dalle {

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

}  // namespace dalle
