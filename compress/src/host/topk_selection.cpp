#include "host/topk_selection.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "block_rules.hpp"
#include "thinwire/compress/header.hpp"

namespace thinwire::compress {
namespace {

using simd::Memory;
using simd::TopkCandidate;

/// A place of the sample is so many consecutive elements (a cache line), and at most one of so many
/// elements of the run belongs to the sample.
constexpr std::int64_t place_elements = 16;
constexpr std::int64_t elements_per_sample = 8;
constexpr std::int64_t most_places = 4096;
/// Places that are fetched from memory at once.
constexpr std::int64_t places_at_once = 16;
/// Up to here all elements that are not zero are candidates.
constexpr std::int64_t small_run = 4096;
/// Strips of one work item.
constexpr std::size_t item_strips = 16;

std::int64_t places_of(std::int64_t elements) {
  return std::min(most_places, elements / (place_elements * elements_per_sample));
}

/// Rank in the sample of a threshold that k entries surely pass: their expected number and about
/// three standard deviations, were all elements of a place equal.
double wanted_in_sample(std::int64_t elements, std::int64_t entries) {
  const double expected = static_cast<double>(entries) / static_cast<double>(elements) *
                          static_cast<double>(places_of(elements) * place_elements);
  return expected + 12.0 * std::sqrt(expected) + 4.0;
}

/// How many candidates that gives for k entries: the fewer, the less the sample says about them.
std::int64_t wanted_candidates(std::int64_t elements, std::int64_t entries) {
  const auto sampled = static_cast<double>(places_of(elements) * place_elements);
  return static_cast<std::int64_t>(wanted_in_sample(elements, entries) *
                                   static_cast<double>(elements) / sampled);
}

/// No threshold pays: every element that is not zero is a candidate.
bool takes_all(std::int64_t elements, std::int64_t entries) {
  return elements <= small_run || wanted_candidates(elements, entries) >= elements / 2;
}

template <typename T>
void store_at(std::span<std::byte> out, std::size_t at, T value) {
  std::memcpy(out.data() + at, &value, sizeof value);
}

/// Whether a group of the source holds a number that is not zero.
bool is_live(const void* source, DType dtype, std::int64_t first, std::int64_t count) {
  return visit_dtype(dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    const T* from = static_cast<const T*>(source) + first;
    return std::any_of(from, from + count, [](T value) { return to_float(value) != 0.0f; });
  });
}

struct StripBuffers {
  alignas(64) float source[topk_strip_elements];
  TopkCandidate candidates[topk_strip_elements];
};

}  // namespace

std::size_t topk_candidate_capacity(std::int64_t elements, std::int64_t entries) {
  if (takes_all(elements, entries)) return static_cast<std::size_t>(elements);
  return static_cast<std::size_t>(
      std::min(elements, 2 * wanted_candidates(elements, entries) + most_places * place_elements));
}

TopkScratch::TopkScratch(std::size_t strips, std::int64_t elements, std::size_t stored, int threads)
    : states(strips),
      candidates{default_memory(), stored * sizeof(TopkCandidate), "scratch"},
      non_finite{new std::atomic<bool>[static_cast<std::size_t>(ceil_div(elements, topk_block))]},
      sample(static_cast<std::size_t>(places_of(elements) * place_elements)),
      histograms{threads} {}

TopkSelection::TopkSelection(const TopkInput& input, const TopkResidual& residual,
                             std::span<const TopkStrip> strips, std::int64_t elements,
                             std::int64_t entries, NonFinite policy, TopkScratch& scratch,
                             WorkerPool& pool)
    : input_{input},
      residual_{residual},
      strips_{strips},
      parts_{elements, entries},
      elements_{elements},
      entries_{entries},
      policy_{policy},
      scratch_{scratch},
      pool_{pool} {
  for (std::int64_t b = 0; b < parts_.blocks; ++b) {
    scratch_.non_finite[static_cast<std::size_t>(b)] = false;
  }
}

void TopkSelection::mark_non_finite(std::int64_t block) {
  scratch_.non_finite[static_cast<std::size_t>(block)] = true;
  some_non_finite_ = true;
}

std::uint32_t TopkSelection::write(std::uint32_t threshold, std::span<std::byte> out) {
  threshold_ = threshold;
  scan();
  std::int64_t candidates = count_candidates();
  if (threshold_ > 0 && candidates < entries_) {
    if (!stored_ || !settle_ties(entries_ - candidates)) {
      // The sample misled: every element that is not zero is a candidate.
      threshold_ = 0;
      stored_ = false;
    }
    candidates = count_candidates();
  }
  write_entries(find_cut(candidates), out);
  if (!some_non_finite_) return 0;
  return policy_ == NonFinite::zero ? flag_zeroed : flag_non_finite;
}

template <typename Body>
void TopkSelection::for_each_strip(const Body& body) const {
  parallel_items(pool_, (strips_.size() + item_strips - 1) / item_strips, [&](std::size_t item) {
    const std::size_t end = std::min(strips_.size(), (item + 1) * item_strips);
    for (std::size_t i = item * item_strips; i < end; ++i) body(i);
    simd::stream_fence();
  });
}

template <typename Body>
void TopkSelection::for_each_candidate(std::size_t strip, const Body& body) const {
  const std::int64_t position = strips_[strip].position();
  const auto visit = [&](const TopkCandidate* from, std::uint32_t count) {
    if (!some_non_finite_) {
      for (std::uint32_t i = 0; i < count; ++i) body(from[i]);
      return;
    }
    for (std::uint32_t i = 0; i < count; ++i) {
      if (!is_non_finite(position + from[i].index)) body(from[i]);
    }
  };
  if (stored_) {
    const TopkStripState& state = scratch_.states[strip];
    visit(scratch_.candidates.as<TopkCandidate>() + state.first, state.candidates);
  } else {
    TopkCandidate found[topk_strip_elements];
    visit(found, search(strips_[strip], threshold_, found));
  }
}

/// Everything that a strip's pass needs but its candidates.
simd::TopkScan TopkSelection::job_of(const TopkStrip& strip) const {
  simd::TopkScan job;
  job.dtype = input_.dtype();
  job.inv_scale = input_.inv_scale();
  job.elements = strip.elements;
  job.every_group = input_.every_group();
  const std::int64_t residual = input_.residual(*strip.piece);
  if (residual < 0) return job;
  job.residual = residual_.committed + residual + strip.offset;
  job.residual_next = residual_.next + residual + strip.offset;
  const bool aligned = reinterpret_cast<std::uintptr_t>(job.residual_next) % 64 == 0;
  job.memory = residual_.streamed && aligned ? Memory::streamed : Memory::cached;
  return job;
}

/// A threshold that about wanted_candidates() magnitudes are over. The places are spread evenly and
/// do not depend on the data.
std::uint32_t TopkSelection::sampled_threshold() const {
  if (takes_all(elements_, entries_)) return 0;
  const std::int64_t places = places_of(elements_);
  const auto room = static_cast<std::uint64_t>(elements_ / places - place_elements);
  std::size_t strip = 0;
  std::size_t taken = 0;
  for (std::int64_t first = 0; first < places; first += places_at_once) {
    const std::int64_t count = std::min(places_at_once, places - first);
    TopkStrip sampled[places_at_once];
    const void* sources[places_at_once];
    alignas(64) float buffers[places_at_once][place_elements];
    for (std::int64_t i = 0; i < count; ++i) {
      const std::int64_t place = first + i;
      const std::int64_t position =
          elements_ / places * place + elements_ % places * place / places +
          static_cast<std::int64_t>(mix64(static_cast<std::uint64_t>(place)) % room);
      while (strips_[strip].position() + strips_[strip].elements <= position) ++strip;
      const TopkStrip& around = strips_[strip];
      const std::int64_t skipped = position - around.position();
      sampled[i] = {around.piece, around.offset + skipped,
                    std::min(place_elements, around.elements - skipped)};
      sources[i] = input_.source(sampled[i], buffers[i]);
      __builtin_prefetch(sources[i]);
      __builtin_prefetch(job_of(sampled[i]).residual);
    }
    for (std::int64_t i = 0; i < count; ++i) taken += sample(sampled[i], sources[i], taken);
  }
  const auto wanted =
      std::min(static_cast<std::size_t>(wanted_in_sample(elements_, entries_)) + 1, taken);
  const TopkCut cut =
      scratch_.histograms.cut(pool_, static_cast<std::int64_t>(wanted),
                              [&](std::size_t part, std::size_t parts, const auto& body) {
                                const std::size_t end = taken * (part + 1) / parts;
                                for (std::size_t i = taken * part / parts; i < end; ++i)
                                  body(scratch_.sample[i]);
                              });
  return std::min(cut.key, overflow_bits(Codec::topk) - 1);
}

/// Adds the magnitudes of a place to the sample from `at` on. Returns their number.
std::size_t TopkSelection::sample(const TopkStrip& place, const void* source,
                                  std::size_t at) const {
  const simd::TopkScan job = job_of(place);
  const auto count = static_cast<std::size_t>(place.elements);
  visit_dtype(job.dtype, [&](auto tag) {
    const auto* from = static_cast<const typename decltype(tag)::type*>(source);
    bool live = input_.every_group();
    for (std::size_t i = 0; i < count; ++i) {
      const float g = to_float(from[i]);
      live = live || g != 0.0f;
      float x = g * job.inv_scale;
      if (job.residual != nullptr) x += job.residual[i];
      scratch_.sample[at + i] = magnitude_bits(x);
    }
    if (live && input_.takes_part(*place.piece)) return;
    std::fill_n(scratch_.sample.begin() + static_cast<std::ptrdiff_t>(at), count, 0u);
  });
  return count;
}

/// The pass over all elements: x to the residual, candidates to the scratch.
void TopkSelection::scan() {
  std::atomic<bool> fits{true};
  for_each_strip([&](std::size_t index) {
    const TopkStrip& strip = strips_[index];
    TopkStripState& state = scratch_.states[index];
    state = {};
    simd::TopkScan job = job_of(strip);
    if (!input_.takes_part(*strip.piece)) {
      if (job.residual != job.residual_next) {
        std::copy_n(job.residual, strip.elements, job.residual_next);
      }
      return;
    }
    StripBuffers buffers;
    job.source = input_.source(strip, buffers.source);
    job.threshold = threshold_;
    job.candidates = buffers.candidates;
    const simd::TopkScanned scanned = simd::scan_topk(job);
    state.candidates = scanned.candidates;
    if (scanned.overflow) {
      for (std::uint32_t i = 0; i < scanned.candidates; ++i) {
        const TopkCandidate& candidate = buffers.candidates[i];
        if (magnitude_bits(candidate.x) < overflow_bits(Codec::topk)) continue;
        mark_non_finite((strip.position() + candidate.index) / topk_block);
      }
    }
    if (!store(state, buffers.candidates)) fits = false;
  });
  stored_ = fits;
}

/// Takes over the candidates of one strip if there is room.
bool TopkSelection::store(TopkStripState& state, const TopkCandidate* from) {
  state.first = used_.fetch_add(state.candidates);
  const std::size_t end = state.first + state.candidates;
  if (end * sizeof(TopkCandidate) > scratch_.candidates.size()) return false;
  std::copy_n(from, state.candidates, scratch_.candidates.as<TopkCandidate>() + state.first);
  return true;
}

/// Finds the elements of a strip over `threshold` again, after scan(): x stands in the residual.
std::uint32_t TopkSelection::search(const TopkStrip& strip, std::uint32_t threshold,
                                    TopkCandidate* to) const {
  if (!input_.takes_part(*strip.piece)) return 0;
  alignas(64) float buffer[topk_strip_elements];
  simd::TopkScan job = job_of(strip);
  const void* source = input_.source(strip, buffer);
  job.source = source;
  job.threshold = threshold;
  job.candidates = to;
  const bool by_group = job.memory != Memory::none && !job.every_group;
  if (job.memory != Memory::none) {
    job.source = job.residual_next;
    job.dtype = DType::f32;
    job.inv_scale = 1.0f;
    job.memory = Memory::none;
    job.every_group = true;
  }
  const std::uint32_t found = simd::scan_topk(job).candidates;
  if (!by_group) return found;
  // The residual of a group that takes no part is not x.
  std::uint32_t kept = 0;
  std::int64_t group = -1;
  bool live = false;
  for (std::uint32_t i = 0; i < found; ++i) {
    const std::int64_t of = to[i].index / group_elements;
    if (of != group) {
      group = of;
      const std::int64_t first = of * group_elements;
      live =
          is_live(source, input_.dtype(), first, std::min(group_elements, strip.elements - first));
    }
    if (live) to[kept++] = to[i];
  }
  return kept;
}

std::int64_t TopkSelection::count_candidates() const {
  std::atomic<std::int64_t> total{0};
  for_each_strip([&](std::size_t index) {
    std::int64_t count = 0;
    if (stored_ && !some_non_finite_) {
      count = scratch_.states[index].candidates;
    } else {
      for_each_candidate(index, [&](const TopkCandidate&) { ++count; });
    }
    total += count;
  });
  return total;
}

/// Tries to make up for `missing` entries by numbers on the threshold, lowest index first: many
/// equal numbers do not mislead the sample. True if there were enough; the candidates are then
/// exactly the entries.
bool TopkSelection::settle_ties(std::int64_t missing) {
  for (std::size_t index = 0; index < strips_.size() && missing > 0; ++index) {
    const TopkStrip& strip = strips_[index];
    TopkCandidate found[topk_strip_elements];
    const std::uint32_t count = search(strip, threshold_ - 1, found);
    std::uint32_t kept = 0;
    for (std::uint32_t i = 0; i < count; ++i) {
      if (magnitude_bits(found[i].x) == threshold_) {
        if (missing == 0 || is_non_finite(strip.position() + found[i].index)) continue;
        --missing;
      }
      found[kept++] = found[i];
    }
    TopkStripState& state = scratch_.states[index];
    state.candidates = kept;
    if (!store(state, found)) return false;
  }
  return missing == 0;
}

TopkCut TopkSelection::find_cut(std::int64_t candidates) {
  if (candidates <= entries_) return {};
  return scratch_.histograms.cut(
      pool_, entries_, [&](std::size_t part, std::size_t parts, const auto& body) {
        const std::size_t end = strips_.size() * (part + 1) / parts;
        for (std::size_t i = strips_.size() * part / parts; i < end; ++i) {
          for_each_candidate(
              i, [&](const TopkCandidate& candidate) { body(magnitude_bits(candidate.x)); });
        }
      });
}

/// Gives every strip its first entry and its share of the ties, lowest index first. Returns the
/// number of entries.
std::int64_t TopkSelection::place_entries(const TopkCut& cut) {
  for_each_strip([&](std::size_t index) {
    std::uint32_t above = 0;
    std::uint32_t ties = 0;
    for_each_candidate(index, [&](const TopkCandidate& candidate) {
      const std::uint32_t key = magnitude_bits(candidate.x);
      above += key > cut.key ? 1 : 0;
      ties += key == cut.key ? 1 : 0;
    });
    scratch_.states[index].above = above;
    scratch_.states[index].ties = ties;
  });
  std::int64_t entries = 0;
  std::int64_t ties = cut.ties;
  for (std::size_t index = 0; index < strips_.size(); ++index) {
    TopkStripState& state = scratch_.states[index];
    state.ties = static_cast<std::uint32_t>(std::min<std::int64_t>(state.ties, ties));
    ties -= state.ties;
    state.entry = entries;
    entries += state.above + state.ties;
  }
  return entries;
}

void TopkSelection::write_entries(const TopkCut& cut, std::span<std::byte> out) {
  const std::int64_t entries = place_entries(cut);
  for_each_strip([&](std::size_t index) {
    if (index + 1 < strips_.size()) fetch_residuals(index + 1);
    write_strip(index, cut, out);
  });

  store_first(parts_.blocks, entries, out);
  const auto clear = [&](std::size_t from, std::size_t to) {
    std::memset(out.data() + from, 0, to - from);
  };
  const std::size_t used = 2 * static_cast<std::size_t>(entries);
  clear(4 * static_cast<std::size_t>(parts_.blocks + 1), parts_.local);
  clear(parts_.local + used, parts_.value);
  clear(parts_.value + used, parts_.bytes);
}

/// Asks for the residuals that write_strip() may change, which are all over the memory.
void TopkSelection::fetch_residuals(std::size_t index) const {
  const TopkStrip& strip = strips_[index];
  const TopkStripState& state = scratch_.states[index];
  const std::int64_t residual = input_.residual(*strip.piece);
  if (!stored_ || residual < 0) return;
  const float* next = residual_.next + residual + strip.offset;
  const TopkCandidate* from = scratch_.candidates.as<TopkCandidate>() + state.first;
  for (std::uint32_t i = 0; i < state.candidates; ++i) __builtin_prefetch(next + from[i].index, 1);
}

void TopkSelection::store_first(std::int64_t block, std::int64_t entry, std::span<std::byte> out) {
  const bool sent_as_nan =
      policy_ != NonFinite::zero && block < parts_.blocks && is_non_finite(block * topk_block);
  store_at(out, 4 * static_cast<std::size_t>(block),
           static_cast<std::uint32_t>(entry) | (sent_as_nan ? topk_non_finite : 0u));
}

void TopkSelection::write_strip(std::size_t index, const TopkCut& cut, std::span<std::byte> out) {
  const TopkStrip& strip = strips_[index];
  const TopkStripState& state = scratch_.states[index];
  const std::int64_t residual = input_.residual(*strip.piece);
  float* next = residual < 0 ? nullptr : residual_.next + residual + strip.offset;
  // A strip is shorter than a block: at most one block starts in it.
  const std::int64_t start = ceil_div(strip.position(), topk_block) * topk_block - strip.position();
  bool starts = start < strip.elements;
  std::int64_t entry = state.entry;
  std::uint32_t ties = state.ties;
  for_each_candidate(index, [&](const TopkCandidate& candidate) {
    const std::uint32_t key = magnitude_bits(candidate.x);
    if (key < cut.key || (key == cut.key && ties == 0)) return;
    if (key == cut.key) --ties;
    if (starts && candidate.index >= start) {
      store_first((strip.position() + start) / topk_block, entry, out);
      starts = false;
    }
    const std::uint16_t value = bf16_bits(candidate.x);
    const auto at = 2 * static_cast<std::size_t>(entry++);
    store_at(out, parts_.local + at,
             static_cast<std::uint16_t>((strip.position() + candidate.index) % topk_block));
    store_at(out, parts_.value + at, value);
    if (next != nullptr) next[candidate.index] = candidate.x - from_bf16_bits(value);
  });
  if (starts) store_first((strip.position() + start) / topk_block, entry, out);
}

}  // namespace thinwire::compress
