/**
 * The gate is one atomic word: epoch (high 32 bits), open flag (bit 31), workers inside (low bits). A worker enters an
 * open gate once per epoch; the caller closes it when the indices are used up and waits only for those inside, so a
 * worker that sleeps through a short job costs nothing. Idle workers spin for some 30 microseconds, then sleep.
 */
#include "pool.h"

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <thread>
#include <vector>

#include "memory.h"

namespace sluice {

namespace {

constexpr uint64_t kOpen = uint64_t(1) << 31;
constexpr uint64_t kInside = kOpen - 1;
constexpr int kSpins = 800;

inline void relax() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

struct Block {
  void* data = nullptr;
  int64_t bytes = 0;

  void* grow(int64_t wanted) {
    if (wanted > bytes) {
      if (data) release(data);
      bytes = wanted + wanted / 4;
      data = allocate(bytes);
      if (!data) data = allocate(bytes = wanted);
      if (!data) {
        bytes = 0;
        throw NoScratch{wanted};
      }
    }
    return data;
  }
  ~Block() {
    if (data) release(data);
  }
};

}  // namespace

struct Pool::State {
  alignas(64) std::atomic<uint64_t> gate{0};
  alignas(64) std::atomic<int64_t> next{0};
  alignas(64) std::atomic<int> sleepers{0};
  std::atomic<bool> stop{false};
  std::atomic<int64_t> lacking{0};  // bytes of scratch that a task asked for in vain
  int64_t count = 0, grain = 1;
  RangeFn fn = nullptr;
  const void* ctx = nullptr;
  std::mutex mutex;
  std::condition_variable wake;
  std::vector<std::thread> workers;
  std::vector<Block> scratch;
  Block shared[4];

  void drain(int worker) {
    try {
      for (;;) {
        int64_t begin = next.fetch_add(grain, std::memory_order_relaxed);
        if (begin >= count) return;
        fn(ctx, begin, begin + grain < count ? begin + grain : count, worker);
      }
    } catch (const NoScratch& e) {
      lacking.store(e.bytes);
      next.store(count, std::memory_order_relaxed);  // the result is lost: nobody begins another chunk
    }
  }

  void join() {
    {
      std::lock_guard<std::mutex> lock(mutex);
      stop = true;
    }
    wake.notify_all();
    for (auto& t : workers) t.join();
  }

  /** Waits for an epoch other than `seen`, spinning first; returns the gate. */
  uint64_t awaitEpoch(uint64_t seen) {
    for (int i = 0; i < kSpins; i++) {
      uint64_t g = gate.load(std::memory_order_acquire);
      if ((g >> 32) != seen || stop.load(std::memory_order_relaxed)) return g;
      relax();
    }
    std::unique_lock<std::mutex> lock(mutex);
    sleepers.fetch_add(1);
    wake.wait(lock, [&] { return (gate.load() >> 32) != seen || stop.load(); });
    sleepers.fetch_sub(1);
    return gate.load();
  }

  void work(int worker) {
    uint64_t seen = 0;
    for (;;) {
      uint64_t g = awaitEpoch(seen);
      if (stop.load()) return;
      seen = g >> 32;
      while ((g & kOpen) && (g >> 32) == seen) {
        if (gate.compare_exchange_weak(g, g + 1, std::memory_order_acq_rel)) {
          drain(worker);
          gate.fetch_sub(1, std::memory_order_release);
          break;
        }
      }
    }
  }
};

Pool::Pool(int threads) : s(new State) {
  if (threads < 1) threads = 1;
  s->scratch = std::vector<Block>(threads);
  try {
    for (int w = 1; w < threads; w++) s->workers.emplace_back([this, w] { s->work(w); });
  } catch (...) {
    s->join();
    delete s;
    throw;
  }
}

Pool::~Pool() {
  s->join();
  delete s;
}

int Pool::threads() const { return static_cast<int>(s->scratch.size()); }

void Pool::run(int64_t count, int64_t grain, RangeFn fn, const void* ctx) {
  if (count <= 0) return;
  if (grain < 1) grain = 1;
  if (s->workers.empty() || count <= grain) return fn(ctx, 0, count, 0);
  s->count = count;
  s->grain = grain;
  s->fn = fn;
  s->ctx = ctx;
  s->next.store(0, std::memory_order_relaxed);
  uint64_t epoch = ((s->gate.load(std::memory_order_relaxed) >> 32) + 1) & 0xffffffffu;
  s->gate.store((epoch << 32) | kOpen);
  if (s->sleepers.load() > 0) {
    { std::lock_guard<std::mutex> lock(s->mutex); }
    s->wake.notify_all();
  }
  s->drain(0);
  uint64_t g = s->gate.fetch_and(~kOpen, std::memory_order_acq_rel);
  for (int i = 0; g & kInside; i++) {
    if (i < 4000) relax();
    else std::this_thread::yield();
    g = s->gate.load(std::memory_order_acquire);
  }
  if (int64_t bytes = s->lacking.exchange(0)) throw NoScratch{bytes};
}

void* Pool::scratch(int worker, int64_t bytes) { return s->scratch[worker].grow(bytes); }

void* Pool::shared(int64_t bytes, int slot) { return s->shared[slot].grow(bytes); }

}  // namespace sluice
