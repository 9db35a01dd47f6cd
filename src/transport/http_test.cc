#include <gtest/gtest.h>

#include <atomic>
#include <future>
#include <thread>

#include <boost/asio/connect.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/read.hpp>
#include <boost/asio/read_until.hpp>
#include <boost/asio/write.hpp>

#include "transport/http_client.h"
#include "transport/http_server.h"
#include "transport/transport_fixture.h"

namespace godwit::transport {
namespace {

using namespace std::chrono_literals;
using ExchangePtr = std::shared_ptr<HttpExchange>;

constexpr const char* kToken = "a token of the cluster";

// All of it, plain and inside TLS; bytes as they are always plain, which a server with a token takes too.
class HttpTest : public ::testing::TestWithParam<bool> {
 protected:
  void Serve(HttpServer::Handler handler, HttpServer::Options options = {}) {
    if (GetParam()) options.token = kToken;
    auto server = HttpServer::Listen(loop_, options, std::move(handler));
    ASSERT_TRUE(server.ok()) << server.error().message;
    server_ = *std::move(server);
  }
  std::unique_ptr<HttpClient> Client(HttpClient::Options options = {}) {
    if (GetParam()) options.token = kToken;
    return HttpClient::Create("http://" + server_->address(), std::move(options)).value();
  }
  // Sends bytes as they are and returns all that comes until the server closes.
  std::string Raw(const std::string& bytes) {
    boost::asio::io_context context;
    boost::asio::ip::tcp::socket socket(context);
    socket.connect({boost::asio::ip::make_address("127.0.0.1"), server_->port()});
    boost::system::error_code error;
    boost::asio::write(socket, boost::asio::buffer(bytes), error);
    std::string answer;
    boost::asio::read(socket, boost::asio::dynamic_buffer(answer), error);
    return answer;
  }
  void TearDown() override { server_.reset(); }

  EventLoop loop_{"http-test"};
  std::unique_ptr<HttpServer> server_;
};

HttpServer::Handler Echo() {
  return [](const ExchangePtr& exchange) {
    exchange->ReadAll(1_MiB, [exchange](Result<std::string> body) {
      if (body.ok()) exchange->Respond(200, {{"X-Method", exchange->request().method}}, *body);
    });
  };
}

TEST_P(HttpTest, AnswersSeveralCallsOnOneConnection) {
  std::string peer;
  std::atomic<int> peers = 0;
  Serve([&](const ExchangePtr& exchange) {
    if (exchange->request().peer != peer) ++peers;
    peer = exchange->request().peer;
    Echo()(exchange);
  });
  auto client = Client();
  for (int i = 0; i < 5; ++i) {
    const auto answer = client->Call({.method = "POST", .body = "hello"});
    ASSERT_TRUE(answer.ok()) << answer.error().message;
    EXPECT_EQ(answer->status, 200);
    EXPECT_EQ(answer->body, "hello");
    EXPECT_EQ(*answer->header("x-method"), "POST");
  }
  EXPECT_EQ(peers, 1);
}

TEST_P(HttpTest, AnswersPipelinedRequestsInOrder) {
  Serve([](const ExchangePtr& exchange) { exchange->Respond(200, {}, std::string(exchange->request().path())); });
  const std::string answer = Raw("GET /first HTTP/1.1\r\nHost: x\r\n\r\nGET /second HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
  EXPECT_LT(answer.find("/first"), answer.find("/second"));
  EXPECT_NE(answer.find("/second"), std::string::npos);
}

TEST_P(HttpTest, TakesABodyAtTheLimitAndRefusesOnePastIt) {
  Serve(Echo());
  EXPECT_EQ(Client()->Call({.method = "POST", .body = std::string(1 << 20, 'x')})->status, 200);
  EXPECT_EQ(Client()->Call({.method = "POST", .body = std::string((1 << 20) + 1, 'x')})->status, 413);
  int pieces = 0;
  const auto chunked = Client()->Call({.method = "POST", .body_source = [&]() -> Result<std::string> { return ++pieces <= 3 ? std::string(400'000, 'x') : ""; }});
  EXPECT_EQ(chunked->status, 413);
}

TEST_P(HttpTest, RefusesWhatIsNotHttp) {
  Serve(Echo());
  const struct {
    const char* what;
    std::string bytes;
    const char* status;
  } cases[] = {
      {"garbage", "\x16\x03\x01 not http\r\n\r\n", "400"},
      {"no path", "GET nothing HTTP/1.1\r\n\r\n", "400"},
      {"a header without colon", "GET / HTTP/1.1\r\nnonsense\r\n\r\n", "400"},
      {"two lengths", "POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab", "400"},
      {"length and chunks", "POST / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "400"},
      {"a bad chunk", "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "400"},
      {"a head past its limit", "GET / HTTP/1.1\r\nX: " + std::string(70'000, 'x') + "\r\n\r\n", "431"},
  };
  for (const auto& c : cases) {
    if (GetParam() && c.bytes[0] == 22) continue;  // That is TLS then.
    EXPECT_EQ(Raw(c.bytes).substr(0, 12), std::string("HTTP/1.1 ") + c.status) << c.what;
  }
}

TEST_P(HttpTest, StreamsAResponseInPieces) {
  Serve([](const ExchangePtr& exchange) {
    exchange->Begin(200, {{"Content-Type", "text/plain"}});
    struct Pump : std::enable_shared_from_this<Pump> {
      ExchangePtr exchange;
      int left = 500;
      void Next() {
        if (left-- == 0) return exchange->Finish();
        exchange->Write(std::string(10'000, 'y'), [self = shared_from_this()](const Status& written) {
          if (written.ok()) self->Next();
        });
      }
    };
    const auto pump = std::make_shared<Pump>();
    pump->exchange = exchange;
    pump->Next();
  });
  std::size_t received = 0;
  const auto answer = Client()->Stream({}, [&](std::string_view bytes) {
    received += bytes.size();
    return true;
  });
  ASSERT_TRUE(answer.ok()) << answer.error().message;
  EXPECT_EQ(received, 5'000'000u);
}

TEST_P(HttpTest, AHeadRequestGetsNoBody) {
  Serve([](const ExchangePtr& exchange) { exchange->Respond(200, {}, "12345"); });
  const std::string answer = Raw("HEAD / HTTP/1.1\r\nConnection: close\r\n\r\n");
  EXPECT_NE(answer.find("Content-Length: 5"), std::string::npos);
  EXPECT_TRUE(answer.ends_with("\r\n\r\n"));
}

TEST_P(HttpTest, InvitesABodyThatWaitsForIt) {
  Serve(Echo());
  const std::string answer = Raw("POST / HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 2\r\nConnection: close\r\n\r\nhi");
  EXPECT_TRUE(answer.starts_with("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200"));
}

TEST_P(HttpTest, TellsTheHandlerThatTheClientIsGone) {
  Awaited<bool> gone;
  Awaited<ExchangePtr> kept;
  Serve([&](const ExchangePtr& exchange) {
    exchange->OnDisconnect([&] { gone.Set(true); });
    kept.Set(exchange);
  });
  auto client = Client();
  std::thread call([&] { EXPECT_EQ(client->Call({}).error().code, ErrorCode::kAborted); });
  ASSERT_TRUE(kept.Wait());
  client->Cancel();
  call.join();
  EXPECT_TRUE(gone.Wait());
  Awaited<Status> written;
  (*kept.Wait())->Read([&](Result<std::string> piece) { written.Set(piece.ok() ? Status() : Status(piece.error())); });
  EXPECT_EQ(written.Wait()->error().code, ErrorCode::kUnavailable);
}

TEST_P(HttpTest, AnswersForAHandlerThatForgot) {
  Serve([](const ExchangePtr&) {});
  EXPECT_EQ(Client()->Call({})->status, 500);
}

TEST_P(HttpTest, AnswersFromOtherThreads) {
  std::vector<std::thread> threads;
  Serve([&](const ExchangePtr& exchange) { threads.emplace_back([exchange] { exchange->Respond(202, {}, "later"); }); });
  auto client = Client();
  for (int i = 0; i < 20; ++i) EXPECT_EQ(client->Call({})->body, "later");
  for (auto& thread : threads) thread.join();
}

TEST_P(HttpTest, RefusesNothingUnderWayWhenDraining) {
  Awaited<ExchangePtr> held;
  Serve([&](const ExchangePtr& exchange) { held.Set(exchange); });
  auto client = Client();
  Awaited<int> status;
  std::thread call([&] { status.Set(client->Call({})->status); });
  const ExchangePtr exchange = *held.Wait();
  server_->Drain();
  EXPECT_EQ(Client()->Call({}).error().code, ErrorCode::kUnavailable);
  exchange->Respond(200, {}, "");
  EXPECT_EQ(*status.Wait(), 200);
  call.join();
}

TEST_P(HttpTest, AConnectionMayRestBetweenRequestsForLongerThanAHeadMayTake) {
  Serve(Echo(), {.head_timeout = 1ms, .idle_timeout = 1h});
  boost::asio::io_context context;
  boost::asio::ip::tcp::socket resting(context);
  resting.connect({boost::asio::ip::make_address("127.0.0.1"), server_->port()});
  const auto ask = [&] {
    boost::system::error_code error;
    boost::asio::write(resting, boost::asio::buffer(std::string("GET / HTTP/1.1\r\nHost: x\r\n\r\n")), error);
    std::string answer;
    boost::asio::read_until(resting, boost::asio::dynamic_buffer(answer), "\r\n\r\n", error);
    return answer.substr(0, 12);
  };
  ASSERT_EQ(ask(), "HTTP/1.1 200");
  EXPECT_EQ(Raw(""), "");                       // Returns when the server has closed a connection that never asked,
  EXPECT_EQ(Raw("GET / HTTP/1.1\r\nHo"), "");   // and one that did not come to an end.
  EXPECT_EQ(ask(), "HTTP/1.1 200");
}

TEST_P(HttpTest, ARestingConnectionMakesRoomForANewOneAtTheLimit) {
  std::promise<ExchangePtr> held;
  Serve([&](const ExchangePtr& exchange) {
    if (exchange->request().path() == "/hold") held.set_value(exchange);
    else Echo()(exchange);
  }, {.connections_max = 1});
  auto first = Client(), second = Client();
  ASSERT_TRUE(first->Call({}).ok());
  ASSERT_TRUE(second->Call({}).ok());
  std::thread holds([&] { EXPECT_TRUE(second->Call({.target = "/hold"}).ok()); });
  const ExchangePtr under_way = held.get_future().get();
  EXPECT_EQ(Raw("GET / HTTP/1.1\r\nHost: x\r\n\r\n"), "");  // The one there is is not resting.
  under_way->Respond(200, {}, "");
  holds.join();
}

TEST_P(HttpTest, NamesAnAddressThatIsTaken) {
  Serve(Echo());
  HttpServer::Options options;
  options.port = server_->port();
  EXPECT_EQ(HttpServer::Listen(loop_, options, Echo()).error().code, ErrorCode::kUnavailable);
  options.address = "somewhere";
  EXPECT_EQ(HttpServer::Listen(loop_, options, Echo()).error().code, ErrorCode::kInvalidArgument);
}

TEST_P(HttpTest, HeadersCannotSmuggleLines) {
  Serve([](const ExchangePtr& exchange) { exchange->Respond(200, {{"X-Bad", "a\r\nX-Smuggled: 1"}, {"X-Good", "b"}}, ""); });
  const auto answer = Client()->Call({});
  EXPECT_EQ(answer->header("X-Smuggled"), nullptr);
  EXPECT_NE(answer->header("X-Good"), nullptr);
  EXPECT_EQ(Client()->Call({.headers = {{"X", "a\nb"}}}).error().code, ErrorCode::kInvalidArgument);
}

// --- The client

TEST_P(HttpTest, TheClientGivesUpOnAServerThatSaysNothing) {
  Awaited<ExchangePtr> held;
  Serve([&](const ExchangePtr& exchange) { held.Set(exchange); });
  EXPECT_EQ(Client()->Call({.timeout = 30ms}).error().code, ErrorCode::kDeadlineExceeded);
}

TEST_P(HttpTest, TheClientReadsServerSentEvents) {
  Serve([](const ExchangePtr& exchange) {
    exchange->Begin(200, {{"Content-Type", "text/event-stream"}});
    exchange->Write("event: put\nid: 1\ndata: {\"a\":1}\n\n");
    exchange->Write("data: second\n\n");
    exchange->Finish();
  });
  std::vector<ServerEvent> events;
  ASSERT_TRUE(Client()->Watch({}, [&](const ServerEvent& event) { events.push_back(event); return true; }).ok());
  ASSERT_EQ(events.size(), 2u);
  EXPECT_EQ(events[0].event, "put");
  EXPECT_EQ(events[0].id, "1");
  EXPECT_EQ(events[0].data, "{\"a\":1}");
  EXPECT_EQ(events[1].event, "message");
  EXPECT_EQ(events[1].id, "1");  // The last id stays in force.
}

TEST(HttpClientTest, NamesAServerThatIsNotThere) {
  EXPECT_EQ(HttpClient::Create("http://127.0.0.1:1", {}).value()->Call({}).error().code, ErrorCode::kUnavailable);
  EXPECT_EQ(HttpClient::Create("ftp://x", {}).error().code, ErrorCode::kInvalidArgument);
}

TEST(ParseUrlTest, TakesUrlsApart) {
  const auto url = ParseUrl("http://host:8080/a?b=c");
  ASSERT_TRUE(url.ok());
  EXPECT_EQ(url->host, "host");
  EXPECT_EQ(url->port, 8080);
  EXPECT_EQ(url->target, "/a?b=c");
  EXPECT_EQ(ParseUrl("http://[::1]:9")->host, "::1");
  EXPECT_EQ(ParseUrl("http://h")->port, 80);
  EXPECT_EQ(ParseUrl("http://h?q")->target, "/?q");
  const auto secure = ParseUrl("https://h/x");
  EXPECT_TRUE(secure->secure);
  EXPECT_EQ(secure->port, 443);
  EXPECT_FALSE(url->secure);
  EXPECT_EQ(ParseUrl("https://h:8443")->port, 8443);
  EXPECT_TRUE(ParseUrl("https://" + std::string(253, 'h')).ok());
  EXPECT_FALSE(ParseUrl("https://" + std::string(254, 'h')).ok());
  for (const char* bad : {"", "ftp://h", "httpss://h", "https://", "http://", "http://h:", "http://h:0", "http://h:99999", "http://h:x", "http://[::1", "http://u@h", "http://h/a b"}) {
    EXPECT_FALSE(ParseUrl(bad).ok()) << bad;
  }
}

TEST(PercentTest, DecodesWhatItEncodes) {
  const std::string all = "a/b c%\xff~-_.";
  EXPECT_EQ(PercentDecode(PercentEncode(all)).value(), all);
  for (const char* bad : {"%", "%1", "%zz", "a%2"}) EXPECT_FALSE(PercentDecode(bad).ok()) << bad;
}

TEST(ServerEventParserTest, FindsEventsHoweverTheStreamIsCut) {
  // From the HTML Living Standard, 9.2.6: comments, empty data, the optional space, CR LF and CR line ends.
  const std::string stream = ": comment\r\n\r\ndata: first\r\ndata:  second\rid\r\revent: e\ndata\n\ndata: lost";
  for (std::size_t piece = 1; piece <= stream.size(); ++piece) {
    ServerEventParser parser;
    std::vector<ServerEvent> events;
    for (std::size_t at = 0; at < stream.size(); at += piece) {
      ASSERT_TRUE(parser.Feed(std::string_view(stream).substr(at, piece), [&](ServerEvent event) { events.push_back(std::move(event)); }).ok());
    }
    ASSERT_EQ(events.size(), 2u) << piece;
    EXPECT_EQ(events[0].data, "first\n second");
    EXPECT_EQ(events[1].event, "e");
    EXPECT_EQ(events[1].data, "");
  }
}

TEST(ProblemJsonTest, EscapesWhatItIsGiven) {
  EXPECT_EQ(ProblemJson(503, "a \"quote\"", {{"service", "x"}}),
            R"({"type":"about:blank","title":"Service Unavailable","status":503,"detail":"a \"quote\"","service":"x"})");
}

INSTANTIATE_TEST_SUITE_P(Ways, HttpTest, ::testing::Bool(), [](const auto& way) { return way.param ? "Tls" : "Plain"; });

class HttpTokenTest : public ::testing::Test {
 protected:
  Result<HttpAnswer> Ask(const std::string& server_token, const std::string& client_token) {
    EventLoop loop{"http-test"};
    const auto server = HttpServer::Listen(loop, {.token = server_token}, Echo()).value();
    return HttpClient::Create("http://" + server->address(), {.token = client_token}).value()->Call({.method = "POST", .body = "hello"});
  }
};

TEST_F(HttpTokenTest, WhoHoldsNoTokenTalksPlainAndWhoHoldsAnotherIsRefused) {
  EXPECT_EQ(Ask("one", "one")->body, "hello");
  EXPECT_EQ(Ask("one", "")->body, "hello");
  for (const auto& [server, client] : {std::pair("one", "another"), std::pair("", "one")}) {
    const auto answer = Ask(server, client);
    ASSERT_FALSE(answer.ok());
    EXPECT_EQ(answer.error().code, ErrorCode::kPermissionDenied);
    EXPECT_NE(answer.error().message.find("does not hold the same"), std::string::npos) << answer.error().message;
  }
}

TEST_F(HttpTokenTest, TheTokenIsNotOnTheWire) {
  boost::asio::io_context context;
  boost::asio::ip::tcp::acceptor acceptor(context, {boost::asio::ip::make_address("127.0.0.1"), 0});
  const std::string url = "http://127.0.0.1:" + std::to_string(acceptor.local_endpoint().port());
  auto call = std::async(std::launch::async, [&] { return HttpClient::Create(url, {.token = kToken}).value()->Call({.target = "/v1/devices"}); });
  auto socket = acceptor.accept();
  std::string sent(4096, 0);
  sent.resize(socket.read_some(boost::asio::buffer(sent)));
  EXPECT_EQ(sent[0], 22) << "a TLS record";
  EXPECT_EQ(sent.find(kToken), std::string::npos);
  EXPECT_EQ(sent.find("v1"), std::string::npos);
  boost::asio::write(socket, boost::asio::buffer(std::string("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")));  // Who says so is not asked again in plain.
  EXPECT_EQ(call.get().error().code, ErrorCode::kPermissionDenied);
}

}  // namespace
}  // namespace godwit::transport
