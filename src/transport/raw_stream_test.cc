#include "transport/raw_stream.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <thread>

namespace godwit::transport {
namespace {

using namespace std::chrono_literals;

ChannelOptions As(const std::string& device, const std::string& token, bool plaintext = false) {
  ChannelOptions options;
  options.plaintext = plaintext;
  options.self = {model::DeviceName(device), model::BootId{7}};
  options.token = token;
  options.handshake_timeout = 5s;
  return options;
}

class RawStreamTest : public ::testing::Test {
 protected:
  RawStreamTest() {
    auto listener = RawListener::Listen("127.0.0.1");
    EXPECT_TRUE(listener.ok());
    listener_ = std::move(listener).value();
  }
  // Both ends of a stream.
  void Open(bool plaintext = false) {
    std::thread connecting([&] {
      auto stream = RawStream::Connect("127.0.0.1", listener_->port(), As("host0", "secret", plaintext));
      ASSERT_TRUE(stream.ok()) << stream.error().message;
      source_ = std::move(stream).value();
    });
    auto stream = listener_->Accept(As("csd1", "secret", plaintext), 10s);
    connecting.join();
    ASSERT_TRUE(stream.ok()) << stream.error().message;
    target_ = std::move(stream).value();
  }
  std::unique_ptr<RawListener> listener_;
  std::unique_ptr<RawStream> source_, target_;
};

class RawStreamOf : public RawStreamTest, public ::testing::WithParamInterface<bool> {};
INSTANTIATE_TEST_SUITE_P(Security, RawStreamOf, ::testing::Bool(), [](const auto& of) { return of.param ? "plaintext" : "tls"; });

TEST_P(RawStreamOf, CarriesPiecesInOrderAndNamesThePeer) {
  Open(GetParam());
  EXPECT_EQ(source_->peer().device.value, "csd1");
  EXPECT_EQ(target_->peer().device.value, "host0");
  Bytes first(3'000'000), second(70'000), third(5);
  for (std::size_t i = 0; i < first.size(); ++i) first[i] = static_cast<std::uint8_t>(i * 2654435761u >> 11);
  for (std::size_t i = 0; i < second.size(); ++i) second[i] = static_cast<std::uint8_t>(i * 40503u >> 5);
  const std::uint64_t before = source_->bytes_written();
  std::thread writing([&] {
    iovec pieces[] = {{third.data(), third.size()}, {first.data(), first.size()}, {second.data(), second.size()}};
    EXPECT_TRUE(source_->Write(pieces).ok());
  });
  Bytes got(third.size() + first.size() + second.size()), answer(1);
  EXPECT_TRUE(target_->Read(got).ok());
  writing.join();
  EXPECT_TRUE(target_->Write(third).ok());
  EXPECT_TRUE(source_->Read(answer).ok());
  const std::uint64_t sent = source_->bytes_written() - before;
  EXPECT_GE(sent, got.size());
  EXPECT_LE(sent, got.size() + (GetParam() ? 0 : got.size() / 400)) << "TLS adds 22 bytes to 16 KiB";
  got.erase(got.begin(), got.begin() + 5);
  EXPECT_TRUE(std::equal(first.begin(), first.end(), got.begin()));
  EXPECT_TRUE(std::equal(second.begin(), second.end(), got.begin() + static_cast<std::ptrdiff_t>(first.size())));
}

TEST_F(RawStreamTest, OneThreadReadsWhileAnotherWrites) {
  Open();
  constexpr std::size_t kBytes = 8'000'000;
  const auto run = [](RawStream& stream, std::uint8_t fill) {
    std::thread reading([&] {
      Bytes got(kBytes);
      EXPECT_TRUE(stream.Read(got).ok());
      EXPECT_EQ(std::count(got.begin(), got.end(), std::uint8_t{static_cast<std::uint8_t>(fill ^ 1)}), static_cast<std::ptrdiff_t>(kBytes));
    });
    EXPECT_TRUE(stream.Write(Bytes(kBytes, fill)).ok());
    reading.join();
  };
  std::thread source([&] { run(*source_, 2); });
  run(*target_, 3);
  source.join();
}

TEST_F(RawStreamTest, AnEndInPlaintextIsNotTaken) {
  std::thread connecting([&] {
    const auto plain = RawStream::Connect("127.0.0.1", listener_->port(), As("host0", "secret", true));
    EXPECT_FALSE(plain.ok());
    auto stream = RawStream::Connect("127.0.0.1", listener_->port(), As("host0", "secret"));
    EXPECT_TRUE(stream.ok());
  });
  const auto stream = listener_->Accept(As("csd1", "secret"), 10s);
  connecting.join();
  EXPECT_TRUE(stream.ok());
}

TEST_F(RawStreamTest, APeerWithoutTheTokenIsClosedAndTheRightOneStillComes) {
  std::thread connecting([&] {
    const auto stranger = RawStream::Connect("127.0.0.1", listener_->port(), As("host0", "guessed"));
    EXPECT_FALSE(stranger.ok());
    auto stream = RawStream::Connect("127.0.0.1", listener_->port(), As("host0", "secret"));
    EXPECT_TRUE(stream.ok());
  });
  const auto stream = listener_->Accept(As("csd1", "secret"), 10s);
  connecting.join();
  EXPECT_TRUE(stream.ok());
}

TEST_F(RawStreamTest, ShutEndsAReadThatWaits) {
  Open();
  std::thread reading([&] {
    std::uint8_t byte;
    const Status read = target_->Read({&byte, 1});
    EXPECT_FALSE(read.ok());
    EXPECT_EQ(read.error().code, ErrorCode::kUnavailable);
  });
  target_->Shut();
  reading.join();
  std::uint8_t byte;
  EXPECT_FALSE(source_->Read({&byte, 1}).ok()) << "the other end hears of it";
}

TEST_F(RawStreamTest, NobodyComingIsADeadlineAndShutEndsTheWait) {
  EXPECT_EQ(listener_->Accept(As("csd1", "secret"), 1ms).error().code, ErrorCode::kDeadlineExceeded);
  listener_->Shut();
  EXPECT_EQ(listener_->Accept(As("csd1", "secret"), 10s).error().code, ErrorCode::kAborted);
}

TEST_F(RawStreamTest, NobodyListeningIsUnavailable) {
  const std::uint16_t port = listener_->port();
  listener_.reset();
  EXPECT_EQ(RawStream::Connect("127.0.0.1", port, As("host0", "secret")).error().code, ErrorCode::kUnavailable);
  EXPECT_EQ(RawListener::Listen("nowhere").error().code, ErrorCode::kInvalidArgument);
}

}  // namespace
}  // namespace godwit::transport
