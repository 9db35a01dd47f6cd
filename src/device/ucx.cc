#include "device/ucx.h"

#include <arpa/inet.h>
#include <dlfcn.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/auxv.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include <fmt/format.h>
#include <openssl/crypto.h>
#include <openssl/rand.h>
#include <ucp/api/ucp.h>

#include "base/descriptor.h"
#include "device/relax.h"
#include "device/under_way.h"
#include "device/wire.h"

namespace godwit::device {
namespace {

using Clock = std::chrono::steady_clock;

constexpr unsigned kMessageId = 1;         // Of UCX's active messages.
constexpr std::size_t kInvitedMax = 256;

// The header of each active message, one byte.
enum class Kind : std::uint8_t {
  kHello = 1,       // Payload: the invitation's ticket.
  kWelcome = 2,     // Its answer; nothing else is sent before it.
  kRequest = 3,     // Payload: wire.h.
  kCompletion = 4,  // Payload: wire.h.
};

// --- UCX, as far as it is used here

#define GODWIT_UCX(each)                                                                                                            \
  each(ucp_init_version) each(ucp_cleanup) each(ucp_config_read) each(ucp_config_modify) each(ucp_config_release)                   \
  each(ucp_worker_create) each(ucp_worker_destroy) each(ucp_worker_get_efd) each(ucp_worker_arm) each(ucp_worker_signal)            \
  each(ucp_worker_progress) each(ucp_worker_set_am_recv_handler) each(ucp_listener_create) each(ucp_listener_destroy)               \
  each(ucp_listener_query) each(ucp_listener_reject) each(ucp_ep_create) each(ucp_ep_close_nbx) each(ucp_am_send_nbx)               \
  each(ucp_request_free) each(ucp_request_check_status) each(ucs_status_string)

struct Library {
#define GODWIT_UCX_MEMBER(name) decltype(&::name) name = nullptr;
  GODWIT_UCX(GODWIT_UCX_MEMBER)
#undef GODWIT_UCX_MEMBER
};

Result<Library> LoadLibrary() {
  if (getauxval(AT_BASE) == 0) return Unsupported("UCX cannot be loaded into a program that is linked statically: build it without GODWIT_STATIC");
  // Read while it is loaded. It would take SIGSEGV, which guests' traps are; watch all of this process's mappings; try to read other processes' memory,
  // for which the sandbox ends this one; and write to the standard output.
  for (const auto& [name, value] : {std::pair("UCX_HANDLE_ERRORS", "none"), {"UCX_MEM_EVENTS", "n"}, {"UCX_MODULES", "^cma"}, {"UCX_LOG_FILE", "stderr"}, {"UCX_LOG_LEVEL", "fatal"}}) {
    setenv(name, value, 0);
  }
  void* file = dlopen("libucp.so.0", RTLD_NOW | RTLD_LOCAL);
  if (file == nullptr) return Unsupported(fmt::format("UCX cannot be loaded ({}): install it (Debian: libucx0)", dlerror()));
  Library library;
  const char* missing = nullptr;
#define GODWIT_UCX_FIND(name)                                                \
  library.name = reinterpret_cast<decltype(&::name)>(dlsym(file, #name)); \
  if (library.name == nullptr) missing = #name;
  GODWIT_UCX(GODWIT_UCX_FIND)
#undef GODWIT_UCX_FIND
  if (missing != nullptr) return Unsupported(fmt::format("the UCX that is installed has no {}: 1.13 or a later one is needed", missing));
  return library;
}

// Loaded at most once.
const Result<Library>& TheLibrary() {
  static const Result<Library> library = LoadLibrary();
  return library;
}
std::atomic<bool> loaded{false};

struct SocketAddress {
  sockaddr_storage bytes{};
  socklen_t length = 0;
  ucs_sock_addr_t view() const { return {reinterpret_cast<const sockaddr*>(&bytes), length}; }
};

Result<SocketAddress> ParseAddress(const std::string& address, std::uint16_t port) {
  SocketAddress parsed;
  auto& four = reinterpret_cast<sockaddr_in&>(parsed.bytes);
  auto& six = reinterpret_cast<sockaddr_in6&>(parsed.bytes);
  if (inet_pton(AF_INET, address.c_str(), &four.sin_addr) == 1) {
    four.sin_family = AF_INET;
    four.sin_port = htons(port);
    parsed.length = sizeof four;
  } else if (inet_pton(AF_INET6, address.c_str(), &six.sin6_addr) == 1) {
    six.sin6_family = AF_INET6;
    six.sin6_port = htons(port);
    parsed.length = sizeof six;
  } else {
    return InvalidArgument("UCX needs an IP address, not '" + address + "'");
  }
  return parsed;
}

// The network interface with that address; empty: none, as for one that stands for all.
std::string InterfaceOf(const SocketAddress& address) {
  ifaddrs* all = nullptr;
  if (getifaddrs(&all) != 0) return "";
  const auto same = [&](const sockaddr* other) {
    if (other == nullptr || other->sa_family != address.bytes.ss_family) return false;
    if (other->sa_family == AF_INET) {
      return std::memcmp(&reinterpret_cast<const sockaddr_in*>(other)->sin_addr, &reinterpret_cast<const sockaddr_in&>(address.bytes).sin_addr, sizeof(in_addr)) == 0;
    }
    return other->sa_family == AF_INET6 &&
           std::memcmp(&reinterpret_cast<const sockaddr_in6*>(other)->sin6_addr, &reinterpret_cast<const sockaddr_in6&>(address.bytes).sin6_addr, sizeof(in6_addr)) == 0;
  };
  std::string name;
  for (const ifaddrs* one = all; one != nullptr && name.empty(); one = one->ifa_next) {
    if (same(one->ifa_addr)) name = one->ifa_name;
  }
  freeifaddrs(all);
  return name;
}

// Until those of `interfaces` (as UCX_NET_DEVICES names them) that there are run, for UCX passes over others: one that was made a moment ago takes a while. At most kUcxConnectTime.
void AwaitRunning(const std::string& interfaces) {
  const Descriptor any(socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  const auto end = Clock::now() + kUcxConnectTime;
  for (std::size_t begin = 0; begin < interfaces.size();) {
    const std::string name = interfaces.substr(begin, interfaces.find(',', begin) - begin);
    begin += name.size() + 1;
    ifreq request{};
    if (name.empty() || name.size() >= sizeof request.ifr_name) continue;
    std::memcpy(request.ifr_name, name.data(), name.size());
    while (ioctl(any.get(), SIOCGIFFLAGS, &request) == 0 && (request.ifr_flags & IFF_RUNNING) == 0 && Clock::now() < end) std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
}

struct Connection {
  ucp_ep_h endpoint = nullptr;
  bool serves = false;     // This end has the device.
  bool admitted = false;   // Its ticket was good.
  bool lost = false;
  std::string why;         // Lost.
  Clock::time_point begun = Clock::now();
  std::size_t unsent_bytes = 0;
  UnderWay under_way;  // Of the end that asks. Told without the node's mutex.
};
using ConnectionPointer = std::shared_ptr<Connection>;

// UCX's worker and all connections, guarded by one mutex; a thread drives it.
class Node : public std::enable_shared_from_this<Node> {
 public:
  Node(const Library& library, Device* served, bool owner) : ucx_(library), served_(served), owner_(owner) {}
  ~Node() { End(); }

  Status Start(const std::string& address);
  void End();
  Result<UcxInvitation> Invite();
  Result<ConnectionPointer> Connect(const UcxInvitation& invitation);
  void Close(const ConnectionPointer& connection);
  void Ask(const ConnectionPointer& connection, Request request, Device::Done done);

 private:
  // Of all but the thread that drives.
  class Lock {
   public:
    explicit Lock(Node& node) : node_(node) {
      node_.wanted_.fetch_add(1);
      node_.mutex_.lock();
      node_.wanted_.fetch_sub(1);
    }
    ~Lock() { node_.mutex_.unlock(); }
    Lock(const Lock&) = delete;
    Lock& operator=(const Lock&) = delete;

   private:
    Node& node_;
  };
  struct Sending {
    ConnectionPointer connection;
    Kind kind;
    Bytes payload;
    const Library* ucx;
  };

  Error Failure(const char* what, ucs_status_t status) const { return Unavailable(fmt::format("UCX: {}: {}", what, ucx_.ucs_status_string(status))); }
  void Main();
  // Takes what has come, and hands it on. False: nothing had.
  bool Drive();
  // All with mutex_ held.
  Result<ConnectionPointer> Make(ucp_ep_params_t parameters, bool serves);
  Status Send(const ConnectionPointer& connection, Kind kind, Bytes payload);
  void Lose(Connection& connection, const std::string& why);
  void CloseLost();
  void Wake() {
    if (asleep_) ucx_.ucp_worker_signal(worker_);
  }
  // Not with mutex_ held.
  void Answer(const ConnectionPointer& connection, Completion completion);
  static void HandOn(std::vector<std::function<void()>> work) {
    for (const auto& one : work) one();
  }
  // UCX's callbacks, with mutex_ held.
  static void OnConnection(ucp_conn_request_h request, void* self);
  static void OnError(void* self, ucp_ep_h endpoint, ucs_status_t status);
  static void OnSent(void* request, ucs_status_t status, void* sending);
  static ucs_status_t OnMessage(void* self, const void* header, std::size_t header_bytes, void* data, std::size_t bytes, const ucp_am_recv_param_t* parameters);
  void Take(const ConnectionPointer& connection, Kind kind, ByteView payload);

  const Library& ucx_;
  Device* const served_;
  const bool owner_;
  std::string address_;
  std::uint16_t port_ = 0;
  std::mutex mutex_;
  std::atomic<int> wanted_{0};
  std::atomic<bool> ending_{false};
  std::condition_variable admitted_;
  ucp_context_h context_ = nullptr;
  ucp_worker_h worker_ = nullptr;
  ucp_listener_h listener_ = nullptr;
  int events_ = -1;  // The worker's.
  bool asleep_ = false;
  std::map<ucp_ep_h, ConnectionPointer> connections_;
  std::vector<ConnectionPointer> lost_;  // Their endpoints are not closed yet.
  std::vector<std::pair<std::array<std::uint8_t, 16>, Clock::time_point>> invited_;
  std::vector<std::function<void()>> work_;  // To be done without the mutex.
  std::thread thread_;
};

Status Node::Start(const std::string& address) {
  GODWIT_ASSIGN(const SocketAddress at, ParseAddress(address, 0));
  address_ = address;
  const std::string interface = InterfaceOf(at);
  if (!interface.empty() && access(("/sys/class/net/" + interface).c_str(), F_OK) != 0) {
    return Unavailable("UCX looks for network interfaces in /sys/class/net, where '" + interface + "' is not: /sys is not of this network namespace");
  }
  ucp_config_t* config = nullptr;
  ucs_status_t status = ucx_.ucp_config_read(nullptr, nullptr, &config);
  if (status != UCS_OK) return Failure("its configuration", status);
  const char* const chosen = std::getenv("UCX_NET_DEVICES");
  AwaitRunning(chosen != nullptr ? chosen : interface);
  if (chosen == nullptr && !interface.empty()) ucx_.ucp_config_modify(config, "NET_DEVICES", interface.c_str());
  if (std::getenv("UCX_TLS") == nullptr) ucx_.ucp_config_modify(config, "TLS", "^sm");
  // The interface by which a peer came leads to it; another may not.
  if (std::getenv("UCX_CM_USE_ALL_DEVICES") == nullptr) ucx_.ucp_config_modify(config, "CM_USE_ALL_DEVICES", "n");
  ucp_params_t parameters{};
  parameters.field_mask = UCP_PARAM_FIELD_FEATURES | UCP_PARAM_FIELD_NAME;
  parameters.features = UCP_FEATURE_AM | UCP_FEATURE_WAKEUP;
  parameters.name = "godwit";
  status = ucx_.ucp_init_version(UCP_API_MAJOR, UCP_API_MINOR, &parameters, config, &context_);
  ucx_.ucp_config_release(config);
  if (status != UCS_OK) return Failure("no transport could be opened", status);
  ucp_worker_params_t worker{};
  worker.field_mask = UCP_WORKER_PARAM_FIELD_THREAD_MODE;
  worker.thread_mode = UCS_THREAD_MODE_SERIALIZED;
  if (status = ucx_.ucp_worker_create(context_, &worker, &worker_); status != UCS_OK) return Failure("making a worker", status);
  if (status = ucx_.ucp_worker_get_efd(worker_, &events_); status != UCS_OK) return Failure("its events", status);
  ucp_am_handler_param_t handler{};
  handler.field_mask = UCP_AM_HANDLER_PARAM_FIELD_ID | UCP_AM_HANDLER_PARAM_FIELD_FLAGS | UCP_AM_HANDLER_PARAM_FIELD_CB | UCP_AM_HANDLER_PARAM_FIELD_ARG;
  handler.id = kMessageId;
  handler.flags = UCP_AM_FLAG_WHOLE_MSG;
  handler.cb = OnMessage;
  handler.arg = this;
  if (status = ucx_.ucp_worker_set_am_recv_handler(worker_, &handler); status != UCS_OK) return Failure("receiving messages", status);
  if (served_ != nullptr) {
    ucp_listener_params_t listener{};
    listener.field_mask = UCP_LISTENER_PARAM_FIELD_SOCK_ADDR | UCP_LISTENER_PARAM_FIELD_CONN_HANDLER;
    listener.sockaddr = at.view();
    listener.conn_handler = {OnConnection, this};
    if (status = ucx_.ucp_listener_create(worker_, &listener, &listener_); status != UCS_OK) return Failure(("listening at " + address).c_str(), status);
    ucp_listener_attr_t listening{};
    listening.field_mask = UCP_LISTENER_ATTR_FIELD_SOCKADDR;
    if (status = ucx_.ucp_listener_query(listener_, &listening); status != UCS_OK) return Failure("its port", status);
    port_ = ntohs(listening.sockaddr.ss_family == AF_INET ? reinterpret_cast<sockaddr_in&>(listening.sockaddr).sin_port
                                                          : reinterpret_cast<sockaddr_in6&>(listening.sockaddr).sin6_port);
  }
  thread_ = std::thread([this] { Main(); });
  return {};
}

void Node::End() {
  ending_.store(true);
  if (thread_.joinable()) {
    {
      const Lock lock(*this);
      ucx_.ucp_worker_signal(worker_);
    }
    thread_.join();
  }
  std::vector<std::function<void()>> work;
  {
    const Lock lock(*this);
    if (listener_ != nullptr) ucx_.ucp_listener_destroy(std::exchange(listener_, nullptr));
    for (const auto& [endpoint, connection] : connections_) Lose(*connection, "it was ended here");
    CloseLost();
    if (worker_ != nullptr) ucx_.ucp_worker_destroy(std::exchange(worker_, nullptr));
    if (context_ != nullptr) ucx_.ucp_cleanup(std::exchange(context_, nullptr));
    work.swap(work_);
    admitted_.notify_all();
  }
  HandOn(std::move(work));
}

void Node::Main() {
  auto last = Clock::now();
  while (!ending_.load()) {
    if (Drive()) {
      last = Clock::now();
      continue;
    }
    if (Clock::now() - last < kSpin) {
      Relax();
      continue;
    }
    {
      const Lock lock(*this);
      for (const auto& [endpoint, connection] : connections_) {
        if (connection->serves && !connection->admitted && Clock::now() - connection->begun > kUcxInvitationTime) Lose(*connection, "it showed no ticket");
      }
      CloseLost();
      if (!work_.empty() || ucx_.ucp_worker_arm(worker_) != UCS_OK) continue;  // Something has come.
      asleep_ = true;
    }
    pollfd fd{events_, POLLIN, 0};
    poll(&fd, 1, 1000);
    const Lock lock(*this);
    asleep_ = false;
  }
}

bool Node::Drive() {
  std::vector<std::function<void()>> work;
  {
    if (wanted_.load() > 0) return false;  // Others go first, who would wait for a mutex that is taken again and again.
    const std::lock_guard lock(mutex_);
    bool more = false;
    for (int i = 0; i < 16 && ucx_.ucp_worker_progress(worker_) != 0; ++i) more = true;
    CloseLost();
    if (work_.empty()) return more;
    work.swap(work_);
  }
  HandOn(std::move(work));
  return true;
}

Result<ConnectionPointer> Node::Make(ucp_ep_params_t parameters, bool serves) {
  parameters.field_mask |= UCP_EP_PARAM_FIELD_ERR_HANDLING_MODE | UCP_EP_PARAM_FIELD_ERR_HANDLER;
  parameters.err_mode = UCP_ERR_HANDLING_MODE_PEER;
  parameters.err_handler = {OnError, this};
  auto connection = std::make_shared<Connection>();
  connection->serves = serves;
  const ucs_status_t status = ucx_.ucp_ep_create(worker_, &parameters, &connection->endpoint);
  if (status != UCS_OK) return Failure("connecting", status);
  connections_[connection->endpoint] = connection;
  return connection;
}

Status Node::Send(const ConnectionPointer& connection, Kind kind, Bytes payload) {
  if (connection->lost) return Unavailable("the connection by UCX was lost: " + connection->why);
  if (connection->unsent_bytes > kUcxUnsentBytesMax) return ResourceExhausted("the device does not take what is sent by UCX: take completions first");
  auto sending = std::make_unique<Sending>(Sending{connection, kind, std::move(payload), &ucx_});
  ucp_request_param_t parameters{};
  parameters.op_attr_mask = UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA | UCP_OP_ATTR_FIELD_FLAGS;
  parameters.flags = UCP_AM_SEND_FLAG_REPLY | UCP_AM_SEND_FLAG_EAGER;
  parameters.cb.send = OnSent;
  parameters.user_data = sending.get();
  void* const request = ucx_.ucp_am_send_nbx(connection->endpoint, kMessageId, &sending->kind, 1, sending->payload.data(), sending->payload.size(), &parameters);
  if (request == nullptr) return {};
  if (UCS_PTR_IS_ERR(request)) {
    Lose(*connection, ucx_.ucs_status_string(UCS_PTR_STATUS(request)));
    return Unavailable("the connection by UCX was lost: " + connection->why);
  }
  connection->unsent_bytes += sending.release()->payload.size();
  Wake();
  return {};
}

void Node::OnSent(void* request, ucs_status_t, void* sending) {
  const std::unique_ptr<Sending> sent(static_cast<Sending*>(sending));
  sent->connection->unsent_bytes -= sent->payload.size();
  sent->ucx->ucp_request_free(request);
}

void Node::Lose(Connection& connection, const std::string& why) {
  if (std::exchange(connection.lost, true)) return;
  connection.why = why;
  lost_.push_back(connections_.at(connection.endpoint));
  work_.push_back([lost = lost_.back()] { lost->under_way.FailAll(Unavailable("the connection by UCX was lost: " + lost->why)); });
  admitted_.notify_all();
  Wake();
}

// Not in a callback of UCX.
void Node::CloseLost() {
  while (!lost_.empty()) {
    const ConnectionPointer connection = lost_.back();
    lost_.pop_back();
    connections_.erase(connection->endpoint);
    ucp_request_param_t parameters{};
    parameters.op_attr_mask = UCP_OP_ATTR_FIELD_FLAGS;
    parameters.flags = UCP_EP_CLOSE_FLAG_FORCE;
    void* const closing = ucx_.ucp_ep_close_nbx(connection->endpoint, &parameters);
    if (!UCS_PTR_IS_PTR(closing)) continue;
    // What was under way ends with it, which takes no answer of the peer.
    while (ucx_.ucp_request_check_status(closing) == UCS_INPROGRESS) ucx_.ucp_worker_progress(worker_);
    ucx_.ucp_request_free(closing);
  }
}

void Node::OnConnection(ucp_conn_request_h request, void* self) {
  Node& node = *static_cast<Node*>(self);
  const auto served = std::count_if(node.connections_.begin(), node.connections_.end(), [](const auto& one) { return one.second->serves; });
  if (static_cast<std::size_t>(served) >= kUcxConnectionsMax || node.ending_.load()) {
    node.ucx_.ucp_listener_reject(node.listener_, request);
    return;
  }
  ucp_ep_params_t parameters{};
  parameters.field_mask = UCP_EP_PARAM_FIELD_CONN_REQUEST;
  parameters.conn_request = request;
  static_cast<void>(node.Make(parameters, true).ok());  // The peer sees that it is closed.
}

void Node::OnError(void* self, ucp_ep_h endpoint, ucs_status_t status) {
  Node& node = *static_cast<Node*>(self);
  const auto found = node.connections_.find(endpoint);
  if (found != node.connections_.end()) node.Lose(*found->second, node.ucx_.ucs_status_string(status));
}

ucs_status_t Node::OnMessage(void* self, const void* header, std::size_t header_bytes, void* data, std::size_t bytes, const ucp_am_recv_param_t* parameters) {
  Node& node = *static_cast<Node*>(self);
  const auto found = (parameters->recv_attr & UCP_AM_RECV_ATTR_FIELD_REPLY_EP) != 0 ? node.connections_.find(parameters->reply_ep) : node.connections_.end();
  if (found == node.connections_.end() || found->second->lost) return UCS_OK;
  const ConnectionPointer connection = found->second;
  if (header_bytes != 1 || bytes > kMessageBytesMax || (parameters->recv_attr & UCP_AM_RECV_ATTR_FLAG_RNDV) != 0) {
    node.Lose(*connection, "its end sent what is no message");
    return UCS_OK;
  }
  node.Take(connection, *static_cast<const Kind*>(header), {static_cast<const std::uint8_t*>(data), bytes});
  return UCS_OK;
}

void Node::Take(const ConnectionPointer& connection, Kind kind, ByteView payload) {
  if (connection->serves && !connection->admitted && kind == Kind::kHello) {
    std::erase_if(invited_, [](const auto& one) { return Clock::now() - one.second > kUcxInvitationTime; });
    const auto ticket = std::find_if(invited_.begin(), invited_.end(), [&](const auto& one) {
      return payload.size() == one.first.size() && CRYPTO_memcmp(payload.data(), one.first.data(), payload.size()) == 0;
    });
    if (ticket == invited_.end()) return Lose(*connection, "its ticket is none of this device");
    invited_.erase(ticket);
    connection->admitted = true;
    return static_cast<void>(Send(connection, Kind::kWelcome, {}).ok());
  }
  if (!connection->serves && !connection->admitted && kind == Kind::kWelcome) {
    connection->admitted = true;
    return admitted_.notify_all();
  }
  if (connection->serves && connection->admitted && kind == Kind::kRequest) {
    auto request = DecodeRequest(payload);
    if (!request.ok()) return Lose(*connection, "its end sent what is no request");
    const std::uint64_t id = request->id;
    if (!owner_ && request->tenant.empty()) {
      return work_.push_back([self = shared_from_this(), connection, id] {
        self->Answer(connection, Failed(id, PermissionDenied("a request of a remote device needs a tenant")));
      });
    }
    return work_.push_back([self = shared_from_this(), connection, id, request = std::make_shared<Request>(std::move(request).value())] {
      self->served_->Submit(std::move(*request), [self, connection, id](Completion completion) {
        completion.id = id;
        self->Answer(connection, std::move(completion));
      });
    });
  }
  if (!connection->serves && connection->admitted && kind == Kind::kCompletion) {
    auto completion = DecodeCompletion(payload);
    if (!completion.ok()) return Lose(*connection, "its end sent what is no completion");
    return work_.push_back([connection, completion = std::make_shared<Completion>(std::move(completion).value())] { connection->under_way.Finish(std::move(*completion)); });
  }
  Lose(*connection, "its end sent a message out of turn");
}

void Node::Answer(const ConnectionPointer& connection, Completion completion) {
  auto encoded = Encode(completion);
  if (!encoded.ok()) encoded = Encode(Failed(completion.id, encoded.error()));
  const Lock lock(*this);
  if (worker_ == nullptr) return;
  const Status sent = Send(connection, Kind::kCompletion, std::move(encoded).value());
  if (!sent.ok()) Lose(*connection, "its end does not take completions");
}

Result<UcxInvitation> Node::Invite() {
  UcxInvitation invitation{address_, port_, {}};
  if (RAND_bytes(invitation.ticket.data(), static_cast<int>(invitation.ticket.size())) != 1) return Internal("no random bytes");
  const Lock lock(*this);
  std::erase_if(invited_, [](const auto& one) { return Clock::now() - one.second > kUcxInvitationTime; });
  if (invited_.size() >= kInvitedMax) return ResourceExhausted("too many were invited to UCX within seconds and did not come");
  invited_.emplace_back(invitation.ticket, Clock::now());
  return invitation;
}

Result<ConnectionPointer> Node::Connect(const UcxInvitation& invitation) {
  GODWIT_ASSIGN(const SocketAddress to, ParseAddress(invitation.address, invitation.port));
  std::unique_lock lock(mutex_);
  if (worker_ == nullptr) return Unavailable("UCX was ended here");
  ucp_ep_params_t parameters{};
  parameters.field_mask = UCP_EP_PARAM_FIELD_FLAGS | UCP_EP_PARAM_FIELD_SOCK_ADDR;
  parameters.flags = UCP_EP_PARAMS_FLAGS_CLIENT_SERVER;
  parameters.sockaddr = to.view();
  GODWIT_ASSIGN(const ConnectionPointer connection, Make(parameters, false));
  GODWIT_TRY(Send(connection, Kind::kHello, Bytes(invitation.ticket.begin(), invitation.ticket.end())));
  if (!admitted_.wait_for(lock, kUcxConnectTime, [&] { return connection->admitted || connection->lost; })) Lose(*connection, "no answer in time");
  if (connection->lost) return Unavailable(fmt::format("UCX to {} port {}: {}", invitation.address, invitation.port, connection->why));
  return connection;
}

void Node::Close(const ConnectionPointer& connection) {
  const Lock lock(*this);
  if (worker_ != nullptr) Lose(*connection, "it was ended here");
}

void Node::Ask(const ConnectionPointer& connection, Request request, Device::Done done) {
  if (!connection->under_way.Begin(request, std::move(done))) return;
  auto message = Encode(request);
  Status sent;
  if (message.ok()) {
    const Lock lock(*this);
    sent = Send(connection, Kind::kRequest, std::move(message).value());
  } else {
    sent = message.error();
  }
  if (!sent.ok()) connection->under_way.Finish(Failed(request.id, sent.error()));
}

class UcxDevice final : public Device {
 public:
  UcxDevice(std::shared_ptr<Node> node, ConnectionPointer connection) : node_(std::move(node)), connection_(std::move(connection)) {}
  ~UcxDevice() override { node_->Close(connection_); }
  void Submit(Request request, Done done) override { node_->Ask(connection_, std::move(request), std::move(done)); }

 private:
  const std::shared_ptr<Node> node_;
  const ConnectionPointer connection_;
};

class UcxHere final : public Ucx {
 public:
  explicit UcxHere(std::shared_ptr<Node> node) : node_(std::move(node)) {}
  ~UcxHere() override { node_->End(); }
  Result<UcxInvitation> Invite() override { return node_->Invite(); }
  Result<std::unique_ptr<Device>> Connect(const UcxInvitation& invitation) override {
    GODWIT_ASSIGN(ConnectionPointer connection, node_->Connect(invitation));
    return std::unique_ptr<Device>(std::make_unique<UcxDevice>(node_, std::move(connection)));
  }

 private:
  const std::shared_ptr<Node> node_;
};

}  // namespace

Status Ucx::Load() {
  if (!TheLibrary().ok()) return TheLibrary().error();
  loaded.store(true);
  return {};
}

Result<std::unique_ptr<Ucx>> Ucx::Start(const std::string& address, Device* served, bool owner) {
  if (!loaded.load()) return FailedPrecondition("UCX was not loaded");
  auto node = std::make_shared<Node>(*TheLibrary(), served, owner);
  GODWIT_TRY(node->Start(address));
  return std::unique_ptr<Ucx>(std::make_unique<UcxHere>(std::move(node)));
}

}  // namespace godwit::device
