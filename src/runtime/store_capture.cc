// Linked instances as snapshots and back. Each instance's snapshot has its own state, and a record (kLinkedRecord) of
// who provided its imports, the names it is registered under, and, if it was called, whose the frames are. What is read
// from a record is checked before it is believed.
#include <cstring>

#include <fmt/format.h>

#include "runtime/store.h"

namespace godwit::runtime {
namespace {

struct Linked {
  std::vector<std::uint32_t> providers;
  std::vector<std::string> names;
  std::vector<FrameRun> runs;
};

class Writer {
 public:
  void Number(std::uint64_t value) {
    bytes_.resize(bytes_.size() + sizeof value);
    std::memcpy(bytes_.data() + bytes_.size() - sizeof value, &value, sizeof value);
  }
  void Text(std::string_view text) {
    Number(text.size());
    bytes_.insert(bytes_.end(), text.begin(), text.end());
  }
  Bytes Take() { return std::move(bytes_); }

 private:
  Bytes bytes_;
};

// Reads what Writer wrote; `failed` once it does not fit.
class Reader {
 public:
  explicit Reader(ByteView bytes) : left_(bytes) {}
  bool failed = false;

  std::uint64_t Number() {
    std::uint64_t value = 0;
    if (left_.size() < sizeof value) {
      failed = true;
      return 0;
    }
    std::memcpy(&value, left_.data(), sizeof value);
    left_ = left_.subspan(sizeof value);
    return value;
  }
  // A count of things of at least `bytes` each.
  std::uint64_t Count(std::uint64_t bytes) {
    const std::uint64_t count = Number();
    failed |= count > left_.size() / bytes;
    return failed ? 0 : count;
  }
  std::string Text() {
    const std::uint64_t size = Count(1);
    std::string text(left_.begin(), left_.begin() + static_cast<std::ptrdiff_t>(size));
    left_ = left_.subspan(size);
    return text;
  }
  bool AtEnd() const { return left_.empty(); }

 private:
  ByteView left_;
};

Result<Linked> ReadRecord(const snapshot::Snapshot& snapshot, std::size_t position, std::size_t instances) {
  const auto bad = [&](const char* what) {
    return Corrupt(fmt::format("snapshot: the record of links of instance {} {}", position, what));
  };
  for (const snapshot::HostState& state : snapshot.host_states) {
    if (state.module != kLinkedRecord) continue;
    Reader reader(state.bytes);
    Linked linked;
    for (std::uint64_t left = reader.Count(8); left != 0; --left) {
      linked.providers.push_back(static_cast<std::uint32_t>(std::min<std::uint64_t>(reader.Number(), ~0u)));
      if (linked.providers.back() > position) return bad("names a provider that was not there");
    }
    for (std::uint64_t left = reader.Count(8); left != 0; --left) linked.names.push_back(reader.Text());
    std::uint64_t before = 0;
    for (std::uint64_t left = reader.Count(16); left != 0; --left) {
      const std::uint64_t owner = reader.Number(), end = reader.Number();
      if (owner >= instances || end <= before) return bad("has frames of no instance");
      linked.runs.push_back({static_cast<std::uint32_t>(owner), before = end});
    }
    if (reader.failed || !reader.AtEnd()) return bad("has a wrong size");
    return linked;
  }
  return bad("is missing");
}

}  // namespace

Bytes GuestStore::LinkedRecord(const GuestInstance& instance) const {
  Writer writer;
  writer.Number(instance.providers_.size());
  for (std::uint32_t provider : instance.providers_) writer.Number(provider);
  std::vector<std::string_view> names;
  for (const auto& [name, registered] : registered_) {
    if (registered == &instance) names.push_back(name);
  }
  writer.Number(names.size());
  for (std::string_view name : names) writer.Text(name);
  const auto* task = instance.tasks_.empty() ? nullptr : instance.tasks_.begin()->second.get();
  writer.Number(task != nullptr ? task->runs.size() : 0);
  for (std::size_t i = 0; task != nullptr && i < task->runs.size(); ++i) {
    writer.Number(task->runs[i].instance);
    writer.Number(task->runs[i].end);
  }
  return writer.Take();
}

Result<std::vector<snapshot::Snapshot>> GuestStore::Capture() {
  std::size_t calls = 0;
  for (const auto& instance : instances_) calls += instance->tasks_.size();
  if (calls > 1) return FailedPrecondition("more than one call runs in instances that are linked with each other");
  std::vector<snapshot::Snapshot> snapshots;
  capturing_ = true;
  Status status;
  for (const auto& instance : instances_) {
    auto captured = instance->Capture();
    if (!captured.ok()) {
      status = captured.error();
      break;
    }
    snapshots.push_back(std::move(captured).value());
    snapshots.back().host_states.push_back({std::string(kLinkedRecord), LinkedRecord(*instance)});
  }
  capturing_ = false;
  GODWIT_TRY(status);
  return snapshots;
}

std::vector<FrameRun> GuestStore::RunsOf(const GuestInstance& instance) const {
  const auto found = loaded_runs_.find(&instance);
  return found != loaded_runs_.end() ? found->second : std::vector<FrameRun>();
}

Status GuestStore::Load(std::vector<Part> parts) {
  std::uint64_t references = 1;
  for (const Part& part : parts) references += Module::From(*part.module).function_count();
  if (references > kStoreFunctionsMax) {
    return ResourceExhausted(fmt::format("linked instances have more than {} functions together", kStoreFunctionsMax));
  }
  references_expected_ = static_cast<std::uint32_t>(references);
  for (std::size_t position = 0; position < parts.size(); ++position) {
    Part& part = parts[position];
    GODWIT_ASSIGN(Linked linked, ReadRecord(*part.snapshot, position, parts.size()));
    GODWIT_ASSIGN(GuestInstance* const instance, LinkNext(part.module, std::move(part.hosts), part.limits, std::move(linked.providers)));
    GODWIT_TRY(instance->Load(*part.snapshot, nullptr));
    loaded_runs_[instance] = std::move(linked.runs);
    for (std::string& name : linked.names) Register(std::move(name), *instance);
  }
  // When all are there, since a call's frames may be of any of them.
  for (std::size_t position = 0; position < parts.size(); ++position) {
    GODWIT_TRY(instances_[position]->LoadStacks(*parts[position].snapshot));
  }
  loaded_runs_.clear();
  references_expected_ = 0;
  return {};
}

Result<std::unique_ptr<Store>> Store::Restore(std::vector<Part> parts) {
  GODWIT_ASSIGN(auto store, Create());
  GODWIT_TRY(static_cast<GuestStore&>(*store).Load(std::move(parts)));
  return store;
}

}  // namespace godwit::runtime
