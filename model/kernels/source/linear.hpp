// Linear layers: a few rows of activations times a matrix that is read once.
//
// In float32 a matrix lies in panels of 16 outputs: (outputs / 16, inputs, 16), float32, bfloat16, float16 or int8. Every
// output of every row is one chain of fused multiply-adds over the inputs, first to last, from 0. Where weights are int8,
// each output has a scale, by which its sum is multiplied at the end.
//
// In bfloat16 (`Narrow`) the panels are (outputs / 16, inputs / 2, 16, 2), and inputs are rounded when they are put into
// tiles. Every output is one chain over the pairs of inputs, first to last, from 0: the processor adds the two products
// of a pair to the float32 sum (VDPBF16PS).
//
// So the bits of an output depend on its row and its weights alone: not on the other rows, nor on how the work was cut,
// and in float32 not on the width of the processor's registers.
#pragma once
#include <algorithm>
#include <cstddef>
#include <utility>

#include "lanes.hpp"
#include "pool.hpp"

namespace dalle {

struct Matrix {  // as model/kernels/layout.py has it
    const void* panels;
    const float* scales;  // (out), of int8 alone
    int32_t type;         // always BFLOAT16, if inputs are
    int32_t out;          // a multiple of 16
    int32_t in;
};

enum { FLOAT32, BFLOAT16, FLOAT16, INT8 };
constexpr size_t BYTES[] = {4, 2, 2, 1};

#if defined(__AVX512BF16__)

// What one instruction multiplies: two inputs of a row, which lie side by side, by two weights of 16 outputs.
constexpr int PAIR = 2;
using Input = uint32_t;
inline Pairs factor(const bf16* weights) { return pairs(weights); }

#else

constexpr int PAIR = 1;
using Input = float;
template <class W>
V factor(const W* weights) {
    return load(weights);
}

#endif

// Rows and panels that are computed together, so that their sums fit into the registers.
#if defined(__AVX512F__)
constexpr int MOST_ROWS = 12, TWO_ROWS = 12, FEW_ROWS = 4;  // with 1, 2 and 4 panels
#else
constexpr int MOST_ROWS = 5, TWO_ROWS = 2, FEW_ROWS = 0;
#endif

// Rows of activations, cut into tiles of at most MOST_ROWS rows: (inputs / PAIR, rows, PAIR) numbers each.
class Tiles {
   public:
    Tiles() = default;
    // values: room for rows x width floats.
    Tiles(float* values, int rows, int width)
        : values_(reinterpret_cast<Input*>(values)), rows_(rows), width_(width / PAIR), count_((rows + MOST_ROWS - 1) / MOST_ROWS) {
        base_ = count_ ? rows / count_ : 0;
        longer_ = count_ ? rows % count_ : 0;  // so many tiles have one row more
    }
    int count() const { return count_; }
    int first(int tile) const { return tile * base_ + std::min(tile, longer_); }
    int rows(int tile) const { return base_ + (tile < longer_); }
    int most_rows() const { return base_ + (longer_ > 0); }
    const Input* tile(int index) const { return values_ + size_t(first(index)) * width_; }

    // One row, to be written.
    struct Row {
        Input* at;
        int step;
        void put(int column, V v) const {
            Input lanes[LANES / PAIR];
            store(reinterpret_cast<Narrow*>(lanes), v);
            Input* to = at + size_t(column / PAIR) * step;
            for (int i = 0; i < LANES / PAIR; ++i) to[size_t(i) * step] = lanes[i];
        }
    };
    Row row(int index) const {
        int split = longer_ * (base_ + 1);
        int tile = index < split ? index / (base_ + 1) : longer_ + (index - split) / base_;
        return {values_ + size_t(first(tile)) * width_ + (index - first(tile)), rows(tile)};
    }

   private:
    Input* values_ = nullptr;
    int rows_ = 0, width_ = 0, count_ = 0, base_ = 0, longer_ = 0;
};

// R rows by C panels. x: (inputs / PAIR, R). sums: (R, C, 16).
template <class W, int R, int C>
void product(const void* panels, size_t panel, int inputs, const Input* x, float* sums) {
    const W* w = static_cast<const W*>(panels);
    V a[R][C];
    for (int r = 0; r < R; ++r)
        for (int c = 0; c < C; ++c) a[r][c] = zero();
    for (int k = 0; k < inputs; k += PAIR, w += PAIR * LANES, x += R) {
        decltype(factor(w)) weight[C];
#pragma GCC unroll 4
        for (int c = 0; c < C; ++c) {
            weight[c] = factor(w + c * panel);
            __builtin_prefetch(w + (C + c) * panel);  // what is read next
        }
#pragma GCC unroll 12
        for (int r = 0; r < R; ++r) {
            auto value = splat(x[r]);
#pragma GCC unroll 4
            for (int c = 0; c < C; ++c) a[r][c] = fma(value, weight[c], a[r][c]);
        }
    }
    for (int r = 0; r < R; ++r)
        for (int c = 0; c < C; ++c) store(sums + (r * C + c) * LANES, a[r][c]);
}

using Product = void (*)(const void*, size_t, int, const Input*, float*);

template <class W, int C, int... R>
Product product_of(int rows, std::integer_sequence<int, R...>) {
    static constexpr Product table[] = {product<W, R + 1, C>..., nullptr};
    return table[rows - 1];
}

template <class W>
Product product_of(int rows, int panels) {
    using Few = std::make_integer_sequence<int, FEW_ROWS>;
    using Two = std::make_integer_sequence<int, TWO_ROWS>;
    using Many = std::make_integer_sequence<int, MOST_ROWS>;
    if (panels == 4) return product_of<W, 4>(rows, Few{});
    if (panels == 2) return product_of<W, 2>(rows, Two{});
    return product_of<W, 1>(rows, Many{});
}

inline Product product_for(const Matrix& m, int rows, int panels) {
#if defined(__AVX512BF16__)
    (void)m;
    return product_of<bf16>(rows, panels);
#else
    switch (m.type) {
        case INT8: return product_of<int8_t>(rows, panels);
        case FLOAT16: return product_of<f16>(rows, panels);
        case BFLOAT16: return product_of<bf16>(rows, panels);
        default: return product_of<float>(rows, panels);
    }
#endif
}

// put(row, column, sums of 16 outputs from that column on), for all rows and all outputs, in any order.
// skipped: inputs at the start that x does not have, because they are 0.
template <class Put>
void linear(Pool& pool, const Matrix& m, const Tiles& x, const Put& put, int skipped = 0) {
    const int inputs = m.in - skipped;
    const size_t panel = size_t(m.in) * LANES;
    const int panels = m.out / LANES, rows_of_tile = x.most_rows();
    const int most = rows_of_tile <= FEW_ROWS ? 4 : rows_of_tile <= TWO_ROWS ? 2 : 1;
    pool.run((panels + 1) / 2, [&](int first, int end) {
        alignas(64) float sums[2 * MOST_ROWS * LANES];
        end = std::min(2 * end, panels);
        for (int p = 2 * first, width; p < end; p += width) {
            width = std::min(most, end - p >= 4 ? 4 : end - p >= 2 ? 2 : 1);
            const char* weights = static_cast<const char*>(m.panels) + (p * panel + size_t(skipped) * LANES) * BYTES[m.type];
            for (int t = 0; t < x.count(); ++t) {
                int rows = x.rows(t);
                product_for(m, rows, width)(weights, panel, inputs, x.tile(t), sums);
                for (int r = 0; r < rows; ++r)
                    for (int c = 0; c < width; ++c) {
                        const int column = (p + c) * LANES;
                        const V found = load(sums + (r * width + c) * LANES);
                        put(x.first(t) + r, column, m.scales ? found * load(m.scales + column) : found);
                    }
            }
        }
    });
}

}  // namespace dalle
