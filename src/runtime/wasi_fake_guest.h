// For tests: a guest's memory and WASI calls in a few words, without an instance.
#pragma once

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <sstream>

#include "base/fresh_file.h"
#include "runtime/wasi_calls.h"

namespace godwit::runtime::wasi {

struct ExitedWith {
  std::uint32_t code;
};

class FakeClock final : public HostClock {
 public:
  std::uint64_t Realtime() const override { return realtime; }
  std::uint64_t Monotonic() const override { return monotonic; }
  std::uint64_t Cpu() const override { return cpu; }
  std::uint64_t realtime = 1'700'000'000'000'000'000, monotonic = 5'000'000'000, cpu = 7;
};

class FakeGuest final : public GuestCall {
 public:
  static constexpr std::uint32_t kOut = 64, kVectors = 128, kPaths = 4096, kBuffer = 65536;

  FakeGuest() : bytes_(1 << 20) {
    context_.memory = bytes_.data();
    context_.memory_bytes = bytes_.size();
  }
  GuestMemory memory() const override { return GuestMemory(&context_); }
  TaskId task() const override { return task_id; }
  Instance::Wait Block(Blocked what) override {
    ++blocked;
    last_blocked = what;
    if (!on_block) throw std::logic_error("the call blocked");
    return on_block(what);
  }
  void Restart() override { ++restarted; }
  [[noreturn]] void Exit(std::uint32_t code) override { throw ExitedWith{code}; }

  template <typename T>
  T Get(std::uint32_t address) const { return *Load<T>(memory(), address); }
  template <typename T>
  void Set(std::uint32_t address, T value) { Put<T>(bytes_.data() + address, value); }
  void SetText(std::uint32_t address, std::string_view text) {
    std::memcpy(bytes_.data() + address, text.data(), text.size());
  }
  std::string Text(std::uint32_t address, std::size_t size) const {
    return {reinterpret_cast<const char*>(bytes_.data()) + address, size};
  }
  // One iovec per text, laid out from kBuffer on.
  std::uint32_t SetVectors(const std::vector<std::string>& texts) {
    std::uint32_t to = kBuffer, vector = kVectors;
    for (const std::string& text : texts) {
      SetText(to, text);
      Set<std::uint32_t>(vector, to);
      Set<std::uint32_t>(vector + 4, static_cast<std::uint32_t>(text.size()));
      to += static_cast<std::uint32_t>(text.size());
      vector += 8;
    }
    return static_cast<std::uint32_t>(texts.size());
  }

  std::function<Instance::Wait(Blocked&)> on_block;
  Blocked last_blocked;
  int blocked = 0, restarted = 0;
  TaskId task_id = 1;

 private:
  std::vector<std::uint8_t> bytes_;
  abi::Context context_{};
};

// A folder of its own per test, "data" beneath it preopened as "/data" (descriptor 3).
class WasiTest : public testing::Test {
 protected:
  static constexpr Rights kReadRights = right::kFdRead | right::kFdSeek | right::kFdTell | right::kFdReaddir |
                                        right::kFdFilestatGet | right::kPollFdReadwrite;
  static constexpr Rights kWriteRights = kReadRights | right::kFdWrite | right::kFdFilestatSetSize |
                                         right::kFdAllocate | right::kFdFdstatSetFlags | right::kFdSync |
                                         right::kFdFilestatSetTimes | right::kFdAdvise | right::kFdDatasync;

  WasiTest() {
    std::filesystem::create_directories(data());
    Start();
  }

  std::filesystem::path data() const { return root_ / "data"; }
  void WriteHost(const std::filesystem::path& name, std::string_view text) { std::ofstream(name) << text; }
  std::string ReadHost(const std::filesystem::path& name) {
    std::stringstream text;
    text << std::ifstream(name).rdbuf();
    return text.str();
  }

  WasiOptions Options() {
    WasiOptions options;
    options.args = {"prog", "one"};
    options.env = {{"HOME", "/"}};
    options.preopens = {{data().string(), "/data"}};
    options.stdio = {input_, output_, error_};
    options.clock = clock_;
    return options;
  }
  void Start() { Start(Options()); }
  void Start(WasiOptions options) {
    auto wasi = Wasi::Create(std::move(options));
    ASSERT_TRUE(wasi.ok()) << wasi.error().message;
    wasi_ = *wasi;
  }
  Calls& calls() { return wasi_->calls(); }

  // Path arguments lie in turn at kPaths, so that two can be given at once.
  std::uint32_t PathAt(int which, std::string_view path) {
    const std::uint32_t address = FakeGuest::kPaths + static_cast<std::uint32_t>(which) * 8192;
    guest_.SetText(address, path);
    return address;
  }
  static std::uint32_t Size(std::string_view text) { return static_cast<std::uint32_t>(text.size()); }

  Errno TryOpen(std::string_view path, std::uint32_t open_flags = 0, Rights rights = kReadRights,
                std::uint32_t lookup = kLookupFollow, std::uint32_t flags = 0, std::uint32_t at = 3,
                Rights inheriting = right::kDirectory | right::kFile) {
    return calls().path_open(guest_, at, lookup, PathAt(0, path), Size(path), open_flags, rights, inheriting,
                             flags, FakeGuest::kOut);
  }
  std::uint32_t Open(std::string_view path, std::uint32_t open_flags = 0, Rights rights = kReadRights,
                     std::uint32_t flags = 0) {
    EXPECT_EQ(TryOpen(path, open_flags, rights, kLookupFollow, flags), Errno::kSuccess) << path;
    return guest_.Get<std::uint32_t>(FakeGuest::kOut);
  }
  std::uint32_t OpenFolder(std::string_view path) { return Open(path, kOpenDirectory, right::kDirectory); }
  std::uint32_t Create(std::string_view path, std::uint32_t flags = 0) {
    return Open(path, kOpenCreate, kWriteRights, flags);
  }
  Errno TryWrite(std::uint32_t fd, const std::vector<std::string>& texts) {
    const std::uint32_t count = guest_.SetVectors(texts);
    return calls().fd_write(guest_, fd, FakeGuest::kVectors, count, FakeGuest::kOut);
  }
  void Write(std::uint32_t fd, const std::string& text) {
    EXPECT_EQ(TryWrite(fd, {text}), Errno::kSuccess);
    EXPECT_EQ(guest_.Get<std::uint32_t>(FakeGuest::kOut), text.size());
  }
  Errno TryRead(std::uint32_t fd, std::uint32_t bytes) {
    guest_.SetVectors({std::string(bytes, '?')});
    return calls().fd_read(guest_, fd, FakeGuest::kVectors, 1, FakeGuest::kOut);
  }
  std::string Taken() { return guest_.Text(FakeGuest::kBuffer, guest_.Get<std::uint32_t>(FakeGuest::kOut)); }
  std::string Read(std::uint32_t fd, std::uint32_t bytes) {
    EXPECT_EQ(TryRead(fd, bytes), Errno::kSuccess);
    return Taken();
  }
  std::uint64_t Tell(std::uint32_t fd) {
    EXPECT_EQ(calls().fd_tell(guest_, fd, FakeGuest::kOut), Errno::kSuccess);
    return guest_.Get<std::uint64_t>(FakeGuest::kOut);
  }
  std::uint64_t Monotonic() {
    EXPECT_EQ(calls().clock_time_get(guest_, kClockMonotonic, 0, FakeGuest::kOut), Errno::kSuccess);
    return guest_.Get<std::uint64_t>(FakeGuest::kOut);
  }
  Errno Stat(std::string_view path, std::uint32_t lookup = kLookupFollow) {
    return calls().path_filestat_get(guest_, 3, lookup, PathAt(0, path), Size(path), FakeGuest::kBuffer);
  }
  Errno Unlink(std::string_view path) {
    return calls().path_unlink_file(guest_, 3, PathAt(0, path), Size(path));
  }
  Errno MakeFolder(std::string_view path) {
    return calls().path_create_directory(guest_, 3, PathAt(0, path), Size(path));
  }
  Errno Rename(std::string_view from, std::string_view to) {
    return calls().path_rename(guest_, 3, PathAt(0, from), Size(from), 3, PathAt(1, to), Size(to));
  }
  Errno Symlink(std::string_view target, std::string_view path) {
    return calls().path_symlink(guest_, PathAt(0, target), Size(target), 3, PathAt(1, path), Size(path));
  }

  // Saves, and goes on in a new Wasi made with `options`.
  void Move(WasiOptions options) {
    auto saved = wasi_->Save();
    ASSERT_TRUE(saved.ok()) << saved.error().message;
    Start(std::move(options));
    const Status loaded = wasi_->Load(*saved);
    ASSERT_TRUE(loaded.ok()) << loaded.error().message;
  }
  void Move() {
    WasiOptions options = Options();
    options.preopens.clear();
    options.args.clear();
    options.env.clear();
    Move(std::move(options));
  }

  const TemporaryFolder temporary_ = TemporaryFolder::Create().value();
  const std::filesystem::path root_ = temporary_.path();
  std::shared_ptr<FakeClock> clock_ = std::make_shared<FakeClock>();
  std::shared_ptr<MemoryStream> input_ = std::make_shared<MemoryStream>("", false);
  std::shared_ptr<MemoryStream> output_ = std::make_shared<MemoryStream>();
  std::shared_ptr<MemoryStream> error_ = std::make_shared<MemoryStream>();
  FakeGuest guest_;
  std::shared_ptr<Wasi> wasi_;
};

}  // namespace godwit::runtime::wasi
