#include "transport/kept_connection.h"

#include <algorithm>
#include <array>
#include <string_view>
#include <utility>

#include <boost/asio/connect.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/write.hpp>
#include <fmt/format.h>

namespace godwit::transport {
namespace {

namespace asio = boost::asio;
using tcp = asio::ip::tcp;
using Code = boost::system::error_code;

// What both directions share: the question that waits, and its time-out.
template <typename T>
struct Question {
  std::function<void(Result<T>)> done;
  Timer timeout;

  bool waits() const { return static_cast<bool>(done); }
  void Answer(Result<T> result) {
    timeout = {};
    // Last: it may ask again.
    if (const auto answer = std::exchange(done, nullptr)) answer(std::move(result));
  }
};

class Connection final : public KeptConnection, public std::enable_shared_from_this<Connection> {
 public:
  Connection(EventLoop& loop, tcp::socket socket) : loop_(loop), socket_(std::move(socket)) {}

  void Start() {
    Code ignored;
    static_cast<void>(socket_.set_option(tcp::no_delay(true), ignored));
    Receive();
  }
  void Close() {
    Code ignored;
    static_cast<void>(socket_.close(ignored));
    Break(Unavailable("the connection was closed here"));
  }

  void Read(std::uint64_t offset, std::size_t length, std::chrono::milliseconds wait,
            std::function<void(Result<Received>)> done) override {
    read_.Answer(Aborted("another read took its place"));
    if (offset < in_base_ || offset > in_base_ + in_.size()) {
      return done(InvalidArgument(fmt::format("bytes {} to {} of the connection are here, not {}", in_base_, in_base_ + in_.size(), offset)));
    }
    in_.erase(0, offset - in_base_);
    in_base_ = offset;
    Receive();
    if (in_.empty() && !in_ended_ && broken_.ok()) {
      read_length_ = length;
      read_.done = std::move(done);
      read_.timeout = loop_.After(wait, [this] { read_.Answer(Received{}); });
      return;
    }
    done(Take(length));
  }

  void Write(std::uint64_t offset, ByteView bytes, std::chrono::milliseconds wait,
             std::function<void(Result<std::uint64_t>)> done) override {
    write_.Answer(Aborted("another write took its place"));
    if (offset > out_end_) return done(InvalidArgument(fmt::format("{} bytes were written to the connection, not {}", out_end_, offset)));
    const ByteView fresh = bytes.subspan(std::min<std::uint64_t>(out_end_ - offset, bytes.size()));
    if (!broken_.ok()) return done(broken_.error());
    if (fresh.empty()) return done(offset + bytes.size());
    if (Queue(AsText(fresh))) return done(out_end_);
    write_bytes_ = AsText(fresh);
    write_.done = std::move(done);
    write_.timeout = loop_.After(wait, [this] { write_.Answer(out_end_); });
  }

 private:
  Result<Received> Take(std::size_t length) {
    if (!in_.empty()) {
      const std::string_view part = std::string_view(in_).substr(0, length);
      return Received{Bytes(part.begin(), part.end()), false};
    }
    if (in_ended_) return Received{{}, true};
    return broken_.error();
  }
  void Break(Error error) {
    if (!broken_.ok()) return;
    broken_ = error;
    if (read_.waits()) read_.Answer(Take(read_length_));
    write_.Answer(std::move(error));
  }
  void Receive() {
    if (receiving_ || in_ended_ || !broken_.ok() || in_.size() >= kKeptBytesMax) return;
    receiving_ = true;
    socket_.async_read_some(asio::buffer(buffer_), [self = shared_from_this()](Code code, std::size_t bytes) { self->OnReceived(code, bytes); });
  }
  void OnReceived(Code code, std::size_t bytes) {
    receiving_ = false;
    in_.append(reinterpret_cast<const char*>(buffer_.data()), bytes);
    if (code == asio::error::eof) {
      in_ended_ = true;
    } else if (code) {
      return Break(Unavailable("the connection broke: " + code.message()));
    }
    if (read_.waits() && (!in_.empty() || in_ended_)) read_.Answer(Take(read_length_));
    Receive();
  }
  // False: there is no room.
  bool Queue(std::string_view bytes) {
    const std::size_t taken = std::min(bytes.size(), kKeptBytesMax - std::min(kKeptBytesMax, out_.size() + sending_.size()));
    out_.append(bytes.substr(0, taken));
    out_end_ += taken;
    Send();
    return taken > 0;
  }
  void Send() {
    if (!sending_.empty() || out_.empty()) return;
    sending_.swap(out_);
    asio::async_write(socket_, asio::buffer(sending_), [self = shared_from_this()](Code code, std::size_t) { self->OnSent(code); });
  }
  void OnSent(Code code) {
    sending_.clear();
    if (code) return Break(Unavailable("the connection broke: " + code.message()));
    Send();
    if (write_.waits() && Queue(write_bytes_)) write_.Answer(out_end_);
  }

  EventLoop& loop_;
  tcp::socket socket_;
  Status broken_;

  std::array<std::uint8_t, 64 << 10> buffer_;
  bool receiving_ = false, in_ended_ = false;
  std::string in_;
  std::uint64_t in_base_ = 0;  // Offset of in_'s first byte.
  Question<Received> read_;
  std::size_t read_length_ = 0;

  std::string out_, sending_;
  std::uint64_t out_end_ = 0;  // Offset after the last byte taken.
  Question<std::uint64_t> write_;
  std::string write_bytes_;
};

// What users hold: its end closes the connection, which its own operations keep alive until they have ended.
class Handle final : public KeptConnection {
 public:
  explicit Handle(std::shared_ptr<Connection> connection) : connection_(std::move(connection)) {}
  ~Handle() override { connection_->Close(); }
  void Read(std::uint64_t offset, std::size_t length, std::chrono::milliseconds wait, std::function<void(Result<Received>)> done) override {
    connection_->Read(offset, length, wait, std::move(done));
  }
  void Write(std::uint64_t offset, ByteView bytes, std::chrono::milliseconds wait, std::function<void(Result<std::uint64_t>)> done) override {
    connection_->Write(offset, bytes, wait, std::move(done));
  }

 private:
  const std::shared_ptr<Connection> connection_;
};

struct Attempt : std::enable_shared_from_this<Attempt> {
  Attempt(EventLoop& loop, std::string to) : resolver(loop.context()), socket(loop.context()), loop(loop), address(std::move(to)) {}
  void End(Result<std::shared_ptr<KeptConnection>> result) {
    timeout = {};
    if (const auto answer = std::exchange(done, nullptr)) answer(std::move(result));
  }
  tcp::resolver resolver;
  tcp::socket socket;
  EventLoop& loop;
  const std::string address;
  Timer timeout;
  std::function<void(Result<std::shared_ptr<KeptConnection>>)> done;
};

}  // namespace

void ConnectKept(EventLoop& loop, const std::string& host, std::uint16_t port, std::chrono::milliseconds timeout,
                 std::function<void(Result<std::shared_ptr<KeptConnection>>)> done) {
  auto attempt = std::make_shared<Attempt>(loop, fmt::format("{}:{}", host, port));
  attempt->done = std::move(done);
  attempt->timeout = loop.After(timeout, [attempt, timeout] {
    attempt->resolver.cancel();
    Code ignored;
    static_cast<void>(attempt->socket.close(ignored));
    attempt->End(DeadlineExceeded(fmt::format("no connection to {} within {} ms", attempt->address, timeout.count())));
  });
  attempt->resolver.async_resolve(host, std::to_string(port), [attempt](Code code, const tcp::resolver::results_type& addresses) {
    if (code) return attempt->End(Unavailable("cannot find " + attempt->address + ": " + code.message()));
    asio::async_connect(attempt->socket, addresses, [attempt](Code failed, const tcp::endpoint&) {
      if (failed) return attempt->End(Unavailable("cannot connect to " + attempt->address + ": " + failed.message()));
      if (!attempt->done) return;
      auto connection = std::make_shared<Connection>(attempt->loop, std::move(attempt->socket));
      connection->Start();
      attempt->End(std::shared_ptr<KeptConnection>(std::make_shared<Handle>(std::move(connection))));
    });
  });
}

}  // namespace godwit::transport
