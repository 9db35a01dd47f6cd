#include "runtime/wasi_sockets.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/random.h>
#include <sys/socket.h>

#include <cerrno>
#include <charconv>

#include "runtime/into_guest.h"

namespace godwit::runtime {
namespace {

bool PollNow(int fd, short events) {
  pollfd entry{fd, events, 0};
  int ready;
  do {
    ready = ::poll(&entry, 1, 0);
  } while (ready < 0 && errno == EINTR);
  return ready != 0;  // An error is found by the call that follows.
}

Error ConnectionError(const char* what) {
  if (errno == ECONNRESET || errno == ENOTCONN || errno == ETIMEDOUT) return Aborted("connection: reset");
  if (errno == EPIPE) return Unavailable("connection: the peer takes no more");
  return ErrnoError(what);
}

struct Address {
  sockaddr_storage storage{};
  socklen_t bytes = 0;
};

// "ADDRESS:PORT", with brackets around an IPv6 address, or "localhost:PORT".
Result<Address> ParseAddress(const std::string& text) {
  const std::size_t colon = text.rfind(':');
  const auto bad = [&] { return InvalidArgument("'" + text + "' is not ADDRESS:PORT, for example 127.0.0.1:8080 or [::1]:0"); };
  if (colon == text.npos || colon == 0) return bad();
  std::string host = text.substr(0, colon);
  if (host == "localhost") host = "127.0.0.1";
  std::uint16_t port;
  const char *first = text.data() + colon + 1, *last = text.data() + text.size();
  if (const auto [end, error] = std::from_chars(first, last, port); error != std::errc() || end != last) return bad();
  Address address;
  if (host.size() > 2 && host.front() == '[' && host.back() == ']') {
    auto& in = reinterpret_cast<sockaddr_in6&>(address.storage);
    if (::inet_pton(AF_INET6, host.substr(1, host.size() - 2).c_str(), &in.sin6_addr) != 1) return bad();
    in.sin6_family = AF_INET6;
    in.sin6_port = htons(port);
    address.bytes = sizeof in;
  } else {
    auto& in = reinterpret_cast<sockaddr_in&>(address.storage);
    if (::inet_pton(AF_INET, host.c_str(), &in.sin_addr) != 1) return bad();
    in.sin_family = AF_INET;
    in.sin_port = htons(port);
    address.bytes = sizeof in;
  }
  return address;
}

Result<std::uint16_t> PortOf(int fd) {
  sockaddr_storage bound{};
  socklen_t bytes = sizeof bound;
  if (::getsockname(fd, reinterpret_cast<sockaddr*>(&bound), &bytes) != 0) return ErrnoError("port of a socket");
  return ntohs(bound.ss_family == AF_INET6 ? reinterpret_cast<const sockaddr_in6&>(bound).sin6_port
                                           : reinterpret_cast<const sockaddr_in&>(bound).sin_port);
}

}  // namespace

Result<std::optional<std::size_t>> Connection::TryReceive(std::span<std::uint8_t> to, bool peek) {
  if (!fd_.valid()) return Aborted("connection: reset");
  const ssize_t bytes = IntoGuest(to, [&] { return ::recv(fd_.get(), to.data(), to.size(), MSG_DONTWAIT | (peek ? MSG_PEEK : 0)); });
  if (bytes >= 0) return std::optional<std::size_t>(static_cast<std::size_t>(bytes));
  if (errno == EAGAIN) return std::optional<std::size_t>{};
  return ConnectionError("connection: receive");
}

Result<std::optional<std::size_t>> Connection::TryWrite(std::span<const std::uint8_t> from) {
  if (!fd_.valid()) return Aborted("connection: reset");
  ssize_t bytes;
  do {
    bytes = ::send(fd_.get(), from.data(), from.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
  } while (bytes < 0 && errno == EINTR);
  if (bytes >= 0) return std::optional<std::size_t>(static_cast<std::size_t>(bytes));
  if (errno == EAGAIN) return std::optional<std::size_t>{};
  return ConnectionError("connection: send");
}

std::optional<std::size_t> Connection::Readable() {
  if (!fd_.valid()) return 0;
  if (!PollNow(fd_.get(), POLLIN)) return std::nullopt;
  int bytes = 0;
  if (::ioctl(fd_.get(), FIONREAD, &bytes) != 0 || bytes < 0) return 0;
  return static_cast<std::size_t>(bytes);
}

bool Connection::Writable() { return !fd_.valid() || PollNow(fd_.get(), POLLOUT); }

int Connection::Shutdown(bool reads, bool writes) {
  if (!fd_.valid()) return ENOTCONN;
  return ::shutdown(fd_.get(), reads && writes ? SHUT_RDWR : reads ? SHUT_RD : SHUT_WR) == 0 ? 0 : errno;
}

Status Sockets::Listen(const std::string& address) {
  if (listeners_.size() >= kListenersMax) {
    return ResourceExhausted("more than " + std::to_string(kListenersMax) + " listening sockets");
  }
  GODWIT_ASSIGN(const Address at, ParseAddress(address));
  wasi::HostFd fd(::socket(at.storage.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  const int on = 1;
  if (!fd.valid() || ::setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) != 0 ||
      ::bind(fd.get(), reinterpret_cast<const sockaddr*>(&at.storage), at.bytes) != 0 ||
      ::listen(fd.get(), kBacklog) != 0) {
    return ErrnoError("listening at " + address);
  }
  GODWIT_ASSIGN(const std::uint16_t port, PortOf(fd.get()));
  listeners_.push_back({address.substr(0, address.rfind(':') + 1) + std::to_string(port), std::move(fd)});
  return {};
}

Result<std::optional<std::uint64_t>> Sockets::Accept(std::size_t listener) {
  int fd;
  do {
    fd = ::accept4(poll_fd(listener), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK);
  } while (fd < 0 && (errno == EINTR || errno == ECONNABORTED));
  if (fd < 0 && errno == EAGAIN) return std::optional<std::uint64_t>{};
  if (fd < 0) return ErrnoError("accepting at " + address(listener));
  while (next_id_ == 0) {
    if (::getrandom(&next_id_, sizeof next_id_, 0) != sizeof next_id_) next_id_ = 0;
    next_id_ >>= 1;  // Far from where ids would begin again.
  }
  connections_.emplace(next_id_, std::make_shared<Connection>(wasi::HostFd(fd)));
  return std::optional<std::uint64_t>(next_id_++);
}

std::shared_ptr<Connection> Sockets::Find(std::uint64_t id) const {
  const auto found = connections_.find(id);
  return found == connections_.end() ? Connection::Lost() : found->second;
}

}  // namespace godwit::runtime
