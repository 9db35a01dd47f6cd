#include "agent/data_http.h"

#include <openssl/crypto.h>

#include <algorithm>
#include <atomic>
#include <charconv>
#include <chrono>
#include <optional>
#include <tuple>

#include <fmt/format.h>

#include "device/built_in.h"
#include "transport/http_client.h"

namespace godwit::agent {
namespace {

using transport::HttpExchange;
using Exchange = std::shared_ptr<HttpExchange>;

constexpr std::string_view kPrefix = "/v1/data/";
constexpr std::size_t kPieceBytes = 256 << 10;

int StatusOf(const Error& error) {
  switch (error.code) {
    case ErrorCode::kInvalidArgument: return 400;
    case ErrorCode::kNotFound: return 404;
    case ErrorCode::kPermissionDenied: return 403;
    case ErrorCode::kFailedPrecondition: return 409;
    case ErrorCode::kResourceExhausted: return 507;
    case ErrorCode::kUnavailable: return 503;
    default: return 500;
  }
}

bool SameText(std::string_view a, std::string_view b) {
  return a.size() == b.size() && CRYPTO_memcmp(a.data(), b.data(), a.size()) == 0;
}

// One range of bytes of RFC 9110, 14.1.2, as [begin, end): empty if there is none of it. nullopt: to be ignored.
std::optional<std::pair<std::uint64_t, std::uint64_t>> RangeOf(std::string_view text, std::uint64_t size) {
  constexpr std::string_view kUnit = "bytes=";
  if (!text.starts_with(kUnit)) return std::nullopt;
  text.remove_prefix(kUnit.size());
  const std::size_t dash = text.find('-');
  if (dash == text.npos || text.find(',') != text.npos) return std::nullopt;
  const auto number = [](std::string_view digits, std::uint64_t* to) {
    const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), *to);
    return error == std::errc() && end == digits.data() + digits.size();
  };
  std::uint64_t first = 0, last = size - 1;
  if (dash == 0) {
    if (!number(text.substr(1), &first)) return std::nullopt;
    return std::pair(size - std::min(first, size), size);
  }
  if (!number(text.substr(0, dash), &first) || (dash + 1 < text.size() && (!number(text.substr(dash + 1), &last) || last < first))) return std::nullopt;
  if (first >= size) return std::pair(size, size);
  return std::pair(first, std::min(last, size - 1) + 1);
}

// Takes piece after piece until the end; owns itself through the callbacks.
struct Upload : std::enable_shared_from_this<Upload> {
  Exchange exchange;
  device::Foreground* foreground = nullptr;
  std::unique_ptr<DatasetWriter> writer;
  DataHttp::Registrar registrar;

  void Next() {
    exchange->Read([self = shared_from_this()](Result<std::string> piece) {
      if (!piece.ok()) return;  // The client is gone; the writer leaves nothing.
      if (!piece->empty()) {
        const auto begin = std::chrono::steady_clock::now();
        const Status written = self->writer->Write(AsBytes(*piece));
        self->foreground->Note(std::chrono::steady_clock::now() - begin);
        return written.ok() ? self->Next() : Refuse(self->exchange, written.error());
      }
      auto info = self->writer->Commit();
      if (!info.ok()) return Refuse(self->exchange, info.error());
      self->registrar.put(*info, [self, info = *info](Status registered) {
        if (!registered.ok()) return Refuse(self->exchange, registered.error().Within("stored, but not registered"));
        self->exchange->Respond(200, {{"Content-Type", "application/json"}},
                                fmt::format("{{\"name\":\"{}\",\"bytes\":{},\"digest\":\"{}\"}}", info.name.value, info.bytes, info.digest));
      });
    });
  }
};

struct Download : std::enable_shared_from_this<Download> {
  Exchange exchange;
  device::Foreground* foreground = nullptr;
  std::shared_ptr<const Dataset> dataset;
  std::uint64_t offset = 0, end = 0;
  int status = 200;
  transport::HttpHeaders headers;
  bool begun = false;

  void Next() {
    if (offset == end && begun) return exchange->Finish();
    const auto begin = std::chrono::steady_clock::now();
    std::string piece(std::min<std::uint64_t>(kPieceBytes, end - offset), '\0');
    const auto got = dataset->Read(offset, {reinterpret_cast<std::uint8_t*>(piece.data()), piece.size()});
    // Once something was sent, an answer that ends too soon is all that can be said.
    if (!got.ok() && !begun) return Refuse(exchange, got.error());
    if (!got.ok() || *got != piece.size()) return exchange->Abort();
    if (!begun) exchange->Begin(status, std::move(headers), end - offset);
    begun = true;
    offset += *got;
    foreground->Note(std::chrono::steady_clock::now() - begin);
    exchange->Write(std::move(piece), [self = shared_from_this()](Status sent) {
      if (sent.ok()) self->Next();
    });
  }
};

// The output of a function, piece after piece.
struct FunctionRun : std::enable_shared_from_this<FunctionRun> {
  Exchange exchange;
  device::Device* device = nullptr;
  device::Request request;
  bool begun = false;
  std::atomic<bool> gone{false};

  void Next() {
    if (gone.load()) return;
    static std::atomic<std::uint64_t> numbers{1};
    request.id = numbers++;
    device->Submit(request, [self = shared_from_this()](device::Completion completion) { self->Take(std::move(completion)); });
  }
  void Take(device::Completion completion) {
    if (!completion.status.ok()) {
      if (begun) return exchange->Abort();
      return Refuse(exchange, completion.status.error());
    }
    if (!begun) exchange->Begin(200, {{"Content-Type", "text/plain"}});
    begun = true;
    request.state = std::move(completion.state);
    const bool more = completion.more;
    const auto on = [self = shared_from_this(), more](const Status& sent) {
      if (!sent.ok()) return;  // The client is gone.
      more ? self->Next() : self->exchange->Finish();
    };
    if (completion.data.empty()) return on(Status());
    exchange->Write(std::string(AsText(completion.data)), on);
  }
};

}  // namespace

void DataHttp::Run(const Exchange& exchange, const model::DatasetName& name) {
  const auto& request = exchange->request();
  const std::string wanted = request.query("run").value_or("");
  static const auto kFunctions = device::BuiltInFunctions();
  const auto function = std::find_if(kFunctions.begin(), kFunctions.end(), [&](const auto& one) { return one->name() == wanted; });
  if (function == kFunctions.end()) return exchange->RespondProblem(404, "no function is called '" + wanted + "'; there are scan, match, checksum, gather, chase");
  auto run = std::make_shared<FunctionRun>();
  for (const auto& [key, to] : {std::pair("offset", &run->request.offset), std::pair("bytes", &run->request.bytes)}) {
    const std::string text = request.query(key).value_or("0");
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), *to);
    if (error != std::errc() || end != text.data() + text.size()) return exchange->RespondProblem(400, std::string(key) + " must be a number of bytes");
  }
  run->exchange = exchange;
  run->device = &device_;
  run->request.opcode = device::Opcode::kExecute;
  run->request.function = static_cast<std::uint32_t>(function - kFunctions.begin()) + 1;
  run->request.name = name.value;
  run->request.slice = std::chrono::milliseconds(250);
  exchange->OnDisconnect([weak = std::weak_ptr(run)] {
    if (const auto self = weak.lock()) self->gone = true;
  });
  exchange->ReadAll({device::kDataBytesMax / 2}, [run](Result<std::string> body) {
    if (!body.ok()) return;
    run->request.data.assign(body->begin(), body->end());
    run->Next();
  });
}


void Refuse(const Exchange& exchange, const Error& error) { exchange->RespondProblem(StatusOf(error), error.message); }

bool MustBear(const Exchange& exchange, const std::string& token) {
  if (token.empty()) return true;
  const std::string* authorization = exchange->request().header("Authorization");
  if (authorization != nullptr && SameText(*authorization, "Bearer " + token)) return true;
  exchange->RespondProblem(401, "say who you are: Authorization: Bearer TOKEN");
  return false;
}

bool DataHttp::Handle(const Exchange& exchange) {
  const transport::HttpRequest& request = exchange->request();
  if (!request.path().starts_with(kPrefix)) return false;
  if (!MustBear(exchange, token_)) return true;
  const auto text = transport::PercentDecode(request.path().substr(kPrefix.size()));
  const Status valid = text.ok() ? model::CheckDatasetName(*text) : Status(text.error());
  if (!valid.ok()) {
    Refuse(exchange, valid.error());
    return true;
  }
  const model::DatasetName name(*text);
  if (request.method == "PUT") {
    Put(exchange, name);
  } else if (request.method == "GET") {
    Get(exchange, name);
  } else if (request.method == "POST") {
    Run(exchange, name);
  } else if (request.method == "DELETE") {
    const Status removed = datasets_.Remove(name);
    if (!removed.ok()) {
      Refuse(exchange, removed.error());
    } else {
      registrar_.remove(name, [exchange](Status done) {
        if (done.ok() || done.error().code == ErrorCode::kNotFound) exchange->Respond(204, {}, "");
        else Refuse(exchange, done.error());
      });
    }
  } else {
    exchange->RespondProblem(405, "PUT, GET, POST or DELETE");
  }
  return true;
}

void DataHttp::Put(const Exchange& exchange, const model::DatasetName& name) {
  auto writer = datasets_.Write(name);
  if (!writer.ok()) return Refuse(exchange, writer.error());
  auto upload = std::make_shared<Upload>();
  upload->exchange = exchange;
  upload->foreground = &foreground_;
  upload->writer = std::move(writer).value();
  upload->registrar = registrar_;
  upload->Next();
}

void DataHttp::Get(const Exchange& exchange, const model::DatasetName& name) {
  auto dataset = datasets_.Open(name);
  if (!dataset.ok()) return Refuse(exchange, dataset.error());
  const std::uint64_t size = (*dataset)->size();
  auto download = std::make_shared<Download>();
  download->exchange = exchange;
  download->foreground = &foreground_;
  download->dataset = std::move(dataset).value();
  download->end = size;
  transport::HttpHeaders headers{{"Content-Type", "application/octet-stream"}, {"Accept-Ranges", "bytes"}};
  const std::string* range = exchange->request().header("Range");
  const auto part = range != nullptr ? RangeOf(*range, size) : std::nullopt;
  if (part && part->first == part->second) {
    headers[0].value = "application/problem+json";
    headers.push_back({"Content-Range", fmt::format("bytes */{}", size)});
    return exchange->Respond(416, std::move(headers), transport::ProblemJson(416, fmt::format("the dataset has {} bytes", size)));
  }
  if (part) {
    std::tie(download->offset, download->end) = *part;
    download->status = 206;
    headers.push_back({"Content-Range", fmt::format("bytes {}-{}/{}", part->first, part->second - 1, size)});
  }
  download->headers = std::move(headers);
  download->Next();
}

}  // namespace godwit::agent
