#include "agent/bundle.h"

#include <gtest/gtest.h>

#include "agent/bundle_generated.h"

namespace godwit::agent {
namespace {

Bytes Encoded(const Bundle& bundle) {
  Bytes bytes;
  const Status status = EncodeBundle(bundle, [&](ByteView more) -> Status {
    bytes.insert(bytes.end(), more.begin(), more.end());
    return {};
  });
  EXPECT_TRUE(status.ok());
  return bytes;
}

Bundle OneRequest() {
  auto exchange = std::make_shared<Exchange>();
  exchange->request.id = {1, 2};
  exchange->request.method = "PUT";
  exchange->request.target = "/store/a";
  exchange->request.headers = {{"X-A", "b"}};
  exchange->request.deadline = std::chrono::steady_clock::now() + std::chrono::seconds(30);
  exchange->handle = 9;
  exchange->body = "unread";
  exchange->body_received = exchange->captured_received = 100;
  exchange->answers.emplace(3, std::pair(CallAnswer{200, {}, {1, 2, 3}}, std::size_t{1}));
  Bundle bundle{"store", "store-0-abc", "sha256:x", 10, {}, {}};
  bundle.requests.push_back({exchange, std::nullopt});
  return bundle;
}

TEST(BundleTest, ComesBackAsItWas) {
  const Bytes bytes = Encoded(OneRequest());
  const auto decoded = DecodeBundle(bytes);
  ASSERT_TRUE(decoded.ok()) << decoded.error().message;
  EXPECT_EQ(decoded->service, "store");
  EXPECT_EQ(decoded->next_handle, 10u);
  ASSERT_EQ(decoded->requests.size(), 1u);
  const Exchange& exchange = *decoded->requests[0].exchange;
  EXPECT_EQ(exchange.request.id, (RequestId{1, 2}));
  EXPECT_EQ(exchange.request.target, "/store/a");
  EXPECT_EQ(exchange.body, "unread");
  EXPECT_EQ(exchange.body_received, 100u);
  EXPECT_EQ(exchange.phase, Exchange::Phase::kWaiting);
  EXPECT_EQ(exchange.answers.at(3).second, 1u);
  const auto left = exchange.request.deadline - std::chrono::steady_clock::now();
  EXPECT_GT(left, std::chrono::seconds(20));
}

TEST(BundleTest, ReadsBytesThatAreNotAligned) {
  const Bytes bytes = Encoded(OneRequest());
  Bytes moved(bytes.size() + 1);
  std::copy(bytes.begin(), bytes.end(), moved.begin() + 1);
  const auto decoded = DecodeBundle(ByteView(moved).subspan(1));
  ASSERT_TRUE(decoded.ok()) << decoded.error().message;
  EXPECT_EQ(decoded->requests.at(0).exchange->body, "unread");
}

TEST(BundleTest, RefusesRequestsThatShareTheirBytes) {
  flatbuffers::FlatBufferBuilder builder;
  const auto body = builder.CreateVector(std::vector<std::uint8_t>(10'000));
  const auto text = builder.CreateString("x");
  fbs::RequestBuilder request(builder);
  request.add_method(text);
  request.add_target(text);
  request.add_body(body);
  request.add_body_received(10'000);
  const auto shared = request.Finish();
  const auto list = builder.CreateVector(std::vector(3, shared));
  fbs::FinishBundleBuffer(builder, fbs::CreateBundle(builder, kBundleVersion, text, text, text, list));
  Bytes hostile(builder.GetBufferPointer(), builder.GetBufferPointer() + builder.GetSize());
  const std::uint64_t footer[2] = {0, hostile.size()};
  hostile.insert(hostile.end(), reinterpret_cast<const std::uint8_t*>(footer), reinterpret_cast<const std::uint8_t*>(footer + 2));
  const Bytes good = Encoded(OneRequest());
  hostile.insert(hostile.end(), good.end() - 8, good.end());  // Magic and version.
  const auto decoded = DecodeBundle(hostile);
  ASSERT_FALSE(decoded.ok());
  EXPECT_NE(decoded.error().message.find("share"), std::string::npos) << decoded.error().message;
}

TEST(BundleTest, RefusesEveryTruncation) {
  const Bytes bytes = Encoded(OneRequest());
  for (std::size_t size = 0; size < bytes.size(); ++size) {
    EXPECT_FALSE(DecodeBundle(ByteView(bytes).first(size)).ok()) << size;
  }
}

TEST(BundleTest, RefusesAnotherMagicAndVersion) {
  Bytes bytes = Encoded(OneRequest());
  bytes[bytes.size() - 8] ^= 1;
  EXPECT_EQ(DecodeBundle(bytes).error().code, ErrorCode::kCorrupt);
  bytes[bytes.size() - 8] ^= 1;
  bytes[bytes.size() - 4] = 9;
  EXPECT_EQ(DecodeBundle(bytes).error().code, ErrorCode::kUnsupported);
}

TEST(BundleTest, RefusesARequestOfASnapshotThatIsNotThere) {
  Bundle bundle = OneRequest();
  bundle.requests[0].exchange->phase = Exchange::Phase::kRunning;
  bundle.requests[0].instance = 0;
  EXPECT_EQ(DecodeBundle(Encoded(bundle)).error().code, ErrorCode::kCorrupt);
}

}  // namespace
}  // namespace godwit::agent
