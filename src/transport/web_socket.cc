#include "transport/web_socket.h"

#include <algorithm>
#include <deque>
#include <utility>

#include <boost/beast/core/buffers_prefix.hpp>
#include <boost/beast/websocket/rfc6455.hpp>
#include <boost/beast/websocket/stream.hpp>
#include <fmt/format.h>

namespace godwit::transport {

namespace {

namespace asio = boost::asio;
namespace websocket = boost::beast::websocket;
using asio::ip::tcp;
using boost::system::error_code;

constexpr std::size_t kReadMost = 64 << 10;
constexpr std::size_t kAhead = 64 << 10;  // Pings are seen while something is read, so that is always done as far as this.
constexpr std::size_t kHeadBytes = 5;
constexpr std::size_t kQueueMax = 1 << 20;
constexpr unsigned char kLastPiece = 0x80, kGoesOn = 0, kText = 1, kBinary = 2;
constexpr std::chrono::seconds kAfterClose{10};

Error Lost() { return Unavailable("the client closed the WebSocket"); }

class Impl final : public WebSocket, public std::enable_shared_from_this<Impl> {
 public:
  Impl(EventLoop& loop, tcp::socket socket, std::function<void()> ended)
      : loop_(loop), stream_(std::move(socket)), ended_(std::move(ended)), piece_(kWebSocketPieceMax, 0) {}

  void Start(const boost::beast::http::request<boost::beast::http::buffer_body>& upgrade, HttpHeaders headers) {
    // A client that says nothing is asked by a ping, and lost after five minutes.
    stream_.set_option(websocket::stream_base::timeout::suggested(boost::beast::role_type::server));
    stream_.set_option(websocket::stream_base::decorator([headers = std::move(headers)](websocket::response_type& response) {
      for (const HttpHeader& header : headers) {
        if (ValidHeader(header)) response.insert(header.name, header.value);
      }
    }));
    stream_.auto_fragment(false);
    stream_.read_message_max(0);  // Messages are passed on in pieces.
    stream_.async_accept(upgrade, [self = shared_from_this()](error_code error) {
      if (error) return self->End();
      self->open_ = true;
      self->ReadMore();
      self->WriteMore();
    });
  }

  void Read(std::function<void(Result<std::string>)> done) override {
    if (reader_) return done(FailedPrecondition("two reads of one WebSocket at once"));
    reader_ = std::move(done);
    Deliver();
  }

  void Write(std::string bytes, std::function<void(Status)> done) override {
    if (over_ || client_closed_ || closing_) {
      if (client_closed_) End();
      if (done) done(Lost());
      return;
    }
    if (queued_ > kQueueMax) {
      if (done) done(ResourceExhausted("the WebSocket's client reads too slowly: more than 1 MiB is queued for it"));
      return;
    }
    queued_ += bytes.size();
    queue_.push_back({std::move(bytes), 0, std::move(done)});
    WriteMore();
  }

  void Close(WebSocketClose code) override {
    if (closing_) return;
    closing_ = code;
    if (over_ || client_closed_) return End();
    WriteMore();
  }

  void Cut() override {
    ended_ = nullptr;
    End();
  }

 private:
  struct Item {
    std::string bytes;
    std::size_t at = 0;
    std::function<void(Status)> done;
  };

  void ReadMore() {
    if (!open_ || over_ || client_closed_ || reading_ || incoming_.size() >= kAhead) return;
    reading_ = true;
    stream_.async_read_some(asio::buffer(piece_), [self = shared_from_this()](error_code error, std::size_t n) {
      self->reading_ = false;
      self->OnRead(error, n);
    });
  }

  void OnRead(error_code error, std::size_t n) {
    if (over_) return;
    if (error == websocket::error::closed) {
      client_closed_ = true;
      Deliver();
      if (closing_) return End();
      after_close_ = loop_.After(kAfterClose, [weak = weak_from_this()] {
        if (const auto self = weak.lock()) self->End();
      });
      return;
    }
    if (error) return End();
    if (n > 0 || stream_.is_message_done()) {
      const unsigned char kind = in_message_ ? kGoesOn : stream_.got_text() ? kText : kBinary;
      incoming_ += static_cast<char>(kind | (stream_.is_message_done() ? kLastPiece : 0));
      for (int shift = 0; shift < 32; shift += 8) incoming_ += static_cast<char>(n >> shift & 0xff);
      incoming_.append(piece_, 0, n);
      in_message_ = !stream_.is_message_done();
      Deliver();
    }
    ReadMore();
  }

  void Deliver() {
    if (!reader_ || (incoming_.empty() && !client_closed_ && !over_)) return;
    const auto reader = std::exchange(reader_, nullptr);
    if (incoming_.empty() && !client_closed_) return reader(Lost());
    std::string bytes = incoming_.size() <= kReadMost ? std::exchange(incoming_, {}) : incoming_.substr(0, kReadMost);
    incoming_.erase(0, bytes.size());
    const auto self = shared_from_this();
    reader(std::move(bytes));
    ReadMore();
  }

  // One frame for each piece, or for each part of one where it was written in parts.
  void WriteMore() {
    while (open_ && !over_ && !writing_) {
      if (queue_.empty()) {
        if (!closing_ || client_closed_) return;
        writing_ = true;
        return stream_.async_close(websocket::close_reason(static_cast<std::uint16_t>(*closing_)), [self = shared_from_this()](error_code) { self->End(); });
      }
      Item& item = queue_.front();
      const std::size_t there = item.bytes.size() - item.at;
      if (left_ == 0 && head_.size() < kHeadBytes) {
        const std::size_t taken = std::min(kHeadBytes - head_.size(), there);
        head_.append(item.bytes, item.at, taken);
        item.at += taken;
        if (head_.size() < kHeadBytes) {
          ItemDone();
          continue;
        }
        if (!TakeHead()) return Malformed();
      }
      const std::size_t n = std::min<std::size_t>(left_, item.bytes.size() - item.at);
      if (n == 0 && left_ > 0) {
        ItemDone();
        continue;
      }
      writing_ = true;
      const bool last = last_piece_ && n == left_;
      stream_.async_write_some(last, asio::buffer(item.bytes.data() + item.at, n), [self = shared_from_this(), n, last](error_code error, std::size_t) {
        self->writing_ = false;
        if (self->over_) return;
        if (error) return self->End();
        self->left_ -= static_cast<std::uint32_t>(n);
        self->queue_.front().at += n;
        if (self->left_ == 0) self->head_.clear();
        if (last) self->out_message_ = false;
        if (self->queue_.front().at == self->queue_.front().bytes.size()) self->ItemDone();
        self->WriteMore();
      });
    }
  }

  // False: this is the head of no piece.
  bool TakeHead() {
    const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(head_[i]); };
    const unsigned char kind = byte(0) & ~kLastPiece;
    if (out_message_ ? kind != kGoesOn : kind != kText && kind != kBinary) return false;
    last_piece_ = (byte(0) & kLastPiece) != 0;
    left_ = 0;
    for (std::size_t i = 4; i >= 1; --i) left_ = left_ << 8 | byte(i);
    if (!out_message_) stream_.text(kind == kText);
    out_message_ = true;
    return true;
  }

  void Malformed() {
    const auto self = shared_from_this();
    auto queue = std::exchange(queue_, {});
    for (Item& item : queue) {
      if (item.done) item.done(InvalidArgument("a service's bytes to a WebSocket are not pieces of messages"));
    }
    closing_ = WebSocketClose::kInternalError;
    WriteMore();
  }

  void ItemDone() {
    Item item = std::move(queue_.front());
    queue_.pop_front();
    queued_ -= item.bytes.size();
    if (item.done) item.done(Status());
  }

  void End() {
    if (over_) return;
    over_ = true;
    const auto self = shared_from_this();
    error_code ignored;
    boost::beast::get_lowest_layer(stream_).close(ignored);
    after_close_ = Timer();
    Deliver();
    auto queue = std::exchange(queue_, {});
    for (Item& item : queue) {
      if (item.done) item.done(Lost());
    }
    if (ended_) loop_.Post(std::exchange(ended_, nullptr));
  }

  EventLoop& loop_;
  websocket::stream<tcp::socket, false> stream_;
  std::function<void()> ended_;
  std::string piece_;     // What is read into.
  std::string incoming_;  // Pieces that nobody has read.
  std::function<void(Result<std::string>)> reader_;
  std::deque<Item> queue_;
  std::size_t queued_ = 0;
  std::string head_;        // Of the piece that is being written; empty between pieces.
  std::uint32_t left_ = 0;  // Of it.
  std::optional<WebSocketClose> closing_;
  Timer after_close_;
  bool open_ = false, over_ = false, client_closed_ = false;
  bool reading_ = false, writing_ = false;
  bool in_message_ = false, out_message_ = false, last_piece_ = false;
};

}  // namespace

std::shared_ptr<WebSocket> WebSocket::Accept(EventLoop& loop, tcp::socket socket,
                                             const boost::beast::http::request<boost::beast::http::buffer_body>& upgrade, HttpHeaders headers,
                                             std::function<void()> ended) {
  auto made = std::make_shared<Impl>(loop, std::move(socket), std::move(ended));
  made->Start(upgrade, std::move(headers));
  return made;
}

}  // namespace godwit::transport
