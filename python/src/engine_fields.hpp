#pragma once

#include <pybind11/stl.h>

#include <cstdint>
#include <string>
#include <tuple>
#include <vector>

#include "convert.hpp"
#include "thinwire/comm/buckets.hpp"
#include "thinwire/comm/compressed_allreduce.hpp"
#include "thinwire/compress/state.hpp"

/// Buckets, residuals and reports as Python gives and takes them, for the engines of all devices.
namespace thinwire::python {

using compress::Residual;

/// (name, offset in the parameter, offset in the bucket, length, rows, cols, section)
using SpanFields = std::tuple<std::string, std::int64_t, std::int64_t, std::int64_t, std::int64_t,
                              std::int64_t, std::uint32_t>;
/// (name, offset in the parameter, address, elements)
using ResidualFields = std::tuple<std::string, std::int64_t, std::uintptr_t, std::int64_t>;

/// Floats that Python may read in place.
struct Floats {
  std::vector<float> values;
};

inline compress::Commit parse_commit(const std::string& text) {
  if (text == "in_place") return compress::Commit::in_place;
  if (text == "double") return compress::Commit::double_buffered;
  throw InvalidArgument{"unknown commit '" + text + "'; use in_place or double"};
}

inline compress::NonFinite parse_non_finite(const std::string& text) {
  if (text == "propagate") return compress::NonFinite::propagate;
  if (text == "raise") return compress::NonFinite::raise;
  if (text == "zero") return compress::NonFinite::zero;
  throw InvalidArgument{"unknown policy '" + text + "' for NaN; use propagate, raise or zero"};
}

inline std::vector<Residual> take_residuals(const std::vector<ResidualFields>& fields) {
  std::vector<Residual> residuals;
  for (const auto& [name, offset, address, numel] : fields) {
    const auto* values = reinterpret_cast<const float*>(address);
    residuals.push_back({name, offset, {values, values + numel}});
  }
  return residuals;
}

inline py::list give_residuals(std::vector<Residual> residuals) {
  py::list list;
  for (auto& residual : residuals) {
    list.append(
        py::make_tuple(residual.parameter, residual.offset, Floats{std::move(residual.values)}));
  }
  return list;
}

inline comm::Bucket bucket_of(const std::string& dtype, std::int64_t elements,
                              const std::vector<std::string>& codecs,
                              const std::vector<SpanFields>& spans) {
  comm::Bucket bucket{parse_dtype(dtype), elements, {}, {}};
  for (const auto& codec : codecs) bucket.sections.push_back(compress::parse_codec(codec));
  for (const auto& [name, offset, source, length, rows, cols, section] : spans) {
    bucket.spans.push_back({name, offset, source, length, rows, cols, section});
  }
  return bucket;
}

inline py::dict plan_fields(const compress::Plan& plan, int rank) {
  py::dict fields;
  fields["elements"] = plan.elements();
  fields["wire_bytes"] = plan.wire_bytes();
  fields["state_bytes"] = plan.state_bytes(rank);
  fields["plain"] = plan.plain();
  return fields;
}

inline py::dict metrics_fields(const comm::CallMetrics& sum) {
  py::dict fields;
  fields["calls"] = sum.calls;
  fields["payload_bytes"] = sum.payload_bytes;
  fields["wire_bytes"] = sum.wire_bytes;
  fields["plain_wire_bytes"] = sum.plain_wire_bytes;
  fields["encode_ms"] = sum.encode_ms;
  fields["exchange_ms"] = sum.exchange_ms;
  fields["decode_ms"] = sum.decode_ms;
  return fields;
}

}  // namespace thinwire::python
