#pragma once

#include <utility>

#include "thinwire/comm/work.hpp"

namespace thinwire::comm {

/// Two operations under way as one.
class JoinedWork final : public Work {
 public:
  JoinedWork(WorkHandle first, WorkHandle second)
      : first_{std::move(first)}, second_{std::move(second)} {}

  bool test() override {
    const bool first_done = first_->test();
    return second_->test() && first_done;
  }

  void wait(Timeout timeout) override {
    first_->wait(timeout);
    second_->wait(timeout);
  }

 private:
  WorkHandle first_;
  WorkHandle second_;
};

}  // namespace thinwire::comm
