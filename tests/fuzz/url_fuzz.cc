// Text that names or comes from a server: URLs, escapes, and a text/event-stream cut in two at every place that the first byte allows.
#include "base/check.h"
#include "fuzz.h"
#include "transport/http_client.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace godwit;
  using namespace godwit::transport;
  if (size == 0) return 0;
  const std::string_view text(reinterpret_cast<const char*>(data) + 1, size - 1);
  if (const auto url = ParseUrl(text); url.ok()) GODWIT_CHECK(!url->host.empty() && !url->target.empty(), "a URL without host or target");
  (void)PercentDecode(text).ok();
  const auto again = PercentDecode(PercentEncode(text));
  GODWIT_CHECK(again.ok() && *again == text, "escaping changed the text");
  const auto parse = [&](std::size_t first) {
    std::vector<std::string> events;
    ServerEventParser parser;
    const auto note = [&](const ServerEvent& event) { events.push_back(event.event + "\n" + event.id + "\n" + event.data); };
    if (!parser.Feed(text.substr(0, first), note).ok() || !parser.Feed(text.substr(first), note).ok()) events.push_back("refused");
    return events;
  };
  const std::size_t cut = text.empty() ? 0 : data[0] % text.size();
  GODWIT_CHECK(parse(0) == parse(cut), "an event stream depends on how it is cut");
  return 0;
}
