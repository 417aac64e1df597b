#include "thinwire/compress/cuda_coder.hpp"

#include <cuda_runtime_api.h>
#include <fmt/format.h>

#include <array>
#include <string_view>

#include "coder_checks.hpp"
#include "cuda/device_plan.hpp"
#include "cuda/launch.hpp"
#include "cuda/try.hpp"
#include "thinwire/core/error.hpp"

namespace thinwire::compress {
namespace {

using namespace cuda;

const SectionLauncher& launcher_of(Codec codec) {
  switch (codec) {
    case Codec::none:
      return none_launcher();
    case Codec::bf16:
      return bf16_launcher();
    case Codec::fp16:
      return fp16_launcher();
    case Codec::int8:
      return int8_launcher();
    case Codec::int4:
      return int4_launcher();
    case Codec::sign:
      return sign_launcher();
    case Codec::topk:
      return topk_launcher();
    case Codec::mixed:
      break;
  }
  throw InvalidArgument{fmt::format("codec {} is not a section's", to_string(codec))};
}

void check_device_slots(const char* verb, const ConstByteView& slots, std::size_t count,
                        std::size_t slot_bytes) {
  check_slots(verb, slots.size, count, slot_bytes);
  THINWIRE_EXPECTS(slots.device == Device::cuda, InvalidArgument,
                   fmt::format("{}: the slot buffer is not in device memory", verb));
  THINWIRE_EXPECTS(reinterpret_cast<std::uintptr_t>(slots.data) % 16 == 0, InvalidArgument,
                   fmt::format("{}: the slot buffer is not aligned to 16 bytes", verb));
}

void check_state(const char* verb, const Plan& plan, const CudaState& state) {
  THINWIRE_EXPECTS(&state.plan() == &plan || state.plan().id() == plan.id(), InvalidArgument,
                   fmt::format("{}: the state belongs to another plan", verb));
}

}  // namespace

struct CudaCoder::Impl {
  const Plan* plan;
  DevicePlan device;
  CudaStep* step;
  ErrorRing::DeviceHandle errors;

  VerbFrame frame(int chunk, Verb verb) const {
    const DeviceChunk& tables = device.chunk(chunk, verb);
    return {.chunk = tables.view,
            .gathered = tables.gathered,
            .step = step->device_block(),
            .errors = errors,
            .topk = {}};
  }

  const CodecSpec& spec_of(const SectionTiles& section) const {
    return plan->sections()[section.section];
  }

  CodecSettings settings_of(const CodecSpec& spec) const {
    return {.rms = spec.sign_scale == SignScale::rms,
            .zero_non_finite = plan->settings().non_finite == NonFinite::zero};
  }

  Inputs inputs(int chunk, const ConstByteView& slots) const {
    return {.slots = slots.data,
            .slot_bytes = plan->slot_bytes(chunk, Phase::reduce),
            .ranks = plan->ranks(),
            .one_over_ranks = 1.0f / static_cast<float>(plan->ranks())};
  }

  /// Calls body(section, first tile, tiles) for the sections that have tiles of an owner's shard.
  template <typename Body>
  void for_each_section(int chunk, Verb verb, int shard, Body body) const {
    for (const SectionTiles& section : device.chunk(chunk, verb).sections) {
      const auto at = static_cast<std::size_t>(shard);
      const std::uint32_t tiles = section.first_tile[at + 1] - section.first_tile[at];
      if (tiles != 0) body(section, section.first_tile[at], tiles);
    }
  }
};

CudaCoder::CudaCoder(const Plan& plan, std::shared_ptr<MemoryResource> device_memory,
                     CudaStep& step, const ErrorRing& errors, StreamView stream)
    : impl_{new Impl{&plan, DevicePlan{plan, device_memory, stream}, &step, errors.device()}} {}

CudaCoder::~CudaCoder() = default;
CudaCoder::CudaCoder(CudaCoder&&) noexcept = default;
CudaCoder& CudaCoder::operator=(CudaCoder&&) noexcept = default;

std::size_t CudaCoder::workspace_bytes() const { return impl_->device.bytes(); }

void CudaCoder::encode(int chunk, ConstTensorView gradients, CudaState& state, const CudaCall& call,
                       ByteView slots) {
  const Plan& plan = *impl_->plan;
  check_chunk("encode", plan, chunk);
  check_tensor("encode", gradients, plan.settings().dtype, Device::cuda, plan.source_extent());
  check_state("encode", plan, state);
  check_device_slots("encode", slots, static_cast<std::size_t>(plan.ranks()),
                     plan.slot_bytes(chunk, Phase::reduce));

  const DeviceChunk& tables = impl_->device.chunk(chunk, Verb::encode);
  EncodeLaunch launch{.frame = impl_->frame(chunk, Verb::encode),
                      .gradients = gradients.data,
                      .dtype = gradients.dtype,
                      .inv_scale = call.inv_scale,
                      .worker = {{state.worker_version(0), state.worker_version(1)}},
                      .state = state.device_row(),
                      .slots = slots.data,
                      .settings = {},
                      .first_tile = 0,
                      .writes_pads = true};
  for (const SectionTiles& section : tables.sections) {
    const CodecSpec& spec = impl_->spec_of(section);
    launch.settings = impl_->settings_of(spec);
    launch.frame.topk = section.topk_view;
    launch.first_tile = section.first_tile.front();
    launcher_of(spec.codec).encode(launch, section.tiles(), call.stream.handle());
    launch.writes_pads = false;
  }
  finish_encode(launch, call.stream.handle());
}

void CudaCoder::reduce_encode(int chunk, ConstByteView slots, CudaState& state,
                              const CudaCall& call, ByteView slot_out) {
  const Plan& plan = *impl_->plan;
  check_chunk("reduce_encode", plan, chunk);
  check_state("reduce_encode", plan, state);
  check_device_slots("reduce_encode", slots, static_cast<std::size_t>(plan.ranks()),
                     plan.slot_bytes(chunk, Phase::reduce));
  check_device_slots("reduce_encode", slot_out, 1, plan.slot_bytes(chunk, Phase::gather));

  ReduceEncodeLaunch launch{.frame = impl_->frame(chunk, Verb::reduce_encode),
                            .inputs = impl_->inputs(chunk, slots),
                            .server = {{state.server_version(0), state.server_version(1)}},
                            .state = state.device_row(),
                            .slot_out = slot_out.data,
                            .settings = {},
                            .shard = static_cast<std::uint32_t>(state.shard()),
                            .first_tile = 0,
                            .writes_pads = true};
  impl_->for_each_section(
      chunk, Verb::reduce_encode, state.shard(),
      [&](const SectionTiles& section, std::uint32_t first, std::uint32_t tiles) {
        const CodecSpec& spec = impl_->spec_of(section);
        launch.settings = impl_->settings_of(spec);
        launch.frame.topk = section.topk_view;
        launch.first_tile = first;
        launcher_of(spec.codec).reduce_encode(launch, tiles, call.stream.handle());
        launch.writes_pads = false;
      });
  finish_reduce_encode(launch, call.stream.handle());
}

void CudaCoder::decode(int chunk, ConstByteView slots, const CudaCall& call, TensorView gradients) {
  const Plan& plan = *impl_->plan;
  check_chunk("decode", plan, chunk);
  check_tensor("decode", gradients, plan.settings().dtype, Device::cuda, plan.source_extent());
  check_device_slots("decode", slots, static_cast<std::size_t>(plan.ranks()),
                     plan.slot_bytes(chunk, Phase::gather));

  const DeviceChunk& tables = impl_->device.chunk(chunk, Verb::decode);
  DecodeLaunch launch{.frame = impl_->frame(chunk, Verb::decode),
                      .slots = slots.data,
                      .out_scale = call.out_scale,
                      .gradients = gradients.data,
                      .dtype = gradients.dtype,
                      .first_tile = 0};
  for (const SectionTiles& section : tables.sections) {
    launch.frame.topk = section.topk_view;
    launch.first_tile = section.first_tile.front();
    launcher_of(impl_->spec_of(section).codec)
        .decode(launch, section.tiles(), call.stream.handle());
  }
  finish_decode(launch, call.stream.handle());
}

void CudaCoder::reduce(int chunk, ConstByteView slots, int shard, const CudaCall& call,
                       TensorView out, std::int64_t out_origin) {
  const Plan& plan = *impl_->plan;
  check_chunk("reduce", plan, chunk);
  check_reduce_out(plan, chunk, shard, out, Device::cuda, out_origin);
  check_device_slots("reduce", slots, static_cast<std::size_t>(plan.ranks()),
                     plan.slot_bytes(chunk, Phase::reduce));

  ReduceLaunch launch{.frame = impl_->frame(chunk, Verb::reduce),
                      .inputs = impl_->inputs(chunk, slots),
                      .out_scale = call.out_scale,
                      .out = out.data,
                      .out_origin = out_origin,
                      .dtype = out.dtype,
                      .shard = static_cast<std::uint32_t>(shard),
                      .first_tile = 0};
  impl_->for_each_section(
      chunk, Verb::reduce, shard,
      [&](const SectionTiles& section, std::uint32_t first, std::uint32_t tiles) {
        launch.frame.topk = section.topk_view;
        launch.first_tile = first;
        launcher_of(impl_->spec_of(section).codec).reduce(launch, tiles, call.stream.handle());
      });
  finish_reduce(launch, call.stream.handle());
}

std::string describe(const DeviceError& error) {
  static constexpr std::array<std::string_view, 14> fields{
      "magic",         "wire version",   "operation", "codec",       "dtype",
      "sequence",      "plan id",        "elements",  "block",       "payload length",
      "unknown flags", "reserved bytes", "checksum",  "topk entries"};
  const std::string_view field = error.code < fields.size() ? fields[error.code] : "unknown field";
  return fmt::format("payload from rank {}: {} is {} ({:#x}), expected {} ({:#x})", error.peer,
                     field, error.got, error.got, error.expected, error.expected);
}

}  // namespace thinwire::compress
