#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rapidcheck.h>

#include <algorithm>
#include <map>
#include <vector>

#include "plans.hpp"
#include "thinwire/compress/header.hpp"
#include "thinwire/core/error.hpp"

namespace thinwire::compress {
namespace {

using test::contiguous_spans;
using test::simple_plan;
using test::with_ranks;

const std::vector<std::string> all_codecs{"none", "bf16", "bf16+ef",  "fp16",     "int8",
                                          "int4", "sign", "sign:rms", "topk:0.01"};

/// Owner of every source element, or -1; fails if an element has two.
std::vector<int> owners(const Plan& plan) {
  std::vector<int> owner(static_cast<std::size_t>(plan.source_extent()), -1);
  for (int chunk = 0; chunk < plan.chunks(); ++chunk) {
    for (int shard = 0; shard < plan.ranks(); ++shard) {
      for (const Run& run : plan.slot(shard, chunk).runs) {
        for (const Piece& piece : run.pieces) {
          const auto first = owner.begin() + piece.source;
          EXPECT_EQ(std::count(first, first + piece.elements, -1), piece.elements);
          std::fill_n(first, piece.elements, shard);
        }
      }
    }
  }
  return owner;
}

/// Everything that a coder relies on.
void expect_sound(const Plan& plan) {
  if (plan.plain()) {
    EXPECT_EQ(plan.payload_bytes(Phase::reduce) + plan.payload_bytes(Phase::gather), 0u);
    return;
  }
  for (int chunk = 0; chunk < plan.chunks(); ++chunk) {
    EXPECT_EQ(plan.slot_bytes(chunk, Phase::reduce) % 16, 0u);
    EXPECT_EQ(plan.slot_bytes(chunk, Phase::gather) % 16, 0u);
    for (int shard = 0; shard < plan.ranks(); ++shard) {
      const Slot& slot = plan.slot(shard, chunk);
      EXPECT_LE(header_bytes + slot.length, plan.slot_bytes(chunk, Phase::reduce));
      EXPECT_LE(header_bytes + slot.length_out, plan.slot_bytes(chunk, Phase::gather));
      std::int64_t elements = 0;
      for (const Run& run : slot.runs) {
        EXPECT_EQ(run.offset % 16, 0u);
        EXPECT_EQ(run.offset_out % 16, 0u);
        const Codec codec = plan.sections()[run.section].codec;
        const std::int64_t block = block_elements(codec);
        std::int64_t blocks = 0;
        std::int64_t position = 0;
        for (const Piece& piece : run.pieces) {
          const Span& span = plan.spans()[piece.span];
          EXPECT_GT(piece.elements, 0);
          EXPECT_EQ(span.section, run.section);
          EXPECT_GE(piece.source, span.source_offset);
          EXPECT_LE(piece.source + piece.elements, span.source_offset + span.length);
          EXPECT_EQ(piece.first_block, blocks);
          EXPECT_EQ(piece.position, position);
          blocks += (piece.elements + block - 1) / block;
          position += piece.elements;
          const bool remembers = plan.sections()[run.section].feedback == Feedback::ef;
          EXPECT_EQ(piece.residual,
                    remembers ? plan.residual_offset(piece.span) + piece.source - span.source_offset
                              : -1);
          EXPECT_EQ(piece.server >= 0, remembers);
          if (remembers) {
            EXPECT_LE(piece.server + piece.elements, plan.server_elements(shard));
          }
        }
        EXPECT_EQ(run.blocks, blocks);
        EXPECT_EQ(run.elements, position);
        elements += position;
      }
      EXPECT_EQ(slot.elements, elements);
    }
  }
}

TEST(Plan, Layout_OddSizesAndRanks_CoversEveryElementOnce) {
  for (const std::string& codec : all_codecs) {
    for (const std::int64_t n : {0, 1, 63, 64, 65, 1023, 1024, 1025, 4095, 4096, 4097, 1000001}) {
      for (const int ranks : {1, 2, 3, 4, 5, 8}) {
        SCOPED_TRACE(fmt::format("{} n={} ranks={}", codec, n, ranks));
        const Plan plan = simple_plan(codec, n, ranks, 3);
        expect_sound(plan);
        if (plan.plain()) continue;
        const auto owner = owners(plan);
        EXPECT_EQ(std::count(owner.begin(), owner.end(), -1), 0);
      }
    }
  }
}

struct RandomBucket {
  std::vector<CodecSpec> sections;
  std::vector<Span> spans;
  int ranks;
};

RandomBucket random_bucket(bool with_topk) {
  RandomBucket bucket;
  const auto sections = *rc::gen::inRange(1, 4);
  for (int i = 0; i < sections; ++i) {
    const auto known = static_cast<int>(all_codecs.size()) - (with_topk ? 0 : 1);
    bucket.sections.push_back(
        parse_codec(all_codecs[static_cast<std::size_t>(*rc::gen::inRange(0, known))]));
  }
  const auto count = *rc::gen::inRange(0, 9);
  std::vector<std::int64_t> lengths;
  for (int i = 0; i < count; ++i) lengths.push_back(*rc::gen::inRange<std::int64_t>(0, 5000));
  bucket.spans = contiguous_spans(lengths);
  for (Span& span : bucket.spans) {
    span.section = static_cast<std::uint32_t>(*rc::gen::inRange(0, sections));
  }
  bucket.ranks = *rc::gen::inRange(1, 9);
  return bucket;
}

TEST(Plan, Layout_RandomBuckets_IsSoundAndChunksMoveNothing) {
  EXPECT_TRUE(rc::check([] {
    const RandomBucket bucket = random_bucket(true);
    const Plan whole{bucket.sections, bucket.spans, with_ranks(bucket.ranks)};
    expect_sound(whole);
    const Plan chunked{bucket.sections, bucket.spans,
                       with_ranks(bucket.ranks, *rc::gen::inRange(2, 8))};
    expect_sound(chunked);
    RC_ASSERT(owners(whole) == owners(chunked));
    // The server residual of an element stands at the same place too.
    const auto server_places = [](const Plan& plan) {
      std::map<std::int64_t, std::int64_t> places;
      for (int chunk = 0; chunk < plan.chunks(); ++chunk) {
        for (int shard = 0; shard < plan.ranks(); ++shard) {
          for (const compress::Run& run : plan.slot(shard, chunk).runs) {
            for (const Piece& piece : run.pieces) {
              for (std::int64_t i = 0; i < piece.elements; ++i) {
                places[piece.source + i] = piece.server < 0 ? -1 : piece.server + i;
              }
            }
          }
        }
      }
      return places;
    };
    RC_ASSERT(server_places(whole) == server_places(chunked));
    RC_ASSERT(!testing::Test::HasFailure());
  }));
}

// 233 blocks on 4 ranks: 59, 58, 58, 58. Sign: 59 header words (236 -> 240 bytes) and 59 x 128
// bytes of bits, behind a header of 64. Top-k of 59 x 1024 elements: 604 entries, 2 words of
// first[] (8 -> 16 bytes), 1208 -> 1216 bytes twice.
TEST(Plan, Bytes_SmallMlpOnFourRanks_AreThoseByHand) {
  const auto spans = contiguous_spans({784 * 256, 256, 256 * 128, 128, 128 * 10, 10});
  const Plan sign{{parse_codec("sign")}, spans, with_ranks(4)};
  EXPECT_EQ(sign.slot_bytes(0, Phase::reduce), 64u + 240u + 59u * 128u);
  EXPECT_EQ(sign.wire_bytes(), 6 * sign.slot_bytes(0, Phase::reduce));
  EXPECT_GE(6.0 * 235146 / static_cast<double>(sign.wire_bytes()), 29.5);

  EXPECT_THROW((Plan{{parse_codec("topk:0.5")},
                     {{.parameter = "huge", .length = std::int64_t{5'000'000'000}}},
                     with_ranks(1)}),
               InvalidArgument)
      << "entries are numbered with 31 bits";
  const Plan topk{{parse_codec("topk:0.01")}, spans, with_ranks(4)};
  EXPECT_EQ(topk.slot(0, 0).runs.at(0).entries, 604);
  EXPECT_EQ(topk.slot_bytes(0, Phase::gather), 64u + 16u + 1216u + 1216u);
  EXPECT_GE(6.0 * 235146 / static_cast<double>(topk.wire_bytes()), 90.0);
}

TEST(Plan, Chunks_MoreThanBlocks_AreAsManyAsBlocks) {
  EXPECT_EQ(simple_plan("sign", 3 * 1024, 1, 7).chunks(), 3);
  EXPECT_EQ(simple_plan("sign", 0, 1, 7).chunks(), 1);
  EXPECT_EQ(simple_plan("topk:0.5", 1 << 20, 1, 7).chunks(), 1);
}

TEST(Plan, Boundaries_Uneven_StartNewBlocksAndFixOwners) {
  PlanSettings settings = with_ranks(3);
  settings.boundaries = {0, 100, 100, 3000};
  settings.operation = Operation::reduce_scatter;
  const Plan plan{{parse_codec("sign")}, contiguous_spans({50, 2950}), settings};
  EXPECT_EQ(plan.slot(0, 0).elements, 100);
  EXPECT_EQ(plan.slot(1, 0).elements, 0);
  EXPECT_EQ(plan.slot(2, 0).elements, 2900);
  EXPECT_EQ(plan.slot(0, 0).runs.at(0).blocks, 2);  // 50 of p0, 50 of p1
  EXPECT_EQ(plan.slot(2, 0).runs.at(0).blocks, 3);
  EXPECT_EQ(plan.slot(2, 0).runs.at(0).pieces.at(0).source, 100);
  EXPECT_EQ(plan.server_elements(2), 0);  // nobody encodes again
  EXPECT_EQ(plan.wire_bytes(), 2 * plan.slot_bytes(0, Phase::reduce));
}

TEST(Plan, Sections_Mixed_StandOneAfterTheOther) {
  auto spans = contiguous_spans({2048, 10});
  spans[1].section = 1;
  const Plan plan{{parse_codec("sign"), parse_codec("none")}, spans, with_ranks(1)};
  EXPECT_FALSE(plan.plain());
  EXPECT_EQ(plan.header_codec(), Codec::mixed);
  EXPECT_EQ(plan.header_block(), 0u);
  const Slot& slot = plan.slot(0, 0);
  EXPECT_EQ(slot.runs.at(0).offset, 64u);
  EXPECT_EQ(slot.runs.at(1).offset, 64u + 16u + 256u);
  EXPECT_EQ(slot.length, 16u + 256u + 48u);  // 10 floats are 40 bytes, padded to 48
}

TEST(Plan, Plain_OnlyNoneSectionsHoldElements_HasNoPayload) {
  auto spans = contiguous_spans({10, 0});
  spans[1].section = 1;
  const Plan plan{{parse_codec("none"), parse_codec("sign")}, spans, with_ranks(2)};
  EXPECT_TRUE(plan.plain());
  EXPECT_EQ(plan.wire_bytes(), 0u);
  EXPECT_EQ(plan.slot_bytes(0, Phase::reduce), 0u);
}

TEST(Plan, Id_AnyFieldChanged_Changes) {
  const auto id = [](const std::string& codec, std::vector<Span> spans, PlanSettings settings) {
    return Plan{{parse_codec(codec)}, std::move(spans), std::move(settings)}.id();
  };
  const auto spans = contiguous_spans({5000, 10});
  std::vector<std::uint64_t> ids{
      id("sign", spans, with_ranks(2)),      id("int8", spans, with_ranks(2)),
      id("sign+noef", spans, with_ranks(2)), id("sign:rms", spans, with_ranks(2)),
      id("topk:0.1", spans, with_ranks(2)),  id("topk:0.1/0.2", spans, with_ranks(2)),
      id("sign", spans, with_ranks(3)),      id("sign", spans, with_ranks(2, 2))};
  const auto with_setting = [&](auto change) {
    PlanSettings settings = with_ranks(2);
    change(settings);
    ids.push_back(id("sign", spans, settings));
  };
  with_setting([](PlanSettings& s) { s.operation = Operation::reduce_scatter; });
  with_setting([](PlanSettings& s) { s.dtype = DType::bf16; });
  with_setting([](PlanSettings& s) { s.commit = Commit::double_buffered; });
  with_setting([](PlanSettings& s) { s.non_finite = NonFinite::zero; });
  with_setting([](PlanSettings& s) { s.boundaries = {0, 7, 5010}; });
  const auto with_span = [&](auto change) {
    auto changed = spans;
    change(changed[1]);
    ids.push_back(id("sign", changed, with_ranks(2)));
  };
  with_span([](Span& s) { s.parameter = "q"; });
  with_span([](Span& s) { s.parameter_offset = 1; });
  with_span([](Span& s) { s.source_offset += 1; });
  with_span([](Span& s) { s.length = 11; });
  with_span([](Span& s) { s.rows = 2; });
  with_span([](Span& s) { s.cols = 2; });
  EXPECT_EQ(id("sign", spans, with_ranks(2)), ids.front());
  std::sort(ids.begin(), ids.end());
  EXPECT_EQ(std::adjacent_find(ids.begin(), ids.end()), ids.end());
}

TEST(Plan, Describe_ThousandsOfSpans_StaysSmall) {
  const Plan plan{
      {parse_codec("sign")}, contiguous_spans(std::vector<std::int64_t>(5000, 3)), with_ranks(2)};
  std::size_t bytes = 0;
  for (const auto& [name, value] : plan.describe()) bytes += name.size() + value.size();
  EXPECT_LT(bytes, 600u);
  EXPECT_EQ(plan.describe().back().first, "spans");
}

TEST(Plan, Arguments_Wrong_AreRefusedByName) {
  const auto message = [](std::vector<CodecSpec> sections, std::vector<Span> spans,
                          PlanSettings settings) -> std::string {
    try {
      const Plan plan{std::move(sections), std::move(spans), std::move(settings)};
      return "accepted";
    } catch (const InvalidArgument& error) {
      return error.what();
    }
  };
  using testing::HasSubstr;
  const std::vector<CodecSpec> sign{parse_codec("sign")};
  const auto spans = contiguous_spans({100, 100});
  EXPECT_THAT(message(sign, spans, with_ranks(0)), HasSubstr("0 ranks"));
  EXPECT_THAT(message(sign, spans, with_ranks(1, 0)), HasSubstr("0 chunks"));
  EXPECT_THAT(message({}, spans, with_ranks(1)), HasSubstr("no section"));
  CodecSpec bad = parse_codec("topk:0.5");
  bad.density_out = 1.5;
  EXPECT_THAT(message({bad}, spans, with_ranks(1)), HasSubstr("1.5"));
  auto overlapping = spans;
  overlapping[1].source_offset = 99;
  EXPECT_THAT(message(sign, overlapping, with_ranks(1)), HasSubstr("overlap"));
  auto twice = spans;
  twice[1].parameter = "p0";
  EXPECT_THAT(message(sign, twice, with_ranks(1)), HasSubstr("same elements"));
  auto unknown_section = spans;
  unknown_section[1].section = 1;
  EXPECT_THAT(message(sign, unknown_section, with_ranks(1)), HasSubstr("'p1'"));
  auto negative = spans;
  negative[0].length = -1;
  EXPECT_THAT(message(sign, negative, with_ranks(1)), HasSubstr("length -1"));
  PlanSettings raise = with_ranks(1);
  raise.non_finite = NonFinite::raise;
  EXPECT_THAT(message(sign, spans, raise), HasSubstr("double_buffered"));
  PlanSettings few = with_ranks(2);
  few.boundaries = {0, 200};
  EXPECT_THAT(message(sign, spans, few), HasSubstr("3 are needed"));
  PlanSettings falling = with_ranks(2);
  falling.boundaries = {0, 201, 200};
  EXPECT_THAT(message(sign, spans, falling), HasSubstr("do not rise"));
  PlanSettings outside = with_ranks(2);
  outside.boundaries = {0, 100, 199};
  EXPECT_THAT(message(sign, spans, outside), HasSubstr("'p1'"));
}

}  // namespace
}  // namespace thinwire::compress
