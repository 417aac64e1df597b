#pragma once

#include <sched.h>

#include <algorithm>
#include <chrono>
#include <thread>

#include "thinwire/comm/work.hpp"

namespace thinwire::comm {

/// What a wait does between two looks: a few looks at once (the peer answers within microseconds),
/// then it gives the core away (ranks may outnumber cores), then it sleeps, ever longer up to
/// 200 us, so that a long wait costs nothing.
class Backoff {
 public:
  void pause() {
    ++looks_;
    if (looks_ <= spins) return;
    if (looks_ <= spins + yields) {
      sched_yield();
      return;
    }
    std::this_thread::sleep_for(nap_);
    nap_ = std::min(nap_ * 2, longest_nap);
  }

 private:
  static constexpr int spins = 32;
  static constexpr int yields = 2000;
  static constexpr std::chrono::microseconds longest_nap{200};

  int looks_ = 0;
  std::chrono::microseconds nap_{10};
};

/// The moment at which a wait of `timeout` from now gives up; any Timeout fits.
inline std::chrono::steady_clock::time_point deadline_after(Timeout timeout) {
  constexpr Timeout for_ever = std::chrono::hours{24 * 365};
  return std::chrono::steady_clock::now() + std::clamp(timeout, Timeout{0}, for_ever);
}

}  // namespace thinwire::comm
