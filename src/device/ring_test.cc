// What only rings have: a peer in another process, which may end or be hostile.
#include "device/ring.h"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstring>
#include <filesystem>

#include <fmt/format.h>

#include "device/conformance.h"

namespace godwit::device {
namespace {

using namespace std::chrono_literals;

class RingTest : public ::testing::Test {
 protected:
  RingTest() : path_(std::filesystem::temp_directory_path() / fmt::format("godwit-ring-test-{}", getpid())) {
    Engine::Options options;
    options.profile.name = "test";
    options.built_in = BuiltInFunctions();
    engine_ = std::make_unique<Engine>(std::move(options));
    server_ = RingServer::Listen(path_, *engine_).value();
  }
  Request Checksum() {
    Request request;
    request.id = next_++;
    request.opcode = Opcode::kExecute;
    request.function = static_cast<std::uint32_t>(BuiltIn::kChecksum);
    return request;
  }
  std::filesystem::path path_;
  std::unique_ptr<Engine> engine_;
  std::unique_ptr<RingServer> server_;
  std::uint64_t next_ = 1;
};

TEST_F(RingTest, AServerThatEndsCompletesWhatIsUnderWayAsUnavailable) {
  auto device = ConnectRing(path_).value();
  Request configure;
  configure.opcode = Opcode::kConfigure;
  const std::string settings = R"({"cores": 0})";
  configure.data.assign(settings.begin(), settings.end());
  ASSERT_TRUE(device->Call(configure).status.ok());
  Queue queue(*device);
  Request waits = Checksum();
  waits.name = "x";  // Not brief: it is queued.
  queue.Submit(waits);
  Request health;
  health.opcode = Opcode::kHealth;
  ASSERT_TRUE(device->Call(health).status.ok());  // The first one has arrived.
  server_.reset();
  const auto completion = queue.Wait(60s);
  ASSERT_TRUE(completion);
  EXPECT_EQ(completion->status.error().code, ErrorCode::kUnavailable);
  EXPECT_EQ(completion->id, waits.id);
  EXPECT_EQ(device->Call(Checksum()).status.error().code, ErrorCode::kUnavailable);
  EXPECT_EQ(ConnectRing(path_).error().code, ErrorCode::kUnavailable);
}

TEST_F(RingTest, AClientThatWritesNonsenseLosesItsConnectionAndHarmsNobody) {
  auto good = ConnectRing(path_).value();
  for (int round = 0; round < 3; ++round) {
    const int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::memcpy(address.sun_path, path_.c_str(), path_.native().size());
    ASSERT_EQ(connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address), 0);
    char byte;
    iovec piece{&byte, 1};
    alignas(cmsghdr) char control[256];
    msghdr message{};
    message.msg_iov = &piece;
    message.msg_iovlen = 1;
    message.msg_control = control;
    message.msg_controllen = sizeof control;
    ASSERT_EQ(recvmsg(fd, &message, 0), 1);
    int fds[3];
    std::memcpy(fds, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof fds);
    EXPECT_NE(ftruncate(fds[0], 0), 0) << "sealed";
    constexpr std::size_t kBytes = kRingBytes;
    auto* shared = static_cast<std::uint8_t*>(mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_SHARED, fds[0], 0));
    ASSERT_NE(shared, MAP_FAILED);
    // Everything that a client can write: positions, lengths, messages.
    std::memset(shared, round == 0 ? 0xff : round == 1 ? 0x41 : 0x01, kBytes);
    const std::uint64_t one = 1;
    ASSERT_EQ(write(fds[1], &one, sizeof one), 8);
    ASSERT_EQ(recv(fd, &byte, 1, 0), 0) << "the server hangs up";
    munmap(shared, kBytes);
    for (const int each : fds) close(each);
    close(fd);
    EXPECT_TRUE(good->Call(Checksum()).status.ok());
  }
}

TEST_F(RingTest, AnAbstractAddressIsForOneUserAtBothEnds) {
  if (getuid() != 0) GTEST_SKIP() << "only root can become another user";
  const auto address_of = [](const std::string& name) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::copy(name.begin() + 1, name.end(), address.sun_path + 1);
    return address;
  };
  const std::string name = fmt::format("@godwit-test-{}", getpid()), false_name = name + "-false";
  const auto server = RingServer::Listen(name, *engine_);
  ASSERT_TRUE(server.ok()) << server.error().message;
  EXPECT_TRUE(ConnectRing(name).ok());
  // Another user's client is turned away: its connection ends without a byte. What forks makes nothing but system calls.
  const sockaddr_un address = address_of(name), false_address = address_of(false_name);
  const pid_t client = fork();
  if (client == 0) {
    char byte;
    const int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    if (setuid(65534) != 0 || connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) _exit(3);
    _exit(read(fd, &byte, 1) == 0 ? 0 : 1);
  }
  int status = 0;
  waitpid(client, &status, 0);
  EXPECT_EQ(status, 0);
  EXPECT_TRUE(ConnectRing(name).ok());
  // Another user's server is not believed.
  int ready[2];
  ASSERT_EQ(pipe(ready), 0);
  const pid_t forger = fork();
  if (forger == 0) {
    const int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    if (setuid(65534) != 0 || bind(fd, reinterpret_cast<const sockaddr*>(&false_address), sizeof false_address) != 0 || listen(fd, 1) != 0) _exit(3);
    static_cast<void>(!write(ready[1], "x", 1));
    pause();
    _exit(0);
  }
  char byte;
  ASSERT_EQ(read(ready[0], &byte, 1), 1);
  const auto forged = ConnectRing(false_name);
  ASSERT_FALSE(forged.ok());
  EXPECT_EQ(forged.error().code, ErrorCode::kPermissionDenied) << forged.error().message;
  kill(forger, SIGKILL);
  waitpid(forger, nullptr, 0);
  close(ready[0]);
  close(ready[1]);
}

TEST_F(RingTest, ManyCallsInARowAreEachAnswered) {
  auto device = ConnectRing(path_).value();
  for (int i = 0; i < 20'000; ++i) {
    const Completion completion = device->Call(Checksum());
    ASSERT_TRUE(completion.status.ok()) << i << ": " << completion.status.error().message;
    ASSERT_EQ(AsText(completion.data), "00000000");
  }
}

}  // namespace
}  // namespace godwit::device
