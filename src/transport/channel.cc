#include "transport/channel.h"

#include <deque>
#include <mutex>
#include <unordered_map>
#include <unordered_set>

#include <boost/asio/connect.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>
#include <fmt/format.h>

#include "transport/channel_handshake.h"
#include "transport/frame_parser.h"
#include "transport/http_client.h"
#include "transport/link_shaper.h"
#include "transport/secure_socket.h"

namespace godwit::transport {

namespace {

namespace asio = boost::asio;
using asio::ip::tcp;
using boost::system::error_code;
using Clock = std::chrono::steady_clock;

constexpr std::chrono::seconds kCloseTimeout{1};

std::string AddressOf(const tcp::endpoint& endpoint) {
  return fmt::format(fmt::runtime(endpoint.address().is_v6() ? "[{}]:{}" : "{}:{}"), endpoint.address().to_string(), endpoint.port());
}

void PutU32(Bytes& out, std::size_t value) {
  for (int i = 0; i < 4; ++i) out.push_back(static_cast<std::uint8_t>(value >> (8 * i)));
}

// A proven connection. Members are loop-bound but for those under mutex_.
class ChannelImpl final : public Channel {
 public:
  // `early`: what came after the handshake.
  ChannelImpl(EventLoop& loop, std::unique_ptr<SecureSocket> socket, const ChannelOptions& options, ChannelIdentity peer,
              std::string address, Bytes early)
      : loop_(loop), socket_(std::move(socket)), timer_(loop.context()), peer_(std::move(peer)), address_(std::move(address)),
        ping_interval_(options.ping_interval), loss_timeout_(options.loss_timeout), early_(std::move(early)), shaper_(options.shape) {}

  std::function<void()> on_end;  // For the owner, when the channel has closed.

  void Start(ChannelHandlers handlers) {
    if (!open_) return;
    handlers_ = std::move(handlers);
    received_at_ = Clock::now();
    Tick();
    if (early_.empty()) return Read();
    asio::post(loop_.context(), [self = Self()] { self->OnRead({}, self->early_); });
  }

  const ChannelIdentity& peer() const override { return peer_; }
  const std::string& peer_address() const override { return address_; }
  EventLoop& loop() override { return loop_; }
  bool open() const override { return open_; }
  std::uint64_t NextCall() override { return next_call_++; }
  std::size_t queued_bytes() const override { return queued_; }
  ChannelCounters counters() const override { return {socket_->sent(), socket_->received(), frames_sent_, frames_received_}; }

  Status Send(const flatbuffers::FlatBufferBuilder& message, ByteView payload) override {
    const std::size_t message_bytes = message.GetSize();
    if (message_bytes > kMessageBytesMax || payload.size() > kPayloadBytesMax) {
      return InvalidArgument(fmt::format("a frame with a message of {} and a payload of {} bytes is too large", message_bytes, payload.size()));
    }
    const std::lock_guard lock(mutex_);
    if (!open_) return Unavailable(fmt::format("the channel to {} is closed", peer_.device.value));
    const std::size_t limit = payload.empty() ? kWriteQueueBytesHard : kWriteQueueBytesMax;
    const std::size_t bytes = kFrameHeadBytes + message_bytes + payload.size();
    if (queued_ + bytes > limit) {
      return ResourceExhausted(fmt::format("{} bytes are queued for {}: it reads too slowly", queued_.load(), peer_.device.value));
    }
    PutU32(pending_, message_bytes + payload.size());
    PutU32(pending_, message_bytes);
    pending_.insert(pending_.end(), message.GetBufferPointer(), message.GetBufferPointer() + message_bytes);
    pending_.insert(pending_.end(), payload.begin(), payload.end());
    queued_ += bytes;
    ++frames_sent_;
    if (!flush_posted_) {
      flush_posted_ = true;
      asio::post(loop_.context(), [self = Self()] { self->Flush(); });
    }
    return {};
  }

  void WhenWritable(std::function<void()> ready) override {
    OnLoop([this, ready = std::move(ready)]() mutable {
      if (!open_) return;
      if (queued_ <= kWriteQueueBytesMax / 2) return ready();
      writable_.push_back(std::move(ready));
    });
  }

  void Call(std::uint64_t call, const flatbuffers::FlatBufferBuilder& message, ByteView payload, std::chrono::milliseconds timeout,
            ReplyHandler done) override {
    // The handler is in place before the answer can come, since both are dealt with on the loop.
    auto shared = std::make_shared<ReplyHandler>(std::move(done));
    if (loop_.OnLoop()) {
      Await(call, timeout, shared);
    } else {
      asio::post(loop_.context(), [self = Self(), call, timeout, shared] { self->Await(call, timeout, shared); });
    }
    if (const Status sent = Send(message, payload); !sent.ok()) {
      asio::post(loop_.context(), [self = Self(), call, error = sent.error()] { self->Answer(call, error); });
    }
  }

  void Close(const std::string& reason) override {
    OnLoop([this, reason] {
      if (!open_ || closing_) return;
      closing_ = true;
      close_reason_ = reason;
      Flush();
      close_timer_ = loop_.After(kCloseTimeout, [self = Self()] { self->Fail(Aborted(self->close_reason_)); });
      EndIfWritten();
    });
  }

  void Drop() override {
    const auto drop = [this] {
      handlers_ = {};
      const auto calls = std::move(calls_);
      calls_.clear();
      Fail(Aborted("dropped"));
    };
    loop_.Run(drop);
  }

  void SetShape(LinkShape shape) override {
    OnLoop([this, shape] { shaper_ = LinkShaper(shape); });
  }

 private:
  std::shared_ptr<ChannelImpl> Self() { return std::static_pointer_cast<ChannelImpl>(shared_from_this()); }

  template <typename Work>
  void OnLoop(Work work) {
    if (loop_.OnLoop()) work();
    else asio::post(loop_.context(), [self = Self(), work = std::move(work)]() mutable { work(); });
  }

  void Read() {
    socket_->Read([self = Self()](const Status& status, ByteView bytes) { self->OnRead(status, bytes); });
  }

  void OnRead(const Status& status, ByteView bytes) {
    if (!open_) return;
    if (!status.ok()) return Lost(status.error());
    received_at_ = Clock::now();
    const Status fed = parser_.Feed(bytes, [this](Frame frame) {
      ++frames_received_;
      OnFrame(std::move(frame));
      return open_.load();
    });
    if (!fed.ok()) return Fail(fed.error().Within("channel to " + peer_.device.value));
    if (open_) Read();
  }

  void Lost(const Error& error) {
    Fail(Error{error.code, fmt::format("the channel to {} was lost: {}", peer_.device.value, error.message)});
  }

  void OnFrame(Frame frame) {
    if (const auto reply = frame.message().reply_to()) return Answer(reply, std::move(frame));
    if (const auto* ping = frame.as<wire::Ping>()) {
      flatbuffers::FlatBufferBuilder builder(64);
      // A full queue drops the answer: what is queued keeps the peer's loss timer quiet just as well.
      (void)Tell(builder, wire::CreatePong(builder, ping->sent_ns())).ok();
      return;
    }
    if (frame.type() == wire::Body::Pong) return;
    if (handlers_.on_frame) {
      const auto handler = handlers_.on_frame;  // It may drop the handlers.
      handler(Self(), std::move(frame));
    }
  }

  void Await(std::uint64_t call, std::chrono::milliseconds timeout, const std::shared_ptr<ReplyHandler>& done) {
    if (!open_) return (*done)(Unavailable(fmt::format("the channel to {} is closed", peer_.device.value)));
    if (calls_.size() >= kCallsMax) return (*done)(ResourceExhausted(fmt::format("{} calls to {} await their answers", kCallsMax, peer_.device.value)));
    Pending& pending = calls_[call];
    pending.done = std::move(*done);
    pending.timer = loop_.After(timeout, [this, call, timeout] {
      Answer(call, DeadlineExceeded(fmt::format("no answer from {} within {} ms", peer_.device.value, timeout.count())));
    });
  }

  void Answer(std::uint64_t call, Result<Frame> reply) {
    const auto found = calls_.find(call);
    if (found == calls_.end()) return;  // Late, or answered twice.
    const auto done = std::move(found->second.done);
    calls_.erase(found);
    done(std::move(reply));
  }

  void Flush() {
    if (!open_) return;
    {
      const std::lock_guard lock(mutex_);
      flush_posted_ = false;
      if (pending_.empty()) return;
      if (shaper_.active() || !delayed_.empty()) {
        AdmitPending();
      } else {
        if (writing_) return;
        out_.swap(pending_);
      }
    }
    if (delayed_.empty()) WriteOut();
    else WriteDelayed();
  }

  // Under mutex_: gives what is queued its time on the emulated link.
  void AdmitPending() {
    const std::size_t piece = shaper_.piece_bytes();
    const auto now = Clock::now();
    for (std::size_t at = 0; at < pending_.size(); at += piece) {
      const std::size_t n = std::min(piece, pending_.size() - at);
      const auto begin = pending_.begin() + static_cast<std::ptrdiff_t>(at);
      delayed_.push_back({shaper_.Admit(now, n), Bytes(begin, begin + static_cast<std::ptrdiff_t>(n))});
    }
    pending_.clear();
  }

  void WriteDelayed() {
    if (writing_ || delayed_.empty()) return;
    writing_ = true;
    timer_.expires_at(delayed_.front().due);
    timer_.async_wait([self = Self()](error_code) {
      if (!self->open_) return;
      const auto now = Clock::now();
      while (!self->delayed_.empty() && self->delayed_.front().due <= now) {
        const Bytes& piece = self->delayed_.front().bytes;
        self->out_.insert(self->out_.end(), piece.begin(), piece.end());
        self->delayed_.pop_front();
      }
      self->WriteOut();
    });
  }

  void WriteOut() {
    writing_ = true;
    socket_->Write(out_, [self = Self()](const Status& status) { self->OnWritten(status); });
  }

  void OnWritten(const Status& status) {
    writing_ = false;
    if (!open_) return;
    if (!status.ok()) return Lost(status.error());
    queued_ -= out_.size();
    out_.clear();
    if (out_.capacity() > kWriteQueueBytesMax) Bytes().swap(out_);
    if (!writable_.empty() && queued_ <= kWriteQueueBytesMax / 2) {
      auto ready = std::move(writable_);
      writable_.clear();
      for (auto& one : ready) one();
    }
    Flush();
    WriteDelayed();
    EndIfWritten();
  }

  void EndIfWritten() {
    if (closing_ && open_ && queued_ == 0) Fail(Aborted(close_reason_));
  }

  void Tick() {
    tick_ = loop_.After(ping_interval_, [this] {
      if (Clock::now() - received_at_ > loss_timeout_) {
        return Fail(Unavailable(fmt::format("the channel to {} was lost: nothing came for {} ms", peer_.device.value, loss_timeout_.count())));
      }
      flatbuffers::FlatBufferBuilder builder(64);
      (void)Tell(builder, wire::CreatePing(builder, static_cast<std::uint64_t>(Clock::now().time_since_epoch().count()))).ok();
      Tick();
    });
  }

  void Fail(const Error& error) {
    {
      const std::lock_guard lock(mutex_);
      if (!open_) return;
      open_ = false;
    }
    const auto self = Self();
    socket_->Close();
    timer_.cancel();
    close_timer_ = Timer();
    writable_.clear();
    tick_ = Timer();
    auto calls = std::move(calls_);
    calls_.clear();
    auto handlers = std::move(handlers_);
    handlers_ = {};
    for (auto& [call, pending] : calls) pending.done(Unavailable(error.message));
    if (handlers.on_closed) handlers.on_closed(self, error);
    if (on_end) on_end();
    on_end = nullptr;
  }

  struct Pending {
    ReplyHandler done;
    Timer timer;
  };
  struct Delayed {
    Clock::time_point due;
    Bytes bytes;
  };

  EventLoop& loop_;
  const std::unique_ptr<SecureSocket> socket_;
  asio::steady_timer timer_;
  const ChannelIdentity peer_;
  const std::string address_;
  const std::chrono::milliseconds ping_interval_, loss_timeout_;
  ChannelHandlers handlers_;
  FrameParser parser_;
  const Bytes early_;
  Clock::time_point received_at_;
  std::unordered_map<std::uint64_t, Pending> calls_;
  std::vector<std::function<void()>> writable_;
  Timer tick_, close_timer_;
  bool closing_ = false;
  std::string close_reason_;
  LinkShaper shaper_;
  std::deque<Delayed> delayed_;
  Bytes out_;
  bool writing_ = false;

  std::atomic<std::uint64_t> next_call_{1};
  std::atomic<std::uint64_t> frames_sent_{0}, frames_received_{0};
  std::atomic<std::size_t> queued_{0};  // Pending, delayed and being written.
  std::atomic<bool> open_{true};        // Written under mutex_.
  std::mutex mutex_;
  Bytes pending_;
  bool flush_posted_ = false;
};

// Secures a fresh socket, and reads and writes handshake messages on it, under one timeout. Ends by handing it on.
class Opening : public std::enable_shared_from_this<Opening> {
 public:
  Opening(EventLoop& loop, tcp::socket socket, ChannelOptions options, Tls::Role role)
      : loop_(loop), options_(std::move(options)),
        socket_(std::make_unique<SecureSocket>(std::move(socket), options_.plaintext ? nullptr : std::make_unique<Tls>(role, options_.token))) {}
  virtual ~Opening() = default;
  // Ends without a channel. On the loop.
  void Drop() { End(Unavailable("the server of the channel ended")); }

 protected:
  void StartTimer(const std::string& what) {
    // Weak: what waits for the socket keeps this alive; a loop that ends first then frees all of it.
    timer_ = loop_.After(options_.handshake_timeout, [weak = weak_from_this(), what] {
      const auto self = weak.lock();
      if (self) self->End(DeadlineExceeded(fmt::format("{} took longer than {} ms", what, self->options_.handshake_timeout.count())));
    });
  }

  // Once the socket is connected.
  void Secure(std::function<void()> next) {
    error_code ignored;
    socket_->tcp().set_option(tcp::no_delay(true), ignored);
    socket_->Handshake(Then(std::move(next)));
  }

  void Write(const Bytes& message, std::function<void()> next) {
    out_.clear();
    PutU32(out_, message.size());
    out_.insert(out_.end(), message.begin(), message.end());
    socket_->Write(out_, Then(std::move(next)));
  }

  void ReadMessage(std::function<void(ByteView)> next) {
    if (in_.size() >= 4) {
      const std::size_t bytes = in_[0] | in_[1] << 8 | in_[2] << 16 | static_cast<std::size_t>(in_[3]) << 24;
      if (bytes == 0 || bytes > kHandshakeBytesMax) return End(Corrupt("the peer does not speak the agent channel's protocol"));
      if (in_.size() >= 4 + bytes) {
        const Bytes message(in_.begin() + 4, in_.begin() + 4 + static_cast<std::ptrdiff_t>(bytes));
        in_.erase(in_.begin(), in_.begin() + 4 + static_cast<std::ptrdiff_t>(bytes));
        return next(message);
      }
    }
    socket_->Read([self = shared_from_this(), next = std::move(next)](const Status& status, ByteView bytes) mutable {
      if (self->ended_) return;
      if (!status.ok()) return self->End(self->Closed(status.error()));
      self->in_.insert(self->in_.end(), bytes.begin(), bytes.end());
      self->ReadMessage(std::move(next));
    });
  }

  std::shared_ptr<ChannelImpl> MakeChannel(const ChannelIdentity& peer) {
    error_code ignored;
    const auto remote = socket_->tcp().remote_endpoint(ignored);
    return std::make_shared<ChannelImpl>(loop_, std::move(socket_), options_, peer, AddressOf(remote), std::move(in_));
  }

  void End(Result<std::shared_ptr<ChannelImpl>> result) {
    if (ended_) return;
    ended_ = true;
    const auto self = shared_from_this();
    timer_ = Timer();
    if (!result.ok()) socket_->Close();
    Ended(std::move(result));
  }
  virtual void Ended(Result<std::shared_ptr<ChannelImpl>> result) = 0;

  EventLoop& loop_;
  const ChannelOptions options_;
  std::unique_ptr<SecureSocket> socket_;
  bool ended_ = false;

 private:
  std::function<void(const Status&)> Then(std::function<void()> next) {
    return [self = shared_from_this(), next = std::move(next)](const Status& status) {
      if (self->ended_) return;
      if (!status.ok()) return self->End(self->Closed(status.error()));
      next();
    };
  }
  // A connection that is just lost says what was going on.
  Error Closed(const Error& error) const {
    if (error.code != ErrorCode::kUnavailable) return error.Within(Where());
    return Unavailable("the peer closed the connection during the channel's handshake");
  }
  virtual std::string Where() const = 0;

  Timer timer_;
  Bytes in_, out_;
};

class Connecting final : public Opening {
 public:
  Connecting(EventLoop& loop, std::string address, ChannelOptions options, ChannelHandlers handlers,
             std::function<void(Result<std::shared_ptr<Channel>>)> done)
      : Opening(loop, tcp::socket(loop.context()), std::move(options), Tls::Role::kConnecting), address_(std::move(address)), handlers_(std::move(handlers)),
        done_(std::move(done)), resolver_(loop.context()), handshake_(options_.self, options_.token, RandomNonce()) {}

  void Start() {
    StartTimer("connecting to " + address_);
    const auto url = ParseUrl("http://" + address_);
    if (!url.ok() || url->target != "/") return End(InvalidArgument(fmt::format("'{}' is not host:port", address_)));
    resolver_.async_resolve(url->host, std::to_string(url->port), [self = Mine()](error_code error, const tcp::resolver::results_type& found) {
      if (self->ended_) return;
      if (error) return self->End(Unavailable(fmt::format("cannot find {}: {}", self->address_, error.message())));
      asio::async_connect(self->socket_->tcp(), found, [self](error_code failed, const tcp::endpoint&) { self->OnConnected(failed); });
    });
  }

 private:
  std::shared_ptr<Connecting> Mine() { return std::static_pointer_cast<Connecting>(shared_from_this()); }

  void OnConnected(error_code error) {
    if (ended_) return;
    if (error) return End(Unavailable(fmt::format("cannot connect to {}: {}", address_, error.message())));
    Secure([self = Mine()] { self->Introduce(); });
  }

  void Introduce() {
    Write(handshake_.hello(), [self = Mine()] {
      self->ReadMessage([self](ByteView challenge) {
        auto proof = self->handshake_.OnChallenge(challenge);
        if (!proof.ok()) return self->End(proof.error().Within("channel to " + self->address_));
        self->Write(*proof, [self] {
          self->ReadMessage([self](ByteView verdict) {
            if (const Status status = self->handshake_.OnVerdict(verdict); !status.ok()) {
              return self->End(status.error().Within("channel to " + self->address_));
            }
            self->End(self->MakeChannel(self->handshake_.peer()));
          });
        });
      });
    });
  }

  std::string Where() const override { return "channel to " + address_; }

  void Ended(Result<std::shared_ptr<ChannelImpl>> result) override {
    resolver_.cancel();
    const auto done = std::move(done_);
    done_ = nullptr;
    if (!result.ok()) return done(result.error());
    (*result)->Start(std::move(handlers_));
    done(std::shared_ptr<Channel>(*result));
  }

  const std::string address_;
  ChannelHandlers handlers_;
  std::function<void(Result<std::shared_ptr<Channel>>)> done_;
  tcp::resolver resolver_;
  ConnectingHandshake handshake_;
};

class Accepting;

struct ChannelServerState {
  ChannelServerState(EventLoop& l, ChannelServer::Options o, ChannelServer::AcceptHandler h)
      : loop(l), options(std::move(o)), on_accept(std::move(h)), acceptor(l.context()) {}
  EventLoop& loop;
  ChannelServer::Options options;
  ChannelServer::AcceptHandler on_accept;
  tcp::acceptor acceptor;
  Timer retry;
  std::unordered_set<std::shared_ptr<Accepting>> openings;
  std::unordered_set<std::shared_ptr<ChannelImpl>> channels;
};

class Accepting final : public Opening {
 public:
  Accepting(std::shared_ptr<ChannelServerState> server, tcp::socket socket)
      : Opening(server->loop, std::move(socket), server->options.channel, Tls::Role::kAccepting), server_(std::move(server)),
        handshake_(options_.self, options_.token, RandomNonce()) {}

  void Start() {
    StartTimer("the channel's handshake");
    Secure([self = Mine()] { self->Prove(); });
  }

 private:
  void Prove() {
    ReadMessage([self = Mine()](ByteView hello) {
      auto challenge = self->handshake_.OnHello(hello);
      if (!challenge.ok()) return self->Refuse(challenge.error());
      self->Write(*challenge, [self] {
        self->ReadMessage([self](ByteView proof) {
          const Status proven = self->handshake_.OnProof(proof);
          if (!proven.ok()) return self->Refuse(proven.error());
          self->Write(AcceptingHandshake::Verdict(proven), [self] { self->End(self->MakeChannel(self->handshake_.peer())); });
        });
      });
    });
  }

  std::shared_ptr<Accepting> Mine() { return std::static_pointer_cast<Accepting>(shared_from_this()); }

  std::string Where() const override { return "a peer's channel"; }

  void Refuse(const Error& error) {
    Write(AcceptingHandshake::Verdict(error), [self = Mine(), error] { self->End(error); });
  }

  void Ended(Result<std::shared_ptr<ChannelImpl>> result) override {
    server_->openings.erase(Mine());
    if (!result.ok() || !server_->on_accept) return;
    const auto channel = *result;
    const std::weak_ptr<ChannelServerState> weak = server_;
    channel->on_end = [weak, key = channel.get()] {
      const auto server = weak.lock();
      if (server) server->channels.erase(std::static_pointer_cast<ChannelImpl>(key->shared_from_this()));
    };
    server_->channels.insert(channel);
    channel->Start(server_->on_accept(channel));
  }

  const std::shared_ptr<ChannelServerState> server_;
  AcceptingHandshake handshake_;
};

void Accept(const std::shared_ptr<ChannelServerState>& server) {
  server->acceptor.async_accept([server](error_code error, tcp::socket socket) {
    if (!server->acceptor.is_open()) return;
    if (error) {  // Out of descriptors, for example: go on when some may be free again.
      server->retry = server->loop.After(std::chrono::milliseconds(100), [server] { Accept(server); });
      return;
    }
    if (server->channels.size() + server->openings.size() < server->options.channels_max) {
      auto opening = std::make_shared<Accepting>(server, std::move(socket));
      server->openings.insert(opening);
      opening->Start();
    }
    Accept(server);
  });
}

class ChannelServerImpl final : public ChannelServer {
 public:
  ChannelServerImpl(std::shared_ptr<ChannelServerState> state, tcp::endpoint endpoint)
      : state_(std::move(state)), endpoint_(std::move(endpoint)) {}
  ~ChannelServerImpl() override {
    state_->loop.Run([this] {
      error_code ignored;
      state_->acceptor.close(ignored);
      state_->retry = Timer();
      state_->on_accept = nullptr;
      for (const auto& opening : std::vector(state_->openings.begin(), state_->openings.end())) opening->Drop();
      for (const auto& channel : std::vector(state_->channels.begin(), state_->channels.end())) channel->Drop();
    });
  }
  std::uint16_t port() const override { return endpoint_.port(); }
  std::string address() const override { return AddressOf(endpoint_); }

 private:
  std::shared_ptr<ChannelServerState> state_;
  const tcp::endpoint endpoint_;
};

}  // namespace

Result<std::unique_ptr<ChannelServer>> ChannelServer::Listen(EventLoop& loop, Options options, AcceptHandler on_accept) {
  error_code error;
  const auto address = asio::ip::make_address(options.address, error);
  if (error) return InvalidArgument(fmt::format("{} is not an IP address to listen on", options.address));
  if (!address.is_loopback() && options.channel.token.empty()) {
    return PermissionDenied(fmt::format("listening for agents on {} needs a token: give --token-file", options.address));
  }
  if (!address.is_loopback() && options.channel.plaintext) {
    return PermissionDenied(fmt::format("agents on {} do not speak in plaintext: that is for loopback alone", options.address));
  }
  const tcp::endpoint endpoint(address, options.port);
  auto state = std::make_shared<ChannelServerState>(loop, std::move(options), std::move(on_accept));
  state->acceptor.open(endpoint.protocol(), error);
  if (!error) state->acceptor.set_option(tcp::acceptor::reuse_address(true), error);
  if (!error) state->acceptor.bind(endpoint, error);
  if (!error) state->acceptor.listen(128, error);
  if (error) return Unavailable(fmt::format("cannot listen on {}: {}", AddressOf(endpoint), error.message()));
  const tcp::endpoint bound = state->acceptor.local_endpoint(error);
  loop.Run([&] { Accept(state); });
  return std::unique_ptr<ChannelServer>(new ChannelServerImpl(std::move(state), bound));
}

void ConnectChannel(EventLoop& loop, const std::string& address, ChannelOptions options, ChannelHandlers handlers,
                    std::function<void(Result<std::shared_ptr<Channel>>)> done) {
  auto connecting = std::make_shared<Connecting>(loop, address, std::move(options), std::move(handlers), std::move(done));
  loop.Post([connecting] { connecting->Start(); });
}

}  // namespace godwit::transport
