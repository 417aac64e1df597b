#include "thinwire/comm/fault_injection.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <csignal>
#include <mutex>
#include <optional>
#include <thread>

#include "backoff.hpp"
#include "channel_control_plane.hpp"
#include "thinwire/core/error.hpp"

namespace thinwire::comm {
namespace {

using Kind = Fault::Kind;
using Phase = Fault::Phase;

/// This rank's faults that are still to come. Shared with the splits.
class FaultQueue {
 public:
  FaultQueue(std::vector<Fault> faults, int rank) : faults_{std::move(faults)} {
    std::erase_if(faults_, [&](const Fault& fault) { return fault.rank != rank; });
  }

  /// Counts a call; the fault that is due at it, if any.
  std::optional<Fault> take(std::string_view operation) {
    const std::scoped_lock lock{mutex_};
    std::optional<Fault> due;
    std::erase_if(faults_, [&](Fault& fault) {
      if (!fault.operation.empty() && fault.operation != operation) return false;
      if (due || fault.call-- > 0) return false;
      due = fault;
      return true;
    });
    return due;
  }

 private:
  std::mutex mutex_;
  std::vector<Fault> faults_;
};

bool acts_at(const std::optional<Fault>& fault, Phase phase) {
  return fault && (fault->kind == Kind::kill || fault->kind == Kind::stall) &&
         fault->phase == phase;
}

[[noreturn]] void be_silent(Communicator& communicator, std::string_view operation) {
  constexpr std::chrono::milliseconds look{5};
  for (;; std::this_thread::sleep_for(look)) {
    if (const auto notice = communicator.control().abort_notice()) {
      throw aborted_error(
          fmt::format("rank {}: {} (killed by fault injection)", communicator.rank(), operation),
          *notice);
    }
  }
}

void act(const Fault& fault, Communicator& communicator, std::string_view operation) {
  if (fault.kind == Kind::stall) {
    std::this_thread::sleep_for(fault.duration);
  } else if (communicator.transport() == "threads") {
    be_silent(communicator, operation);
  } else {
    std::raise(SIGKILL);
  }
}

/// An operation with a fault while it is under way or once it is complete; owns what it sends in
/// place of the caller's buffer.
class FaultyWork final : public Work {
 public:
  FaultyWork(Communicator& communicator, std::string operation, std::optional<Fault> fault,
             std::vector<std::byte> sent, WorkHandle inner)
      : communicator_{communicator},
        operation_{std::move(operation)},
        fault_{std::move(fault)},
        sent_{std::move(sent)},
        inner_{std::move(inner)} {}

  bool test() override {
    act_at(Phase::under_way);
    if (!inner_->test()) return false;
    act_at(Phase::done);
    return true;
  }

  void wait(Timeout timeout) override {
    act_at(Phase::under_way);
    inner_->wait(timeout);
    act_at(Phase::done);
  }

 private:
  void act_at(Phase phase) {
    if (!acts_at(fault_, phase)) return;
    const auto fault = *std::exchange(fault_, std::nullopt);
    act(fault, communicator_, operation_);
  }

  Communicator& communicator_;
  std::string operation_;
  std::optional<Fault> fault_;
  std::vector<std::byte> sent_;  // before inner_, which reads it
  WorkHandle inner_;
};

/// An operation that was never begun.
class DroppedWork final : public Work {
 public:
  DroppedWork(Communicator& communicator, std::string operation)
      : communicator_{communicator}, operation_{std::move(operation)} {}

  bool test() override {
    if (const auto notice = communicator_.control().abort_notice()) {
      throw aborted_error(name(), *notice);
    }
    return false;
  }

  void wait(Timeout timeout) override {
    const auto deadline = deadline_after(timeout);
    for (Backoff backoff; !test(); backoff.pause()) {
      if (std::chrono::steady_clock::now() < deadline) continue;
      const TimeoutError error{
          fmt::format("{} timed out after {} ms: it was dropped", name(), timeout.count()),
          communicator_.rank()};
      communicator_.abort(error.what(), error.peer);
      throw error;
    }
  }

 private:
  std::string name() const {
    return fmt::format("rank {}: {} (dropped by fault injection)", communicator_.rank(),
                       operation_);
  }

  Communicator& communicator_;
  std::string operation_;
};

/// The arguments of one call as the fault leaves them.
class Alteration {
 public:
  explicit Alteration(const std::optional<Fault>& fault) : fault_{fault} {}

  /// What is sent in place of `data`: itself, or a copy with one bit turned over in its middle.
  const std::byte* sent(const void* data, std::size_t bytes) {
    const auto* original = static_cast<const std::byte*>(data);
    if (!fault_ || fault_->kind != Kind::corrupt || bytes == 0) return original;
    copy_.assign(original, original + bytes);
    copy_[bytes / 2] ^= std::byte{1};
    return copy_.data();
  }

  /// A number of elements or bytes: itself, or one less.
  template <typename Size>
  Size size(Size given) const {
    return fault_ && fault_->kind == Kind::mismatch && given > 0 ? given - 1 : given;
  }

  std::vector<std::byte> take_copy() { return std::move(copy_); }

 private:
  const std::optional<Fault>& fault_;
  std::vector<std::byte> copy_;
};

class FaultyCommunicator final : public Communicator {
 public:
  FaultyCommunicator(Communicator& inner, std::shared_ptr<FaultQueue> faults)
      : inner_{inner}, faults_{std::move(faults)} {}
  FaultyCommunicator(std::unique_ptr<Communicator> inner, std::shared_ptr<FaultQueue> faults)
      : owned_{std::move(inner)}, inner_{*owned_}, faults_{std::move(faults)} {}

  int rank() const override { return inner_.rank(); }
  int size() const override { return inner_.size(); }
  int local_rank() const override { return inner_.local_rank(); }
  int local_size() const override { return inner_.local_size(); }
  std::string_view transport() const override { return inner_.transport(); }
  Device device() const override { return inner_.device(); }
  ControlPlane& control() override { return inner_.control(); }
  void abort(std::string_view reason, int culprit) noexcept override {
    inner_.abort(reason, culprit);
  }

  WorkHandle allreduce(ConstTensorView in, TensorView out, ReduceOp op,
                       StreamView stream) override {
    return post("allreduce", [=, this](Alteration& alteration) mutable {
      in.data = alteration.sent(in.data, in.bytes());
      in.numel = out.numel = alteration.size(in.numel);
      return inner_.allreduce(in, out, op, stream);
    });
  }

  WorkHandle allreduce_max(std::span<std::uint64_t> words, StreamView stream) override {
    return post("allreduce_max", [=, this](Alteration& alteration) {
      return inner_.allreduce_max(words.first(alteration.size(words.size())), stream);
    });
  }

  WorkHandle reduce_scatter(ConstTensorView in, TensorView out, ReduceOp op,
                            StreamView stream) override {
    return post("reduce_scatter", [=, this](Alteration& alteration) mutable {
      in.data = alteration.sent(in.data, in.bytes());
      out.numel = alteration.size(out.numel);
      in.numel = out.numel * size();
      return inner_.reduce_scatter(in, out, op, stream);
    });
  }

  WorkHandle all_gather(ConstByteView in, ByteView out, StreamView stream) override {
    return post("all_gather", [=, this](Alteration& alteration) mutable {
      in.data = alteration.sent(in.data, in.size);
      in.size = alteration.size(in.size);
      out.size = in.size * ranks();
      return inner_.all_gather(in, out, stream);
    });
  }

  WorkHandle all_to_all(ConstByteView in, ByteView out, StreamView stream) override {
    return post("all_to_all", [=, this](Alteration& alteration) mutable {
      in.data = alteration.sent(in.data, in.size);
      in.size = out.size = alteration.size(in.size / ranks()) * ranks();
      return inner_.all_to_all(in, out, stream);
    });
  }

  WorkHandle all_to_all_v(ConstByteView in, std::span<const std::size_t> in_bytes,
                          std::span<const std::size_t> in_offsets, ByteView out,
                          std::span<const std::size_t> out_bytes,
                          std::span<const std::size_t> out_offsets, StreamView stream) override {
    return post("all_to_all_v", [=, this](Alteration& alteration) mutable {
      in.data = alteration.sent(in.data, in.size);
      std::vector<std::size_t> bytes{in_bytes.begin(), in_bytes.end()};
      auto& to_next = bytes.at(static_cast<std::size_t>((rank() + 1) % size()));
      to_next = alteration.size(to_next);
      return inner_.all_to_all_v(in, bytes, in_offsets, out, out_bytes, out_offsets, stream);
    });
  }

  WorkHandle broadcast(ByteView data, int root, StreamView stream) override {
    return post("broadcast", [=, this](Alteration& alteration) mutable {
      if (root == rank()) data.data = const_cast<std::byte*>(alteration.sent(data.data, data.size));
      data.size = alteration.size(data.size);
      return inner_.broadcast(data, root, stream);
    });
  }

  WorkHandle send(ConstByteView data, int to, StreamView stream) override {
    return post("send", [=, this](Alteration& alteration) mutable {
      data.data = alteration.sent(data.data, data.size);
      data.size = alteration.size(data.size);
      return inner_.send(data, to, stream);
    });
  }

  WorkHandle recv(ByteView data, int from, StreamView stream) override {
    return post("recv", [=, this](Alteration& alteration) mutable {
      data.size = alteration.size(data.size);
      return inner_.recv(data, from, stream);
    });
  }

  WorkHandle barrier() override {
    return post("barrier", [this](Alteration&) { return inner_.barrier(); });
  }

  std::unique_ptr<Communicator> split(int color, int key) override {
    auto child = inner_.split(color, key);
    if (!child) return nullptr;
    return std::make_unique<FaultyCommunicator>(std::move(child), faults_);
  }

 private:
  std::size_t ranks() const { return static_cast<std::size_t>(inner_.size()); }

  template <typename Call>
  WorkHandle post(std::string operation, Call&& call) {
    auto fault = faults_->take(operation);
    if (acts_at(fault, Phase::post)) act(*fault, inner_, operation);
    if (fault && fault->kind == Kind::drop) {
      return std::make_unique<DroppedWork>(inner_, std::move(operation));
    }
    Alteration alteration{fault};
    auto work = call(alteration);
    return std::make_unique<FaultyWork>(inner_, std::move(operation), std::move(fault),
                                        alteration.take_copy(), std::move(work));
  }

  std::unique_ptr<Communicator> owned_;
  Communicator& inner_;
  std::shared_ptr<FaultQueue> faults_;
};

template <typename Value, std::size_t count>
Value parse(std::string_view what, std::string_view text,
            const std::array<std::pair<std::string_view, Value>, count>& values) {
  std::string known;
  for (const auto& [name, value] : values) {
    if (name == text) return value;
    known += fmt::format("{}{}", known.empty() ? "" : ", ", name);
  }
  throw InvalidArgument{fmt::format("unknown {} '{}'; known are {}", what, text, known)};
}

}  // namespace

Fault::Kind parse_fault_kind(std::string_view text) {
  static constexpr std::array<std::pair<std::string_view, Kind>, 5> kinds{
      {{"kill", Kind::kill},
       {"stall", Kind::stall},
       {"drop", Kind::drop},
       {"corrupt", Kind::corrupt},
       {"mismatch", Kind::mismatch}}};
  return parse("kind of fault", text, kinds);
}

Fault::Phase parse_fault_phase(std::string_view text) {
  static constexpr std::array<std::pair<std::string_view, Phase>, 3> phases{
      {{"post", Phase::post}, {"under_way", Phase::under_way}, {"done", Phase::done}}};
  return parse("phase of a fault", text, phases);
}

std::unique_ptr<Communicator> inject_faults(Communicator& inner, std::vector<Fault> faults) {
  return std::make_unique<FaultyCommunicator>(
      inner, std::make_shared<FaultQueue>(std::move(faults), inner.rank()));
}

}  // namespace thinwire::comm
