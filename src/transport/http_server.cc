#include "transport/http_server.h"

#include <sys/socket.h>

#include <atomic>
#include <deque>
#include <unordered_set>

#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/write.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/http/buffer_body.hpp>
#include <boost/beast/http/parser.hpp>
#include <boost/beast/http/read.hpp>
#include <boost/beast/websocket/rfc6455.hpp>
#include <fmt/format.h>

#include "transport/http_client.h"
#include "transport/tls_stream.h"
#include "transport/web_socket.h"

namespace godwit::transport {

namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = boost::beast::http;
using asio::ip::tcp;
using boost::system::error_code;
using Clock = std::chrono::steady_clock;

constexpr char kTlsHandshake = 22;
constexpr std::size_t kReadPiece = 64 << 10;
constexpr std::size_t kWriteQueueMax = 1 << 20;
constexpr std::size_t kGatherMax = 16;
constexpr std::chrono::seconds kLinger{3};  // For the client to read an answer that came before its body was read.

Error ClientGone() { return Unavailable("the HTTP client closed the connection"); }
Error Answered() { return FailedPrecondition("the response of this exchange has ended"); }

class Connection;

struct ServerState {
  ServerState(EventLoop& l, HttpServer::Options o, HttpServer::Handler h)
      : loop(l), options(std::move(o)), handler(std::move(h)), acceptor(l.context()) {}
  EventLoop& loop;
  HttpServer::Options options;
  HttpServer::Handler handler;
  tcp::acceptor acceptor;
  Timer sweep, retry;
  bool draining = false;
  std::size_t web_sockets = 0;  // Of the connections.
  std::unordered_set<std::shared_ptr<Connection>> connections;
};

// One client connection. Loop-bound.
class Connection : public std::enable_shared_from_this<Connection> {
 public:
  Connection(std::shared_ptr<ServerState> server, tcp::socket socket)
      : server_(std::move(server)), loop_(server_->loop), stream_(std::move(socket)) {
    error_code ignored;
    stream_.tcp().set_option(tcp::no_delay(true), ignored);
    const auto remote = stream_.tcp().remote_endpoint(ignored);
    peer_ = ignored ? "unknown" : fmt::format("{}:{}", remote.address().to_string(), remote.port());
    parser_.emplace();
  }

  EventLoop& loop() { return loop_; }
  void Start() { server_->options.token.empty() ? ReadHead() : AwaitFirstByte(); }
  bool idle() const { return phase_ == Phase::kHead && buffer_.size() == 0 && !parser_->got_some(); }
  // Has been answered before and asks nothing now. Since when it does.
  std::optional<Clock::time_point> between_requests() const { return idle() && serial_ != 0 ? std::optional(progress_) : std::nullopt; }

  // Closes what has made no progress for too long.
  void Sweep(Clock::time_point now) {
    const bool between = between_requests().has_value();
    if (was_between_ && !between) progress_ = now;  // A head begins to come in.
    was_between_ = between;
    const auto quiet = now - progress_;
    if (phase_ == Phase::kHead && quiet > (between ? server_->options.idle_timeout : server_->options.head_timeout)) return Close();
    if (phase_ == Phase::kLinger && quiet > kLinger) return Close();
    if (phase_ == Phase::kExchange && !web_socket_ && (reading_ || writing_) && quiet > server_->options.stalled_timeout) return Gone();
  }

  void Close() {
    auto self = shared_from_this();
    error_code ignored;
    stream_.tcp().close(ignored);
    phase_ = Phase::kClosed;
    if (const auto web_socket = std::exchange(web_socket_, nullptr)) {
      web_socket->Cut();
      if (server_) --server_->web_sockets;
    }
    EndWaitingRead(ClientGone());
    // They may hold the exchange, and with it this connection.
    const auto gone = std::move(on_gone_);
    on_gone_ = nullptr;
    const auto queue = std::move(queue_);
    queue_.clear();
    if (server_) {
      auto server = std::move(server_);
      server->connections.erase(self);
    }
  }

  // The exchange's calls; `serial` names it, so that calls that come late find another or none.
  void ReadAll(std::uint64_t serial, std::uint64_t limit, std::function<void(Result<std::string>)> done) {
    if (!Active(serial)) return done(Lost(serial));
    const auto length = parser_->content_length();
    if (length && *length > limit) return TooLarge(serial, limit, done);
    whole_.clear();
    ReadMore(serial, limit, std::move(done));
  }

  void Read(std::uint64_t serial, std::function<void(Result<std::string>)> done) {
    if (!Active(serial)) return done(Lost(serial));
    if (web_socket_) return web_socket_->Read(std::move(done));
    if (reading_ || waiting_read_) return done(FailedPrecondition("two reads of one HTTP request body at once"));
    if (upgrade_ && !begun_) {
      waiting_read_ = std::move(done);
      return;
    }
    if (parser_->is_done()) return done(std::string());
    if (expects_continue_) {
      expects_continue_ = false;
      Queue("HTTP/1.1 100 Continue\r\n\r\n", nullptr);
    }
    reading_ = true;
    progress_ = Clock::now();
    piece_.resize(kReadPiece);
    ReadSome(serial, std::move(done));
  }

  void Respond(std::uint64_t serial, int status, const HttpHeaders& headers, std::string body) {
    if (!Active(serial) || begun_) return;
    begun_ = true;
    const bool bodiless = status == 204 || status == 304;
    std::string head = Head(status, headers, bodiless ? std::nullopt : std::optional<std::uint64_t>(body.size()), bodiless);
    if (!is_head_ && !bodiless) head += body;
    Queue(std::move(head), nullptr);
    Finish(serial);
  }

  void Begin(std::uint64_t serial, int status, const HttpHeaders& headers, std::optional<std::uint64_t> length) {
    if (!Active(serial) || begun_) return;
    begun_ = true;
    if (status == 101 && upgrade_) return Upgrade(headers);
    bodiless_ = is_head_ || status == 204 || status == 304;
    chunked_ = !length && !bodiless_ && version_ >= 11;
    if (!length && !bodiless_ && !chunked_) keep_alive_ = false;
    Queue(Head(status, headers, length, bodiless_ && !length), nullptr);
  }

  void Write(std::uint64_t serial, std::string bytes, std::function<void(Status)> done) {
    if (!Active(serial) || !begun_ || finishing_) {
      if (done) done(Active(serial) ? Answered() : Lost(serial));
      return;
    }
    if (web_socket_) return web_socket_->Write(std::move(bytes), std::move(done));
    if (bodiless_ || bytes.empty()) {
      if (done) loop_.Post([done = std::move(done)] { done(Status()); });
      return;
    }
    if (queued_ > kWriteQueueMax) {
      if (done) done(ResourceExhausted("the HTTP client reads too slowly: more than 1 MiB is queued for it"));
      return;
    }
    if (chunked_) bytes = fmt::format("{:x}\r\n", bytes.size()) + bytes + "\r\n";
    Queue(std::move(bytes), std::move(done));
  }

  void Finish(std::uint64_t serial) {
    if (!Active(serial) || !begun_ || finishing_) return;
    finishing_ = true;
    if (web_socket_) return web_socket_->Close(WebSocketClose::kNormal);
    if (chunked_) Queue("0\r\n\r\n", nullptr);
    if (!writing_ && queue_.empty()) Finished();
  }

  void Abort(std::uint64_t serial) {
    if (!Active(serial)) return;
    ++serial_;
    if (web_socket_) return web_socket_->Close(WebSocketClose::kInternalError);
    Gone(false);
  }

  void GoAway() {
    if (web_socket_) web_socket_->Close(WebSocketClose::kGoingAway);
  }

  void OnDisconnect(std::uint64_t serial, std::function<void()> gone) {
    if (serial == gone_serial_) return gone();
    if (!Active(serial)) return;
    on_gone_ = std::move(gone);
  }

  // The last reference to the exchange went.
  void Dropped(std::uint64_t serial) {
    if (!Active(serial) || finishing_) return;
    if (begun_) return Abort(serial);
    RespondProblem(serial, 500, "the handler of this request ended without an answer");
  }

  void RespondProblem(std::uint64_t serial, int status, std::string_view detail) {
    Respond(serial, status, {{"Content-Type", "application/problem+json"}}, ProblemJson(status, detail));
  }

 private:
  enum class Phase { kHead, kExchange, kLinger, kClosed };

  bool Active(std::uint64_t serial) const { return phase_ == Phase::kExchange && serial == serial_; }
  Error Lost(std::uint64_t serial) const { return serial == gone_serial_ ? ClientGone() : Answered(); }

  // A client that begins with a TLS record (RFC 8446, 5.1: type 22) is asked for the token; no HTTP method begins so.
  void AwaitFirstByte() {
    stream_.tcp().async_wait(tcp::socket::wait_read, [self = shared_from_this()](error_code error) {
      if (self->phase_ != Phase::kHead || !self->server_) return;
      char byte = 0;
      const auto n = error ? 0 : ::recv(self->stream_.tcp().native_handle(), &byte, 1, MSG_PEEK | MSG_DONTWAIT);
      if (n < 0 && (errno == EAGAIN || errno == EINTR)) return self->AwaitFirstByte();
      if (n <= 0) return self->Close();
      if (byte != kTlsHandshake) return self->ReadHead();
      self->stream_.Handshake(std::make_unique<Tls>(Tls::Role::kAccepting, self->server_->options.token), [self](const Status& shaken) {
        if (self->phase_ != Phase::kHead || !self->server_) return;
        shaken.ok() ? self->ReadHead() : self->Close();
      });
    });
  }

  void ReadHead() {
    phase_ = Phase::kHead;
    progress_ = Clock::now();
    parser_.emplace();
    parser_->header_limit(static_cast<std::uint32_t>(kHttpHeaderBytesMax.value));
    parser_->body_limit(boost::none);
    http::async_read_header(stream_, buffer_, *parser_,
                            [self = shared_from_this()](error_code error, std::size_t) { self->OnHead(error); });
  }

  void OnHead(error_code error) {
    if (phase_ != Phase::kHead || !server_) return;
    if (error == http::error::header_limit) return Refuse(431, "the request's head is larger than 64 KiB");
    if (error.category() == make_error_code(http::error::bad_value).category() && error != http::error::end_of_stream &&
        error != http::error::partial_message) {
      return Refuse(400, "the request is not valid HTTP: " + error.message());
    }
    if (error) return Close();
    HttpRequest request;
    auto& message = parser_->get();
    request.method = std::string(message.method_string());
    request.target = std::string(message.target());
    for (const auto& field : message) request.headers.push_back({std::string(field.name_string()), std::string(field.value())});
    if (const auto length = parser_->content_length()) request.content_length = *length;
    request.has_body = !parser_->is_done();
    upgrade_ = request.web_socket = parser_->is_done() && buffer_.size() == 0 && !stream_.secure() && beast::websocket::is_upgrade(message);
    request.peer = peer_;
    version_ = message.version();
    is_head_ = message.method() == http::verb::head;
    keep_alive_ = parser_->keep_alive() && !server_->draining;
    const std::string* expect = request.header("Expect");
    expects_continue_ = expect && SameHeaderName(*expect, "100-continue");
    begun_ = finishing_ = chunked_ = bodiless_ = reading_ = false;
    on_gone_ = nullptr;
    phase_ = Phase::kExchange;
    progress_ = Clock::now();
    const std::uint64_t serial = ++serial_;
    if (request.target.empty() || (request.target[0] != '/' && request.target != "*")) {
      keep_alive_ = false;
      return RespondProblem(serial, 400, "the request's target must be a path");
    }
    if (upgrade_ && server_->web_sockets >= server_->options.connections_max / 4 * 3) {
      return RespondProblem(serial, 503, "there are as many WebSockets here as there may be");
    }
    Watch();
    Hand(serial, std::move(request));
  }

  void Hand(std::uint64_t serial, HttpRequest request);

  // Answers what never became an exchange.
  void Refuse(int status, const std::string& detail) {
    phase_ = Phase::kExchange;
    version_ = 11;
    keep_alive_ = is_head_ = false;
    begun_ = finishing_ = chunked_ = bodiless_ = reading_ = upgrade_ = false;
    RespondProblem(++serial_, status, detail);
  }

  // Waits for the client to go while nothing else is read from it.
  void Watch() {
    if (watching_ || phase_ != Phase::kExchange || !parser_->is_done() || buffer_.size() > 0) return;
    watching_ = true;
    stream_.tcp().async_wait(tcp::socket::wait_read, [self = shared_from_this()](error_code error) {
      self->watching_ = false;
      if (self->phase_ != Phase::kExchange || self->reading_ || self->web_socket_) return;
      char byte;
      const auto n = error ? 0 : ::recv(self->stream_.tcp().native_handle(), &byte, 1, MSG_PEEK | MSG_DONTWAIT);
      if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR)) self->Gone();
    });
  }

  void Upgrade(const HttpHeaders& headers) {
    ++server_->web_sockets;
    web_socket_ = WebSocket::Accept(loop_, std::move(stream_.tcp()), parser_->get(), headers, [self = shared_from_this()] {
      if (self->finishing_) self->on_gone_ = nullptr;
      self->Gone(!self->finishing_);
    });
    if (waiting_read_) web_socket_->Read(std::exchange(waiting_read_, nullptr));
  }

  // What waited for a WebSocket that did not come to be.
  void EndWaitingRead(const Error& error) {
    if (const auto read = std::exchange(waiting_read_, nullptr)) read(error);
  }

  // The connection ends before the response does. `tell` the handler, unless it was the one that cut it.
  void Gone(bool tell = true) {
    if (phase_ != Phase::kExchange) return;
    auto self = shared_from_this();
    if (tell) gone_serial_ = serial_++;
    auto gone = tell ? std::move(on_gone_) : nullptr;
    on_gone_ = nullptr;
    auto queue = std::move(queue_);
    queue_.clear();
    Close();
    for (auto& item : queue) {
      if (item.done) item.done(ClientGone());
    }
    if (gone) gone();
  }

  void ReadSome(std::uint64_t serial, std::function<void(Result<std::string>)> done) {
    auto& body = parser_->get().body();
    body.data = piece_.data();
    body.size = piece_.size();
    body.more = true;
    http::async_read_some(stream_, buffer_, *parser_,
                          [self = shared_from_this(), serial, done = std::move(done)](error_code error, std::size_t) mutable {
                            self->OnBody(serial, error, std::move(done));
                          });
  }

  void OnBody(std::uint64_t serial, error_code error, std::function<void(Result<std::string>)> done) {
    reading_ = false;
    progress_ = Clock::now();
    if (!Active(serial)) return done(Lost(serial));
    if (error == http::error::need_buffer) error = {};
    if (error) {
      const bool malformed = error.category() == make_error_code(http::error::bad_value).category() &&
                             error != http::error::partial_message && error != http::error::end_of_stream;
      if (!malformed) {
        Gone();
        return done(ClientGone());
      }
      keep_alive_ = false;
      if (!begun_) RespondProblem(serial, 400, "the request's body is not valid HTTP: " + error.message());
      else Abort(serial);
      return done(InvalidArgument("malformed HTTP body: " + error.message()));
    }
    const std::size_t got = piece_.size() - parser_->get().body().size;
    if (got == 0 && !parser_->is_done()) {
      reading_ = true;
      return ReadSome(serial, std::move(done));
    }
    Watch();
    done(std::string(piece_.data(), got));
  }

  void ReadMore(std::uint64_t serial, std::uint64_t limit, std::function<void(Result<std::string>)> done) {
    Read(serial, [self = shared_from_this(), serial, limit, done = std::move(done)](Result<std::string> piece) mutable {
      if (!piece.ok()) return done(piece.error());
      if (piece->empty()) return done(std::move(self->whole_));
      if (self->whole_.size() + piece->size() > limit) return self->TooLarge(serial, limit, done);
      self->whole_ += *piece;
      self->ReadMore(serial, limit, std::move(done));
    });
  }

  void TooLarge(std::uint64_t serial, std::uint64_t limit, const std::function<void(Result<std::string>)>& done) {
    whole_.clear();
    const std::string text = fmt::format("the request's body is larger than {} bytes", limit);
    RespondProblem(serial, 413, text);
    done(ResourceExhausted(text));
  }

  std::string Head(int status, const HttpHeaders& headers, std::optional<std::uint64_t> length, bool without_length) {
    if (!parser_ || !parser_->is_done()) keep_alive_ = false;
    std::string head = fmt::format("HTTP/1.1 {} {}\r\n", status, HttpReason(status));
    for (const HttpHeader& header : headers) {
      if (!ValidHeader(header)) continue;
      head.append(header.name).append(": ").append(header.value).append("\r\n");
    }
    if (length) head += fmt::format("Content-Length: {}\r\n", *length);
    else if (!without_length && chunked_) head += "Transfer-Encoding: chunked\r\n";
    if (!keep_alive_) head += "Connection: close\r\n";
    else if (version_ < 11) head += "Connection: keep-alive\r\n";
    return head += "\r\n";
  }

  struct Item {
    std::string bytes;
    std::function<void(Status)> done;
  };

  void Queue(std::string bytes, std::function<void(Status)> done) {
    queued_ += bytes.size();
    queue_.push_back({std::move(bytes), std::move(done)});
    if (writing_ || flush_posted_) return;
    // What the handler writes in one go leaves in one system call.
    flush_posted_ = true;
    asio::post(loop_.context(), [self = shared_from_this()] {
      self->flush_posted_ = false;
      if (!self->writing_ && !self->queue_.empty() && self->phase_ == Phase::kExchange) self->Flush();
    });
  }

  void Flush() {
    writing_ = true;
    auto batch = std::make_shared<std::vector<Item>>();
    std::vector<asio::const_buffer> buffers;
    while (!queue_.empty() && batch->size() < kGatherMax) {
      batch->push_back(std::move(queue_.front()));
      queue_.pop_front();
    }
    for (const Item& item : *batch) buffers.push_back(asio::buffer(item.bytes));
    asio::async_write(stream_, buffers, [self = shared_from_this(), batch](error_code error, std::size_t n) {
      self->OnWritten(*batch, error, n);
    });
  }

  void OnWritten(std::vector<Item>& batch, error_code error, std::size_t n) {
    writing_ = false;
    progress_ = Clock::now();
    queued_ -= std::min(queued_, n);
    const bool lost = error || phase_ != Phase::kExchange;
    if (lost && phase_ == Phase::kExchange) Gone();
    for (Item& item : batch) {
      if (item.done) item.done(lost ? Status(ClientGone()) : Status());
    }
    if (lost || phase_ != Phase::kExchange || writing_) return;
    if (!queue_.empty()) return Flush();
    if (finishing_) Finished();
  }

  // The whole response is with the system.
  void Finished() {
    on_gone_ = nullptr;
    ++serial_;
    EndWaitingRead(Answered());
    if (keep_alive_ && server_ && !server_->draining) return ReadHead();
    error_code ignored;
    stream_.tcp().shutdown(tcp::socket::shutdown_send, ignored);
    if (parser_ && parser_->is_done()) return Close();
    phase_ = Phase::kLinger;
    progress_ = Clock::now();
    Discard();
  }

  // Closing with unread data would reset the connection and take the answer with it.
  void Discard() {
    piece_.resize(kReadPiece);
    stream_.tcp().async_read_some(asio::buffer(piece_), [self = shared_from_this()](error_code error, std::size_t) {
      if (self->phase_ != Phase::kLinger) return;
      if (error) return self->Close();
      self->Discard();
    });
  }

  std::shared_ptr<ServerState> server_;  // Until closed.
  EventLoop& loop_;
  TlsStream stream_;
  std::shared_ptr<WebSocket> web_socket_;  // Which has the socket then.
  std::function<void(Result<std::string>)> waiting_read_;
  std::string peer_;
  beast::flat_buffer buffer_{kHttpHeaderBytesMax.value * 2};
  std::optional<http::request_parser<http::buffer_body>> parser_;
  Phase phase_ = Phase::kHead;
  Clock::time_point progress_ = Clock::now();
  std::string piece_, whole_;
  std::deque<Item> queue_;
  std::size_t queued_ = 0;
  std::uint64_t serial_ = 0;        // Of the exchange under way.
  std::uint64_t gone_serial_ = ~0ull;  // Of the exchange whose client went away.
  std::function<void()> on_gone_;
  unsigned version_ = 11;
  bool is_head_ = false, keep_alive_ = true, expects_continue_ = false;
  bool was_between_ = false;  // When last swept.
  bool begun_ = false, finishing_ = false, chunked_ = false, bodiless_ = false;
  bool reading_ = false, writing_ = false, watching_ = false, flush_posted_ = false;
  bool upgrade_ = false;  // The request asks for a WebSocket.
};

// What the handler holds.
class Exchange final : public HttpExchange {
 public:
  Exchange(std::shared_ptr<Connection> connection, std::uint64_t serial, HttpRequest request)
      : connection_(std::move(connection)), serial_(serial), request_(std::move(request)) {}
  ~Exchange() override {
    if (finished_) return;
    OnLoop([c = connection_, s = serial_] { c->Dropped(s); });
  }

  const HttpRequest& request() const override { return request_; }
  void ReadAll(ByteCount limit, std::function<void(Result<std::string>)> done) override {
    OnLoop([c = connection_, s = serial_, limit, done = std::move(done)]() mutable { c->ReadAll(s, limit.value, std::move(done)); });
  }
  void Read(std::function<void(Result<std::string>)> done) override {
    OnLoop([c = connection_, s = serial_, done = std::move(done)]() mutable { c->Read(s, std::move(done)); });
  }
  void Respond(int status, HttpHeaders headers, std::string body) override {
    finished_ = true;
    OnLoop([c = connection_, s = serial_, status, headers = std::move(headers), body = std::move(body)]() mutable {
      c->Respond(s, status, headers, std::move(body));
    });
  }
  void RespondProblem(int status, std::string_view detail) override {
    finished_ = true;
    OnLoop([c = connection_, s = serial_, status, detail = std::string(detail)] { c->RespondProblem(s, status, detail); });
  }
  void Begin(int status, HttpHeaders headers, std::optional<std::uint64_t> length) override {
    OnLoop([c = connection_, s = serial_, status, headers = std::move(headers), length] { c->Begin(s, status, headers, length); });
  }
  void Write(std::string bytes, std::function<void(Status)> done) override {
    OnLoop([c = connection_, s = serial_, bytes = std::move(bytes), done = std::move(done)]() mutable {
      c->Write(s, std::move(bytes), std::move(done));
    });
  }
  void Finish() override {
    finished_ = true;
    OnLoop([c = connection_, s = serial_] { c->Finish(s); });
  }
  void Abort() override {
    finished_ = true;
    OnLoop([c = connection_, s = serial_] { c->Abort(s); });
  }
  void OnDisconnect(std::function<void()> gone) override {
    OnLoop([c = connection_, s = serial_, gone = std::move(gone)]() mutable { c->OnDisconnect(s, std::move(gone)); });
  }

 private:
  template <typename Work>
  void OnLoop(Work work) {
    if (connection_->loop().OnLoop()) work();
    else asio::post(connection_->loop().context(), std::move(work));
  }
  const std::shared_ptr<Connection> connection_;
  const std::uint64_t serial_;
  const HttpRequest request_;
  std::atomic<bool> finished_ = false;
};

void Connection::Hand(std::uint64_t serial, HttpRequest request) {
  if (server_->handler) server_->handler(std::make_shared<Exchange>(shared_from_this(), serial, std::move(request)));
}

void CloseLongestIdle(ServerState& server) {
  std::shared_ptr<Connection> longest;
  for (const auto& connection : server.connections) {
    const auto since = connection->between_requests();
    if (since && (!longest || *since < *longest->between_requests())) longest = connection;
  }
  if (longest) longest->Close();
}

void Accept(const std::shared_ptr<ServerState>& server) {
  server->acceptor.async_accept([server](error_code error, tcp::socket socket) {
    if (!server->acceptor.is_open()) return;
    if (error) {  // Out of descriptors, for example: go on when some may be free again.
      server->retry = server->loop.After(std::chrono::milliseconds(100), [server] { Accept(server); });
      return;
    }
    if (server->connections.size() >= server->options.connections_max) CloseLongestIdle(*server);
    if (server->connections.size() < server->options.connections_max) {
      auto connection = std::make_shared<Connection>(server, std::move(socket));
      server->connections.insert(connection);
      connection->Start();
    }
    Accept(server);
  });
}

void Sweep(const std::shared_ptr<ServerState>& server) {
  server->sweep = server->loop.After(std::chrono::seconds(1), [weak = std::weak_ptr(server)] {
    const auto state = weak.lock();
    if (!state) return;
    const auto now = Clock::now();
    for (const auto& connection : std::vector(state->connections.begin(), state->connections.end())) connection->Sweep(now);
    Sweep(state);
  });
}

class HttpServerImpl final : public HttpServer {
 public:
  HttpServerImpl(std::shared_ptr<ServerState> state, tcp::endpoint endpoint)
      : state_(std::move(state)), endpoint_(std::move(endpoint)) {}
  ~HttpServerImpl() override {
    state_->loop.Run([this] {
      error_code ignored;
      state_->acceptor.close(ignored);
      state_->sweep = Timer();
      state_->retry = Timer();
      state_->handler = nullptr;
      for (const auto& connection : std::vector(state_->connections.begin(), state_->connections.end())) connection->Close();
    });
  }
  std::uint16_t port() const override { return endpoint_.port(); }
  std::string address() const override {
    const auto& address = endpoint_.address();
    return fmt::format(fmt::runtime(address.is_v6() ? "[{}]:{}" : "{}:{}"), address.to_string(), endpoint_.port());
  }
  void Drain() override {
    state_->loop.Run([this] {
      state_->draining = true;
      error_code ignored;
      state_->acceptor.close(ignored);
      for (const auto& connection : std::vector(state_->connections.begin(), state_->connections.end())) {
        if (connection->idle()) connection->Close();
        else connection->GoAway();
      }
    });
  }

 private:
  std::shared_ptr<ServerState> state_;
  tcp::endpoint endpoint_;
};

}  // namespace

std::string_view HttpRequest::path() const { return std::string_view(target).substr(0, target.find('?')); }

std::optional<std::string> HttpRequest::query(std::string_view key) const {
  const auto mark = target.find('?');
  if (mark == std::string::npos) return std::nullopt;
  std::string_view rest = std::string_view(target).substr(mark + 1);
  while (!rest.empty()) {
    const std::string_view pair = rest.substr(0, rest.find('&'));
    rest.remove_prefix(std::min(rest.size(), pair.size() + 1));
    const auto equals = pair.find('=');
    const auto name = PercentDecode(pair.substr(0, equals));
    if (!name.ok() || *name != key) continue;
    auto value = PercentDecode(equals == std::string_view::npos ? "" : pair.substr(equals + 1));
    if (value.ok()) return *std::move(value);
  }
  return std::nullopt;
}

Result<std::unique_ptr<HttpServer>> HttpServer::Listen(EventLoop& loop, Options options, Handler handler) {
  error_code error;
  const auto address = asio::ip::make_address(options.address, error);
  if (error) return InvalidArgument(fmt::format("{} is not an IP address to listen on", options.address));
  const tcp::endpoint endpoint(address, options.port);
  auto state = std::make_shared<ServerState>(loop, std::move(options), std::move(handler));
  state->acceptor.open(endpoint.protocol(), error);
  if (!error) state->acceptor.set_option(tcp::acceptor::reuse_address(true), error);
  if (!error) state->acceptor.bind(endpoint, error);
  if (!error) state->acceptor.listen(1024, error);
  if (error) {
    return Unavailable(fmt::format("cannot listen on {}:{}: {}", endpoint.address().to_string(), endpoint.port(), error.message()));
  }
  const tcp::endpoint bound = state->acceptor.local_endpoint(error);
  loop.Run([&] {
    Accept(state);
    Sweep(state);
  });
  return std::unique_ptr<HttpServer>(new HttpServerImpl(std::move(state), bound));
}

}  // namespace godwit::transport
