// The numbers and layouts of WASI preview 1 (wasi_snapshot_preview1.witx): errors, rights, flags, and the
// offsets of the structures that guests read and write. No behaviour.
#pragma once

#include <cstdint>
#include <cstring>
#include <optional>

#include "runtime/host.h"

namespace godwit::runtime::wasi {

enum class Errno : std::uint16_t {
  kSuccess = 0, k2Big = 1, kAcces = 2, kAddrInUse = 3, kAddrNotAvail = 4, kAfNoSupport = 5, kAgain = 6,
  kAlready = 7, kBadF = 8, kBadMsg = 9, kBusy = 10, kCanceled = 11, kChild = 12, kConnAborted = 13,
  kConnRefused = 14, kConnReset = 15, kDeadlk = 16, kDestAddrReq = 17, kDom = 18, kDQuot = 19, kExist = 20,
  kFault = 21, kFBig = 22, kHostUnreach = 23, kIdrm = 24, kIlSeq = 25, kInProgress = 26, kIntr = 27,
  kInval = 28, kIo = 29, kIsConn = 30, kIsDir = 31, kLoop = 32, kMFile = 33, kMLink = 34, kMsgSize = 35,
  kMultihop = 36, kNameTooLong = 37, kNetDown = 38, kNetReset = 39, kNetUnreach = 40, kNFile = 41,
  kNoBufs = 42, kNoDev = 43, kNoEnt = 44, kNoExec = 45, kNoLck = 46, kNoLink = 47, kNoMem = 48, kNoMsg = 49,
  kNoProtoOpt = 50, kNoSpc = 51, kNoSys = 52, kNotConn = 53, kNotDir = 54, kNotEmpty = 55,
  kNotRecoverable = 56, kNotSock = 57, kNotSup = 58, kNotTty = 59, kNxIo = 60, kOverflow = 61,
  kOwnerDead = 62, kPerm = 63, kPipe = 64, kProto = 65, kProtoNoSupport = 66, kProtoType = 67, kRange = 68,
  kRoFs = 69, kSPipe = 70, kSrch = 71, kStale = 72, kTimedOut = 73, kTxtBsy = 74, kXDev = 75,
  kNotCapable = 76,
};

// The WASI error for a Linux errno; kIo for one that WASI has no name for.
Errno FromHostErrno(int host);

using Rights = std::uint64_t;
namespace right {
inline constexpr Rights kFdDatasync = 1ull << 0, kFdRead = 1ull << 1, kFdSeek = 1ull << 2,
    kFdFdstatSetFlags = 1ull << 3, kFdSync = 1ull << 4, kFdTell = 1ull << 5, kFdWrite = 1ull << 6,
    kFdAdvise = 1ull << 7, kFdAllocate = 1ull << 8, kPathCreateDirectory = 1ull << 9,
    kPathCreateFile = 1ull << 10, kPathLinkSource = 1ull << 11, kPathLinkTarget = 1ull << 12,
    kPathOpen = 1ull << 13, kFdReaddir = 1ull << 14, kPathReadlink = 1ull << 15,
    kPathRenameSource = 1ull << 16, kPathRenameTarget = 1ull << 17, kPathFilestatGet = 1ull << 18,
    kPathFilestatSetSize = 1ull << 19, kPathFilestatSetTimes = 1ull << 20, kFdFilestatGet = 1ull << 21,
    kFdFilestatSetSize = 1ull << 22, kFdFilestatSetTimes = 1ull << 23, kPathSymlink = 1ull << 24,
    kPathRemoveDirectory = 1ull << 25, kPathUnlinkFile = 1ull << 26, kPollFdReadwrite = 1ull << 27,
    kSockShutdown = 1ull << 28, kSockAccept = 1ull << 29;

// What applies to each kind of file; other rights that are asked for at an open are dropped.
inline constexpr Rights kFile = kFdDatasync | kFdRead | kFdSeek | kFdFdstatSetFlags | kFdSync | kFdTell |
    kFdWrite | kFdAdvise | kFdAllocate | kFdFilestatGet | kFdFilestatSetSize | kFdFilestatSetTimes |
    kPollFdReadwrite;
inline constexpr Rights kDirectory = kFdDatasync | kFdFdstatSetFlags | kFdSync | kPathCreateDirectory |
    kPathCreateFile | kPathLinkSource | kPathLinkTarget | kPathOpen | kFdReaddir | kPathReadlink |
    kPathRenameSource | kPathRenameTarget | kPathFilestatGet | kPathFilestatSetSize |
    kPathFilestatSetTimes | kFdFilestatGet | kFdFilestatSetTimes | kPathSymlink | kPathRemoveDirectory |
    kPathUnlinkFile;
// Without seek and tell: wasi-libc's isatty() takes a character device without them for a terminal.
inline constexpr Rights kStream = kFdRead | kFdWrite | kFdFdstatSetFlags | kFdFilestatGet | kPollFdReadwrite |
    kFdSync | kFdDatasync;
inline constexpr Rights kListener = kSockAccept | kFdRead | kFdFdstatSetFlags | kFdFilestatGet | kPollFdReadwrite;
inline constexpr Rights kConnection = kFdRead | kFdWrite | kSockShutdown | kFdFdstatSetFlags | kFdFilestatGet |
    kPollFdReadwrite;
inline constexpr Rights kAll = (1ull << 30) - 1;
}  // namespace right

enum class FileType : std::uint8_t {
  kUnknown = 0, kBlockDevice = 1, kCharacterDevice = 2, kDirectory = 3, kRegularFile = 4, kSocketDgram = 5,
  kSocketStream = 6, kSymbolicLink = 7,
};
FileType FileTypeOfMode(std::uint32_t st_mode);

inline constexpr std::uint32_t kFdAppend = 1, kFdDsync = 2, kFdNonblock = 4, kFdRsync = 8, kFdSyncFlag = 16,
                               kFdFlagsAll = 31;
inline constexpr std::uint32_t kOpenCreate = 1, kOpenDirectory = 2, kOpenExclusive = 4, kOpenTruncate = 8,
                               kOpenFlagsAll = 15;
inline constexpr std::uint32_t kLookupFollow = 1;
inline constexpr std::uint32_t kReceivePeek = 1, kReceiveAll = 2, kReceiveFlagsAll = 3;
inline constexpr std::uint32_t kShutdownReads = 1, kShutdownWrites = 2;
inline constexpr std::uint32_t kSetAtim = 1, kSetAtimNow = 2, kSetMtim = 4, kSetMtimNow = 8, kSetTimesAll = 15;
inline constexpr std::uint32_t kClockRealtime = 0, kClockMonotonic = 1, kClockProcessCpu = 2, kClockThreadCpu = 3;
inline constexpr std::uint8_t kEventClock = 0, kEventFdRead = 1, kEventFdWrite = 2;
inline constexpr std::uint16_t kEventHangup = 1, kClockAbsolute = 1;
inline constexpr std::uint32_t kSeekSet = 0, kSeekCurrent = 1, kSeekEnd = 2;

// Sizes of the structures in guest memory.
inline constexpr std::uint64_t kIovecBytes = 8, kFdstatBytes = 24, kFilestatBytes = 64, kDirentBytes = 24,
                               kPrestatBytes = 8, kSubscriptionBytes = 48, kEventBytes = 32;

// Little-endian values in guest memory; guests and all our ISAs are little-endian.
template <typename T>
std::optional<T> Load(const GuestMemory& memory, std::uint64_t address) {
  const std::uint8_t* from = memory.Range(address, sizeof(T));
  if (from == nullptr) return std::nullopt;
  T value;
  std::memcpy(&value, from, sizeof value);
  return value;
}
template <typename T>
void Put(std::uint8_t* to, T value) {
  std::memcpy(to, &value, sizeof value);
}

}  // namespace godwit::runtime::wasi
