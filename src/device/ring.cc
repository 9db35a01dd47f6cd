#include "device/ring.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstring>
#include <deque>
#include <list>
#include <map>
#include <optional>
#include <thread>
#include <utility>

#include <fmt/format.h>

#include "base/descriptor.h"
#include "device/relax.h"
#include "device/under_way.h"
#include "device/wire.h"

namespace godwit::device {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::uint32_t kMagic = 0x52445747;  // "GWDR"

// One direction, in shared memory. Positions count bytes since the beginning.
struct Ring {
  alignas(64) std::atomic<std::uint64_t> written;
  alignas(64) std::atomic<std::uint64_t> taken;
  alignas(64) std::atomic<std::uint32_t> reader_sleeps;
  std::atomic<std::uint32_t> writer_waits;
  alignas(64) std::array<std::uint8_t, kRingBytes> bytes;
};
struct Shared {
  std::uint32_t magic;
  Ring requests, completions;
};
static_assert(std::atomic<std::uint64_t>::is_always_lock_free);

class Mapping {
 public:
  explicit Mapping(int fd) : at_(mmap(nullptr, sizeof(Shared), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0)) {}
  Mapping(Mapping&& other) noexcept : at_(std::exchange(other.at_, MAP_FAILED)) {}
  ~Mapping() {
    if (at_ != MAP_FAILED) munmap(at_, sizeof(Shared));
  }
  bool ok() const { return at_ != MAP_FAILED; }
  Shared& shared() const { return *static_cast<Shared*>(at_); }

 private:
  void* at_;
};

// The writing end of a ring. Guarded by its user.
class Writer {
 public:
  Writer(Ring& ring, int wake) : ring_(ring), wake_(wake) {}
  // False: no room. Then WriterWaits was set, and the reader wakes this side once it has taken something.
  bool Write(ByteView message) {
    const std::uint64_t bytes = message.size() + 4;
    if (position_ + bytes - ring_.taken.load() > kRingBytes) {
      ring_.writer_waits.store(1);
      if (position_ + bytes - ring_.taken.load() > kRingBytes) return false;
      ring_.writer_waits.store(0);
    }
    const auto length = static_cast<std::uint32_t>(message.size());
    Put({reinterpret_cast<const std::uint8_t*>(&length), 4});
    Put(message);
    ring_.written.store(position_);
    if (ring_.reader_sleeps.load() != 0) Wake();
    return true;
  }
  void Wake() const {
    const std::uint64_t one = 1;
    static_cast<void>(!write(wake_, &one, sizeof one));
  }

 private:
  void Put(ByteView bytes) {
    const std::size_t at = position_ % kRingBytes, first = std::min(bytes.size(), kRingBytes - at);
    std::memcpy(ring_.bytes.data() + at, bytes.data(), first);
    if (first < bytes.size()) std::memcpy(ring_.bytes.data(), bytes.data() + first, bytes.size() - first);
    position_ += bytes.size();
  }
  Ring& ring_;
  const int wake_;
  std::uint64_t position_ = 0;  // Own: what the ring says may be forged.
};

// The reading end. Guarded by its user.
class Reader {
 public:
  Reader(Ring& ring, int wake_writer) : ring_(ring), wake_(wake_writer) {}
  // The next message, copied; empty: none yet; kCorrupt: what is there cannot be one.
  Result<Bytes> Read() {
    const std::uint64_t there = ring_.written.load() - position_;
    if (there == 0) return Bytes();
    std::uint32_t length = 0;
    if (there < 4 || there > kRingBytes) return Corrupt("a ring's positions are impossible");
    Get(position_, {reinterpret_cast<std::uint8_t*>(&length), 4});
    if (length == 0 || length > kMessageBytesMax || length > there - 4) return Corrupt("a ring's message is longer than it can be");
    Bytes message(length);
    Get(position_ + 4, message);
    position_ += 4 + length;
    ring_.taken.store(position_);
    if (ring_.writer_waits.exchange(0) != 0) {
      const std::uint64_t one = 1;
      static_cast<void>(!write(wake_, &one, sizeof one));
    }
    return message;
  }
  bool empty() const { return ring_.written.load() == position_; }
  // Sleeps until there is something, the other side hangs up, or it is woken. False: the other side is gone.
  bool Sleep(int wake, int socket) {
    ring_.reader_sleeps.store(1);
    bool alive = true;
    if (empty()) {
      pollfd fds[] = {{wake, POLLIN, 0}, {socket, POLLIN, 0}};
      poll(fds, 2, 1000);
      alive = fds[1].revents == 0;
      std::uint64_t count;
      if (fds[0].revents != 0) static_cast<void>(!read(wake, &count, sizeof count));
    }
    ring_.reader_sleeps.store(0);
    return alive;
  }

 private:
  void Get(std::uint64_t position, std::span<std::uint8_t> to) const {
    const std::size_t at = position % kRingBytes, first = std::min(to.size(), kRingBytes - at);
    std::memcpy(to.data(), ring_.bytes.data() + at, first);
    if (first < to.size()) std::memcpy(to.data() + first, ring_.bytes.data(), to.size() - first);
  }
  Ring& ring_;
  const int wake_;
  std::uint64_t position_ = 0;
};

// --- The socket: three descriptors (memory, the server's eventfd, the client's) go to the client, and nothing afterwards.

Status SendDescriptors(int socket, std::array<int, 3> fds) {
  char byte = 1;
  iovec piece{&byte, 1};
  alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof fds)> control{};
  msghdr message{};
  message.msg_iov = &piece;
  message.msg_iovlen = 1;
  message.msg_control = control.data();
  message.msg_controllen = control.size();
  cmsghdr* head = CMSG_FIRSTHDR(&message);
  head->cmsg_level = SOL_SOCKET;
  head->cmsg_type = SCM_RIGHTS;
  head->cmsg_len = CMSG_LEN(sizeof fds);
  std::memcpy(CMSG_DATA(head), fds.data(), sizeof fds);
  return sendmsg(socket, &message, MSG_NOSIGNAL) == 1 ? Status() : Status(ErrnoError("sending a ring's descriptors"));
}

Result<std::array<Descriptor, 3>> ReceiveDescriptors(int socket) {
  char byte;
  iovec piece{&byte, 1};
  std::array<int, 3> fds{-1, -1, -1};
  alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof fds)> control{};
  msghdr message{};
  message.msg_iov = &piece;
  message.msg_iovlen = 1;
  message.msg_control = control.data();
  message.msg_controllen = control.size();
  if (recvmsg(socket, &message, MSG_CMSG_CLOEXEC) != 1) return Unavailable("the device does not take this connection");
  const cmsghdr* head = CMSG_FIRSTHDR(&message);
  if (head == nullptr || head->cmsg_type != SCM_RIGHTS || head->cmsg_len != CMSG_LEN(sizeof fds)) return Corrupt("not a device's socket");
  std::memcpy(fds.data(), CMSG_DATA(head), sizeof fds);
  return std::array{Descriptor(fds[0]), Descriptor(fds[1]), Descriptor(fds[2])};
}

bool IsAbstract(const std::filesystem::path& path) { return path.native().starts_with('@'); }

// The user of the process at the other end.
Result<uid_t> PeerOf(int socket) {
  ucred peer{};
  socklen_t size = sizeof peer;
  if (getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &peer, &size) != 0) return ErrnoError("asking for the peer's user");
  return peer.uid;
}

Result<sockaddr_un> Address(const std::filesystem::path& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.native().size() >= sizeof address.sun_path) return InvalidArgument("the socket's path is too long: " + path.string());
  std::memcpy(address.sun_path, path.c_str(), path.native().size());
  if (IsAbstract(path)) address.sun_path[0] = '\0';
  return address;
}

// --- The server's side

class Served {
 public:
  static Result<std::unique_ptr<Served>> Create(Descriptor socket, Device& device, bool own_user_only) {
    GODWIT_ASSIGN(const uid_t peer, PeerOf(socket.get()));
    if (own_user_only && peer != getuid()) return PermissionDenied("another user");
    Descriptor memory(memfd_create("godwit-ring", MFD_CLOEXEC | MFD_ALLOW_SEALING));
    if (memory.get() < 0 || ftruncate(memory.get(), sizeof(Shared)) != 0) return ErrnoError("making a ring");
    // A client that could shorten it would end this process.
    if (fcntl(memory.get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0) return ErrnoError("sealing a ring");
    Descriptor own(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)), theirs(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    if (own.get() < 0 || theirs.get() < 0) return ErrnoError("making an eventfd");
    Mapping mapping(memory.get());
    if (!mapping.ok()) return ErrnoError("mapping a ring");
    mapping.shared().magic = kMagic;
    GODWIT_TRY(SendDescriptors(socket.get(), {memory.get(), own.get(), theirs.get()}));
    const std::string tenant = peer == getuid() ? "" : fmt::format("uid:{}", peer);
    return std::unique_ptr<Served>(new Served(std::move(socket), std::move(own), std::move(theirs), std::move(mapping), device, tenant));
  }
  ~Served() {
    ending_.store(true);
    Answers::WakeOwn(own_.get());
    thread_.join();
  }
  bool ended() const { return ended_.load(); }

 private:
  // What is still under way keeps this, and nothing else.
  struct Answers {
    Answers(Mapping from, Descriptor theirs) : mapping(std::move(from)), wake(std::move(theirs)), writer(mapping.shared().completions, wake.get()) {}
    static void WakeOwn(int fd) {
      const std::uint64_t one = 1;
      static_cast<void>(!write(fd, &one, sizeof one));
    }
    void Send(const Completion& completion) {
      auto bytes = Encode(completion);
      if (!bytes.ok()) bytes = Encode(Failed(completion.id, bytes.error()));
      const std::lock_guard lock(mutex);
      waiting_bytes += bytes->size();
      waiting.push_back(std::move(bytes).value());
      Pump();
    }
    void Pump() {  // mutex is held.
      while (!waiting.empty() && writer.Write(waiting.front())) {
        waiting_bytes -= waiting.front().size();
        waiting.pop_front();
      }
    }
    Mapping mapping;
    Descriptor wake;
    std::mutex mutex;
    Writer writer;
    std::deque<Bytes> waiting;
    std::size_t waiting_bytes = 0;
  };

  Served(Descriptor socket, Descriptor own, Descriptor theirs, Mapping mapping, Device& device, std::string tenant)
      : socket_(std::move(socket)), own_(std::move(own)), device_(device), tenant_(std::move(tenant)),
        answers_(std::make_shared<Answers>(std::move(mapping), std::move(theirs))), thread_([this] { Main(); }) {}

  void Main() {
    Reader reader(answers_->mapping.shared().requests, answers_->wake.get());
    auto last = Clock::now();
    while (!ending_.load()) {
      auto message = reader.Read();
      if (!message.ok()) break;
      if (message->empty()) {
        bool full = false;
        {
          const std::lock_guard lock(answers_->mutex);
          answers_->Pump();
          full = answers_->waiting_bytes > kCompletionsWaitingMax;
        }
        if (full) break;
        if (Clock::now() - last < kSpin) Relax();
        else if (!reader.Sleep(own_.get(), socket_.get())) break;
        continue;
      }
      auto request = DecodeRequest(*message);
      if (!request.ok()) break;  // A peer that sends what is none has lost its way.
      if (!tenant_.empty()) request->tenant = tenant_;
      const std::uint64_t id = request->id;
      device_.Submit(std::move(request).value(), [answers = answers_, id](Completion completion) {
        completion.id = id;
        answers->Send(completion);
      });
      last = Clock::now();
    }
    shutdown(socket_.get(), SHUT_RDWR);
    Answers::WakeOwn(answers_->wake.get());
    ended_.store(true);
  }

  const Descriptor socket_, own_;
  Device& device_;
  const std::string tenant_;
  const std::shared_ptr<Answers> answers_;
  std::atomic<bool> ending_{false}, ended_{false};
  std::thread thread_;
};

class RingServerImpl final : public RingServer {
 public:
  RingServerImpl(Descriptor socket, std::filesystem::path path, Device& device)
      : socket_(std::move(socket)), path_(std::move(path)), device_(device), thread_([this] { Main(); }) {}
  ~RingServerImpl() override {
    ending_.store(true);
    shutdown(socket_.get(), SHUT_RDWR);
    thread_.join();
    served_.clear();
    std::error_code ignored;
    if (!IsAbstract(path_)) std::filesystem::remove(path_, ignored);
  }

 private:
  void Main() {
    while (!ending_.load()) {
      pollfd fd{socket_.get(), POLLIN, 0};
      poll(&fd, 1, 500);
      served_.remove_if([](const auto& one) { return one->ended(); });
      if (ending_.load() || (fd.revents & POLLIN) == 0) continue;
      Descriptor client(accept4(socket_.get(), nullptr, nullptr, SOCK_CLOEXEC));
      if (client.get() < 0 || served_.size() >= kRingConnectionsMax) continue;
      auto served = Served::Create(std::move(client), device_, IsAbstract(path_));
      if (served.ok()) served_.push_back(std::move(served).value());
    }
  }
  const Descriptor socket_;
  const std::filesystem::path path_;
  Device& device_;
  std::list<std::unique_ptr<Served>> served_;
  std::atomic<bool> ending_{false};
  std::thread thread_;
};

// --- The client's side

class RingDevice final : public Device {
 public:
  RingDevice(Descriptor socket, Descriptor theirs, Descriptor own, Mapping mapping)
      : socket_(std::move(socket)), theirs_(std::move(theirs)), own_(std::move(own)), mapping_(std::move(mapping)),
        writer_(mapping_.shared().requests, theirs_.get()), reader_(mapping_.shared().completions, theirs_.get()), thread_([this] { Main(); }) {}
  ~RingDevice() override {
    ending_.store(true);
    Wake(own_.get());
    shutdown(socket_.get(), SHUT_RDWR);
    thread_.join();
  }

  void Submit(Request request, Done done) override { Send(std::move(request), std::move(done)); }

  Completion Call(Request request, std::chrono::milliseconds timeout) override {
    // Whoever waits reads for all; the thread reads while nobody does.
    struct Answer {
      std::atomic<bool> there{false};
      Completion completion;
    };
    const auto answer = std::make_shared<Answer>();
    const std::uint64_t id = request.id;
    callers_.fetch_add(1);
    if (mapping_.shared().completions.reader_sleeps.load() != 0) Wake(own_.get());  // The thread makes way.
    Send(std::move(request), [answer](Completion completion) {
      answer->completion = std::move(completion);
      answer->there.store(true);
    });
    const auto begin = Clock::now();
    bool late = false;
    while (!answer->there.load() && !late) {
      const auto waited = Clock::now() - begin;
      late = waited > timeout;
      if (TakeOne()) continue;
      if (waited < kSpin) {
        Relax();
      } else {
        pollfd fd{own_.get(), POLLIN, 0};
        const std::lock_guard lock(read_mutex_);
        if (answer->there.load() || !reader_.empty()) continue;
        if (lost_.load()) break;
        mapping_.shared().completions.reader_sleeps.store(1);
        if (reader_.empty()) poll(&fd, 1, 1);
        mapping_.shared().completions.reader_sleeps.store(0);
        std::uint64_t count;
        static_cast<void>(!read(own_.get(), &count, sizeof count));
      }
    }
    callers_.fetch_sub(1);
    if (answer->there.load()) return std::move(answer->completion);
    return Failed(id, lost_.load() ? Unavailable("the device's process is gone")
                                   : DeadlineExceeded(fmt::format("the device has not answered within {} ms", timeout.count())));
  }

 private:
  static void Wake(int fd) {
    const std::uint64_t one = 1;
    static_cast<void>(!write(fd, &one, sizeof one));
  }
  void Send(Request request, Done done) {
    if (lost_.load()) return done(Failed(request.id, Unavailable("the device's process is gone")));
    if (!under_way_.Begin(request, std::move(done))) return;
    const auto message = Encode(request);
    if (!message.ok()) return under_way_.Finish(Failed(request.id, message.error()));
    bool sent = false;
    {
      const std::lock_guard lock(write_mutex_);
      sent = writer_.Write(*message);
    }
    if (sent && !lost_.load()) return;
    under_way_.Finish(Failed(request.id, sent ? Unavailable("the device's process is gone") : ResourceExhausted("the ring to the device is full: take completions first")));
  }
  // False: there was none, or another thread reads.
  bool TakeOne() {
    Result<Bytes> message = Bytes();
    {
      const std::unique_lock lock(read_mutex_, std::try_to_lock);
      if (!lock.owns_lock() || reader_.empty()) return false;
      message = reader_.Read();
    }
    if (message.ok() && message->empty()) return false;
    auto completion = message.ok() ? DecodeCompletion(*message) : Result<Completion>(message.error());
    if (!completion.ok()) {
      OnLost();
      return false;
    }
    under_way_.Finish(std::move(completion).value());
    return true;
  }
  void OnLost() {
    lost_.store(true);
    under_way_.FailAll(Unavailable("the device's process is gone; what was under way may have had its effect"));
  }
  void Main() {
    auto last = Clock::now();
    while (!ending_.load()) {
      if (TakeOne()) {
        last = Clock::now();
        continue;
      }
      if (lost_.load()) break;
      if (callers_.load() > 0) {
        // Only the peer's end is looked for.
        pollfd fd{socket_.get(), POLLIN, 0};
        if (poll(&fd, 1, 1) > 0) break;
        continue;
      }
      if (Clock::now() - last < kSpin) {
        Relax();
        continue;
      }
      const std::unique_lock lock(read_mutex_, std::try_to_lock);
      if (lock.owns_lock() && !reader_.Sleep(own_.get(), socket_.get())) break;
    }
    while (TakeOne()) {
    }
    OnLost();
  }

  struct Waiting {
    std::uint64_t id = 0;
    std::string tenant;
    Done done;
  };
  const Descriptor socket_, theirs_, own_;
  const Mapping mapping_;
  std::mutex write_mutex_;
  Writer writer_;
  std::mutex read_mutex_;
  Reader reader_;
  UnderWay under_way_;
  std::atomic<int> callers_{0};
  std::atomic<bool> lost_{false}, ending_{false};
  std::thread thread_;
};

}  // namespace

Result<std::unique_ptr<RingServer>> RingServer::Listen(const std::filesystem::path& path, Device& device) {
  GODWIT_ASSIGN(const sockaddr_un address, Address(path));
  Descriptor socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (socket.get() < 0) return ErrnoError("making a socket");
  if (!IsAbstract(path)) unlink(path.c_str());
  if (bind(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0 || listen(socket.get(), 16) != 0) {
    return ErrnoError("listening at " + path.string());
  }
  return std::unique_ptr<RingServer>(std::make_unique<RingServerImpl>(std::move(socket), path, device));
}

Result<std::unique_ptr<Device>> ConnectRing(const std::filesystem::path& path) {
  GODWIT_ASSIGN(const sockaddr_un address, Address(path));
  Descriptor socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (socket.get() < 0) return ErrnoError("making a socket");
  if (connect(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) {
    return Unavailable("no device listens at " + path.string() + ": " + std::strerror(errno));
  }
  GODWIT_ASSIGN(const uid_t peer, PeerOf(socket.get()));
  if (peer != getuid()) return PermissionDenied(fmt::format("who listens at {} is another user ({})", path.string(), peer));
  GODWIT_ASSIGN(auto fds, ReceiveDescriptors(socket.get()));
  Mapping mapping(fds[0].get());
  if (!mapping.ok()) return ErrnoError("mapping a ring");
  if (mapping.shared().magic != kMagic) return Corrupt("the device's ring is of another version");
  return std::unique_ptr<Device>(std::make_unique<RingDevice>(std::move(socket), std::move(fds[1]), std::move(fds[2]), std::move(mapping)));
}

}  // namespace godwit::device
