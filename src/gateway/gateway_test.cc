#include "gateway/gateway_fixture.h"

#include <gmock/gmock.h>

#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/read.hpp>
#include <boost/asio/read_until.hpp>
#include <boost/asio/write.hpp>

namespace godwit::gateway {
namespace {

using ::testing::HasSubstr;
using transport::HttpCall;

// Takes in each body and answers it back whole.
FakeAgent::Script Echo() {
  auto bodies = std::make_shared<std::map<std::uint64_t, std::string>>();
  return [bodies](FakeAgent& agent, const ChannelPtr& channel, const Frame& frame) {
    if (const auto* open = frame.as<wire::OpenRequest>()) {
      (*bodies)[open->request()->number()] = open->method()->str() + " " + open->target()->str() + "\n";
      if (!open->body_follows()) agent.Answer(channel, *open->request(), (*bodies)[open->request()->number()]);
    }
    if (const auto* chunk = frame.as<wire::BodyChunk>()) {
      auto& body = (*bodies)[chunk->request()->number()];
      body += AsText(frame.payload());
      agent.Ack(channel, *chunk->request(), chunk->offset() + frame.payload().size());
      if (chunk->last()) agent.Answer(channel, *chunk->request(), body);
    }
  };
}

TEST_F(GatewayTest, CarriesARequestThereAndItsAnswerBack) {
  Serve(Agent("csd0", Echo()));
  const auto get = Ask({.target = "/orders/7?x=1"});
  EXPECT_EQ(get.status, 200);
  EXPECT_EQ(get.body, "GET /orders/7?x=1\n");
  const auto post = Ask({.method = "POST", .target = "/orders/7", .body = "hello"});
  EXPECT_EQ(post.body, "POST /orders/7\nhello");
  EXPECT_THAT(gateway_->MetricsText(), HasSubstr("godwit_http_requests_total{service=\"orders\",code=\"200\",method=\"POST\"} 1"));
}

TEST_F(GatewayTest, PassesTraceContextOnAndNamesTheRequest) {
  std::map<std::string, std::string> seen;
  const AgentsLeave leave(*this);
  Serve(Agent("csd0", [&](FakeAgent& agent, const ChannelPtr& channel, const Frame& frame) {
    const auto* open = frame.as<wire::OpenRequest>();
    if (!open) return;
    for (const auto* header : *open->headers()) seen[header->name()->str()] = header->value()->str();
    EXPECT_EQ(open->instance()->str(), "i0");
    EXPECT_EQ(open->route()->str(), "/orders/{key}");
    EXPECT_GT(open->deadline_ms(), 25'000u);
    agent.Answer(channel, *open->request(), "ok");
  }));
  const std::string trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";  // W3C Trace Context, 3.2
  const auto answer = Ask({.headers = {{"traceparent", trace}, {"X-Request-Id", "abc"}, {"Connection", "X-Hop"}, {"X-Hop", "1"}, {"X-End", "2"}}});
  EXPECT_EQ(seen["traceparent"], trace);
  EXPECT_EQ(seen["X-Request-Id"], "abc");
  EXPECT_EQ(seen["X-End"], "2");
  EXPECT_EQ(seen.count("X-Hop"), 0u);
  ASSERT_NE(answer.header("X-Request-Id"), nullptr);
  EXPECT_EQ(*answer.header("X-Request-Id"), "abc");
  seen.clear();
  Ask({.headers = {{"traceparent", "00-bad"}}});
  EXPECT_EQ(seen["traceparent"].size(), trace.size());
  EXPECT_EQ(seen["X-Request-Id"].size(), 32u);
}

TEST_F(GatewayTest, StreamsALargeBodyWithinTheWindow) {
  constexpr std::size_t kTotal = 16 << 20;
  std::uint64_t received = 0, wrong = 0;
  const AgentsLeave leave(*this);
  Serve(Agent("csd0", [&](FakeAgent& agent, const ChannelPtr& channel, const Frame& frame) {
    const auto* chunk = frame.as<wire::BodyChunk>();
    if (!chunk) return;
    wrong += chunk->offset() != received || AsText(frame.payload()) != Pattern(frame.payload().size(), received);
    received += frame.payload().size();
    agent.Ack(channel, *chunk->request(), received);
    if (chunk->last()) agent.Answer(channel, *chunk->request(), std::to_string(received));
  }));
  KnowService(256_MiB, 5min);
  std::size_t at = 0;
  const auto answer = Ask({.method = "PUT", .target = "/orders/7", .body_source = [&]() -> Result<std::string> {
    const std::size_t n = std::min<std::size_t>(1 << 20, kTotal - at);
    at += n;
    return Pattern(n, at - n);
  }});
  EXPECT_EQ(answer.body, std::to_string(kTotal));
  EXPECT_EQ(wrong, 0u);
}

TEST_F(GatewayTest, ASlowAgentIsNeverSentMoreThanTheWindow) {
  std::uint64_t received = 0;
  transport::Awaited<bool> full;
  const AgentsLeave leave(*this);
  Serve(Agent("csd0", [&](FakeAgent&, const ChannelPtr&, const Frame& frame) {
    const auto* chunk = frame.as<wire::BodyChunk>();
    if (!chunk) return;
    received += frame.payload().size();
    if (received > transport::kRequestWindowBytes - transport::kChunkBytes) full.Set(true);
    EXPECT_LE(received, transport::kRequestWindowBytes);
  }));
  auto client = Client();
  std::thread sender([&] { (void)client->Call({.method = "PUT", .target = "/orders/7", .body = std::string(8 << 20, 'x')}).ok(); });
  EXPECT_TRUE(full.Wait());
  client->Cancel();
  sender.join();
}

TEST_F(GatewayTest, StreamsALargeResponseWithinTheWindow) {
  constexpr std::uint64_t kTotal = 16 << 20;
  std::uint64_t sent = 0, acknowledged = 0, most = 0;
  const auto pump = [&](FakeAgent& agent, const ChannelPtr& channel, const wire::RequestId& id) {
    while (sent < kTotal && sent - acknowledged + transport::kChunkBytes <= transport::kRequestWindowBytes) {
      agent.Chunk(channel, id, sent, Pattern(transport::kChunkBytes, sent), sent + transport::kChunkBytes == kTotal);
      sent += transport::kChunkBytes;
    }
    most = std::max(most, sent - acknowledged);
  };
  const AgentsLeave leave(*this);
  Serve(Agent("csd0", [&](FakeAgent& agent, const ChannelPtr& channel, const Frame& frame) {
    if (const auto* open = frame.as<wire::OpenRequest>()) {
      agent.Head(channel, *open->request());
      pump(agent, channel, *open->request());
    }
    if (const auto* ack = frame.as<wire::ResponseAck>()) {
      EXPECT_LE(ack->offset(), sent);
      acknowledged = ack->offset();
      pump(agent, channel, *ack->request());
    }
  }));
  KnowService(256_MiB, 5min);
  std::uint64_t received = 0;
  bool right = true;
  const auto answer = Client()->Stream({.target = "/orders/7", .timeout = 4min}, [&](std::string_view bytes) {
    right = right && bytes == Pattern(bytes.size(), received);
    received += bytes.size();
    return true;
  });
  ASSERT_TRUE(answer.ok()) << answer.error().message;
  EXPECT_EQ(received, kTotal);
  EXPECT_TRUE(right);
  EXPECT_EQ(most, transport::kRequestWindowBytes);
}

// --- Moves

TEST_F(GatewayTest, FollowsAnInstanceThatMovesInTheMiddleOfTheResponse) {
  const std::string whole = Pattern(200'000);
  const AgentsLeave leave(*this);
  FakeAgent& target = Agent("csd1", [&](FakeAgent& agent, const ChannelPtr& channel, const Frame& frame) {
    const auto* attach = frame.as<wire::AttachRequest>();
    if (!attach) return;
    EXPECT_EQ(attach->response_offset(), 60'000u);
    EXPECT_TRUE(attach->head_received());
    EXPECT_EQ(attach->epoch(), 2u);
    agent.Ack(channel, *attach->request(), 0);
    // What was sent before is sent again in part: the client must not see it twice.
    agent.Chunk(channel, *attach->request(), 50'000, std::string_view(whole).substr(50'000, 50'000), false);
    agent.Chunk(channel, *attach->request(), 100'000, std::string_view(whole).substr(100'000), true);
  });
  Serve(Agent("host0", [&](FakeAgent& agent, const ChannelPtr& channel, const Frame& frame) {
    const auto* open = frame.as<wire::OpenRequest>();
    if (!open) return;
    agent.Head(channel, *open->request(), 200, static_cast<std::int64_t>(whole.size()));
    agent.Chunk(channel, *open->request(), 0, std::string_view(whole).substr(0, 60'000), false);
    agent.MoveTo(channel, *open->request(), target, 2, 0, true);
  }));
  EXPECT_TRUE(Ask({}).body == whole);
  // And later requests go to the new place.
  loop_.Run([&] { EXPECT_EQ(relay_->directory().Find(model::InstanceId("i0"))->device.value, "csd1"); });
}

TEST_F(GatewayTest, FollowsAnInstanceThatMovesInTheMiddleOfTheBody) {
  const std::string whole = Pattern(1 << 20);
  std::string at_source, at_target;
  std::uint64_t move_at = 0;
  const AgentsLeave leave(*this);
  FakeAgent& target = Agent("csd1", [&](FakeAgent& agent, const ChannelPtr& channel, const Frame& frame) {
    if (const auto* attach = frame.as<wire::AttachRequest>()) {
      EXPECT_FALSE(attach->head_received());
      agent.Ack(channel, *attach->request(), move_at);
    }
    if (const auto* chunk = frame.as<wire::BodyChunk>()) {
      EXPECT_EQ(chunk->offset(), move_at + at_target.size());
      at_target += AsText(frame.payload());
      agent.Ack(channel, *chunk->request(), move_at + at_target.size());
      if (chunk->last()) agent.Answer(channel, *chunk->request(), "done");
    }
  });
  Serve(Agent("host0", [&](FakeAgent& agent, const ChannelPtr& channel, const Frame& frame) {
    const auto* chunk = frame.as<wire::BodyChunk>();
    if (!chunk || move_at) return;
    at_source += AsText(frame.payload());
    if (at_source.size() < 300'000) return agent.Ack(channel, *chunk->request(), at_source.size() / 2);
    move_at = at_source.size() - 12'345;  // The last bytes that came did not go with the instance.
    agent.MoveTo(channel, *chunk->request(), target, 2, move_at, true);
  }));
  EXPECT_EQ(Ask({.method = "POST", .body = whole}).body, "done");
  EXPECT_GT(move_at, 0u);
  EXPECT_TRUE(at_source.substr(0, move_at) + at_target == whole);
}

TEST_F(GatewayTest, OpensAnewARequestThatHadNotBegunWhenItsInstanceMoved) {
  FakeAgent& target = Agent("csd1", Echo());
  const AgentsLeave leave(*this);
  Serve(Agent("host0", [&](FakeAgent& agent, const ChannelPtr& channel, const Frame& frame) {
    const auto* open = frame.as<wire::OpenRequest>();
    if (open) agent.MoveTo(channel, *open->request(), target, 2, 0, false);
  }));
  EXPECT_EQ(Ask({.method = "POST", .body = "kept"}).body, "POST /orders/7\nkept");
}

TEST_F(GatewayTest, FollowsAtMostSixteenMoves) {
  int opened = 0;
  std::vector<FakeAgent*> both;
  const AgentsLeave leave(*this);
  const auto bounce = [&](FakeAgent& agent, const ChannelPtr& channel, const Frame& frame) {
    const auto* open = frame.as<wire::OpenRequest>();
    if (!open) return;
    ++opened;
    agent.MoveTo(channel, *open->request(), *both[opened % 2], open->epoch() + 1, 0, false);
  };
  both = {&Agent("host0", bounce), &Agent("csd1", bounce)};
  Serve(*both[0]);
  const auto answer = Ask({});
  EXPECT_EQ(answer.status, 502);
  EXPECT_EQ(opened, kHopsMax + 1);
  EXPECT_THAT(answer.body, HasSubstr("moved more than 16 times"));
}

// --- What goes wrong

TEST_F(GatewayTest, SaysThatNoServiceHasTheRoute) {
  KnowService();
  const auto answer = Ask({.target = "/other"});
  EXPECT_EQ(answer.status, 404);
  EXPECT_EQ(*answer.header("Content-Type"), "application/problem+json");
}

TEST_F(GatewayTest, RefusesABodyPastTheLimitAndTakesOneAtIt) {
  Serve(Agent("csd0", Echo()));
  KnowService(ByteCount{100'000});
  EXPECT_EQ(Ask({.method = "POST", .body = std::string(100'000, 'x')}).status, 200);
  const auto known = Ask({.method = "POST", .body = std::string(100'001, 'x')});
  EXPECT_EQ(known.status, 413);
  EXPECT_THAT(known.body, HasSubstr("\"service\":\"orders\""));
  int pieces = 0;
  const auto chunked = Ask({.method = "POST", .body_source = [&]() -> Result<std::string> { return ++pieces <= 2 ? std::string(60'000, 'x') : ""; }});
  EXPECT_EQ(chunked.status, 413);
}

TEST_F(GatewayTest, EndsARequestAtItsDeadlineAndTellsTheAgent) {
  transport::Awaited<bool> cancelled;
  const AgentsLeave leave(*this);
  Serve(Agent("csd0", [&](FakeAgent&, const ChannelPtr&, const Frame& frame) {
    if (frame.as<wire::CancelRequest>()) cancelled.Set(true);
  }));
  KnowService(64_MiB, 50ms);
  const auto answer = Ask({});
  EXPECT_EQ(answer.status, 504);
  EXPECT_THAT(answer.body, HasSubstr("within 50 ms"));
  EXPECT_TRUE(cancelled.Wait());
}

TEST_F(GatewayTest, SaysWhyThereIsNoInstanceAfterWaitingForOne) {
  StartGateway({.start_wait = 30ms});
  KnowService();
  KnowInstance("csd0", "127.0.0.1:1", 1, model::InstanceState::kStarting);
  const auto answer = Ask({});
  EXPECT_EQ(answer.status, 503);
  ASSERT_NE(answer.header("Retry-After"), nullptr);
  EXPECT_THAT(answer.body, HasSubstr("instance i0 is Starting"));
}

TEST_F(GatewayTest, HoldsARequestUntilItsInstanceRuns) {
  KnowService();
  FakeAgent& agent = Agent("csd0", Echo());
  std::string body;
  std::thread client([&] { body = Ask({}).body; });
  while (true) {
    bool waits = false;
    loop_.Run([&] { waits = relay_->open_requests() == 1; });
    if (waits) break;
    std::this_thread::yield();
  }
  KnowInstance("csd0", agent.address());
  client.join();
  EXPECT_EQ(body, "GET /orders/7\n");
}

TEST_F(GatewayTest, RefusesMoreRequestsThanItsLimit) {
  StartGateway({.requests_max = 1});
  transport::Awaited<bool> opened;
  const AgentsLeave leave(*this);
  Serve(Agent("csd0", [&](FakeAgent&, const ChannelPtr&, const Frame& frame) {
    if (frame.as<wire::OpenRequest>()) opened.Set(true);
  }));
  auto first = Client();
  std::thread held([&] { (void)first->Call({.target = "/orders/7"}).ok(); });
  ASSERT_TRUE(opened.Wait());
  const auto answer = Ask({});
  EXPECT_EQ(answer.status, 503);
  EXPECT_NE(answer.header("Retry-After"), nullptr);
  first->Cancel();
  held.join();
}

class HeldBytesTest : public GatewayTest {
 protected:
  std::uint64_t Held() {
    std::uint64_t held = 0;
    loop_.Run([&] { held = relay_->held()->now(); });
    return held;
  }
};

TEST_F(HeldBytesTest, ABodyThatWouldPassTheLimitOfAllRequestsIsRefused) {
  StartGateway({.held_bytes_max = 100_KiB});
  const AgentsLeave leave(*this);
  Serve(Agent("csd0", [&](FakeAgent& agent, const ChannelPtr& channel, const Frame& frame) {
    const auto* open = frame.as<wire::OpenRequest>();  // No byte of a body is ever acknowledged.
    if (open && !open->body_follows()) agent.Answer(channel, *open->request(), "small");
  }));
  const auto refused = Ask({.method = "POST", .body = Pattern(101 << 10)});
  EXPECT_EQ(refused.status, 503);
  EXPECT_NE(refused.header("Retry-After"), nullptr);
  EXPECT_THAT(refused.body, HasSubstr("of 102400 bytes"));
  EXPECT_EQ(Held(), 0u);
  EXPECT_EQ(Ask({}).body, "small");
}

TEST_F(HeldBytesTest, AtTheLimitNewRequestsAreRefusedUntilOneEnds) {
  StartGateway({.held_bytes_max = 100_KiB});
  transport::Awaited<bool> full;
  std::uint64_t received = 0;
  const AgentsLeave leave(*this);
  Serve(Agent("csd0", [&](FakeAgent& agent, const ChannelPtr& channel, const Frame& frame) {
    const auto* open = frame.as<wire::OpenRequest>();
    if (open && !open->body_follows()) agent.Answer(channel, *open->request(), "small");
    if (frame.as<wire::BodyChunk>() && (received += frame.payload().size()) == 100 << 10) full.Set(true);
  }));
  auto first = Client();
  std::thread holds([&] { (void)first->Call({.method = "POST", .target = "/orders/7", .body = Pattern(100 << 10), .timeout = 4min}).ok(); });
  ASSERT_TRUE(full.Wait());  // A body of exactly the limit went through.
  EXPECT_EQ(Held(), 100u << 10);
  const auto refused = Ask({});
  EXPECT_EQ(refused.status, 503);
  EXPECT_NE(refused.header("Retry-After"), nullptr);
  first->Cancel();
  holds.join();
  first.reset();
  while (Held() != 0) std::this_thread::yield();
  EXPECT_EQ(Ask({}).body, "small");
}

TEST_F(HeldBytesTest, AnAcknowledgedBodyIsNotHeld) {
  StartGateway({.held_bytes_max = 256_KiB});
  const AgentsLeave leave(*this);
  Serve(Agent("csd0", [&](FakeAgent& agent, const ChannelPtr& channel, const Frame& frame) {
    const auto* chunk = frame.as<wire::BodyChunk>();
    if (!chunk) return;
    agent.Ack(channel, *chunk->request(), chunk->offset() + frame.payload().size());
    if (chunk->last()) agent.Answer(channel, *chunk->request(), std::to_string(chunk->offset() + frame.payload().size()));
  }));
  EXPECT_EQ(Ask({.method = "POST", .body = Pattern(2 << 20)}).body, std::to_string(2 << 20));
  while (Held() != 0) std::this_thread::yield();
}

TEST_F(HeldBytesTest, AResponseThatCannotBeHeldIsCut) {
  StartGateway({.held_bytes_max = 32_KiB});
  std::size_t bytes = 32 << 10;
  const AgentsLeave leave(*this);
  Serve(Agent("csd0", [&](FakeAgent& agent, const ChannelPtr& channel, const Frame& frame) {
    if (const auto* open = frame.as<wire::OpenRequest>()) agent.Answer(channel, *open->request(), Pattern(bytes));
  }));
  EXPECT_EQ(Ask({}).body, Pattern(bytes));
  bytes += 1;
  EXPECT_FALSE(Client()->Call({.target = "/orders/7", .timeout = 4min}).ok());
  while (Held() != 0) std::this_thread::yield();
}

// The answer's first line to a client that asks for a WebSocket, and what comes after the head.
class UpgradeTest : public GatewayTest {
 protected:
  std::string Upgrade(bool granted) {
    model::ServiceRecord service;
    service.name = service.manifest.name = model::ServiceName("orders");
    service.manifest.http.push_back({"/orders/{key}", 1, granted});
    service.manifest.limits.request_timeout = 1ms;
    service.manifest.limits.body = {1};
    relay_->Update([service](Directory& directory) { directory.Put(service); });
    boost::asio::io_context context;
    boost::asio::ip::tcp::socket socket(context);
    socket.connect({boost::asio::ip::make_address("127.0.0.1"), http_->port()});
    boost::asio::write(socket, boost::asio::buffer(std::string(
        "GET /orders/1 HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: chat\r\n\r\n")));
    std::string answer;
    boost::system::error_code error;
    boost::asio::read_until(socket, boost::asio::dynamic_buffer(answer), "\r\n\r\n", error);
    if (answer.starts_with("HTTP/1.1 101")) {
      // "ab" as one masked text frame, and what comes back of it.
      boost::asio::write(socket, boost::asio::buffer("\x81\x82\0\0\0\0ab", 8));
      while (answer.find("\x81\x02" "ab") == std::string::npos && !error) boost::asio::read(socket, boost::asio::dynamic_buffer(answer), boost::asio::transfer_at_least(1), error);
    }
    return answer;
  }
  // An agent that answers with 101 and gives each piece back; tells of the request's headers.
  FakeAgent::Script Echo() {
    return [this](FakeAgent& agent, const ChannelPtr& channel, const Frame& frame) {
      if (const auto* open = frame.as<wire::OpenRequest>()) {
        for (const auto* header : *open->headers()) headers_ += header->name()->str() + ": " + header->value()->str() + "\n";
        deadline_ms_ = open->deadline_ms();
        agent.Head(channel, *open->request(), 101);
      }
      if (const auto* chunk = frame.as<wire::BodyChunk>()) agent.Chunk(channel, *chunk->request(), chunk->offset(), AsText(frame.payload()), false);
    };
  }
  std::string headers_;
  std::uint32_t deadline_ms_ = 0;
};

TEST_F(UpgradeTest, AWebSocketIsOneRequestWhoseBodiesAreItsMessages) {
  Serve(Agent("csd0", Echo()));
  const std::string answer = Upgrade(true);
  EXPECT_TRUE(answer.starts_with("HTTP/1.1 101 ")) << answer;
  EXPECT_NE(answer.find("\x81\x02" "ab"), std::string::npos);
  EXPECT_NE(headers_.find("Upgrade: websocket\n"), std::string::npos);
  EXPECT_NE(headers_.find("Sec-WebSocket-Protocol: chat\n"), std::string::npos);
  EXPECT_EQ(headers_.find("Sec-WebSocket-Key"), std::string::npos) << "the handshake is the gateway's";
  EXPECT_GT(deadline_ms_, 60'000u) << "a request's time is no limit for it";
}

TEST_F(UpgradeTest, WithoutAGrantItIsARequestAsAnyOther) {
  const AgentsLeave leave(*this);
  Serve(Agent("csd0", [&](FakeAgent& agent, const ChannelPtr& channel, const Frame& frame) {
    const auto* open = frame.as<wire::OpenRequest>();
    if (!open) return;
    EXPECT_FALSE(open->body_follows());
    for (const auto* header : *open->headers()) EXPECT_NE(header->name()->str(), "Upgrade");
    agent.Head(channel, *open->request(), 101);  // Which it has no right to.
  }));
  EXPECT_TRUE(Upgrade(false).starts_with("HTTP/1.1 50")) << "or 504, if that was sooner";
}

TEST_F(GatewayTest, TellsTheAgentWhenTheClientGoes) {
  transport::Awaited<bool> opened, cancelled;
  const AgentsLeave leave(*this);
  Serve(Agent("csd0", [&](FakeAgent&, const ChannelPtr&, const Frame& frame) {
    if (frame.as<wire::OpenRequest>()) opened.Set(true);
    if (frame.as<wire::CancelRequest>()) cancelled.Set(true);
  }));
  auto client = Client();
  std::thread call([&] { (void)client->Call({.target = "/orders/7"}).ok(); });
  ASSERT_TRUE(opened.Wait());
  client->Cancel();
  call.join();
  client.reset();
  EXPECT_TRUE(cancelled.Wait());
}

TEST_F(GatewayTest, PassesAnAgentsProblemOn) {
  Serve(Agent("csd0", [](FakeAgent& agent, const ChannelPtr& channel, const Frame& frame) {
    const auto* open = frame.as<wire::OpenRequest>();
    if (open) agent.Fail(channel, *open->request(), 500, ErrorCode::kInternal, true, R"({"status":500,"detail":"trap: unreachable in f"})");
  }));
  const auto answer = Ask({});
  EXPECT_EQ(answer.status, 500);
  EXPECT_THAT(answer.body, HasSubstr("trap: unreachable in f"));
}

TEST_F(GatewayTest, TriesAgainWhereTheInstanceIsNotYet) {
  int opened = 0;
  const AgentsLeave leave(*this);
  Serve(Agent("csd0", [&](FakeAgent& agent, const ChannelPtr& channel, const Frame& frame) {
    const auto* open = frame.as<wire::OpenRequest>();
    if (!open) return;
    if (++opened < 3) return agent.Fail(channel, *open->request(), 503, ErrorCode::kNotFound, false);
    agent.Answer(channel, *open->request(), "at last");
  }));
  EXPECT_EQ(Ask({}).body, "at last");
}

TEST_F(GatewayTest, AttachesAgainWhenOnlyTheChannelWasLost) {
  const AgentsLeave leave(*this);
  Serve(Agent("csd0", [&](FakeAgent& agent, const ChannelPtr& channel, const Frame& frame) {
    if (const auto* open = frame.as<wire::OpenRequest>()) {
      agent.Head(channel, *open->request());
      agent.Chunk(channel, *open->request(), 0, "first ", false);
      agent.CutChannels();
    }
    if (const auto* attach = frame.as<wire::AttachRequest>()) {
      EXPECT_EQ(attach->response_offset(), 6u);
      agent.Ack(channel, *attach->request(), 0);
      agent.Chunk(channel, *attach->request(), 6, "second", true);
    }
  }));
  EXPECT_EQ(Ask({.method = "POST"}).body, "first second");
}

TEST_F(GatewayTest, DoesNotRepeatAnUnsafeRequestWhoseAgentDied) {
  StartGateway({.recover_wait = 100ms});
  int opened = 0;
  const AgentsLeave leave(*this);
  Serve(Agent("csd0", [&](FakeAgent& agent, const ChannelPtr&, const Frame& frame) {
    if (!frame.as<wire::OpenRequest>()) return;
    ++opened;
    agent.Stop();
  }));
  const auto answer = Ask({.method = "POST"});
  EXPECT_EQ(answer.status, 502);
  EXPECT_NE(answer.header("Retry-After"), nullptr);
  EXPECT_EQ(opened, 1);
}

TEST_F(GatewayTest, RepeatsASafeRequestWhereItsInstanceWasRestored) {
  FakeAgent& restored = Agent("csd1", [](FakeAgent& agent, const ChannelPtr& channel, const Frame& frame) {
    if (const auto* attach = frame.as<wire::AttachRequest>()) agent.Fail(channel, *attach->request(), 404, ErrorCode::kNotFound, false);
    if (const auto* open = frame.as<wire::OpenRequest>()) agent.Answer(channel, *open->request(), "restored");
  });
  const AgentsLeave leave(*this);
  Serve(Agent("host0", [&](FakeAgent& agent, const ChannelPtr&, const Frame& frame) {
    if (!frame.as<wire::OpenRequest>()) return;
    agent.Stop();
    KnowInstance("csd1", restored.address(), 2);
  }));
  EXPECT_EQ(Ask({}).body, "restored");
}

TEST_F(GatewayTest, AnAgentThatBreaksTheProtocolCostsOnlyItsRequest) {
  using Act = std::function<void(FakeAgent&, const ChannelPtr&, const wire::RequestId&)>;
  const struct {
    const char* what;
    Act act;
  } cases[] = {
      {"a response before its head", [](auto& a, auto& c, auto& id) { a.Chunk(c, id, 0, "x", true); }},
      {"status 0", [](auto& a, auto& c, auto& id) { a.Head(c, id, 0); }},
      {"status 999", [](auto& a, auto& c, auto& id) { a.Head(c, id, 999); }},
      {"an acknowledgement of what was not sent", [](auto& a, auto& c, auto& id) { a.Ack(c, id, 1'000'000); }},
      {"a move with a body that was not sent", [](auto& a, auto& c, auto& id) { a.MoveTo(c, id, a, 2, 1'000'000, true); }},
  };
  Act act;
  const AgentsLeave leave(*this);
  Serve(Agent("csd0", [&](FakeAgent& agent, const ChannelPtr& channel, const Frame& frame) {
    if (const auto* open = frame.as<wire::OpenRequest>()) act(agent, channel, *open->request());
  }));
  for (const auto& c : cases) {
    act = c.act;
    EXPECT_EQ(Ask({.method = "POST"}).status, 502) << c.what;
  }
  act = [](auto& a, auto& c, auto& id) { a.Answer(c, id, "fine"); };
  EXPECT_EQ(Ask({}).body, "fine");
}

TEST_F(GatewayTest, CutsAResponseThatCannotBeFinished) {
  const AgentsLeave leave(*this);
  Serve(Agent("csd0", [&](FakeAgent& agent, const ChannelPtr& channel, const Frame& frame) {
    const auto* open = frame.as<wire::OpenRequest>();
    if (!open) return;
    agent.Head(channel, *open->request());
    agent.Chunk(channel, *open->request(), 0, "begun", false);
    agent.Chunk(channel, *open->request(), 1'000'000, "skipped", true);
  }));
  const auto answer = Client()->Call({.target = "/orders/7"});
  ASSERT_FALSE(answer.ok());
  EXPECT_EQ(answer.error().code, ErrorCode::kUnavailable);
}

}  // namespace
}  // namespace godwit::gateway
