#include "transport/web_socket.h"

#include <gtest/gtest.h>

#include <future>
#include <optional>

#include <boost/asio/connect.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/websocket.hpp>

#include "transport/http_server.h"
#include "transport/transport_fixture.h"

namespace godwit::transport {
namespace {

using namespace std::chrono_literals;
using namespace std::string_literals;
namespace asio = boost::asio;
namespace websocket = boost::beast::websocket;
using ExchangePtr = std::shared_ptr<HttpExchange>;

// A piece as web_socket.h has it.
std::string Piece(int kind, std::string_view bytes) {
  std::string piece(1, static_cast<char>(kind));
  for (int shift = 0; shift < 32; shift += 8) piece += static_cast<char>(bytes.size() >> shift & 0xff);
  return piece.append(bytes);
}
std::string Text(std::string_view bytes) { return Piece(0x81, bytes); }

class WebSocketTest : public ::testing::Test {
 protected:
  WebSocketTest() {
    server_ = HttpServer::Listen(loop_, {.connections_max = 8}, [this](const ExchangePtr& exchange) { handler_(exchange); }).value();
  }
  ~WebSocketTest() override { server_.reset(); }

  // Any thread's end of the connection; not upgraded yet.
  void Connect() {
    client_.emplace(context_);
    client_->next_layer().connect({asio::ip::make_address("127.0.0.1"), server_->port()});
  }
  void Upgrade() {
    Connect();
    client_->handshake("test", "/");
  }
  std::string Receive() {
    boost::beast::flat_buffer buffer;
    boost::system::error_code error;
    client_->read(buffer, error);
    return error ? "error: " + error.message() : std::string(static_cast<const char*>(buffer.data().data()), buffer.size());
  }
  // What the client reads until it is closed, and with which code.
  int Closed() {
    for (std::string got = Receive(); !got.starts_with("error: "); got = Receive()) {}
    return client_->reason().code;
  }

  EventLoop loop_{"web-socket-test"};
  std::unique_ptr<HttpServer> server_;
  std::function<void(const ExchangePtr&)> handler_;
  asio::io_context context_;
  std::optional<websocket::stream<asio::ip::tcp::socket>> client_;
};

// Writes back what it reads; counts the reads' bytes in `*seen` and finishes at the end.
void Echo(const ExchangePtr& exchange, const std::shared_ptr<std::string>& seen) {
  exchange->Read([exchange, seen](Result<std::string> got) {
    if (!got.ok()) return;
    if (got->empty()) return exchange->Finish();
    *seen += *got;
    exchange->Write(*got, [exchange, seen](const Status& written) {
      if (written.ok()) Echo(exchange, seen);
    });
  });
}

TEST_F(WebSocketTest, MessagesGoBothWaysAsPieces) {
  const auto seen = std::make_shared<std::string>();
  handler_ = [&](const ExchangePtr& exchange) {
    ASSERT_TRUE(exchange->request().web_socket);
    Echo(exchange, seen);  // Reads before the head was sent.
    exchange->Begin(101, {{"Sec-WebSocket-Protocol", "chat"}, {"bad\r\nname", "x"}});
  };
  Connect();
  websocket::response_type response;
  client_->handshake(response, "test", "/");
  EXPECT_EQ(response["Sec-WebSocket-Protocol"], "chat");
  client_->text(true);
  client_->write(asio::buffer("hello"s));
  EXPECT_EQ(Receive(), "hello");
  EXPECT_TRUE(client_->got_text());
  client_->binary(true);
  client_->write(asio::buffer(""s));
  EXPECT_EQ(Receive(), "");
  EXPECT_TRUE(client_->got_binary());
  const std::string large(1'000'000, 'x');
  client_->write(asio::buffer(large));
  EXPECT_TRUE(Receive() == large);
  client_->close(websocket::close_code::normal);
  loop_.Run([&] {
    EXPECT_TRUE(seen->starts_with(Text("hello") + Piece(0x82, "")));
    const std::string first = seen->substr((Text("hello") + Piece(0x82, "")).size());
    EXPECT_EQ(first[0], 2) << "the first piece of several";
  });
}

TEST_F(WebSocketTest, PiecesMayBeWrittenCutAnywhere) {
  handler_ = [](const ExchangePtr& exchange) {
    exchange->Begin(101, {});
    const std::string stream = Text("one") + Piece(0x01, "tw") + Piece(0x00, "") + Piece(0x80, "o") + Piece(0x82, "");
    for (const char byte : stream) exchange->Write(std::string(1, byte));
    exchange->Write(Text("three") + Text("four"));
    exchange->Finish();
  };
  Upgrade();
  for (const char* expected : {"one", "two", "", "three", "four"}) EXPECT_EQ(Receive(), expected);
  EXPECT_EQ(Closed(), 1000);
}

TEST_F(WebSocketTest, WhatIsNoPieceClosesIt) {
  for (const std::string& wrong : {Piece(0x80, "goes on from nothing"), Piece(0x83, "no such kind"), Text("right") + Piece(0x01, "a") + Text("new"), Piece(0xC1, "reserved bit")}) {
    Result<std::string> read = std::string();
    Status written;
    handler_ = [&](const ExchangePtr& exchange) {
      exchange->Begin(101, {});
      exchange->Write(wrong, [&, exchange](const Status& status) { written = status; });
    };
    Upgrade();
    EXPECT_EQ(Closed(), 1011);
    loop_.Run([&] { EXPECT_EQ(written.error().code, ErrorCode::kInvalidArgument); });
  }
}

TEST_F(WebSocketTest, AnotherAnswerEndsTheRequestAsUsual) {
  std::promise<ErrorCode> read;
  handler_ = [&](const ExchangePtr& exchange) {
    exchange->Read([&](const Result<std::string>& got) { read.set_value(got.error().code); });
    exchange->Respond(404, {}, "not here");
  };
  Connect();
  websocket::response_type response;
  boost::system::error_code error;
  client_->handshake(response, "test", "/", error);
  EXPECT_EQ(response.result_int(), 404u);
  EXPECT_EQ(read.get_future().get(), ErrorCode::kFailedPrecondition) << "what waited for messages does not wait for ever";
}

TEST_F(WebSocketTest, TheHandlerLearnsThatTheClientWent) {
  std::promise<void> gone;
  std::promise<ErrorCode> read;
  handler_ = [&](const ExchangePtr& exchange) {
    exchange->OnDisconnect([&] { gone.set_value(); });
    exchange->Begin(101, {});
    exchange->Read([&, exchange](const Result<std::string>& got) { read.set_value(got.error().code); });
  };
  Upgrade();
  client_->next_layer().close();
  EXPECT_EQ(read.get_future().get(), ErrorCode::kUnavailable);
  gone.get_future().get();
}

TEST_F(WebSocketTest, WritingToAClientThatClosedEndsIt) {
  std::promise<void> gone;
  std::promise<Status> written;
  handler_ = [&](const ExchangePtr& exchange) {
    exchange->OnDisconnect([&] { gone.set_value(); });
    exchange->Begin(101, {});
    exchange->Read([&, exchange](const Result<std::string>& got) {
      EXPECT_TRUE(got.ok() && got->empty());
      exchange->Write(Text("too late"), [&](const Status& status) { written.set_value(status); });
    });
  };
  Upgrade();
  client_->close(websocket::close_code::normal);
  EXPECT_EQ(written.get_future().get().error().code, ErrorCode::kUnavailable);
  gone.get_future().get();
}

TEST_F(WebSocketTest, SomeConnectionsAreLeftToOthers) {
  std::vector<ExchangePtr> kept;
  handler_ = [&](const ExchangePtr& exchange) {
    exchange->Begin(101, {});
    kept.push_back(exchange);
  };
  std::vector<std::unique_ptr<websocket::stream<asio::ip::tcp::socket>>> clients;
  websocket::response_type response;
  boost::system::error_code error;
  while (!error && clients.size() < 8) {
    clients.push_back(std::make_unique<websocket::stream<asio::ip::tcp::socket>>(context_));
    clients.back()->next_layer().connect({asio::ip::make_address("127.0.0.1"), server_->port()});
    clients.back()->handshake(response, "test", "/", error);
  }
  EXPECT_EQ(clients.size(), 7u);
  EXPECT_EQ(response.result_int(), 503u);
  clients[0]->close(websocket::close_code::normal);
  loop_.Run([&] { kept[0]->Finish(); });
  for (int i = 0; i < 1000 && response.result_int() != 101; ++i) {  // Until the server has seen that one is over.
    clients.back() = std::make_unique<websocket::stream<asio::ip::tcp::socket>>(context_);
    clients.back()->next_layer().connect({asio::ip::make_address("127.0.0.1"), server_->port()});
    clients.back()->handshake(response, "test", "/", error);
  }
  EXPECT_EQ(response.result_int(), 101u);
  loop_.Run([&] { kept.clear(); });
}

TEST_F(WebSocketTest, TheServerClosesThemWhenItDrainsAndWhenTheHandlerGivesUp) {
  ExchangePtr kept;
  handler_ = [&](const ExchangePtr& exchange) {
    exchange->Begin(101, {});
    kept = exchange;
  };
  Upgrade();
  loop_.Run([&] { kept->Abort(); });
  EXPECT_EQ(Closed(), 1011);
  Upgrade();
  server_->Drain();
  EXPECT_EQ(Closed(), 1001);
  loop_.Run([&] { kept.reset(); });
}

}  // namespace
}  // namespace godwit::transport
