// The 46 functions of WASI preview 1 over a guest's memory, apart from how an instance is found and blocks.
//
// Each is named as in the specification and returns its errno. Result pointers are checked before anything
// takes effect, so a call that fails with kFault changed nothing. A call that waits holds nothing that needs
// a destructor across GuestCall::Block, and looks its descriptor up again afterwards.
#pragma once

#include <sys/stat.h>

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "runtime/instance.h"
#include "runtime/wasi.h"
#include "runtime/wasi_abi.h"
#include "runtime/wasi_paths.h"

namespace godwit::runtime::wasi {

// The call in progress: the guest's memory and ways to wait or end.
class GuestCall {
 public:
  virtual GuestMemory memory() const = 0;  // Memory can have grown after Block: ask again.
  virtual TaskId task() const = 0;
  virtual Instance::Wait Block(Blocked what) = 0;
  virtual void Restart() = 0;
  [[noreturn]] virtual void Exit(std::uint32_t code) = 0;

 protected:
  ~GuestCall() = default;
};

struct ListedEntry {
  std::string name;
  std::uint64_t inode;
  FileType type;
};

enum class Kind : std::uint8_t {
  kStream = 0, kPreopen = 1, kFile = 2, kDirectory = 3, kDevice = 4, kListener = 5, kConnection = 6,
};
enum class Access : std::uint8_t { kRead = 0, kWrite = 1, kReadWrite = 2 };

struct Descriptor {
  Kind kind = Kind::kStream;
  FileType type = FileType::kUnknown;
  Rights rights = 0, inheriting = 0;
  std::uint32_t flags = 0;             // fdflags
  std::uint32_t stream_index = 0;      // kStream: which of stdio.
  std::uint32_t preopen = 0;           // What is in a folder.
  std::string path;                    // From the preopened folder, as Location::path.
  Access access = Access::kRead;       // kFile, kDevice: as opened on the host.
  HostFd host;                         // kFile, kDirectory, kDevice.
  std::shared_ptr<void> counted;       // The same, of a folder with Preopen::open_here: one of those.
  std::shared_ptr<Stream> stream;      // kStream, kDevice, kConnection.
  std::uint64_t socket = 0;            // kListener: number in Sockets. kConnection: id there.
  std::optional<std::vector<ListedEntry>> listing;  // Directories, once read: a cookie is an index in it.

  bool is_directory() const { return kind == Kind::kPreopen || kind == Kind::kDirectory; }
  bool is_socket() const { return kind == Kind::kListener || kind == Kind::kConnection; }
  // Files, directories and devices of a folder.
  bool is_opened() const { return kind == Kind::kFile || kind == Kind::kDirectory || kind == Kind::kDevice; }
};

class Calls {
 public:
  using u32 = std::uint32_t;
  using u64 = std::uint64_t;

  static Result<std::unique_ptr<Calls>> Create(WasiOptions options);
  Result<Bytes> Save() const;
  Status Load(ByteView state);

  Errno args_get(GuestCall&, u32 argv, u32 buffer);
  Errno args_sizes_get(GuestCall&, u32 count, u32 bytes);
  Errno environ_get(GuestCall&, u32 environment, u32 buffer);
  Errno environ_sizes_get(GuestCall&, u32 count, u32 bytes);

  Errno clock_res_get(GuestCall&, u32 clock, u32 result);
  Errno clock_time_get(GuestCall&, u32 clock, u64 precision, u32 result);
  Errno poll_oneoff(GuestCall&, u32 subscriptions, u32 events, u32 count, u32 result);
  void proc_exit(GuestCall&, u32 code);
  Errno proc_raise(GuestCall&, u32 signal);
  Errno random_get(GuestCall&, u32 buffer, u32 bytes);
  Errno sched_yield(GuestCall&);

  Errno fd_advise(GuestCall&, u32 fd, u64 offset, u64 bytes, u32 advice);
  Errno fd_allocate(GuestCall&, u32 fd, u64 offset, u64 bytes);
  Errno fd_close(GuestCall&, u32 fd);
  Errno fd_datasync(GuestCall&, u32 fd);
  Errno fd_fdstat_get(GuestCall&, u32 fd, u32 result);
  Errno fd_fdstat_set_flags(GuestCall&, u32 fd, u32 flags);
  Errno fd_fdstat_set_rights(GuestCall&, u32 fd, u64 rights, u64 inheriting);
  Errno fd_filestat_get(GuestCall&, u32 fd, u32 result);
  Errno fd_filestat_set_size(GuestCall&, u32 fd, u64 size);
  Errno fd_filestat_set_times(GuestCall&, u32 fd, u64 atim, u64 mtim, u32 flags);
  Errno fd_pread(GuestCall&, u32 fd, u32 vectors, u32 count, u64 offset, u32 result);
  Errno fd_prestat_get(GuestCall&, u32 fd, u32 result);
  Errno fd_prestat_dir_name(GuestCall&, u32 fd, u32 buffer, u32 bytes);
  Errno fd_pwrite(GuestCall&, u32 fd, u32 vectors, u32 count, u64 offset, u32 result);
  Errno fd_read(GuestCall&, u32 fd, u32 vectors, u32 count, u32 result);
  Errno fd_readdir(GuestCall&, u32 fd, u32 buffer, u32 bytes, u64 cookie, u32 result);
  Errno fd_renumber(GuestCall&, u32 from, u32 to);
  Errno fd_seek(GuestCall&, u32 fd, u64 offset, u32 whence, u32 result);
  Errno fd_sync(GuestCall&, u32 fd);
  Errno fd_tell(GuestCall&, u32 fd, u32 result);
  Errno fd_write(GuestCall&, u32 fd, u32 vectors, u32 count, u32 result);

  Errno path_create_directory(GuestCall&, u32 fd, u32 path, u32 path_bytes);
  Errno path_filestat_get(GuestCall&, u32 fd, u32 lookup, u32 path, u32 path_bytes, u32 result);
  Errno path_filestat_set_times(GuestCall&, u32 fd, u32 lookup, u32 path, u32 path_bytes, u64 atim, u64 mtim,
                                u32 flags);
  Errno path_link(GuestCall&, u32 from_fd, u32 lookup, u32 from, u32 from_bytes, u32 to_fd, u32 to,
                  u32 to_bytes);
  Errno path_open(GuestCall&, u32 fd, u32 lookup, u32 path, u32 path_bytes, u32 open_flags, u64 rights,
                  u64 inheriting, u32 flags, u32 result);
  Errno path_readlink(GuestCall&, u32 fd, u32 path, u32 path_bytes, u32 buffer, u32 bytes, u32 result);
  Errno path_remove_directory(GuestCall&, u32 fd, u32 path, u32 path_bytes);
  Errno path_rename(GuestCall&, u32 from_fd, u32 from, u32 from_bytes, u32 to_fd, u32 to, u32 to_bytes);
  Errno path_symlink(GuestCall&, u32 target, u32 target_bytes, u32 fd, u32 path, u32 path_bytes);
  Errno path_unlink_file(GuestCall&, u32 fd, u32 path, u32 path_bytes);

  Errno sock_accept(GuestCall&, u32 fd, u32 flags, u32 result);
  Errno sock_recv(GuestCall&, u32 fd, u32 vectors, u32 count, u32 flags, u32 bytes, u32 result_flags);
  Errno sock_send(GuestCall&, u32 fd, u32 vectors, u32 count, u32 flags, u32 bytes);
  Errno sock_shutdown(GuestCall&, u32 fd, u32 how);

 private:
  struct Folder {
    Preopen preopen;
    HostFd host;
  };
  // What an interrupted call had reached; taken up when the same task makes the same call again.
  struct Pending {
    u32 call;
    std::array<u32, 4> arguments;
    u64 value;
  };
  static constexpr std::size_t kPendingMax = 4096;
  enum PendingCall : u32 { kPendingPoll = 1, kPendingWrite = 2, kPendingReceive = 3 };
  // A time of the guest's CLOCK_MONOTONIC is that of the host plus this base's difference.
  struct ClockBase {
    u64 guest = 0, host = 0;
    u64 At(u64 host_now) const { return guest + (host_now > host ? host_now - host : 0); }
  };
  struct State {
    std::vector<std::string> args;
    std::vector<std::pair<std::string, std::string>> env;
    std::vector<Folder> folders;
    std::vector<std::optional<Descriptor>> descriptors;  // Index: the guest's number.
    ClockBase monotonic, cpu;
    std::map<TaskId, Pending> pending;
  };

  explicit Calls(WasiOptions options);

  // wasi_descriptors.cc
  Descriptor* At(u32 fd);
  Errno Find(u32 fd, Rights needed, Descriptor*& found);
  Errno FindFile(u32 fd, Rights needed, Descriptor*& found);       // A file or device with a host descriptor.
  Errno FindDirectory(u32 fd, Rights needed, Descriptor*& found);
  bool HasRoom() const;
  u32 Add(Descriptor descriptor);  // HasRoom() holds.
  void Close(u32 fd);              // Open, and is so no more.
  int HostOf(const Descriptor& descriptor) const;
  bool ReadOnly(const Descriptor& descriptor) const;
  std::optional<Pending> TakePending(TaskId task, u32 call, const std::array<u32, 4>& arguments);
  Errno Interrupted(GuestCall& call, u32 which, const std::array<u32, 4>& arguments, u64 value);

  // wasi_fd.cc
  Errno Transfer(GuestCall& call, u32 fd, u32 vectors, u32 count, std::optional<u64> offset, u32 result,
                 bool write);
  Errno ReadStream(GuestCall& call, u32 fd, u32 vectors, u32 count, u32 result);
  Errno WriteStream(GuestCall& call, u32 fd, u32 vectors, u32 count, u32 result);
  Errno List(Descriptor& directory);

  // wasi_socket.cc
  Errno FindConnection(u32 fd, Rights needed, Descriptor*& found);

  // wasi_path.cc
  Errno Locate(GuestCall& call, u32 fd, Rights needed, u32 path, u32 path_bytes, bool follow, bool changes,
               Location& location, Descriptor*& directory);
  void Renamed(u32 folder_from, const std::string& from, u32 folder_to, const std::string& to);

  // wasi_state.cc
  Result<Descriptor> Reopen(const State& state, Descriptor saved, u64 offset) const;
  Result<Descriptor> LoadSocket(Descriptor saved) const;

  // wasi_removed.cc
  Result<Descriptor> Remake(const State& state, Descriptor saved, ByteView contents, u64 offset) const;

  WasiOptions options_;
  State state_;
};

// Fills in a filestat, kFilestatBytes long.
void PutFilestat(std::uint8_t* to, const struct stat& status);
// The two times for utimensat(2); kInval for unknown or contradicting fstflags.
Errno HostTimes(std::uint64_t atim, std::uint64_t mtim, std::uint32_t flags, timespec (&times)[2]);
// Opens for a path_open or a Load(): fills in `descriptor`'s host, type, kind and stream from an open host fd.
// kNotSup for pipes and sockets.
Errno Adopt(HostFd host, Descriptor& descriptor);
Descriptor ListenerDescriptor(std::uint64_t listener);
Descriptor ConnectionDescriptor(std::uint64_t id, std::shared_ptr<Connection> connection);
// All that a removed file holds; kFailedPrecondition, naming it, if that is more than `bytes_max`.
Result<Bytes> ContentsOf(int fd, const std::string& name, std::uint64_t bytes_max);
// For Descriptor::counted.
std::shared_ptr<void> CountOpen(const Preopen& preopen);
// "a/b" of folder path "a" and Location::path "b".
std::string JoinPath(const std::string& folder, const std::string& path);
// Writes fdflags as open(2) flags; NONBLOCK is kept here, never on the host's descriptor.
int HostFlags(std::uint32_t fdflags);

}  // namespace godwit::runtime::wasi
