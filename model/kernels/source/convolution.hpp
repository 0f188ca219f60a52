// Convolutions of rows of pixels. The channels of a pixel lie side by side: (rows, columns, channels).
//
// A 3 x 3 convolution uses Winograd's F(4, 3) along the columns (Lavin and Gray, 1509.09308), with the points 0, a, -a,
// b, -b and infinity. Four neighbouring outputs come from six input columns d0 .. d5 of three rows:
//     at each point p    inputs_p = a sum of d0 .. d5, for every row and channel; rounded where `Narrow` is bfloat16
//                        sums_p   = one chain of fused multiply-adds over the three rows and the channels, first to last
//     out_i              = the sum over the points of p^i * sums_p, i = 0 .. 3
// These are half as many multiplications as without it. Rows are not mixed, so the bits of an output depend on three rows
// of pixels: not on how many rows there are, nor on how the work was cut.
//
// A 1 x 1 convolution is a product with rows of inputs.
#pragma once
#include <algorithm>

#include "linear.hpp"
#include "shared.hpp"

namespace dalle {

// Rows and panels that are computed together, so that their sums fit into the registers.
#if defined(__AVX512F__)
constexpr int BLOCK_ROWS = 12, BLOCK_PANELS = 2;
#else
constexpr int BLOCK_ROWS = 6, BLOCK_PANELS = 1;
#endif
constexpr int TILE = 4, POINTS = TILE + 2;
constexpr float A1 = 0.75f, B1 = 1.5f, A2 = A1 * A1, B2 = B1 * B1, A3 = A2 * A1, B3 = B2 * B1;

struct Convolution {  // as model/kernels/layout.py has it
    Matrix weight;    // of a 3 x 3 convolution: the outputs of 16 channels at each point, (channels / 16, points, 16)
    const float* bias;
};

// BLOCK_ROWS rows by C panels, for `taps` runs of inputs. x: the inputs of a row lie side by side, the next row `row`
// numbers behind, the next run `tap`. sums: (BLOCK_ROWS, C, 16).
template <int C>
void multiply(const Narrow* weights, size_t panel, const Narrow* x, size_t row, int taps, size_t tap, int inputs, float* sums) {
    using Both = Input __attribute__((may_alias));
    V a[BLOCK_ROWS][C];
#pragma GCC unroll 12
    for (int r = 0; r < BLOCK_ROWS; ++r)
#pragma GCC unroll 2
        for (int c = 0; c < C; ++c) a[r][c] = zero();
    for (int t = 0; t < taps; ++t, x += tap) {
        const Narrow* third[BLOCK_ROWS / 3];  // every third row: the others are found from it without a register
        for (int r = 0; r < BLOCK_ROWS / 3; ++r) third[r] = x + 3 * r * row;
        for (int k = 0; k < inputs; k += PAIR, weights += PAIR * LANES) {
            decltype(factor(weights)) weight[C];
#pragma GCC unroll 2
            for (int c = 0; c < C; ++c) weight[c] = factor(weights + c * panel);
#pragma GCC unroll 12
            for (int r = 0; r < BLOCK_ROWS; ++r) {
                auto value = splat(*reinterpret_cast<const Both*>(third[r / 3] + r % 3 * row));
#pragma GCC unroll 2
                for (int c = 0; c < C; ++c) a[r][c] = fma(value, weight[c], a[r][c]);
            }
#pragma GCC unroll 4
            for (int r = 0; r < BLOCK_ROWS / 3; ++r) third[r] += PAIR;
        }
    }
#pragma GCC unroll 12
    for (int r = 0; r < BLOCK_ROWS; ++r)
#pragma GCC unroll 2
        for (int c = 0; c < C; ++c) store(sums + (r * C + c) * LANES, a[r][c]);
}

// The inputs of a 3 x 3 convolution at the points. Above and below the picture they are 0.
class Inputs {
   public:
    Inputs(int rows, int columns, int channels)
        : rows_(rows), columns_(columns), channels_(channels), tiles_((columns + TILE - 1) / TILE) {
        plane_ = size_t(rows + 2) * tiles_ * channels;
        values_ = reinterpret_cast<Narrow*>(room.take((POINTS * plane_ + BLOCK_ROWS * channels) * sizeof(Narrow) / sizeof(float)));
        for (int p = 0; p < POINTS; ++p)
            for (int row : {-1, rows}) std::fill_n(at(p, row, 0), tiles_ * channels, Narrow(0));
    }
    int rows() const { return rows_; }
    int columns() const { return columns_; }
    int channels() const { return channels_; }
    int tiles() const { return tiles_; }
    // Pixels of a row with those beside it that make whole tiles, and one more at both ends.
    int width() const { return tiles_ * TILE + 2; }
    Narrow* at(int point, int row, int tile) const {
        return values_ + point * plane_ + (size_t(row + 1) * tiles_ + tile) * channels_;
    }

    // pixels (width, channels): 0 beside the picture.
    void put(int row, const float* pixels) const {
        const V a2 = splat(-A2), b2 = splat(-B2), both = splat(A2 * B2), less = splat(-(A2 + B2));
        for (int tile = 0; tile < tiles_; ++tile)
            for (int i = 0; i < channels_; i += LANES) {
                V d[POINTS];
                for (int j = 0; j < POINTS; ++j) d[j] = load(pixels + size_t(tile * TILE + j) * channels_ + i);
                const V even_a = fma(b2, d[2], d[4]), odd_a = fma(b2, d[1], d[3]);
                const V even_b = fma(a2, d[2], d[4]), odd_b = fma(a2, d[1], d[3]);
                const V found[POINTS] = {
                    fma(both, d[0], fma(less, d[2], d[4])),
                    fma(splat(A1), odd_a, even_a), fma(splat(-A1), odd_a, even_a),
                    fma(splat(B1), odd_b, even_b), fma(splat(-B1), odd_b, even_b),
                    fma(both, d[1], fma(less, d[3], d[5])),
                };
                for (int p = 0; p < POINTS; ++p) store(at(p, row, tile) + i, found[p]);
            }
    }

   private:
    Narrow* values_;
    int rows_, columns_, channels_, tiles_;
    size_t plane_;
};

// Four outputs of a row, from the sums at the points; `step` floats lie between those.
inline void outputs(const float* sums, size_t step, V bias, V out[TILE]) {
    V m[POINTS];
    for (int p = 0; p < POINTS; ++p) m[p] = load(sums + p * step);
    const V even_a = m[1] + m[2], odd_a = m[1] - m[2], even_b = m[3] + m[4], odd_b = m[3] - m[4];
    out[0] = (m[0] + (even_a + even_b)) + bias;
    out[1] = fma(splat(A1), odd_a, splat(B1) * odd_b) + bias;
    out[2] = fma(splat(A2), even_a, splat(B2) * even_b) + bias;
    out[3] = fma(splat(A3), odd_a, fma(splat(B3), odd_b, m[5])) + bias;
}

template <int C, class Put>
void convolve_block(const Convolution& m, const Inputs& x, int panel, int first, const Put& put) {
    const size_t size = size_t(m.weight.in) * LANES;
    const auto* weights = static_cast<const Narrow*>(m.weight.panels) + panel * POINTS * size;
    constexpr size_t STEP = BLOCK_ROWS * C * LANES;
    alignas(64) float sums[POINTS * STEP];
    for (int p = 0; p < POINTS; ++p)
        multiply<C>(weights + p * size, POINTS * size, x.at(p, -1, first), x.channels(), 3, size_t(x.tiles()) * x.channels(),
                    x.channels(), sums + p * STEP);
    const int end = std::min(BLOCK_ROWS, x.rows() * x.tiles() - first);
    for (int r = 0; r < end; ++r) {
        const int row = (first + r) / x.tiles(), column = (first + r) % x.tiles() * TILE;
        for (int c = 0; c < C; ++c) {
            const int channel = (panel + c) * LANES;
            V out[TILE];
            outputs(sums + (r * C + c) * LANES, STEP, load(m.bias + channel), out);
            for (int i = 0; i < std::min(TILE, x.columns() - column); ++i) put(row, column + i, channel, out[i]);
        }
    }
}

// put(row, column, channel, outputs of 16 channels from that one on), for all pixels, in any order.
template <class Put>
void convolve(const Convolution& m, const Inputs& x, const Put& put) {
    const int panels = m.weight.out / POINTS / LANES, blocks = (x.rows() * x.tiles() + BLOCK_ROWS - 1) / BLOCK_ROWS;
    const int groups = (panels + BLOCK_PANELS - 1) / BLOCK_PANELS;
    pool->run(groups * blocks, [&](int first, int end) {
        for (int i = first; i < end; ++i) {
            const int panel = i / blocks * BLOCK_PANELS, row = i % blocks * BLOCK_ROWS;
            if (panels - panel < BLOCK_PANELS) convolve_block<1>(m, x, panel, row, put);
            else convolve_block<BLOCK_PANELS>(m, x, panel, row, put);
        }
    });
}

// A 1 x 1 convolution. take(pixel, to): writes its inputs. put(pixel, channel, outputs of 16 channels from that one on).
template <class Take, class Put>
void project(const Convolution& m, int pixels, const Take& take, const Put& put) {
    const int channels = m.weight.in, panels = m.weight.out / LANES;
    const size_t panel = size_t(channels) * LANES;
    const auto* weights = static_cast<const Narrow*>(m.weight.panels);
    pool->run((pixels + BLOCK_ROWS - 1) / BLOCK_ROWS, [&](int first, int end) {
        thread_local std::vector<float> memory;
        auto* x = reinterpret_cast<Narrow*>(aligned(memory, size_t(BLOCK_ROWS) * channels));
        alignas(64) float sums[BLOCK_ROWS * BLOCK_PANELS * LANES];
        for (int block = first; block < end; ++block) {
            const int begin = block * BLOCK_ROWS, rows = std::min(BLOCK_ROWS, pixels - begin);
            for (int r = 0; r < rows; ++r) take(begin + r, x + size_t(r) * channels);
            for (int p = 0; p < panels; p += BLOCK_PANELS) {
                const int width = std::min(BLOCK_PANELS, panels - p);
                if (width < BLOCK_PANELS) multiply<1>(weights + p * panel, panel, x, channels, 1, 0, channels, sums);
                else multiply<BLOCK_PANELS>(weights + p * panel, panel, x, channels, 1, 0, channels, sums);
                for (int r = 0; r < rows; ++r)
                    for (int c = 0; c < width; ++c) {
                        const int channel = (p + c) * LANES;
                        put(begin + r, channel, load(sums + (r * width + c) * LANES) + load(m.bias + channel));
                    }
            }
        }
    });
}

}  // namespace dalle
