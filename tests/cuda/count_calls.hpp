#pragma once

#include <cupti.h>

#include <algorithm>
#include <array>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

/// Counts, in its lifetime, the process's calls of the CUDA driver that wait for the device or that
/// allocate or free memory. One at a time.
namespace thinwire::test {

class CallCounter {
 public:
  CallCounter() {
    check(cuptiSubscribe(&subscriber_, &CallCounter::on_call, this));
    check(cuptiEnableDomain(1, subscriber_, CUPTI_CB_DOMAIN_DRIVER_API));
  }
  ~CallCounter() { cuptiUnsubscribe(subscriber_); }
  CallCounter(const CallCounter&) = delete;
  CallCounter& operator=(const CallCounter&) = delete;

  /// Names of the calls of either kind, in order.
  const std::vector<std::string>& waits() const { return waits_; }
  const std::vector<std::string>& allocations() const { return allocations_; }

 private:
  static void check(CUptiResult result) {
    if (result != CUPTI_SUCCESS) throw std::runtime_error{"CUPTI fails"};
  }

  static void CUPTIAPI on_call(void* self, CUpti_CallbackDomain, CUpti_CallbackId,
                               const void* data) {
    const auto* call = static_cast<const CUpti_CallbackData*>(data);
    if (call->callbackSite != CUPTI_API_ENTER) return;
    const std::string_view name = call->functionName;
    const auto begins = [&](std::string_view prefix) { return name.starts_with(prefix); };
    static constexpr std::array<std::string_view, 3> waiting{
        "cuCtxSynchronize", "cuStreamSynchronize", "cuEventSynchronize"};
    static constexpr std::array<std::string_view, 5> allocating{
        "cuMemAlloc", "cuMemFree", "cuMemHostAlloc", "cuMemCreate", "cuMemHostRegister"};
    auto& counter = *static_cast<CallCounter*>(self);
    // Copies that are not asynchronous wait too.
    const bool blocking_copy = begins("cuMemcpy") && name.find("Async") == std::string_view::npos;
    if (blocking_copy || std::any_of(waiting.begin(), waiting.end(), begins)) {
      counter.waits_.emplace_back(name);
    }
    if (std::any_of(allocating.begin(), allocating.end(), begins)) {
      counter.allocations_.emplace_back(name);
    }
  }

  CUpti_SubscriberHandle subscriber_ = nullptr;
  std::vector<std::string> waits_;
  std::vector<std::string> allocations_;
};

}  // namespace thinwire::test
