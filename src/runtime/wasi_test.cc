#include "runtime/wasi.h"

#include <sys/resource.h>
#include <unistd.h>

#include "runtime/wasi_fake_guest.h"

namespace godwit::runtime::wasi {
namespace {

using u32 = std::uint32_t;
using u64 = std::uint64_t;
constexpr u32 kOut = FakeGuest::kOut, kBuffer = FakeGuest::kBuffer, kVectors = FakeGuest::kVectors;

TEST_F(WasiTest, OffersEveryFunctionOfPreview1WithItsSignature) {
  const std::pair<const char*, const char*> kFunctions[] = {
      {"args_get", "ii:i"}, {"args_sizes_get", "ii:i"}, {"environ_get", "ii:i"}, {"environ_sizes_get", "ii:i"},
      {"clock_res_get", "ii:i"}, {"clock_time_get", "iIi:i"}, {"fd_advise", "iIIi:i"}, {"fd_allocate", "iII:i"},
      {"fd_close", "i:i"}, {"fd_datasync", "i:i"}, {"fd_fdstat_get", "ii:i"}, {"fd_fdstat_set_flags", "ii:i"},
      {"fd_fdstat_set_rights", "iII:i"}, {"fd_filestat_get", "ii:i"}, {"fd_filestat_set_size", "iI:i"},
      {"fd_filestat_set_times", "iIIi:i"}, {"fd_pread", "iiiIi:i"}, {"fd_prestat_get", "ii:i"},
      {"fd_prestat_dir_name", "iii:i"}, {"fd_pwrite", "iiiIi:i"}, {"fd_read", "iiii:i"},
      {"fd_readdir", "iiiIi:i"}, {"fd_renumber", "ii:i"}, {"fd_seek", "iIii:i"}, {"fd_sync", "i:i"},
      {"fd_tell", "ii:i"}, {"fd_write", "iiii:i"}, {"path_create_directory", "iii:i"},
      {"path_filestat_get", "iiiii:i"}, {"path_filestat_set_times", "iiiiIIi:i"}, {"path_link", "iiiiiii:i"},
      {"path_open", "iiiiiIIii:i"}, {"path_readlink", "iiiiii:i"}, {"path_remove_directory", "iii:i"},
      {"path_rename", "iiiiii:i"}, {"path_symlink", "iiiii:i"}, {"path_unlink_file", "iii:i"},
      {"poll_oneoff", "iiii:i"}, {"proc_exit", "i:"}, {"proc_raise", "i:i"}, {"sched_yield", ":i"},
      {"random_get", "ii:i"}, {"sock_accept", "iii:i"}, {"sock_recv", "iiiiii:i"}, {"sock_send", "iiiii:i"},
      {"sock_shutdown", "ii:i"}};
  EXPECT_EQ(std::size(kFunctions), 46u);
  for (const auto& [name, signature] : kFunctions) {
    const auto function = wasi_->Find(name);
    ASSERT_TRUE(function) << name;
    EXPECT_EQ(function->signature, signature) << name;
    EXPECT_NE(function->code, nullptr);
  }
  EXPECT_FALSE(wasi_->Find("fd_reed"));
  EXPECT_FALSE(wasi_->Find(""));
}

TEST_F(WasiTest, GivesArgumentsAndEnvironment) {
  ASSERT_EQ(calls().args_sizes_get(guest_, kOut, kOut + 4), Errno::kSuccess);
  EXPECT_EQ(guest_.Get<u32>(kOut), 2u);
  EXPECT_EQ(guest_.Get<u32>(kOut + 4), 9u);  // "prog\0one\0"
  ASSERT_EQ(calls().args_get(guest_, kOut, kBuffer), Errno::kSuccess);
  EXPECT_EQ(guest_.Get<u32>(kOut), kBuffer);
  EXPECT_EQ(guest_.Get<u32>(kOut + 4), kBuffer + 5);
  EXPECT_EQ(guest_.Text(kBuffer, 9), std::string("prog\0one\0", 9));
  ASSERT_EQ(calls().environ_sizes_get(guest_, kOut, kOut + 4), Errno::kSuccess);
  EXPECT_EQ(guest_.Get<u32>(kOut + 4), 7u);
  ASSERT_EQ(calls().environ_get(guest_, kOut, kBuffer), Errno::kSuccess);
  EXPECT_EQ(guest_.Text(kBuffer, 7), std::string("HOME=/\0", 7));
  EXPECT_EQ(calls().args_get(guest_, kOut, (1 << 20) - 2), Errno::kFault);
}

TEST_F(WasiTest, RefusesArgumentsThatCCannotHold) {
  WasiOptions options = Options();
  options.args = {std::string("a\0b", 3)};
  EXPECT_EQ(Wasi::Create(options).error().code, ErrorCode::kInvalidArgument);
  options.args = {std::string(Wasi::kArgumentBytesMax - 8, 'x')};  // HOME=/ takes 9 bytes beside it.
  EXPECT_EQ(Wasi::Create(options).error().code, ErrorCode::kInvalidArgument);
  options.args = {std::string(Wasi::kArgumentBytesMax - 11, 'x')};
  EXPECT_TRUE(Wasi::Create(options).ok());
  options.preopens = {{"/no/such/folder", "/x"}};
  EXPECT_EQ(Wasi::Create(options).error().code, ErrorCode::kNotFound);
}

TEST_F(WasiTest, WritesReadsSeeksAndTells) {
  const u32 fd = Create("file");
  EXPECT_EQ(fd, 4u);
  ASSERT_EQ(TryWrite(fd, {"hello ", "", "world"}), Errno::kSuccess);
  EXPECT_EQ(guest_.Get<u32>(kOut), 11u);
  EXPECT_EQ(Tell(fd), 11u);
  ASSERT_EQ(calls().fd_seek(guest_, fd, static_cast<u64>(-5), kSeekEnd, kOut), Errno::kSuccess);
  EXPECT_EQ(guest_.Get<u64>(kOut), 6u);
  EXPECT_EQ(Read(fd, 100), "world");
  EXPECT_EQ(Read(fd, 100), "");
  EXPECT_EQ(calls().fd_seek(guest_, fd, static_cast<u64>(-1), kSeekSet, kOut), Errno::kInval);
  EXPECT_EQ(calls().fd_seek(guest_, fd, 0, 3, kOut), Errno::kInval);
  EXPECT_EQ(calls().fd_seek(guest_, fd, 0, kSeekSet, (1 << 20) - 7), Errno::kFault);
  EXPECT_EQ(Tell(fd), 11u);

  guest_.SetVectors({"????"});
  ASSERT_EQ(calls().fd_pread(guest_, fd, kVectors, 1, 2, kOut), Errno::kSuccess);
  EXPECT_EQ(Taken(), "llo ");
  guest_.SetVectors({"J"});
  ASSERT_EQ(calls().fd_pwrite(guest_, fd, kVectors, 1, 0, kOut), Errno::kSuccess);
  EXPECT_EQ(Tell(fd), 11u);
  EXPECT_EQ(ReadHost(data() / "file"), "Jello world");
}

TEST_F(WasiTest, TransfersManyVectorsAndRefusesMoreThanTheLimit) {
  const u32 fd = Create("file");
  const u32 list = 0x40000, text = 0x20000;
  std::string expected;
  for (u32 i = 0; i < Wasi::kVectorsMax + 1; ++i) {
    const char letter = static_cast<char>('a' + i % 26);
    guest_.Set<char>(text + i, letter);
    guest_.Set<u32>(list + 8 * i, text + i);
    guest_.Set<u32>(list + 8 * i + 4, 1);
    if (i < Wasi::kVectorsMax) expected += letter;
  }
  EXPECT_EQ(calls().fd_write(guest_, fd, list, Wasi::kVectorsMax + 1, kOut), Errno::kInval);
  ASSERT_EQ(calls().fd_write(guest_, fd, list, Wasi::kVectorsMax, kOut), Errno::kSuccess);
  EXPECT_EQ(guest_.Get<u32>(kOut), Wasi::kVectorsMax);
  EXPECT_EQ(ReadHost(data() / "file"), expected);
  ASSERT_EQ(calls().fd_write(guest_, fd, list, 0, kOut), Errno::kSuccess);
  EXPECT_EQ(guest_.Get<u32>(kOut), 0u);
}

TEST_F(WasiTest, ChecksEveryPointerBeforeAnythingHappens) {
  const u32 fd = Create("file");
  guest_.SetVectors({"text"});
  const u32 end = 1 << 20;
  EXPECT_EQ(calls().fd_write(guest_, fd, kVectors, 1, end - 3), Errno::kFault);
  EXPECT_EQ(calls().fd_write(guest_, fd, end - 4, 1, kOut), Errno::kFault);
  guest_.Set<u32>(kVectors + 8, end - 1);
  guest_.Set<u32>(kVectors + 12, 2);
  EXPECT_EQ(calls().fd_write(guest_, fd, kVectors, 2, kOut), Errno::kFault);
  guest_.Set<u32>(kVectors + 8, 0xffffffff);
  guest_.Set<u32>(kVectors + 12, 0xffffffff);
  EXPECT_EQ(calls().fd_write(guest_, fd, kVectors, 2, kOut), Errno::kFault);
  EXPECT_EQ(ReadHost(data() / "file"), "");
  EXPECT_EQ(calls().path_open(guest_, 3, 0, end - 1, 2, kOpenCreate, kWriteRights, 0, 0, kOut), Errno::kFault);
  EXPECT_EQ(calls().path_open(guest_, 3, 0, PathAt(0, "new"), 3, kOpenCreate, kWriteRights, 0, 0, end - 2),
            Errno::kFault);
  EXPECT_FALSE(std::filesystem::exists(data() / "new"));
  EXPECT_EQ(calls().random_get(guest_, end - 8, 9), Errno::kFault);
  EXPECT_EQ(calls().clock_time_get(guest_, 0, 0, end - 7), Errno::kFault);
  EXPECT_EQ(calls().fd_fdstat_get(guest_, 3, end - 23), Errno::kFault);
  EXPECT_EQ(calls().fd_filestat_get(guest_, 3, end - 63), Errno::kFault);
  EXPECT_EQ(calls().poll_oneoff(guest_, end - 47, kBuffer, 1, kOut), Errno::kFault);
}

TEST_F(WasiTest, AppendWritesAtTheEndAndCanBeSwitchedOffAndOn) {
  WriteHost(data() / "log", "one\n");
  const u32 fd = Create("log", kFdAppend);
  Write(fd, "two\n");
  ASSERT_EQ(calls().fd_seek(guest_, fd, 0, kSeekSet, kOut), Errno::kSuccess);
  Write(fd, "three\n");
  EXPECT_EQ(ReadHost(data() / "log"), "one\ntwo\nthree\n");
  ASSERT_EQ(calls().fd_fdstat_set_flags(guest_, fd, 0), Errno::kSuccess);
  ASSERT_EQ(calls().fd_seek(guest_, fd, 0, kSeekSet, kOut), Errno::kSuccess);
  Write(fd, "ONE");
  EXPECT_EQ(ReadHost(data() / "log"), "ONE\ntwo\nthree\n");
  EXPECT_EQ(calls().fd_fdstat_set_flags(guest_, fd, kFdSyncFlag), Errno::kNotSup);
  EXPECT_EQ(calls().fd_fdstat_set_flags(guest_, fd, 32), Errno::kInval);
  ASSERT_EQ(calls().fd_fdstat_set_flags(guest_, fd, kFdAppend | kFdNonblock), Errno::kSuccess);
  ASSERT_EQ(calls().fd_fdstat_get(guest_, fd, kBuffer), Errno::kSuccess);
  EXPECT_EQ(guest_.Get<std::uint8_t>(kBuffer), 4);  // regular_file
  EXPECT_EQ(guest_.Get<std::uint16_t>(kBuffer + 2), kFdAppend | kFdNonblock);
  Write(fd, "end");
  EXPECT_EQ(ReadHost(data() / "log"), "ONE\ntwo\nthree\nend");
}

TEST_F(WasiTest, EnforcesRightsAndTheirInheritance) {
  WriteHost(data() / "file", "text");
  const u32 reader = Open("file", 0, right::kFdRead);
  EXPECT_EQ(TryWrite(reader, {"x"}), Errno::kNotCapable);
  EXPECT_EQ(calls().fd_seek(guest_, reader, 0, kSeekSet, kOut), Errno::kNotCapable);
  EXPECT_EQ(calls().fd_tell(guest_, reader, kOut), Errno::kNotCapable);
  EXPECT_EQ(calls().fd_filestat_get(guest_, reader, kBuffer), Errno::kNotCapable);
  EXPECT_EQ(calls().fd_pread(guest_, reader, kVectors, 0, 0, kOut), Errno::kNotCapable);
  EXPECT_EQ(calls().fd_fdstat_set_rights(guest_, reader, right::kFdRead | right::kFdWrite, 0), Errno::kNotCapable);
  EXPECT_EQ(Read(reader, 4), "text");
  EXPECT_EQ(calls().fd_fdstat_set_rights(guest_, reader, 0, 0), Errno::kSuccess);
  EXPECT_EQ(TryRead(reader, 4), Errno::kNotCapable);

  // Writing is taken from what the folder hands down: existing files cannot be opened for it, nor made.
  ASSERT_EQ(calls().fd_fdstat_set_rights(guest_, 3, right::kPathOpen | right::kPathFilestatGet, kReadRights),
            Errno::kSuccess);
  EXPECT_EQ(TryOpen("file", 0, kWriteRights), Errno::kNotCapable);
  EXPECT_EQ(TryOpen("new", kOpenCreate, kReadRights), Errno::kNotCapable);
  EXPECT_EQ(TryOpen("file", kOpenTruncate, kReadRights), Errno::kNotCapable);
  EXPECT_EQ(MakeFolder("folder"), Errno::kNotCapable);
  EXPECT_EQ(Unlink("file"), Errno::kNotCapable);
  EXPECT_EQ(TryOpen("file", 0, kReadRights), Errno::kSuccess);
  EXPECT_EQ(ReadHost(data() / "file"), "text");
}

TEST_F(WasiTest, DropsRightsThatDoNotApplyToTheKindOfFile) {
  WriteHost(data() / "file", "text");
  std::filesystem::create_directory(data() / "folder");
  const u32 file = Open("file", 0, right::kAll & ~(right::kFdWrite | right::kFdAllocate));
  ASSERT_EQ(calls().fd_fdstat_get(guest_, file, kBuffer), Errno::kSuccess);
  EXPECT_EQ(guest_.Get<u64>(kBuffer + 8), right::kFile & ~(right::kFdWrite | right::kFdAllocate));
  EXPECT_EQ(guest_.Get<u64>(kBuffer + 16), 0u);
  const u32 folder = Open("folder", kOpenDirectory, right::kAll & ~right::kFdWrite);
  ASSERT_EQ(calls().fd_fdstat_get(guest_, folder, kBuffer), Errno::kSuccess);
  EXPECT_EQ(guest_.Get<std::uint8_t>(kBuffer), 3);  // directory
  EXPECT_EQ(guest_.Get<u64>(kBuffer + 8), right::kDirectory);
}

TEST_F(WasiTest, AFolderIsNotAFileNorAFileAFolder) {
  WriteHost(data() / "file", "text");
  for (const Errno error :
       {TryRead(3, 4), TryWrite(3, {"x"}), calls().fd_seek(guest_, 3, 0, kSeekSet, kOut),
        calls().fd_allocate(guest_, 3, 0, 1), calls().fd_filestat_set_size(guest_, 3, 0),
        calls().fd_advise(guest_, 3, 0, 0, 0)}) {
    EXPECT_EQ(error, Errno::kBadF);
  }
  const u32 file = Open("file");
  EXPECT_EQ(calls().fd_readdir(guest_, file, kBuffer, 100, 0, kOut), Errno::kNotDir);
  EXPECT_EQ(TryOpen("x", 0, kReadRights, 0, 0, file), Errno::kNotDir);
  EXPECT_EQ(calls().fd_prestat_get(guest_, file, kOut), Errno::kBadF);
  EXPECT_EQ(calls().fd_read(guest_, 77, kVectors, 0, kOut), Errno::kBadF);
}

TEST_F(WasiTest, NamesItsPreopenedFolders) {
  ASSERT_EQ(calls().fd_prestat_get(guest_, 3, kOut), Errno::kSuccess);
  EXPECT_EQ(guest_.Get<u32>(kOut), 0u);
  EXPECT_EQ(guest_.Get<u32>(kOut + 4), 5u);
  ASSERT_EQ(calls().fd_prestat_dir_name(guest_, 3, kBuffer, 5), Errno::kSuccess);
  EXPECT_EQ(guest_.Text(kBuffer, 5), "/data");
  EXPECT_EQ(calls().fd_prestat_dir_name(guest_, 3, kBuffer, 4), Errno::kNameTooLong);
  EXPECT_EQ(calls().fd_prestat_get(guest_, 4, kOut), Errno::kBadF);
  EXPECT_EQ(calls().fd_prestat_get(guest_, 1, kOut), Errno::kBadF);
}

TEST_F(WasiTest, GivesTheLowestFreeDescriptorUpToTheLimit) {
  WriteHost(data() / "file", "");
  const u32 a = Open("file"), b = Open("file");
  EXPECT_EQ(b, a + 1);
  ASSERT_EQ(calls().fd_close(guest_, a), Errno::kSuccess);
  EXPECT_EQ(calls().fd_close(guest_, a), Errno::kBadF);
  EXPECT_EQ(Open("file"), a);
  rlimit limit;
  ASSERT_EQ(::getrlimit(RLIMIT_NOFILE, &limit), 0);
  const rlim_t before = limit.rlim_cur;
  limit.rlim_cur = limit.rlim_max;
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &limit), 0);
  ASSERT_GT(limit.rlim_max, Wasi::kDescriptorsMax + 100) << "this machine allows too few open files";
  for (u32 fd = b + 1; fd < Wasi::kDescriptorsMax; ++fd) ASSERT_EQ(Open("file"), fd);
  EXPECT_EQ(TryOpen("new", kOpenCreate), Errno::kMFile);
  EXPECT_FALSE(std::filesystem::exists(data() / "new"));
  ASSERT_EQ(calls().fd_close(guest_, 500), Errno::kSuccess);
  EXPECT_EQ(Open("file"), 500u);
  Move();
  EXPECT_EQ(TryOpen("file"), Errno::kMFile);
  wasi_.reset();
  limit.rlim_cur = before;
  ::setrlimit(RLIMIT_NOFILE, &limit);
}

TEST_F(WasiTest, RenumberMovesADescriptorOverAnother) {
  WriteHost(data() / "a", "aaa");
  WriteHost(data() / "b", "bbb");
  const u32 a = Open("a"), b = Open("b");
  ASSERT_EQ(calls().fd_renumber(guest_, a, b), Errno::kSuccess);
  EXPECT_EQ(Read(b, 3), "aaa");
  EXPECT_EQ(TryRead(a, 3), Errno::kBadF);
  EXPECT_EQ(calls().fd_renumber(guest_, a, b), Errno::kBadF);
  EXPECT_EQ(calls().fd_renumber(guest_, b, 500), Errno::kBadF);
  EXPECT_EQ(calls().fd_renumber(guest_, b, b), Errno::kSuccess);
  ASSERT_EQ(calls().fd_renumber(guest_, b, 1), Errno::kSuccess);  // As freopen of standard output does.
  EXPECT_EQ(calls().fd_seek(guest_, 1, 0, kSeekSet, kOut), Errno::kSuccess);
}

TEST_F(WasiTest, ReportsAndChangesSizesAndTimes) {
  const u32 fd = Create("file");
  ASSERT_EQ(calls().fd_filestat_set_size(guest_, fd, 10), Errno::kSuccess);
  ASSERT_EQ(calls().fd_allocate(guest_, fd, 10, 90), Errno::kSuccess);
  EXPECT_EQ(calls().fd_allocate(guest_, fd, 0, 0), Errno::kInval);
  ASSERT_EQ(calls().fd_filestat_set_times(guest_, fd, 1'000'000'001, 2'000'000'002, kSetAtim | kSetMtim),
            Errno::kSuccess);
  EXPECT_EQ(calls().fd_filestat_set_times(guest_, fd, 0, 0, kSetAtim | kSetAtimNow), Errno::kInval);
  EXPECT_EQ(calls().fd_filestat_set_times(guest_, fd, 0, 0, 16), Errno::kInval);
  ASSERT_EQ(calls().fd_filestat_get(guest_, fd, kBuffer), Errno::kSuccess);
  EXPECT_EQ(guest_.Get<std::uint8_t>(kBuffer + 16), 4);
  EXPECT_EQ(guest_.Get<u64>(kBuffer + 24), 1u);
  EXPECT_EQ(guest_.Get<u64>(kBuffer + 32), 100u);
  EXPECT_EQ(guest_.Get<u64>(kBuffer + 40), 1'000'000'001u);
  EXPECT_EQ(guest_.Get<u64>(kBuffer + 48), 2'000'000'002u);
  const std::string_view path = "file";
  ASSERT_EQ(calls().path_filestat_set_times(guest_, 3, 0, PathAt(0, path), 4, 3, 4, kSetMtim), Errno::kSuccess);
  ASSERT_EQ(Stat("file"), Errno::kSuccess);
  EXPECT_EQ(guest_.Get<u64>(kBuffer + 40), 1'000'000'001u);
  EXPECT_EQ(guest_.Get<u64>(kBuffer + 48), 4u);
  EXPECT_EQ(calls().fd_sync(guest_, fd), Errno::kSuccess);
  EXPECT_EQ(calls().fd_datasync(guest_, fd), Errno::kSuccess);
  EXPECT_EQ(calls().fd_advise(guest_, fd, 0, 10, 5), Errno::kSuccess);
  EXPECT_EQ(calls().fd_advise(guest_, fd, 0, 10, 6), Errno::kInval);
}

struct Entry {
  u64 next;
  std::string name;
  std::uint8_t type;
};

// What one fd_readdir with a buffer of `bytes` gives; entries that did not fit are left out, as libc does.
std::vector<Entry> ReadFolder(Calls& calls, FakeGuest& guest, u32 fd, u32 bytes, u64 cookie) {
  EXPECT_EQ(calls.fd_readdir(guest, fd, kBuffer, bytes, cookie, kOut), Errno::kSuccess);
  const u32 used = guest.Get<u32>(kOut);
  std::vector<Entry> entries;
  for (u32 at = 0; at + kDirentBytes <= used;) {
    const u32 name_bytes = guest.Get<u32>(kBuffer + at + 16);
    if (at + kDirentBytes + name_bytes > used) break;
    entries.push_back({guest.Get<u64>(kBuffer + at), guest.Text(kBuffer + at + kDirentBytes, name_bytes),
                       guest.Get<std::uint8_t>(kBuffer + at + 20)});
    at += kDirentBytes + name_bytes;
  }
  return entries;
}

TEST_F(WasiTest, ReadsFoldersThroughSmallBuffersAndKeepsCookiesValidWhileEntriesVanish) {
  for (int i = 0; i < 20; ++i) WriteHost(data() / ("file" + std::to_string(10 + i)), "");
  std::filesystem::create_directory(data() / "zfolder");
  std::vector<std::string> names;
  u64 cookie = 0;
  for (;;) {
    const auto entries = ReadFolder(calls(), guest_, 3, 70, cookie);
    if (entries.empty()) break;
    for (const Entry& entry : entries) {
      names.push_back(entry.name);
      if (entry.name[0] == 'f') std::filesystem::remove(data() / entry.name);
      EXPECT_EQ(entry.type, entry.name[0] == 'f' ? 4 : 3) << entry.name;
      cookie = entry.next;
    }
    if (names.size() == 9) Move();
  }
  ASSERT_EQ(names.size(), 23u);
  EXPECT_EQ(names.front(), ".");
  EXPECT_EQ(names[1], "..");
  EXPECT_EQ(names[2], "file10");
  EXPECT_EQ(names.back(), "zfolder");
  // From the beginning it is read anew.
  EXPECT_EQ(ReadFolder(calls(), guest_, 3, 1000, 0).size(), 3u);
  EXPECT_TRUE(ReadFolder(calls(), guest_, 3, 1000, 3).empty());
  EXPECT_TRUE(ReadFolder(calls(), guest_, 3, 1000, ~0ull).empty());
  // A buffer that is too small for one entry is filled, which tells the caller to bring a larger one.
  EXPECT_TRUE(ReadFolder(calls(), guest_, 3, 20, 0).empty());
  EXPECT_EQ(guest_.Get<u32>(kOut), 20u);
}

TEST_F(WasiTest, StandardStreamsReadWaitAndWrite) {
  Write(1, "out");
  Write(2, "err");
  EXPECT_EQ(output_->output(), "out");
  EXPECT_EQ(error_->output(), "err");
  EXPECT_EQ(TryRead(1, 4), Errno::kNotCapable);
  EXPECT_EQ(TryWrite(0, {"x"}), Errno::kNotCapable);
  EXPECT_EQ(calls().fd_seek(guest_, 0, 0, kSeekSet, kOut), Errno::kSPipe);
  EXPECT_EQ(calls().fd_pread(guest_, 0, kVectors, 0, 0, kOut), Errno::kSPipe);

  guest_.on_block = [&](Blocked&) {
    input_->Feed("typed");
    return Instance::Wait::kReady;
  };
  EXPECT_EQ(Read(0, 3), "typ");
  EXPECT_EQ(guest_.blocked, 1);
  EXPECT_EQ(Read(0, 10), "ed");
  input_->CloseInput();
  EXPECT_EQ(Read(0, 10), "");
}

TEST_F(WasiTest, AnInterruptedReadTakesNothingAndIsMadeAgain) {
  guest_.on_block = [](Blocked&) { return Instance::Wait::kInterrupted; };
  EXPECT_EQ(TryRead(0, 4), Errno::kSuccess);
  EXPECT_EQ(guest_.restarted, 1);
  Move();
  input_->Feed("data");
  EXPECT_EQ(Read(0, 4), "data");
}

TEST_F(WasiTest, ANonBlockingStreamSaysAgain) {
  ASSERT_EQ(calls().fd_fdstat_set_flags(guest_, 0, kFdNonblock), Errno::kSuccess);
  EXPECT_EQ(TryRead(0, 4), Errno::kAgain);
  output_ = std::make_shared<MemoryStream>("", true, 4);
  Start();
  ASSERT_EQ(calls().fd_fdstat_set_flags(guest_, 1, kFdNonblock), Errno::kSuccess);
  ASSERT_EQ(TryWrite(1, {"abc", "def"}), Errno::kSuccess);
  EXPECT_EQ(guest_.Get<u32>(kOut), 4u);
  EXPECT_EQ(TryWrite(1, {"x"}), Errno::kAgain);
}

TEST_F(WasiTest, AnInterruptedWriteGoesOnWhereItWasAlsoAfterAMove) {
  output_ = std::make_shared<MemoryStream>("", true, 4);
  Start();
  guest_.on_block = [](Blocked&) { return Instance::Wait::kInterrupted; };
  std::string received;
  ASSERT_EQ(TryWrite(1, {"abc", "defg", "hi"}), Errno::kSuccess);
  EXPECT_EQ(guest_.restarted, 1);
  received += output_->Take();
  Move();
  ASSERT_EQ(TryWrite(1, {"abc", "defg", "hi"}), Errno::kSuccess);
  EXPECT_EQ(guest_.restarted, 2);
  received += output_->Take();
  ASSERT_EQ(TryWrite(1, {"abc", "defg", "hi"}), Errno::kSuccess);
  EXPECT_EQ(guest_.Get<u32>(kOut), 9u);
  received += output_->Take();
  EXPECT_EQ(received, "abcdefghi");
  Write(1, "abc");  // The next call begins at its beginning.
  EXPECT_EQ(output_->output(), "abc");
}

TEST_F(WasiTest, AHostPipeIsReadAndFilledWithoutBlocking) {
  int in[2], out[2];
  ASSERT_EQ(::pipe(in), 0);
  ASSERT_EQ(::pipe(out), 0);
  WasiOptions options = Options();
  options.stdio = {FdStream::Borrow(in[0]), FdStream::Borrow(out[1]), nullptr};
  Start(std::move(options));
  guest_.on_block = [&](Blocked& what) {
    EXPECT_EQ(what.fds.size(), 1u);
    EXPECT_EQ(what.fds[0].fd, in[0]);
    EXPECT_EQ(::write(in[1], "ping", 4), 4);
    return Instance::Wait::kReady;
  };
  EXPECT_EQ(Read(0, 100), "ping");
  EXPECT_EQ(guest_.blocked, 1);

  const std::string much(300'000, 'm');
  std::size_t drained = 0;
  guest_.on_block = [&](Blocked& what) {
    EXPECT_EQ(what.fds.at(0).fd, out[1]);
    std::vector<char> buffer(65536);
    drained += static_cast<std::size_t>(::read(out[0], buffer.data(), buffer.size()));
    return Instance::Wait::kReady;
  };
  Write(1, much);
  EXPECT_GT(drained, 0u);
  EXPECT_EQ(TryWrite(2, {"lost"}), Errno::kPipe);  // A stream that was not given.
  for (const int fd : {in[0], in[1], out[0], out[1]}) ::close(fd);
}

TEST_F(WasiTest, HidesTheMachineInStreamsAndKnowsNoSockets) {
  ASSERT_EQ(calls().fd_filestat_get(guest_, 1, kBuffer), Errno::kSuccess);
  EXPECT_EQ(guest_.Get<u64>(kBuffer + 8), 0u);
  ASSERT_EQ(calls().fd_fdstat_get(guest_, 0, kBuffer), Errno::kSuccess);
  EXPECT_EQ(guest_.Get<u64>(kBuffer + 8) & (right::kFdSeek | right::kFdTell), 0u);
  EXPECT_EQ(calls().sock_shutdown(guest_, 1, 3), Errno::kNotSock);
  EXPECT_EQ(calls().sock_accept(guest_, 3, 0, kOut), Errno::kNotSock);
  EXPECT_EQ(calls().sock_recv(guest_, 99, 0, 0, 0, 0, 0), Errno::kBadF);
}

TEST_F(WasiTest, ExitsAndRaises) {
  EXPECT_THROW(calls().proc_exit(guest_, 7), ExitedWith);
  try {
    calls().proc_raise(guest_, 6);
    FAIL() << "SIGABRT ends a program";
  } catch (const ExitedWith& exited) {
    EXPECT_EQ(exited.code, 134u);
  }
  EXPECT_EQ(calls().proc_raise(guest_, 0), Errno::kSuccess);
  EXPECT_EQ(calls().proc_raise(guest_, 16), Errno::kSuccess);
  EXPECT_EQ(calls().proc_raise(guest_, 18), Errno::kNotSup);
  EXPECT_EQ(calls().proc_raise(guest_, 31), Errno::kInval);
}

TEST_F(WasiTest, TellsTimeAndGivesRandomBytes) {
  ASSERT_EQ(calls().clock_time_get(guest_, kClockRealtime, 0, kOut), Errno::kSuccess);
  EXPECT_EQ(guest_.Get<u64>(kOut), clock_->realtime);
  EXPECT_EQ(calls().clock_time_get(guest_, 4, 0, kOut), Errno::kInval);
  EXPECT_EQ(calls().clock_res_get(guest_, 4, kOut), Errno::kInval);
  ASSERT_EQ(calls().clock_res_get(guest_, 1, kOut), Errno::kSuccess);
  EXPECT_GT(guest_.Get<u64>(kOut), 0u);
  ASSERT_EQ(calls().random_get(guest_, kBuffer, 1000), Errno::kSuccess);
  EXPECT_NE(guest_.Text(kBuffer, 500), guest_.Text(kBuffer + 500, 500));
  guest_.on_block = [](Blocked&) { return Instance::Wait::kInterrupted; };
  EXPECT_EQ(calls().sched_yield(guest_), Errno::kSuccess);
  EXPECT_EQ(guest_.restarted, 1);
}

}  // namespace
}  // namespace godwit::runtime::wasi
