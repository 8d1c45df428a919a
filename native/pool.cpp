#include "pool.hpp"

#include <sched.h>

#include <chrono>
#include <stdexcept>

namespace yearling {
namespace {

constexpr auto kSpin = std::chrono::microseconds(20);

inline void relax() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Spins until `ready()` or the spin time is over; tells which.
template <typename Ready>
bool spin_until(Ready&& ready) {
  const auto deadline = std::chrono::steady_clock::now() + kSpin;
  do {
    for (int turn = 0; turn < 32; ++turn) {
      if (ready()) return true;
      relax();
    }
  } while (std::chrono::steady_clock::now() < deadline);
  return ready();
}

int usable_cores() {
#if defined(__linux__)
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0) return CPU_COUNT(&set);
#endif
  return static_cast<int>(std::thread::hardware_concurrency());
}

}  // namespace

Pool::Pool(int threads) {
  if (threads < 0 || threads > 256) {
    throw std::invalid_argument("threads=" + std::to_string(threads) +
                                " must be between 0 (all cores) and 256.");
  }
  if (threads == 0) threads = std::max(1, usable_cores());
  shares_ = std::vector<Share>(static_cast<std::size_t>(threads));
  for (std::size_t thread = 1; thread < shares_.size(); ++thread) {
    workers_.emplace_back([this, thread] { work(thread); });
  }
}

Pool::~Pool() {
  stopping_.store(true);
  generation_.fetch_add(1);
  generation_.notify_all();
  for (auto& worker : workers_) worker.join();
}

void Pool::run(Call call, void* context, std::size_t chunks) {
  const std::lock_guard lock(run_mutex_);
  call_ = call;
  context_ = context;
  remaining_.store(static_cast<std::uint32_t>(chunks), std::memory_order_relaxed);
  const std::uint32_t generation = generation_.load(std::memory_order_relaxed) + 1;
  for (std::size_t thread = 0; thread < shares_.size(); ++thread) {
    const std::size_t next = chunks * thread / shares_.size();
    const std::size_t end = chunks * (thread + 1) / shares_.size();
    shares_[thread].word.store(Share::pack(generation, next, end), std::memory_order_release);
  }
  generation_.store(generation, std::memory_order_release);
  generation_.notify_all();
  take_chunks(generation, 0);
  const auto done = [this] { return remaining_.load(std::memory_order_acquire) == 0; };
  if (spin_until(done)) return;
  for (auto left = remaining_.load(std::memory_order_acquire); left != 0;
       left = remaining_.load(std::memory_order_acquire)) {
    remaining_.wait(left, std::memory_order_acquire);
  }
}

std::uint32_t Pool::take_share(Share& share, std::uint32_t generation, bool from_front) {
  std::uint32_t taken = 0;
  auto word = share.word.load(std::memory_order_acquire);
  while (Share::generation(word) == generation && Share::next(word) < Share::end(word)) {
    const std::uint64_t left = from_front ? word + 1 : word - Share::kLast;
    if (!share.word.compare_exchange_weak(word, left, std::memory_order_acq_rel)) continue;
    call_(context_, from_front ? Share::next(word) : Share::end(word) - 1);
    ++taken;
    word = share.word.load(std::memory_order_acquire);
  }
  return taken;
}

void Pool::take_chunks(std::uint32_t generation, std::size_t thread) {
  std::uint32_t taken = take_share(shares_[thread], generation, true);
  for (std::size_t other = 1; other < shares_.size(); ++other) {
    taken += take_share(shares_[(thread + other) % shares_.size()], generation, false);
  }
  // The last chunks release the caller, which may be asleep.
  if (taken > 0 && remaining_.fetch_sub(taken, std::memory_order_acq_rel) == taken) {
    remaining_.notify_one();
  }
}

void Pool::work(std::size_t thread) {
  std::uint32_t seen = 0;
  while (!stopping_.load(std::memory_order_relaxed)) {
    const auto changed = [&] { return generation_.load(std::memory_order_acquire) != seen; };
    if (!spin_until(changed)) generation_.wait(seen, std::memory_order_acquire);
    const std::uint32_t generation = generation_.load(std::memory_order_acquire);
    if (generation == seen) continue;
    seen = generation;
    take_chunks(generation, thread);
  }
}

}  // namespace yearling
