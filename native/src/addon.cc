/**
 * The N-API surface: memory by address, thread pools, and kernels called by id with one shared argument block.
 * Raw node_api.h, so one binary serves every Node version; an instance per JavaScript thread, so workers are safe.
 */
#include <errno.h>
#include <node_api.h>
#include <stdio.h>
#include <string.h>
#if !defined(_WIN32)
#include <unistd.h>
#endif

#include <atomic>
#include <mutex>
#include <new>
#include <system_error>
#include <unordered_set>

#include "memory.h"
#include "pool.h"
#include "registry.h"

namespace sluice {

void Registry::add(const char* name, KernelFn fn) {
  if (count == kCapacity) return;
  names[count] = name;
  fns[count++] = fn;
}

namespace generic {
void register_all(Registry& r);
}
#if defined(__x86_64__)
namespace avx2 {
void register_all(Registry& r);
}
namespace avx512 {
void register_all(Registry& r);
}
#endif

namespace {

struct Isa {
  const char* name;
  void (*registerAll)(Registry&);
  bool usable;
  Registry registry;
};

constexpr int kArgs = 64;
constexpr int kIsaStride = 1024;
constexpr int kMostThreads = 4096;

/** Best last. */
Isa* isas(int* count) {
  static Isa table[3];
  static int n = 0;
  static std::once_flag once;
  std::call_once(once, [] {
#if defined(__x86_64__)
    __builtin_cpu_init();
    bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                  __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    table[n++] = {"generic", generic::register_all, true, {}};
    table[n++] = {"avx2", avx2::register_all, avx2, {}};
    table[n++] = {"avx512", avx512::register_all, avx512, {}};
#elif defined(__aarch64__)
    table[n++] = {"neon", generic::register_all, true, {}};
#else
    table[n++] = {"generic", generic::register_all, true, {}};
#endif
    for (int i = 0; i < n; i++) table[i].registerAll(table[i].registry);
  });
  *count = n;
  return table;
}

int bestIsa() {
  int n;
  Isa* table = isas(&n);
  int best = 0;
  for (int i = 0; i < n; i++)
    if (table[i].usable) best = i;
  return best;
}

/** What one JavaScript thread holds; it goes with the thread, whether or not its device was closed. */
struct Instance {
  double* args = nullptr;
  napi_ref argsRef = nullptr;
  std::unordered_set<void*> blocks;
  std::unordered_set<Pool*> pools;

  ~Instance() {
    for (Pool* pool : pools) delete pool;
    for (void* block : blocks) release(block);
  }
};

Instance& instanceOf(napi_env env) {
  void* data = nullptr;
  napi_get_instance_data(env, &data);
  return *static_cast<Instance*>(data);
}

template <int N>
struct Params {
  napi_value v[N];
  Params(napi_env env, napi_callback_info info) {
    size_t n = N;
    napi_get_cb_info(env, info, &n, v, nullptr, nullptr);
  }
};

double number(napi_env env, napi_value v) {
  double d = 0;
  if (napi_get_value_double(env, v, &d) != napi_ok) napi_throw_type_error(env, nullptr, "sluice native: a number is expected");
  return d;
}

void* address(napi_env env, napi_value v) { return reinterpret_cast<void*>(static_cast<uintptr_t>(number(env, v))); }

napi_value fromNumber(napi_env env, double d) {
  napi_value v;
  napi_create_double(env, d, &v);
  return v;
}

napi_value fromAddress(napi_env env, void* p) { return fromNumber(env, static_cast<double>(reinterpret_cast<uintptr_t>(p))); }

/** The bytes of a Uint8Array. */
uint8_t* bytesOf(napi_env env, napi_value v, size_t* length) {
  napi_typedarray_type type;
  void* data = nullptr;
  *length = 0;
  if (napi_get_typedarray_info(env, v, &type, length, &data, nullptr, nullptr) != napi_ok || type != napi_uint8_array) {
    napi_throw_type_error(env, nullptr, "sluice native: a Uint8Array is expected");
    *length = 0;
  }
  return static_cast<uint8_t*>(data);
}

/** Like pread; -1 and errno where it fails, or where the platform has none. */
int64_t readAt(int fd, void* target, int64_t bytes, int64_t position) {
#if defined(_WIN32)
  errno = ENOSYS;
  return -1;
#else
  for (;;) {
    const ssize_t got = pread(fd, target, static_cast<size_t>(bytes), static_cast<off_t>(position));
    if (got >= 0 || errno != EINTR) return got;
  }
#endif
}

napi_value jsAlloc(napi_env env, napi_callback_info info) {
  Params<1> p(env, info);
  double bytes = number(env, p.v[0]);
  void* data = bytes >= 0 && bytes < 9e15 ? allocate(static_cast<int64_t>(bytes)) : nullptr;
  if (!data) {
    char text[96];
    snprintf(text, sizeof text, "sluice native: no memory for %.0f bytes", bytes);
    napi_throw_range_error(env, nullptr, text);
    return nullptr;
  }
  instanceOf(env).blocks.insert(data);
  return fromAddress(env, data);
}

napi_value jsFree(napi_env env, napi_callback_info info) {
  Params<1> p(env, info);
  void* data = address(env, p.v[0]);
  if (instanceOf(env).blocks.erase(data)) release(data);
  else napi_throw_range_error(env, nullptr, "sluice native: free() of an address that alloc() did not give, or twice");
  return nullptr;
}

napi_value jsRead(napi_env env, napi_callback_info info) {
  Params<2> p(env, info);
  void* src = address(env, p.v[0]);
  size_t bytes = static_cast<size_t>(number(env, p.v[1]));
  void* dst = nullptr;
  napi_value buffer;
  if (napi_create_arraybuffer(env, bytes, &dst, &buffer) != napi_ok) return nullptr;
  if (bytes) memcpy(dst, src, bytes);
  return buffer;
}

napi_value jsReadInto(napi_env env, napi_callback_info info) {
  Params<2> p(env, info);
  size_t length;
  uint8_t* dst = bytesOf(env, p.v[1], &length);
  if (length) memcpy(dst, address(env, p.v[0]), length);
  return nullptr;
}

napi_value jsWrite(napi_env env, napi_callback_info info) {
  Params<2> p(env, info);
  size_t length;
  uint8_t* src = bytesOf(env, p.v[1], &length);
  if (length) memcpy(address(env, p.v[0]), src, length);
  return nullptr;
}

napi_value jsZero(napi_env env, napi_callback_info info) {
  Params<2> p(env, info);
  memset(address(env, p.v[0]), 0, static_cast<size_t>(number(env, p.v[1])));
  return nullptr;
}

napi_value jsCopy(napi_env env, napi_callback_info info) {
  Params<3> p(env, info);
  memmove(address(env, p.v[0]), address(env, p.v[1]), static_cast<size_t>(number(env, p.v[2])));
  return nullptr;
}

/** Bytes of an open file into memory, in spans that the pool's threads share. Gives how many there were. */
napi_value jsReadFile(napi_env env, napi_callback_info info) {
  Params<5> p(env, info);
  auto* pool = static_cast<Pool*>(address(env, p.v[0]));
  const int fd = static_cast<int>(number(env, p.v[1]));
  const auto position = static_cast<int64_t>(number(env, p.v[2]));
  char* target = static_cast<char*>(address(env, p.v[3]));
  const auto bytes = static_cast<int64_t>(number(env, p.v[4]));
  if (!instanceOf(env).pools.count(pool)) {
    napi_throw_range_error(env, nullptr, "sluice native: readFile() with an unknown pool");
    return nullptr;
  }
  constexpr int64_t kSpan = int64_t(2) << 20;
  std::atomic<int64_t> total{0};
  std::atomic<int> failure{0};
  pool->parallelFor((bytes + kSpan - 1) / kSpan, 1, [&](int64_t begin, int64_t end, int) {
    const int64_t last = end * kSpan < bytes ? end * kSpan : bytes;
    for (int64_t at = begin * kSpan; at < last;) {
      const int64_t got = readAt(fd, target + at, last - at, position + at);
      if (got < 0) failure = errno;
      if (got <= 0) return;
      total += got;
      at += got;
    }
  });
  if (failure) {
    char text[96];
    snprintf(text, sizeof text, "sluice native: reading the file failed: %s", strerror(failure));
    napi_throw_error(env, "EIO", text);
    return nullptr;
  }
  return fromNumber(env, static_cast<double>(total.load()));
}

napi_value jsCreatePool(napi_env env, napi_callback_info info) {
  Params<1> p(env, info);
  double threads = number(env, p.v[0]);
  try {
    if (!(threads >= 1 && threads <= kMostThreads)) throw std::bad_alloc();
    auto* pool = new Pool(static_cast<int>(threads));
    instanceOf(env).pools.insert(pool);
    return fromAddress(env, pool);
  } catch (const std::exception&) {
    char text[96];
    snprintf(text, sizeof text, "sluice native: cannot start %.0f threads; ask for fewer", threads);
    napi_throw_range_error(env, nullptr, text);
    return nullptr;
  }
}

napi_value jsDestroyPool(napi_env env, napi_callback_info info) {
  Params<1> p(env, info);
  auto* pool = static_cast<Pool*>(address(env, p.v[0]));
  if (instanceOf(env).pools.erase(pool)) delete pool;
  return nullptr;
}

napi_value jsIsa(napi_env env, napi_callback_info) {
  int n;
  napi_value v;
  napi_create_string_utf8(env, isas(&n)[bestIsa()].name, NAPI_AUTO_LENGTH, &v);
  return v;
}

napi_value jsIsas(napi_env env, napi_callback_info) {
  int n;
  Isa* table = isas(&n);
  napi_value list, v;
  napi_create_array(env, &list);
  uint32_t used = 0;
  for (int i = 0; i < n; i++) {
    if (!table[i].usable) continue;
    napi_create_string_utf8(env, table[i].name, NAPI_AUTO_LENGTH, &v);
    napi_set_element(env, list, used++, v);
  }
  return list;
}

napi_value jsKernels(napi_env env, napi_callback_info info) {
  Params<1> p(env, info);
  int n, chosen = bestIsa();
  Isa* table = isas(&n);
  napi_valuetype type;
  napi_typeof(env, p.v[0], &type);
  if (type == napi_string) {
    char name[16] = "";
    napi_get_value_string_utf8(env, p.v[0], name, sizeof name, nullptr);
    chosen = -1;
    for (int i = 0; i < n; i++)
      if (table[i].usable && !strcmp(name, table[i].name)) chosen = i;
    if (chosen < 0) {
      char text[96];
      snprintf(text, sizeof text, "sluice native: this machine has no kernels for isa \"%s\"", name);
      napi_throw_range_error(env, nullptr, text);
      return nullptr;
    }
  }
  napi_value ids;
  napi_create_object(env, &ids);
  const Registry& r = table[chosen].registry;
  for (int i = 0; i < r.count; i++) napi_set_named_property(env, ids, r.names[i], fromNumber(env, chosen * kIsaStride + i));
  return ids;
}

napi_value jsCall(napi_env env, napi_callback_info info) {
  Params<2> p(env, info);
  Instance& instance = instanceOf(env);
  auto* pool = static_cast<Pool*>(address(env, p.v[0]));
  int id = static_cast<int>(number(env, p.v[1])), n;
  Isa* table = isas(&n);
  if (!instance.pools.count(pool) || id < 0 || id / kIsaStride >= n || id % kIsaStride >= table[id / kIsaStride].registry.count) {
    napi_throw_range_error(env, nullptr, "sluice native: call() of an unknown pool or kernel");
    return nullptr;
  }
  const Registry& r = table[id / kIsaStride].registry;
  try {
    r.fns[id % kIsaStride](*pool, Args{instance.args});
  } catch (const NoScratch& lacking) {
    char text[160];
    snprintf(text, sizeof text, "%s: no memory for %lld bytes of scratch; use smaller batches or fewer threads",
             r.names[id % kIsaStride], static_cast<long long>(lacking.bytes));
    napi_throw_range_error(env, nullptr, text);
  }
  return nullptr;
}

napi_value init(napi_env env, napi_value exports) {
  auto* instance = new Instance{};
  napi_value buffer, args;
  void* data = nullptr;
  napi_create_arraybuffer(env, kArgs * sizeof(double), &data, &buffer);
  napi_create_typedarray(env, napi_float64_array, kArgs, buffer, 0, &args);
  napi_create_reference(env, buffer, 1, &instance->argsRef);
  instance->args = static_cast<double*>(data);
  napi_set_instance_data(
      env, instance, [](napi_env, void* p, void*) { delete static_cast<Instance*>(p); }, nullptr);
  napi_set_named_property(env, exports, "args", args);

  const struct {
    const char* name;
    napi_callback fn;
  } functions[] = {{"alloc", jsAlloc},           {"free", jsFree},     {"read", jsRead}, {"readInto", jsReadInto},
                   {"write", jsWrite},           {"zero", jsZero},     {"copy", jsCopy}, {"createPool", jsCreatePool},
                   {"destroyPool", jsDestroyPool}, {"kernels", jsKernels}, {"isa", jsIsa},   {"isas", jsIsas},
                   {"call", jsCall},             {"readFile", jsReadFile}};
  for (const auto& f : functions) {
    napi_value v;
    napi_create_function(env, f.name, NAPI_AUTO_LENGTH, f.fn, nullptr, &v);
    napi_set_named_property(env, exports, f.name, v);
  }
  return exports;
}

}  // namespace
}  // namespace sluice

NAPI_MODULE(sluice_native, sluice::init)
