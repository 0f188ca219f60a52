// One step of our transformer (model/transformer) on the CPU, in float32: what `SlotDecoder.sample` and
// `SlotDecoder.decode` compute with torch. Rows are slots of the KV cache, each at its own position.
//
// dalle_sample draws a group of tokens for every image, one token after another. For token j of the group:
//     x          = hidden[j] + from_left(vectors of the j tokens drawn before)
//     x          = x + w2 relu(w1 norm(x))^2                      for each block of the local network
//     code       = to_code(norm(x))
//     logits     = own vectors of the codes . code + the levels' vectors . code + bias
//     token      = guidance, temperature, top-k, top-p, and the inverse of the cumulated probabilities at the noise
//
// dalle_decode feeds these groups to the body. For each row:
//     x          = norm(group_in(vectors of the group)) + place + caption
//     q, k, v    = qkv(norm1(x)); q and k are normalised a head, turned, q sharpened; k, v go to the cache   } for each
//     x          = x + out(attention of q to the row's positions)                                            } block
//     x          = x + w2 relu(w1 norm2(x))^2                                                                } of the body
//     hidden     = from_body(norm(x)) + from_above(vectors above) + from_left(vectors to the left)
//
// Every matrix is read once a step, or once a token in the local network. A row's bits depend on its own state alone.
#include "attention.hpp"
#include "drawing.hpp"
#include "linear.hpp"
#include "norm.hpp"
#include "shared.hpp"

namespace dalle {

constexpr float EPS = 1e-6f;
constexpr int ALONE = 2048;  // numbers that are normalised sooner than another thread would have begun

// These are as model/kernels/layout.py has them.
struct Block {
    Matrix qkv, out, w1, w2;
    const float *norm1, *norm2, *gain;
};
struct LocalBlock {
    Matrix w1, w2;
    const float* norm;
};
struct Model {
    Matrix group_in, from_body, from_above, from_left, to_code, own;
    const Block* blocks;
    const LocalBlock* local_blocks;
    const float *places;               // (steps + 1, dim)
    const float *cos, *sin;            // (max_text + steps + 1, head_dim)
    const float *norm, *local_norm;    // (dim), (local_dim)
    const float *codes, *bias;         // (vocab, code_dim), (vocab)
    const float* shared;               // (sum of levels, code_dim): the parts of codes that their levels share
    const int32_t* levels;             // (level_count): codes of each level, the first changes fastest
    int32_t dim, depth, heads, kv_heads, head_dim, max_text;
    int32_t group, grid, vocab, code_dim, local_dim, local_depth, left, above, level_count;
};
struct State {
    Narrow *keys, *values;    // (depth, slots, kv_heads, capacity, head_dim)
    int64_t *length, *step;   // (slots)
    int64_t* fed;             // (slots, tokens): image tokens fed
    const float* caption;     // (slots, dim)
    float* hidden;            // (slots, group * local_dim)
    int64_t *tokens, *drawn;  // (slots, tokens), (slots, group)
    const int64_t* forced;    // (slots, tokens), -1 where the model draws
    const double* noise;      // (slots, tokens)
    int64_t* position;        // (slots): image tokens drawn
    uint8_t *begun, *bad;     // (slots)
    double* score;            // (slots)
    int32_t slots, capacity;
};

namespace {

// x (rows, width) normalised -> tiles.
Tiles normalised(const float* x, int rows, int width, const float* weight) {
    Tiles tiles(room.take(size_t(rows) * width), rows, width);
    auto some = [&](int first, int end) {
        for (int r = first; r < end; ++r) {
            Tiles::Row row = tiles.row(r);
            normalise(x + size_t(r) * width, width, weight, nullptr, EPS, [&](int i, V y) { row.put(i, y); });
        }
    };
    if (rows * width <= ALONE) some(0, rows);
    else pool->run(rows, some);
    return tiles;
}

// y (rows, m.out) += m x.
void add_linear(const Matrix& m, const Tiles& x, float* y, int skipped = 0) {
    linear(*pool, m, x, [&](int row, int column, V sums) {
        float* at = y + size_t(row) * m.out + column;
        store(at, load(at) + sums);
    }, skipped);
}

// x (rows, width) += w2 relu(w1 norm(x))^2.
void feed_forward(float* x, int rows, int width, const float* norm, const Matrix& w1, const Matrix& w2) {
    Tiles y = normalised(x, rows, width, norm);
    Tiles inner(room.take(size_t(rows) * w1.out), rows, w1.out);
    linear(*pool, w1, y, [&](int row, int column, V sums) {
        V positive = max(zero(), sums);
        inner.row(row).put(column, positive * positive);
    });
    add_linear(w2, inner, x);
}

void put_code(const Model& m, const Tiles::Row& row, int column, int64_t code) {
    for (int i = 0; i < m.code_dim; i += LANES) row.put(column + i, load(m.codes + code * m.code_dim + i));
}

void put_zeros(const Model& m, const Tiles::Row& row, int column) {
    for (int i = 0; i < m.code_dim; i += LANES) row.put(column + i, zero());
}

// One head, normalised and turned: to (head_dim), scaled.
void turn(const float* x, const float* cos, const float* sin, int width, float scale, float* to) {
    float y[MOST_WIDTH];
    normalise(x, width, nullptr, nullptr, EPS, [&](int i, V v) { store(y + i, v); });
    const int half = width / 2;
    for (int i = 0; i < width; ++i)
        to[i] = std::fma(y[i < half ? i + half : i - half], sin[i], y[i] * cos[i]) * scale;
}

// Attention of one row to the positions under one head of keys.
void attend_row(const Model& m, const State& s, int layer, int slot, int kv, const float* qkv, const Tiles::Row& found) {
    const int d = m.head_dim, shared = m.heads / m.kv_heads;
    const int64_t place = s.length[slot], at = (m.max_text + s.step[slot]) * d;
    const size_t cached = ((size_t(layer) * s.slots + slot) * m.kv_heads + kv) * s.capacity * d;
    const float *cos = m.cos + at, *sin = m.sin + at;
    prefetch(s.keys + cached, std::min<int>(place, AHEAD) * d);
    float key[MOST_WIDTH];
    turn(qkv + (m.heads + kv) * d, cos, sin, d, 1.0f, key);
    const float* value = qkv + (m.heads + m.kv_heads + kv) * d;
    for (int i = 0; i < d; i += LANES) {
        store(s.keys + cached + place * d + i, load(key + i));
        store(s.values + cached + place * d + i, load(value + i));
    }
    thread_local std::vector<float> memory;
    const int positions = int(place) + 1, stride = (positions + LANES - 1) / LANES * LANES;
    memory.resize(size_t(2 * shared) * d + size_t(MOST_QUERIES) * stride);
    float *q = memory.data(), *out = q + shared * d, *shares = out + shared * d;
    const float scale = 1.0f / std::sqrt(float(d));
    for (int g = 0; g < shared; ++g) {
        int head = kv * shared + g;
        turn(qkv + head * d, cos, sin, d, m.blocks[layer].gain[head] * scale, q + g * d);
    }
    attend(shared, q, s.keys + cached, s.values + cached, positions, d, shares, stride, out);
    for (int i = 0; i < shared * d; i += LANES) found.put(kv * shared * d + i, load(out + i));
}

void body(const Model& m, const State& s, const Rows& rows, float* x) {
    const int n = rows.count;
    for (int layer = 0; layer < m.depth; ++layer) {
        const Block& block = m.blocks[layer];
        room.empty();
        float* qkv = room.take(size_t(n) * block.qkv.out);
        linear(*pool, block.qkv, normalised(x, n, m.dim, block.norm1), [&](int row, int column, V sums) {
            store(qkv + size_t(row) * block.qkv.out + column, sums);
        });
        Tiles found(room.take(size_t(n) * m.heads * m.head_dim), n, m.heads * m.head_dim);
        pool->run(n * m.kv_heads, [&](int first, int end) {
            for (int i = first; i < end; ++i) {
                int row = i / m.kv_heads;
                attend_row(m, s, layer, rows.slots[row], i % m.kv_heads, qkv + size_t(row) * block.qkv.out,
                           found.row(row));
            }
        });
        add_linear(block.out, found, x);
        feed_forward(x, n, m.dim, block.norm2, block.w1, block.w2);
    }
}

// hidden (rows, group * local_dim) += from_above and from_left of the tokens fed.
void add_neighbours(const Model& m, const State& s, const Rows& rows, float* hidden) {
    const int n = rows.count, window = 2 * m.above + 1, tokens = m.grid * m.grid;
    Tiles above(room.take(size_t(n) * m.group * window * m.code_dim), n * m.group, window * m.code_dim);
    Tiles left(room.take(size_t(n) * m.group * m.left * m.code_dim), n * m.group, m.left * m.code_dim);
    for (int i = 0; i < n * m.group; ++i) {
        const int slot = rows.slots[i / m.group], j = i % m.group;
        const int64_t* fed = s.fed + size_t(slot) * tokens;
        const int first = int(s.step[slot]) * m.group, column = first % m.grid;
        auto put = [&](const Tiles::Row& row, int at, int offset, int back) {
            const int where = column + offset, index = first + offset - back;
            if (where >= 0 && where < m.grid && index >= 0) put_code(m, row, at * m.code_dim, fed[index]);
            else put_zeros(m, row, at * m.code_dim);
        };
        Tiles::Row up = above.row(i), before = left.row(i);
        for (int w = 0; w < window; ++w) put(up, w, j + w - m.above, m.grid);
        for (int w = 0; w < m.left; ++w) {
            const int offset = j + w - m.left;
            if (offset < 0) put(before, w, offset, 0);
            else put_zeros(m, before, w * m.code_dim);
        }
    }
    add_linear(m.from_above, above, hidden);
    add_linear(m.from_left, left, hidden);
}

// logits (vocab) = the levels' shared vectors . code + bias; code (code_dim).
void start_logits(const Model& m, const float* code, float* logits) {
    const float* shared = m.shared;
    int size = 1;  // codes of the levels so far: their sums stand at the start
    logits[0] = 0.0f;
    for (int level = 0; level < m.level_count; shared += m.levels[level++] * m.code_dim) {
        for (int i = m.levels[level] - 1; i >= 0; --i) {
            V total = zero();
            for (int c = 0; c < m.code_dim; c += LANES)
                total = fma(load(shared + i * m.code_dim + c), load(code + c), total);
            const float part = sum(total);
            float* to = logits + size_t(i) * size;
            int at = 0;
            for (; at + LANES <= size; at += LANES) store(to + at, load(logits + at) + splat(part));
            for (; at < size; ++at) to[at] = logits[at] + part;
        }
        size *= m.levels[level];
    }
    if (!m.level_count) std::fill(logits, logits + m.vocab, 0.0f);
    for (int at = 0; at < m.vocab; at += LANES) store(logits + at, load(logits + at) + load(m.bias + at));
}

// x (rows, local_dim) -> logits (rows, vocab).
void local_logits(const Model& m, float* x, int rows, float* logits) {
    for (int i = 0; i < m.local_depth; ++i) {
        const LocalBlock& block = m.local_blocks[i];
        feed_forward(x, rows, m.local_dim, block.norm, block.w1, block.w2);
    }
    Tiles code(room.take(size_t(rows) * m.code_dim), rows, m.code_dim);
    float* plain = room.take(size_t(rows) * m.code_dim);
    linear(*pool, m.to_code, normalised(x, rows, m.local_dim, m.local_norm), [&](int row, int column, V sums) {
        code.row(row).put(column, sums);
        store(plain + size_t(row) * m.code_dim + column, sums);
    });
    pool->run(rows, [&](int first, int end) {
        for (int r = first; r < end; ++r) start_logits(m, plain + size_t(r) * m.code_dim, logits + size_t(r) * m.vocab);
    });
    add_linear(m.own, code, logits);
}

void sample(const Model& m, const State& s, const Rows& rows) {
    const int n = rows.count;
    for (int j = 0; j < m.group; ++j) {
        room.empty();
        float* x = room.take(size_t(n) * m.local_dim);
        float* logits = room.take(size_t(n) * m.vocab);
        for (int r = 0; r < n; ++r)
            std::memcpy(x + size_t(r) * m.local_dim,
                        s.hidden + (size_t(rows.slots[r]) * m.group + j) * m.local_dim, m.local_dim * sizeof(float));
        if (const int seen = std::min(j, m.left)) {
            Tiles left(room.take(size_t(n) * seen * m.code_dim), n, seen * m.code_dim);
            for (int r = 0; r < n; ++r)
                for (int i = 0; i < seen; ++i)
                    put_code(m, left.row(r), i * m.code_dim, s.drawn[size_t(rows.sources[r]) * m.group + j - seen + i]);
            add_linear(m.from_left, left, x, (m.left - seen) * m.code_dim);
        }
        local_logits(m, x, n, logits);
        pool->run(rows.image_count, [&](int first, int end) {
            for (int i = first; i < end; ++i) draw_token(m, s, rows.images[i], j, logits);
        });
    }
    for (int i = 0; i < rows.image_count; ++i) s.position[rows.images[i].slot] += m.group;
}

void decode(const Model& m, const State& s, const Rows& rows) {
    const int n = rows.count, tokens = m.grid * m.grid, wide = m.group * m.local_dim;
    std::vector<float> x(size_t(n) * m.dim);
    room.empty();
    float* entered = room.take(size_t(n) * m.dim);
    Tiles codes(room.take(size_t(n) * m.group * m.code_dim), n, m.group * m.code_dim);
    for (int r = 0; r < n; ++r) {
        const int slot = rows.slots[r];
        const int64_t* drawn = s.drawn + size_t(rows.sources[r]) * m.group;
        std::memcpy(s.fed + size_t(slot) * tokens + s.step[slot] * m.group, drawn, m.group * sizeof(int64_t));
        for (int j = 0; j < m.group; ++j) put_code(m, codes.row(r), j * m.code_dim, drawn[j]);
        s.step[slot] += 1;
    }
    std::fill(entered, entered + size_t(n) * m.dim, 0.0f);
    add_linear(m.group_in, codes, entered);
    for (int r = 0; r < n; ++r) {
        const int slot = rows.slots[r];
        normalise(entered + size_t(r) * m.dim, m.dim, nullptr, nullptr, EPS, [&](int i, V y) {
            y = y + load(m.places + s.step[slot] * m.dim + i);
            store(x.data() + size_t(r) * m.dim + i, y + load(s.caption + size_t(slot) * m.dim + i));
        });
    }
    body(m, s, rows, x.data());
    room.empty();
    float* hidden = room.take(size_t(n) * wide);
    std::fill(hidden, hidden + size_t(n) * wide, 0.0f);
    add_linear(m.from_body, normalised(x.data(), n, m.dim, m.norm), hidden);
    add_neighbours(m, s, rows, hidden);
    for (int r = 0; r < n; ++r) {
        s.length[rows.slots[r]] += 1;
        std::memcpy(s.hidden + size_t(rows.slots[r]) * wide, hidden + size_t(r) * wide, wide * sizeof(float));
    }
}

}  // namespace
}  // namespace dalle

extern "C" {

// Changes with every change of the structures above.
int dalle_layout() { return 6; }

// Threads that a step of any engine of this process uses from now on.
void dalle_threads(int count) {
    std::lock_guard<std::mutex> hold(dalle::one_step);
    if (!dalle::pool || dalle::pool->threads() != count) dalle::pool = std::make_unique<dalle::Pool>(count);
}

void dalle_sample(const dalle::Model* model, const dalle::State* state, const dalle::Rows* rows) {
    std::lock_guard<std::mutex> hold(dalle::one_step);
    dalle::pool->begin();
    dalle::sample(*model, *state, *rows);
    dalle::pool->end();
}

void dalle_decode(const dalle::Model* model, const dalle::State* state, const dalle::Rows* rows) {
    std::lock_guard<std::mutex> hold(dalle::one_step);
    dalle::pool->begin();
    dalle::decode(*model, *state, *rows);
    dalle::pool->end();
}
}
