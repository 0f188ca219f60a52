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

// Token j of the image's group, from logits (rows, vocab). Model has grid, group and vocab; State is of the slots.
template <class Model, class State>
void draw_token(const Model& m, const State& s, const Image& image, int j, const float* logits) {
    const int tokens = m.grid * m.grid;
    const int64_t at = s.position[image.slot] + j;
    int64_t* drawn = s.tokens + size_t(image.slot) * tokens;
    const float* conditional = logits + size_t(image.row) * m.vocab;
    const float* null = image.null_row < 0 ? nullptr : logits + size_t(image.null_row) * m.vocab;
    const float heat = s.begun[image.slot] ? image.heat : image.opening;
    thread_local Draft draft;
    Drawn found = draw(image, conditional, image.guidance == 1.0f ? nullptr : null, m.vocab, heat,
                       s.noise[size_t(image.slot) * tokens + at], draft);
    const int64_t forced = s.forced[size_t(image.slot) * tokens + at];
    const int64_t token = forced >= 0 ? forced : found.token;
    if (image.scored && forced < 0)
        s.score[image.slot] += (conditional[token] - log_sum(conditional, m.vocab)) -
                               (null[token] - log_sum(null, m.vocab));
    const int64_t row = at / m.grid, column = at % m.grid;
    const bool inside = column > EDGE && column < m.grid - EDGE && row >= EDGE && row < m.grid - EDGE;
    if (inside && token != drawn[at - 1]) s.begun[image.slot] = 1;
    s.drawn[size_t(image.slot) * m.group + j] = token;
    drawn[at] = token;
    if (!found.sound) s.bad[image.slot] = 1;
}

}  // namespace dalle
