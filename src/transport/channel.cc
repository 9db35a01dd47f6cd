#include "transport/channel.h"

#include <deque>
#include <mutex>
#include <unordered_map>
#include <unordered_set>

#include <boost/asio/connect.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/read.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/write.hpp>
#include <fmt/format.h>

#include "transport/channel_handshake.h"
#include "transport/frame_parser.h"
#include "transport/http_client.h"
#include "transport/link_shaper.h"

namespace godwit::transport {

namespace {

namespace asio = boost::asio;
using asio::ip::tcp;
using boost::system::error_code;
using Clock = std::chrono::steady_clock;

constexpr std::size_t kReadBytes = 256 << 10;
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
  ChannelImpl(EventLoop& loop, tcp::socket socket, const ChannelOptions& options, ChannelIdentity peer, std::string address,
              std::uint64_t sent, std::uint64_t received)
      : loop_(loop), socket_(std::move(socket)), timer_(loop.context()), peer_(std::move(peer)), address_(std::move(address)),
        ping_interval_(options.ping_interval), loss_timeout_(options.loss_timeout), shaper_(options.shape) {
    bytes_sent_ = sent;
    bytes_received_ = received;
  }

  std::function<void()> on_end;  // For the owner, when the channel has closed.

  void Start(ChannelHandlers handlers) {
    if (!open_) return;
    handlers_ = std::move(handlers);
    received_at_ = Clock::now();
    buffer_.resize(kReadBytes);
    Read();
    Tick();
  }

  const ChannelIdentity& peer() const override { return peer_; }
  const std::string& peer_address() const override { return address_; }
  EventLoop& loop() override { return loop_; }
  bool open() const override { return open_; }
  std::uint64_t NextCall() override { return next_call_++; }
  std::size_t queued_bytes() const override { return queued_; }
  ChannelCounters counters() const override { return {bytes_sent_, bytes_received_, frames_sent_, frames_received_}; }

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
    socket_.async_read_some(asio::buffer(buffer_), [self = Self()](error_code error, std::size_t n) { self->OnRead(error, n); });
  }

  void OnRead(error_code error, std::size_t n) {
    if (!open_) return;
    if (error) {
      return Fail(Unavailable(fmt::format("the channel to {} was lost: {}", peer_.device.value,
                                          error == asio::error::eof ? "closed by the peer" : error.message())));
    }
    bytes_received_ += n;
    received_at_ = Clock::now();
    const Status fed = parser_.Feed(ByteView(buffer_).first(n), [this](Frame frame) {
      ++frames_received_;
      OnFrame(std::move(frame));
      return open_.load();
    });
    if (!fed.ok()) return Fail(fed.error().Within("channel to " + peer_.device.value));
    if (open_) Read();
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
    asio::async_write(socket_, asio::buffer(out_), [self = Self()](error_code error, std::size_t n) { self->OnWritten(error, n); });
  }

  void OnWritten(error_code error, std::size_t n) {
    bytes_sent_ += n;
    writing_ = false;
    if (!open_) return;
    if (error) return Fail(Unavailable(fmt::format("the channel to {} was lost: {}", peer_.device.value, error.message())));
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
    error_code ignored;
    socket_.shutdown(tcp::socket::shutdown_both, ignored);
    socket_.close(ignored);
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
  tcp::socket socket_;
  asio::steady_timer timer_;
  const ChannelIdentity peer_;
  const std::string address_;
  const std::chrono::milliseconds ping_interval_, loss_timeout_;
  ChannelHandlers handlers_;
  FrameParser parser_;
  Bytes buffer_;
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
  std::atomic<std::uint64_t> bytes_sent_{0}, bytes_received_{0}, frames_sent_{0}, frames_received_{0};
  std::atomic<std::size_t> queued_{0};  // Pending, delayed and being written.
  std::atomic<bool> open_{true};        // Written under mutex_.
  std::mutex mutex_;
  Bytes pending_;
  bool flush_posted_ = false;
};

// Reads and writes handshake messages on a fresh socket, under one timeout. Ends by handing the socket on.
class Opening : public std::enable_shared_from_this<Opening> {
 public:
  Opening(EventLoop& loop, tcp::socket socket, ChannelOptions options)
      : loop_(loop), socket_(std::move(socket)), options_(std::move(options)) {}
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

  void Write(const Bytes& message, std::function<void()> next) {
    out_.clear();
    PutU32(out_, message.size());
    out_.insert(out_.end(), message.begin(), message.end());
    asio::async_write(socket_, asio::buffer(out_), [self = shared_from_this(), next = std::move(next)](error_code error, std::size_t n) {
      if (self->ended_) return;
      self->sent_ += n;
      if (error) return self->End(Unavailable("the peer closed the connection during the channel's handshake"));
      next();
    });
  }

  void ReadMessage(std::function<void(ByteView)> next) {
    in_.resize(4);
    asio::async_read(socket_, asio::buffer(in_), [self = shared_from_this(), next = std::move(next)](error_code error, std::size_t n) mutable {
      if (self->ended_) return;
      self->received_ += n;
      if (error) return self->End(Unavailable("the peer closed the connection during the channel's handshake"));
      const std::size_t bytes = self->in_[0] | self->in_[1] << 8 | self->in_[2] << 16 | static_cast<std::size_t>(self->in_[3]) << 24;
      if (bytes == 0 || bytes > kHandshakeBytesMax) return self->End(Corrupt("the peer does not speak the agent channel's protocol"));
      self->in_.resize(bytes);
      asio::async_read(self->socket_, asio::buffer(self->in_), [self, next = std::move(next)](error_code failed, std::size_t m) {
        if (self->ended_) return;
        self->received_ += m;
        if (failed) return self->End(Unavailable("the peer closed the connection during the channel's handshake"));
        next(self->in_);
      });
    });
  }

  std::shared_ptr<ChannelImpl> MakeChannel(const ChannelIdentity& peer) {
    error_code ignored;
    socket_.set_option(tcp::no_delay(true), ignored);
    const auto remote = socket_.remote_endpoint(ignored);
    return std::make_shared<ChannelImpl>(loop_, std::move(socket_), options_, peer, AddressOf(remote), sent_, received_);
  }

  void End(Result<std::shared_ptr<ChannelImpl>> result) {
    if (ended_) return;
    ended_ = true;
    const auto self = shared_from_this();
    timer_ = Timer();
    if (!result.ok()) {
      error_code ignored;
      socket_.close(ignored);
    }
    Ended(std::move(result));
  }
  virtual void Ended(Result<std::shared_ptr<ChannelImpl>> result) = 0;

  EventLoop& loop_;
  tcp::socket socket_;
  const ChannelOptions options_;
  bool ended_ = false;

 private:
  Timer timer_;
  Bytes in_, out_;
  std::uint64_t sent_ = 0, received_ = 0;
};

class Connecting final : public Opening {
 public:
  Connecting(EventLoop& loop, std::string address, ChannelOptions options, ChannelHandlers handlers,
             std::function<void(Result<std::shared_ptr<Channel>>)> done)
      : Opening(loop, tcp::socket(loop.context()), std::move(options)), address_(std::move(address)), handlers_(std::move(handlers)),
        done_(std::move(done)), resolver_(loop.context()), handshake_(options_.self, options_.token, RandomNonce()) {}

  void Start() {
    StartTimer("connecting to " + address_);
    const auto url = ParseUrl("http://" + address_);
    if (!url.ok() || url->target != "/") return End(InvalidArgument(fmt::format("'{}' is not host:port", address_)));
    resolver_.async_resolve(url->host, std::to_string(url->port), [self = Mine()](error_code error, const tcp::resolver::results_type& found) {
      if (self->ended_) return;
      if (error) return self->End(Unavailable(fmt::format("cannot find {}: {}", self->address_, error.message())));
      asio::async_connect(self->socket_, found, [self](error_code failed, const tcp::endpoint&) { self->OnConnected(failed); });
    });
  }

 private:
  std::shared_ptr<Connecting> Mine() { return std::static_pointer_cast<Connecting>(shared_from_this()); }

  void OnConnected(error_code error) {
    if (ended_) return;
    if (error) return End(Unavailable(fmt::format("cannot connect to {}: {}", address_, error.message())));
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
      : Opening(server->loop, std::move(socket), server->options.channel), server_(std::move(server)),
        handshake_(options_.self, options_.token, RandomNonce()) {}

  void Start() {
    StartTimer("the channel's handshake");
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

 private:
  std::shared_ptr<Accepting> Mine() { return std::static_pointer_cast<Accepting>(shared_from_this()); }

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
