#include "agent/outbound.h"

#include <gtest/gtest.h>

#include <vector>

#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/read.hpp>
#include <fmt/format.h>

#include "transport/transport_fixture.h"

namespace godwit::agent {
namespace {

using namespace std::chrono_literals;
using boost::asio::ip::tcp;
using transport::Awaited;

class OutboundTest : public ::testing::Test {
 protected:
  OutboundTest() : acceptor_(context_, tcp::endpoint(boost::asio::ip::address_v4::loopback(), 0)) {
    loop_.Run([this] { outbound_ = std::make_unique<Outbound>(loop_, 1000); });
  }
  ~OutboundTest() override {
    loop_.Run([this] { outbound_.reset(); });
  }
  static Asker As(const std::string& instance, std::uint64_t epoch = 1) {
    return {model::ServiceName("service"), model::InstanceId(instance), model::Epoch{epoch}};
  }
  Result<std::uint64_t> Connect(const Asker& asker, const std::string& address = "") {
    Awaited<Result<std::uint64_t>> made;
    loop_.Run([&] {
      outbound_->Connect(asker, address.empty() ? fmt::format("127.0.0.1:{}", acceptor_.local_endpoint().port()) : address, 10s,
                         [&](Result<std::uint64_t> number) { made.Set(std::move(number)); });
    });
    return made.Wait().value();
  }
  // The code of a write's error; 0: it was taken.
  int Write(const Asker& asker, std::uint64_t number, std::uint64_t offset = 0) {
    Awaited<int> code;
    loop_.Run([&] {
      outbound_->Write(asker, number, offset, AsBytes(std::string_view("x")),
                       [&](const Result<std::uint64_t>& end) { code.Set(end.ok() ? 0 : static_cast<int>(end.error().code)); });
    });
    return code.Wait().value();
  }
  static constexpr int kNotFound = static_cast<int>(ErrorCode::kNotFound), kOlder = static_cast<int>(ErrorCode::kFailedPrecondition);

  transport::EventLoop loop_{"test"};
  boost::asio::io_context context_;
  tcp::acceptor acceptor_;
  std::unique_ptr<Outbound> outbound_;
};

TEST_F(OutboundTest, OnlyTheInstanceThatMadeAConnectionUsesIt) {
  const std::uint64_t number = Connect(As("a")).value();
  EXPECT_EQ(Write(As("a"), number), 0);
  EXPECT_EQ(Write(As("b"), number), kNotFound);
  EXPECT_EQ(Write(As("a"), number + 1), kNotFound);
  loop_.Run([&] { outbound_->Close(As("b"), number); });
  EXPECT_EQ(Write(As("a"), number, 1), 0) << "another's close is none";
}

TEST_F(OutboundTest, AnOlderOwnerIsRefusedOnceANewerOneHasAsked) {
  const std::uint64_t number = Connect(As("a", 3)).value();
  EXPECT_EQ(Write(As("a", 3), number), 0);
  EXPECT_EQ(Write(As("a", 4), number, 1), 0);
  EXPECT_EQ(Write(As("a", 3), number, 2), kOlder);
  loop_.Run([&] { outbound_->Close(As("a", 3), number); });
  EXPECT_EQ(Write(As("a", 4), number, 2), 0) << "nor may it close";
}

TEST_F(OutboundTest, ConnectionsOfAnInstanceAreLimitedAndEndWithIt) {
  std::vector<std::uint64_t> numbers;
  for (std::size_t i = 0; i < kConnectionsPerInstanceMax; ++i) numbers.push_back(Connect(As("a")).value());
  EXPECT_EQ(Connect(As("a")).error().code, ErrorCode::kResourceExhausted);
  const std::uint64_t others = Connect(As("b")).value();
  loop_.Run([&] { outbound_->Close(As("a"), numbers[0]); });
  EXPECT_TRUE(Connect(As("a")).ok()) << "one is free again";
  loop_.Run([&] { outbound_->CloseOf(model::InstanceId("a")); });
  EXPECT_EQ(Write(As("a"), numbers[1]), kNotFound);
  EXPECT_EQ(Write(As("b"), others), 0);
}

TEST_F(OutboundTest, AConnectionThatNobodyUsesIsClosed) {
  loop_.Run([this] { outbound_ = std::make_unique<Outbound>(loop_, 1, 50ms); });
  const std::uint64_t number = Connect(As("a")).value();
  tcp::socket peer(context_);
  acceptor_.accept(peer);
  char byte;
  boost::system::error_code code;
  boost::asio::read(peer, boost::asio::buffer(&byte, 1), code);
  EXPECT_EQ(code, boost::asio::error::eof);
  EXPECT_EQ(Write(As("a"), number), kNotFound);
}

TEST_F(OutboundTest, AddressesThatAreNoneAreNamed) {
  EXPECT_EQ(Connect(As("a"), "nowhere").error().code, ErrorCode::kInvalidArgument);
  EXPECT_EQ(Connect(As("a"), "host:port").error().code, ErrorCode::kInvalidArgument);
}

}  // namespace
}  // namespace godwit::agent
