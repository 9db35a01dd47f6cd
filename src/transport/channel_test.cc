#include <gtest/gtest.h>

#include <atomic>
#include <numeric>
#include <set>
#include <thread>

#include "transport/channel.h"
#include "transport/channel_handshake.h"
#include "transport/frame_parser.h"
#include "transport/link_shaper.h"
#include "transport/transport_fixture.h"

namespace godwit::transport {
namespace {

using namespace std::chrono_literals;
using ChannelPtr = std::shared_ptr<Channel>;

ChannelOptions OptionsFor(const char* device, std::uint64_t boot, std::string token = "secret") {
  ChannelOptions options;
  options.self = {model::DeviceName(device), model::BootId{boot}};
  options.token = std::move(token);
  return options;
}

Bytes Encoded(const flatbuffers::FlatBufferBuilder& builder) {
  return Bytes(builder.GetBufferPointer(), builder.GetBufferPointer() + builder.GetSize());
}

Bytes PingMessage() {
  flatbuffers::FlatBufferBuilder builder;
  FinishMessage(builder, wire::CreatePing(builder, 7));
  return Encoded(builder);
}

Bytes FrameOf(const Bytes& message, const Bytes& payload, std::optional<std::uint32_t> total = {}, std::optional<std::uint32_t> head = {}) {
  Bytes out;
  const auto put = [&](std::uint32_t value) {
    for (int i = 0; i < 4; ++i) out.push_back(static_cast<std::uint8_t>(value >> (8 * i)));
  };
  put(total.value_or(static_cast<std::uint32_t>(message.size() + payload.size())));
  put(head.value_or(static_cast<std::uint32_t>(message.size())));
  out.insert(out.end(), message.begin(), message.end());
  out.insert(out.end(), payload.begin(), payload.end());
  return out;
}

// Two agents, "near" connecting to "far", over loopback.
class ChannelPair : public ::testing::Test {
 protected:
  void Open(ChannelHandlers near, ChannelHandlers far, ChannelOptions near_options = OptionsFor("near", 1)) {
    ChannelServer::Options options;
    options.channel = OptionsFor("far", 2);
    auto listening = ChannelServer::Listen(loop_, options, [this, far](const ChannelPtr& channel) {
      accepted_.Set(channel);
      return far;
    });
    ASSERT_TRUE(listening.ok()) << listening.error().message;
    server_ = *std::move(listening);
    Awaited<Result<ChannelPtr>> connected;
    ConnectChannel(loop_, server_->address(), near_options, std::move(near), [&](Result<ChannelPtr> channel) { connected.Set(std::move(channel)); });
    auto result = connected.Wait();
    ASSERT_TRUE(result.has_value());
    ASSERT_TRUE(result->ok()) << result->error().message;
    near_ = result->value();
    far_ = accepted_.Wait().value();
  }
  void TearDown() override {
    server_.reset();
    if (near_) near_->Drop();
  }

  EventLoop loop_{"test"};
  std::unique_ptr<ChannelServer> server_;
  Awaited<ChannelPtr> accepted_;
  ChannelPtr near_, far_;
};

TEST_F(ChannelPair, KnowsWhoIsAtTheOtherEnd) {
  Open({}, {});
  EXPECT_EQ(near_->peer().device.value, "far");
  EXPECT_EQ(near_->peer().boot.value, 2u);
  EXPECT_EQ(far_->peer().device.value, "near");
  EXPECT_EQ(far_->peer().boot.value, 1u);
}

TEST_F(ChannelPair, CarriesMessagesWithTheirPayloadInOrder) {
  std::vector<std::uint64_t> offsets;
  Bytes bytes;
  Awaited<bool> all;
  Open({}, {.on_frame = [&](const ChannelPtr&, Frame frame) {
         const auto* chunk = frame.as<wire::BodyChunk>();
         ASSERT_NE(chunk, nullptr);
         offsets.push_back(chunk->offset());
         bytes.insert(bytes.end(), frame.payload().begin(), frame.payload().end());
         if (chunk->last()) all.Set(true);
       }});
  for (std::uint64_t i = 0; i < 100; ++i) {
    flatbuffers::FlatBufferBuilder builder;
    const wire::RequestId id(1, 5);
    const Bytes payload{static_cast<std::uint8_t>(i)};
    ASSERT_TRUE(near_->Tell(builder, wire::CreateBodyChunk(builder, &id, i, i == 99), payload).ok());
  }
  ASSERT_TRUE(all.Wait());
  std::vector<std::uint64_t> expected(100);
  std::iota(expected.begin(), expected.end(), 0);
  EXPECT_EQ(offsets, expected);
  EXPECT_EQ(bytes.size(), 100u);
}

TEST_F(ChannelPair, AnswersACallAndNamesATimeout) {
  Open({}, {.on_frame = [](const ChannelPtr& channel, Frame frame) {
         if (!frame.as<wire::BlobRead>()) return;  // Anything else stays unanswered.
         flatbuffers::FlatBufferBuilder builder;
         const auto outcome = wire::CreateOutcome(builder);
         ASSERT_TRUE(channel->Reply(frame.call(), builder, wire::CreateBlobReply(builder, outcome, 3), AsBytes("abc")).ok());
       }});
  Awaited<Result<Frame>> reply, late;
  flatbuffers::FlatBufferBuilder builder;
  near_->Ask(builder, wire::CreateBlobReadDirect(builder, "sha256:0", 0, 3), 10s, [&](Result<Frame> r) { reply.Set(std::move(r)); });
  flatbuffers::FlatBufferBuilder other;
  near_->Ask(other, wire::CreateDataReadDirect(other, "d"), 20ms, [&](Result<Frame> r) { late.Set(std::move(r)); });
  auto answered = reply.Wait();
  ASSERT_TRUE(answered && answered->ok());
  EXPECT_EQ(AsText(answered->value().payload()), "abc");
  auto timed_out = late.Wait();
  ASSERT_TRUE(timed_out && !timed_out->ok());
  EXPECT_EQ(timed_out->error().code, ErrorCode::kDeadlineExceeded);
}

TEST_F(ChannelPair, TellsBothEndsOfALossOnce) {
  std::atomic<int> near_told = 0, far_told = 0;
  Awaited<Error> near_lost;
  Awaited<Error> far_lost;
  Awaited<Result<Frame>> call;
  Open({.on_closed = [&](const ChannelPtr&, const Error& error) { ++near_told; near_lost.Set(error); }},
       {.on_closed = [&](const ChannelPtr&, const Error& error) { ++far_told; far_lost.Set(error); }});
  flatbuffers::FlatBufferBuilder builder;
  near_->Ask(builder, wire::CreateBlobReadDirect(builder, "x"), 30s, [&](Result<Frame> r) { call.Set(std::move(r)); });
  far_->Close("going away");
  EXPECT_EQ(near_lost.Wait().value().code, ErrorCode::kUnavailable);
  EXPECT_EQ(far_lost.Wait().value().code, ErrorCode::kAborted);
  EXPECT_EQ(call.Wait().value().error().code, ErrorCode::kUnavailable);
  EXPECT_EQ(near_->Send(builder).error().code, ErrorCode::kUnavailable);
  EXPECT_EQ(near_told, 1);
  EXPECT_EQ(far_told, 1);
}

TEST_F(ChannelPair, RefusesMoreThanItsQueueHolds) {
  ChannelOptions slow = OptionsFor("near", 1);
  slow.shape.bytes_per_second = 1 << 20;
  Open({}, {}, slow);
  const Bytes payload(kPayloadBytesMax);
  Status sent;
  std::size_t accepted = 0;
  for (int i = 0; i < 64 && sent.ok(); ++i) {
    flatbuffers::FlatBufferBuilder builder;
    sent = near_->Tell(builder, wire::CreateStreamChunk(builder, 1, accepted), payload);
    if (sent.ok()) accepted += payload.size();
  }
  ASSERT_FALSE(sent.ok());
  EXPECT_EQ(sent.error().code, ErrorCode::kResourceExhausted);
  EXPECT_LE(accepted, kWriteQueueBytesMax);
  EXPECT_GE(accepted, kWriteQueueBytesMax - 2 * kPayloadBytesMax);
  // Control messages still go.
  flatbuffers::FlatBufferBuilder builder;
  EXPECT_TRUE(near_->Tell(builder, wire::CreateStreamAck(builder, 1, 0)).ok());
}

TEST(ChannelConnect, RefusesAnotherToken) {
  EventLoop loop("test");
  ChannelServer::Options options;
  options.channel = OptionsFor("far", 2, "right");
  std::atomic<bool> accepted = false;
  auto server = ChannelServer::Listen(loop, options, [&](const ChannelPtr&) { accepted = true; return ChannelHandlers{}; });
  ASSERT_TRUE(server.ok());
  Awaited<Result<ChannelPtr>> connected;
  ConnectChannel(loop, (*server)->address(), OptionsFor("near", 1, "wrong"), {}, [&](Result<ChannelPtr> r) { connected.Set(std::move(r)); });
  EXPECT_EQ(connected.Wait().value().error().code, ErrorCode::kPermissionDenied);
  EXPECT_FALSE(accepted);
}

// One end secures the channel and the other does not: refused with the reason, in both ways.
TEST(ChannelConnect, RefusesAPeerInPlaintext) {
  for (const bool server_is_plain : {false, true}) {
    EventLoop loop("test");
    ChannelServer::Options options;
    options.channel = OptionsFor("far", 2);
    options.channel.plaintext = server_is_plain;
    std::atomic<bool> accepted = false;
    auto server = ChannelServer::Listen(loop, options, [&](const ChannelPtr&) { accepted = true; return ChannelHandlers{}; });
    ASSERT_TRUE(server.ok());
    ChannelOptions near = OptionsFor("near", 1);
    near.plaintext = !server_is_plain;
    Awaited<Result<ChannelPtr>> connected;
    ConnectChannel(loop, (*server)->address(), near, {}, [&](Result<ChannelPtr> r) { connected.Set(std::move(r)); });
    EXPECT_FALSE(connected.Wait().value().ok());
    EXPECT_FALSE(accepted);
  }
}

TEST_F(ChannelPair, WorksInPlaintextIfBothSaySo) {
  ChannelServer::Options options;
  options.channel = OptionsFor("far", 2);
  options.channel.plaintext = true;
  auto server = ChannelServer::Listen(loop_, options, [](const ChannelPtr& channel) {
    flatbuffers::FlatBufferBuilder builder;  // Comes with the last of the handshake.
    EXPECT_TRUE(channel->Tell(builder, wire::CreateStreamAck(builder, 7, 0)).ok());
    return ChannelHandlers{};
  });
  ASSERT_TRUE(server.ok());
  ChannelOptions near = OptionsFor("near", 1);
  near.plaintext = true;
  Awaited<std::uint64_t> stream;
  Awaited<Result<ChannelPtr>> connected;
  ConnectChannel(loop_, (*server)->address(), near,
                 {.on_frame = [&](const ChannelPtr&, Frame frame) { stream.Set(frame.as<wire::StreamAck>()->stream()); }},
                 [&](Result<ChannelPtr> r) { connected.Set(std::move(r)); });
  EXPECT_TRUE(connected.Wait().value().ok());
  EXPECT_EQ(stream.Wait().value(), 7u);
  (*connected.Wait()).value()->Drop();
}

TEST(ChannelConnect, NamesAPeerThatIsNotThere) {
  EventLoop loop("test");
  Awaited<Result<ChannelPtr>> connected, malformed;
  ConnectChannel(loop, "127.0.0.1:1", OptionsFor("near", 1), {}, [&](Result<ChannelPtr> r) { connected.Set(std::move(r)); });
  ConnectChannel(loop, "nonsense:port", OptionsFor("near", 1), {}, [&](Result<ChannelPtr> r) { malformed.Set(std::move(r)); });
  EXPECT_EQ(connected.Wait().value().error().code, ErrorCode::kUnavailable);
  EXPECT_EQ(malformed.Wait().value().error().code, ErrorCode::kInvalidArgument);
}

// What is not freed is found by the leak check of the build with sanitizers.
TEST(ChannelConnect, HandshakesThatAreOpenWhenTheLoopEndsAreFreed) {
  for (int i = 0; i < 50; ++i) {
    EventLoop loop("brief");
    auto server = ChannelServer::Listen(loop, {.channel = OptionsFor("far", 2)}, [](const ChannelPtr&) { return ChannelHandlers{}; });
    ASSERT_TRUE(server.ok()) << server.error().message;
    ConnectChannel(loop, (*server)->address(), OptionsFor("near", 1), {}, [](const Result<ChannelPtr>&) {});
    for (int turn = 0; turn < i; ++turn) loop.Run([] {});  // Each round ends a little later in the handshake.
    server->reset();
  }
}

TEST(ChannelListen, NeedsATokenBeyondLoopback) {
  EventLoop loop("test");
  ChannelServer::Options options;
  options.address = "0.0.0.0";
  options.channel = OptionsFor("far", 2, "");
  const auto server = ChannelServer::Listen(loop, options, [](const ChannelPtr&) { return ChannelHandlers{}; });
  ASSERT_FALSE(server.ok());
  EXPECT_EQ(server.error().code, ErrorCode::kPermissionDenied);
  options.channel = OptionsFor("far", 2);
  options.channel.plaintext = true;
  EXPECT_EQ(ChannelServer::Listen(loop, options, [](const ChannelPtr&) { return ChannelHandlers{}; }).error().code, ErrorCode::kPermissionDenied);
}

// --- Handshake

const ChannelIdentity kNear{model::DeviceName("near"), model::BootId{1}}, kFar{model::DeviceName("far"), model::BootId{2}};

TEST(Handshake, RefusesEveryChangedByte) {
  ConnectingHandshake near(kNear, "secret", Nonce{1});
  AcceptingHandshake far(kFar, "secret", Nonce{2});
  const Bytes challenge = far.OnHello(near.hello()).value();
  const Bytes proof = near.OnChallenge(challenge).value();
  ASSERT_TRUE(far.OnProof(proof).ok());
  for (std::size_t i = 0; i < challenge.size(); ++i) {
    Bytes changed = challenge;
    changed[i] ^= 1;
    EXPECT_FALSE(ConnectingHandshake(kNear, "secret", Nonce{1}).OnChallenge(changed).ok()) << "byte " << i;
  }
  for (std::size_t i = 0; i < proof.size(); ++i) {
    Bytes changed = proof;
    changed[i] ^= 1;
    EXPECT_FALSE(far.OnProof(changed).ok()) << "byte " << i;
  }
  for (std::size_t n = 0; n < challenge.size(); ++n) {
    EXPECT_FALSE(near.OnChallenge(ByteView(challenge).first(n)).ok()) << "cut to " << n;
    EXPECT_FALSE(AcceptingHandshake(kFar, "secret", Nonce{2}).OnHello(ByteView(near.hello()).first(std::min(n, near.hello().size() - 1))).ok());
  }
}

// The worked example of docs/formats/channel.md.
TEST(Handshake, BeginsAsDocumented) {
  Bytes expected{'G', 'W', 'C', 'H', 1, 3, 0, 0, 0, 1};
  expected.resize(expected.size() + 31);
  for (const std::uint8_t byte : {1, 0, 0, 0, 0, 0, 0, 0, 4}) expected.push_back(byte);
  for (const char c : {'n', 'e', 'a', 'r'}) expected.push_back(static_cast<std::uint8_t>(c));
  EXPECT_EQ(ConnectingHandshake(kNear, "secret", Nonce{1}).hello(), expected);
  EXPECT_EQ(expected.size(), 54u);
}

TEST(Handshake, RefusesAReplayedProof) {
  ConnectingHandshake near(kNear, "secret", Nonce{1});
  AcceptingHandshake first(kFar, "secret", Nonce{2}), second(kFar, "secret", Nonce{3});
  const Bytes proof = near.OnChallenge(first.OnHello(near.hello()).value()).value();
  ASSERT_TRUE(second.OnHello(near.hello()).ok());
  EXPECT_EQ(second.OnProof(proof).error().code, ErrorCode::kPermissionDenied);
}

TEST(Handshake, NamesAnotherVersion) {
  Bytes hello = ConnectingHandshake(kNear, "secret", Nonce{1}).hello();
  hello[5] = 9;
  EXPECT_EQ(AcceptingHandshake(kFar, "secret", Nonce{2}).OnHello(hello).error().code, ErrorCode::kUnsupported);
}

// --- Frames

TEST(Frames, AreFoundHoweverTheStreamIsCut) {
  Bytes stream = FrameOf(PingMessage(), {});
  const Bytes second = FrameOf(PingMessage(), {1, 2, 3});
  stream.insert(stream.end(), second.begin(), second.end());
  for (std::size_t piece = 1; piece <= stream.size(); ++piece) {
    FrameParser parser;
    std::vector<std::size_t> payloads;
    for (std::size_t at = 0; at < stream.size(); at += piece) {
      ASSERT_TRUE(parser.Feed(ByteView(stream).subspan(at, std::min(piece, stream.size() - at)), [&](Frame frame) {
        payloads.push_back(frame.payload().size());
        return true;
      }).ok());
    }
    EXPECT_EQ(payloads, (std::vector<std::size_t>{0, 3})) << "pieces of " << piece;
  }
}

TEST(Frames, HostileOnesAreRefused) {
  const Bytes ping = PingMessage();
  flatbuffers::FlatBufferBuilder none;
  none.Finish(wire::CreateMessage(none, 0, 0, wire::Body::Ping, wire::CreatePing(none, 1).Union()), "????");
  flatbuffers::FlatBufferBuilder unknown;
  unknown.Finish(wire::CreateMessage(unknown, 0, 0, static_cast<wire::Body>(200), wire::CreatePing(unknown, 1).Union()), wire::MessageIdentifier());
  const struct {
    const char* what;
    Bytes bytes;
  } cases[] = {
      {"empty message", FrameOf({}, {})},
      {"payload without message", FrameOf({}, {1, 2, 3})},
      {"message larger than its frame", FrameOf(ping, {}, 8, 64)},
      {"frame larger than the limit", FrameOf(ping, {}, kFrameBytesMax + 1)},
      {"largest number", FrameOf(ping, {}, 0xffffffffu, 0xffffffffu)},
      {"message larger than the limit", FrameOf(ping, {}, kFrameBytesMax, kMessageBytesMax + 1)},
      {"payload larger than the limit", FrameOf(ping, {}, kFrameBytesMax, static_cast<std::uint32_t>(ping.size()))},
      {"zeros", FrameOf(Bytes(64), {})},
      {"ones", FrameOf(Bytes(64, 0xff), {})},
      {"another file identifier", FrameOf(Encoded(none), {})},
      {"unknown message type", FrameOf(Encoded(unknown), {})},
      {"HTTP", Bytes{'G', 'E', 'T', ' ', '/', ' ', 'H', 'T', 'T', 'P', '/', '1', '.', '1', '\r', '\n'}},
  };
  for (const auto& c : cases) {
    FrameParser parser;
    const Status fed = parser.Feed(c.bytes, [](Frame) { return true; });
    ASSERT_FALSE(fed.ok()) << c.what;
    EXPECT_EQ(fed.error().code, ErrorCode::kCorrupt) << c.what;
  }
}

TEST(Frames, ListsThatAreNotAlignedAreRefused) {
  std::set<bool> seen;
  for (std::size_t before = 16; before < 18; ++before) {
    flatbuffers::FlatBufferBuilder builder;
    const auto outcome = wire::CreateOutcome(builder, 0);
    builder.CreateVector(std::vector<std::uint32_t>(before));  // Lies behind the next, which is read beyond its end.
    const flatbuffers::Offset<flatbuffers::Vector<std::uint64_t>> sizes(builder.CreateVector(std::vector<std::uint32_t>{1, 2}).o);
    FinishMessage(builder, wire::CreateDataListReply(builder, outcome, 0, sizes), 1);
    const Bytes bytes = Encoded(builder);
    const auto* list = wire::GetMessage(bytes.data())->body_as_DataListReply()->sizes();
    const bool aligned = (list->Data() - bytes.data()) % 8 == 0;
    seen.insert(aligned);
    EXPECT_EQ(VerifyMessage(bytes).ok(), aligned);
  }
  EXPECT_EQ(seen.size(), 2u);
}

TEST(Frames, HeadersThatShareTheirBytesAreRefused) {
  const auto with_headers = [](std::size_t count, bool shared) {
    flatbuffers::FlatBufferBuilder builder;
    const wire::RequestId id(1, 2);
    const auto once = builder.CreateString(std::string(1000, 'x'));
    std::vector<flatbuffers::Offset<wire::Header>> headers;
    for (std::size_t i = 0; i < count; ++i) {
      headers.push_back(wire::CreateHeader(builder, shared ? once : builder.CreateString(std::string(1000, 'x')), once));
    }
    FinishMessage(builder, wire::CreateOpenRequestDirect(builder, &id, "i", 1, "GET", "/", &headers, 1000));
    return VerifyMessage(Encoded(builder));
  };
  EXPECT_TRUE(with_headers(1, false).ok());
  EXPECT_EQ(with_headers(100, true).error().code, ErrorCode::kCorrupt);
}

TEST(Frames, ChangedBytesNeverReadOutsideTheFrame) {
  flatbuffers::FlatBufferBuilder builder;
  const wire::RequestId id(1, 2);
  std::vector<flatbuffers::Offset<wire::Header>> headers{wire::CreateHeaderDirect(builder, "a", "b")};
  FinishMessage(builder, wire::CreateOpenRequestDirect(builder, &id, "i", 1, "GET", "/", &headers, 1000));
  const Bytes good = Encoded(builder);
  std::size_t passed = 0;
  for (std::size_t i = 0; i < good.size(); ++i) {
    for (const std::uint8_t value : {0x00, 0x01, 0x7f, 0x80, 0xff}) {
      const auto changed = std::make_unique<Bytes>(good);
      (*changed)[i] = value;
      if (!VerifyMessage(*changed).ok()) continue;
      ++passed;
      const wire::Message* message = wire::GetMessage(changed->data());
      if (const auto* open = message->body_as_OpenRequest()) {
        std::string all = open->instance()->str() + open->method()->str() + open->target()->str();
        if (open->headers()) for (const auto* h : *open->headers()) all += h->name()->str() + h->value()->str();
        EXPECT_NE(open->request(), nullptr);
      }
    }
  }
  EXPECT_GT(passed, 0u);
}

// --- Emulated links

TEST(LinkShaper, GivesBytesTheirTimeOnTheLink) {
  LinkShaper shaper({.bytes_per_second = 1000, .latency = 100ms});
  const LinkShaper::Time start{};
  EXPECT_EQ(shaper.Admit(start, 500), start + 600ms);
  EXPECT_EQ(shaper.Admit(start, 500), start + 1100ms);
  EXPECT_EQ(shaper.Admit(start + 5s, 1000), start + 6100ms);
}

}  // namespace
}  // namespace godwit::transport
