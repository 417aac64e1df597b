#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <memory>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

#include "plans.hpp"
#include "thinwire/compress/coder.hpp"
#include "thinwire/compress/header.hpp"
#include "thinwire/core/error.hpp"
#include "thinwire/core/worker_pool.hpp"

/// Lets the decoders of one codec loose on arbitrary bytes. The reference and the host coder must
/// agree: both refuse them with a FormatError, or both make the same of them. Buffers have their
/// exact size, so that a sanitizer sees every access outside.
namespace thinwire::compress::test {

class DecoderHarness {
 public:
  /// `codec`: a codec, or "none" for a section of it beside one of int4.
  explicit DecoderHarness(const std::string& codec) {
    for (const DType dtype : {DType::f32, DType::f16, DType::bf16}) {
      for (const NonFinite policy : {NonFinite::propagate, NonFinite::zero}) {
        // That of the golden files, so that their slots are seeds.
        add_plan(codec, {1500, 70}, 2, dtype, policy);
      }
    }
    if (parse_codec(codec).codec == Codec::topk) {  // two blocks of positions
      add_plan(codec, {65536 + 200}, 1, DType::f32, NonFinite::propagate);
    }
  }

  /// The last byte chooses plan, verb and whether the headers are made right; the others are the
  /// slots, and zeros where they end.
  void operator()(std::span<const std::uint8_t> input) {
    if (input.empty()) return;
    const std::uint8_t choice = input.back();
    const Case& chosen = *cases_[choice / 8 % cases_.size()];
    const Verb verb = verbs[choice % 4];
    const Phase phase = verb == &DecoderHarness::decode ? Phase::gather : Phase::reduce;
    std::vector<std::byte> slots(chosen.plan.payload_bytes(phase));
    std::memcpy(slots.data(), input.data(), std::min(slots.size(), input.size() - 1));
    if (choice / 4 % 2 == 0) make_headers_right(chosen.plan, phase, slots);
    require(outcome(verb, chosen.plan, *chosen.reference, slots) ==
                outcome(verb, chosen.plan, *chosen.host, slots),
            "the reference and the host coder differ");
  }

 private:
  using Bytes = std::vector<std::byte>;
  using Verb = Bytes (*)(const Plan&, Coder&, std::span<const std::byte> slots);

  static constexpr CallState call{.sequence = 2};

  struct Case {
    explicit Case(Plan plan_)
        : plan{std::move(plan_)},
          reference{make_reference_coder(plan)},
          host{make_host_coder(plan, std::make_shared<WorkerPool>(1))} {}

    Plan plan;
    std::unique_ptr<Coder> reference;
    std::unique_ptr<Coder> host;
  };

  void add_plan(const std::string& codec, const std::vector<std::int64_t>& lengths, int ranks,
                DType dtype, NonFinite policy) {
    std::vector<CodecSpec> sections{parse_codec(codec == "none" ? "int4" : codec)};
    std::vector<Span> spans = contiguous_spans(lengths);
    if (codec == "none") {
      sections.push_back(parse_codec("none"));
      spans.back().section = 1;
    }
    PlanSettings settings = with_ranks(ranks);
    settings.dtype = dtype;
    settings.non_finite = policy;
    cases_.push_back(std::make_unique<Case>(Plan{sections, spans, settings}));
  }

  /// Every field as the decoder wants it, the flags from the bytes, and the checksum.
  static void make_headers_right(const Plan& plan, Phase phase, std::span<std::byte> slots) {
    const std::size_t bytes = plan.slot_bytes(0, phase);
    for (int i = 0; i < plan.ranks(); ++i) {
      const auto slot = slots.subspan(static_cast<std::size_t>(i) * bytes, bytes);
      SlotHeader given;
      std::memcpy(&given, slot.data(), sizeof given);
      const int shard = phase == Phase::gather ? i : 0;
      SlotHeader header = make_header(plan, shard, 0, phase, call.sequence, given.flags & 3u, 0);
      header.checksum = digest(slot.subspan(header_bytes, header.payload_length), 0);
      std::memcpy(slot.data(), &header, sizeof header);
    }
  }

  static void require(bool condition, const char* what) {
    if (!condition) throw std::logic_error{what};
  }

  /// What a verb wrote, or nothing if it refused the slots.
  static std::optional<Bytes> outcome(Verb verb, const Plan& plan, Coder& coder,
                                      std::span<const std::byte> slots) {
    try {
      return verb(plan, coder, slots);
    } catch (const FormatError&) {
      return std::nullopt;
    }
  }

  /// The slot and the server residual, which must be finite whatever came in.
  static Bytes reduce_encode(const Plan& plan, Coder& coder, std::span<const std::byte> slots) {
    State state{plan, 0, std::make_shared<HostMemory>()};
    Bytes out(plan.slot_bytes(0, Phase::gather));
    coder.reduce_encode(0, slots, state, call, out);
    state.commit();
    check_slot(plan, 0, 0, Phase::gather, call.sequence, 0, out);
    for (const Residual& residual : state.export_server()) {
      for (const float value : residual.values) {
        require(std::isfinite(value), "a server residual is not finite");
      }
      const auto bytes = std::as_bytes(std::span{residual.values});
      out.insert(out.end(), bytes.begin(), bytes.end());
    }
    return out;
  }

  static Bytes decode(const Plan& plan, Coder& coder, std::span<const std::byte> slots) {
    Bytes out(tensor_bytes(plan));
    coder.decode(0, slots, call, tensor(plan, out));
    return out;
  }

  static Bytes reduce(const Plan& plan, Coder& coder, std::span<const std::byte> slots) {
    Bytes out(tensor_bytes(plan));
    coder.reduce(0, slots, 0, call, tensor(plan, out), 0);
    return out;
  }

  static std::size_t tensor_bytes(const Plan& plan) {
    return static_cast<std::size_t>(plan.source_extent()) * size_of(plan.settings().dtype);
  }

  static TensorView tensor(const Plan& plan, Bytes& bytes) {
    return {bytes.data(), plan.source_extent(), plan.settings().dtype, Device::host};
  }

  static constexpr Verb verbs[4] = {&DecoderHarness::reduce_encode, &DecoderHarness::decode,
                                    &DecoderHarness::reduce, &DecoderHarness::decode};

  std::vector<std::unique_ptr<Case>> cases_;
};

}  // namespace thinwire::compress::test
