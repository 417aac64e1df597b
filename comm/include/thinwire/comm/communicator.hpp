#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "thinwire/comm/control_plane.hpp"
#include "thinwire/comm/work.hpp"
#include "thinwire/core/stream.hpp"
#include "thinwire/core/tensor_view.hpp"

namespace thinwire::comm {

enum class ReduceOp : std::uint8_t { sum = 0, avg = 1, max = 2 };

/// A group of ranks that exchange data. Every operation is asynchronous and collective unless its
/// name says otherwise: all ranks call the same ones in the same order, with sizes that fit.
///
/// Buffers are on the device of the communicator (host for MPI and threads) and belong to the
/// caller until the Work is done; `stream` orders device work and is ignored on the host. A size of
/// 0 is allowed everywhere. In and out may be the same buffer where they have the same size, and
/// may not overlap otherwise.
///
/// Errors: InvalidArgument at the call for what this rank can see is wrong; from the Work
/// MismatchError or TransportError for what a peer did, and AbortedError after an abort.
/// A communicator that an exception destroys is aborted, so that its peers do not wait in vain.
/// Thread safety: one thread at a time calls operations and uses their Works; abort() from any
/// thread.
class Communicator {
 public:
  virtual ~Communicator() = default;

  virtual int rank() const = 0;
  virtual int size() const = 0;
  /// Ranks on this host, and this rank's place among them.
  virtual int local_rank() const = 0;
  virtual int local_size() const = 0;
  /// "mpi", "threads", "nccl" or "callback".
  virtual std::string_view transport() const = 0;
  virtual Device device() const = 0;

  /// out[i] = op over ranks of in[i]; fp16 and bf16 are added in fp32 or better where the transport
  /// can. The bits are the same on every rank. This is the plain path: the library's own allreduce.
  virtual WorkHandle allreduce(ConstTensorView in, TensorView out, ReduceOp op,
                               StreamView stream = {}) = 0;

  /// Element-wise maximum of unsigned 64-bit words, in place; for digests of a few words.
  virtual WorkHandle allreduce_max(std::span<std::uint64_t> words, StreamView stream = {}) = 0;

  /// in: size() equal parts; out: this rank's part, reduced over all ranks.
  virtual WorkHandle reduce_scatter(ConstTensorView in, TensorView out, ReduceOp op,
                                    StreamView stream = {}) = 0;

  /// out: every rank's `in`, in rank order; all of the same size. `in` may stand in its own place
  /// of `out`.
  virtual WorkHandle all_gather(ConstByteView in, ByteView out, StreamView stream = {}) = 0;

  /// in and out: size() equal parts; part j of `in` goes to rank j, part i of `out` comes from rank
  /// i.
  virtual WorkHandle all_to_all(ConstByteView in, ByteView out, StreamView stream = {}) = 0;

  /// The same with parts of any size: part j of `in` is the in_bytes[j] bytes at in_offsets[j].
  /// All four spans have size() entries; they are read before the call returns.
  virtual WorkHandle all_to_all_v(ConstByteView in, std::span<const std::size_t> in_bytes,
                                  std::span<const std::size_t> in_offsets, ByteView out,
                                  std::span<const std::size_t> out_bytes,
                                  std::span<const std::size_t> out_offsets,
                                  StreamView stream = {}) = 0;

  /// Every rank's `data` becomes the root's.
  virtual WorkHandle broadcast(ByteView data, int root, StreamView stream = {}) = 0;

  /// Not collective: matched by receiver, sender and order of calls. Sizes must be equal.
  virtual WorkHandle send(ConstByteView data, int to, StreamView stream = {}) = 0;
  virtual WorkHandle recv(ByteView data, int from, StreamView stream = {}) = 0;

  /// Done when every rank has called it.
  virtual WorkHandle barrier() = 0;

  /// Collective and blocking: ranks of equal color form a new communicator, ordered by key, then by
  /// rank. A negative color returns null. The parent stays usable and must outlive the child.
  virtual std::unique_ptr<Communicator> split(int color, int key) = 0;

  virtual ControlPlane& control() = 0;

  /// Ends the communicator on every rank: what is pending and what comes later throws AbortedError.
  /// `culprit`: the rank that failed first, this one by default (-1). Does not block, never throws.
  virtual void abort(std::string_view reason, int culprit = -1) noexcept = 0;
};

}  // namespace thinwire::comm
