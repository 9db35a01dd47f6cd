#include "migration/write_protect_tracker.h"

#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <span>

#include "base/descriptor.h"

namespace godwit::migration {
namespace {

// As in Linux' include/uapi/linux/{userfaultfd,fs}.h since 6.7; Debian 12's headers lack them.
constexpr std::uint64_t kFeatureWriteProtectAsync = 1 << 15;
struct PageRegion {
  std::uint64_t start, end, categories;
};
struct PagemapScanArgument {
  std::uint64_t size, flags, start, end, walk_end, vec, vec_len, max_pages;
  std::uint64_t category_inverted, category_mask, category_anyof_mask, return_mask;
};
constexpr unsigned long kPagemapScan = _IOWR('f', 16, PagemapScanArgument);
constexpr std::uint64_t kProtectMatching = 1 << 0, kCheckAsync = 1 << 1;
constexpr std::uint64_t kIsWritten = 1 << 1, kIsPresent = 1 << 3, kIsSwapped = 1 << 4;

// Runs longer than this may be page tables without pages: what of them exists is asked for.
constexpr std::uint64_t kCheckedRunPages = 64;

class WriteProtectTracker final : public PageTracker {
 public:
  WriteProtectTracker(std::uint8_t* base, std::uint64_t bytes_max, int faults, int pagemap)
      : base_(reinterpret_cast<std::uintptr_t>(base)), bytes_max_(bytes_max), faults_(faults), pagemap_(pagemap) {}
  // Closing the descriptor ends the protection.

  Status Start() {
    uffdio_api api{};
    api.api = UFFD_API;
    api.features = kFeatureWriteProtectAsync;
    if (faults_.get() < 0 || ioctl(faults_.get(), UFFDIO_API, &api) != 0) {
      return Unsupported("no asynchronous write protection by userfaultfd: " + std::string(std::strerror(errno)));
    }
    // The part that is not accessible yet too: what the memory grows by is watched from its begin.
    uffdio_register registration{};
    registration.range = {base_, bytes_max_};
    registration.mode = UFFDIO_REGISTER_MODE_WP;
    if (ioctl(faults_.get(), UFFDIO_REGISTER, &registration) != 0) {
      return Unsupported("userfaultfd refuses the memory: " + std::string(std::strerror(errno)));
    }
    PageRegion region;
    if (pagemap_.get() < 0 || Scan(base_, base_ + kPageBytes, false, {&region, 1}).count < 0) {
      return Unsupported("no PAGEMAP_SCAN: " + std::string(std::strerror(errno)));
    }
    return {};
  }

  // A page counts as written while it has no protection. Pages that do not exist in a page table that does have none
  // at first, so what is found is cut down to what exists; it is protected by then, and so is reported again if it
  // comes into being afterwards.
  Status Harvest(std::uint64_t begin, std::uint64_t end, std::vector<PageRange>& written) override {
    const std::uint64_t stop = base_ + end;
    for (std::uint64_t at = base_ + begin; at < stop;) {
      const Found found = Scan(at, stop, true, regions_);
      if (found.count < 0) return Internal("PAGEMAP_SCAN failed: " + std::string(std::strerror(errno)));
      for (long i = 0; i < found.count; ++i) {
        const PageRegion& region = regions_[static_cast<std::size_t>(i)];
        if ((region.end - region.start) / kPageBytes < kCheckedRunPages) Append(region, written);
        else GODWIT_TRY(AppendExisting(region, written));
      }
      at = found.next;
    }
    return {};
  }

 private:
  struct Found {
    long count;
    std::uint64_t next;  // Everything before it was looked at.
  };
  Found Scan(std::uint64_t begin, std::uint64_t end, bool written, std::span<PageRegion> regions) {
    PagemapScanArgument argument{};
    argument.size = sizeof argument;
    argument.start = begin;
    argument.end = end;
    argument.vec = reinterpret_cast<std::uint64_t>(regions.data());
    argument.vec_len = regions.size();
    if (written) {
      // Exactly these masks take the kernel's short way.
      argument.flags = kProtectMatching | kCheckAsync;
      argument.category_mask = argument.return_mask = kIsWritten;
    } else {
      argument.category_anyof_mask = kIsPresent | kIsSwapped;
      argument.return_mask = kIsPresent;
    }
    const long count = ioctl(pagemap_.get(), kPagemapScan, &argument);
    return {count, argument.walk_end};
  }
  Status AppendExisting(const PageRegion& among, std::vector<PageRange>& written) {
    for (std::uint64_t at = among.start; at < among.end;) {
      const Found found = Scan(at, among.end, false, existing_);
      if (found.count < 0) return Internal("PAGEMAP_SCAN failed: " + std::string(std::strerror(errno)));
      for (long i = 0; i < found.count; ++i) Append(existing_[static_cast<std::size_t>(i)], written);
      at = found.next;
    }
    return {};
  }
  void Append(const PageRegion& region, std::vector<PageRange>& written) const {
    const PageRange range{(region.start - base_) / kPageBytes, (region.end - region.start) / kPageBytes};
    if (!written.empty() && written.back().first + written.back().count == range.first) written.back().count += range.count;
    else written.push_back(range);
  }

  const std::uint64_t base_, bytes_max_;
  const Descriptor faults_, pagemap_;
  std::array<PageRegion, 1024> regions_, existing_;
};

}  // namespace

Result<std::unique_ptr<PageTracker>> CreateWriteProtectTracker(std::uint8_t* base, std::uint64_t bytes_max) {
  if (sysconf(_SC_PAGESIZE) != static_cast<long>(kPageBytes)) return Unsupported("the system's pages are not of 4 KiB");
  constexpr int kUserModeOnly = 1;
  const int faults = static_cast<int>(syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | kUserModeOnly));
  const int pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
  auto tracker = std::make_unique<WriteProtectTracker>(base, bytes_max, faults, pagemap);
  GODWIT_TRY(tracker->Start());
  return std::unique_ptr<PageTracker>(std::move(tracker));
}

}  // namespace godwit::migration
