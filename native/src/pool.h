/**
 * A pool of threads for one caller. The caller takes part: a pool of n threads starts n - 1 workers.
 * Work is handed out in chunks by an atomic counter, so the kernels must compute each output element inside one index,
 * in an order that does not depend on the chunk: then any number of threads gives the same bits.
 */
#pragma once
#include "registry.h"

namespace sluice {

/** Computes the indices [begin, end) as thread `worker` (0 is the caller). */
using RangeFn = void (*)(const void* ctx, int64_t begin, int64_t end, int worker);

/** Thrown by `scratch` and `shared`, and by `run` where a worker met it: there is no memory for that many bytes. */
struct NoScratch {
  int64_t bytes;
};

class Pool {
 public:
  /** Throws std::system_error when the system starts no more threads. */
  explicit Pool(int threads);
  ~Pool();
  Pool(const Pool&) = delete;
  Pool& operator=(const Pool&) = delete;

  int threads() const;

  /** Runs fn over [0, count) in chunks of `grain`; up to `grain` indices run at once in the caller. */
  void run(int64_t count, int64_t grain, RangeFn fn, const void* ctx);

  /** `run` for a lambda (begin, end, worker). Not to be nested. */
  template <class F>
  SLUICE_INLINE void parallelFor(int64_t count, int64_t grain, const F& f) {
    run(
        count, grain,
        [](const void* ctx, int64_t begin, int64_t end, int worker) { (*static_cast<const F*>(ctx))(begin, end, worker); },
        &f);
  }

  /** 64-byte aligned memory of one worker; grows, stays valid and keeps its bytes until a larger request. */
  void* scratch(int worker, int64_t bytes);

  /** The same, one block for all workers in each of 4 slots; asked for by the caller before `run`. */
  void* shared(int64_t bytes, int slot = 0);

 private:
  struct State;
  State* s;
};

}  // namespace sluice
