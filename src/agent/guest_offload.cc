// Functions that run over a dataset, where it lies: the guest has the stream of their output.
#include "agent/guest_call.h"
#include "device/built_in.h"
#include "device/engine.h"

namespace godwit::agent {
namespace {

std::uint32_t NumberOf(std::string_view function) {
  static const auto kFunctions = device::BuiltInFunctions();
  for (std::size_t i = 0; i < kFunctions.size(); ++i) {
    if (kFunctions[i]->name() == function) return static_cast<std::uint32_t>(i + 1);
  }
  return 0;
}

// What is to run over which dataset. 0, or a negative error.
std::int32_t ReadWork(Caller& caller, std::string_view dataset_text, std::string_view function_text, std::string_view arguments_text, OffloadStream& stream) {
  stream.dataset = model::DatasetName(std::string(dataset_text));
  const Status allowed = CheckRead(caller.requests, stream.dataset);
  if (!allowed.ok()) {
    caller.requests.environment().Log(caller.requests.asker(), LogLevel::kWarning, allowed.error().message);
    return Negative(allowed.error().code);
  }
  stream.function = NumberOf(function_text);
  if (stream.function == 0) stream.export_name = function_text;
  if (function_text.empty() || function_text.size() > device::kNameBytesMax) return Negative(ErrorCode::kInvalidArgument);
  if (arguments_text.size() > device::kDataBytesMax / 2) return Negative(ErrorCode::kResourceExhausted);
  stream.arguments.assign(arguments_text.begin(), arguments_text.end());
  return 0;
}

// Nothing runs before the first read.
std::int32_t Offload(Context* context, std::uint8_t*, std::uint32_t handle, std::uint32_t dataset, std::uint32_t dataset_bytes,
                     std::uint32_t function, std::uint32_t function_bytes, std::uint32_t arguments, std::uint32_t arguments_bytes,
                     std::uint64_t offset, std::uint64_t bytes) {
  Caller caller(context);
  OffloadStream stream;
  const std::int32_t wrong = ReadWork(caller, caller.Text(dataset, dataset_bytes), caller.Text(function, function_bytes), caller.Text(arguments, arguments_bytes), stream);
  if (wrong != 0) return wrong;
  stream.offset = offset;
  stream.bytes = bytes;
  const std::lock_guard lock(caller.requests.mutex());
  Exchange* exchange = caller.Find(handle);
  if (exchange == nullptr) return Negative(ErrorCode::kNotFound);
  if (exchange->streams.size() >= kStreamsOpenMax) return Negative(ErrorCode::kResourceExhausted);
  std::uint32_t number = 1;
  while (exchange->streams.count(number) != 0) ++number;
  exchange->streams.emplace(number, std::move(stream));
  return static_cast<std::int32_t>(number);
}

// What there is of output, taken; 0: none, but there may be more; an error; nullopt at the end.
std::optional<std::int32_t> TakeOutput(Caller& caller, std::uint32_t handle, std::uint32_t number, std::uint32_t to, std::uint32_t capacity) {
  std::uint8_t* range = caller.Range(to, capacity);
  const std::lock_guard lock(caller.requests.mutex());
  Exchange* exchange = caller.Find(handle);
  if (exchange == nullptr) return Negative(ErrorCode::kNotFound);
  const auto found = exchange->streams.find(number);
  if (found == exchange->streams.end()) return Negative(ErrorCode::kNotFound);
  OffloadStream& stream = found->second;
  const std::size_t taken = std::min<std::size_t>(capacity, stream.output.size() - stream.read);
  if (taken == 0 && stream.failure != 0) return std::exchange(stream.failure, 0);
  if (taken == 0) return stream.ended ? std::nullopt : std::optional<std::int32_t>(0);
  std::memcpy(range, stream.output.data() + stream.read, taken);
  stream.read += taken;
  return static_cast<std::int32_t>(taken);
}

device::Request PieceOf(const OffloadStream& stream) {
  device::Request request;
  request.opcode = device::Opcode::kExecute;
  request.function = stream.function;
  request.data = stream.arguments;
  request.state = stream.state;
  request.offset = stream.offset;
  request.bytes = stream.bytes;
  return request;
}

// The guest waits for what was asked for ahead.
void Attach(PieceAhead& ahead, const std::shared_ptr<Waiting<device::Completion>>& waiting) {
  {
    const std::lock_guard lock(waiting->mutex);
    waiting->pending = std::exchange(ahead.pending, nullptr);
  }
  std::optional<Result<device::Completion>> ready;
  {
    const std::lock_guard lock(ahead.answer->mutex);
    ready.swap(ahead.answer->result);
    if (!ready) ahead.answer->then = Answering(waiting);
  }
  if (ready) Answering(waiting)(*std::move(ready));
}

// So much output in one piece that the guest will be busy with it for as long as the next one takes.
constexpr std::size_t kWorthAsking = device::kOutputBytes / 2;

// Asks for the next piece before the guest reads it, unless there is none or it was asked for.
void AskAhead(Caller& caller, std::uint32_t handle, std::uint32_t number, std::size_t worth) {
  device::Request request;
  model::DatasetName dataset;
  std::string export_name;
  auto ahead = std::make_shared<PieceAhead>();
  {
    const std::lock_guard lock(caller.requests.mutex());
    Exchange* exchange = caller.Find(handle);
    if (exchange == nullptr || exchange->streams.count(number) == 0) return;
    const OffloadStream& stream = exchange->streams[number];
    if (stream.ended || stream.ahead || stream.output.size() < worth) return;
    request = PieceOf(stream);
    dataset = stream.dataset;
    export_name = stream.export_name;
    ahead->answer->wake = caller.requests.Share(exchange);
  }
  ahead->pending = caller.requests.environment().Offload(
      caller.requests.asker(), dataset, export_name, std::move(request), [answer = ahead->answer](Result<device::Completion> result) {
        std::function<void(Result<device::Completion>)> then;
        {
          const std::lock_guard lock(answer->mutex);
          then = std::exchange(answer->then, nullptr);
          if (!then) answer->result.emplace(std::move(result));
        }
        if (then) return then(std::move(result));
        if (const auto exchange = answer->wake.lock()) exchange->Wake();
      });
  const std::lock_guard lock(caller.requests.mutex());
  Exchange* exchange = caller.Find(handle);
  if (exchange != nullptr && exchange->streams.count(number) != 0) exchange->streams[number].ahead = std::move(ahead);
}

// Begins the next piece of the work; null with `error` set.
Waiting<device::Completion>* BeginPiece(Caller& caller, std::uint32_t handle, std::uint32_t number, std::int32_t* error) {
  model::DatasetName dataset;
  std::string export_name;
  device::Request request;
  std::shared_ptr<PieceAhead> ahead;
  {
    const std::lock_guard lock(caller.requests.mutex());
    Exchange* exchange = caller.Find(handle);
    if (exchange == nullptr || exchange->streams.count(number) == 0) {
      *error = Negative(ErrorCode::kNotFound);
      return nullptr;
    }
    OffloadStream& stream = exchange->streams[number];
    ahead = std::exchange(stream.ahead, nullptr);
    dataset = stream.dataset;
    export_name = stream.export_name;
    if (!ahead) request = PieceOf(stream);
  }
  return BeginQuestion(caller, handle, Status(), &Exchange::executing, error, [&](const auto& answer) {
    if (ahead) return Attach(*ahead, answer);
    auto pending = caller.requests.environment().Offload(caller.requests.asker(), dataset, export_name, std::move(request), Answering(answer));
    const std::lock_guard lock(answer->mutex);
    answer->pending = std::move(pending);
  });
}

// Puts the finished piece into the stream. 0, or a negative error.
std::int32_t PutPiece(Caller& caller, std::uint32_t handle, std::uint32_t number, Result<device::Completion>& piece) {
  const Status status = piece.ok() ? piece->status : Status(piece.error());
  if (!status.ok()) {
    caller.requests.environment().Log(caller.requests.asker(), LogLevel::kWarning, "offload failed: " + status.error().message);
    return Negative(status.error().code);
  }
  const std::lock_guard lock(caller.requests.mutex());
  Exchange* exchange = caller.Find(handle);
  if (exchange == nullptr || exchange->streams.count(number) == 0) return Negative(ErrorCode::kNotFound);
  OffloadStream& stream = exchange->streams[number];
  stream.output = std::string(AsText(piece->data));
  stream.read = 0;
  stream.state = std::move(piece->state);
  stream.ended = !piece->more;
  return 0;
}

std::int32_t EndPiece(Caller& caller, std::uint32_t handle, std::uint32_t number, Waiting<device::Completion>* waiting) {
  const std::int32_t result = PutPiece(caller, handle, number, *waiting->result);
  EndQuestion(caller, handle, &Exchange::executing);
  return result;
}

template <typename T>
void CancelQuestion(Waiting<T>* waiting) {
  std::shared_ptr<Pending> pending;
  {
    const std::lock_guard lock(waiting->mutex);
    pending = waiting->pending;
    waiting->exchange = nullptr;
  }
  if (pending) pending->Cancel();
}

std::int32_t OffloadRead(Context* context, std::uint8_t*, std::uint32_t handle, std::uint32_t number, std::uint32_t to, std::uint32_t capacity) {
  Caller caller(context);
  capacity = std::min<std::uint32_t>(capacity, 1u << 30);
  for (;;) {
    const std::optional<std::int32_t> taken = TakeOutput(caller, handle, number, to, capacity);
    if (!taken) return 0;
    if (*taken != 0 || capacity == 0) return *taken;
    std::int32_t error = 0;
    Waiting<device::Completion>* waiting = BeginPiece(caller, handle, number, &error);
    if (waiting == nullptr) return error;
    const Awaited awaited = Await(caller, handle, waiting);
    if (awaited != Awaited::kReady) {
      CancelQuestion(waiting);
      return GiveUpQuestion(caller, handle, &Exchange::executing, awaited);
    }
    error = EndPiece(caller, handle, number, waiting);
    if (error != 0) return error;
    AskAhead(caller, handle, number, kWorthAsking);
  }
}

// Whether a read of the stream would not wait; puts a piece that was asked for ahead and has come into it.
bool Settle(Caller& caller, std::uint32_t handle, std::uint32_t number) {
  std::shared_ptr<PieceAhead> come;
  {
    const std::lock_guard lock(caller.requests.mutex());
    Exchange* exchange = caller.Find(handle);
    if (exchange == nullptr || exchange->streams.count(number) == 0) return true;  // The read says so.
    OffloadStream& stream = exchange->streams[number];
    if (stream.read < stream.output.size() || stream.ended || stream.failure != 0) return true;
    if (!stream.ahead) return false;
    const std::lock_guard answer(stream.ahead->answer->mutex);
    if (!stream.ahead->answer->result) return false;
    come = std::exchange(stream.ahead, nullptr);
  }
  const std::int32_t failure = PutPiece(caller, handle, number, *come->answer->result);
  const std::lock_guard lock(caller.requests.mutex());
  Exchange* exchange = caller.Find(handle);
  if (exchange == nullptr || exchange->streams.count(number) == 0) return true;
  OffloadStream& stream = exchange->streams[number];
  stream.failure = failure;
  return failure != 0 || !stream.output.empty() || stream.ended;
}

// All go on meanwhile, each by a piece at a time.
std::int32_t OffloadWait(Context* context, std::uint8_t*, std::uint32_t handle, std::uint32_t streams, std::uint32_t count) {
  Caller caller(context);
  if (count == 0 || count > kStreamsOpenMax) return Negative(ErrorCode::kInvalidArgument);
  const std::uint8_t* list = caller.Range(streams, count * sizeof(std::uint32_t));
  for (;;) {
    {
      const std::lock_guard lock(caller.requests.mutex());
      if (caller.Find(handle) == nullptr) return Negative(ErrorCode::kNotFound);
    }
    for (std::uint32_t i = 0; i < count; ++i) {
      std::uint32_t number;
      std::memcpy(&number, list + i * sizeof number, sizeof number);
      if (Settle(caller, handle, number)) return static_cast<std::int32_t>(i);
      AskAhead(caller, handle, number, 0);
    }
    if (caller.instance.Block({}) == Instance::Wait::kInterrupted) {
      caller.instance.Restart();
      return 0;
    }
  }
}

// Interrupted, it is asked again from the beginning: a result that was kept meanwhile is found to be the same.
std::int32_t OffloadKeep(Context* context, std::uint8_t*, std::uint32_t handle, std::uint32_t dataset, std::uint32_t dataset_bytes,
                         std::uint32_t function, std::uint32_t function_bytes, std::uint32_t arguments, std::uint32_t arguments_bytes,
                         std::uint32_t result, std::uint32_t result_bytes) {
  Caller caller(context);
  Waiting<std::uint64_t>* waiting = nullptr;
  std::int32_t error = 0;
  {
    OffloadStream work;
    error = ReadWork(caller, caller.Text(dataset, dataset_bytes), caller.Text(function, function_bytes), caller.Text(arguments, arguments_bytes), work);
    if (error != 0) return error;
    const model::DatasetName name{std::string(caller.Text(result, result_bytes))};
    waiting = BeginQuestion(caller, handle, model::CheckDatasetName(name.value), &Exchange::size, &error, [&](const auto& answer) {
      auto pending = caller.requests.environment().Keep(caller.requests.asker(), work.dataset, work.export_name, PieceOf(work), name, Answering(answer));
      const std::lock_guard lock(answer->mutex);
      answer->pending = std::move(pending);
    });
  }
  if (waiting == nullptr) return error;
  const Awaited awaited = Await(caller, handle, waiting);
  if (awaited != Awaited::kReady) {
    CancelQuestion(waiting);
    return GiveUpQuestion(caller, handle, &Exchange::size, awaited);
  }
  const Result<std::uint64_t>& kept = *waiting->result;
  if (!kept.ok()) caller.requests.environment().Log(caller.requests.asker(), LogLevel::kWarning, "no result was kept: " + kept.error().message);
  const std::int32_t bytes = kept.ok() ? static_cast<std::int32_t>(*kept) : Negative(kept.error().code);
  EndQuestion(caller, handle, &Exchange::size);
  return bytes;
}

std::int32_t OffloadClose(Context* context, std::uint8_t*, std::uint32_t handle, std::uint32_t number) {
  Caller caller(context);
  const std::lock_guard lock(caller.requests.mutex());
  Exchange* exchange = caller.Find(handle);
  return exchange != nullptr && exchange->streams.erase(number) != 0 ? 0 : Negative(ErrorCode::kNotFound);
}

// --- Inside a function that runs over a dataset

std::int32_t Emit(Context* context, std::uint8_t*, std::uint32_t from, std::uint32_t bytes) {
  Caller caller(context);
  const std::uint8_t* range = caller.Range(from, bytes);
  FunctionIo* function = caller.api.function();
  if (function == nullptr) return Negative(ErrorCode::kFailedPrecondition);
  if (bytes > kEmitBytesMax) return Negative(ErrorCode::kInvalidArgument);
  function->output.insert(function->output.end(), range, range + bytes);
  // Before these lines there was less than kOutputBytes, and all must fit an answer. Where they do, the guest is done with its lines first: then
  // they need not travel.
  if (function->output.size() > device::kDataBytesMax - device::kOutputBytes - kEmitBytesMax) caller.instance.RequestStop();
  return static_cast<std::int32_t>(bytes);
}

std::int32_t FunctionArguments(Context* context, std::uint8_t*, std::uint32_t to, std::uint32_t capacity) {
  Caller caller(context);
  FunctionIo* function = caller.api.function();
  return function != nullptr ? caller.Copy(AsText(function->arguments), to, capacity) : Negative(ErrorCode::kFailedPrecondition);
}

}  // namespace

std::span<const Entry> OffloadFunctions() {
  static const Entry kEntries[] = {
      Function("offload", Offload, "iiiiiiiII:i"),
      Function("offload_read", OffloadRead, "iiii:i"),
      Function("offload_wait", OffloadWait, "iii:i"),
      Function("offload_close", OffloadClose, "ii:i"),
      Function("offload_keep", OffloadKeep, "iiiiiiiii:i"),
      Function("emit", Emit, "ii:i"),
      Function("function_arguments", FunctionArguments, "ii:i"),
  };
  return kEntries;
}

}  // namespace godwit::agent
