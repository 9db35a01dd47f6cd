// For tests: memories of a guest that does not exist, at both ends of a copy. Initially all zeros.
#pragma once

#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <functional>

#include "base/check.h"
#include "migration/page_tracker.h"
#include "runtime/live_memory.h"

namespace godwit::migration {

class MappedBytes {
 public:
  explicit MappedBytes(std::uint64_t bytes) : bytes_(bytes) {
    void* mapped = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    GODWIT_CHECK(mapped != MAP_FAILED, "no memory for a test");
    base_ = static_cast<std::uint8_t*>(mapped);
  }
  ~MappedBytes() { munmap(base_, bytes_); }
  MappedBytes(const MappedBytes&) = delete;
  MappedBytes& operator=(const MappedBytes&) = delete;
  std::uint8_t* base() const { return base_; }
  std::uint64_t bytes() const { return bytes_; }

 private:
  std::uint8_t* base_;
  const std::uint64_t bytes_;
};

class FakeLiveMemory final : public runtime::LiveMemory {
 public:
  FakeLiveMemory(std::uint64_t bytes, std::uint64_t bytes_max) : pages_(bytes_max), bytes_(bytes) {}
  std::uint8_t* base() const override { return pages_.base(); }
  std::uint64_t bytes() const override { return bytes_.load(); }
  std::uint64_t bytes_max() const override { return pages_.bytes(); }
  bool AsInitial(std::uint64_t page) const override {
    std::uint8_t* begin = base() + page * kPageBytes;
    if (on_look) on_look(begin);
    return std::all_of(begin, begin + kPageBytes, [](std::uint8_t byte) { return byte == 0; });
  }
  std::vector<snapshot::PageRun> Changed() const override {
    std::vector<snapshot::PageRun> runs;
    for (std::uint64_t page = 0; page < bytes() / kPageBytes; ++page) {
      if (!AsInitial(page)) runs.push_back({page, {base() + page * kPageBytes, kPageBytes}});
    }
    return runs;
  }
  void GrowTo(std::uint64_t bytes) { bytes_.store(bytes); }
  // As the guest would.
  void Write(std::uint64_t page, std::uint8_t value) { std::memset(base() + page * kPageBytes, value, kPageBytes); }

  // Called with a page that is about to be sent and is watched already: a guest that writes meanwhile.
  std::function<void(std::uint8_t* page)> on_look;

 private:
  const MappedBytes pages_;
  std::atomic<std::uint64_t> bytes_;
};

class FakeArrivingMemory final : public runtime::ArrivingMemory {
 public:
  FakeArrivingMemory(std::uint64_t bytes, std::uint64_t bytes_max) : pages_(bytes_max), bytes_(bytes) {}
  std::uint8_t* base() const override { return pages_.base(); }
  std::uint64_t bytes() const override { return bytes_; }
  Status GrowTo(ByteCount bytes) override {
    if (bytes.value > pages_.bytes()) return ResourceExhausted("the test's memory is full");
    bytes_ = std::max(bytes_, bytes.value);
    return {};
  }
  void Populate(std::uint64_t, std::uint64_t count) override { populated += count; }
  void Reset(std::uint64_t first_page, std::uint64_t count) override {
    std::memset(base() + first_page * kPageBytes, 0, count * kPageBytes);
    reset += count;
  }
  runtime::LinearMemory Take() override { return {}; }

  std::atomic<std::uint64_t> populated{0}, reset{0};  // Pages.

 private:
  const MappedBytes pages_;
  std::uint64_t bytes_;
};

}  // namespace godwit::migration
