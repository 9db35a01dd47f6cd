// What comes on a channel: the first byte says into pieces of which size the rest is cut. Frames that are accepted have lists that
// can be followed, and hold no more than came.
#include <algorithm>

#include "base/check.h"
#include "fuzz.h"
#include "transport/frame_parser.h"

namespace {

using namespace godwit;
using namespace godwit::transport;

std::size_t BytesOf(const flatbuffers::Vector<flatbuffers::Offset<wire::Header>>* headers) {
  std::size_t bytes = 0;
  for (flatbuffers::uoffset_t i = 0; headers && i < headers->size(); ++i) {
    bytes += headers->Get(i)->name()->str().size() + headers->Get(i)->value()->str().size();
  }
  return bytes;
}

std::uint64_t Sum(const flatbuffers::Vector<std::uint64_t>* numbers) {
  std::uint64_t sum = 0;
  for (flatbuffers::uoffset_t i = 0; numbers && i < numbers->size(); ++i) sum += numbers->Get(i);
  return sum;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace godwit;
  if (size == 0) return 0;
  const std::size_t piece = data[0] == 0 ? size : data[0];
  FrameParser parser;
  std::size_t bytes = 0;
  for (ByteView rest(data + 1, size - 1); !rest.empty();) {
    const std::size_t n = std::min(piece, rest.size());
    const Status fed = parser.Feed(rest.first(n), [&](const Frame& frame) {
      bytes += frame.payload().size();
      if (const auto* open = frame.as<wire::OpenRequest>()) bytes += BytesOf(open->headers());
      if (const auto* head = frame.as<wire::ResponseHead>()) bytes += BytesOf(head->headers());
      if (const auto* prepare = frame.as<wire::Prepare>()) (void)Sum(prepare->memories());
      if (const auto* list = frame.as<wire::DataListReply>()) (void)Sum(list->sizes());
      return true;
    });
    if (!fed.ok()) break;
    rest = rest.subspan(n);
  }
  GODWIT_CHECK(bytes <= size, "more in the frames than came");
  return 0;
}
