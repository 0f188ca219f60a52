// The decoder of our VAE (model/vae/vae.py) on the CPU: what `VAE.paint` computes with torch, for one picture, or for a
// band of its rows.
//
// dalle_paint. At the resolution of the tokens:
//     x          = stem(codes)
//     x          = x + second(silu(first(silu(norm(x)))))       for each block
// At twice that:
//     x          = pixel_shuffle(up(x), 2)
//     x          = x + second(silu(first(silu(norm(x)))))       for each block
// At the picture's, eight times that:
//     x          = silu(pixel_shuffle(up_pixels(silu(norm(x))), 4))
//     picture    = (out(x) + 1) / 2, within 0 and 1
//
// Sums, norms and what stands between the layers are float32. The inputs of all convolutions but the last are `Narrow`.
#include "convolution.hpp"
#include "norm.hpp"

namespace dalle {

// These are as model/kernels/layout.py has them.
struct Norm {
    const float *weight, *bias;
};
struct ResidualBlock {
    Norm norm;
    Convolution first, second;
};
struct PictureDecoder {
    Convolution stem, up, up_pixels;  // the outputs of `up` ordered as (2, 2, channels)
    const ResidualBlock *blocks, *mid_blocks;
    Norm norm;
    const float *out, *out_bias;  // (3, pixel channels, 3, 3), (3)
    int32_t code_dim, channels, mid_channels, pixel_channels, depth, mid_depth;
};

namespace {

constexpr float PIXEL_EPS = 1e-5f;
constexpr int COLOURS = 3;

#if defined(__AVX512F__)
constexpr int WIDE = 4;  // vectors of pixels that are computed together
#else
constexpr int WIDE = 2;
#endif

inline V silu(V x) { return x / (splat(1.0f) + exp(min(zero() - x, splat(88.0f)))); }

template <class Put>
void active(const float* x, int channels, const Norm& norm, const Put& put) {
    normalise(x, channels, norm.weight, norm.bias, PIXEL_EPS, [&](int i, V y) { put(i, silu(y)); });
}

// x (rows, columns, channels) in place.
void residual_blocks(const ResidualBlock* blocks, int depth, float* x, int rows, int columns, int channels) {
    const Inputs inputs(rows, columns, channels);
    const size_t line = size_t(inputs.width()) * channels;
    float* inner = room.take(rows * line);
    std::fill(inner, inner + rows * line, 0.0f);  // beside the picture it stays so
    auto pixel = [=](float* plane, int row, int column) { return plane + row * line + size_t(column + 1) * channels; };
    for (const ResidualBlock* block = blocks; block != blocks + depth; ++block) {
        pool->run(rows, [&](int first, int end) {
            for (int row = first; row < end; ++row) {
                for (int column = 0; column < columns; ++column) {
                    float* to = pixel(inner, row, column);
                    active(x + (size_t(row) * columns + column) * channels, channels, block->norm,
                           [&](int i, V y) { store(to + i, y); });
                }
                inputs.put(row, inner + row * line);
            }
        });
        convolve(block->first, inputs, [&](int row, int column, int channel, V y) {
            store(pixel(inner, row, column) + channel, silu(y));
        });
        pool->run(rows, [&](int first, int end) {
            for (int row = first; row < end; ++row) inputs.put(row, inner + row * line);
        });
        convolve(block->second, inputs, [&](int row, int column, int channel, V y) {
            float* to = x + (size_t(row) * columns + column) * channels + channel;
            store(to, load(to) + y);
        });
    }
}

// Rows of pixels as they are read last, (rows, channels, columns), with a row of zeros at both ends.
struct Lines {
    float* values;
    int rows, channels, columns;
    size_t line;  // a multiple of WIDE vectors
    Lines(int rows, int channels, int columns)
        : rows(rows), channels(channels), columns(columns), line((columns + WIDE * LANES - 1) / (WIDE * LANES) * WIDE * LANES) {
        values = room.take((rows + 2) * channels * line);
        for (int row : {-1, rows}) std::fill_n(at(row, 0, 0), channels * line, 0.0f);
    }
    float* at(int row, int channel, int column) const {
        return values + (size_t(row + 1) * channels + channel) * line + column;
    }
};

// One row of the picture (3, rows, columns): the last convolution. Each column of its weights has a sum of its own, so
// that no vector of pixels lies across two cache lines.
void finish(const PictureDecoder& m, const Lines& lines, int row, float* picture) {
    thread_local std::vector<float> memory;
    const size_t room_of = lines.line + 2 * LANES;
    float* sums = aligned(memory, 3 * room_of) + LANES;
    for (int o = 0; o < COLOURS; ++o) {
        for (int column = 0; column < lines.columns; column += WIDE * LANES) {
            V a[3][WIDE];
            for (int j = 0; j < 3; ++j)
                for (int v = 0; v < WIDE; ++v) a[j][v] = zero();
            const float* weight = m.out + size_t(o) * m.pixel_channels * 9;
            for (int c = 0; c < m.pixel_channels; ++c)
                for (int i = 0; i < 3; ++i, weight += 3) {
                    const float* pixels = lines.at(row + i - 1, c, column);
#pragma GCC unroll 3
                    for (int j = 0; j < 3; ++j) {
                        const V w = splat(weight[j]);
#pragma GCC unroll 4
                        for (int v = 0; v < WIDE; ++v) a[j][v] = fma(w, load(pixels + v * LANES), a[j][v]);
                    }
                }
            for (int j = 0; j < 3; ++j)
                for (int v = 0; v < WIDE; ++v) store(sums + j * room_of + column + v * LANES, a[j][v]);
        }
        sums[-1] = sums[2 * room_of + lines.columns] = 0.0f;
        float* to = picture + (size_t(o) * lines.rows + row) * lines.columns;
        for (int column = 0; column < lines.columns; column += LANES) {
            const float* at = sums + column;
            const V y = load(at - 1) + load(at + room_of) + load(at + 2 * room_of + 1) + splat(m.out_bias[o] + 1.0f);
            alignas(64) float found[LANES];
            store(found, min(max(y * splat(0.5f), zero()), splat(1.0f)));
            std::memcpy(to + column, found, std::min(LANES, lines.columns - column) * sizeof(float));
        }
    }
}

void paint(const PictureDecoder& m, const float* codes, int rows, int columns, float* picture) {
    room.empty();
    float* x = room.take(size_t(rows) * columns * m.channels);
    {
        const Inputs inputs(rows, columns, m.code_dim);
        std::vector<float> line(size_t(inputs.width()) * m.code_dim);
        for (int row = 0; row < rows; ++row) {
            const size_t count = size_t(columns) * m.code_dim;
            std::copy_n(codes + row * count, count, line.data() + m.code_dim);
            inputs.put(row, line.data());
        }
        convolve(m.stem, inputs, [&](int row, int column, int channel, V y) {
            store(x + (size_t(row) * columns + column) * m.channels + channel, y);
        });
    }
    residual_blocks(m.blocks, m.depth, x, rows, columns, m.channels);

    float* mid = room.take(size_t(4) * rows * columns * m.mid_channels);
    project(m.up, rows * columns,
            [&](int pixel, Narrow* to) {
                for (int i = 0; i < m.channels; i += LANES) store(to + i, load(x + size_t(pixel) * m.channels + i));
            },
            [&](int pixel, int channel, V y) {
                const int corner = channel / m.mid_channels;
                const int row = 2 * (pixel / columns) + corner / 2, column = 2 * (pixel % columns) + corner % 2;
                store(mid + (size_t(row) * 2 * columns + column) * m.mid_channels + channel % m.mid_channels, y);
            });
    rows *= 2;
    columns *= 2;
    residual_blocks(m.mid_blocks, m.mid_depth, mid, rows, columns, m.mid_channels);

    const Lines lines(4 * rows, m.pixel_channels, 4 * columns);
    project(m.up_pixels, rows * columns,
            [&](int pixel, Narrow* to) {
                active(mid + size_t(pixel) * m.mid_channels, m.mid_channels, m.norm, [&](int i, V y) { store(to + i, y); });
            },
            [&](int pixel, int channel, V y) {
                alignas(64) float corners[LANES];
                store(corners, silu(y));
                float* to = lines.at(4 * (pixel / columns), channel / LANES, 4 * (pixel % columns));
                for (int i = 0; i < 4; ++i) std::memcpy(to + i * lines.channels * lines.line, corners + 4 * i, 4 * sizeof(float));
            });
    pool->run(lines.rows, [&](int first, int end) {
        for (int row = first; row < end; ++row) finish(m, lines, row, picture);
    });
}

}  // namespace
}  // namespace dalle

extern "C" {

// codes (rows, columns, code_dim), filled up with zeros to a multiple of 16 -> picture (3, 8 rows, 8 columns).
void dalle_paint(const dalle::PictureDecoder* decoder, const float* codes, int32_t rows, int32_t columns, float* picture) {
    std::lock_guard<std::mutex> hold(dalle::one_step);
    dalle::pool->begin();
    dalle::paint(*decoder, codes, rows, columns, picture);
    dalle::pool->end();
}
}
