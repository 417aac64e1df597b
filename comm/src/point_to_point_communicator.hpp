#pragma once

#include "channel_control_plane.hpp"
#include "collectives.hpp"
#include "host_group.hpp"
#include "thinwire/comm/communicator.hpp"

namespace thinwire::comm {

/// The Communicator of every transport that moves bytes between host buffers: checks arguments and
/// turns each operation into a recipe. The communicator must outlive its Works.
class PointToPointCommunicator final : public Communicator {
 public:
  explicit PointToPointCommunicator(Endpoint endpoint, ChannelControlPlane* parent = nullptr,
                                    std::vector<int> members = {});
  ~PointToPointCommunicator() override;

  int rank() const override { return transport_->rank(); }
  int size() const override { return transport_->size(); }
  int local_rank() const override { return transport_->local_rank(); }
  int local_size() const override { return transport_->local_size(); }
  std::string_view transport() const override { return transport_->name(); }
  Device device() const override { return Device::host; }

  WorkHandle allreduce(ConstTensorView in, TensorView out, ReduceOp op, StreamView) override;
  WorkHandle allreduce_max(std::span<std::uint64_t> words, StreamView) override;
  WorkHandle reduce_scatter(ConstTensorView in, TensorView out, ReduceOp op, StreamView) override;
  WorkHandle all_gather(ConstByteView in, ByteView out, StreamView) override;
  WorkHandle all_to_all(ConstByteView in, ByteView out, StreamView) override;
  WorkHandle all_to_all_v(ConstByteView in, std::span<const std::size_t> in_bytes,
                          std::span<const std::size_t> in_offsets, ByteView out,
                          std::span<const std::size_t> out_bytes,
                          std::span<const std::size_t> out_offsets, StreamView) override;
  WorkHandle broadcast(ByteView data, int root, StreamView) override;
  WorkHandle send(ConstByteView data, int to, StreamView) override;
  WorkHandle recv(ByteView data, int from, StreamView) override;
  WorkHandle barrier() override;
  std::unique_ptr<Communicator> split(int color, int key) override;

  ControlPlane& control() override { return control_; }
  void abort(std::string_view reason, int culprit) noexcept override;

 private:
  Recipe collective(std::string_view name, std::size_t bytes);
  Recipe single(std::string name);
  WorkHandle start(Recipe recipe);
  void expect_messages(std::string_view operation) const;
  SplitGroup agree(int color, int key);
  /// The split, with what its transport does while it waits for members that do not come.
  Split with_wait(Split split);

  std::unique_ptr<PointToPoint> transport_;
  ChannelControlPlane control_;
  WorkContext works_;
  unsigned next_tag_ = 0;
  const int exceptions_at_start_;
};

}  // namespace thinwire::comm
