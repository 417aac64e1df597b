#include <gmock/gmock.h>

#include "gpu.hpp"
#include "thinwire/core/cuda/error_ring.hpp"

namespace thinwire::test {
namespace {

TEST(CudaMemory, AllocateAndFree_OnAStream_IsTracked) {
  SKIP_WITHOUT_GPU();
  Gpu gpu;
  {
    const std::vector<int> values{1, 2, 3};
    const Buffer buffer = gpu.upload<int>(values);
    EXPECT_EQ(gpu.download(buffer.as<int>(), 3), values);
    EXPECT_EQ(gpu.memory->total().current, 3 * sizeof(int));
  }
  EXPECT_EQ(gpu.memory->total().current, 0u);
  EXPECT_EQ(gpu.memory->total().peak, 3 * sizeof(int));
}

TEST(CudaMemory, AllocateOverALimit_NamesTheRequest) {
  SKIP_WITHOUT_GPU();
  Gpu gpu;
  LimitMemory limited{gpu.memory, 1000};
  EXPECT_THROW(limited.allocate(1001, "payload"), OutOfMemory);
  EXPECT_EQ(gpu.memory->total().current, 0u);
}

TEST(CudaMemory, AllocateMoreThanThereIs_ThrowsOutOfMemoryAndStaysUsable) {
  SKIP_WITHOUT_GPU();
  Gpu gpu;
  EXPECT_THROW(gpu.buffer(std::size_t{1} << 50), OutOfMemory);
  EXPECT_THROW(ExchangeMemory{}.allocate(std::size_t{1} << 50, "exchange"), OutOfMemory);
  EXPECT_NO_THROW(gpu.buffer(1 << 20));
}

TEST(CudaMemory, PinnedMemory_IsSeenByTheDeviceAtItsAddress) {
  SKIP_WITHOUT_GPU();
  Gpu gpu;
  const Buffer pinned{std::make_shared<PinnedMemory>(), sizeof(int), "test"};
  *pinned.as<int>() = 7;
  cudaPointerAttributes attributes{};
  check(cudaPointerGetAttributes(&attributes, pinned.data()));
  EXPECT_EQ(attributes.devicePointer, pinned.data());
}

TEST(CudaStream, Move_LeavesTheHandleWithTheNewOwner) {
  SKIP_WITHOUT_GPU();
  CudaStream first;
  CUstream_st* handle = first.view().handle();
  CudaStream second{std::move(first)};
  EXPECT_EQ(second.view().handle(), handle);
  EXPECT_NO_THROW(second.synchronize());
}

TEST(CudaEvent, Wait_OrdersAnotherStream) {
  SKIP_WITHOUT_GPU();
  Gpu first;
  const CudaStream second;
  const Buffer from = first.buffer(64 << 20);
  const Buffer to = first.buffer(64 << 20);
  check(cudaMemsetAsync(from.data(), 3, from.size(), first.stream.view().handle()));
  CudaEvent event;
  event.record(first.stream);
  event.wait(second);
  check(cudaMemcpyAsync(to.data(), from.data(), from.size(), cudaMemcpyDefault,
                        second.view().handle()));
  second.synchronize();
  EXPECT_TRUE(event.ready());
  EXPECT_EQ(first.download(to.data() + to.size() - 1, 1).front(), std::byte{3});
}

TEST(DeviceGuard, UnknownDevice_ThrowsCudaError) {
  SKIP_WITHOUT_GPU();
  EXPECT_THROW(DeviceGuard{1000}, CudaError);
  EXPECT_NO_THROW(DeviceGuard{0});
}

TEST(ErrorRing, Poll_BeforeAnyError_IsEmpty) {
  SKIP_WITHOUT_GPU();
  Gpu gpu;
  ErrorRing ring{gpu.memory};
  EXPECT_FALSE(ring.poll().has_value());
}

}  // namespace
}  // namespace thinwire::test
