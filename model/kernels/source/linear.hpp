// Linear layers: a few rows of activations times a matrix that is read once.
//
// A matrix lies in panels of 16 outputs: (outputs / 16, inputs, 16), float32, bfloat16 or float16. Every output of every row is
// one chain of fused multiply-adds over the inputs, first to last, from 0. So its bits depend on its row and its
// weights alone: not on the other rows, nor on how the work was cut, nor on the width of the processor's registers.
#pragma once
#include <algorithm>
#include <cstddef>
#include <utility>

#include "lanes.hpp"
#include "pool.hpp"

namespace dalle {

struct Matrix {  // as model/kernels/layout.py has it
    const void* panels;
    int32_t narrow;  // 1 bfloat16, 2 float16, else float32
    int32_t out;     // a multiple of 16
    int32_t in;
};

// Rows and panels that are computed together, so that their sums fit into the registers.
#if defined(__AVX512F__)
constexpr int MOST_ROWS = 12, FEW_ROWS = 4;
constexpr int PANELS_OF_FEW = 4, PANELS_OF_MANY = 2;
#else
constexpr int MOST_ROWS = 5, FEW_ROWS = 2;
constexpr int PANELS_OF_FEW = 2, PANELS_OF_MANY = 1;
#endif

// Rows of activations, cut into tiles of at most MOST_ROWS rows. In a tile the values of one input lie side by side.
class Tiles {
   public:
    Tiles() = default;
    Tiles(float* values, int rows, int width)
        : values_(values), rows_(rows), width_(width), count_((rows + MOST_ROWS - 1) / MOST_ROWS) {
        base_ = count_ ? rows / count_ : 0;
        longer_ = count_ ? rows % count_ : 0;  // so many tiles have one row more
    }
    int count() const { return count_; }
    int first(int tile) const { return tile * base_ + std::min(tile, longer_); }
    int rows(int tile) const { return base_ + (tile < longer_); }
    int most_rows() const { return base_ + (longer_ > 0); }
    const float* tile(int index) const { return values_ + size_t(first(index)) * width_; }

    // One row, to be written.
    struct Row {
        float* at;
        int step;
        void put(int column, V v) const {
            float lanes[LANES];
            store(lanes, v);
            float* to = at + size_t(column) * step;
            for (int i = 0; i < LANES; ++i) to[size_t(i) * step] = lanes[i];
        }
    };
    Row row(int index) const {
        int split = longer_ * (base_ + 1);
        int tile = index < split ? index / (base_ + 1) : longer_ + (index - split) / base_;
        return {values_ + size_t(first(tile)) * width_ + (index - first(tile)), rows(tile)};
    }

   private:
    float* values_ = nullptr;
    int rows_ = 0, width_ = 0, count_ = 0, base_ = 0, longer_ = 0;
};

// R rows by C panels. x: (inputs, R). sums: (R, C, 16).
template <class W, int R, int C>
void product(const void* panels, size_t panel, int inputs, const float* x, float* sums) {
    const W* w = static_cast<const W*>(panels);
    V a[R][C];
    for (int r = 0; r < R; ++r)
        for (int c = 0; c < C; ++c) a[r][c] = zero();
    for (int k = 0; k < inputs; ++k, w += LANES, x += R) {
        V weight[C];
#pragma GCC unroll 4
        for (int c = 0; c < C; ++c) {
            weight[c] = load(w + c * panel);
            if (R <= FEW_ROWS) __builtin_prefetch(w + c * panel + 64 * LANES);
        }
#pragma GCC unroll 12
        for (int r = 0; r < R; ++r) {
            V value = splat(x[r]);
#pragma GCC unroll 4
            for (int c = 0; c < C; ++c) a[r][c] = fma(value, weight[c], a[r][c]);
        }
    }
    for (int r = 0; r < R; ++r)
        for (int c = 0; c < C; ++c) store(sums + (r * C + c) * LANES, a[r][c]);
}

using Product = void (*)(const void*, size_t, int, const float*, float*);

template <class W, int C, int... R>
Product product_of(int rows, std::integer_sequence<int, R...>) {
    static constexpr Product table[] = {product<W, R + 1, C>...};
    return table[rows - 1];
}

template <class W>
Product product_of(int rows, int panels) {
    using Few = std::make_integer_sequence<int, FEW_ROWS>;
    using Many = std::make_integer_sequence<int, MOST_ROWS>;
    if (panels == PANELS_OF_FEW) return product_of<W, PANELS_OF_FEW>(rows, Few{});
    if (panels == PANELS_OF_MANY) return product_of<W, PANELS_OF_MANY>(rows, Many{});
    return product_of<W, 1>(rows, Many{});
}

// put(row, column, sums of 16 outputs from that column on), for all rows and all outputs, in any order.
// skipped: inputs at the start that x does not have, because they are 0.
template <class Put>
void linear(Pool& pool, const Matrix& m, const Tiles& x, const Put& put, int skipped = 0) {
    const int inputs = m.in - skipped;
    const size_t size = m.narrow ? sizeof(bf16) : sizeof(float), panel = size_t(m.in) * LANES;
    const int panels = m.out / LANES;
    const int together = x.most_rows() <= FEW_ROWS ? PANELS_OF_FEW : PANELS_OF_MANY;
    pool.run((panels + together - 1) / together, [&](int first, int end) {
        alignas(64) float sums[(MOST_ROWS * PANELS_OF_MANY + FEW_ROWS * PANELS_OF_FEW) * LANES];
        for (int group = first; group < end; ++group) {
            int from = group * together, most = std::min(together, panels - from);
            int width = most == together ? together : 1;
            for (int p = from; p < from + most; p += width) {
                const char* weights = static_cast<const char*>(m.panels) + (p * panel + size_t(skipped) * LANES) * size;
                for (int t = 0; t < x.count(); ++t) {
                    int rows = x.rows(t);
                    Product of = m.narrow == 2 ? product_of<f16>(rows, width)
                                 : m.narrow    ? product_of<bf16>(rows, width)
                                               : product_of<float>(rows, width);
                    of(weights, panel, inputs, x.tile(t), sums);
                    for (int r = 0; r < rows; ++r)
                        for (int c = 0; c < width; ++c)
                            put(x.first(t) + r, (p + c) * LANES, load(sums + (r * width + c) * LANES));
                }
            }
        }
    });
}

}  // namespace dalle
