#include "agent/bundle.h"

#include <algorithm>
#include <cstring>

#include <fmt/format.h>

#include "agent/bundle_generated.h"
#include "base/flatbuffer.h"

namespace godwit::agent {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::uint32_t kMagic = 0x42485747;   // "GWHB"
constexpr std::size_t kSnapshotAlignment = 64;
constexpr std::size_t kRequestsMax = 4096;
constexpr std::size_t kInstancesMax = 1024;

struct Footer {
  std::uint64_t offset, bytes;  // Of the description.
  std::uint32_t magic, version;
};
static_assert(sizeof(Footer) == 24);

Error Bad(std::string what) { return Corrupt("host bundle: " + std::move(what)); }

using Builder = flatbuffers::FlatBufferBuilder;

auto PutHeaders(Builder& builder, const std::vector<Header>& headers) {
  std::vector<flatbuffers::Offset<fbs::Header>> offsets;
  for (const Header& header : headers) {
    offsets.push_back(fbs::CreateHeader(builder, builder.CreateString(header.name), builder.CreateString(header.value)));
  }
  return builder.CreateVector(offsets);
}

auto PutBytes(Builder& builder, std::string_view bytes) {
  return builder.CreateVector(reinterpret_cast<const std::uint8_t*>(bytes.data()), bytes.size());
}

flatbuffers::Offset<fbs::Request> PutRequest(Builder& builder, const BundledRequest& bundled) {
  const Exchange& exchange = *bundled.exchange;
  const NewRequest& request = exchange.request;
  const auto method = builder.CreateString(request.method), target = builder.CreateString(request.target),
             route = builder.CreateString(request.route), caller = builder.CreateString(request.caller);
  const auto headers = PutHeaders(builder, request.headers);
  const auto response_headers = PutHeaders(builder, exchange.headers);
  const auto body = PutBytes(builder, std::string_view(exchange.body).substr(exchange.body_read));
  const auto out = PutBytes(builder, exchange.out);
  const auto cgi = PutBytes(builder, exchange.cgi_buffer);
  std::vector<flatbuffers::Offset<fbs::Answer>> answers;
  for (const auto& [handle, answer] : exchange.answers) {
    const auto answer_headers = PutHeaders(builder, answer.first.headers);
    const auto content = PutBytes(builder, AsText(answer.first.body));
    answers.push_back(fbs::CreateAnswer(builder, handle, answer.first.status, answer_headers, content, answer.second));
  }
  const auto answers_offset = builder.CreateVector(answers);
  std::vector<flatbuffers::Offset<fbs::Stream>> streams;
  for (const auto& [handle, stream] : exchange.streams) {
    const auto dataset = builder.CreateString(stream.dataset.value), export_name = builder.CreateString(stream.export_name);
    const auto arguments = PutBytes(builder, AsText(stream.arguments)), state = PutBytes(builder, AsText(stream.state)),
               output = PutBytes(builder, std::string_view(stream.output).substr(stream.read));
    streams.push_back(fbs::CreateStream(builder, handle, dataset, stream.function, arguments, state, stream.offset, stream.bytes, output, stream.ended, export_name));
  }
  const auto streams_offset = builder.CreateVector(streams);
  const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(request.deadline - Clock::now()).count();
  fbs::RequestBuilder out_request(builder);
  out_request.add_boot(request.id.boot);
  out_request.add_number(request.id.number);
  out_request.add_method(method);
  out_request.add_target(target);
  out_request.add_route(route);
  out_request.add_caller(caller);
  out_request.add_headers(headers);
  out_request.add_deadline_ms(static_cast<std::uint64_t>(std::max<std::int64_t>(left, 0)));
  out_request.add_body_follows(request.body_follows);
  out_request.add_body_bytes(request.body_bytes);
  out_request.add_handle(exchange.handle);
  out_request.add_begun(exchange.phase != Exchange::Phase::kWaiting);
  out_request.add_instance(bundled.instance.value_or(~0u));
  out_request.add_task(exchange.task);
  out_request.add_body_received(exchange.captured_received);
  out_request.add_body(body);
  out_request.add_body_ended(exchange.body_ended);
  out_request.add_head_committed(exchange.head_committed);
  out_request.add_status(exchange.status);
  out_request.add_response_headers(response_headers);
  out_request.add_out_base(exchange.out_base);
  out_request.add_out(out);
  out_request.add_out_ended(exchange.out_ended);
  out_request.add_cgi_buffer(cgi);
  out_request.add_answers(answers_offset);
  out_request.add_cpu_ns(exchange.cpu_ns);
  out_request.add_finished_call(exchange.finished_call);
  out_request.add_streams(streams_offset);
  return out_request.Finish();
}

std::string Text(const flatbuffers::String* text) { return text != nullptr ? text->str() : std::string(); }
std::string Raw(const flatbuffers::Vector<std::uint8_t>* bytes) {
  return bytes != nullptr ? std::string(reinterpret_cast<const char*>(bytes->data()), bytes->size()) : std::string();
}
std::vector<Header> Headers(const flatbuffers::Vector<flatbuffers::Offset<fbs::Header>>* headers) {
  std::vector<Header> list;
  for (unsigned i = 0; headers != nullptr && i < headers->size(); ++i) {
    list.push_back({headers->Get(i)->name()->str(), headers->Get(i)->value()->str()});
  }
  return list;
}

// Bytes of what GetRequest copies.
std::uint64_t BytesOf(const flatbuffers::Vector<flatbuffers::Offset<fbs::Header>>* headers) {
  std::uint64_t bytes = 0;
  for (unsigned i = 0; headers != nullptr && i < headers->size(); ++i) {
    bytes += headers->Get(i)->name()->size() + headers->Get(i)->value()->size();
  }
  return bytes;
}
std::uint64_t BytesOf(const fbs::Request& in) {
  const auto size = [](const auto* list) -> std::uint64_t { return list != nullptr ? list->size() : 0; };
  std::uint64_t bytes = size(in.method()) + size(in.target()) + size(in.route()) + size(in.caller()) + size(in.body()) +
                        size(in.out()) + size(in.cgi_buffer()) + BytesOf(in.headers()) + BytesOf(in.response_headers());
  for (unsigned i = 0; in.answers() != nullptr && i < in.answers()->size(); ++i) {
    bytes += size(in.answers()->Get(i)->body()) + BytesOf(in.answers()->Get(i)->headers());
  }
  for (unsigned i = 0; in.streams() != nullptr && i < in.streams()->size(); ++i) {
    const fbs::Stream& stream = *in.streams()->Get(i);
    bytes += size(stream.export_name()) + size(stream.dataset()) + size(stream.arguments()) + size(stream.state()) + size(stream.output());
  }
  return bytes;
}

Result<BundledRequest> GetRequest(const fbs::Request& in, std::size_t instances) {
  auto exchange = std::make_shared<Exchange>();
  NewRequest& request = exchange->request;
  request.id = {in.boot(), in.number()};
  request.method = in.method()->str();
  request.target = in.target()->str();
  request.route = Text(in.route());
  request.caller = Text(in.caller());
  request.headers = Headers(in.headers());
  request.deadline = Clock::now() + std::chrono::milliseconds(std::min<std::uint64_t>(in.deadline_ms(), 86'400'000));
  request.body_follows = in.body_follows();
  request.body_bytes = in.body_bytes();
  exchange->handle = in.handle();
  exchange->task = in.task();
  exchange->body = Raw(in.body());
  exchange->body_received = in.body_received();
  if (exchange->body.size() > exchange->body_received) return Bad("a request has more of its body than was received");
  exchange->body_ended = in.body_ended();
  exchange->head_committed = in.head_committed();
  exchange->status = in.status();
  exchange->headers = Headers(in.response_headers());
  exchange->out = Raw(in.out());
  exchange->out_base = exchange->out_sent = in.out_base();
  exchange->out_ended = in.out_ended();
  exchange->cgi_buffer = Raw(in.cgi_buffer());
  exchange->cpu_ns = in.cpu_ns();
  exchange->finished_call = in.finished_call();
  exchange->begun = Clock::now();
  for (unsigned i = 0; in.answers() != nullptr && i < in.answers()->size(); ++i) {
    const fbs::Answer& answer = *in.answers()->Get(i);
    const std::string body = Raw(answer.body());
    if (answer.read() > body.size()) return Bad("more of an answer was read than there is");
    exchange->answers.emplace(answer.handle(), std::pair(CallAnswer{answer.status(), Headers(answer.headers()),
                                                                    Bytes(body.begin(), body.end())},
                                                         static_cast<std::size_t>(answer.read())));
  }
  for (unsigned i = 0; in.streams() != nullptr && i < in.streams()->size(); ++i) {
    const fbs::Stream& from = *in.streams()->Get(i);
    OffloadStream& stream = exchange->streams[from.handle()];
    const std::string arguments = Raw(from.arguments()), state = Raw(from.state());
    stream.dataset = model::DatasetName(from.dataset()->str());
    stream.function = from.function();
    stream.export_name = Text(from.export_name());
    stream.arguments.assign(arguments.begin(), arguments.end());
    stream.state.assign(state.begin(), state.end());
    stream.offset = from.offset();
    stream.bytes = from.bytes();
    stream.output = Raw(from.output());
    stream.ended = from.ended();
  }
  BundledRequest bundled;
  if (!in.begun()) {
    exchange->phase = Exchange::Phase::kWaiting;
  } else if (exchange->out_ended) {
    exchange->phase = Exchange::Phase::kAnswered;
  } else {
    exchange->phase = Exchange::Phase::kRunning;
    if (in.instance() >= instances) return Bad("a request of an instance that is not there");
    bundled.instance = in.instance();
  }
  bundled.exchange = std::move(exchange);
  return bundled;
}

}  // namespace

Status EncodeBundle(const Bundle& bundle, const std::function<Status(ByteView)>& sink) {
  std::uint64_t written = 0;
  const auto put = [&](ByteView bytes) -> Status {
    written += bytes.size();
    return sink(bytes);
  };
  const auto align = [&]() -> Status {
    static constexpr std::array<std::uint8_t, kSnapshotAlignment> kZero{};
    const std::size_t gap = (kSnapshotAlignment - written % kSnapshotAlignment) % kSnapshotAlignment;
    return gap == 0 ? Status() : put(ByteView(kZero).first(gap));
  };
  Builder builder;
  std::vector<flatbuffers::Offset<fbs::Instance>> instances;
  for (std::size_t i = 0; i < bundle.snapshots.size(); ++i) {
    GODWIT_TRY(align());
    const std::uint64_t offset = written;
    GODWIT_TRY(snapshot::Encode(bundle.snapshots[i], put));
    const std::uint32_t memory = i < bundle.memories.size() && bundle.memories[i] ? *bundle.memories[i] + 1 : 0;
    instances.push_back(fbs::CreateInstance(builder, offset, written - offset, memory));
  }
  GODWIT_TRY(align());
  std::vector<flatbuffers::Offset<fbs::Request>> requests;
  for (const BundledRequest& request : bundle.requests) requests.push_back(PutRequest(builder, request));
  const auto service = builder.CreateString(bundle.service), instance = builder.CreateString(bundle.instance),
             package = builder.CreateString(bundle.package);
  const auto request_list = builder.CreateVector(requests);
  const auto instance_list = builder.CreateVector(instances);
  fbs::FinishBundleBuffer(builder, fbs::CreateBundle(builder, kBundleVersion, service, instance, package, request_list,
                                                     instance_list, bundle.next_handle));
  const Footer footer{written, builder.GetSize(), kMagic, kBundleVersion};
  GODWIT_TRY(put({builder.GetBufferPointer(), builder.GetSize()}));
  return put({reinterpret_cast<const std::uint8_t*>(&footer), sizeof footer});
}

Result<Bundle> DecodeBundle(ByteView bytes) {
  Footer footer;
  if (bytes.size() < sizeof footer) return Bad("truncated");
  std::memcpy(&footer, bytes.data() + bytes.size() - sizeof footer, sizeof footer);
  if (footer.magic != kMagic) return Bad("not a host bundle, or truncated");
  if (footer.version != kBundleVersion) {
    return Unsupported(fmt::format("host bundle of version {}; this agent reads {}", footer.version, kBundleVersion));
  }
  const std::uint64_t end = bytes.size() - sizeof footer;
  if (footer.bytes > end || footer.offset != end - footer.bytes) return Bad("its description is not where it says");
  // Copied: FlatBuffers wants it aligned.
  const Bytes description(bytes.begin() + static_cast<std::ptrdiff_t>(footer.offset),
                          bytes.begin() + static_cast<std::ptrdiff_t>(end));
  flatbuffers::Verifier verifier(description.data(), description.size(), 64, 1'000'000);
  if (!fbs::VerifyBundleBuffer(verifier)) return Bad("its description is malformed");
  const fbs::Bundle& in = *fbs::GetBundle(description.data());
  Bundle bundle;
  bundle.service = in.service()->str();
  bundle.instance = in.instance()->str();
  bundle.package = in.package()->str();
  bundle.next_handle = std::max(1u, in.next_handle());
  const std::size_t instances = in.instances() != nullptr ? in.instances()->size() : 0;
  const std::size_t requests = in.requests() != nullptr ? in.requests()->size() : 0;
  if (instances > kInstancesMax || requests > kRequestsMax) return Bad("more instances or requests than can be");
  for (unsigned i = 0; i < instances; ++i) {
    const fbs::Instance& instance = *in.instances()->Get(i);
    if (instance.offset() > footer.offset || instance.bytes() > footer.offset - instance.offset()) {
      return Bad("a snapshot lies outside of it");
    }
    GODWIT_ASSIGN(auto snapshot, snapshot::Decode(bytes.subspan(instance.offset(), instance.bytes())));
    bundle.snapshots.push_back(std::move(snapshot));
    bundle.memories.push_back(instance.memory() == 0 ? std::nullopt : std::optional(instance.memory() - 1));
  }
  CopyBudget copies(description.size());
  for (unsigned i = 0; i < requests; ++i) {
    if (!copies.Take(BytesOf(*in.requests()->Get(i)))) return Bad("requests share their bytes");
    GODWIT_ASSIGN(auto request, GetRequest(*in.requests()->Get(i), instances));
    bundle.requests.push_back(std::move(request));
  }
  return bundle;
}

}  // namespace godwit::agent
