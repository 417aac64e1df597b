#include "farewell.hpp"

#include <chrono>
#include <condition_variable>
#include <future>
#include <memory>
#include <mutex>
#include <system_error>
#include <thread>
#include <utility>

#include "thinwire/core/log.hpp"

namespace thinwire::comm {
namespace {

constexpr std::chrono::milliseconds patience{200};
constexpr std::chrono::seconds last_patience{10};

struct UnderWay {
  std::mutex mutex;
  std::condition_variable fewer;
  int count = 0;
};

/// Of this process. Threads share what they count in, since they may outlive this.
class Farewells {
 public:
  ~Farewells() {
    std::unique_lock lock{under_way_->mutex};
    if (under_way_->fewer.wait_for(lock, last_patience, [&] { return under_way_->count == 0; })) {
      return;
    }
    log(LogLevel::warning, "other ranks have not ended their communicators; this one leaves");
  }

  std::shared_ptr<UnderWay> begin() {
    const std::scoped_lock lock{under_way_->mutex};
    ++under_way_->count;
    return under_way_;
  }

 private:
  std::shared_ptr<UnderWay> under_way_ = std::make_shared<UnderWay>();
};

}  // namespace

void bid_farewell(std::function<void()> last) {
  static Farewells farewells;
  const auto ended = std::make_shared<std::promise<void>>();
  const auto soon = ended->get_future();
  const auto call = [last = std::move(last), ended, under_way = farewells.begin()] {
    last();
    ended->set_value();
    const std::scoped_lock lock{under_way->mutex};
    --under_way->count;
    under_way->fewer.notify_all();
  };
  try {
    std::thread{call}.detach();
  } catch (const std::system_error&) {  // no thread is to be had
    call();
  }
  soon.wait_for(patience);
}

}  // namespace thinwire::comm
