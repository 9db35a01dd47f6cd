// CGI/1.1 (RFC 3875) for services of kind command: a request as environment variables, and the program's output
// as a response.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "agent/request.h"

namespace godwit::agent {

inline constexpr std::size_t kCgiHeaderBytesMax = 64 << 10;

// The variables of RFC 3875 §4.1 for `request`, HTTP_* for its other headers. `Proxy` is left out (CVE-2016-5385).
std::vector<std::pair<std::string, std::string>> CgiEnvironment(const NewRequest& request, std::string_view service);

struct CgiHead {
  std::uint16_t status = 200;
  std::vector<Header> headers;
  std::size_t body_begin = 0;  // In the bytes that were given.
};

enum class CgiState { kMore, kDone };
// Looks for a header block at the beginning of `output` (all of it so far; `ended`: there is no more). A block ends
// with an empty line and has Content-Type, Status or Location; output without one is a text/plain body of status 200.
// kMore: cannot be told yet. At most kCgiHeaderBytesMax are looked at.
CgiState ParseCgiHead(std::string_view output, bool ended, CgiHead* head);

}  // namespace godwit::agent
