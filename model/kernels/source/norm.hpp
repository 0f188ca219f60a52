// Normalisation of one row, as torch's layer_norm. Widths are multiples of 16.
#pragma once
#include "lanes.hpp"

namespace dalle {

// put(column, 16 values of (x - mean) / sqrt(variance + eps) * weight + bias); weight and bias may be null.
template <class Put>
void normalise(const float* x, int width, const float* weight, const float* bias, float eps, const Put& put) {
    V total = zero();
    for (int i = 0; i < width; i += LANES) total = total + load(x + i);
    const V mean = splat(sum(total) / width);
    V squares = zero();
    for (int i = 0; i < width; i += LANES) {
        V off = load(x + i) - mean;
        squares = fma(off, off, squares);
    }
    const V scale = splat(1.0f / std::sqrt(sum(squares) / width + eps));
    for (int i = 0; i < width; i += LANES) {
        V y = (load(x + i) - mean) * scale;
        if (weight) y = y * load(weight + i);
        if (bias) y = y + load(bias + i);
        put(i, y);
    }
}

}  // namespace dalle
