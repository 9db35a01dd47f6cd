// A fifth kind of device joins by a profile (profiles/fpga.toml) and this driver, with no other file changed: an accelerator
// behind a byte stream, as one behind a serial link or a vendor's FIFO would be. Messages go through a socket pair, each
// after its length.
#include "device/conformance.h"

#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <map>
#include <thread>

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
      while (const auto message = host_->Receive()) Take(DecodeCompletion(*message).value());
      FailAll();
    });
  }
  ~StreamDevice() override {
    host_->End();
    card_->End();
    serving_.join();
    taking_.join();
  }
  void Submit(Request request, Done done) override {
    const std::uint64_t id = request.id;
    const auto refuse = [&](Error error) {
      Completion refused;
      refused.id = id;
      refused.status = std::move(error);
      done(std::move(refused));
    };
    std::unique_lock lock(mutex_);
    if (request.opcode == Opcode::kAbort) {
      const auto known = std::find_if(waiting_.begin(), waiting_.end(), [&](const auto& one) { return one.second.id == request.value && one.second.tenant == request.tenant; });
      request.value = known != waiting_.end() ? known->first : 0;
    }
    request.id = next_++;
    const auto message = Encode(request);
    if (message.ok()) waiting_[request.id] = {id, request.tenant, done};
    lock.unlock();
    if (message.ok()) host_->Send(*message);
    else refuse(message.error());
  }

 private:
  struct Waiting {
    std::uint64_t id;
    std::string tenant;
    Done done;
  };
  void Take(Completion completion) {
    Done done;
    {
      const std::lock_guard lock(mutex_);
      const auto found = waiting_.find(completion.id);
      if (found == waiting_.end()) return;
      done = std::move(found->second.done);
      completion.id = found->second.id;
      waiting_.erase(found);
    }
    done(std::move(completion));
  }
  void FailAll() {
    std::map<std::uint64_t, Waiting> waiting;
    {
      const std::lock_guard lock(mutex_);
      waiting.swap(waiting_);
    }
    for (const auto& [number, one] : waiting) {
      Completion lost;
      lost.id = one.id;
      lost.status = Unavailable("the card is gone");
      one.done(std::move(lost));
    }
  }

  std::shared_ptr<Port> host_, card_;
  std::mutex mutex_;
  std::map<std::uint64_t, Waiting> waiting_;  // By their numbers on the way: several tenants may use one.
  std::uint64_t next_ = 1;
  std::thread serving_, taking_;
};

INSTANTIATE_TEST_SUITE_P(FifthDevice, ConformanceTest,
                         ::testing::Values(Driver{"stream", "fpga", [](Engine& engine) -> std::shared_ptr<Device> {
                                                    return std::make_shared<StreamDevice>(engine);
                                                  }}),
                         [](const auto& of) { return of.param.name; });

}  // namespace
}  // namespace godwit::device
