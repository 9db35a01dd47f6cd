// Header fields by name, which is the same in any case (RFC 9110 §5.1).
#pragma once

#include <cctype>
#include <string_view>
#include <vector>

#include "agent/request.h"

namespace godwit::agent {

inline bool SameName(std::string_view a, std::string_view b) {
  if (a.size() != b.size()) return false;
  for (std::size_t i = 0; i < a.size(); ++i) {
    if (std::tolower(static_cast<unsigned char>(a[i])) != std::tolower(static_cast<unsigned char>(b[i]))) return false;
  }
  return true;
}

// The first field's value, or null.
inline const std::string* FindHeader(const std::vector<Header>& headers, std::string_view name) {
  for (const Header& header : headers) {
    if (SameName(header.name, name)) return &header.value;
  }
  return nullptr;
}

// A client's WebSocket: answered with 101, body and response are its two streams (transport/web_socket.h), and the service's limits of a
// request's time and bytes do not hold. Only gateways send the header.
inline bool IsWebSocket(const NewRequest& request) {
  const std::string* upgrade = FindHeader(request.headers, "Upgrade");
  return upgrade && *upgrade == "websocket" && request.body_follows && request.caller.empty();
}

}  // namespace godwit::agent
