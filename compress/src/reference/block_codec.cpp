#include "reference/block_codec.hpp"

#include "thinwire/core/error.hpp"

namespace thinwire::compress::reference {

const BlockCodec& block_codec(const CodecSpec& spec) {
  switch (spec.codec) {
    case Codec::none:
      return none_codec();
    case Codec::bf16:
      return bf16_codec();
    case Codec::fp16:
      return fp16_codec();
    case Codec::int8:
      return int8_codec();
    case Codec::int4:
      return int4_codec();
    case Codec::sign:
      return sign_codec(spec.sign_scale);
    case Codec::topk:
    case Codec::mixed:
      break;
  }
  THINWIRE_ASSERT(spec.codec < Codec::topk);
  return none_codec();
}

}  // namespace thinwire::compress::reference
