#include "thinwire/compress/state.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "residual_map.hpp"
#include "thinwire/core/error.hpp"

namespace thinwire::compress {
namespace {

Buffer zeros(const std::shared_ptr<MemoryResource>& memory, std::int64_t elements) {
  Buffer buffer{memory, static_cast<std::size_t>(elements) * sizeof(float), "residual"};
  std::fill_n(buffer.as<float>(), elements, 0.0f);
  return buffer;
}

}  // namespace

State::State(const Plan& plan, int shard, std::shared_ptr<MemoryResource> memory)
    : plan_{&plan}, shard_{shard} {
  THINWIRE_EXPECTS(shard >= 0 && shard < plan.ranks(), InvalidArgument,
                   fmt::format("state: shard {} of a plan for {} ranks", shard, plan.ranks()));
  worker_[0] = zeros(memory, plan.residual_elements());
  if (plan.settings().commit == Commit::double_buffered) {
    worker_[1] = zeros(memory, plan.residual_elements());
  }
  for (Buffer& version : server_) version = zeros(memory, plan.server_elements(shard));
}

const float* State::worker_committed() const { return worker_[worker_current_].as<float>(); }

float* State::worker_next() {
  const bool in_place = plan_->settings().commit == Commit::in_place;
  return worker_[in_place ? worker_current_ : 1 - worker_current_].as<float>();
}

const float* State::server_committed() const { return server_[server_current_].as<float>(); }

float* State::server_next() { return server_[1 - server_current_].as<float>(); }

void State::begin_call() {
  THINWIRE_EXPECTS(!in_step() || plan_->settings().commit == Commit::in_place, InvalidArgument,
                   "state: a second call before the step ended; double-buffered residuals need "
                   "end_step between calls");
  if (in_step()) commit();
}

void State::commit() {
  if (worker_written_ && plan_->settings().commit == Commit::double_buffered) {
    worker_current_ = 1 - worker_current_;
  }
  if (server_written_) server_current_ = 1 - server_current_;
  discard();
}

void State::discard() { worker_written_ = server_written_ = false; }

std::vector<Residual> State::export_worker() const {
  THINWIRE_EXPECTS(!in_step(), InvalidArgument, "state: exported in the middle of a step");
  return export_from(worker_committed(), worker_stretches(*plan_));
}

std::vector<Residual> State::export_server() const {
  THINWIRE_EXPECTS(!in_step(), InvalidArgument, "state: exported in the middle of a step");
  return export_from(server_committed(), server_stretches(*plan_, shard_));
}

std::int64_t State::import_worker(std::span<const Residual> residuals) {
  THINWIRE_EXPECTS(!in_step(), InvalidArgument, "state: imported in the middle of a step");
  return import_into(worker_[worker_current_].as<float>(), worker_stretches(*plan_), residuals);
}

std::int64_t State::import_server(std::span<const Residual> residuals) {
  THINWIRE_EXPECTS(!in_step(), InvalidArgument, "state: imported in the middle of a step");
  return import_into(server_[server_current_].as<float>(), server_stretches(*plan_, shard_),
                     residuals);
}

}  // namespace thinwire::compress
