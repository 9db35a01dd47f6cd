// A fifth kind of device joins by a profile (profiles/fpga.toml) and this driver, with no other file changed: an accelerator
// behind a byte stream, as one behind a serial link or a vendor's FIFO would be. Messages go through a socket pair, each
// after its length.
#include "device/conformance.h"

#include <sys/socket.h>
#include <unistd.h>

#include <thread>

#include "device/under_way.h"
#include "device/wire.h"

namespace godwit::device {
namespace {

bool SendAll(int fd, ByteView bytes) {
  while (!bytes.empty()) {
    const ssize_t sent = send(fd, bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (sent <= 0) return false;
    bytes = bytes.subspan(static_cast<std::size_t>(sent));
  }
  return true;
}

bool ReceiveAll(int fd, std::span<std::uint8_t> to) {
  while (!to.empty()) {
    const ssize_t got = recv(fd, to.data(), to.size(), 0);
    if (got <= 0) return false;
    to = to.subspan(static_cast<std::size_t>(got));
  }
  return true;
}

class Port {
 public:
  explicit Port(int fd) : fd_(fd) {}
  ~Port() { close(fd_); }
  void Send(const Bytes& message) {
    const auto length = static_cast<std::uint32_t>(message.size());
    const std::lock_guard lock(mutex_);
    if (SendAll(fd_, {reinterpret_cast<const std::uint8_t*>(&length), 4})) SendAll(fd_, message);
  }
  std::optional<Bytes> Receive() {
    std::uint32_t length = 0;
    if (!ReceiveAll(fd_, {reinterpret_cast<std::uint8_t*>(&length), 4}) || length > kMessageBytesMax) return std::nullopt;
    Bytes message(length);
    return ReceiveAll(fd_, message) ? std::optional(std::move(message)) : std::nullopt;
  }
  void End() { shutdown(fd_, SHUT_RDWR); }

 private:
  const int fd_;
  std::mutex mutex_;
};

class StreamDevice final : public Device {
 public:
  explicit StreamDevice(Engine& engine) {
    int ends[2];
    EXPECT_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0);
    host_ = std::make_shared<Port>(ends[0]);
    card_ = std::make_shared<Port>(ends[1]);
    serving_ = std::thread([&engine, card = card_] {
      while (const auto message = card->Receive()) {
        auto request = DecodeRequest(*message);
        if (!request.ok()) return;
        engine.Submit(std::move(request).value(), [card](const Completion& completion) { card->Send(Encode(completion).value()); });
      }
    });
    taking_ = std::thread([this] {
      while (const auto message = host_->Receive()) under_way_.Finish(DecodeCompletion(*message).value());
      under_way_.FailAll(Unavailable("the card is gone"));
    });
  }
  ~StreamDevice() override {
    host_->End();
    card_->End();
    serving_.join();
    taking_.join();
  }
  void Submit(Request request, Done done) override {
    if (!under_way_.Begin(request, std::move(done))) return;
    const auto message = Encode(request);
    if (message.ok()) host_->Send(*message);
    else under_way_.Finish(Failed(request.id, message.error()));
  }

 private:
  std::shared_ptr<Port> host_, card_;
  UnderWay under_way_;
  std::thread serving_, taking_;
};

INSTANTIATE_TEST_SUITE_P(FifthDevice, ConformanceTest,
                         ::testing::Values(Driver{"stream", "fpga", [](Engine& engine) -> std::shared_ptr<Device> {
                                                    return std::make_shared<StreamDevice>(engine);
                                                  }}),
                         [](const auto& of) { return of.param.name; });

}  // namespace
}  // namespace godwit::device
