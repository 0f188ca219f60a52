// Draws one token from logits, as model/inference/sampling.py does: guidance, temperature, top-k, top-p, and the inverse
// of the cumulated probabilities at a given number.
#pragma once
#include <algorithm>
#include <cfloat>
#include <cmath>
#include <functional>
#include <vector>

#include "lanes.hpp"

namespace dalle {

struct Image {  // as model/kernels/layout.py has it
    double top_p;
    int32_t slot;      // of its tokens and noise
    int32_t row;       // of its logits
    int32_t null_row;  // of the null prompt's logits, -1 for none
    int32_t greedy;
    int32_t scored;
    int32_t top_k;  // the number of tokens where it is off
    float guidance;
    float heat;
    float opening;
};

struct Drawn {
    int32_t token;
    bool sound;
};

// What a thread needs to draw.
struct Draft {
    std::vector<float> weight, best;
    std::vector<int32_t> candidate;
};

// log of the sum of e^x.
inline double log_sum(const float* x, int count) {
    V most = load(x);
    for (int i = LANES; i < count; i += LANES) most = max(most, load(x + i));
    const float top = largest(most);
    V total = zero();
    for (int i = 0; i < count; i += LANES) total = total + exp(load(x + i) - splat(top));
    return top + std::log(double(sum(total)));
}

// Leaves in `draft.candidate` the tokens that top-k and top-p keep, ascending. `best`: the largest weight of each 16.
inline void restrict_to(const Image& image, int vocab, Draft& draft) {
    const float* weight = draft.weight.data();
    std::vector<float>& best = draft.best;
    float least = FLT_MIN;  // a token of weight 0 is never drawn
    if (image.top_k <= int(best.size())) {
        // So many weights are at least this, so the largest top_k are.
        std::nth_element(best.begin(), best.begin() + (image.top_k - 1), best.end(), std::greater<float>());
        least = std::max(least, best[image.top_k - 1]);
    }
    std::vector<int32_t>& kept = draft.candidate;
    kept.clear();
    for (int i = 0; i < vocab; i += LANES)
        for (uint32_t mask = at_least(load(weight + i), splat(least)); mask; mask &= mask - 1)
            kept.push_back(i + __builtin_ctz(mask));
    std::vector<float>& ranked = best;
    ranked.clear();
    for (int32_t token : kept) ranked.push_back(weight[token]);
    size_t last = std::min<size_t>(image.top_k, ranked.size()) - 1;
    if (image.top_p < 1.0) {
        std::sort(ranked.begin(), ranked.end(), std::greater<float>());
        double whole = 0.0, mass = 0.0;
        for (size_t i = 0; i <= last; ++i) whole += ranked[i];
        size_t reached = 0;
        for (mass = ranked[0]; reached < last && mass < image.top_p * whole; mass += ranked[++reached]) {
        }
        last = reached;
    } else {
        std::nth_element(ranked.begin(), ranked.begin() + last, ranked.end(), std::greater<float>());
    }
    const float cut = ranked[last];
    size_t above = std::count_if(kept.begin(), kept.end(), [&](int32_t token) { return weight[token] > cut; });
    size_t room = last + 1 - above;  // tokens at the cut that are kept: the lower ones
    kept.erase(std::remove_if(kept.begin(), kept.end(),
                              [&](int32_t token) {
                                  if (weight[token] > cut) return false;
                                  if (weight[token] < cut || !room) return true;
                                  --room;
                                  return false;
                              }),
               kept.end());
}

// conditional, null (vocab): null may be nullptr. heat: above 0. uniform: in (0, 1).
inline Drawn draw(const Image& image, const float* conditional, const float* null, int vocab, float heat,
                  double uniform, Draft& draft) {
    draft.weight.resize(vocab);
    float* weight = draft.weight.data();
    const V guidance = splat(image.guidance), hot = splat(heat);
    V most = splat(-FLT_MAX), check = zero();
    for (int i = 0; i < vocab; i += LANES) {
        V x = load(conditional + i);
        if (null) x = fma(guidance, x - load(null + i), load(null + i));
        check = fma(x, zero(), check);
        x = image.greedy ? x : x / hot;
        most = max(most, x);
        store(weight + i, x);
    }
    const float top = largest(most);
    if (!(sum(check) == 0.0f)) return {0, false};  // NaN or infinite
    if (image.greedy) return {int32_t(std::find(weight, weight + vocab, top) - weight), true};
    const bool restricted = image.top_k < vocab || image.top_p < 1.0;
    draft.best.clear();
    for (int i = 0; i < vocab; i += LANES) {
        V e = exp(load(weight + i) - splat(top));
        if (restricted) draft.best.push_back(largest(e));
        store(weight + i, e);
    }
    double total = 0.0, reached = 0.0;
    if (!restricted) {
        for (int i = 0; i < vocab; ++i) total += weight[i];
        for (int i = 0; i < vocab; ++i)
            if ((reached += weight[i]) > uniform * total) return {i, true};
        return {vocab - 1, true};
    }
    restrict_to(image, vocab, draft);
    for (int32_t token : draft.candidate) total += weight[token];
    for (int32_t token : draft.candidate)
        if ((reached += weight[token]) > uniform * total) return {token, true};
    return {draft.candidate.back(), true};
}

}  // namespace dalle
