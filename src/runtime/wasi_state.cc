// How WASI's state begins, is saved, and is loaded.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>

#include "base/flatbuffer.h"
#include "runtime/wasi_calls.h"
#include "runtime/wasi_generated.h"

namespace godwit::runtime::wasi {
namespace {

constexpr std::uint32_t kStateVersion = 1;
// More than Save() writes at most: entries of listings, variables, descriptors, folders, interrupted calls.
constexpr flatbuffers::uoffset_t kTablesMax = 4 << 20;
constexpr flatbuffers::uoffset_t kDepthMax = 8;
static_assert(Wasi::kDirectoryEntriesMax + Wasi::kArgumentBytesMax / 4 + 8192 < kTablesMax);

std::string StringOf(const flatbuffers::String* text) { return text == nullptr ? std::string() : text->str(); }

Result<HostFd> OpenFolder(const Preopen& preopen) {
  HostFd folder(::open(preopen.host.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!folder.valid()) return ErrnoError("folder " + preopen.host + " (the guest's " + preopen.guest + ")");
  return folder;
}

Descriptor StreamDescriptor(std::uint32_t index, std::shared_ptr<Stream> stream) {
  Descriptor descriptor;
  descriptor.kind = Kind::kStream;
  descriptor.type = stream->is_terminal() ? FileType::kCharacterDevice : FileType::kUnknown;
  descriptor.rights = right::kStream & ~(index == 0 ? right::kFdWrite : right::kFdRead);
  descriptor.stream_index = index;
  descriptor.stream = std::move(stream);
  return descriptor;
}

Descriptor PreopenDescriptor(std::uint32_t index) {
  Descriptor descriptor;
  descriptor.kind = Kind::kPreopen;
  descriptor.type = FileType::kDirectory;
  descriptor.rights = right::kDirectory;
  descriptor.inheriting = right::kDirectory | right::kFile;
  descriptor.preopen = index;
  return descriptor;
}

bool IsAt(int folder, const std::string& path, const struct stat& opened) {
  struct stat there;
  Location location;
  return Resolve(folder, path.empty() ? std::string_view(".") : std::string_view(path), false, location) == Errno::kSuccess &&
         ::fstatat(location.at, location.name.c_str(), &there, AT_SYMLINK_NOFOLLOW) == 0 &&
         there.st_dev == opened.st_dev && there.st_ino == opened.st_ino;
}

// Nothing to read, and nowhere to write: in the place of standard streams that are not given.
class ClosedStream final : public Stream {
 public:
  Result<std::optional<std::size_t>> TryRead(std::span<std::uint8_t>) override { return std::optional<std::size_t>(0); }
  Result<std::optional<std::size_t>> TryWrite(std::span<const std::uint8_t>) override {
    return Unavailable("stream: closed");
  }
  std::optional<std::size_t> Readable() override { return 0; }
  bool Writable() override { return true; }
};

}  // namespace

Calls::Calls(WasiOptions options) : options_(std::move(options)) {
  if (!options_.clock) options_.clock = SystemClock();
  for (auto& stream : options_.stdio) {
    if (!stream) stream = std::make_shared<ClosedStream>();
  }
}

Result<std::unique_ptr<Calls>> Calls::Create(WasiOptions options) {
  std::size_t bytes = 0;
  const auto check = [&bytes](const std::string& text) {
    bytes += text.size() + 2;
    return text.find('\0') == text.npos;
  };
  for (const std::string& argument : options.args) {
    if (!check(argument)) return InvalidArgument("WASI: an argument holds a NUL byte");
  }
  for (const auto& [name, value] : options.env) {
    if (!check(name) || !check(value) || name.empty() || name.find('=') != name.npos) {
      return InvalidArgument("WASI: environment variable '" + name + "' has a bad name or holds a NUL byte");
    }
  }
  if (bytes > Wasi::kArgumentBytesMax) {
    return InvalidArgument("WASI: arguments and environment exceed " + std::to_string(Wasi::kArgumentBytesMax) +
                           " bytes");
  }
  if (!options.sockets) options.sockets = std::make_shared<Sockets>();
  if (options.preopens.size() + options.sockets->listeners() + 3 > Wasi::kDescriptorsMax) return InvalidArgument("WASI: too many folders");

  std::unique_ptr<Calls> calls(new Calls(std::move(options)));
  State& state = calls->state_;
  state.args = calls->options_.args;
  state.env = calls->options_.env;
  for (std::uint32_t i = 0; i < 3; ++i) {
    state.descriptors.emplace_back(StreamDescriptor(i, calls->options_.stdio[i]));
  }
  for (const Preopen& preopen : calls->options_.preopens) {
    if (preopen.guest.empty() || preopen.guest.size() > kPathBytesMax) {
      return InvalidArgument("WASI: folder " + preopen.host + " needs a guest path of 1 to 4096 bytes");
    }
    GODWIT_ASSIGN(HostFd host, OpenFolder(preopen));
    // A snapshot may be resumed with another working directory.
    std::error_code failed;
    Preopen absolute = preopen;
    absolute.host = std::filesystem::canonical(preopen.host, failed).string();
    if (failed) return InvalidArgument("WASI: folder " + preopen.host + ": " + failed.message());
    state.descriptors.emplace_back(PreopenDescriptor(static_cast<std::uint32_t>(state.folders.size())));
    state.folders.push_back({std::move(absolute), std::move(host)});
  }
  for (std::size_t i = 0; i < calls->options_.sockets->listeners(); ++i) state.descriptors.emplace_back(ListenerDescriptor(i));
  state.monotonic.host = calls->options_.clock->Monotonic();
  state.cpu.host = calls->options_.clock->Cpu();
  return calls;
}

Result<Bytes> Calls::Save() const {
  flatbuffers::FlatBufferBuilder builder;
  std::vector<flatbuffers::Offset<fbs::WasiDescriptor>> descriptors;
  std::uint64_t removed_bytes = 0;
  for (u32 fd = 0; fd < state_.descriptors.size(); ++fd) {
    if (!state_.descriptors[fd]) continue;
    const Descriptor& d = *state_.descriptors[fd];
    u64 offset = 0;
    bool removed = false;
    flatbuffers::Offset<flatbuffers::Vector<std::uint8_t>> contents;
    if (d.is_opened()) {
      const Folder& folder = state_.folders[d.preopen];
      const std::string name = JoinPath(folder.preopen.host, d.path);
      if (folder.preopen.open_here) {
        return FailedPrecondition("WASI: " + JoinPath(folder.preopen.guest, d.path) + " is open, a file that only this device has: close it, then move");
      }
      struct stat opened;
      if (::fstat(d.host.get(), &opened) != 0) return ErrnoError("WASI: open file " + name);
      removed = opened.st_nlink == 0 && d.kind != Kind::kDevice;
      if (!removed && !IsAt(folder.host.get(), d.path, opened)) {
        return FailedPrecondition("WASI: open file " + name + " was replaced, so it cannot be opened again elsewhere");
      }
      if (removed && d.kind == Kind::kFile) {
        GODWIT_ASSIGN(const Bytes bytes, ContentsOf(d.host.get(), name, Wasi::kDetachedBytesMax - removed_bytes));
        removed_bytes += bytes.size();
        contents = builder.CreateVector(bytes);
      }
      if (d.kind == Kind::kFile) {
        const off_t at = ::lseek(d.host.get(), 0, SEEK_CUR);
        if (at < 0) return ErrnoError("WASI: offset of " + name);
        offset = static_cast<u64>(at);
      }
    }
    flatbuffers::Offset<flatbuffers::Vector<flatbuffers::Offset<fbs::WasiDirectoryEntry>>> listing;
    if (d.listing) {
      std::vector<flatbuffers::Offset<fbs::WasiDirectoryEntry>> entries;
      for (const ListedEntry& entry : *d.listing) {
        entries.push_back(fbs::CreateWasiDirectoryEntry(builder, builder.CreateString(entry.name), entry.inode,
                                                        static_cast<std::uint8_t>(entry.type)));
      }
      listing = builder.CreateVector(entries);
    }
    const auto path = builder.CreateString(d.path);
    descriptors.push_back(fbs::CreateWasiDescriptor(
        builder, fd, static_cast<fbs::WasiKind>(d.kind), d.stream_index, d.preopen, path,
        static_cast<fbs::WasiAccess>(d.access), d.rights, d.inheriting, d.flags, offset, d.listing.has_value(),
        listing, d.socket, removed, contents));
  }
  std::vector<flatbuffers::Offset<fbs::WasiVariable>> env;
  for (const auto& [name, value] : state_.env) {
    const auto saved_name = builder.CreateString(name), saved_value = builder.CreateString(value);
    env.push_back(fbs::CreateWasiVariable(builder, saved_name, saved_value));
  }
  std::vector<flatbuffers::Offset<fbs::WasiPreopen>> preopens;
  for (const Folder& folder : state_.folders) {
    const auto guest = builder.CreateString(folder.preopen.guest), host = builder.CreateString(folder.preopen.host);
    preopens.push_back(fbs::CreateWasiPreopen(builder, guest, host, folder.preopen.read_only));
  }
  std::vector<flatbuffers::Offset<fbs::WasiPending>> pending;
  for (const auto& [task, entry] : state_.pending) {
    const auto arguments = builder.CreateVector(entry.arguments.data(), entry.arguments.size());
    pending.push_back(fbs::CreateWasiPending(builder, task, entry.call, arguments, entry.value));
  }
  const auto args = builder.CreateVectorOfStrings(state_.args);
  const auto saved_env = builder.CreateVector(env);
  const auto saved_preopens = builder.CreateVector(preopens);
  const auto saved_descriptors = builder.CreateVector(descriptors);
  const auto saved_pending = builder.CreateVector(pending);
  std::vector<std::string> listeners;
  for (std::size_t i = 0; i < options_.sockets->listeners(); ++i) listeners.push_back(options_.sockets->address(i));
  const auto saved_listeners = builder.CreateVectorOfStrings(listeners);
  builder.Finish(fbs::CreateWasiState(builder, kStateVersion, args, saved_env, saved_preopens, saved_descriptors,
                                      state_.monotonic.At(options_.clock->Monotonic()),
                                      state_.cpu.At(options_.clock->Cpu()), saved_pending, saved_listeners),
                 fbs::WasiStateIdentifier());
  return Bytes(builder.GetBufferPointer(), builder.GetBufferPointer() + builder.GetSize());
}

Result<Descriptor> Calls::Reopen(const State& state, Descriptor saved, u64 offset) const {
  const Folder& folder = state.folders[saved.preopen];
  const std::string name = JoinPath(folder.preopen.host, saved.path);
  const auto gone = [&name](int error) {
    errno = error;
    return FailedPrecondition(ErrnoError("WASI: cannot open file " + name + " of the snapshot again").message);
  };
  if (folder.preopen.read_only && saved.access != Access::kRead) {
    return FailedPrecondition("WASI: file " + name + " was open for writing, but its folder is read-only here");
  }
  Location location;
  const std::string_view path = saved.path.empty() ? std::string_view(".") : std::string_view(saved.path);
  switch (Resolve(folder.host.get(), path, false, location)) {
    case Errno::kSuccess: break;
    case Errno::kPerm: return PermissionDenied("WASI: path " + name + " of the snapshot leaves its folder");
    default: return gone(ENOENT);
  }
  const int access = saved.access == Access::kRead ? O_RDONLY : saved.access == Access::kWrite ? O_WRONLY : O_RDWR;
  HostFd host(::openat(location.at, location.name.c_str(),
                       access | HostFlags(saved.flags) | O_NOFOLLOW | O_NOCTTY | O_NONBLOCK | O_CLOEXEC));
  if (!host.valid()) return gone(errno);
  const Kind kind = saved.kind;
  if (Adopt(std::move(host), saved) != Errno::kSuccess || saved.kind != kind) {
    return FailedPrecondition("WASI: " + name + " is not the kind of file that the snapshot had open");
  }
  if (kind == Kind::kFile && ::lseek(saved.host.get(), static_cast<off_t>(offset), SEEK_SET) < 0) return gone(errno);
  saved.counted = CountOpen(folder.preopen);
  return saved;
}

Result<Descriptor> Calls::LoadSocket(Descriptor saved) const {
  if (saved.kind == Kind::kConnection) return ConnectionDescriptor(saved.socket, options_.sockets->Find(saved.socket));
  if (saved.socket >= options_.sockets->listeners()) return Corrupt("WASI state: no such listening socket");
  return ListenerDescriptor(saved.socket);
}

Status Calls::Load(ByteView unaligned) {
  Bytes copy;
  const ByteView bytes = AlignedOrCopied(unaligned, copy);
  flatbuffers::Verifier verifier(bytes.data(), bytes.size(), kDepthMax, kTablesMax);
  if (!fbs::VerifyWasiStateBuffer(verifier)) return Corrupt("WASI state: not a valid description");
  const fbs::WasiState& saved = *fbs::GetWasiState(bytes.data());
  if (saved.version() != kStateVersion) {
    return Unsupported("WASI state: version " + std::to_string(saved.version()) + ", this build reads " +
                       std::to_string(kStateVersion));
  }
  State state;
  std::size_t argument_bytes = 0;
  CopyBudget copies(bytes.size());
  const auto text = [&](const flatbuffers::String* from) -> std::string {
    if (from != nullptr && !copies.Take(from->size())) {
      argument_bytes = Wasi::kArgumentBytesMax + 1;
      return {};
    }
    std::string result = StringOf(from);
    argument_bytes += result.size() + 2;
    if (result.find('\0') != result.npos) argument_bytes = Wasi::kArgumentBytesMax + 1;
    return result;
  };
  if (saved.arguments() != nullptr) {
    for (const auto* argument : *saved.arguments()) state.args.push_back(text(argument));
  }
  if (saved.environment() != nullptr) {
    for (const auto* variable : *saved.environment()) {
      std::string name = text(variable->name());
      state.env.emplace_back(std::move(name), text(variable->value()));
    }
  }
  if (argument_bytes > Wasi::kArgumentBytesMax) return Corrupt("WASI state: arguments or environment too long");

  if (saved.preopens() != nullptr) {
    if (saved.preopens()->size() > Wasi::kDescriptorsMax) return Corrupt("WASI state: too many folders");
    for (const auto* from : *saved.preopens()) {
      Preopen preopen{StringOf(from->host()), StringOf(from->guest()), from->read_only()};
      bool mapped = false;
      for (const Preopen& given : options_.preopens) {
        if (given.guest != preopen.guest) continue;
        preopen = given;
        mapped = true;
        break;
      }
      if (!mapped && !options_.folders_from_snapshot) {
        return PermissionDenied("WASI state: the guest's folder " + preopen.guest + " is not mapped here");
      }
      auto host = OpenFolder(preopen);
      if (!host.ok()) {
        const ErrorCode code = host.error().code == ErrorCode::kPermissionDenied ? ErrorCode::kPermissionDenied
                                                                                 : ErrorCode::kFailedPrecondition;
        return Error{code, "WASI state: " + host.error().message + "; map it to another with --dir"};
      }
      state.folders.push_back({std::move(preopen), std::move(host).value()});
    }
  }
  if (saved.listeners() != nullptr) {
    if (saved.listeners()->size() > Sockets::kListenersMax) return Corrupt("WASI state: too many listening sockets");
    while (options_.sockets->listeners() < saved.listeners()->size()) {
      const std::string address = StringOf(saved.listeners()->Get(static_cast<u32>(options_.sockets->listeners())));
      if (!options_.folders_from_snapshot) return PermissionDenied("WASI state: listening at " + address + " is not allowed here");
      if (const Status listening = options_.sockets->Listen(address); !listening.ok()) {
        return FailedPrecondition("WASI state: " + listening.error().message + "; give it another with --tcplisten");
      }
    }
  }
  std::size_t listed = 0, removed_bytes = 0;
  if (saved.descriptors() != nullptr) {
    for (const auto* from : *saved.descriptors()) {
      const std::string where = "WASI state: descriptor " + std::to_string(from->fd());
      if (from->fd() >= Wasi::kDescriptorsMax) return Corrupt(where + ": number too large");
      if (from->kind() > fbs::WasiKind::MAX || from->access() > fbs::WasiAccess::MAX ||
          (from->rights() & ~right::kAll) != 0 || (from->flags() & ~kFdFlagsAll) != 0) {
        return Corrupt(where + ": bad kind, access, rights or flags");
      }
      if (from->fd() >= state.descriptors.size()) state.descriptors.resize(from->fd() + 1);
      if (state.descriptors[from->fd()]) return Corrupt(where + ": occurs twice");
      Descriptor d;
      if (from->kind() == fbs::WasiKind::stream) {
        if (from->stream() > 2) return Corrupt(where + ": no such stream");
        d = StreamDescriptor(from->stream(), options_.stdio[from->stream()]);
        if ((from->rights() & ~d.rights) != 0) return Corrupt(where + ": more rights than a stream has");
      } else if (from->kind() == fbs::WasiKind::listener || from->kind() == fbs::WasiKind::connection) {
        d.kind = static_cast<Kind>(from->kind());
        d.socket = from->socket();
        GODWIT_ASSIGN(d, LoadSocket(std::move(d)));
        if ((from->rights() & ~d.rights) != 0) return Corrupt(where + ": more rights than a socket has");
      } else {
        if (from->preopen() >= state.folders.size()) return Corrupt(where + ": no such folder");
        if (from->offset() > static_cast<u64>(INT64_MAX)) return Corrupt(where + ": bad offset");
        d.preopen = from->preopen();
        if (from->kind() == fbs::WasiKind::preopen) {
          d = PreopenDescriptor(from->preopen());
        } else {
          d.kind = static_cast<Kind>(from->kind());
          d.path = StringOf(from->path());
          d.access = static_cast<Access>(from->access());
          d.flags = from->flags();
          if (from->removed()) {
            if (d.kind == Kind::kDevice) return Corrupt(where + ": a removed device");
            const ByteView contents = from->contents() == nullptr || d.kind == Kind::kDirectory
                                          ? ByteView() : ByteView(from->contents()->data(), from->contents()->size());
            if (!copies.Take(contents.size())) return Corrupt(where + ": contents that others share");
            removed_bytes += contents.size();
            if (removed_bytes > Wasi::kDetachedBytesMax) return Corrupt(where + ": removed files hold more than a snapshot takes along");
            GODWIT_ASSIGN(d, Remake(state, std::move(d), contents, from->offset()));
          } else {
            GODWIT_ASSIGN(d, Reopen(state, std::move(d), from->offset()));
          }
        }
        const Rights most = d.is_directory() ? right::kDirectory : right::kFile;
        if ((from->rights() & ~most) != 0) return Corrupt(where + ": more rights than its kind has");
      }
      d.rights = from->rights();
      d.inheriting = from->inheriting() & (d.kind == Kind::kListener ? right::kConnection : right::kDirectory | right::kFile);
      d.flags = from->flags();
      if (from->listed()) {
        d.listing.emplace();
        const std::size_t entries = from->listing() == nullptr ? 0 : from->listing()->size();
        listed += entries;
        if (!d.is_directory() || listed > Wasi::kDirectoryEntriesMax) return Corrupt(where + ": bad listing");
        for (std::size_t i = 0; i < entries; ++i) {
          const auto* entry = from->listing()->Get(static_cast<u32>(i));
          if (entry->type() > static_cast<std::uint8_t>(FileType::kSymbolicLink) || !copies.Take(entry->name()->size())) {
            return Corrupt(where + ": bad listing");
          }
          d.listing->push_back({StringOf(entry->name()), entry->inode(), static_cast<FileType>(entry->type())});
        }
      }
      state.descriptors[from->fd()] = std::move(d);
    }
  }
  if (saved.pending() != nullptr) {
    if (saved.pending()->size() > kPendingMax) return Corrupt("WASI state: too many interrupted calls");
    for (const auto* from : *saved.pending()) {
      if (from->arguments() == nullptr || from->arguments()->size() != 4) {
        return Corrupt("WASI state: bad interrupted call");
      }
      Pending pending{from->call(), {}, from->value()};
      for (u32 i = 0; i < 4; ++i) pending.arguments[i] = from->arguments()->Get(i);
      state.pending[from->task()] = pending;
    }
  }
  state.monotonic = {saved.monotonic_ns(), options_.clock->Monotonic()};
  state.cpu = {saved.cpu_ns(), options_.clock->Cpu()};
  state_ = std::move(state);
  return {};
}

}  // namespace godwit::runtime::wasi
