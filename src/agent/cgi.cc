#include "agent/cgi.h"

#include <algorithm>
#include <charconv>

#include "agent/header.h"

namespace godwit::agent {
namespace {

bool IsTokenCharacter(char c) {  // RFC 9110 §5.6.2
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
         std::string_view("!#$%&'*+-.^_`|~").find(c) != std::string_view::npos;
}

// Name and value of a header line; false if it is none.
bool SplitLine(std::string_view line, Header* header) {
  const std::size_t colon = line.find(':');
  if (colon == 0 || colon == std::string_view::npos) return false;
  const std::string_view name = line.substr(0, colon);
  if (!std::all_of(name.begin(), name.end(), IsTokenCharacter)) return false;
  std::string_view value = line.substr(colon + 1);
  while (!value.empty() && (value.front() == ' ' || value.front() == '\t')) value.remove_prefix(1);
  while (!value.empty() && (value.back() == ' ' || value.back() == '\t')) value.remove_suffix(1);
  if (std::any_of(value.begin(), value.end(), [](char c) { return static_cast<unsigned char>(c) < 32 && c != '\t'; })) {
    return false;
  }
  *header = {std::string(name), std::string(value)};
  return true;
}

CgiState PlainText(CgiHead* head) {
  *head = {200, {{"Content-Type", "text/plain; charset=utf-8"}}, 0};
  return CgiState::kDone;
}

}  // namespace

std::vector<std::pair<std::string, std::string>> CgiEnvironment(const NewRequest& request, std::string_view service) {
  const std::string_view target = request.target;
  const std::size_t question = target.find('?');
  const std::string path(target.substr(0, question));
  std::string script = request.route.substr(0, request.route.find('{'));
  while (!script.empty() && script.back() == '/') script.pop_back();
  if (path.compare(0, script.size(), script) != 0) script.clear();
  std::vector<std::pair<std::string, std::string>> variables = {
      {"GATEWAY_INTERFACE", "CGI/1.1"},
      {"SERVER_PROTOCOL", "HTTP/1.1"},
      {"SERVER_SOFTWARE", "godwit"},
      {"SERVER_NAME", std::string(service)},
      {"SERVER_PORT", "80"},
      {"REMOTE_ADDR", ""},
      {"REQUEST_METHOD", request.method},
      {"REQUEST_URI", request.target},
      {"SCRIPT_NAME", script},
      {"PATH_INFO", path.substr(script.size())},
      {"QUERY_STRING", question == std::string_view::npos ? "" : std::string(target.substr(question + 1))},
  };
  if (request.body_bytes >= 0 && request.body_follows) {
    variables.emplace_back("CONTENT_LENGTH", std::to_string(request.body_bytes));
  }
  for (const Header& header : request.headers) {
    if (SameName(header.name, "content-length") || SameName(header.name, "proxy") || SameName(header.name, "authorization")) {
      continue;
    }
    std::string name = SameName(header.name, "content-type") ? "" : "HTTP_";
    for (char c : header.name) name += c == '-' ? '_' : static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
    if (header.value.find('\0') != std::string::npos) continue;
    const auto same = std::find_if(variables.begin(), variables.end(), [&](const auto& v) { return v.first == name; });
    if (same != variables.end()) {
      same->second += ", " + header.value;
    } else {
      variables.emplace_back(std::move(name), header.value);
    }
  }
  return variables;
}

CgiState ParseCgiHead(std::string_view output, bool ended, CgiHead* head) {
  CgiHead found;
  bool document = false;
  std::size_t at = 0;
  for (;;) {
    const std::size_t end = output.find('\n', at);
    if (end == std::string_view::npos || end >= kCgiHeaderBytesMax) {
      const std::string_view rest = output.substr(at);
      if (ended || output.size() >= kCgiHeaderBytesMax) return PlainText(head);
      // A line that can no longer become a header ends the search early.
      const std::size_t colon = rest.find(':');
      const std::string_view name = rest.substr(0, colon);
      if (!std::all_of(name.begin(), name.end(), IsTokenCharacter) && name != "\r") return PlainText(head);
      return CgiState::kMore;
    }
    std::string_view line = output.substr(at, end - at);
    if (!line.empty() && line.back() == '\r') line.remove_suffix(1);
    at = end + 1;
    if (line.empty()) break;
    Header header;
    if (!SplitLine(line, &header)) return PlainText(head);
    if (SameName(header.name, "status")) {
      unsigned status = 0;
      std::from_chars(header.value.data(), header.value.data() + header.value.size(), status);
      if (status < 200 || status > 599) return PlainText(head);
      found.status = static_cast<std::uint16_t>(status);
      document = true;
      continue;
    }
    document = document || SameName(header.name, "content-type") || SameName(header.name, "location");
    if (SameName(header.name, "location") && found.status == 200) found.status = 302;
    found.headers.push_back(std::move(header));
  }
  if (!document) return PlainText(head);
  found.body_begin = at;
  *head = std::move(found);
  return CgiState::kDone;
}

}  // namespace godwit::agent
