// What HTTP servers and clients share: header lists and their limits.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/bytes.h"

namespace godwit::transport {

inline constexpr ByteCount kHttpHeaderBytesMax = 64_KiB;  // Of one message's head.

struct HttpHeader {
  std::string name;
  std::string value;
};
// In the order sent; names are compared without case.
using HttpHeaders = std::vector<HttpHeader>;

// The first header of that name, or nullptr.
const std::string* FindHeader(const HttpHeaders& headers, std::string_view name);
bool SameHeaderName(std::string_view a, std::string_view b);
// "Not Found" for 404; "Unknown" for numbers without a phrase.
std::string_view HttpReason(int status);
// Without CR, LF and NUL, which would end the line and begin another.
bool ValidHeader(const HttpHeader& header);

// A problem's JSON (RFC 9457): {"type":"about:blank","title":…,"status":…,"detail":…} and the `extra` members,
// for example {"service","orders"}; all text is escaped.
std::string ProblemJson(int status, std::string_view detail,
                        const std::vector<std::pair<std::string, std::string>>& extra = {});

}  // namespace godwit::transport
