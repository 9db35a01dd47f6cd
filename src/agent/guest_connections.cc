// Connections out of the cluster, as the guest has them.
#include <array>
#include <charconv>

#include <fmt/format.h>

#include "agent/guest_call.h"

namespace godwit::agent {
namespace {

std::int32_t Connect(Context* context, std::uint8_t*, std::uint32_t handle, std::uint32_t address, std::uint32_t address_bytes) {
  Caller caller(context);
  if (caller.api.connections.size() >= kConnectionsOpenMax) return Negative(ErrorCode::kResourceExhausted);
  Waiting<ConnectionName>* waiting = nullptr;
  std::int32_t error = 0;
  {
    const std::string to(caller.Text(address, address_bytes));
    waiting = BeginQuestion(caller, handle, CheckReach(caller.requests, to), &Exchange::connecting, &error, [&](const auto& answer) {
      auto pending = caller.requests.environment().Connect(caller.requests.asker(), to, kConnectTimeout, Answering(answer));
      const std::lock_guard lock(answer->mutex);
      answer->pending = std::move(pending);
    });
  }
  if (waiting == nullptr) return error;
  const Awaited awaited = Await(caller, handle, waiting);
  if (awaited != Awaited::kReady) {
    // Whatever is made meanwhile is closed: the guest has not seen it.
    std::shared_ptr<Pending> pending;
    {
      const std::lock_guard lock(waiting->mutex);
      pending = waiting->pending;
      waiting->exchange = nullptr;
    }
    if (pending) pending->Cancel();
    pending = nullptr;
    return GiveUpQuestion(caller, handle, &Exchange::connecting, awaited);
  }
  std::int32_t result = 1;
  if (waiting->result->ok()) {
    while (caller.api.connections.count(static_cast<std::uint32_t>(result)) != 0) ++result;
    caller.api.connections[static_cast<std::uint32_t>(result)] = {**waiting->result};
  } else {
    caller.requests.environment().Log(caller.requests.asker(), LogLevel::kWarning, waiting->result->error().message);
    result = Negative(waiting->result->error().code);
  }
  EndQuestion(caller, handle, &Exchange::connecting);
  return result;
}

std::int32_t ConnectionRead(Context* context, std::uint8_t*, std::uint32_t handle, std::uint32_t number, std::uint32_t to,
                            std::uint32_t capacity) {
  Caller caller(context);
  capacity = std::min<std::uint32_t>(capacity, kConnectionBytesMax);
  caller.Range(to, capacity);
  for (;;) {
    const auto connection = caller.api.connections.find(number);
    if (connection == caller.api.connections.end()) return Negative(ErrorCode::kNotFound);
    std::int32_t error = 0;
    auto* waiting = BeginQuestion(caller, handle, Status(), &Exchange::receiving, &error, [&](const auto& answer) {
      caller.requests.environment().ConnectionRead(caller.requests.asker(), connection->second.name, connection->second.read, capacity,
                                                   Answering(answer));
    });
    if (waiting == nullptr) return error;
    const Awaited awaited = Await(caller, handle, waiting);
    if (awaited != Awaited::kReady) return GiveUpQuestion(caller, handle, &Exchange::receiving, awaited);
    // Another request of this instance may have closed it meanwhile.
    const auto still = caller.api.connections.find(number);
    std::int32_t result = still == caller.api.connections.end() ? Negative(ErrorCode::kNotFound)
                          : waiting->result->ok()               ? 0
                                                                : Negative(waiting->result->error().code);
    bool again = false;
    if (result == 0) {
      const KeptConnection::Received& received = **waiting->result;
      result = static_cast<std::int32_t>(std::min<std::size_t>(received.bytes.size(), capacity));
      if (result > 0) std::memcpy(caller.Range(to, capacity), received.bytes.data(), static_cast<std::size_t>(result));
      still->second.read += static_cast<std::uint32_t>(result);
      again = result == 0 && !received.ended && capacity > 0;
    }
    EndQuestion(caller, handle, &Exchange::receiving);
    if (!again) return result;
  }
}

std::int32_t ConnectionWrite(Context* context, std::uint8_t*, std::uint32_t handle, std::uint32_t number, std::uint32_t from,
                             std::uint32_t size) {
  Caller caller(context);
  size = std::min<std::uint32_t>(size, kConnectionBytesMax);
  for (;;) {
    const auto connection = caller.api.connections.find(number);
    if (connection == caller.api.connections.end()) return Negative(ErrorCode::kNotFound);
    const std::uint64_t offset = connection->second.written;
    const std::uint8_t* bytes = caller.Range(from, size);
    std::int32_t error = 0;
    auto* waiting = BeginQuestion(caller, handle, Status(), &Exchange::sending, &error, [&](const auto& answer) {
      caller.requests.environment().ConnectionWrite(caller.requests.asker(), connection->second.name, offset, Bytes(bytes, bytes + size),
                                                    Answering(answer));
    });
    if (waiting == nullptr) return error;
    const Awaited awaited = Await(caller, handle, waiting);
    if (awaited != Awaited::kReady) return GiveUpQuestion(caller, handle, &Exchange::sending, awaited);
    const auto still = caller.api.connections.find(number);
    std::int32_t result = still == caller.api.connections.end() ? Negative(ErrorCode::kNotFound)
                          : waiting->result->ok()               ? 0
                                                                : Negative(waiting->result->error().code);
    if (result == 0) {
      const std::uint64_t end = **waiting->result;
      result = static_cast<std::int32_t>(std::min<std::uint64_t>(end - std::min(end, offset), size));
      still->second.written = offset + static_cast<std::uint32_t>(result);
    }
    EndQuestion(caller, handle, &Exchange::sending);
    if (result != 0 || size == 0) return result;
  }
}

std::int32_t ConnectionCloseCall(Context* context, std::uint8_t*, std::uint32_t, std::uint32_t number) {
  Caller caller(context);
  const auto connection = caller.api.connections.find(number);
  if (connection == caller.api.connections.end()) return Negative(ErrorCode::kNotFound);
  caller.requests.environment().ConnectionClose(caller.requests.asker(), connection->second.name);
  caller.api.connections.erase(connection);
  return 0;
}

}  // namespace

std::span<const Entry> ConnectionFunctions() {
  static const Entry kEntries[] = {
      Function("connect", Connect, "iii:i"),
      Function("connection_read", ConnectionRead, "iiii:i"),
      Function("connection_write", ConnectionWrite, "iiii:i"),
      Function("connection_close", ConnectionCloseCall, "ii:i"),
  };
  return kEntries;
}

// State: nothing, or one line per connection: handle, device, number there, bytes read, bytes written.
Result<Bytes> GuestApi::Save() const {
  std::string text;
  for (const auto& [handle, connection] : connections) {
    text += fmt::format("{} {} {} {} {}\n", handle, connection.name.device, connection.name.number, connection.read, connection.written);
  }
  return Bytes(text.begin(), text.end());
}

Status GuestApi::Load(ByteView state) {
  std::string_view text = AsText(state);
  const auto number = [](std::string_view digits, auto* to) {
    const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), *to);
    return error == std::errc() && end == digits.data() + digits.size();
  };
  while (!text.empty()) {
    const std::size_t end = text.find('\n');
    if (end == text.npos) return Corrupt("the guest API's state ends in the middle of a line");
    std::array<std::string_view, 5> words;
    std::string_view line = text.substr(0, end);
    text.remove_prefix(end + 1);
    for (std::string_view& word : words) {
      const std::size_t space = std::min(line.find(' '), line.size());
      word = line.substr(0, space);
      line.remove_prefix(std::min(space + 1, line.size()));
    }
    std::uint32_t handle = 0;
    Connection connection{{std::string(words[1]), 0}};
    if (!number(words[0], &handle) || !number(words[2], &connection.name.number) || !number(words[3], &connection.read) ||
        !number(words[4], &connection.written) || !line.empty() || handle == 0 || connections.size() >= kConnectionsOpenMax) {
      return Corrupt("the guest API's state has a malformed connection");
    }
    connections[handle] = std::move(connection);
  }
  return {};
}

void GuestApi::CloseConnections() {
  for (const auto& [handle, connection] : connections) requests_->environment().ConnectionClose(requests_->asker(), connection.name);
  connections.clear();
}

}  // namespace godwit::agent
