// A pool of threads that share the pieces of one job after another.
//
// Whoever is free takes the next piece, so a thread that the system has put aside delays at most its own piece, and a
// thread that sleeps delays nothing. A waiting thread spins for a short while, then sleeps until there is work. Where other
// processes want the cores, a helper is often put aside within a piece. So if the caller has waited in a step for longer
// than it has computed, it computes the next steps alone: 16, and twice as many each time that another try was in vain.
#pragma once
#include <immintrin.h>
#include <sched.h>
#include <time.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <thread>
#include <vector>

namespace dalle {

class Pool {
    using Clock = std::chrono::steady_clock;

   public:
    // threads: the caller's own included.
    explicit Pool(int threads) {
        for (int i = 1; i < threads; ++i) helpers_.emplace_back([this] { help(); });
    }

    ~Pool() {
        ended_ = true;
        { std::lock_guard<std::mutex> hold(lock_); }
        wake_.notify_all();
        for (std::thread& helper : helpers_) helper.join();
    }

    // Around the jobs of a step.
    void begin() {
        waited_ = {};
        computed_ = -processor_time();
    }
    void end() {
        if (alone_ > 0) {
            --alone_;
        } else if (waited_.count() > computed_ + processor_time()) {
            alone_ = patience_;
            patience_ = std::min(256, 2 * patience_);
        } else {
            patience_ = 16;
        }
    }

    int threads() const { return static_cast<int>(helpers_.size()) + 1; }

    // Calls work(first, end) for pieces of 0 .. count - 1, each number once, and returns when all are done.
    template <class Work>
    void run(int count, const Work& work) {
        // Four pieces a thread: small enough to even out, large enough to cost nothing.
        int size = std::max(1, count / (4 * threads()));
        int pieces = (count + size - 1) / size;
        if (helpers_.empty() || pieces <= 1 || alone_ > 0) {
            if (count) work(0, count);
            return;
        }
        call_ = [](const void* of, int first, int end) { (*static_cast<const Work*>(of))(first, end); };
        work_ = &work;
        size_ = size;
        count_ = count;
        done_.store(0, std::memory_order_relaxed);
        generation_ = (generation_ + 1) & 0xFFFFF;
        // The job, the number of its pieces, and the next piece, in one word: who takes a piece knows whose it is.
        ticket_.store(uint64_t(generation_) << 44 | uint64_t(pieces) << 22, std::memory_order_seq_cst);
        if (sleepers_.load(std::memory_order_seq_cst)) {
            { std::lock_guard<std::mutex> hold(lock_); }
            wake_.notify_all();
        }
        while (take()) {
        }
        for (int spins = 0; spins < 500; ++spins) {
            if (done_.load(std::memory_order_acquire) == pieces) return;
            _mm_pause();
        }
        const Clock::time_point finished = Clock::now();
        computed_ += processor_time();
        while (done_.load(std::memory_order_acquire) != pieces) sched_yield();
        computed_ -= processor_time();
        waited_ += Clock::now() - finished;
    }

   private:
    // Of this thread, in nanoseconds.
    static int64_t processor_time() {
        timespec now;
        clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
        return int64_t(now.tv_sec) * 1000000000 + now.tv_nsec;
    }

    static constexpr uint64_t PART = (uint64_t(1) << 22) - 1;

    static bool has_piece(uint64_t ticket) { return (ticket & PART) < (ticket >> 22 & PART); }

    // Does one piece. False if none is left.
    bool take() {
        if (!has_piece(ticket_.load(std::memory_order_acquire))) return false;
        uint64_t ticket = ticket_.fetch_add(1, std::memory_order_acq_rel);
        if (!has_piece(ticket)) return false;
        // The job stays as it is until this piece is done.
        int first = static_cast<int>(ticket & PART) * size_;
        call_(work_, first, std::min(count_, first + size_));
        done_.fetch_add(1, std::memory_order_release);
        return true;
    }

    void help() {
        while (!ended_) {
            if (take()) continue;
            auto until = Clock::now() + std::chrono::microseconds(100);
            bool found = false;
            while (!found && Clock::now() < until) {
                for (int i = 0; i < 16 && !found; ++i) {
                    _mm_pause();
                    found = has_piece(ticket_.load(std::memory_order_acquire));
                }
            }
            if (found) continue;
            std::unique_lock<std::mutex> hold(lock_);
            sleepers_.fetch_add(1, std::memory_order_seq_cst);
            wake_.wait(hold, [this] { return ended_ || has_piece(ticket_.load(std::memory_order_seq_cst)); });
            sleepers_.fetch_sub(1, std::memory_order_seq_cst);
        }
    }

    std::vector<std::thread> helpers_;
    std::mutex lock_;
    std::condition_variable wake_;
    std::atomic<int> sleepers_{0};
    std::atomic<bool> ended_{false};
    // Of the present step.
    std::chrono::nanoseconds waited_{};
    int64_t computed_ = 0;  // nanoseconds of the caller, without its waiting
    int alone_ = 0, patience_ = 16;  // steps
    // Of the present job.
    void (*call_)(const void*, int, int) = nullptr;
    const void* work_ = nullptr;
    int size_ = 0, count_ = 0;
    uint32_t generation_ = 0;
    alignas(64) std::atomic<uint64_t> ticket_{0};
    alignas(64) std::atomic<int> done_{0};
};

}  // namespace dalle
