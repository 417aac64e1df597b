#pragma once

#include <memory>

#include "../cuda/device_wire.hpp"
#include "nccl_session.hpp"
#include "thinwire/comm/communicator.hpp"

namespace thinwire::comm {

/// The Communicator over an NcclSession: checks arguments and calls NCCL.
class NcclCommunicator final : public Communicator, public DeviceWire {
 public:
  explicit NcclCommunicator(std::unique_ptr<NcclSession> session);
  ~NcclCommunicator() override;

  int rank() const override { return session_->rank(); }
  int size() const override { return session_->size(); }
  int local_rank() const override { return session_->local_rank(); }
  int local_size() const override { return session_->local_size(); }
  std::string_view transport() const override { return "nccl"; }
  Device device() const override { return Device::cuda; }

  WorkHandle allreduce(ConstTensorView in, TensorView out, ReduceOp op, StreamView stream) override;
  WorkHandle allreduce_max(std::span<std::uint64_t> words, StreamView stream) override;
  WorkHandle reduce_scatter(ConstTensorView in, TensorView out, ReduceOp op,
                            StreamView stream) override;
  WorkHandle all_gather(ConstByteView in, ByteView out, StreamView stream) override;
  WorkHandle all_to_all(ConstByteView in, ByteView out, StreamView stream) override;
  WorkHandle all_to_all_v(ConstByteView in, std::span<const std::size_t> in_bytes,
                          std::span<const std::size_t> in_offsets, ByteView out,
                          std::span<const std::size_t> out_bytes,
                          std::span<const std::size_t> out_offsets, StreamView stream) override;
  WorkHandle broadcast(ByteView data, int root, StreamView stream) override;
  WorkHandle send(ConstByteView data, int to, StreamView stream) override;
  WorkHandle recv(ByteView data, int from, StreamView stream) override;
  WorkHandle barrier() override;
  std::unique_ptr<Communicator> split(int color, int key) override;

  ControlPlane& control() override { return session_->control(); }
  void abort(std::string_view reason, int culprit) noexcept override;

  void exchange(OperationName name, StreamView stream, Calls calls, const Body& body) override;
  void wait_for(OperationName name, StreamView stream, Timeout timeout) override;
  void throw_failure() override { session_->throw_failure(); }

 private:
  WorkHandle run(OperationName name, StreamView stream, const NcclSession::Enqueue& enqueue,
                 Calls calls = Calls::one);

  std::unique_ptr<NcclSession> session_;
};

/// make_nccl_communicator with other tables of functions, for tests; they must outlive it.
std::unique_ptr<Communicator> make_nccl_communicator(Communicator& bootstrap,
                                                     const NcclOptions& options,
                                                     const NcclFunctions& nccl,
                                                     const CudaFunctions& cuda);

}  // namespace thinwire::comm
