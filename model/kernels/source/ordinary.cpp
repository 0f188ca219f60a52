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
// dalle_ordinary_leap feeds the token just drawn and guesses of those that follow, for one image. The weights are read
// once for all. Then tokens are drawn one after another, each from its row, as dalle_ordinary_sample would: while the
// guess was that token, the next row has computed what a step of its own would have, and the token stands. What was
// drawn behind the first wrong guess are the next guesses: Jacobi's iteration (2410.01699), with the noise of each
// place held fixed. So the tokens are those of single steps.
//
// Every matrix is read once a step, and of the cache only what a layer sees. A row's bits depend on its own state alone.
#include "ordinary_block.hpp"

namespace dalle::ordinary {

struct Window {
    int64_t* guesses;  // (ahead): of the tokens that follow the one just drawn
    int32_t ahead;
    int32_t right;     // result: guesses that were right
};

namespace {

template <class T>
void decode(const Model& m, const State& s, const Rows& rows) {
    Step step;
    for (int r = 0; r < rows.count; ++r) step.rows.push_back({rows.slots[r], 0, s.drawn[rows.sources[r]]});
    feed<T>(m, s, step, [&](int r, int i, V y) { store(s.hidden + size_t(rows.slots[r]) * m.dim + i, y); });
    for (int r = 0; r < rows.count; ++r) {
        s.length[rows.slots[r]] += 1;
        s.step[rows.slots[r]] += 1;
    }
}

// Row i * rows.count + r of the step is row r, i tokens ahead.
template <class T>
void leap(const Model& m, const State& s, const Rows& rows, Window& window) {
    const int n = rows.count, width = window.ahead + 1;
    const Image& image = rows.images[0];
    Step step;
    for (int i = 0; i < width; ++i)
        for (int r = 0; r < n; ++r)
            step.rows.push_back({rows.slots[r], i, i ? window.guesses[i - 1] : s.drawn[rows.sources[r]]});
    step.single = false;
    step.above.resize(size_t(2) * m.depth * n * width * m.quarter);
    step.left.resize(step.above.size());
    std::vector<float> found(size_t(n) * width * m.dim);
    feed<T>(m, s, step, [&](int r, int i, V y) { store(found.data() + size_t(r) * m.dim + i, y); });
    room.empty();
    Tiles hidden(room.take(found.size()), n * width, m.dim);
    for (int r = 0; r < n * width; ++r)
        for (int i = 0; i < m.dim; i += LANES) hidden.row(r).put(i, load(found.data() + size_t(r) * m.dim + i));
    const float* logits = projected(m.head, hidden, n * width);
    auto of = [&](int i) { return logits + size_t(i) * n * m.vocab; };
    int right = 0;
    const int64_t first = s.position[image.slot];
    for (; right < window.ahead; ++right) {
        const Drawn token = next_token(m, s, image, first + right, of(right));
        if (token.token != window.guesses[right] || !token.sound) break;
        write_token(m, s, image, first + right, 0, of(right), token);
    }
    int64_t last = s.drawn[image.slot];
    for (int i = 0; i < window.ahead; ++i) {  // the next step feeds the token at first + right, and guesses what follows
        const int at = right + 1 + i;
        if (at <= window.ahead) last = next_token(m, s, image, first + at, of(at)).token;
        window.guesses[i] = last;
    }
    take_back<T>(m, s, step, right);
    for (int r = 0; r < n; ++r) {
        const int slot = rows.slots[r];
        std::memcpy(s.hidden + size_t(slot) * m.dim, found.data() + (size_t(right) * n + r) * m.dim, m.dim * sizeof(float));
        s.length[slot] += right + 1;
        s.step[slot] += right + 1;
    }
    s.position[image.slot] += right;
    window.right = right;
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

void dalle_ordinary_leap(const dalle::ordinary::Model* model, const dalle::ordinary::State* state,
                         const dalle::Rows* rows, dalle::ordinary::Window* window) {
    std::lock_guard<std::mutex> hold(dalle::one_step);
    dalle::pool->begin();
    if (model->narrow_cache) dalle::ordinary::leap<dalle::bf16>(*model, *state, *rows, *window);
    else dalle::ordinary::leap<float>(*model, *state, *rows, *window);
    dalle::pool->end();
}
}
