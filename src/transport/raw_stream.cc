#include "transport/raw_stream.h"

#include <arpa/inet.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sched.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include <fmt/format.h>

#include "transport/channel_handshake.h"

namespace godwit::transport {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::size_t kRecordBytes = 16 << 10;       // Of plain text, the most that one TLS record holds.
constexpr std::size_t kWireBytes = 256 << 10;        // Given to and taken from the socket at once.
constexpr std::size_t kHandshakeReadBytes = 4 << 10;
// The peer's next message of the handshake is waited for that long without sleeping: it is expected at once, and each sleep costs as much as all of them.
constexpr std::chrono::microseconds kHandshakeSpin{300};

Error Lost(int error, const char* while_doing) {
  if (error == EAGAIN || error == EWOULDBLOCK) return Unavailable(fmt::format("the peer of a page stream is silent ({})", while_doing));
  return Unavailable(fmt::format("a page stream was lost while {}: {}", while_doing, std::strerror(error)));
}

// Of any family; -1 with errno where none can be made.
int ConnectTo(const std::string& host, std::uint16_t port, std::chrono::milliseconds timeout) {
  addrinfo hints{}, *found = nullptr;
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_NUMERICSERV;
  if (getaddrinfo(host.c_str(), std::to_string(port).c_str(), &hints, &found) != 0) {
    errno = EHOSTUNREACH;
    return -1;
  }
  int fd = -1;
  for (const addrinfo* address = found; address != nullptr && fd < 0; address = address->ai_next) {
    fd = socket(address->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0) continue;
    // Bounds connect too.
    const timeval limit{.tv_sec = timeout.count() / 1000, .tv_usec = timeout.count() % 1000 * 1000};
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
    if (connect(fd, address->ai_addr, address->ai_addrlen) != 0) {
      const int error = errno;
      close(fd);
      errno = error;
      fd = -1;
    }
  }
  freeaddrinfo(found);
  return fd;
}

}  // namespace

RawStream::RawStream(int fd, const ChannelOptions& options, Tls::Role role)
    : fd_(fd), tls_(options.plaintext ? nullptr : std::make_unique<Tls>(role, options.token)) {
  const int on = 1;
  setsockopt(fd_, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  // What has been written and is not acknowledged for so long makes the stream fail.
  const auto user_timeout = static_cast<unsigned>(options.loss_timeout.count());
  setsockopt(fd_, IPPROTO_TCP, TCP_USER_TIMEOUT, &user_timeout, sizeof user_timeout);
}

RawStream::~RawStream() { close(fd_); }

Status RawStream::SetTimeouts(std::chrono::milliseconds timeout) {
  const timeval limit{.tv_sec = timeout.count() / 1000, .tv_usec = timeout.count() % 1000 * 1000};
  if (setsockopt(fd_, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit) != 0 ||
      setsockopt(fd_, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit) != 0) {
    return ErrnoError("time limits of a page stream");
  }
  return {};
}

Status RawStream::WriteMessage(ByteView message) {
  std::uint8_t head[4];
  for (int i = 0; i < 4; ++i) head[i] = static_cast<std::uint8_t>(message.size() >> (8 * i));
  iovec pieces[] = {{head, sizeof head}, {const_cast<std::uint8_t*>(message.data()), message.size()}};
  return Write(pieces);
}

Result<Bytes> RawStream::ReadMessage() {
  SpinForInput(kHandshakeSpin);
  std::uint8_t head[4];
  GODWIT_TRY(Read(head));
  const std::size_t bytes = head[0] | head[1] << 8 | head[2] << 16 | static_cast<std::size_t>(head[3]) << 24;
  if (bytes == 0 || bytes > kHandshakeBytesMax) return Corrupt("the peer of a page stream does not speak the agents' handshake");
  Bytes message(bytes);
  GODWIT_TRY(Read(message));
  return message;
}

Result<std::unique_ptr<RawStream>> RawStream::Connect(const std::string& host, std::uint16_t port, const ChannelOptions& options) {
  const int fd = ConnectTo(host, port, options.handshake_timeout);
  if (fd < 0) return Unavailable(fmt::format("no page stream to {}:{}: {}", host, port, std::strerror(errno)));
  std::unique_ptr<RawStream> stream(new RawStream(fd, options, Tls::Role::kConnecting));
  GODWIT_TRY(stream->SetTimeouts(options.handshake_timeout));
  GODWIT_TRY(stream->Secure());
  ConnectingHandshake handshake(options.self, options.token, RandomNonce());
  GODWIT_TRY(stream->WriteMessage(handshake.hello()));
  GODWIT_ASSIGN(const Bytes challenge, stream->ReadMessage());
  GODWIT_ASSIGN(const Bytes proof, handshake.OnChallenge(challenge));
  GODWIT_TRY(stream->WriteMessage(proof));
  GODWIT_ASSIGN(const Bytes verdict, stream->ReadMessage());
  GODWIT_TRY(handshake.OnVerdict(verdict));
  stream->peer_ = handshake.peer();
  GODWIT_TRY(stream->SetTimeouts(std::chrono::milliseconds(0)));
  return stream;
}

Status RawStream::Secure() {
  while (tls_) {
    const auto shaken = tls_->Handshake();
    sealed_.swap(tls_->outgoing());
    tls_->outgoing().clear();
    const Status sent = SendSealed();
    if (!shaken.ok()) return shaken.error();
    GODWIT_TRY(sent);
    if (*shaken) break;
    SpinForInput(kHandshakeSpin);
    GODWIT_ASSIGN(const std::size_t n, Receive(tls_->Space(kHandshakeReadBytes)));
    tls_->Received(n);
  }
  return {};
}

Status RawStream::Send(std::span<iovec> pieces) {
  constexpr std::size_t kPiecesAtOnce = 512;
  while (!pieces.empty()) {
    msghdr message{};
    message.msg_iov = pieces.data();
    message.msg_iovlen = std::min(pieces.size(), kPiecesAtOnce);
    const ssize_t n = sendmsg(fd_, &message, MSG_NOSIGNAL);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return Lost(errno, "writing");
    written_ += static_cast<std::uint64_t>(n);
    auto done = static_cast<std::size_t>(n);
    while (!pieces.empty() && done >= pieces.front().iov_len) {
      done -= pieces.front().iov_len;
      pieces = pieces.subspan(1);
    }
    if (done != 0) {
      pieces.front().iov_base = static_cast<std::uint8_t*>(pieces.front().iov_base) + done;
      pieces.front().iov_len -= done;
    }
  }
  return {};
}

Status RawStream::SendSealed() {
  iovec piece{sealed_.data(), sealed_.size()};
  const Status sent = Send({&piece, sealed_.empty() ? 0u : 1u});
  sealed_.clear();
  return sent;
}

Status RawStream::Seal(ByteView plain) {
  {
    const std::lock_guard lock(mutex_);
    GODWIT_TRY(tls_->Write(plain));
    if (tls_->outgoing().size() < kWireBytes) return {};
    sealed_.swap(tls_->outgoing());
  }
  return SendSealed();
}

Status RawStream::WriteSealed(std::span<iovec> pieces) {
  for (const iovec& piece : pieces) {
    ByteView rest(static_cast<const std::uint8_t*>(piece.iov_base), piece.iov_len);
    while (!rest.empty()) {
      // Heads and single pages share a record.
      const bool large = gathered_.empty() && rest.size() >= kRecordBytes;
      const std::size_t n = std::min(rest.size(), large ? kWireBytes : kRecordBytes - gathered_.size());
      if (large) GODWIT_TRY(Seal(rest.first(n)));
      else gathered_.insert(gathered_.end(), rest.begin(), rest.begin() + static_cast<std::ptrdiff_t>(n));
      rest = rest.subspan(n);
      if (gathered_.size() < kRecordBytes) continue;
      GODWIT_TRY(Seal(gathered_));
      gathered_.clear();
    }
  }
  GODWIT_TRY(Seal(gathered_));
  gathered_.clear();
  {
    const std::lock_guard lock(mutex_);
    sealed_.swap(tls_->outgoing());
  }
  return SendSealed();
}

Status RawStream::Write(std::span<iovec> pieces) { return tls_ ? WriteSealed(pieces) : Send(pieces); }

Status RawStream::Write(ByteView bytes) {
  iovec piece{const_cast<std::uint8_t*>(bytes.data()), bytes.size()};
  return Write({&piece, 1});
}

Result<std::size_t> RawStream::Receive(std::span<std::uint8_t> to) {
  while (true) {
    const ssize_t n = recv(fd_, to.data(), to.size(), 0);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return Error(Lost(errno, "reading"));
    if (n == 0) return Error(Unavailable("a page stream was closed by the peer"));
    return static_cast<std::size_t>(n);
  }
}

// Only the reading thread touches what has come and not been decrypted, so the socket may write there without the lock.
Status RawStream::ReceiveSealed() {
  GODWIT_ASSIGN(const std::size_t n, Receive(tls_->Space(kWireBytes)));
  tls_->Received(n);
  return {};
}

Status RawStream::Read(std::span<std::uint8_t> to) {
  while (!to.empty()) {
    std::size_t n = 0;
    if (!tls_) {
      GODWIT_ASSIGN(n, Receive(to));
    } else {
      {
        const std::lock_guard lock(mutex_);
        GODWIT_ASSIGN(n, tls_->Read(to));
      }
      if (n == 0) GODWIT_TRY(ReceiveSealed());
    }
    to = to.subspan(n);
  }
  return {};
}

void RawStream::SpinForInput(std::chrono::microseconds most) {
  if (tls_) {
    const std::lock_guard lock(mutex_);
    if (tls_->HasInput()) return;
  }
  const auto end = Clock::now() + most;
  std::uint8_t byte;
  while (recv(fd_, &byte, 1, MSG_PEEK | MSG_DONTWAIT) < 0 && (errno == EAGAIN || errno == EINTR) && Clock::now() < end) {
    // Busy: waking a sleeping thread costs more than the wait is expected to last. Who has something to do goes first.
    sched_yield();
  }
}

void RawStream::Shut() { shutdown(fd_, SHUT_RDWR); }

Result<std::unique_ptr<RawListener>> RawListener::Listen(const std::string& address) {
  sockaddr_storage storage{};
  socklen_t length = 0;
  auto* four = reinterpret_cast<sockaddr_in*>(&storage);
  auto* six = reinterpret_cast<sockaddr_in6*>(&storage);
  if (inet_pton(AF_INET, address.c_str(), &four->sin_addr) == 1) {
    four->sin_family = AF_INET;
    length = sizeof *four;
  } else if (inet_pton(AF_INET6, address.c_str(), &six->sin6_addr) == 1) {
    six->sin6_family = AF_INET6;
    length = sizeof *six;
  } else {
    return InvalidArgument(fmt::format("{} is not an IP address to listen on", address));
  }
  const int fd = socket(storage.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0) return ErrnoError("a socket for page streams");
  const int wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (wake < 0 || bind(fd, reinterpret_cast<sockaddr*>(&storage), length) != 0 || listen(fd, 16) != 0 ||
      getsockname(fd, reinterpret_cast<sockaddr*>(&storage), &length) != 0) {
    const Error error = ErrnoError(fmt::format("listening for page streams on {}", address));
    if (wake >= 0) close(wake);
    close(fd);
    return error;
  }
  const std::uint16_t port = ntohs(storage.ss_family == AF_INET ? four->sin_port : six->sin6_port);
  return std::unique_ptr<RawListener>(new RawListener(fd, wake, port));
}

RawListener::~RawListener() {
  close(fd_);
  close(wake_);
}

void RawListener::Shut() {
  const std::uint64_t one = 1;
  [[maybe_unused]] const auto written = write(wake_, &one, sizeof one);
}

Result<std::unique_ptr<RawStream>> RawListener::Accept(const ChannelOptions& options, std::chrono::milliseconds timeout) {
  const auto end = Clock::now() + timeout;
  while (true) {
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(end - Clock::now());
    if (left.count() <= 0) return DeadlineExceeded(fmt::format("no page stream came within {} ms", timeout.count()));
    pollfd fds[] = {{fd_, POLLIN, 0}, {wake_, POLLIN, 0}};
    if (poll(fds, 2, static_cast<int>(left.count())) < 0 && errno != EINTR) return ErrnoError("waiting for page streams");
    if (fds[1].revents != 0) return Aborted("page streams are not wanted any more");
    const int fd = accept4(fd_, nullptr, nullptr, SOCK_CLOEXEC);
    if (fd < 0) continue;
    std::unique_ptr<RawStream> stream(new RawStream(fd, options, Tls::Role::kAccepting));
    AcceptingHandshake handshake(options.self, options.token, RandomNonce());
    const auto shake = [&]() -> Status {
      GODWIT_TRY(stream->SetTimeouts(std::min(options.handshake_timeout, left)));
      GODWIT_TRY(stream->Secure());
      GODWIT_ASSIGN(const Bytes hello, stream->ReadMessage());
      auto challenge = handshake.OnHello(hello);
      if (!challenge.ok()) {
        static_cast<void>(stream->WriteMessage(AcceptingHandshake::Verdict(challenge.error())).ok());
        return challenge.error();
      }
      GODWIT_TRY(stream->WriteMessage(*challenge));
      GODWIT_ASSIGN(const Bytes proof, stream->ReadMessage());
      const Status proven = handshake.OnProof(proof);
      GODWIT_TRY(stream->WriteMessage(AcceptingHandshake::Verdict(proven)));
      GODWIT_TRY(proven);
      return stream->SetTimeouts(std::chrono::milliseconds(0));
    };
    if (!shake().ok()) continue;  // A stranger: whoever should come still may.
    stream->peer_ = handshake.peer();
    return stream;
  }
}

}  // namespace godwit::transport
