#include "runtime/wasi_abi.h"

#include <sys/stat.h>

#include <cerrno>

namespace godwit::runtime::wasi {

Errno FromHostErrno(int host) {
  switch (host) {
    case 0: return Errno::kSuccess;
    case E2BIG: return Errno::k2Big;
    case EACCES: return Errno::kAcces;
    case EAGAIN: return Errno::kAgain;
    case EBADF: return Errno::kBadF;
    case EBUSY: return Errno::kBusy;
    case ECONNRESET: return Errno::kConnReset;
    case EDEADLK: return Errno::kDeadlk;
    case EDQUOT: return Errno::kDQuot;
    case EEXIST: return Errno::kExist;
    case EFAULT: return Errno::kFault;
    case EFBIG: return Errno::kFBig;
    case EILSEQ: return Errno::kIlSeq;
    case EINTR: return Errno::kIntr;
    case EINVAL: return Errno::kInval;
    case EISDIR: return Errno::kIsDir;
    case ELOOP: return Errno::kLoop;
    case EMFILE: return Errno::kMFile;
    case EMLINK: return Errno::kMLink;
    case ENAMETOOLONG: return Errno::kNameTooLong;
    case ENFILE: return Errno::kNFile;
    case ENODEV: return Errno::kNoDev;
    case ENOENT: return Errno::kNoEnt;
    case ENOMEM: return Errno::kNoMem;
    case ENOSPC: return Errno::kNoSpc;
    case ENOSYS: return Errno::kNoSys;
    case ENOTCONN: return Errno::kNotConn;
    case ENOTDIR: return Errno::kNotDir;
    case ENOTEMPTY: return Errno::kNotEmpty;
    case ENOTSOCK: return Errno::kNotSock;
    case EOPNOTSUPP: return Errno::kNotSup;
    case ENOTTY: return Errno::kNotTty;
    case ENXIO: return Errno::kNxIo;
    case EOVERFLOW: return Errno::kOverflow;
    case EPERM: return Errno::kPerm;
    case EPIPE: return Errno::kPipe;
    case ERANGE: return Errno::kRange;
    case EROFS: return Errno::kRoFs;
    case ESPIPE: return Errno::kSPipe;
    case ESRCH: return Errno::kSrch;
    case ESTALE: return Errno::kStale;
    case ETIMEDOUT: return Errno::kTimedOut;
    case ETXTBSY: return Errno::kTxtBsy;
    case EXDEV: return Errno::kXDev;
    default: return Errno::kIo;
  }
}

FileType FileTypeOfMode(std::uint32_t st_mode) {
  switch (st_mode & S_IFMT) {
    case S_IFBLK: return FileType::kBlockDevice;
    case S_IFCHR: return FileType::kCharacterDevice;
    case S_IFDIR: return FileType::kDirectory;
    case S_IFREG: return FileType::kRegularFile;
    case S_IFSOCK: return FileType::kSocketStream;
    case S_IFLNK: return FileType::kSymbolicLink;
    default: return FileType::kUnknown;
  }
}

}  // namespace godwit::runtime::wasi
