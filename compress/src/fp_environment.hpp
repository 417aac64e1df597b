#pragma once

#include <atomic>
#include <cstdint>

#if defined(__x86_64__) || defined(__i386__)
#include <xmmintrin.h>
#endif

namespace thinwire::compress {

/// The arithmetic of the wire format for the life of the object: round to nearest even, denormals
/// kept, no traps. Every verb and every thread that computes for one holds one, because callers
/// change these modes (torch.set_flush_denormal, fast-math libraries) and threads inherit them.
class FpEnvironment {
 public:
  FpEnvironment() : saved_{read()} {
    write(ieee);
    keep_order();
  }
  ~FpEnvironment() {
    keep_order();
    write(saved_);
  }
  FpEnvironment(const FpEnvironment&) = delete;
  FpEnvironment& operator=(const FpEnvironment&) = delete;

 private:
  /// Compilers do not know that arithmetic depends on the modes; no load or store passes here.
  static void keep_order() { std::atomic_signal_fence(std::memory_order_seq_cst); }

#if defined(__x86_64__) || defined(__i386__)
  static constexpr std::uint64_t ieee = 0x1F80;  // MXCSR at reset: all exceptions masked
  static std::uint64_t read() { return _mm_getcsr(); }
  static void write(std::uint64_t mode) { _mm_setcsr(static_cast<unsigned int>(mode)); }
#elif defined(__aarch64__)
  static constexpr std::uint64_t ieee = 0;  // FPCR at reset
  static std::uint64_t read() {
    std::uint64_t mode;
    asm volatile("mrs %0, fpcr" : "=r"(mode));
    return mode;
  }
  static void write(std::uint64_t mode) { asm volatile("msr fpcr, %0" : : "r"(mode)); }
#else
#error "FpEnvironment: this architecture's floating-point modes are not known"
#endif

  std::uint64_t saved_;
};

}  // namespace thinwire::compress
