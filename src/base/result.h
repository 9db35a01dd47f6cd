// Result: how Godwit's functions say that they failed.
//
// A fallible function returns Result<T> (or Status where there is no value). An Error's code says what the
// caller can do next, its message names the place and the remedy for a person. A guest's trap is not an
// Error: it is a value of the call that ran the guest. Bugs in our own code are checks (base/check.h).
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <variant>

#include "base/check.h"

namespace godwit {

// Says what the caller can do next, not what broke inside. On the wire: append only.
enum class ErrorCode : std::uint8_t {
  kInvalidArgument = 1,     // The request is wrong; unchanged, it can never succeed.
  kNotFound = 2,            // The named thing does not exist.
  kFailedPrecondition = 3,  // Valid request, wrong state.
  kUnavailable = 4,         // Peer away. The effect is unknown; retry with backoff.
  kResourceExhausted = 5,   // A stated limit was hit; do not retry at once.
  kCorrupt = 6,             // Bytes failed a check; never retry, set the source aside.
  kInternal = 7,            // The operating system or a library failed in a way the caller cannot mend.
  kUnsupported = 8,         // Not here; try another device or build.
  kDeadlineExceeded = 9,    // Time ran out. The effect is unknown.
  kPermissionDenied = 10,   // Not granted by the manifest, capability or token.
  kAborted = 11,            // A concurrent change won (compare-and-swap); read again and retry.
};

// The code's name as it appears in messages and JSON, for example "not_found".
std::string_view ErrorCodeName(ErrorCode code);

struct Error {
  ErrorCode code = ErrorCode::kInternal;
  std::string message;

  // The same error with "`context`: " put in front of its message.
  Error Within(std::string_view context) const {
    return Error{code, std::string(context) + ": " + message};
  }
};

inline Error InvalidArgument(std::string m) { return {ErrorCode::kInvalidArgument, std::move(m)}; }
inline Error NotFound(std::string m) { return {ErrorCode::kNotFound, std::move(m)}; }
inline Error FailedPrecondition(std::string m) { return {ErrorCode::kFailedPrecondition, std::move(m)}; }
inline Error Unavailable(std::string m) { return {ErrorCode::kUnavailable, std::move(m)}; }
inline Error ResourceExhausted(std::string m) { return {ErrorCode::kResourceExhausted, std::move(m)}; }
inline Error Corrupt(std::string m) { return {ErrorCode::kCorrupt, std::move(m)}; }
inline Error Internal(std::string m) { return {ErrorCode::kInternal, std::move(m)}; }
inline Error Unsupported(std::string m) { return {ErrorCode::kUnsupported, std::move(m)}; }
inline Error DeadlineExceeded(std::string m) { return {ErrorCode::kDeadlineExceeded, std::move(m)}; }
inline Error PermissionDenied(std::string m) { return {ErrorCode::kPermissionDenied, std::move(m)}; }
inline Error Aborted(std::string m) { return {ErrorCode::kAborted, std::move(m)}; }

// The error for the current errno: kNotFound, kPermissionDenied, kResourceExhausted or kInternal; the
// message is "`what`: " and the system's text.
Error ErrnoError(std::string_view what);

// A T or the Error that prevented it.
template <typename T>
class [[nodiscard]] Result {
 public:
  Result(T value) : state_(std::in_place_index<0>, std::move(value)) {}
  Result(Error error) : state_(std::in_place_index<1>, std::move(error)) {}

  bool ok() const { return state_.index() == 0; }
  explicit operator bool() const { return ok(); }
  // Checked: calling value() on an error, or error() on a value, is a bug and aborts.
  T& value() & { GODWIT_CHECK(ok(), error().message); return std::get<0>(state_); }
  const T& value() const& { GODWIT_CHECK(ok(), error().message); return std::get<0>(state_); }
  T&& value() && { GODWIT_CHECK(ok(), error().message); return std::get<0>(std::move(state_)); }
  T& operator*() & { return value(); }
  const T& operator*() const& { return value(); }
  T&& operator*() && { return std::move(*this).value(); }
  T* operator->() { return &value(); }
  const T* operator->() const { return &value(); }
  const Error& error() const {
    GODWIT_CHECK(!ok(), "error() of a Result that holds a value");
    return std::get<1>(state_);
  }

 private:
  std::variant<T, Error> state_;
};

template <>
class [[nodiscard]] Result<void> {
 public:
  Result() = default;
  Result(Error error) : error_(std::move(error)), ok_(false) {}
  bool ok() const { return ok_; }
  explicit operator bool() const { return ok_; }
  const Error& error() const {
    GODWIT_CHECK(!ok_, "error() of a Status that is ok");
    return error_;
  }

 private:
  Error error_;
  bool ok_ = true;
};

using Status = Result<void>;

}  // namespace godwit

#define GODWIT_CONCAT_(a, b) a##b
#define GODWIT_CONCAT(a, b) GODWIT_CONCAT_(a, b)
// GODWIT_TRY(expr): returns expr's error from the enclosing function if it has one.
#define GODWIT_TRY(expr)                                   \
  do {                                                     \
    if (auto try_status_ = (expr); !try_status_.ok()) return try_status_.error(); \
  } while (false)
// GODWIT_ASSIGN(auto x, expr): declares (or assigns) x from expr's value, or returns its error.
#define GODWIT_ASSIGN(target, expr) GODWIT_ASSIGN_(GODWIT_CONCAT(assign_result_, __LINE__), target, expr)
#define GODWIT_ASSIGN_(name, target, expr) \
  auto name = (expr);                      \
  if (!name.ok()) return name.error();     \
  target = std::move(name).value()
