#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "thinwire/compress/codec_spec.hpp"
#include "thinwire/core/error.hpp"

namespace thinwire::compress {
namespace {

TEST(CodecSpec, ParseCodec_Defaults_AreErrorFeedbackButForNoneAndBf16) {
  for (const auto& [text, feedback] :
       std::vector<std::pair<std::string, Feedback>>{{"none", Feedback::none},
                                                     {"bf16", Feedback::none},
                                                     {"fp16", Feedback::ef},
                                                     {"int8", Feedback::ef},
                                                     {"int4", Feedback::ef},
                                                     {"sign", Feedback::ef},
                                                     {"topk:0.5", Feedback::ef}}) {
    EXPECT_EQ(parse_codec(text).feedback, feedback) << text;
  }
}

TEST(CodecSpec, ParseCodec_Options_AreTakenUp) {
  EXPECT_EQ(parse_codec("sign:rms").sign_scale, SignScale::rms);
  EXPECT_EQ(parse_codec("sign").sign_scale, SignScale::mean);
  EXPECT_EQ(parse_codec("topk:0.01").density, 0.01);
  EXPECT_EQ(parse_codec("topk:0.01").density_out, 0.01);
  EXPECT_EQ(parse_codec("topk:0.01/0.5").density_out, 0.5);
  EXPECT_EQ(parse_codec("topk:1e-3").density, 1e-3);
  EXPECT_EQ(parse_codec("sign+noef").feedback, Feedback::none);
  EXPECT_EQ(parse_codec("bf16+ef").feedback, Feedback::ef);
}

TEST(CodecSpec, ToString_ParsedBack_IsTheSame) {
  for (const std::string text :
       {"none", "bf16", "bf16+ef", "fp16", "fp16+noef", "int8", "int4+noef", "sign", "sign:rms",
        "sign:rms+noef", "topk:0.01", "topk:0.01/0.02", "topk:1+noef"}) {
    EXPECT_EQ(to_string(parse_codec(text)), text);
  }
  CodecSpec third = parse_codec("topk:1");
  third.density = third.density_out = 1.0 / 3.0;  // no short decimal
  EXPECT_EQ(parse_codec(to_string(third)), third);
}

TEST(CodecSpec, ParseCodec_WrongText_IsNamed) {
  for (const auto& [text, part] :
       std::vector<std::pair<std::string, std::string>>{{"", "''"},
                                                        {"sgn", "'sgn'"},
                                                        {"mixed", "'mixed'"},
                                                        {"topk", "density"},
                                                        {"topk:", "density ''"},
                                                        {"topk:0", "density '0'"},
                                                        {"topk:-0.1", "'-0.1'"},
                                                        {"topk:1.01", "'1.01'"},
                                                        {"topk:nan", "'nan'"},
                                                        {"topk:0.1x", "'0.1x'"},
                                                        {"topk:0.1/2", "'2'"},
                                                        {"topk:0.1/", "density ''"},
                                                        {"int8:rms", "option 'rms'"},
                                                        {"sign:max", "option 'max'"},
                                                        {"sign+feedback", "'feedback'"},
                                                        {"none+ef", "residual"}}) {
    try {
      parse_codec(text);
      ADD_FAILURE() << "accepted '" << text << "'";
    } catch (const InvalidArgument& error) {
      EXPECT_THAT(error.what(), testing::HasSubstr(part)) << text;
    }
  }
}

TEST(CodecSpec, ParseCodecList_Commas_SplitIt) {
  const auto specs = parse_codec_list("none,topk:0.1/0.2,sign:rms+noef");
  ASSERT_EQ(specs.size(), 3u);
  EXPECT_EQ(to_string(specs[1]), "topk:0.1/0.2");
  EXPECT_THROW(parse_codec_list("none,"), InvalidArgument);
}

}  // namespace
}  // namespace thinwire::compress
