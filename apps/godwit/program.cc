#include "program.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <mutex>
#include <thread>

#include "compiler_process.h"
#include "package/files.h"

namespace godwit::cli {
namespace {

namespace fs = std::filesystem;
using package::Package;

// Shows how far the compiler is: on a terminal on one line, at most ten times a second; elsewhere, a line every few
// seconds for programs that take that long.
class Progress {
 public:
  Progress(std::string name, std::uint64_t program_bytes, const Session& session)
      : name_(std::move(name)), terminal_(isatty(2) == 1),
        on_(!session.quiet && (terminal_ || session.verbose || program_bytes >= kLongBytes)),
        every_(terminal_ ? 100 : session.verbose ? 1000 : 3000) {}
  ~Progress() {
    if (shown_ && terminal_) std::fputs("\r\033[K", stderr);
  }
  void Show(std::uint64_t done, std::uint64_t total, std::string_view phase) {
    const std::lock_guard lock(mutex_);
    const auto now = std::chrono::steady_clock::now();
    if (!on_ || now - last_ < every_) return;
    last_ = now;
    shown_ = true;
    std::fprintf(stderr, "%scompiling %s: %.*s %d%%%s", terminal_ ? "\r\033[K" : "", name_.c_str(),
                 static_cast<int>(phase.size()), phase.data(),
                 total == 0 ? 0 : static_cast<int>(done * 100 / total), terminal_ ? "" : "\n");
    std::fflush(stderr);
  }

 private:
  static constexpr std::uint64_t kLongBytes = 4 << 20;
  const std::string name_;
  const bool terminal_, on_;
  const std::chrono::milliseconds every_;
  std::mutex mutex_;  // Guards the rest: any compiling thread reports.
  bool shown_ = false;
  std::chrono::steady_clock::time_point last_{};
};

Result<fs::path> CacheFolder() {
  fs::path folder;
  if (const char* set = std::getenv("GODWIT_CACHE"); set && *set) {
    folder = set;
  } else if (const char* xdg = std::getenv("XDG_CACHE_HOME"); xdg && *xdg) {
    folder = fs::path(xdg) / "godwit";
  } else if (const char* home = std::getenv("HOME"); home && *home) {
    folder = fs::path(home) / ".cache" / "godwit";
  } else {
    return FailedPrecondition("no place for compiled programs: set GODWIT_CACHE or HOME");
  }
  std::error_code error;
  for (const char* part : {"packages", "digests", "fingerprints"}) {
    fs::create_directories(folder / part, error);
    if (error) {
      return FailedPrecondition("cannot make the cache folder " + (folder / part).string() + ": " + error.message() +
                                "; set GODWIT_CACHE to a folder that can be written");
    }
  }
  return folder;
}

Result<std::string> Compile(ByteView source, const std::string& name, const std::string& title,
                            const CompileFlags& flags, const fs::path& output, const Session& session) {
  Progress progress(name, source.size(), session);
  compiler::Options options;
  options.targets = flags.targets;
  options.optimisation_level = flags.optimisation_level;
  options.safepoints = flags.safepoints;
  if (const auto cache = CacheFolder(); cache.ok()) options.cache = (*cache / "partitions").string();
  options.progress = [&](std::uint64_t done, std::uint64_t total, std::string_view phase) {
    progress.Show(done, total, phase);
  };
  GODWIT_ASSIGN(compiler::Output compiled, RunCompiler(source, name, options));
  package::Contents contents;
  contents.name = title;
  contents.wasm = std::move(compiled.wasm);
  contents.module = std::move(compiled.module);
  contents.images = std::move(compiled.images);
  return package::WritePackage(output, contents);
}

Result<package::Blob> ReadProgram(const fs::path& path) {
  Result<package::Blob> source = package::MapFile(path, kProgramBytesMax);
  if (!source.ok() && source.error().code == ErrorCode::kCorrupt) return InvalidArgument(source.error().message);
  return source;
}

// The compiler's fingerprint, remembered per compiler file: asking it means loading LLVM.
Result<std::string> Fingerprint(const fs::path& cache) {
  GODWIT_ASSIGN(const std::string identity, CompilerFileIdentity());
  const fs::path path = cache / "fingerprints" / package::Sha256Digest(AsBytes(identity)).substr(7);
  if (const auto known = package::MapFile(path, 4096); known.ok() && !known->bytes.empty()) {
    return std::string(AsText(known->bytes));
  }
  GODWIT_ASSIGN(const std::string fingerprint, CompilerFingerprint());
  const fs::path made = path.string() + "." + std::to_string(getpid());
  GODWIT_TRY(package::WriteFile(made, AsBytes(fingerprint)));
  if (rename(made.c_str(), path.c_str()) != 0) return ErrnoError(path.string());
  return fingerprint;
}

// The program's digest, remembered while its file stays as it is.
std::string SourceDigest(const package::Blob& source, const package::KnownFiles& known) {
  if (source.bytes.size() < package::KnownFiles::kWorthRemembering) return package::Sha256Digest(source.bytes);
  const auto sight = package::KnownFiles::Look(source.fd);
  if (auto digest = known.Recall(sight, "digest")) return *digest;
  const std::string digest = package::Sha256Digest(source.bytes);
  known.Remember(sight, "digest", digest);
  return digest;
}

std::string CacheKey(const std::string& source_digest, const CompileFlags& flags, const std::string& fingerprint) {
  std::string parts = source_digest + "\n" + fingerprint + "\nO" +
                      std::to_string(flags.optimisation_level) + (flags.safepoints ? " stops" : " no stops");
  for (const package::Isa isa : flags.targets) parts += " " + std::string(package::IsaName(isa));
  return package::Sha256Digest(AsBytes(parts)).substr(7);
}

// Removes the entries used longest ago past the limit.
void TrimCache(const fs::path& cache) {
  std::error_code error;
  std::vector<std::pair<fs::file_time_type, fs::path>> entries;
  for (fs::directory_iterator it(cache / "packages", error), end; !error && it != end; it.increment(error)) {
    std::error_code gone;
    const auto used = fs::last_write_time(it->path(), gone);
    if (!gone) entries.emplace_back(used, it->path());
  }
  if (entries.size() <= kCacheEntriesMax) return;
  std::sort(entries.begin(), entries.end());
  for (std::size_t i = 0; i < entries.size() - kCacheEntriesMax; ++i) fs::remove_all(entries[i].second, error);
  for (fs::directory_iterator it(cache / "digests", error), end; !error && it != end; it.increment(error)) {
    std::error_code gone;
    if (!fs::exists(it->path(), gone)) fs::remove(it->path(), gone);
  }
}

}  // namespace

Result<std::string> CompileTo(const fs::path& path, const CompileFlags& flags, const fs::path& output,
                              const Session& session) {
  GODWIT_ASSIGN(const package::Blob source, ReadProgram(path));
  return Compile(source.bytes, path.filename().string(), path.stem().string(), flags, output, session);
}

Result<std::shared_ptr<const Package>> OpenProgram(const fs::path& path, const CompileFlags& flags,
                                                   const Session& session) {
  std::error_code error;
  if (fs::is_directory(path, error)) {
    const auto cache = CacheFolder();
    const package::KnownFiles known(cache.ok() ? *cache / "known" : fs::path());
    return Package::Open(path, &known);
  }
  GODWIT_ASSIGN(const package::Blob source, ReadProgram(path));
  GODWIT_ASSIGN(const fs::path cache, CacheFolder());
  const package::KnownFiles known(cache / "known");
  GODWIT_ASSIGN(const std::string fingerprint, Fingerprint(cache));
  const fs::path entry = cache / "packages" / (CacheKey(SourceDigest(source, known), flags, fingerprint) + ".gwp");
  if (auto package = Package::Open(entry, &known); package.ok()) {
    bool whole = true;
    for (const package::Isa isa : flags.targets) whole = whole && (*package)->image(isa).ok();
    if (whole) {
      utimensat(AT_FDCWD, entry.c_str(), nullptr, 0);  // Used just now.
      return package;
    }
  }
  GODWIT_ASSIGN(const std::string digest, Compile(source.bytes, path.filename().string(), "", flags, entry, session));
  const fs::path link = cache / "digests" / digest.substr(7);
  fs::remove(link, error);
  fs::create_symlink(fs::path("..") / "packages" / entry.filename(), link, error);  // Another process may be faster.
  TrimCache(cache);
  // What is looked at right after it was written is not remembered; of a large program it should be.
  if (source.bytes.size() >= package::KnownFiles::kWorthRemembering) std::this_thread::sleep_for(package::KnownFiles::kSettled);
  return Package::Open(entry, &known);
}

Result<std::shared_ptr<const Package>> FindCachedPackage(const std::string& digest) {
  if (digest.size() == 71 && digest.starts_with("sha256:") && digest.find('/') == std::string::npos) {
    GODWIT_ASSIGN(const fs::path cache, CacheFolder());
    auto package = Package::Open(cache / "digests" / digest.substr(7));
    if (package.ok() && (*package)->digest() == digest) return package;
  }
  return NotFound("the snapshot does not carry its package " + digest + " and it is not in the cache; name it with --package");
}

Result<std::vector<package::Isa>> ParseTargets(const std::vector<std::string>& names) {
  std::vector<package::Isa> targets;
  for (const std::string& name : names) {
    const auto isa = package::ParseIsa(name);
    if (!isa) return InvalidArgument("unknown target '" + name + "'; there are x86_64, aarch64, riscv64");
    if (std::find(targets.begin(), targets.end(), *isa) == targets.end()) targets.push_back(*isa);
  }
  std::sort(targets.begin(), targets.end());
  return targets;
}

}  // namespace godwit::cli
