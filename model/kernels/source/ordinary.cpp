// One step of an ordinary decoder (model/families) on the CPU, in float32: what `SlotDecoder.sample` and
// `SlotDecoder.decode` compute with torch. One block serves all families; `Layer` says which of its parts there are.
//
// dalle_ordinary_sample draws a token for every image:
//     logits     = head(hidden)
//     token      = guidance, temperature, top-k, top-p, and the inverse of the cumulated probabilities at the noise
//
// dalle_ordinary_decode feeds these tokens. For each row:
//     x          = norm(vector of the token + vector of its place)
//     y          = norm(x), where parts of a state may come from the tokens above and to the left        }
//     q, k, v    = qkv(y), turned; k, v go to the cache                                                  }
//     x          = x + scale * norm(out(attention of q to the positions that the layer sees))            } for each
//     x          = x + norm(out(attention of q(norm(x)) to the encoded text))      if there is one       } layer
//     y          = norm(x), with parts from elsewhere as before                                          }
//     x          = x + scale * norm(w2 norm(activation(w1 y)))                                           }
//     hidden     = norm(norm(x))
// A norm, scale, bias or turn that a family does not have is left out. Reversible models have two streams x.
//
// Every matrix is read once a step, and of the cache only what a layer sees. A row's bits depend on its own state alone.
#include "attention_runs.hpp"
#include "drawing.hpp"
#include "linear.hpp"
#include "shared.hpp"

namespace dalle::ordinary {

constexpr float EPS = 1e-5f;
constexpr int MOST_HEAD_DIM = 512;

// These are as model/kernels/ordinary.py has them.
enum { NO_NORM = 0, LAYER_NORM = 1, RMS_NORM = 2 };
enum { GELU = 0, GELU_TANH = 1, GEGLU = 2, SWIGLU = 3 };  // from GEGLU on the second half of w1's outputs are gates
struct Norm {
    const float *weight, *bias;  // to a multiple of 16; bias may be null
    int32_t kind;
};
struct Projection {
    Matrix m;           // m.panels is null where the family has no such product
    const float* bias;  // may be null
};
struct Layer {
    Norm before, after, before_text, after_text, before_feed, within_feed, after_feed;
    Projection qkv, out, text_q, text_out, w1, w2;
    const float *scale, *feed_scale;  // (dim), may be null
    int32_t sees;                     // which of the model's; -1: all earlier positions
};
struct Sees {             // what each image token sees in the cache
    const int32_t* first;  // (tokens + 1): where the runs of a token begin
    const Run* runs;
};
struct Model {
    const float *table, *places;  // (vocab, dim), (tokens, dim); places may be null
    Norm entering, norm, last_norm;
    Projection head;
    const Layer* layers;
    const Sees* sees;
    const float *cos, *sin;  // (positions, turned): of each value, and the sign of the other of its pair in sin
    int32_t dim, depth, heads, head_dim, hidden, vocab, grid, group;
    int32_t text;    // positions of a text
    int32_t turned;  // values of a head
    int32_t turns_values, quarter, reversible, stable, activation;
    int32_t narrow_cache;  // bfloat16 if not 0
};
struct State {
    void *keys, *values;             // (depth, slots, heads, capacity, head_dim)
    int64_t *length, *step;          // (slots)
    const int32_t* text_slots;       // (slots): a slot that has read the same text, maybe its own
    const void *text_keys, *text_values;  // (depth, slots, heads, text, head_dim), where there is an encoded text
    const uint8_t* text_exists;      // (slots, text)
    void *above, *left;              // (2 depth, slots, grid, quarter), (2 depth, slots, quarter), where states shift
    float* hidden;                   // (slots, dim)
    int64_t *tokens, *drawn;         // (slots, tokens), (slots, 1)
    const int64_t* forced;           // (slots, tokens), -1 where the model draws
    const double* noise;             // (slots, tokens)
    int64_t* position;               // (slots): image tokens drawn
    uint8_t *begun, *bad;            // (slots)
    double* score;                   // (slots)
    int32_t slots, capacity, text;
};

namespace {

int padded(int width) { return (width + LANES - 1) / LANES * LANES; }

// put(column, 16 values) of x (width), which is padded with zeros to a multiple of 16; so is what is put.
template <class Put>
void normalise(const Norm& norm, const float* x, int width, const Put& put) {
    if (norm.kind == NO_NORM) {
        for (int i = 0; i < width; i += LANES) put(i, load(x + i));
        return;
    }
    float kept[LANES];  // 0 in the last lanes, those of the padding
    for (int i = 0; i < LANES; ++i) kept[i] = i < LANES - (padded(width) - width) ? 1.0f : 0.0f;
    V mean = zero();
    if (norm.kind == LAYER_NORM) {
        V total = zero();
        for (int i = 0; i < width; i += LANES) total = total + load(x + i);
        mean = splat(sum(total) / width);
    }
    V squares = zero();
    for (int i = 0; i < width; i += LANES) {
        V off = load(x + i) - mean;
        if (i + LANES > width) off = off * load(kept);
        squares = fma(off, off, squares);
    }
    const V scale = splat(1.0f / std::sqrt(sum(squares) / width + EPS));
    for (int i = 0; i < width; i += LANES) {
        V y = (load(x + i) - mean) * scale * load(norm.weight + i);
        put(i, norm.bias ? y + load(norm.bias + i) : y);
    }
}

// Calls work(row) for all rows, which the threads share.
template <class Work>
void each(int rows, const Work& work) {
    pool->run(rows, [&](int first, int end) {
        for (int row = first; row < end; ++row) work(row);
    });
}

// put(row, column, 16 outputs).
template <class Put>
void project(const Projection& p, const Tiles& x, const Put& put) {
    linear(*pool, p.m, x, [&](int row, int column, V sums) {
        put(row, column, p.bias ? sums + load(p.bias + column) : sums);
    });
}

// y (rows, outputs) = p(x).
float* projected(const Projection& p, const Tiles& x, int rows) {
    float* y = room.take(size_t(rows) * p.m.out);
    project(p, x, [&](int row, int column, V sums) { store(y + size_t(row) * p.m.out + column, sums); });
    return y;
}

// x (rows, outputs) += scale * norm(p(y)).
void add(const Projection& p, const Tiles& y, int rows, const Norm& norm, const float* scale, float* x) {
    auto put = [&](int row, int column, V found) {
        float* at = x + size_t(row) * p.m.out + column;
        store(at, load(at) + (scale ? found * load(scale + column) : found));
    };
    if (norm.kind == NO_NORM) return project(p, y, put);
    const float* found = projected(p, y, rows);
    each(rows, [&](int row) {
        normalise(norm, found + size_t(row) * p.m.out, p.m.out, [&](int column, V z) { put(row, column, z); });
    });
}

// The parts of a normalised state y (dim) that come from the tokens above and to the left; y's own are kept for others.
// part: two a layer.
template <class T>
void shift(const Model& m, const State& s, int part, int slot, float* y) {
    const int quarter = m.quarter, row = int(s.step[slot]) / m.grid, column = int(s.step[slot]) % m.grid;
    const size_t at = size_t(part) * s.slots + slot;
    T* above = static_cast<T*>(s.above) + (at * m.grid + column) * quarter;
    T* left = static_cast<T*>(s.left) + at * quarter;
    for (int i = 0; i < quarter; ++i) {
        const float own_above = y[i], own_left = y[quarter + i];
        y[i] = row ? number(above[i]) : 0.0f;
        y[quarter + i] = column ? number(left[i]) : 0.0f;
        set(above[i], own_above);
        set(left[i], own_left);
    }
}

// x (rows, dim) normalised, with parts from elsewhere -> tiles.
template <class T>
Tiles entered(const Model& m, const State& s, const Rows& rows, const Norm& norm, int part, const float* x) {
    Tiles tiles(room.take(size_t(rows.count) * m.dim), rows.count, m.dim);
    float* y = room.take(size_t(rows.count) * m.dim);
    each(rows.count, [&](int r) {
        float* own = y + size_t(r) * m.dim;
        normalise(norm, x + size_t(r) * m.dim, m.dim, [&](int i, V z) { store(own + i, z); });
        if (m.quarter) shift<T>(m, s, part, rows.slots[r], own);
        const Tiles::Row row = tiles.row(r);
        for (int i = 0; i < m.dim; i += LANES) row.put(i, load(own + i));
    });
    return tiles;
}

// One head's x (head_dim), turned and scaled, to y.
template <class T>
void turn(const Model& m, int64_t place, bool turns, const float* x, float scale, T* y) {
    const int turned = turns ? m.turned : 0;
    const float *cos = m.cos + place * m.turned, *sin = m.sin + place * m.turned;
    for (int i = 0; i < turned; ++i) set(y[i], std::fma(x[i ^ 1], sin[i], x[i] * cos[i]) * scale);
    for (int i = turned; i < m.head_dim; ++i) set(y[i], x[i] * scale);
}

// Where one head of a slot begins in a buffer (depth, slots, heads, positions, head_dim).
size_t begin(const Model& m, const State& s, int layer, int slot, int head, int positions) {
    return ((size_t(layer) * s.slots + slot) * m.heads + head) * positions * m.head_dim;
}

// Attention of one head of a row, to its cached positions.
template <class T>
void attend_row(const Model& m, const State& s, int layer, int slot, int head, const float* qkv, const Tiles::Row& found) {
    const int d = m.head_dim, inner = m.heads * d;
    const int64_t place = s.length[slot];
    T *all_keys = static_cast<T*>(s.keys), *all_values = static_cast<T*>(s.values);
    const size_t own = begin(m, s, layer, slot, head, s.capacity);
    const size_t text = begin(m, s, layer, s.text_slots[slot], head, s.capacity);
    const Kept<T> kept{all_keys + own, all_values + own, all_keys + text, all_values + text, m.text};
    float q[MOST_HEAD_DIM], out[MOST_HEAD_DIM];
    turn(m, place, true, qkv + head * d, 1.0f / std::sqrt(float(d)), q);
    turn(m, place, true, qkv + inner + head * d, 1.0f, all_keys + own + place * d);
    turn(m, place, m.turns_values, qkv + 2 * inner + head * d, 1.0f, all_values + own + place * d);
    const Layer& of = m.layers[layer];
    if (of.sees < 0) {
        const Run all[] = {{0, m.text}, {m.text, int32_t(place) + 1 - m.text}};
        attend_runs(q, kept, all, 2, d, out);
    } else {
        const int32_t* first = m.sees[of.sees].first + s.step[slot];
        attend_runs(q, kept, m.sees[of.sees].runs + first[0], first[1] - first[0], d, out);
    }
    for (int i = 0; i < d; i += LANES) found.put(head * d + i, load(out + i));
}

// Attention of one head of a row to its encoded text; to all of it evenly where it is padding alone.
template <class T>
void attend_text(const Model& m, const State& s, int layer, int slot, int head, const float* query,
                 const Tiles::Row& found) {
    const int d = m.head_dim;
    const size_t at = begin(m, s, layer, s.text_slots[slot], head, s.text);
    const T *keys = static_cast<const T*>(s.text_keys) + at, *values = static_cast<const T*>(s.text_values) + at;
    const uint8_t* exists = s.text_exists + size_t(slot) * s.text;
    thread_local std::vector<Run> runs;
    runs.clear();
    for (int i = 0; i < s.text; ++i) {
        if (!exists[i]) continue;
        if (i && exists[i - 1]) runs.back().count += 1;
        else runs.push_back({i, 1});
    }
    float q[MOST_HEAD_DIM], out[MOST_HEAD_DIM];
    const float scale = runs.empty() ? 0.0f : 1.0f / std::sqrt(float(d));
    if (runs.empty()) runs.push_back({0, s.text});
    for (int i = 0; i < d; ++i) q[i] = query[head * d + i] * scale;
    attend_runs(q, Kept<T>{keys, values, keys, values, s.text}, runs.data(), int(runs.size()), d, out);
    for (int i = 0; i < d; i += LANES) found.put(head * d + i, load(out + i));
}

// attend(row, head, where the row's found values go) for all rows and heads -> tiles of what was found. The rows of one
// head follow each other, so that a text that they share stays in the processor's cache.
template <class Attend>
Tiles attended(const Model& m, int rows, const Attend& attend) {
    const int inner = m.heads * m.head_dim;
    Tiles found(room.take(size_t(rows) * inner), rows, inner);
    each(rows * m.heads, [&](int i) { attend(i % rows, i / rows, found.row(i % rows)); });
    return found;
}

V activated(int kind, V x) {
    if (kind == SWIGLU) return x / (splat(1.0f) + exp(min(splat(80.0f), zero() - x)));
    if (kind == GELU_TANH) {
        V u = fma(x * x * x, splat(0.044715f), x) * splat(2.0f * 0.7978845608f);
        return x / (splat(1.0f) + exp(min(splat(80.0f), zero() - u)));
    }
    return x * splat(0.5f) * (splat(1.0f) + erf(x * splat(0.70710678118f)));
}

// z (rows, w1.out) -> activated and normalised, tiles of width m.hidden to a multiple of 16.
Tiles activated(const Model& m, const Norm& norm, const float* z, int rows) {
    const int width = padded(m.hidden), out = m.activation >= GEGLU ? 2 * width : width;
    Tiles tiles(room.take(size_t(rows) * width), rows, width);
    float* y = room.take(size_t(rows) * width);
    auto one = [&](int row, int column) {
        const float* from = z + size_t(row) * out + column;
        if (m.activation < GEGLU) return activated(m.activation, load(from));
        return load(from) * activated(m.activation, load(from + width));
    };
    if (norm.kind == NO_NORM) {
        const int pieces = width / LANES;
        pool->run(rows * pieces, [&](int first, int end) {
            for (int i = first; i < end; ++i)
                tiles.row(i / pieces).put(i % pieces * LANES, one(i / pieces, i % pieces * LANES));
        });
        return tiles;
    }
    each(rows, [&](int row) {
        float* own = y + size_t(row) * width;
        for (int i = 0; i < width; i += LANES) store(own + i, one(row, i));
        normalise(norm, own, m.hidden, [&](int i, V v) { tiles.row(row).put(i, v); });
    });
    return tiles;
}

template <class T>
void layer_of(const Model& m, const State& s, const Rows& rows, int number, float* x1, float* x2) {
    const Layer& layer = m.layers[number];
    const int n = rows.count;
    room.empty();
    const float* qkv = projected(layer.qkv, entered<T>(m, s, rows, layer.before, 2 * number, x2), n);
    Tiles found = attended(m, n, [&](int row, int head, const Tiles::Row& to) {
        attend_row<T>(m, s, number, rows.slots[row], head, qkv + size_t(row) * layer.qkv.m.out, to);
    });
    add(layer.out, found, n, layer.after, layer.scale, x1);
    if (layer.text_q.m.panels) {
        const float* q = projected(layer.text_q, entered<T>(m, s, rows, layer.before_text, 0, x1), n);
        Tiles read = attended(m, n, [&](int row, int head, const Tiles::Row& to) {
            attend_text<T>(m, s, number, rows.slots[row], head, q + size_t(row) * layer.text_q.m.out, to);
        });
        add(layer.text_out, read, n, layer.after_text, nullptr, x1);
    }
    const float* z = projected(layer.w1, entered<T>(m, s, rows, layer.before_feed, 2 * number + 1, x1), n);
    add(layer.w2, activated(m, layer.within_feed, z, n), n, layer.after_feed, layer.feed_scale, x2);
}

template <class T>
void decode(const Model& m, const State& s, const Rows& rows) {
    const int n = rows.count;
    std::vector<float> streams(size_t(n) * m.dim * 2);
    float *x1 = streams.data(), *x2 = m.reversible ? x1 + size_t(n) * m.dim : x1;
    each(n, [&](int r) {
        const float* token = m.table + s.drawn[rows.sources[r]] * m.dim;
        const float* place = m.places ? m.places + s.step[rows.slots[r]] * m.dim : nullptr;
        float* x = x1 + size_t(r) * m.dim;
        for (int i = 0; i < m.dim; i += LANES) store(x + i, place ? load(token + i) + load(place + i) : load(token + i));
        normalise(m.entering, x, m.dim, [&](int i, V y) { store(x + i, y); });
        if (m.reversible) std::memcpy(x2 + size_t(r) * m.dim, x, m.dim * sizeof(float));
    });
    for (int layer = 0; layer < m.depth; ++layer) layer_of<T>(m, s, rows, layer, x1, x2);
    each(n, [&](int r) {
        const int slot = rows.slots[r];
        float *x = x1 + size_t(r) * m.dim, *hidden = s.hidden + size_t(slot) * m.dim;
        for (int i = 0; m.reversible && i < m.dim; ++i) x[i] = (x[i] + x2[size_t(r) * m.dim + i]) / 2.0f;
        if (m.stable) {
            V most = load(x);
            for (int i = LANES; i < m.dim; i += LANES) most = max(most, load(x + i));
            const V scale = splat(largest(most));
            for (int i = 0; i < m.dim; i += LANES) store(x + i, load(x + i) / scale);
        }
        normalise(m.norm, x, m.dim, [&](int i, V y) { store(hidden + i, y); });
        normalise(m.last_norm, hidden, m.dim, [&](int i, V y) { store(hidden + i, y); });
        s.length[slot] += 1;
        s.step[slot] += 1;
    });
}

void sample(const Model& m, const State& s, const Rows& rows) {
    const int n = rows.count;
    room.empty();
    Tiles hidden(room.take(size_t(n) * m.dim), n, m.dim);
    for (int r = 0; r < n; ++r)
        for (int i = 0; i < m.dim; i += LANES)
            hidden.row(r).put(i, load(s.hidden + size_t(rows.slots[r]) * m.dim + i));
    const float* logits = projected(m.head, hidden, n);
    each(rows.image_count, [&](int i) {
        draw_token(m, s, rows.images[i], 0, logits);
        s.position[rows.images[i].slot] += 1;
    });
}

}  // namespace
}  // namespace dalle::ordinary

extern "C" {

void dalle_ordinary_sample(const dalle::ordinary::Model* model, const dalle::ordinary::State* state,
                           const dalle::Rows* rows) {
    std::lock_guard<std::mutex> hold(dalle::one_step);
    dalle::pool->begin();
    dalle::ordinary::sample(*model, *state, *rows);
    dalle::pool->end();
}

void dalle_ordinary_decode(const dalle::ordinary::Model* model, const dalle::ordinary::State* state,
                           const dalle::Rows* rows) {
    std::lock_guard<std::mutex> hold(dalle::one_step);
    dalle::pool->begin();
    if (model->narrow_cache) dalle::ordinary::decode<dalle::bf16>(*model, *state, *rows);
    else dalle::ordinary::decode<float>(*model, *state, *rows);
    dalle::pool->end();
}
}
