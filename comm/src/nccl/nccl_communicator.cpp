#include "nccl_communicator.hpp"

#include <fmt/format.h>

#include <utility>

#include "nccl_types.hpp"
#include "thinwire/core/error.hpp"
#include "transfers.hpp"

namespace thinwire::comm {
namespace {

/// A Work may be dropped unfinished: the stream keeps the order, and the session still watches it.
class NcclWork final : public Work {
 public:
  NcclWork(NcclSession& session, NcclOperationHandle operation)
      : session_{session}, operation_{std::move(operation)} {}

  bool test() override { return session_.done(*operation_); }
  void wait(Timeout timeout) override { session_.wait(*operation_, timeout); }

 private:
  NcclSession& session_;
  NcclOperationHandle operation_;
};

template <typename View>
void expect_device(const char* operation, const View& view, std::size_t bytes) {
  THINWIRE_EXPECTS(view.device == Device::cuda && (view.data != nullptr || bytes == 0),
                   InvalidArgument,
                   fmt::format("nccl {}: a buffer of {} bytes is {}", operation, bytes,
                               view.data == nullptr ? "null" : "not on a GPU"));
}

void expect_tensors(const char* operation, ConstTensorView in, TensorView out, std::int64_t numel) {
  THINWIRE_EXPECTS(
      in.dtype == out.dtype && in.numel == numel && numel >= 0, InvalidArgument,
      fmt::format("nccl {}: in has {} elements of {}, where {} of {} are needed", operation,
                  in.numel, to_string(in.dtype), numel, to_string(out.dtype)));
  expect_device(operation, in, in.bytes());
  expect_device(operation, out, out.bytes());
}

void expect_parts(const char* operation, std::size_t whole, std::size_t part, int ranks) {
  THINWIRE_EXPECTS(whole == part * static_cast<std::size_t>(ranks), InvalidArgument,
                   fmt::format("nccl {}: {} bytes for {} ranks with {} bytes each", operation,
                               whole, ranks, part));
}

void expect_peer(const char* operation, int peer, int size) {
  THINWIRE_EXPECTS(peer >= 0 && peer < size, InvalidArgument,
                   fmt::format("nccl {}: rank {} is not one of {}", operation, peer, size));
}

/// Stops at the first call that NCCL refuses.
class NcclGroup final : public DeviceWire::Group {
 public:
  NcclGroup(const NcclFunctions& nccl, ncclComm_t communicator, int size, cudaStream_t stream)
      : nccl_{nccl}, communicator_{communicator}, size_{size}, stream_{stream} {}

  ncclResult_t result() const { return result_; }

  void all_to_all(const std::byte* in, std::byte* out, std::size_t part_bytes) override {
    if (result_ != ncclSuccess) return;
    result_ = enqueue_all_to_all(nccl_, communicator_, size_, in, out, part_bytes, stream_);
  }
  void all_gather(const std::byte* in, std::byte* out, std::size_t part_bytes) override {
    if (result_ != ncclSuccess) return;
    result_ = nccl_.all_gather(in, out, part_bytes, ncclUint8, communicator_, stream_);
  }
  void allreduce(ConstTensorView in, TensorView out, ReduceOp op) override {
    if (result_ != ncclSuccess) return;
    result_ = nccl_.all_reduce(in.data, out.data, static_cast<std::size_t>(in.numel),
                               nccl_type(in.dtype), nccl_op(op), communicator_, stream_);
  }
  void allreduce_max(std::uint64_t* words, std::size_t count) override {
    if (result_ != ncclSuccess) return;
    result_ = nccl_.all_reduce(words, words, count, ncclUint64, ncclMax, communicator_, stream_);
  }

 private:
  const NcclFunctions& nccl_;
  ncclComm_t communicator_;
  int size_;
  cudaStream_t stream_;
  ncclResult_t result_ = ncclSuccess;
};

}  // namespace

NcclCommunicator::NcclCommunicator(std::unique_ptr<NcclSession> session)
    : session_{std::move(session)} {}

NcclCommunicator::~NcclCommunicator() = default;

WorkHandle NcclCommunicator::run(OperationName name, StreamView stream,
                                 const NcclSession::Enqueue& enqueue, Calls calls) {
  return std::make_unique<NcclWork>(*session_, session_->run(name, stream, calls, enqueue));
}

WorkHandle NcclCommunicator::allreduce(ConstTensorView in, TensorView out, ReduceOp op,
                                       StreamView stream) {
  expect_tensors("allreduce", in, out, out.numel);
  return run({"allreduce", in.bytes()}, stream, [&](const NcclFunctions& nccl, ncclComm_t comm) {
    return nccl.all_reduce(in.data, out.data, static_cast<std::size_t>(in.numel),
                           nccl_type(in.dtype), nccl_op(op), comm, stream.handle());
  });
}

WorkHandle NcclCommunicator::allreduce_max(std::span<std::uint64_t> words, StreamView stream) {
  return run({"allreduce_max", words.size_bytes()}, stream,
             [&](const NcclFunctions& nccl, ncclComm_t comm) {
               return nccl.all_reduce(words.data(), words.data(), words.size(), ncclUint64, ncclMax,
                                      comm, stream.handle());
             });
}

WorkHandle NcclCommunicator::reduce_scatter(ConstTensorView in, TensorView out, ReduceOp op,
                                            StreamView stream) {
  expect_tensors("reduce_scatter", in, out, out.numel * size());
  return run({"reduce_scatter", in.bytes()}, stream,
             [&](const NcclFunctions& nccl, ncclComm_t comm) {
               return nccl.reduce_scatter(in.data, out.data, static_cast<std::size_t>(out.numel),
                                          nccl_type(in.dtype), nccl_op(op), comm, stream.handle());
             });
}

WorkHandle NcclCommunicator::all_gather(ConstByteView in, ByteView out, StreamView stream) {
  expect_parts("all_gather", out.size, in.size, size());
  expect_device("all_gather", in, in.size);
  expect_device("all_gather", out, out.size);
  return run({"all_gather", out.size}, stream, [&](const NcclFunctions& nccl, ncclComm_t comm) {
    return nccl.all_gather(in.data, out.data, in.size, ncclUint8, comm, stream.handle());
  });
}

WorkHandle NcclCommunicator::all_to_all(ConstByteView in, ByteView out, StreamView stream) {
  const std::size_t part = in.size / static_cast<std::size_t>(size());
  expect_parts("all_to_all", in.size, part, size());
  expect_parts("all_to_all", out.size, part, size());
  expect_device("all_to_all", in, in.size);
  expect_device("all_to_all", out, out.size);
  return run(
      {"all_to_all", in.size}, stream,
      [&](const NcclFunctions& nccl, ncclComm_t comm) {
        return enqueue_all_to_all(nccl, comm, size(), in.data, out.data, part, stream.handle());
      },
      Calls::several);
}

WorkHandle NcclCommunicator::all_to_all_v(ConstByteView in, std::span<const std::size_t> in_bytes,
                                          std::span<const std::size_t> in_offsets, ByteView out,
                                          std::span<const std::size_t> out_bytes,
                                          std::span<const std::size_t> out_offsets,
                                          StreamView stream) {
  const auto ranks = static_cast<std::size_t>(size());
  THINWIRE_EXPECTS(in_bytes.size() == ranks && in_offsets.size() == ranks &&
                       out_bytes.size() == ranks && out_offsets.size() == ranks,
                   InvalidArgument,
                   fmt::format("nccl all_to_all_v: {} parts for {} ranks", in_bytes.size(), ranks));
  for (std::size_t i = 0; i < ranks; ++i) {
    THINWIRE_EXPECTS(in_bytes[i] <= in.size && in_offsets[i] <= in.size - in_bytes[i] &&
                         out_bytes[i] <= out.size && out_offsets[i] <= out.size - out_bytes[i],
                     InvalidArgument,
                     fmt::format("nccl all_to_all_v: part {} leaves its buffer", i));
  }
  expect_device("all_to_all_v", in, in.size);
  expect_device("all_to_all_v", out, out.size);
  return run(
      {"all_to_all_v", in.size}, stream,
      [&](const NcclFunctions& nccl, ncclComm_t comm) {
        ncclResult_t result = ncclSuccess;
        for (std::size_t i = 0; i < ranks && result == ncclSuccess; ++i) {
          result =
              enqueue_pair(nccl, comm, static_cast<int>(i), {in.data + in_offsets[i], in_bytes[i]},
                           {out.data + out_offsets[i], out_bytes[i]}, stream.handle());
        }
        return result;
      },
      Calls::several);
}

WorkHandle NcclCommunicator::broadcast(ByteView data, int root, StreamView stream) {
  expect_peer("broadcast", root, size());
  expect_device("broadcast", data, data.size);
  return run({"broadcast", data.size}, stream, [&](const NcclFunctions& nccl, ncclComm_t comm) {
    return nccl.broadcast(data.data, data.data, data.size, ncclUint8, root, comm, stream.handle());
  });
}

WorkHandle NcclCommunicator::send(ConstByteView data, int to, StreamView stream) {
  expect_peer("send", to, size());
  expect_device("send", data, data.size);
  return run({"send", data.size}, stream, [&](const NcclFunctions& nccl, ncclComm_t comm) {
    return nccl.send(data.data, data.size, ncclUint8, to, comm, stream.handle());
  });
}

WorkHandle NcclCommunicator::recv(ByteView data, int from, StreamView stream) {
  expect_peer("recv", from, size());
  expect_device("recv", data, data.size);
  return run({"recv", data.size}, stream, [&](const NcclFunctions& nccl, ncclComm_t comm) {
    return nccl.recv(data.data, data.size, ncclUint8, from, comm, stream.handle());
  });
}

WorkHandle NcclCommunicator::barrier() {
  return std::make_unique<NcclWork>(*session_, session_->barrier());
}

std::unique_ptr<Communicator> NcclCommunicator::split(int color, int key) {
  auto session = session_->split(color, key);
  if (!session) return nullptr;
  return std::make_unique<NcclCommunicator>(std::move(session));
}

void NcclCommunicator::exchange(OperationName name, StreamView stream, Calls calls,
                                const Body& body) {
  session_->run(name, stream, calls, [&](const NcclFunctions& nccl, ncclComm_t communicator) {
    NcclGroup group{nccl, communicator, size(), stream.handle()};
    body(group);
    return group.result();
  });
}

void NcclCommunicator::wait_for(OperationName name, StreamView stream, Timeout timeout) {
  session_->wait_for(name, stream, timeout);
}

void NcclCommunicator::abort(std::string_view reason, int culprit) noexcept {
  session_->abort(reason, culprit);
}

}  // namespace thinwire::comm
