#include "transport/kept_connection.h"

#include <gtest/gtest.h>

#include <thread>

#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/read.hpp>
#include <boost/asio/write.hpp>

#include "base/check.h"
#include "transport/transport_fixture.h"

namespace godwit::transport {
namespace {

using namespace std::chrono_literals;
using tcp = boost::asio::ip::tcp;
using Received = KeptConnection::Received;

class KeptConnectionTest : public ::testing::Test {
 protected:
  KeptConnectionTest() : acceptor_(context_, tcp::endpoint(boost::asio::ip::address_v4::loopback(), 0)), peer_(context_) {
    Awaited<std::shared_ptr<KeptConnection>> made;
    loop_.Post([&] {
      ConnectKept(loop_, "127.0.0.1", acceptor_.local_endpoint().port(), 10s, [&](Result<std::shared_ptr<KeptConnection>> connection) {
        ASSERT_TRUE(connection.ok()) << connection.error().message;
        made.Set(std::move(connection).value());
      });
    });
    acceptor_.accept(peer_);
    connection_ = made.Wait().value_or(nullptr);
    GODWIT_CHECK(connection_ != nullptr, "no connection");
  }
  ~KeptConnectionTest() override {
    loop_.Run([this] { connection_.reset(); });
  }
  std::shared_ptr<Awaited<Result<Received>>> BeginRead(std::uint64_t offset, std::size_t length = 1000, std::chrono::milliseconds wait = 60s) {
    auto answer = std::make_shared<Awaited<Result<Received>>>();
    loop_.Run([&] { connection_->Read(offset, length, wait, [answer](Result<Received> received) { answer->Set(std::move(received)); }); });
    return answer;
  }
  std::string Read(std::uint64_t offset, std::size_t length = 1000) { return Text(BeginRead(offset, length)); }
  static std::string Text(const std::shared_ptr<Awaited<Result<Received>>>& answer) {
    const auto received = answer->Wait();
    if (!received) return "nothing";
    if (!received->ok()) return "error " + std::to_string(static_cast<int>(received->error().code));
    return std::string(AsText((*received)->bytes)) + ((*received)->ended ? "<end>" : "");
  }
  Result<std::uint64_t> Write(std::uint64_t offset, std::string_view text) {
    Awaited<Result<std::uint64_t>> answer;
    loop_.Run([&] { connection_->Write(offset, AsBytes(text), 60s, [&](Result<std::uint64_t> end) { answer.Set(std::move(end)); }); });
    return answer.Wait().value();
  }
  std::string AtPeer(std::size_t bytes) {
    std::string text(bytes, 0);
    boost::asio::read(peer_, boost::asio::buffer(text));
    return text;
  }
  void Say(std::string_view text) { boost::asio::write(peer_, boost::asio::buffer(text)); }

  EventLoop loop_{"test"};
  boost::asio::io_context context_;
  tcp::acceptor acceptor_;
  tcp::socket peer_;
  std::shared_ptr<KeptConnection> connection_;
};

TEST_F(KeptConnectionTest, WhatIsReadAgainIsTheSame) {
  Say("hello, world");
  EXPECT_EQ(Read(0, 5), "hello");
  EXPECT_EQ(Read(0, 5), "hello");
  EXPECT_EQ(Read(5, 2), ", ");
  EXPECT_EQ(Read(0), "error 1") << "what was known is dropped";
  EXPECT_EQ(Read(100), "error 1");
  EXPECT_EQ(Read(7), "world");
}

TEST_F(KeptConnectionTest, WhatIsWrittenAgainIsSentOnce) {
  EXPECT_EQ(Write(0, "abc").value(), 3u);
  EXPECT_EQ(Write(0, "abc").value(), 3u);
  EXPECT_EQ(Write(2, "cdef").value(), 6u);
  EXPECT_EQ(AtPeer(6), "abcdef");
  EXPECT_EQ(Write(100, "x").error().code, ErrorCode::kInvalidArgument);
}

TEST_F(KeptConnectionTest, AWaitingReadIsAnsweredByBytesByAnotherReadOrByTime) {
  const auto first = BeginRead(0);
  const auto second = BeginRead(0);
  EXPECT_EQ(Text(first), "error 11");
  Say("now");
  EXPECT_EQ(Text(second), "now");
  EXPECT_EQ(Text(BeginRead(3, 10, 1ms)), "");
}

TEST_F(KeptConnectionTest, TheEndComesAfterTheLastByteAndAgain) {
  Say("last");
  peer_.close();
  EXPECT_EQ(Read(0), "last");
  EXPECT_EQ(Read(4), "<end>");
  EXPECT_EQ(Read(4), "<end>");
}

TEST_F(KeptConnectionTest, ASlowPeerHoldsBackNotMoreThanTheWindow) {
  const std::string much(8 << 20, 'x');
  std::uint64_t end = 0;
  std::thread reading;
  while (end < much.size()) {
    const auto taken = Write(end, std::string_view(much).substr(end));
    ASSERT_TRUE(taken.ok());
    ASSERT_LE(*taken - end, kKeptBytesMax);
    end = *taken;
    if (!reading.joinable()) reading = std::thread([&] { EXPECT_EQ(AtPeer(much.size()), much); });
  }
  reading.join();
}

TEST_F(KeptConnectionTest, WhatNobodyReadsHoldsThePeerBack) {
  constexpr std::size_t kMost = 64 << 20;  // Far more than the window and what the system buffers.
  const std::string block(64 << 10, 'x');
  peer_.non_blocking(true);
  std::size_t sent = 0;
  for (int blocked = 0; blocked < 200 && sent < kMost;) {
    boost::system::error_code code;
    sent += peer_.write_some(boost::asio::buffer(block), code);
    blocked = code ? blocked + 1 : 0;
    loop_.Run([] {});
  }
  EXPECT_LT(sent, kMost);
  EXPECT_EQ(Read(0, 10), std::string(10, 'x'));
}

TEST_F(KeptConnectionTest, NobodyThereIsSaid) {
  const std::uint16_t port = acceptor_.local_endpoint().port();
  acceptor_.close();
  Awaited<ErrorCode> failed;
  loop_.Run([&] {
    ConnectKept(loop_, "127.0.0.1", port, 10s, [&](Result<std::shared_ptr<KeptConnection>> connection) { failed.Set(connection.error().code); });
  });
  EXPECT_EQ(failed.Wait(), ErrorCode::kUnavailable);
}

}  // namespace
}  // namespace godwit::transport
