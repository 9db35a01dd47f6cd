#include "device/wire.h"

#include <cstring>

#include <fmt/format.h>

#include "base/flatbuffer.h"
#include "device/device_generated.h"

namespace godwit::device {
namespace {

using flatbuffers::FlatBufferBuilder;
using flatbuffers::Offset;

fbs::Capability Put(const Capability& capability) {
  std::uint64_t low, high;
  std::memcpy(&low, capability.seal.data(), 8);
  std::memcpy(&high, capability.seal.data() + 8, 8);
  return {capability.memory, capability.offset, capability.bytes, low, high, static_cast<std::uint8_t>(capability.rights)};
}

Capability Get(const fbs::Capability& in) {
  Capability capability{in.memory(), in.offset(), in.bytes(), static_cast<Rights>(in.rights() & 3), {}};
  const std::uint64_t low = in.seal_low(), high = in.seal_high();
  std::memcpy(capability.seal.data(), &low, 8);
  std::memcpy(capability.seal.data() + 8, &high, 8);
  return capability;
}

// Empty lists are left out.
template <typename T>
Offset<flatbuffers::Vector<T>> PutList(FlatBufferBuilder& builder, const std::vector<T>& list) {
  return list.empty() ? 0 : builder.CreateVector(list);
}
Offset<flatbuffers::String> PutText(FlatBufferBuilder& builder, const std::string& text) {
  return text.empty() ? 0 : builder.CreateString(text);
}

Offset<fbs::Request> Put(FlatBufferBuilder& builder, const Request& request) {
  std::vector<Offset<fbs::Request>> steps;
  for (const Request& step : request.steps) steps.push_back(Put(builder, step));
  std::vector<fbs::Range> ranges;
  for (const Range& range : request.ranges) ranges.push_back({Put(range.capability), range.offset, range.bytes});
  const auto tenant = PutText(builder, request.tenant), name = PutText(builder, request.name);
  const auto range_list = ranges.empty() ? 0 : builder.CreateVectorOfStructs(ranges);
  const auto data = PutList(builder, request.data), state = PutList(builder, request.state);
  const auto step_list = PutList(builder, steps);
  const auto after = PutList(builder, request.after);
  return fbs::CreateRequest(builder, request.id, static_cast<std::uint8_t>(request.opcode), tenant,
                            static_cast<std::uint64_t>(request.deadline.count()), static_cast<std::uint64_t>(request.slice.count()),
                            request.energy_uj, request.function, name, request.offset, request.bytes, request.value,
                            static_cast<std::uint8_t>(request.rights), range_list, data, state, step_list, after);
}

Offset<fbs::Completion> Put(FlatBufferBuilder& builder, const Completion& completion) {
  std::vector<Offset<fbs::Completion>> steps;
  for (const Completion& step : completion.steps) steps.push_back(Put(builder, step));
  const auto message = completion.status.ok() ? 0 : builder.CreateString(completion.status.error().message);
  const auto data = PutList(builder, completion.data), state = PutList(builder, completion.state);
  const auto step_list = PutList(builder, steps);
  const fbs::Capability capability = Put(completion.capability);
  return fbs::CreateCompletion(builder, completion.id,
                               completion.status.ok() ? 0 : static_cast<std::uint8_t>(completion.status.error().code), message,
                               completion.value, completion.capability.memory != 0 ? &capability : nullptr, data, state, completion.more,
                               completion.pushed_back, completion.queued_us, completion.busy_us, completion.energy_uj,
                               completion.read_bytes, step_list, completion.cpu_us);
}

template <typename T>
Result<Bytes> Finish(FlatBufferBuilder& builder, Offset<T> body) {
  fbs::FinishMessageBuffer(builder, fbs::CreateMessage(builder, fbs::BodyTraits<T>::enum_value, body.Union()));
  if (builder.GetSize() > kMessageBytesMax) {
    return InvalidArgument(fmt::format("a device's message is limited to {} bytes, and this one has {}", kMessageBytesMax, builder.GetSize()));
  }
  return Bytes(builder.GetBufferPointer(), builder.GetBufferPointer() + builder.GetSize());
}

std::string GetText(const flatbuffers::String* text) { return text != nullptr ? text->str() : std::string(); }
Bytes GetBytes(const flatbuffers::Vector<std::uint8_t>* bytes) { return bytes != nullptr ? Bytes(bytes->begin(), bytes->end()) : Bytes(); }
template <typename List>
std::uint64_t SizeOf(const List* list) {
  return list != nullptr ? list->size() : 0;
}

Error Bad(std::string_view what) { return Corrupt(fmt::format("a device's message is malformed: {}", what)); }

Result<Request> Get(const fbs::Request& in, CopyBudget& copies, bool step) {
  if (!copies.Take(SizeOf(in.tenant()) + SizeOf(in.name()) + SizeOf(in.data()) + SizeOf(in.state()) +
                   SizeOf(in.ranges()) * sizeof(fbs::Range) + SizeOf(in.after()) * 4)) {
    return Bad("parts share their bytes");
  }
  if (in.opcode() < static_cast<std::uint8_t>(Opcode::kDiscover) || in.opcode() > static_cast<std::uint8_t>(Opcode::kAbort)) {
    return Bad(fmt::format("no opcode is {}", in.opcode()));
  }
  if (step && in.steps() != nullptr) return Bad("a step of a batch is a batch");
  constexpr std::uint64_t kLongestUs = 86'400'000'000;
  Request request;
  request.id = in.id();
  request.opcode = static_cast<Opcode>(in.opcode());
  request.tenant = GetText(in.tenant());
  request.deadline = std::chrono::microseconds(std::min(in.deadline_us(), kLongestUs));
  request.slice = std::chrono::microseconds(std::min(in.slice_us(), kLongestUs));
  request.energy_uj = in.energy_uj();
  request.function = in.function();
  request.name = GetText(in.name());
  request.offset = in.offset();
  request.bytes = in.bytes();
  request.value = in.value();
  request.rights = static_cast<Rights>(in.rights() & 3);
  if (in.ranges() != nullptr && !IsAligned(*in.ranges())) return Bad("its ranges are not aligned");
  for (unsigned i = 0; i < SizeOf(in.ranges()); ++i) {
    const fbs::Range& range = *in.ranges()->Get(i);
    request.ranges.push_back({Get(range.capability()), range.offset(), range.bytes()});
  }
  request.data = GetBytes(in.data());
  request.state = GetBytes(in.state());
  for (unsigned i = 0; i < SizeOf(in.after()); ++i) request.after.push_back(in.after()->Get(i));
  if (SizeOf(in.steps()) > kStepsMax) return Bad("more steps than a batch may have");
  for (unsigned i = 0; i < SizeOf(in.steps()); ++i) {
    GODWIT_ASSIGN(auto one, Get(*in.steps()->Get(i), copies, true));
    request.steps.push_back(std::move(one));
  }
  return request;
}

Result<Completion> Get(const fbs::Completion& in, CopyBudget& copies, bool step) {
  if (!copies.Take(SizeOf(in.message()) + SizeOf(in.data()) + SizeOf(in.state()))) return Bad("parts share their bytes");
  if ((step && in.steps() != nullptr) || SizeOf(in.steps()) > kStepsMax) return Bad("more steps than a batch may have");
  Completion completion;
  completion.id = in.id();
  if (in.code() != 0) completion.status = Error{static_cast<ErrorCode>(in.code()), GetText(in.message())};
  completion.value = in.value();
  if (in.capability() != nullptr) completion.capability = Get(*in.capability());
  completion.data = GetBytes(in.data());
  completion.state = GetBytes(in.state());
  completion.more = in.more();
  completion.pushed_back = in.pushed_back();
  completion.queued_us = in.queued_us();
  completion.busy_us = in.busy_us();
  completion.energy_uj = in.energy_uj();
  completion.read_bytes = in.read_bytes();
  completion.cpu_us = in.cpu_us();
  for (unsigned i = 0; i < SizeOf(in.steps()); ++i) {
    GODWIT_ASSIGN(auto one, Get(*in.steps()->Get(i), copies, true));
    completion.steps.push_back(std::move(one));
  }
  return completion;
}

template <typename T, typename Out>
Result<Out> Decode(ByteView bytes) {
  if (bytes.size() > kMessageBytesMax) return Bad("longer than a message may be");
  Bytes copy;
  const ByteView aligned = AlignedOrCopied(bytes, copy);
  flatbuffers::Verifier verifier(aligned.data(), aligned.size(), 8, 10'000);
  if (!fbs::VerifyMessageBuffer(verifier)) return Bad("not a whole message");
  const auto* body = fbs::GetMessage(aligned.data())->body_as<T>();
  if (body == nullptr) return Bad("of another kind");
  CopyBudget copies(aligned.size());
  return Get(*body, copies, false);
}

Status CheckOne(const Request& request) {
  const auto limit = [](std::string_view what, std::size_t is, std::size_t most) -> Status {
    return is <= most ? Status() : InvalidArgument(fmt::format("{} of a device's request may have {}, not {}", what, most, is));
  };
  GODWIT_TRY(limit("the tenant's name", request.tenant.size(), kNameBytesMax));
  GODWIT_TRY(limit("the name", request.name.size(), kNameBytesMax));
  GODWIT_TRY(limit("the data's bytes", request.data.size(), kDataBytesMax));
  GODWIT_TRY(limit("the state's bytes", request.state.size(), kDataBytesMax));
  GODWIT_TRY(limit("the ranges", request.ranges.size(), kRangesMax));
  return limit("the steps", request.steps.size(), kStepsMax);
}

}  // namespace

Status CheckLimits(const Request& request) {
  GODWIT_TRY(CheckOne(request));
  if (!request.steps.empty() && request.opcode != Opcode::kBatch) return InvalidArgument("only a batch has steps");
  for (std::size_t i = 0; i < request.steps.size(); ++i) {
    const Request& step = request.steps[i];
    GODWIT_TRY(CheckOne(step));
    if (step.opcode == Opcode::kBatch || step.opcode == Opcode::kAbort || !step.steps.empty()) {
      return InvalidArgument(fmt::format("step {} of a batch is a batch or an abort", i));
    }
    for (const std::uint32_t before : step.after) {
      if (before >= i) return InvalidArgument(fmt::format("step {} of a batch is to run after step {}, which is no earlier one", i, before));
    }
  }
  return {};
}

Result<Bytes> Encode(const Request& request) {
  GODWIT_TRY(CheckLimits(request));
  FlatBufferBuilder builder(512);
  return Finish(builder, Put(builder, request));
}
Result<Bytes> Encode(const Completion& completion) {
  FlatBufferBuilder builder(512);
  return Finish(builder, Put(builder, completion));
}
Result<Request> DecodeRequest(ByteView bytes) {
  GODWIT_ASSIGN(auto request, (Decode<fbs::Request, Request>(bytes)));
  if (const Status status = CheckLimits(request); !status.ok()) return Bad(status.error().message);
  return request;
}
Result<Completion> DecodeCompletion(ByteView bytes) { return Decode<fbs::Completion, Completion>(bytes); }

}  // namespace godwit::device
