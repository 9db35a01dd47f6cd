#include "runtime/wasi_sockets.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include "runtime/wasi_fake_guest.h"

namespace godwit::runtime::wasi {
namespace {

using u32 = std::uint32_t;
constexpr u32 kOut = FakeGuest::kOut, kVectors = FakeGuest::kVectors, kFlags = FakeGuest::kOut + 8;
constexpr u32 kListenerFd = 4;  // Behind the folder.

class WasiSocketTest : public WasiTest {
 protected:
  WasiSocketTest() {
    EXPECT_TRUE(sockets_->Listen("127.0.0.1:0").ok());
    Start(With());
  }
  WasiOptions With() {
    WasiOptions options = Options();
    options.sockets = sockets_;
    return options;
  }
  // A peer that is connected, as seen from outside.
  HostFd Connect() {
    const std::string& address = sockets_->address(0);
    sockaddr_in to{};
    to.sin_family = AF_INET;
    to.sin_port = htons(static_cast<std::uint16_t>(std::stoi(address.substr(address.rfind(':') + 1))));
    inet_pton(AF_INET, "127.0.0.1", &to.sin_addr);
    HostFd fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    EXPECT_EQ(::connect(fd.get(), reinterpret_cast<sockaddr*>(&to), sizeof to), 0);
    return fd;
  }
  u32 Accept(u32 flags = 0) {
    EXPECT_EQ(calls().sock_accept(guest_, kListenerFd, flags, kOut), Errno::kSuccess);
    return guest_.Get<u32>(kOut);
  }
  Errno Receive(u32 fd, u32 bytes, u32 flags = 0) {
    guest_.SetVectors({std::string(bytes, '?')});
    return calls().sock_recv(guest_, fd, kVectors, 1, flags, kOut, kFlags);
  }
  Errno Send(u32 fd, const std::vector<std::string>& texts) {
    const u32 count = guest_.SetVectors(texts);
    return calls().sock_send(guest_, fd, kVectors, count, 0, kOut);
  }
  static void Say(const HostFd& peer, std::string_view text) {
    EXPECT_EQ(::send(peer.get(), text.data(), text.size(), 0), static_cast<ssize_t>(text.size()));
  }
  static std::string Hear(const HostFd& peer, std::size_t bytes) {
    std::string text(bytes, '?');
    text.resize(static_cast<std::size_t>(std::max<ssize_t>(0, ::recv(peer.get(), text.data(), bytes, MSG_WAITALL))));
    return text;
  }

  std::shared_ptr<Sockets> sockets_ = std::make_shared<Sockets>();
};

TEST_F(WasiSocketTest, AcceptsReceivesSendsAndShutsDown) {
  const HostFd peer = Connect();
  const u32 fd = Accept();
  EXPECT_EQ(fd, 5u);
  ASSERT_EQ(calls().fd_fdstat_get(guest_, fd, kOut), Errno::kSuccess);
  EXPECT_EQ(guest_.Get<std::uint8_t>(kOut), static_cast<std::uint8_t>(FileType::kSocketStream));
  Say(peer, "hello");
  ASSERT_EQ(Receive(fd, 3, kReceivePeek), Errno::kSuccess);
  EXPECT_EQ(Taken(), "hel");
  ASSERT_EQ(Receive(fd, 5, kReceiveAll), Errno::kSuccess);
  EXPECT_EQ(Taken(), "hello");
  EXPECT_EQ(guest_.Get<std::uint16_t>(kFlags), 0u);
  ASSERT_EQ(Send(fd, {"wor", "ld"}), Errno::kSuccess);
  EXPECT_EQ(guest_.Get<u32>(kOut), 5u);
  EXPECT_EQ(Hear(peer, 5), "world");
  Write(fd, "!");  // fd_write and fd_read are the same.
  EXPECT_EQ(Hear(peer, 1), "!");
  ASSERT_EQ(calls().sock_shutdown(guest_, fd, kShutdownWrites), Errno::kSuccess);
  EXPECT_EQ(Hear(peer, 1), "");
  EXPECT_EQ(Send(fd, {"x"}), Errno::kPipe);
  ASSERT_EQ(::shutdown(peer.get(), SHUT_WR), 0);
  EXPECT_EQ(Read(fd, 1), "");
  ASSERT_EQ(calls().fd_close(guest_, fd), Errno::kSuccess);
  EXPECT_EQ(sockets_->connections(), 0u);
}

TEST_F(WasiSocketTest, RefusesWhatIsNoSocketNoConnectionOrNotAllowed) {
  const HostFd peer = Connect();
  const u32 fd = Accept(kFdNonblock);
  EXPECT_EQ(Receive(fd, 1), Errno::kAgain);
  EXPECT_EQ(Receive(fd, 1, 4), Errno::kInval);
  EXPECT_EQ(calls().sock_send(guest_, fd, kVectors, 1, 1, kOut), Errno::kInval);
  EXPECT_EQ(calls().sock_shutdown(guest_, fd, 0), Errno::kInval);
  EXPECT_EQ(calls().sock_shutdown(guest_, fd, 4), Errno::kInval);
  EXPECT_EQ(calls().sock_accept(guest_, fd, 0, kOut), Errno::kInval);
  EXPECT_EQ(calls().sock_accept(guest_, 3, 0, kOut), Errno::kNotSock);
  EXPECT_EQ(calls().sock_accept(guest_, 99, 0, kOut), Errno::kBadF);
  EXPECT_EQ(calls().sock_shutdown(guest_, 3, 1), Errno::kNotSock);
  EXPECT_EQ(Receive(kListenerFd, 1), Errno::kNotConn);
  EXPECT_EQ(calls().fd_seek(guest_, fd, 0, kSeekCurrent, kOut), Errno::kSPipe);
  ASSERT_EQ(calls().fd_fdstat_set_rights(guest_, fd, right::kFdRead, 0), Errno::kSuccess);
  EXPECT_EQ(Send(fd, {"x"}), Errno::kNotCapable);
  EXPECT_EQ(calls().sock_shutdown(guest_, fd, 1), Errno::kNotCapable);
}

TEST_F(WasiSocketTest, WaitsForAConnectionAndForBytes) {
  std::optional<HostFd> peer;
  guest_.on_block = [&](Blocked& blocked) {
    EXPECT_EQ(blocked.fds.size(), 1u);
    EXPECT_EQ(blocked.fds[0].fd, sockets_->poll_fd(0));
    peer = Connect();
    return Instance::Wait::kReady;
  };
  const u32 fd = Accept();
  guest_.on_block = [&](Blocked&) {
    Say(*peer, "late");
    return Instance::Wait::kReady;
  };
  ASSERT_EQ(Receive(fd, 4, kReceiveAll), Errno::kSuccess);
  EXPECT_EQ(Taken(), "late");
}

TEST_F(WasiSocketTest, AConnectionGoesOnInThisProcessAndIsResetElsewhere) {
  const HostFd peer = Connect();
  const u32 fd = Accept();
  Move(With());
  Say(peer, "on");
  EXPECT_EQ(Read(fd, 2), "on");
  auto saved = wasi_->Save();
  ASSERT_TRUE(saved.ok());
  WasiOptions elsewhere = Options();
  elsewhere.sockets = std::make_shared<Sockets>();
  ASSERT_TRUE(elsewhere.sockets->Listen("127.0.0.1:0").ok());
  Start(elsewhere);
  ASSERT_TRUE(wasi_->Load(*saved).ok());
  EXPECT_EQ(TryRead(fd, 2), Errno::kConnReset);
  EXPECT_EQ(Send(fd, {"x"}), Errno::kConnReset);
  elsewhere.sockets = nullptr;
  elsewhere.folders_from_snapshot = false;
  Start(elsewhere);
  EXPECT_EQ(wasi_->Load(*saved).error().code, ErrorCode::kPermissionDenied);
}

TEST_F(WasiSocketTest, AListenerThatMovedAcceptsWithTheSameRights) {
  Move(With());
  const HostFd peer = Connect();
  const u32 fd = Accept();
  ASSERT_EQ(Send(fd, {"on"}), Errno::kSuccess);
  EXPECT_EQ(Hear(peer, 2), "on");
  ASSERT_EQ(calls().sock_shutdown(guest_, fd, kShutdownWrites), Errno::kSuccess);
  EXPECT_EQ(Hear(peer, 1), "");
}

TEST(SocketsTest, ListensAtAsManyAddressesAsTheLimitSays) {
  Sockets sockets;
  for (const char* bad : {"", "8080", ":80", "127.0.0.1:", "127.0.0.1:70000", "nowhere.invalid:1", "[::1:1"}) {
    EXPECT_EQ(sockets.Listen(bad).error().code, ErrorCode::kInvalidArgument) << bad;
  }
  for (std::size_t i = 0; i < Sockets::kListenersMax; ++i) ASSERT_TRUE(sockets.Listen("localhost:0").ok());
  EXPECT_EQ(sockets.Listen("localhost:0").error().code, ErrorCode::kResourceExhausted);
}

}  // namespace
}  // namespace godwit::runtime::wasi
