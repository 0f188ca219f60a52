// What the steps of all models share: one pool of threads, and the memory of a step.
#pragma once
#include <memory>
#include <mutex>
#include <vector>

#include "lanes.hpp"
#include "pool.hpp"

namespace dalle {

// Memory of a step, taken piece by piece and given back as a whole.
class Room {
   public:
    void empty() { used_ = 0; }
    float* take(size_t floats) {
        if (used_ == parts_.size()) parts_.emplace_back();
        return aligned(parts_[used_++], floats);
    }

   private:
    std::vector<std::vector<float>> parts_;
    size_t used_ = 0;
};

inline std::mutex one_step;  // steps of several engines of a process take turns
inline std::unique_ptr<Pool> pool;
inline Room room;

}  // namespace dalle
