// The rows of a step, and the next token of an image: drawn, and written down with what follows from it.
#pragma once
#include "sampling.hpp"

namespace dalle {

struct Rows {  // of a step, as model/kernels/layout.py has them
    const int32_t* slots;    // (count)
    const int32_t* sources;  // (count): the slot whose tokens a row reads
    const Image* images;
    int32_t count, image_count;
};

constexpr int EDGE = 2;  // as in model/inference/decoder.py

// The token that stands at `at` in the image, from logits (rows, vocab), forced or drawn.
// Model has grid, group and vocab; State is of the slots.
template <class Model, class State>
Drawn next_token(const Model& m, const State& s, const Image& image, int64_t at, const float* logits) {
    const size_t place = size_t(image.slot) * m.grid * m.grid + at;
    const bool guided = image.null_row >= 0 && image.guidance != 1.0f;
    const float* null = guided ? logits + size_t(image.null_row) * m.vocab : nullptr;
    const float heat = s.begun[image.slot] ? image.heat : image.opening;
    thread_local Draft draft;
    Drawn found = draw(image, logits + size_t(image.row) * m.vocab, null, m.vocab, heat, s.noise[place], draft);
    if (s.forced[place] >= 0) found.token = int32_t(s.forced[place]);
    return found;
}

// Writes it down, as number j of a group, with what follows from it.
template <class Model, class State>
void write_token(const Model& m, const State& s, const Image& image, int64_t at, int j, const float* logits, Drawn found) {
    const int tokens = m.grid * m.grid, token = found.token;
    int64_t* drawn = s.tokens + size_t(image.slot) * tokens;
    if (image.scored && s.forced[size_t(image.slot) * tokens + at] < 0) {
        const float* conditional = logits + size_t(image.row) * m.vocab;
        const float* null = logits + size_t(image.null_row) * m.vocab;
        s.score[image.slot] += (conditional[token] - log_sum(conditional, m.vocab)) -
                               (null[token] - log_sum(null, m.vocab));
    }
    const int64_t row = at / m.grid, column = at % m.grid;
    const bool inside = column > EDGE && column < m.grid - EDGE && row >= EDGE && row < m.grid - EDGE;
    if (inside && token != drawn[at - 1]) s.begun[image.slot] = 1;
    s.drawn[size_t(image.slot) * m.group + j] = token;
    drawn[at] = token;
    if (!found.sound) s.bad[image.slot] = 1;
}

// Token j of the image's group.
template <class Model, class State>
void draw_token(const Model& m, const State& s, const Image& image, int j, const float* logits) {
    const int64_t at = s.position[image.slot] + j;
    write_token(m, s, image, at, j, logits, next_token(m, s, image, at, logits));
}

}  // namespace dalle
