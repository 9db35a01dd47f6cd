#include "compiler_process.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <optional>

#include "../compiler/protocol.h"
#include "package/isa.h"
#include "subprocess.h"

namespace godwit::cli {
namespace {

std::string CompilerPath() { return (std::filesystem::path(OwnPath()).parent_path() / "godwit-compiler").string(); }

Status CheckCompiler() {
  if (access(CompilerPath().c_str(), X_OK) == 0) return {};
  return Unsupported(
      "this godwit was built without the compiler; build the package elsewhere with 'godwit build --target ...'");
}

// The records of a compiler, as they arrive.
class RecordReader {
 public:
  explicit RecordReader(const compiler::Options& options) : options_(options) {}

  Status Take(ByteView bytes) {
    buffer_.insert(buffer_.end(), bytes.begin(), bytes.end());
    std::size_t at = 0;
    while (buffer_.size() - at >= 9) {
      std::uint64_t size;
      std::memcpy(&size, buffer_.data() + at + 1, 8);
      if (size > kCompilerRecordBytesMax) return Internal("the compiler wrote a record that is too large");
      if (buffer_.size() - at - 9 < size) break;
      GODWIT_TRY(Handle(static_cast<CompilerRecord>(buffer_[at]), ByteView(buffer_).subspan(at + 9, size)));
      at += 9 + size;
    }
    buffer_.erase(buffer_.begin(), buffer_.begin() + static_cast<std::ptrdiff_t>(at));
    return {};
  }
  bool done() const { return done_; }
  const std::optional<Error>& error() const { return error_; }
  compiler::Output& output() { return output_; }

 private:
  Status Handle(CompilerRecord kind, ByteView bytes) {
    switch (kind) {
      case CompilerRecord::kProgress: {
        if (bytes.size() < 16) return Internal("the compiler wrote a short record");
        std::uint64_t done, total;
        std::memcpy(&done, bytes.data(), 8);
        std::memcpy(&total, bytes.data() + 8, 8);
        if (options_.progress) options_.progress(done, total, AsText(bytes.subspan(16)));
        return {};
      }
      case CompilerRecord::kError:
        if (bytes.empty()) return Internal("the compiler wrote a short record");
        error_ = Error{static_cast<ErrorCode>(bytes[0]), std::string(AsText(bytes.subspan(1)))};
        return {};
      case CompilerRecord::kWasm: output_.wasm.assign(bytes.begin(), bytes.end()); return {};
      case CompilerRecord::kModule: output_.module.assign(bytes.begin(), bytes.end()); return {};
      case CompilerRecord::kIsa:
        if (bytes.size() != 1) return Internal("the compiler wrote a bad record");
        isa_ = static_cast<package::Isa>(bytes[0]);
        return {};
      case CompilerRecord::kImage: output_.images[isa_].assign(bytes.begin(), bytes.end()); return {};
      case CompilerRecord::kDone: done_ = true; return {};
    }
    return Internal("the compiler wrote an unknown record");
  }

  const compiler::Options& options_;
  Bytes buffer_;
  compiler::Output output_;
  package::Isa isa_ = package::HostIsa();
  std::optional<Error> error_;
  bool done_ = false;
};

struct Pipe {
  int read = -1, write = -1;
  ~Pipe() {
    CloseRead();
    CloseWrite();
  }
  Status Open() {
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) != 0) return ErrnoError("making a pipe to the compiler");
    read = ends[0];
    write = ends[1];
    return {};
  }
  void CloseRead() { if (read >= 0) close(std::exchange(read, -1)); }
  void CloseWrite() { if (write >= 0) close(std::exchange(write, -1)); }
};

// Feeds `source` and takes records until the compiler closes its output.
Status Converse(Pipe& to, Pipe& from, ByteView source, RecordReader& reader) {
  fcntl(to.write, F_SETFL, O_NONBLOCK);
  std::vector<std::uint8_t> chunk(1 << 20);
  if (source.empty()) to.CloseWrite();
  for (;;) {
    pollfd waits[] = {{from.read, POLLIN, 0}, {to.write, POLLOUT, 0}};
    if (poll(waits, 2, -1) < 0 && errno != EINTR) return ErrnoError("waiting for the compiler");
    if (to.write >= 0 && waits[1].revents) {
      const ssize_t n = write(to.write, source.data(), source.size());
      if (n > 0) source = source.subspan(static_cast<std::size_t>(n));
      if (source.empty() || (n < 0 && errno != EAGAIN && errno != EINTR)) to.CloseWrite();  // It says itself what is wrong.
    }
    if (waits[0].revents) {
      const ssize_t n = read(from.read, chunk.data(), chunk.size());
      if (n == 0) return {};
      if (n < 0 && errno != EINTR) return ErrnoError("reading from the compiler");
      if (n > 0) GODWIT_TRY(reader.Take({chunk.data(), static_cast<std::size_t>(n)}));
    }
  }
}

}  // namespace

Result<compiler::Output> RunCompiler(ByteView source, const std::string& name, const compiler::Options& options) {
  GODWIT_TRY(CheckCompiler());
  std::vector<std::string> words{CompilerPath(), name, std::to_string(options.optimisation_level),
                                 options.safepoints ? "1" : "0", options.cache};
  for (const package::Isa isa : options.targets) words.emplace_back(package::IsaName(isa));
  std::vector<char*> arguments;
  for (std::string& word : words) arguments.push_back(word.data());
  arguments.push_back(nullptr);

  Pipe to, from;
  GODWIT_TRY(to.Open());
  GODWIT_TRY(from.Open());
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, to.read, 0);
  posix_spawn_file_actions_adddup2(&actions, from.write, 1);
  pid_t child = 0;
  const int spawned = posix_spawn(&child, words[0].c_str(), &actions, nullptr, arguments.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  if (spawned != 0) {
    errno = spawned;
    return ErrnoError("starting the compiler");
  }
  to.CloseRead();
  from.CloseWrite();
  signal(SIGPIPE, SIG_IGN);
  RecordReader reader(options);
  const Status conversed = Converse(to, from, source, reader);
  if (!conversed.ok()) kill(child, SIGKILL);
  int status = 0;
  while (waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  if (!conversed.ok()) return conversed.error();
  if (reader.error()) return *reader.error();
  if (reader.done()) return std::move(reader.output());
  if (WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT) {
    return InvalidArgument(name + ": the compiler cannot make sense of it and gave up (what it said is above); is the module damaged or cut short?");
  }
  const std::string how = WIFSIGNALED(status) ? "was ended by signal " + std::to_string(WTERMSIG(status))
                                              : "ended with code " + std::to_string(WEXITSTATUS(status));
  return Internal(name + ": the compiler " + how + " before it was done; is there enough memory?");
}

Result<std::string> CompilerFingerprint() {
  GODWIT_TRY(CheckCompiler());
  GODWIT_ASSIGN(Finished finished, RunProcess({CompilerPath(), "--fingerprint"}, Complaints::kPassOn));
  if (finished.code != 0) return Internal("the compiler does not tell its fingerprint");
  return finished.output;
}

Result<std::string> CompilerFileIdentity() {
  GODWIT_TRY(CheckCompiler());
  const std::string path = CompilerPath();
  struct stat status;
  if (stat(path.c_str(), &status) != 0) return ErrnoError(path);
  return path + " " + std::to_string(status.st_size) + " " + std::to_string(status.st_ino) + " " +
         std::to_string(status.st_mtim.tv_sec) + "." + std::to_string(status.st_mtim.tv_nsec);
}

}  // namespace godwit::cli
