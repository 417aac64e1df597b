#pragma once

#include <exception>
#include <functional>
#include <string>
#include <vector>

#include "channel_control_plane.hpp"
#include "point_to_point.hpp"
#include "thinwire/comm/work.hpp"
#include "thinwire/core/error.hpp"
#include "thinwire/core/memory_resource.hpp"

namespace thinwire::comm {

/// Messages that are under way together, then a local computation once all are complete.
struct Step {
  std::vector<Transfer> transfers;
  std::function<void()> finish;           ///< may be empty
  std::function<RequestHandle()> native;  ///< an operation of the transport itself; may be empty
};

/// An operation as data: what one rank does, step by step.
struct Recipe {
  std::string name;  ///< "all_gather of 4096 bytes", for messages
  int tag = 0;       ///< of all its messages
  std::vector<Step> steps;
  std::vector<Buffer> scratch;  ///< memory that the steps point into
};

class CollectiveWork;

/// What the Works of one communicator share.
struct WorkContext {
  PointToPoint& transport;
  ChannelControlPlane& control;
  std::vector<CollectiveWork*> unfinished{};  ///< in the order of the calls
};

/// Carries a recipe out. The first step is posted when it is made; each test or wait makes progress
/// for all Works of the communicator, so that ranks may wait for them in any order.
///
/// Any failure is posted as an abort notice, so that no peer waits in vain, and its transfers are
/// given up.
class CollectiveWork final : public Work {
 public:
  CollectiveWork(WorkContext& context, Recipe recipe);
  ~CollectiveWork() override;

  bool test() override;
  void wait(Timeout timeout) override;

 private:
  enum class State { under_way, done, failed };
  struct Pending {
    RequestHandle request;
    Transfer transfer;
  };

  void progress_all();
  void progress() noexcept;
  void advance();
  bool my_turn() const;
  void post_step();
  bool test_request(Pending& pending);
  void look_for_abort();
  std::vector<int> late_peers() const;
  void fail(std::exception_ptr error) noexcept;
  std::string name() const;

  WorkContext& context_;
  Recipe recipe_;
  State state_ = State::under_way;
  std::size_t step_ = 0;
  bool posted_ = false;  ///< the transfers of step_
  std::vector<Pending> pending_;
  std::exception_ptr failure_;
  unsigned tests_ = 0;
  const std::chrono::steady_clock::time_point begin_ = std::chrono::steady_clock::now();
  const int exceptions_at_start_;
};

}  // namespace thinwire::comm
