// The block of ordinary decoders, see ordinary.cpp: its weights, its state, and a step's rows through all layers.
#pragma once
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
    int32_t text;    // positions of a text at most; image token i turns as the position text + i
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

// A computed row: a token and where it is fed, `ahead` positions behind those that its slot has.
struct Fed {
    int32_t slot, ahead;
    int64_t token;
};

// The rows of a step. Where slots stand in several rows, these are at neighbouring positions, first to last.
struct Step {
    std::vector<Fed> rows;
    bool single = true;               // every slot stands in one row
    std::vector<float> above, left;  // else, of each part and row: what it has replaced, and what it hands to the right
    int count() const { return int(rows.size()); }
};

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

// Where the last token of a row's column, and the last token of its slot, keep what they hand down and to the right.
template <class T>
struct Handed {
    T *above, *left;
    Handed(const Model& m, const State& s, int part, const Fed& row) {
        const size_t at = size_t(part) * s.slots + row.slot;
        above = static_cast<T*>(s.above) + (at * m.grid + (s.step[row.slot] + row.ahead) % m.grid) * m.quarter;
        left = static_cast<T*>(s.left) + at * m.quarter;
    }
};

// The parts of row r's normalised state y (dim) that come from the tokens above and to the left; y's own are kept for
// others. part: two a layer.
template <class T>
void shift(const Model& m, const State& s, Step& step, int part, int r, float* y) {
    const int quarter = m.quarter, index = int(s.step[step.rows[r].slot]) + step.rows[r].ahead;
    const Handed<T> handed(m, s, part, step.rows[r]);
    const size_t kept = (size_t(part) * step.count() + r) * quarter;
    for (int i = 0; i < quarter; ++i) {
        const float own_above = y[i], own_left = y[quarter + i];
        if (!step.single) {
            step.above[kept + i] = number(handed.above[i]);
            step.left[kept + i] = own_left;
        }
        y[i] = index >= m.grid ? number(handed.above[i]) : 0.0f;
        y[quarter + i] = index % m.grid ? number(handed.left[i]) : 0.0f;
        set(handed.above[i], own_above);
        set(handed.left[i], own_left);
    }
}

// As if the rows that are more than `right` ahead had not been fed.
template <class T>
void take_back(const Model& m, const State& s, const Step& step, int right) {
    for (int part = 0; m.quarter && part < 2 * m.depth; ++part)
        for (int r = 0; r < step.count(); ++r) {
            const Handed<T> handed(m, s, part, step.rows[r]);
            const size_t kept = (size_t(part) * step.count() + r) * m.quarter;
            for (int i = 0; i < m.quarter; ++i) {
                if (step.rows[r].ahead > right) set(handed.above[i], step.above[kept + i]);
                if (step.rows[r].ahead == right) set(handed.left[i], step.left[kept + i]);
            }
        }
}

// x (rows, dim) normalised, with parts from elsewhere -> tiles.
template <class T>
Tiles entered(const Model& m, const State& s, Step& step, const Norm& norm, int part, const float* x) {
    const int n = step.count();
    Tiles tiles(room.take(size_t(n) * m.dim), n, m.dim);
    float* y = room.take(size_t(n) * m.dim);
    const bool apart = m.quarter && !step.single;  // rows of a slot wait for each other
    each(n, [&](int r) {
        float* own = y + size_t(r) * m.dim;
        normalise(norm, x + size_t(r) * m.dim, m.dim, [&](int i, V z) { store(own + i, z); });
        if (apart) return;
        if (m.quarter) shift<T>(m, s, step, part, r, own);
        for (int i = 0; i < m.dim; i += LANES) tiles.row(r).put(i, load(own + i));
    });
    for (int r = 0; apart && r < n; ++r) {
        shift<T>(m, s, step, part, r, y + size_t(r) * m.dim);
        for (int i = 0; i < m.dim; i += LANES) tiles.row(r).put(i, load(y + size_t(r) * m.dim + i));
    }
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

// Positions of the text that a slot has read.
int text_of(const State& s, int slot) { return int(s.length[slot] - s.step[slot]); }

// By which position a row turns.
int64_t turning(const Model& m, const State& s, const Fed& row) { return m.text + s.step[row.slot] + row.ahead; }

// Where one head of a slot begins in a buffer (depth, slots, heads, positions, head_dim).
size_t begin(const Model& m, const State& s, int layer, int slot, int head, int positions) {
    return ((size_t(layer) * s.slots + slot) * m.heads + head) * positions * m.head_dim;
}

// Puts one head's key and value of a row into the cache.
template <class T>
void keep(const Model& m, const State& s, int layer, const Fed& row, int head, const float* qkv) {
    const int d = m.head_dim, inner = m.heads * d;
    const int64_t place = s.length[row.slot] + row.ahead;
    const size_t own = begin(m, s, layer, row.slot, head, s.capacity) + place * d;
    const int64_t by = turning(m, s, row);
    turn(m, by, true, qkv + inner + head * d, 1.0f, static_cast<T*>(s.keys) + own);
    turn(m, by, m.turns_values, qkv + 2 * inner + head * d, 1.0f, static_cast<T*>(s.values) + own);
}

// Attention of one head of a row, to its cached positions.
template <class T>
void attend_row(const Model& m, const State& s, int layer, const Fed& row, int head, const float* qkv,
                const Tiles::Row& found) {
    const int d = m.head_dim;
    const int64_t place = s.length[row.slot] + row.ahead;
    const T *keys = static_cast<T*>(s.keys), *values = static_cast<T*>(s.values);
    const size_t own = begin(m, s, layer, row.slot, head, s.capacity);
    const size_t text = begin(m, s, layer, s.text_slots[row.slot], head, s.capacity);
    const int read = text_of(s, row.slot);
    const Kept<T> kept{keys + own, values + own, keys + text, values + text, read};
    float q[MOST_HEAD_DIM], out[MOST_HEAD_DIM];
    turn(m, turning(m, s, row), true, qkv + head * d, 1.0f / std::sqrt(float(d)), q);
    const Layer& of = m.layers[layer];
    if (of.sees < 0) {
        const Run all[] = {{0, read}, {read, int32_t(place) + 1 - read}};
        attend_runs(q, kept, all, 2, d, out);
    } else {
        const int32_t* first = m.sees[of.sees].first + s.step[row.slot] + row.ahead;
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

// Attention of all rows to the cache -> tiles of what was found. The rows of one head follow each other, so that a text
// that they share stays in the processor's cache.
template <class T>
Tiles attended(const Model& m, const State& s, int layer, const Step& step, const float* qkv) {
    const int n = step.count(), inner = m.heads * m.head_dim;
    Tiles found(room.take(size_t(n) * inner), n, inner);
    auto of = [&](int r) { return qkv + size_t(r) * 3 * inner; };
    if (step.single) {
        each(n * m.heads, [&](int i) {
            const int head = i / n, r = i % n;
            keep<T>(m, s, layer, step.rows[r], head, of(r));
            attend_row<T>(m, s, layer, step.rows[r], head, of(r), found.row(r));
        });
    } else {
        each(m.heads, [&](int head) {
            for (int r = 0; r < n; ++r) keep<T>(m, s, layer, step.rows[r], head, of(r));
            for (int r = 0; r < n; ++r) attend_row<T>(m, s, layer, step.rows[r], head, of(r), found.row(r));
        });
    }
    return found;
}

// The same to the encoded texts.
template <class T>
Tiles attended_text(const Model& m, const State& s, int layer, const Step& step, const float* q) {
    const int n = step.count(), inner = m.heads * m.head_dim;
    Tiles found(room.take(size_t(n) * inner), n, inner);
    each(n * m.heads, [&](int i) {
        const int head = i / n, r = i % n;
        attend_text<T>(m, s, layer, step.rows[r].slot, head, q + size_t(r) * inner, found.row(r));
    });
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
void layer_of(const Model& m, const State& s, Step& step, int number, float* x1, float* x2) {
    const Layer& layer = m.layers[number];
    const int n = step.count();
    room.empty();
    const float* qkv = projected(layer.qkv, entered<T>(m, s, step, layer.before, 2 * number, x2), n);
    add(layer.out, attended<T>(m, s, number, step, qkv), n, layer.after, layer.scale, x1);
    if (layer.text_q.m.panels) {
        const float* q = projected(layer.text_q, entered<T>(m, s, step, layer.before_text, 0, x1), n);
        add(layer.text_out, attended_text<T>(m, s, number, step, q), n, layer.after_text, nullptr, x1);
    }
    const float* z = projected(layer.w1, entered<T>(m, s, step, layer.before_feed, 2 * number + 1, x1), n);
    add(layer.w2, activated(m, layer.within_feed, z, n), n, layer.after_feed, layer.feed_scale, x2);
}

// Feeds the rows; put(r, column, 16 values) of what the tokens behind them are drawn from. Slots stay where they are.
template <class T, class Put>
void feed(const Model& m, const State& s, Step& step, const Put& put) {
    const int n = step.count();
    std::vector<float> streams(size_t(n) * m.dim * 2);
    float *x1 = streams.data(), *x2 = m.reversible ? x1 + size_t(n) * m.dim : x1;
    each(n, [&](int r) {
        const Fed& row = step.rows[r];
        const float* token = m.table + row.token * m.dim;
        const float* place = m.places ? m.places + (s.step[row.slot] + row.ahead) * m.dim : nullptr;
        float* x = x1 + size_t(r) * m.dim;
        for (int i = 0; i < m.dim; i += LANES) store(x + i, place ? load(token + i) + load(place + i) : load(token + i));
        normalise(m.entering, x, m.dim, [&](int i, V y) { store(x + i, y); });
        if (m.reversible) std::memcpy(x2 + size_t(r) * m.dim, x, m.dim * sizeof(float));
    });
    for (int layer = 0; layer < m.depth; ++layer) layer_of<T>(m, s, step, layer, x1, x2);
    each(n, [&](int r) {
        float* x = x1 + size_t(r) * m.dim;
        for (int i = 0; m.reversible && i < m.dim; ++i) x[i] = (x[i] + x2[size_t(r) * m.dim + i]) / 2.0f;
        if (m.stable) {
            V most = load(x);
            for (int i = LANES; i < m.dim; i += LANES) most = max(most, load(x + i));
            const V scale = splat(largest(most));
            for (int i = 0; i < m.dim; i += LANES) store(x + i, load(x + i) / scale);
        }
        normalise(m.norm, x, m.dim, [&](int i, V y) { store(x + i, y); });
        normalise(m.last_norm, x, m.dim, [&](int i, V y) { put(r, i, y); });
    });
}

}  // namespace
}  // namespace dalle::ordinary
