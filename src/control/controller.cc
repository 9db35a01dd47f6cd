#include "control/controller.h"

#include <arpa/inet.h>
#include <openssl/crypto.h>

#include <charconv>
#include <fstream>
#include <map>
#include <mutex>
#include <nlohmann/json.hpp>

#include "control/api.h"
#include "control/reconcile_loop.h"
#include "control/workers.h"
#include "transport/http_server.h"

namespace godwit::control {
namespace {

using nlohmann::json;
using transport::HttpExchange;
using Exchange = std::shared_ptr<HttpExchange>;

constexpr std::chrono::seconds kHeartbeat{15};
constexpr std::size_t kWorkers = 4;
constexpr std::size_t kStreamsMax = 512;
constexpr std::size_t kBlobPieceBytes = 64 << 10;

bool IsLoopback(const std::string& address) {
  in_addr v4{};
  if (inet_pton(AF_INET, address.c_str(), &v4) == 1) return (ntohl(v4.s_addr) >> 24) == 127;
  return address == "::1" || address == "localhost";
}

// One open stream of server-sent events. Text goes out in the order of Send.
class EventStream {
 public:
  explicit EventStream(Exchange exchange) : exchange_(std::move(exchange)) {}

  void Begin() { exchange_->Begin(200, {{"Content-Type", "text/event-stream"}, {"Cache-Control", "no-store"}}); }
  // A client that does not keep up is cut; it comes again with Last-Event-ID.
  void Send(std::string text) {
    exchange_->Write(std::move(text), [exchange = std::weak_ptr(exchange_)](const Status& status) {
      if (status.ok() || status.error().code != ErrorCode::kResourceExhausted) return;
      if (const Exchange cut = exchange.lock()) cut->Abort();
    });
  }
  void End() { exchange_->Finish(); }

  std::unique_ptr<store::Watch> watch;  // Set and destroyed by the controller, never in the watch's callback.
  std::uint64_t follower = 0;

 private:
  const Exchange exchange_;
};

std::string EventText(std::string_view event, std::int64_t id, std::string_view data) {
  std::string text = "event: " + std::string(event) + "\n";
  if (id >= 0) text += "id: " + std::to_string(id) + "\n";
  return text + "data: " + std::string(data) + "\n\n";
}

class ControllerProcess final : public Controller {
 public:
  explicit ControllerProcess(Options options) : options_(std::move(options)) {}

  ~ControllerProcess() override {
    if (loop_) loop_->Run([this] { heartbeat_.Cancel(); });
    server_.reset();
    reconcile_.reset();
    workers_.reset();
    std::map<std::uint64_t, std::shared_ptr<EventStream>> streams;
    {
      std::lock_guard lock(mutex_);
      streams.swap(streams_);
    }
    for (auto& [id, stream] : streams) EndStream(*stream);
    streams.clear();
    loop_.reset();
  }

  Status Serve() {
    if (options_.token.empty() && !IsLoopback(options_.address)) {
      return PermissionDenied("listening on " + options_.address +
                              ", beyond loopback, needs a token: give --token-file, the same for controller, agents and clients");
    }
    std::error_code error;
    std::filesystem::create_directories(options_.data, error);
    if (error) return Internal(options_.data.string() + ": " + error.message());
    GODWIT_ASSIGN(blobs_, Blobs::Open(options_.data / "blobs"));
    GODWIT_ASSIGN(metadata_, store::OpenMetadata(options_.metadata, options_.data));
    api_ = std::make_unique<Api>(*metadata_, *blobs_, logs_, Api::Options{options_.lease_ttl});
    workers_ = std::make_unique<Workers>(kWorkers);
    loop_ = std::make_unique<transport::EventLoop>("control");
    GODWIT_ASSIGN(server_, transport::HttpServer::Listen(*loop_, {.address = options_.address, .port = options_.port, .token = options_.token},
                                                         [this](const Exchange& exchange) { OnRequest(exchange); }));
    loop_->Run([this] { Beat(); });
    reconcile_ = ReconcileLoop::Start(*metadata_, options_.lease_ttl);
    return {};
  }

  std::uint16_t port() const override { return server_->port(); }
  std::string url() const override { return "http://" + server_->address(); }

 private:
  static void Answer(const Exchange& exchange, ApiResponse response) {
    transport::HttpHeaders headers{{"Content-Type", response.content_type}};
    if (!response.etag.empty()) headers.push_back({"ETag", response.etag});
    if (response.status == 401) headers.push_back({"WWW-Authenticate", "Bearer"});
    if (response.status == 503 || response.status == 429) headers.push_back({"Retry-After", "1"});
    exchange->Respond(response.status, std::move(headers), std::move(response.body));
  }

  bool Authorized(const transport::HttpRequest& request) const {
    if (options_.token.empty()) return true;
    const std::string* given = request.header("Authorization");
    const std::string wanted = "Bearer " + options_.token;
    return given && given->size() == wanted.size() && CRYPTO_memcmp(given->data(), wanted.data(), wanted.size()) == 0;
  }

  void OnRequest(const Exchange& exchange) {
    const transport::HttpRequest& request = exchange->request();
    const std::string path(request.path());
    if (!Authorized(request)) {
      return Answer(exchange, Problem(401, "permission_denied", "this controller asks for a token: 'Authorization: Bearer TOKEN'"));
    }
    constexpr std::string_view kBlobs = "/v1/blobs/";
    if (path.starts_with(kBlobs)) {
      const std::string digest = path.substr(kBlobs.size());
      if (request.method == "PUT") return TakeBlob(exchange, digest);
      if (request.method == "GET" || request.method == "HEAD") return GiveBlob(exchange, digest);
      return Answer(exchange, Problem(405, "invalid_argument", "a blob is PUT or GET"));
    }
    if (request.method == "GET" && request.query("watch") == "true") return InWorker(exchange, [=, this] { StartWatch(exchange, path); });
    if (request.method == "GET" && request.query("follow") == "true") return InWorker(exchange, [=, this] { FollowLogs(exchange, path); });
    exchange->ReadAll(kApiBodyBytesMax, [this, exchange, path](Result<std::string> body) {
      if (!body.ok()) return;  // Answered or gone.
      InWorker(exchange, [this, exchange, path, body = std::move(*body)]() mutable {
        Answer(exchange, api_->Handle(RequestOf(*exchange, path, std::move(body))));
      });
    });
  }

  static ApiRequest RequestOf(const HttpExchange& exchange, const std::string& path, std::string body) {
    const transport::HttpRequest& request = exchange.request();
    ApiRequest api{request.method, path, {}, "", "", std::move(body)};
    if (const auto tail = request.query("tail")) api.query.emplace_back("tail", *tail);
    if (const std::string* header = request.header("If-Match")) api.if_match = *header;
    if (const std::string* header = request.header("If-None-Match")) api.if_none_match = *header;
    return api;
  }

  void InWorker(const Exchange& exchange, std::function<void()> work) {
    if (!workers_->TryPost(std::move(work))) Answer(exchange, Problem(503, "resource_exhausted", "too many requests wait"));
  }

  void TakeBlob(const Exchange& exchange, const std::string& digest) {
    if (blobs_->SizeOf(digest).ok()) {
      // It is here; the client may send it all the same.
      return Answer(exchange, {200, "application/json", "{}\n", ""});
    }
    auto writer = blobs_->Write(digest);
    if (!writer.ok()) return Answer(exchange, ProblemOf(writer.error()));
    ReadPiece(exchange, std::shared_ptr<Blobs::Writer>(std::move(*writer)));
  }

  static void ReadPiece(const Exchange& exchange, const std::shared_ptr<Blobs::Writer>& writer) {
    exchange->Read([exchange, writer](Result<std::string> piece) {
      if (!piece.ok()) return;
      const bool end = piece->empty();
      const Status done = end ? writer->Finish() : writer->Append(*piece);
      if (!done.ok()) return Answer(exchange, ProblemOf(done.error()));
      if (end) return Answer(exchange, {201, "application/json", "{}\n", ""});
      ReadPiece(exchange, writer);
    });
  }

  void GiveBlob(const Exchange& exchange, const std::string& digest) {
    const auto size = blobs_->SizeOf(digest);
    const auto path = blobs_->PathOf(digest);
    if (!size.ok() || !path.ok()) return Answer(exchange, ProblemOf(size.ok() ? path.error() : size.error()));
    auto file = std::make_shared<std::ifstream>(*path, std::ios::binary);
    exchange->Begin(200, {{"Content-Type", "application/octet-stream"}, {"ETag", "\"" + digest + "\""}}, size->value);
    if (exchange->request().method == "HEAD") return exchange->Finish();
    WritePiece(exchange, file);
  }

  static void WritePiece(const Exchange& exchange, const std::shared_ptr<std::ifstream>& file) {
    std::string piece(kBlobPieceBytes, '\0');
    file->read(piece.data(), static_cast<std::streamsize>(piece.size()));
    piece.resize(static_cast<std::size_t>(file->gcount()));
    if (file->bad()) return exchange->Abort();
    if (piece.empty()) return exchange->Finish();
    exchange->Write(std::move(piece), [exchange, file](const Status& status) {
      if (status.ok()) WritePiece(exchange, file);
    });
  }

  // Streams.

  // nullptr if there are too many; the client was answered then.
  std::pair<std::uint64_t, std::shared_ptr<EventStream>> AddStream(const Exchange& exchange) {
    std::lock_guard lock(mutex_);
    if (streams_.size() >= kStreamsMax) {
      Answer(exchange, Problem(503, "resource_exhausted", "512 streams are open already"));
      return {0, nullptr};
    }
    auto stream = std::make_shared<EventStream>(exchange);
    streams_.emplace(next_stream_, stream);
    return {next_stream_++, stream};
  }

  void EndStreamWhenGone(const Exchange& exchange, std::uint64_t id) {
    exchange->OnDisconnect([this, id] {
      // Ending a watch waits for its callback: not on the loop.
      workers_->Post([this, id] {
        std::shared_ptr<EventStream> stream;
        {
          std::lock_guard lock(mutex_);
          const auto found = streams_.find(id);
          if (found == streams_.end()) return;
          stream = std::move(found->second);
          streams_.erase(found);
        }
        EndStream(*stream);
      });
    });
  }

  // The watch goes before the stream, so that its callback is never the last owner of it.
  void EndStream(EventStream& stream) {
    stream.watch.reset();
    logs_.Unfollow(stream.follower);
  }

  void StartWatch(const Exchange& exchange, const std::string& path) {
    const std::string kind = path.starts_with("/v1/") ? path.substr(4) : "";
    if (!IsKind(kind)) return Answer(exchange, Problem(404, "not_found", "nothing to watch at " + path));
    const store::Keys keys = store::Keys::Prefix(KeyOf(kind, ""));
    std::int64_t last = 0;
    if (const std::string* header = exchange->request().header("Last-Event-ID")) {
      std::from_chars(header->data(), header->data() + header->size(), last);
    }
    const auto range = metadata_->Range(keys, {last});
    if (!range.ok()) {
      const bool gone = range.error().code == ErrorCode::kAborted || range.error().code == ErrorCode::kInvalidArgument;
      return Answer(exchange, gone ? Problem(410, "aborted", "events after " + std::to_string(last) + " are not known any more; watch from the beginning")
                                   : ProblemOf(range.error()));
    }
    const auto [id, stream] = AddStream(exchange);
    if (!stream) return;
    stream->Begin();
    if (last == 0) {
      last = range->revision.value;
      for (std::size_t i = 0; i < range->items.size(); ++i) {
        // Only the last one's id stands for the whole list: a client cut before it begins anew.
        stream->Send(EventText("put", i + 1 == range->items.size() ? last : -1, range->items[i].value));
      }
    }
    stream->Send(": watching\n\n");
    auto watch = metadata_->StartWatch(keys, {last + 1}, [weak = std::weak_ptr(stream), kind](const Result<std::vector<store::Event>>& events) {
      const auto to = weak.lock();
      if (!to) return;
      if (!events.ok()) return to->End();  // The client comes again and is told 410.
      for (std::size_t i = 0; i < events->size(); ++i) {
        const store::Event& event = (*events)[i];
        // An id says that its whole revision was seen.
        const bool whole = i + 1 == events->size() || (*events)[i + 1].item.modified != event.item.modified;
        const std::int64_t event_id = event.item.modified.value - (whole ? 0 : 1);
        if (event.deleted) {
          const json name{{std::string(NameMemberOf(kind)), event.item.key.substr(kind.size() + 2)}};
          to->Send(EventText("delete", event_id, name.dump()));
        } else {
          to->Send(EventText("put", event_id, event.item.value));
        }
      }
    });
    if (!watch.ok()) return exchange->Abort();
    {
      std::lock_guard lock(mutex_);
      stream->watch = std::move(*watch);
    }
    EndStreamWhenGone(exchange, id);
  }

  void FollowLogs(const Exchange& exchange, const std::string& path) {
    // The checks, and the problems, of the plain read.
    ApiResponse plain = api_->Handle(RequestOf(*exchange, path, ""));
    if (plain.status != 200 || !path.ends_with("/logs")) return Answer(exchange, std::move(plain));
    const std::string service = path.substr(13, path.size() - 13 - 5);  // "/v1/services/" NAME "/logs"
    std::size_t tail = kLogLinesMax;
    if (const auto given = exchange->request().query("tail")) std::from_chars(given->data(), given->data() + given->size(), tail);
    const auto [id, stream] = AddStream(exchange);
    if (!stream) return;
    stream->Begin();
    stream->Send(": following\n\n");
    const std::uint64_t follower = logs_.Follow(service, tail, [weak = std::weak_ptr(stream)](const std::string& line) {
      if (const auto to = weak.lock()) to->Send(EventText("log", -1, line));
    });
    {
      std::lock_guard lock(mutex_);
      stream->follower = follower;
    }
    EndStreamWhenGone(exchange, id);
  }

  void Beat() {
    {
      std::lock_guard lock(mutex_);
      for (const auto& [id, stream] : streams_) stream->Send(": still here\n\n");
    }
    heartbeat_ = loop_->After(kHeartbeat, [this] { Beat(); });
  }

  const Options options_;
  std::unique_ptr<Blobs> blobs_;
  std::unique_ptr<store::Metadata> metadata_;
  Logs logs_;
  std::unique_ptr<Api> api_;
  std::unique_ptr<transport::EventLoop> loop_;
  transport::Timer heartbeat_;
  std::mutex mutex_;
  std::map<std::uint64_t, std::shared_ptr<EventStream>> streams_;  // Guarded by mutex_.
  std::uint64_t next_stream_ = 1;
  std::unique_ptr<Workers> workers_;
  std::unique_ptr<ReconcileLoop> reconcile_;
  std::unique_ptr<transport::HttpServer> server_;
};

}  // namespace

Result<std::unique_ptr<Controller>> Controller::Start(Options options) {
  auto controller = std::make_unique<ControllerProcess>(std::move(options));
  GODWIT_TRY(controller->Serve());
  return std::unique_ptr<Controller>(std::move(controller));
}

}  // namespace godwit::control
