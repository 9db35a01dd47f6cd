// What a source that proved itself sends on a page stream, after its hello: any bytes. Over a real connection of the loopback
// interface, since a receiver reads sockets; memories are of 4 pages and may grow to 16.
#include <thread>

#include "base/check.h"
#include "fuzz.h"
#include "migration/memory_fixture.h"
#include "migration/page_receiver.h"

namespace {

using namespace godwit;
using namespace godwit::migration;

constexpr std::size_t kInputMax = 64 << 10;  // Fits the socket's buffer: nobody has to read while it is written.
const model::MigrationId kId("m-fuzz");

transport::ChannelOptions As(const char* device) {
  transport::ChannelOptions options;
  options.self = {model::DeviceName(device), model::BootId{1}};
  options.plaintext = true;
  return options;
}

void Send(std::uint16_t port, ByteView input) {
  const auto stream = transport::RawStream::Connect("127.0.0.1", port, As("host0"));
  if (!stream.ok()) return;
  const PageHead hello{PageKind::kHello, 0, kPageStreamVersion, 4, kId.value.size()};
  Bytes bytes(reinterpret_cast<const std::uint8_t*>(&hello), reinterpret_cast<const std::uint8_t*>(&hello + 1));
  bytes.insert(bytes.end(), kId.value.begin(), kId.value.end());
  bytes.insert(bytes.end(), input.begin(), input.end());
  (void)(*stream)->Write(bytes).ok();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size > kInputMax) return 0;
  std::vector<std::unique_ptr<runtime::ArrivingMemory>> memories;
  for (int i = 0; i < 2; ++i) memories.push_back(std::make_unique<FakeArrivingMemory>(4 * kPageBytes, 16 * kPageBytes));
  PageReceiver::Options options{As("csd1"), kId, model::Epoch{4}, model::DeviceName("host0")};
  options.state_bytes_max = kInputMax;
  const auto receiver = PageReceiver::Create("127.0.0.1", std::move(options), std::move(memories));
  GODWIT_CHECK(receiver.ok(), "no port on the loopback interface");
  std::thread source([&] { Send((*receiver)->port(), {data, size}); });
  if ((*receiver)->Open().ok()) {
    while (true) {
      const auto arrived = (*receiver)->Serve();
      if (!arrived.ok() || std::holds_alternative<PageReceiver::TokenArrived>(*arrived)) break;
      GODWIT_CHECK((*receiver)->state().size() <= kInputMax, "more state than was prepared for");
    }
  }
  source.join();
  return 0;
}
