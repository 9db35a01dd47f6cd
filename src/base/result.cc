#include "base/result.h"

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <system_error>

namespace godwit {

void CheckFailed(const char* file, int line, const char* condition, std::string_view message) {
  std::fprintf(stderr, "%s:%d: check failed: %s: %.*s\n", file, line, condition,
               static_cast<int>(message.size()), message.data());
  std::abort();
}

std::string_view ErrorCodeName(ErrorCode code) {
  switch (code) {
    case ErrorCode::kInvalidArgument: return "invalid_argument";
    case ErrorCode::kNotFound: return "not_found";
    case ErrorCode::kFailedPrecondition: return "failed_precondition";
    case ErrorCode::kUnavailable: return "unavailable";
    case ErrorCode::kResourceExhausted: return "resource_exhausted";
    case ErrorCode::kCorrupt: return "corrupt";
    case ErrorCode::kInternal: return "internal";
    case ErrorCode::kUnsupported: return "unsupported";
    case ErrorCode::kDeadlineExceeded: return "deadline_exceeded";
    case ErrorCode::kPermissionDenied: return "permission_denied";
    case ErrorCode::kAborted: return "aborted";
  }
  return "unknown";
}

Error ErrnoError(std::string_view what) {
  const int code = errno;
  std::string text = std::string(what) + ": " + std::generic_category().message(code);
  switch (code) {
    case ENOENT: case ENOTDIR: return NotFound(std::move(text));
    case EACCES: case EPERM: return PermissionDenied(std::move(text));
    case ENOSPC: case EDQUOT: case EMFILE: case ENFILE: case ENOMEM: return ResourceExhausted(std::move(text));
    case ECONNREFUSED: case ECONNRESET: case EPIPE: case EHOSTUNREACH: case ENETUNREACH: return Unavailable(std::move(text));
    default: return Internal(std::move(text));
  }
}

}  // namespace godwit
