// A thread pool for steps of tens of microseconds on machines that have other work to do.
//
// parallel_for cuts its chunks into one share per thread. A thread that is done with its own takes
// chunks from the ends of the others', so a slow core does fewer of them, but until then no two
// threads touch the same line: on cores far apart each such meeting takes a fifth of a microsecond.
// A thread with nothing to do spins for at most about 20 µs and then sleeps: on a machine whose
// cores are all taken, a longer spin would burn the very time slice that the others wait for.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <thread>
#include <type_traits>
#include <vector>

namespace yearling {

class Pool {
 public:
  // `threads` counts the caller; 0 takes one per core the process may use.
  explicit Pool(int threads);
  ~Pool();
  Pool(const Pool&) = delete;
  Pool& operator=(const Pool&) = delete;

  int threads() const { return static_cast<int>(workers_.size()) + 1; }

  // Calls body(chunk) for every chunk in [0, chunks), in no order, and returns when all are done.
  // One chunk, or a pool of one thread, runs in the caller without any synchronisation.
  template <typename Body>
  void parallel_for(std::size_t chunks, Body&& body) {
    if (chunks <= 1 || workers_.empty()) {
      for (std::size_t chunk = 0; chunk < chunks; ++chunk) body(chunk);
      return;
    }
    if (chunks <= Share::kMask) return dispatch(body, chunks);
    const std::size_t together = (chunks + Share::kMask - 1) / Share::kMask;
    const auto several = [&](std::size_t group) {
      const std::size_t end = std::min(chunks, (group + 1) * together);
      for (std::size_t chunk = group * together; chunk < end; ++chunk) body(chunk);
    };
    dispatch(several, (chunks + together - 1) / together);
  }

 private:
  using Call = void (*)(void*, std::size_t);

  template <typename Body>
  void dispatch(Body& body, std::size_t chunks) {
    using Function = std::remove_const_t<Body>;
    run([](void* context, std::size_t chunk) { (*static_cast<Function*>(context))(chunk); },
        const_cast<void*>(static_cast<const void*>(&body)), chunks);
  }

  // What is left of a thread's share of a job, with the job's generation in one word: a worker that
  // wakes late and holds an old generation can never take a chunk of a newer job, and a chunk taken
  // pins the job.
  struct alignas(64) Share {
    static constexpr int kBits = 16;
    static constexpr std::uint64_t kMask = (1u << kBits) - 1, kLast = 1u << kBits;
    static std::uint64_t pack(std::uint64_t generation, std::uint64_t next, std::uint64_t end) {
      return generation << (2 * kBits) | end << kBits | next;
    }
    static std::uint32_t generation(std::uint64_t word) {
      return static_cast<std::uint32_t>(word >> (2 * kBits));
    }
    static std::uint64_t end(std::uint64_t word) { return word >> kBits & kMask; }
    static std::uint64_t next(std::uint64_t word) { return word & kMask; }

    std::atomic<std::uint64_t> word{0};
  };

  void run(Call call, void* context, std::size_t chunks);
  void work(std::size_t thread);
  void take_chunks(std::uint32_t generation, std::size_t thread);
  // Takes chunks of a share from its front or its end until it is empty; tells how many.
  std::uint32_t take_share(Share& share, std::uint32_t generation, bool from_front);

  std::vector<Share> shares_;  // one per thread, the caller's first
  alignas(64) std::atomic<std::uint32_t> remaining_{0};
  alignas(64) std::atomic<std::uint32_t> generation_{0};
  Call call_ = nullptr;
  void* context_ = nullptr;
  std::atomic<bool> stopping_{false};
  std::mutex run_mutex_;
  std::vector<std::thread> workers_;
};

}  // namespace yearling
