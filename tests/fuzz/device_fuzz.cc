// Messages between a device and the other side of a driver, arguments and states of the built-in functions, and profiles.
#include <string>

#include "device/built_in.h"
#include "device/profile.h"
#include "device/wire.h"

namespace {

using namespace godwit;

class Steps final : public device::Pace {
 public:
  bool Over(std::size_t) const override { return true; }
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  const ByteView bytes(data + 1, size - 1);
  if (data[0] == 'm') {
    if (const auto request = device::DecodeRequest(bytes); request.ok()) static_cast<void>(device::Encode(*request).ok());
    static_cast<void>(device::DecodeCompletion(bytes).ok());
  } else if (data[0] == 'p') {
    static_cast<void>(device::ParseProfile(AsText(bytes)).ok());
  } else {
    // One of the functions, '0' the first of them: arguments, state and data, each ended by a zero byte.
    static const auto kFunctions = device::BuiltInFunctions();
    const std::string_view text = AsText(bytes);
    const std::size_t first = std::min(text.find('\0'), text.size()), second = std::min(text.find('\0', first + 1), text.size());
    const ByteView arguments = bytes.first(first), state = bytes.subspan(std::min(first + 1, second), second - std::min(first + 1, second)),
                   content = bytes.subspan(std::min(second + 1, bytes.size()));
    const device::BytesSource object(content);
    auto work = kFunctions[data[0] % kFunctions.size()]->Begin(arguments, state, {0, content.size()});
    Bytes output;
    for (int step = 0; work.ok() && step < 4 && output.size() < 1 << 20; ++step) {
      const auto finished = (*work)->Run(object, Steps(), &output);
      if (!finished.ok() || *finished) break;
      const auto saved = (*work)->Save();
      if (!saved.ok()) break;
      work = kFunctions[data[0] % kFunctions.size()]->Begin(arguments, *saved, {0, content.size()});
    }
  }
  return 0;
}
