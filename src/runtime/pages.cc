#include "runtime/pages.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <memory>

namespace godwit::runtime {
namespace {

constexpr std::uint64_t kPage = snapshot::kPageBytes;

// Reads which pages exist from /proc/self/pagemap.
class TouchedPages {
 public:
  // Kept open: it is asked for every instance and every capture. A forked process has its own.
  static const TouchedPages& OfThread() {
    thread_local std::unique_ptr<TouchedPages> touched;
    thread_local pid_t owner = 0;
    if (owner != getpid()) {
      touched = std::make_unique<TouchedPages>();
      owner = getpid();
    }
    return *touched;
  }

  TouchedPages() {
    if (sysconf(_SC_PAGESIZE) != static_cast<long>(kPage)) return;
    fd_ = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
    // Tried once per process: faulting the pattern in costs more than a small capture.
    static const bool tells_truth = fd_ >= 0 && TellsTruth();
    if (fd_ >= 0 && !tells_truth) {
      close(fd_);
      fd_ = -1;
    }
  }
  ~TouchedPages() {
    if (fd_ >= 0) close(fd_);
  }
  TouchedPages(const TouchedPages&) = delete;
  TouchedPages& operator=(const TouchedPages&) = delete;

  // False if unknown: all pages must then be looked at.
  bool Read(const void* address, std::uint64_t count, std::uint64_t* entries) const {
    if (fd_ < 0) return false;
    const auto at = static_cast<off_t>(reinterpret_cast<std::uintptr_t>(address) / kPage * sizeof(std::uint64_t));
    const auto bytes = static_cast<ssize_t>(count * sizeof(std::uint64_t));
    return pread(fd_, entries, count * sizeof(std::uint64_t), at) == bytes;
  }
  static bool Touched(std::uint64_t entry) { return (entry >> 62) != 0; }  // Present or swapped out.

 private:
  // Under emulation the file may describe another address space, so it is tried on a known pattern first.
  bool TellsTruth() const {
    constexpr std::uint64_t kCount = 16, kPattern = 0x9a35;
    void* probe = mmap(nullptr, kCount * kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (probe == MAP_FAILED) return false;
    madvise(probe, kCount * kPage, MADV_NOHUGEPAGE);
    auto* bytes = static_cast<volatile std::uint8_t*>(probe);
    for (std::uint64_t i = 0; i < kCount; ++i) {
      if (kPattern >> i & 1) bytes[i * kPage] = 1;
    }
    std::uint64_t entries[kCount];
    bool same = Read(probe, kCount, entries);
    for (std::uint64_t i = 0; same && i < kCount; ++i) same = Touched(entries[i]) == ((kPattern >> i & 1) != 0);
    munmap(probe, kCount * kPage);
    return same;
  }

  int fd_ = -1;
};

}  // namespace

bool IsZeroPage(const std::uint8_t* page) {
  constexpr std::uint64_t kStep = 64;
  for (std::uint64_t at = 0; at < kPage; at += kStep) {
    std::uint64_t words[kStep / 8];
    std::memcpy(words, page + at, sizeof words);
    if ((words[0] | words[1] | words[2] | words[3] | words[4] | words[5] | words[6] | words[7]) != 0) return false;
  }
  return true;
}

std::vector<snapshot::PageRun> ChangedPages(const std::uint8_t* base, std::uint64_t bytes, const InitialPages& initial,
                                            std::span<const std::uint8_t> blank) {
  constexpr std::uint64_t kBatch = 4096;
  const TouchedPages& touched = TouchedPages::OfThread();
  std::vector<std::uint64_t> entries(kBatch);
  std::vector<snapshot::PageRun> runs;
  const std::uint64_t pages = bytes / kPage;
  std::size_t next_initial = 0;
  const std::uint64_t blank_begin = blank.empty() ? pages : static_cast<std::uint64_t>(blank.data() - base) / kPage, blank_end = blank_begin + blank.size() / kPage;
  for (std::uint64_t first = 0, count; first < pages; first += count) {
    const bool is_blank = first >= blank_begin && first < blank_end;
    count = std::min(kBatch, (is_blank ? blank_end : first < blank_begin ? blank_begin : pages) - first);
    const bool known = !is_blank && touched.Read(base + first * kPage, count, entries.data());
    for (std::uint64_t i = 0; i < count; ++i) {
      const std::uint64_t number = first + i;
      while (next_initial < initial.numbers.size() && initial.numbers[next_initial] < number) ++next_initial;
      const bool has_initial = next_initial < initial.numbers.size() && initial.numbers[next_initial] == number;
      if (!has_initial && (is_blank || (known && !TouchedPages::Touched(entries[i])))) continue;
      const std::uint8_t* page = base + number * kPage;
      const bool same = has_initial ? std::memcmp(page, initial.page(next_initial), kPage) == 0 : IsZeroPage(page);
      if (same) continue;
      if (!runs.empty() && runs.back().first_page + runs.back().bytes.size() / kPage == number) {
        runs.back().bytes = {runs.back().bytes.data(), runs.back().bytes.size() + kPage};
      } else {
        runs.push_back({number, {page, kPage}});
      }
    }
  }
  return runs;
}

void RestorePages(std::uint8_t* base, std::uint64_t bytes, const InitialPages& initial) {
  const TouchedPages& touched = TouchedPages::OfThread();  // Where the system cannot tell, all are looked at.
  thread_local std::vector<std::uint64_t> entries;
  const std::uint64_t pages = bytes / kPage;
  entries.resize(std::max<std::size_t>(entries.size(), pages));
  const bool known = touched.Read(base, pages, entries.data());
  std::size_t next_initial = 0;
  for (std::uint64_t number = 0; number < pages; ++number) {
    std::uint8_t* page = base + number * kPage;
    if (next_initial < initial.numbers.size() && initial.numbers[next_initial] == number) {
      const std::uint8_t* want = initial.page(next_initial++);
      if (std::memcmp(page, want, kPage) != 0) std::memcpy(page, want, kPage);
    } else if ((!known || TouchedPages::Touched(entries[number])) && !IsZeroPage(page)) {
      std::memset(page, 0, kPage);
    }
  }
}

}  // namespace godwit::runtime
