// The etcd driver, over etcd's JSON gateway (https://etcd.io/docs/v3.4/dev-guide/api_grpc_gateway/): keys and values
// in base64, 64-bit numbers as strings, watches as a stream of JSON documents, one a line. Each call has a
// connection of its own, so that a call is never repeated by itself: what etcd did not answer is kUnavailable.
#include <boost/asio/connect.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/beast/core.hpp>
#include <boost/beast/http.hpp>
#include <openssl/evp.h>

#include <atomic>
#include <charconv>
#include <condition_variable>
#include <mutex>
#include <nlohmann/json.hpp>
#include <thread>

#include "store/metadata.h"

namespace godwit::store {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = boost::beast::http;
using asio::ip::tcp;
using nlohmann::json;
using std::chrono::milliseconds;
using std::chrono::seconds;

constexpr seconds kCallTimeout{10};
constexpr std::uint64_t kAnswerBytesMax = 256ull << 20;
constexpr std::size_t kWatchLineBytesMax = 64 << 20;
constexpr milliseconds kReconnectFirst{100}, kReconnectLast{3000};

std::string Base64(std::string_view bytes) {
  std::string text((bytes.size() + 2) / 3 * 4 + 1, '\0');  // EVP_EncodeBlock also writes a NUL.
  text.resize(static_cast<std::size_t>(EVP_EncodeBlock(reinterpret_cast<unsigned char*>(text.data()),
                                                       reinterpret_cast<const unsigned char*>(bytes.data()),
                                                       static_cast<int>(bytes.size()))));
  return text;
}

// Empty where the member is absent or no base64: etcd leaves out what is empty.
std::string FromBase64(const json& object, const char* key) {
  const auto found = object.find(key);
  if (found == object.end() || !found->is_string()) return "";
  const auto& text = found->get_ref<const std::string&>();
  std::string bytes(text.size() / 4 * 3 + 3, '\0');
  const int size = EVP_DecodeBlock(reinterpret_cast<unsigned char*>(bytes.data()),
                                   reinterpret_cast<const unsigned char*>(text.data()), static_cast<int>(text.size()));
  if (size < 0) return "";
  // EVP_DecodeBlock counts the padding as bytes.
  const std::size_t padding = text.ends_with("==") ? 2 : text.ends_with("=") ? 1 : 0;
  bytes.resize(static_cast<std::size_t>(size) - padding);
  return bytes;
}

// A protobuf int64 in JSON: a string, a number, or absent for 0.
std::int64_t Int(const json& object, const char* key) {
  const auto found = object.find(key);
  if (found == object.end()) return 0;
  if (found->is_number_integer()) return found->get<std::int64_t>();
  std::int64_t number = 0;
  if (found->is_string()) {
    const auto& text = found->get_ref<const std::string&>();
    std::from_chars(text.data(), text.data() + text.size(), number);
  }
  return number;
}

const json& Member(const json& object, const char* key) {
  static const json kNone = json::object();
  const auto found = object.find(key);
  return found == object.end() ? kNone : *found;
}

KeyValue ItemOf(const json& object) {
  return {FromBase64(object, "key"), FromBase64(object, "value"), {Int(object, "create_revision")},
          {Int(object, "mod_revision")}, Int(object, "version"), {Int(object, "lease")}};
}

std::vector<KeyValue> ItemsOf(const json& response) {
  std::vector<KeyValue> items;
  for (const json& item : Member(response, "kvs")) items.push_back(ItemOf(item));
  return items;
}

json RangeOf(const Keys& keys) {
  if (!keys.prefix) return {{"key", Base64(keys.key)}};
  const std::string end = PrefixEnd(keys.key);
  // etcd: an empty key is not allowed, "\0" is the first; a range end of "\0" means all that follow.
  return {{"key", Base64(keys.key.empty() ? std::string_view("\0", 1) : keys.key)},
          {"range_end", Base64(end.empty() ? std::string_view("\0", 1) : end)}};
}

// grpc-gateway's error: {"error", "code"}, the code being gRPC's.
Error ErrorOf(const json& body, unsigned http_status) {
  const std::string text = "etcd: " + (body.is_object() ? body.value("error", body.value("message", "HTTP " + std::to_string(http_status)))
                                                        : "HTTP " + std::to_string(http_status));
  if (text.find("has been compacted") != text.npos) return Aborted(text + "; read again and go on from there");
  switch (body.is_object() ? Int(body, "code") : 0) {
    case 3:
    case 11: return InvalidArgument(text);
    case 5: return NotFound(text);
    case 7:
    case 16: return PermissionDenied(text);
    case 8: return ResourceExhausted(text);
    case 9: return FailedPrecondition(text);
    default: return Unavailable(text);
  }
}

struct Endpoint {
  std::string host, port;
};

// One HTTP exchange at a time on one connection, with a deadline for each step.
class Connection {
 public:
  explicit Connection(const Endpoint& endpoint) : endpoint_(endpoint), stream_(io_), parser_(std::in_place) {}

  Status Send(const std::string& path, const json& body) {
    beast::error_code error;
    tcp::resolver resolver(io_);
    const auto addresses = resolver.resolve(endpoint_.host, endpoint_.port, error);
    if (error) return Away(error);
    stream_.expires_after(kCallTimeout);
    stream_.async_connect(addresses, [&](beast::error_code e, const tcp::endpoint&) { error = e; });
    GODWIT_TRY(Run(error));
    stream_.socket().set_option(tcp::no_delay(true), error);
    http::request<http::string_body> request{http::verb::post, path, 11};
    request.set(http::field::host, endpoint_.host);
    request.set(http::field::content_type, "application/json");
    request.set(http::field::connection, "close");
    request.body() = body.dump();
    request.prepare_payload();
    stream_.expires_after(kCallTimeout);
    http::async_write(stream_, request, [&](beast::error_code e, std::size_t) { error = e; });
    return Run(error);
  }

  Result<json> ReadAll() {
    beast::error_code error;
    parser_->body_limit(kAnswerBytesMax);
    stream_.expires_after(kCallTimeout);
    http::async_read(stream_, buffer_, *parser_, [&](beast::error_code e, std::size_t) { error = e; });
    GODWIT_TRY(Run(error));
    json body = json::parse(parser_->get().body(), nullptr, false);
    if (parser_->get().result() != http::status::ok) return ErrorOf(body, parser_->get().result_int());
    if (!body.is_object()) return Unavailable("etcd " + endpoint_.host + ": its answer is not JSON");
    return body;
  }

  // Reads what has arrived of a stream that has no end into `text`; `cancelled` is looked at four times a second.
  Status ReadSome(std::string& text, const std::atomic<bool>& cancelled) {
    beast::error_code error;
    parser_->body_limit(boost::none);
    bool done = false;
    stream_.expires_never();
    if (!parser_->is_header_done()) {
      http::async_read_header(stream_, buffer_, *parser_, [&](beast::error_code e, std::size_t) { error = e, done = true; });
    } else {
      http::async_read_some(stream_, buffer_, *parser_, [&](beast::error_code e, std::size_t) { error = e, done = true; });
    }
    io_.restart();
    while (!done) {
      io_.run_for(milliseconds(250));
      if (!done && cancelled) stream_.cancel();
      if (io_.stopped()) io_.restart();
    }
    if (error) return Away(error);
    text += parser_->get().body();
    parser_->get().body().clear();
    if (parser_->is_done()) return Unavailable("etcd " + endpoint_.host + ": ended the stream: " + text.substr(0, 200));
    return {};
  }

 private:
  Status Run(beast::error_code& error) {
    io_.restart();
    io_.run();
    if (error) return Away(error);
    return {};
  }
  Error Away(const beast::error_code& error) {
    return Unavailable("etcd " + endpoint_.host + ":" + endpoint_.port + ": " + error.message());
  }

  const Endpoint endpoint_;
  asio::io_context io_;
  beast::tcp_stream stream_;
  beast::flat_buffer buffer_;
  std::optional<http::response_parser<http::string_body>> parser_;
};

class EtcdWatch final : public Watch {
 public:
  EtcdWatch(Endpoint endpoint, Keys keys, Revision next, Metadata::WatchCallback callback)
      : endpoint_(std::move(endpoint)), keys_(std::move(keys)), next_(next), callback_(std::move(callback)),
        thread_([this] { Work(); }) {}
  ~EtcdWatch() override {
    GODWIT_CHECK(std::this_thread::get_id() != thread_.get_id(), "a watch was destroyed by its own callback");
    {
      std::lock_guard lock(mutex_);
      cancelled_ = true;
    }
    cancelled_changed_.notify_all();
    thread_.join();
  }

 private:
  void Work() {
    milliseconds pause = kReconnectFirst;
    while (!cancelled_) {
      bool progressed = false;
      if (Follow(progressed)) return;
      if (progressed) pause = kReconnectFirst;
      std::unique_lock lock(mutex_);
      cancelled_changed_.wait_for(lock, pause, [&] { return cancelled_.load(); });
      pause = std::min(pause * 2, kReconnectLast);
    }
  }

  // One connection's worth of the watch; true if the watch is over.
  bool Follow(bool& progressed) {
    json create = RangeOf(keys_);
    create["start_revision"] = std::to_string(next_.value);
    create["fragment"] = false;
    Connection connection(endpoint_);
    if (!connection.Send("/v3/watch", {{"create_request", create}}).ok()) return false;
    std::string text;
    while (!cancelled_) {
      if (!connection.ReadSome(text, cancelled_).ok()) return cancelled_;
      std::size_t line_end = 0;
      while (!cancelled_ && (line_end = text.find('\n')) != text.npos) {
        const json line = json::parse(text.substr(0, line_end), nullptr, false);
        text.erase(0, line_end + 1);
        if (!line.is_object() || line.contains("error")) return false;
        if (Deliver(Member(line, "result"))) return true;
        progressed = true;
      }
      if (text.size() > kWatchLineBytesMax) {
        callback_(ResourceExhausted("etcd: one watch answer is larger than 64 MiB"));
        return true;
      }
    }
    return true;
  }

  bool Deliver(const json& result) {
    if (Int(result, "compact_revision") != 0) {
      callback_(Aborted("etcd: revision " + std::to_string(next_.value) + " has been compacted; read again and go on from there"));
      return true;
    }
    if (result.value("canceled", false)) {
      callback_(Unavailable("etcd: cancelled the watch: " + result.value("cancel_reason", std::string())));
      return true;
    }
    std::vector<Event> events;
    for (const json& event : Member(result, "events")) {
      Event one;
      one.deleted = event.value("type", std::string()) == "DELETE";
      one.item = ItemOf(Member(event, "kv"));
      if (one.deleted) one.item = {one.item.key, "", {}, one.item.modified, 0, {}};
      // After a reconnect nothing is delivered twice.
      if (one.item.modified >= next_) events.push_back(std::move(one));
    }
    if (events.empty()) return false;
    next_ = events.back().item.modified.Next();
    callback_(std::move(events));
    return false;
  }

  const Endpoint endpoint_;
  const Keys keys_;
  Revision next_;  // Of the thread.
  const Metadata::WatchCallback callback_;
  std::atomic<bool> cancelled_ = false;
  std::mutex mutex_;
  std::condition_variable cancelled_changed_;
  std::thread thread_;
};

class EtcdMetadata final : public Metadata {
 public:
  explicit EtcdMetadata(Endpoint endpoint) : endpoint_(std::move(endpoint)) {}

  Result<RangeResult> Range(const Keys& keys, Revision at) override {
    if (at.value < 0) return InvalidArgument("metadata: a revision is not negative");
    json request = RangeOf(keys);
    request["revision"] = std::to_string(at.value);
    GODWIT_ASSIGN(const json answer, Call("/v3/kv/range", request));
    return RangeResult{ItemsOf(answer), RevisionOf(answer)};
  }

  Result<TransactionResult> Commit(const Transaction& transaction) override {
    GODWIT_TRY(CheckTransaction(transaction));
    json compares = json::array();
    for (const Compare& compare : transaction.when) compares.push_back(CompareOf(compare));
    const json request{{"compare", compares}, {"success", OperationsOf(transaction.then)},
                       {"failure", OperationsOf(transaction.otherwise)}};
    GODWIT_ASSIGN(const json answer, Call("/v3/kv/txn", request));
    TransactionResult result;
    result.succeeded = answer.value("succeeded", false);
    result.revision = RevisionOf(answer);
    for (const json& response : Member(answer, "responses")) {
      OperationResult one;
      one.items = ItemsOf(Member(response, "response_range"));
      one.deleted = Int(Member(response, "response_delete_range"), "deleted");
      result.results.push_back(std::move(one));
    }
    const auto& done = result.succeeded ? transaction.then : transaction.otherwise;
    if (result.results.size() != done.size()) return Unavailable("etcd: answered another number of operations than asked");
    return result;
  }

  Result<LeaseId> Grant(seconds ttl) override {
    if (ttl < seconds(1) || ttl > seconds(24 * 3600)) return InvalidArgument("metadata: a lease lasts 1 to 86400 seconds");
    GODWIT_ASSIGN(const json answer, Call("/v3/lease/grant", {{"TTL", std::to_string(ttl.count())}}));
    return LeaseId{Int(answer, "ID")};
  }

  Result<seconds> KeepAlive(LeaseId lease) override {
    GODWIT_ASSIGN(const json answer, Call("/v3/lease/keepalive", {{"ID", std::to_string(lease.value)}}));
    const std::int64_t ttl = Int(Member(answer, "result"), "TTL");
    if (ttl <= 0) return NotFound("metadata: lease " + std::to_string(lease.value) + " has ended");
    return seconds(ttl);
  }

  Status Revoke(LeaseId lease) override {
    GODWIT_ASSIGN([[maybe_unused]] const json answer, Call("/v3/lease/revoke", {{"ID", std::to_string(lease.value)}}));
    return {};
  }

  Result<std::unique_ptr<Watch>> StartWatch(const Keys& keys, Revision from, WatchCallback callback) override {
    if (from.value < 0) return InvalidArgument("metadata: a watch begins at a revision above 0");
    if (from.value == 0) {
      // Fixed here, so that nothing that is written from now on is missed while the watch connects.
      GODWIT_ASSIGN(const RangeResult now, Range(Keys::One("\x01none"), {}));
      from = now.revision.Next();
    }
    return std::unique_ptr<Watch>(std::make_unique<EtcdWatch>(endpoint_, keys, from, std::move(callback)));
  }

  Status Compact(Revision revision) override {
    GODWIT_ASSIGN([[maybe_unused]] const json answer,
                  Call("/v3/kv/compaction", {{"revision", std::to_string(revision.value)}, {"physical", true}}));
    return {};
  }

  Status Probe() {
    GODWIT_ASSIGN([[maybe_unused]] const json answer, Call("/v3/maintenance/status", json::object()));
    return {};
  }

 private:
  Result<json> Call(const std::string& path, const json& body) {
    Connection connection(endpoint_);
    GODWIT_TRY(connection.Send(path, body));
    return connection.ReadAll();
  }

  static Revision RevisionOf(const json& answer) { return {Int(Member(answer, "header"), "revision")}; }

  static json CompareOf(const Compare& compare) {
    static constexpr const char* kIs[] = {"EQUAL", "NOT_EQUAL", "GREATER", "LESS"};
    json object{{"key", Base64(compare.key)}, {"result", kIs[static_cast<int>(compare.is)]}};
    const std::string number = std::to_string(compare.number);
    switch (compare.target) {
      case Compare::Target::kVersion: object["target"] = "VERSION", object["version"] = number; break;
      case Compare::Target::kCreated: object["target"] = "CREATE", object["create_revision"] = number; break;
      case Compare::Target::kModified: object["target"] = "MOD", object["mod_revision"] = number; break;
      case Compare::Target::kValue: object["target"] = "VALUE", object["value"] = Base64(compare.text); break;
    }
    return object;
  }

  static json OperationsOf(const std::vector<Operation>& operations) {
    json list = json::array();
    for (const Operation& operation : operations) {
      if (const auto* put = std::get_if<Put>(&operation)) {
        list.push_back({{"request_put", {{"key", Base64(put->key)}, {"value", Base64(put->value)},
                                         {"lease", std::to_string(put->lease.value)}}}});
      } else if (const auto* remove = std::get_if<Delete>(&operation)) {
        list.push_back({{"request_delete_range", RangeOf(remove->keys)}});
      } else {
        list.push_back({{"request_range", RangeOf(std::get<Get>(operation).keys)}});
      }
    }
    return list;
  }

  const Endpoint endpoint_;
};

}  // namespace

Result<std::unique_ptr<Metadata>> OpenEtcdMetadata(const std::string& url) {
  constexpr std::string_view kScheme = "http://";
  std::string rest = url.starts_with(kScheme) ? url.substr(kScheme.size()) : "";
  while (!rest.empty() && rest.back() == '/') rest.pop_back();
  const std::size_t colon = rest.rfind(':');
  if (colon == rest.npos || colon == 0 || colon + 1 == rest.size() || rest.find('/') != rest.npos) {
    return InvalidArgument("etcd '" + url + "': must be http://HOST:PORT");
  }
  auto store = std::make_unique<EtcdMetadata>(Endpoint{rest.substr(0, colon), rest.substr(colon + 1)});
  GODWIT_TRY(store->Probe());
  return std::unique_ptr<Metadata>(std::move(store));
}

}  // namespace godwit::store
