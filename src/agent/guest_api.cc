#include "agent/guest_api.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <condition_variable>
#include <cstring>
#include <utility>

#include <fmt/format.h>

#include "agent/guest_call.h"
#include "agent/header.h"

namespace godwit::agent {
namespace {

using Clock = std::chrono::steady_clock;

// --- The request ---

enum class Part { kMethod, kPath, kQuery, kRoute };

template <Part part>
std::int32_t RequestPart(Context* context, std::uint8_t*, std::uint32_t handle, std::uint32_t to, std::uint32_t capacity) {
  Caller caller(context);
  caller.Range(to, capacity);
  const std::lock_guard lock(caller.requests.mutex());
  Exchange* exchange = caller.Find(handle);
  if (exchange == nullptr) return Negative(ErrorCode::kNotFound);
  const std::string_view target = exchange->request.target;
  const std::size_t question = std::min(target.find('?'), target.size());
  std::string_view text;
  switch (part) {
    case Part::kMethod: text = exchange->request.method; break;
    case Part::kPath: text = target.substr(0, question); break;
    case Part::kQuery: text = target.substr(std::min(question + 1, target.size())); break;
    case Part::kRoute: text = exchange->request.route; break;
  }
  return caller.Copy(text, to, capacity);
}

std::int32_t RequestHeader(Context* context, std::uint8_t*, std::uint32_t handle, std::uint32_t name,
                           std::uint32_t name_bytes, std::uint32_t to, std::uint32_t capacity) {
  Caller caller(context);
  const std::string_view wanted = caller.Text(name, name_bytes);
  caller.Range(to, capacity);
  const std::lock_guard lock(caller.requests.mutex());
  Exchange* exchange = caller.Find(handle);
  if (exchange == nullptr) return Negative(ErrorCode::kNotFound);
  const std::string* value = FindHeader(exchange->request.headers, wanted);
  return value != nullptr ? caller.Copy(*value, to, capacity) : Negative(ErrorCode::kNotFound);
}

std::int32_t BodyRead(Context* context, std::uint8_t*, std::uint32_t handle, std::uint32_t to, std::uint32_t capacity) {
  Caller caller(context);
  for (;;) {
    std::uint8_t* range = caller.Range(to, std::min<std::uint32_t>(capacity, 1u << 30));
    {
      const std::lock_guard lock(caller.requests.mutex());
      Exchange* exchange = caller.Find(handle);
      if (exchange == nullptr) return Negative(ErrorCode::kNotFound);
      const std::size_t taken = exchange->ReadBody(range, capacity);
      if (taken > 0 || exchange->body_ended || capacity == 0) return static_cast<std::int32_t>(taken);
    }
    if (caller.instance.Block({}) == Instance::Wait::kInterrupted) {
      caller.instance.Restart();
      return 0;
    }
  }
}

// --- The response ---

std::int32_t ResponseStatus(Context* context, std::uint8_t*, std::uint32_t handle, std::uint32_t status) {
  Caller caller(context);
  const std::lock_guard lock(caller.requests.mutex());
  Exchange* exchange = caller.Find(handle);
  if (exchange == nullptr) return Negative(ErrorCode::kNotFound);
  if ((status < 200 || status > 599) && !(status == 101 && IsWebSocket(exchange->request))) return Negative(ErrorCode::kInvalidArgument);
  if (exchange->head_committed) return Negative(ErrorCode::kFailedPrecondition);
  exchange->status = static_cast<std::uint16_t>(status);
  return 0;
}

bool ValidHeader(std::string_view name, std::string_view value) {
  const auto bad_in_name = [](unsigned char c) { return c <= 32 || c == ':' || c >= 127; };
  const auto bad_in_value = [](unsigned char c) { return (c < 32 && c != '\t') || c == 127; };
  return !name.empty() && name.size() <= 256 && value.size() <= 8192 &&
         std::none_of(name.begin(), name.end(), bad_in_name) && std::none_of(value.begin(), value.end(), bad_in_value);
}

std::int32_t ResponseHeader(Context* context, std::uint8_t*, std::uint32_t handle, std::uint32_t name,
                            std::uint32_t name_bytes, std::uint32_t value, std::uint32_t value_bytes) {
  Caller caller(context);
  const std::string_view name_text = caller.Text(name, name_bytes), value_text = caller.Text(value, value_bytes);
  if (!ValidHeader(name_text, value_text)) return Negative(ErrorCode::kInvalidArgument);
  const std::lock_guard lock(caller.requests.mutex());
  Exchange* exchange = caller.Find(handle);
  if (exchange == nullptr) return Negative(ErrorCode::kNotFound);
  if (exchange->head_committed) return Negative(ErrorCode::kFailedPrecondition);
  if (exchange->headers.size() >= kResponseHeadersMax) return Negative(ErrorCode::kResourceExhausted);
  exchange->headers.push_back({std::string(name_text), std::string(value_text)});
  return 0;
}

// Small pieces are gathered, unless the first of them has waited for longer than a person would call at once.
constexpr std::size_t kGatherBytes = 32 << 10;
constexpr std::chrono::milliseconds kGatherTime{5};

std::int32_t ResponseWrite(Context* context, std::uint8_t*, std::uint32_t handle, std::uint32_t from, std::uint32_t bytes) {
  Caller caller(context);
  bytes = std::min<std::uint32_t>(bytes, 1u << 30);
  for (;;) {
    const std::string_view text = caller.Text(from, bytes);
    {
      const std::lock_guard lock(caller.requests.mutex());
      Exchange* exchange = caller.Find(handle);
      if (exchange == nullptr) return Negative(ErrorCode::kNotFound);
      const std::size_t taken = exchange->Write(text);
      if (exchange->out_end() - exchange->out_sent >= kGatherBytes || Clock::now() - exchange->gathering > kGatherTime) {
        exchange->Flush();
      }
      if (taken > 0 || bytes == 0) return static_cast<std::int32_t>(taken);
    }
    if (caller.instance.Block({}) == Instance::Wait::kInterrupted) {
      caller.instance.Restart();
      return 0;
    }
  }
}

// --- Calls ---

bool SafeToRepeat(std::string_view method) { return method == "GET" || method == "HEAD" || method == "OPTIONS"; }

// Fills in what to call; the error says why it may not be.
Status PrepareCall(GuestRequests& requests, const Exchange& exchange, std::string_view service, std::string_view method,
                   std::string_view target, std::string_view headers, std::string_view body, OutgoingCall* call) {
  call->service = model::ServiceName(std::string(service));
  if (const auto outside = OutsideHost(service)) {
    GODWIT_TRY(CheckReach(requests, *outside));
  } else if (!requests.manifest().MayCall(call->service)) {
    return PermissionDenied(fmt::format("service '{}' may not call '{}': add it to [calls] allow in its manifest",
                                        requests.asker().service.value, service));
  }
  if (method.empty() || method.size() > 32 || target.empty() || target.front() != '/' || target.size() > 8192) {
    return InvalidArgument("a call needs a method and a path that begins with '/'");
  }
  if (body.size() > kCallBodyBytesMax) return ResourceExhausted("the body of a call is limited to 16 MiB");
  call->asker = requests.asker();
  call->method = method;
  call->target = target;
  call->body.assign(body.begin(), body.end());
  call->deadline = exchange.request.deadline;
  if (const std::string* trace = FindHeader(exchange.request.headers, "traceparent")) {
    call->headers.push_back({"traceparent", *trace});
  }
  while (!headers.empty()) {
    const std::size_t end = std::min(headers.find('\n'), headers.size());
    std::string_view line = headers.substr(0, end);
    headers.remove_prefix(std::min(end + 1, headers.size()));
    if (!line.empty() && line.back() == '\r') line.remove_suffix(1);
    if (line.empty()) continue;
    const std::size_t colon = line.find(':');
    if (colon == std::string_view::npos) return InvalidArgument("a call's headers are lines of 'Name: value'");
    std::string_view value = line.substr(colon + 1);
    while (!value.empty() && value.front() == ' ') value.remove_prefix(1);
    if (!ValidHeader(line.substr(0, colon), value) || call->headers.size() >= kResponseHeadersMax) {
      return InvalidArgument("a call's header is malformed, or there are too many");
    }
    call->headers.push_back({std::string(line.substr(0, colon)), std::string(value)});
  }
  return {};
}

// Begins the call unless an interrupted one is under way already. 0, or a negative error. No destructor of this
// function's is pending when the guest's stack is abandoned: nothing here blocks.
std::int32_t BeginCall(Caller& caller, std::uint32_t handle, std::string_view service, std::string_view method,
                       std::string_view target, std::string_view headers, std::string_view body) {
  std::shared_ptr<Waiting<CallAnswer>> waiting;
  OutgoingCall call;
  {
    const std::lock_guard lock(caller.requests.mutex());
    Exchange* exchange = caller.Find(handle);
    if (exchange == nullptr) return Negative(ErrorCode::kNotFound);
    if (exchange->call || exchange->finished_call != 0) return 0;
    if (exchange->answers.size() >= kCallsOpenMax) return Negative(ErrorCode::kResourceExhausted);
    const Status status = PrepareCall(caller.requests, *exchange, service, method, target, headers, body, &call);
    if (!status.ok()) {
      caller.requests.environment().Log(caller.requests.asker(), LogLevel::kWarning, status.error().message);
      return Negative(status.error().code);
    }
    waiting = MakeWaiting<CallAnswer>(caller.requests.Share(exchange));
    exchange->call = waiting;
  }
  auto pending = caller.requests.environment().Call(std::move(call), Answering(waiting));
  const std::lock_guard lock(waiting->mutex);
  waiting->pending = std::move(pending);
  return 0;
}

// Takes the finished call's answer into the request's table. Its handle, or a negative error.
std::int32_t EndCall(Caller& caller, Exchange* exchange) {
  const std::shared_ptr<Waiting<CallAnswer>> waiting = std::move(exchange->call);
  exchange->call = nullptr;
  const std::lock_guard result_lock(waiting->mutex);
  if (!waiting->result->ok()) {
    caller.requests.environment().Log(caller.requests.asker(), LogLevel::kWarning,
                                      "call failed: " + waiting->result->error().message);
    return Negative(waiting->result->error().code);
  }
  std::uint32_t answer = 1;
  while (exchange->answers.count(answer) != 0) ++answer;
  exchange->answers.emplace(answer, std::pair(std::move(**waiting->result), std::size_t{0}));
  return static_cast<std::int32_t>(answer);
}

void GiveUpCall(Waiting<CallAnswer>* waiting) {
  std::shared_ptr<Pending> pending;
  {
    const std::lock_guard lock(waiting->mutex);
    pending = waiting->pending;
    waiting->exchange = nullptr;
  }
  if (pending) pending->Cancel();
}

// Polls: the answer may come on any thread and nothing else of this instance may run meanwhile.
void WaitForAnswer(Waiting<CallAnswer>* waiting) {
  for (;;) {
    {
      const std::lock_guard lock(waiting->mutex);
      if (waiting->result) return;
    }
    timespec pause{0, 500'000};
    nanosleep(&pause, nullptr);
  }
}

std::int32_t Call(Context* context, std::uint8_t*, std::uint32_t handle, std::uint32_t service, std::uint32_t service_bytes,
                  std::uint32_t method, std::uint32_t method_bytes, std::uint32_t target, std::uint32_t target_bytes,
                  std::uint32_t headers, std::uint32_t headers_bytes, std::uint32_t body, std::uint32_t body_bytes) {
  Caller caller(context);
  const std::string_view method_text = caller.Text(method, method_bytes);
  const std::int32_t begun =
      BeginCall(caller, handle, caller.Text(service, service_bytes), method_text, caller.Text(target, target_bytes),
                caller.Text(headers, headers_bytes), caller.Text(body, body_bytes));
  if (begun < 0) return begun;
  Waiting<CallAnswer>* waiting = nullptr;
  {
    const std::lock_guard lock(caller.requests.mutex());
    Exchange* exchange = caller.Find(handle);
    if (exchange == nullptr) return Negative(ErrorCode::kNotFound);
    if (exchange->finished_call != 0) return std::exchange(exchange->finished_call, 0);
    waiting = exchange->call.get();  // Stays: only this task resets it.
  }
  if (waiting == nullptr) return Negative(ErrorCode::kInternal);
  const Awaited awaited = Await(caller, handle, waiting);
  const bool again = awaited == Awaited::kInterrupted && SafeToRepeat(method_text);
  if (again || awaited == Awaited::kGone) GiveUpCall(waiting);
  // Its effect would be unknown: its answer must come first.
  if (awaited == Awaited::kInterrupted && !again) WaitForAnswer(waiting);
  const std::lock_guard lock(caller.requests.mutex());
  Exchange* exchange = caller.Find(handle);
  if (awaited == Awaited::kInterrupted) {
    if (again && exchange != nullptr) exchange->call = nullptr;
    if (!again && exchange != nullptr) exchange->finished_call = EndCall(caller, exchange);
    caller.instance.Restart();
    return 0;
  }
  return exchange != nullptr ? EndCall(caller, exchange) : Negative(ErrorCode::kNotFound);
}

// Runs `use` on the answer; kNotFound if the guest has no such answer.
template <typename F>
std::int32_t WithAnswer(Caller& caller, std::uint32_t handle, std::uint32_t answer, F use) {
  const std::lock_guard lock(caller.requests.mutex());
  Exchange* exchange = caller.Find(handle);
  if (exchange == nullptr) return Negative(ErrorCode::kNotFound);
  const auto found = exchange->answers.find(answer);
  return found != exchange->answers.end() ? use(exchange, found) : Negative(ErrorCode::kNotFound);
}

std::int32_t CallStatus(Context* context, std::uint8_t*, std::uint32_t handle, std::uint32_t answer) {
  Caller caller(context);
  return WithAnswer(caller, handle, answer, [](Exchange*, auto found) { return std::int32_t{found->second.first.status}; });
}

std::int32_t CallHeader(Context* context, std::uint8_t*, std::uint32_t handle, std::uint32_t answer, std::uint32_t name,
                        std::uint32_t name_bytes, std::uint32_t to, std::uint32_t capacity) {
  Caller caller(context);
  const std::string_view wanted = caller.Text(name, name_bytes);
  caller.Range(to, capacity);
  return WithAnswer(caller, handle, answer, [&](Exchange*, auto found) {
    const std::string* value = FindHeader(found->second.first.headers, wanted);
    return value != nullptr ? caller.Copy(*value, to, capacity) : Negative(ErrorCode::kNotFound);
  });
}

std::int32_t CallRead(Context* context, std::uint8_t*, std::uint32_t handle, std::uint32_t answer, std::uint32_t to,
                      std::uint32_t capacity) {
  Caller caller(context);
  std::uint8_t* range = caller.Range(to, capacity);
  return WithAnswer(caller, handle, answer, [&](Exchange*, auto found) {
    auto& [content, read] = found->second;
    const std::size_t taken = std::min<std::size_t>(capacity, content.body.size() - read);
    if (taken > 0) std::memcpy(range, content.body.data() + read, taken);
    read += taken;
    return static_cast<std::int32_t>(taken);
  });
}

std::int32_t CallClose(Context* context, std::uint8_t*, std::uint32_t handle, std::uint32_t answer) {
  Caller caller(context);
  return WithAnswer(caller, handle, answer, [](Exchange* exchange, auto found) {
    exchange->answers.erase(found);
    return std::int32_t{0};
  });
}

// --- Data ---

std::int64_t DatasetSize(Context* context, std::uint8_t*, std::uint32_t handle, std::uint32_t name, std::uint32_t name_bytes) {
  Caller caller(context);
  Waiting<std::uint64_t>* waiting = nullptr;
  std::int32_t error = 0;
  {
    const model::DatasetName dataset{std::string(caller.Text(name, name_bytes))};
    waiting = BeginQuestion(caller, handle, CheckRead(caller.requests, dataset), &Exchange::size, &error, [&](const auto& to) {
      caller.requests.environment().DataSize(caller.requests.asker(), dataset, Answering(to));
    });
  }
  if (waiting == nullptr) return error;
  const Awaited awaited = Await(caller, handle, waiting);
  if (awaited != Awaited::kReady) return GiveUpQuestion(caller, handle, &Exchange::size, awaited);
  const std::int64_t size = waiting->result->ok() ? static_cast<std::int64_t>(**waiting->result)
                                                  : Negative(waiting->result->error().code);
  EndQuestion(caller, handle, &Exchange::size);
  return size;
}

std::int32_t DatasetRead(Context* context, std::uint8_t*, std::uint32_t handle, std::uint32_t name, std::uint32_t name_bytes,
                         std::uint64_t offset, std::uint32_t to, std::uint32_t capacity) {
  Caller caller(context);
  capacity = std::min<std::uint32_t>(capacity, kDataReadBytesMax);
  caller.Range(to, capacity);
  Waiting<Bytes>* waiting = nullptr;
  std::int32_t error = 0;
  {
    const model::DatasetName dataset{std::string(caller.Text(name, name_bytes))};
    waiting = BeginQuestion(caller, handle, CheckRead(caller.requests, dataset), &Exchange::data, &error, [&](const auto& to) {
      caller.requests.environment().DataRead(caller.requests.asker(), dataset, offset, capacity, Answering(to));
    });
  }
  if (waiting == nullptr) return error;
  const Awaited awaited = Await(caller, handle, waiting);
  if (awaited != Awaited::kReady) return GiveUpQuestion(caller, handle, &Exchange::data, awaited);
  std::int32_t result;
  if (waiting->result->ok()) {
    const Bytes& bytes = **waiting->result;
    result = static_cast<std::int32_t>(std::min<std::size_t>(bytes.size(), capacity));
    if (result > 0) std::memcpy(caller.Range(to, capacity), bytes.data(), static_cast<std::size_t>(result));
  } else {
    result = Negative(waiting->result->error().code);
  }
  EndQuestion(caller, handle, &Exchange::data);
  return result;
}

// --- The rest ---

void Log(Context* context, std::uint8_t*, std::uint32_t level, std::uint32_t from, std::uint32_t bytes) {
  Caller caller(context);
  const std::string_view text = caller.Text(from, bytes).substr(0, kLogLineBytesMax);
  caller.requests.environment().Log(caller.requests.asker(), static_cast<LogLevel>(std::min(level, 3u)), text);
}

std::int64_t DeadlineMs(Context* context, std::uint8_t*, std::uint32_t handle) {
  Caller caller(context);
  const std::lock_guard lock(caller.requests.mutex());
  Exchange* exchange = caller.Find(handle);
  if (exchange == nullptr) return Negative(ErrorCode::kNotFound);
  const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(exchange->request.deadline - Clock::now());
  return std::max<std::int64_t>(0, left.count());
}

std::int32_t WhereAmI(Context* context, std::uint8_t*, std::uint32_t to, std::uint32_t capacity) {
  Caller caller(context);
  const DeviceInfo& device = caller.requests.environment().device();
  std::array<char, 256> text;
  const auto end = fmt::format_to_n(text.data(), text.size(), "{} {} {}", device.name, device.device_class, device.isa);
  return caller.Copy({text.data(), std::min(end.size, text.size())}, to, capacity);
}

std::int64_t TimeNs(Context*, std::uint8_t*) {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::system_clock::now().time_since_epoch()).count();
}

}  // namespace

Status CheckRead(GuestRequests& requests, const model::DatasetName& dataset) {
  if (requests.manifest().MayRead(dataset)) return {};
  return PermissionDenied(fmt::format("service '{}' may not read dataset '{}': grant it in [data] of its manifest",
                                      requests.asker().service.value, dataset.value));
}

Status CheckReach(GuestRequests& requests, std::string_view host_and_port) {
  if (requests.manifest().MayReach(host_and_port)) return {};
  return PermissionDenied(fmt::format("service '{}' may not reach {}: add it to [outbound] hosts in its manifest",
                                      requests.asker().service.value, host_and_port));
}

std::optional<runtime::HostFunction> GuestApi::Find(std::string_view function) const {
  static const Entry kEntries[] = {
      Function("request_method", RequestPart<Part::kMethod>, "iii:i"),
      Function("request_path", RequestPart<Part::kPath>, "iii:i"),
      Function("request_query", RequestPart<Part::kQuery>, "iii:i"),
      Function("request_route", RequestPart<Part::kRoute>, "iii:i"),
      Function("request_header", RequestHeader, "iiiii:i"),
      Function("body_read", BodyRead, "iii:i"),
      Function("response_status", ResponseStatus, "ii:i"),
      Function("response_header", ResponseHeader, "iiiii:i"),
      Function("response_write", ResponseWrite, "iii:i"),
      Function("call", Call, "iiiiiiiiiii:i"),
      Function("call_status", CallStatus, "ii:i"),
      Function("call_header", CallHeader, "iiiiii:i"),
      Function("call_read", CallRead, "iiii:i"),
      Function("call_close", CallClose, "ii:i"),
      Function("dataset_size", DatasetSize, "iii:I"),
      Function("dataset_read", DatasetRead, "iiiIii:i"),
      Function("log", Log, "iii:"),
      Function("deadline_ms", DeadlineMs, "i:I"),
      Function("where_am_i", WhereAmI, "ii:i"),
      Function("time_ns", TimeNs, ":I"),
  };
  for (const std::span<const Entry> entries : {std::span<const Entry>(kEntries), ConnectionFunctions(), OffloadFunctions()}) {
    for (const Entry& entry : entries) {
      if (entry.name == function) return entry.function;
    }
  }
  return std::nullopt;
}

}  // namespace godwit::agent
