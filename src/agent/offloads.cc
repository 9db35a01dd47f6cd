#include "agent/offloads.h"

#include <condition_variable>
#include <utility>
#include <vector>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "device/built_in.h"
#include "package/package.h"

namespace godwit::agent {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::size_t kBlocksAhead = 3;  // That are asked for before they are needed.
constexpr std::size_t kReadersMax = 256;
// Where nothing is to be copied: the last blocks of each of so many works, for their next pieces. Of each what is ahead, the block that is read, and the
// one before it, in which the next line may begin.
constexpr std::size_t kFetchedBlocks = kBlocksAhead + 2;
constexpr std::uint64_t kFetchedWorks = 16;
constexpr std::chrono::milliseconds kEndingCheck{50};  // How often a fetch looks whether the agent ends; the channel's time-out bounds it otherwise.

double MicrosecondsSince(Clock::time_point begin) { return std::chrono::duration<double, std::micro>(Clock::now() - begin).count(); }

class DatasetSource final : public device::Source {
  static_assert(kCheckedBytes % Dataset::kBlockBytes == 0);

 public:
  explicit DatasetSource(std::shared_ptr<const Dataset> dataset) : dataset_(std::move(dataset)) {}
  std::uint64_t size() const override { return dataset_->size(); }
  Result<ByteView> Window(std::uint64_t offset, std::size_t bytes, Bytes& scratch) const override {
    // Whole blocks: others would be read twice to be checked.
    const std::uint64_t begin = offset / kCheckedBytes * kCheckedBytes, end = (offset + bytes + kCheckedBytes - 1) / kCheckedBytes * kCheckedBytes;
    scratch.resize(std::max<std::size_t>(scratch.size(), end - begin));
    GODWIT_ASSIGN(const std::size_t got, dataset_->Read(begin, std::span(scratch).first(end - begin)));
    const ByteView there = ByteView(scratch).first(got).subspan(std::min<std::size_t>(offset - begin, got));
    return there.first(std::min(bytes, there.size()));
  }
  std::optional<int> file() const override { return dataset_->file(); }
  Status Check(std::uint64_t offset, ByteView bytes) const override { return dataset_->Check(offset, bytes); }

 private:
  const std::shared_ptr<const Dataset> dataset_;
};

// Tells arguments apart, no more.
std::string HashOf(ByteView bytes) { return fmt::format("{:016x}", std::hash<std::string_view>()(AsText(bytes))); }

std::string NameOf(std::uint32_t function) {
  static const auto kFunctions = device::BuiltInFunctions();
  return function >= 1 && function <= kFunctions.size() ? std::string(kFunctions[function - 1]->name()) : fmt::format("function {}", function);
}

}  // namespace

// What outlives requests that are under way.
struct Offloads::Shared {
  std::atomic<bool> ending{false};
  std::mutex mutex;
  placement::OffloadChooser chooser;
  std::map<std::string, placement::OffloadLink> links;  // By device.
  std::map<std::pair<std::string, std::string>, std::uint64_t> counts;  // By class and result.

  void LearnLink(const std::string& device, std::uint64_t bytes, double us) {
    const std::lock_guard lock(mutex);
    links[device].Learn(bytes, us);
  }
};

// The datasets of this device.
class Offloads::LocalStorage final : public device::Storage {
 public:
  LocalStorage(const Options& options, Datasets& datasets) : options_(options), datasets_(datasets) {}
  Result<std::shared_ptr<const device::Source>> Open(const std::string& tenant, const std::string& object) override {
    const model::DatasetName name(object);
    if (!tenant.empty()) GODWIT_TRY(options_.may(tenant, name, false));
    GODWIT_ASSIGN(auto dataset, datasets_.Open(name));
    return std::shared_ptr<const device::Source>(std::make_shared<DatasetSource>(std::move(dataset)));
  }
  Status Create(const std::string& tenant, const std::string& object, ByteView bytes) override {
    const model::DatasetName name(object);
    GODWIT_TRY(model::CheckDatasetName(object));
    if (!tenant.empty()) GODWIT_TRY(options_.may(tenant, name, true));
    const std::lock_guard lock(creating_);
    std::uint64_t kept = bytes.size();
    for (const DatasetInfo& there : datasets_.List()) {
      if (there.name == name) {
        if (there.owner == tenant && there.digest == package::Sha256Digest(bytes)) return {};  // It was made, and nobody heard of it.
        return FailedPrecondition("there is a dataset '" + object + "' already; objects do not change");
      }
      if (there.owner == tenant) kept += there.bytes;
    }
    if (!tenant.empty() && kept > options_.results_bytes_max) {
      return ResourceExhausted(fmt::format("service '{}' would keep {} bytes of results here, and may keep {}: remove some (godwit data rm)", tenant, kept, options_.results_bytes_max));
    }
    GODWIT_ASSIGN(auto writer, datasets_.Write(name, tenant));
    GODWIT_TRY(writer->Write(bytes));
    GODWIT_ASSIGN(const DatasetInfo info, writer->Commit());
    options_.made(info);
    return {};
  }

 private:
  const Options& options_;
  Datasets& datasets_;
  std::mutex creating_;  // Of two with one name, one finds the other's.
};

// Datasets of other devices, read over the link, block by block. An object's name here is the number of a ticket.
class Offloads::FetchedStorage final : public device::Storage {
 public:
  struct Ticket {
    Asker asker;
    model::DatasetName dataset;
    Holder holder;
    std::uint64_t end = ~0ull;  // Of what is to be read.
    std::atomic<double> waited_us{0};
  };
  FetchedStorage(const Options& options, std::shared_ptr<Shared> shared)
      : options_(options), shared_(std::move(shared)), blocks_(std::make_shared<Blocks>(options.copies_bytes_max, options.copies_bytes_max != 0 ? ~std::size_t{0} : kFetchedBlocks)) {}
  const CopiedData& copies() const { return blocks_->copies; }
  // What one service may read, of one version of the data.
  static std::string KeyOf(const model::ServiceName& service, const model::DatasetName& dataset, const Holder& holder) {
    return service.value + " " + dataset.value + " " + holder.digest;
  }

  void Put(const std::string& number, std::shared_ptr<Ticket> ticket) {
    const std::lock_guard lock(mutex_);
    tickets_[number] = std::move(ticket);
  }
  void Drop(const std::string& number) {
    const std::lock_guard lock(mutex_);
    tickets_.erase(number);
  }
  Result<std::shared_ptr<const device::Source>> Open(const std::string&, const std::string& object) override {
    std::shared_ptr<Ticket> ticket;
    {
      const std::lock_guard lock(mutex_);
      const auto found = tickets_.find(object);
      if (found == tickets_.end()) return NotFound("no ticket " + object);
      ticket = found->second;
    }
    return std::shared_ptr<const device::Source>(std::make_shared<FetchedSource>(*this, std::move(ticket)));
  }
  Status Create(const std::string&, const std::string&, ByteView) override { return Unsupported("results are stored where the data is"); }

 private:
  class FetchedSource final : public device::Source {
   public:
    FetchedSource(FetchedStorage& storage, std::shared_ptr<Ticket> ticket)
        : storage_(storage), ticket_(std::move(ticket)), copy_(KeyOf(ticket_->asker.service, ticket_->dataset, ticket_->holder)) {}
    std::uint64_t size() const override { return ticket_->holder.bytes; }
    Result<ByteView> Window(std::uint64_t offset, std::size_t bytes, Bytes& scratch) const override {
      scratch.clear();
      while (scratch.size() < bytes && offset + scratch.size() < size()) {
        const std::uint64_t at = offset + scratch.size(), block = at / CopiedData::kBlockBytes;
        GODWIT_ASSIGN(const auto there, storage_.Block(*ticket_, copy_, block));
        const ByteView part = ByteView(*there).subspan(std::min<std::uint64_t>(at - block * CopiedData::kBlockBytes, there->size()));
        if (part.empty()) break;
        const std::size_t taken = std::min(part.size(), bytes - scratch.size());
        scratch.insert(scratch.end(), part.begin(), part.begin() + static_cast<std::ptrdiff_t>(taken));
      }
      return ByteView(scratch);
    }

   private:
    FetchedStorage& storage_;  // Of the engine that runs this.
    const std::shared_ptr<Ticket> ticket_;
    const std::string copy_;
  };

  // A block that is asked for.
  struct Arrival {
    std::mutex mutex;
    std::condition_variable changed;
    std::optional<Result<std::shared_ptr<const Bytes>>> block;
  };
  // Who reads a dataset from its begin to its end is asked for blocks ahead: the link and the processor work at the same time.
  struct Reader {
    std::uint64_t block = 0;
    std::size_t in_a_row = 0;
  };
  // What answers find that come when the storage is gone.
  struct Blocks {
    Blocks(std::uint64_t bytes_max, std::size_t blocks_max)
        : copies(bytes_max != 0 ? bytes_max : kFetchedWorks * blocks_max * CopiedData::kBlockBytes, blocks_max) {}
    CopiedData copies;
    std::mutex mutex;
    std::map<std::pair<std::string, std::uint64_t>, std::shared_ptr<Arrival>> asked;  // By copy and block.
    std::map<std::string, Reader> readers;                                            // By copy; of at most kReadersMax.
    std::map<std::string, Clock::time_point> arrived;                                 // When the last block of a device did.
  };

  Result<std::shared_ptr<const Bytes>> Block(Ticket& ticket, const std::string& copy, std::uint64_t block) {
    std::size_t ahead = 0;
    {
      const std::lock_guard lock(blocks_->mutex);
      if (blocks_->readers.size() >= kReadersMax && blocks_->readers.count(copy) == 0) blocks_->readers.erase(blocks_->readers.begin());
      Reader& reader = blocks_->readers[copy];
      if (block != reader.block) {
        reader.in_a_row = block == reader.block + 1 ? reader.in_a_row + 1 : 0;
        reader.block = block;
        ahead = std::min(reader.in_a_row, kBlocksAhead);
      }
    }
    auto there = blocks_->copies.Get(copy, block);
    const auto arrival = there ? nullptr : Ask(ticket, copy, block);
    const std::uint64_t end = std::min(ticket.end, ticket.holder.bytes);
    for (std::uint64_t next = block + 1; next <= block + ahead && next * CopiedData::kBlockBytes < end; ++next) {
      if (!blocks_->copies.Get(copy, next)) static_cast<void>(Ask(ticket, copy, next));
    }
    if (there) return there;
    const auto begin = Clock::now();
    std::unique_lock lock(arrival->mutex);
    while (!arrival->changed.wait_for(lock, kEndingCheck, [&] { return arrival->block.has_value(); })) {
      if (shared_->ending.load()) return Unavailable("the agent is ending");
    }
    ticket.waited_us = ticket.waited_us + MicrosecondsSince(begin);
    return *arrival->block;
  }

  std::shared_ptr<Arrival> Ask(const Ticket& ticket, const std::string& copy, std::uint64_t block) {
    const auto arrival = std::make_shared<Arrival>();
    {
      const std::lock_guard lock(blocks_->mutex);
      const auto [found, asked] = blocks_->asked.emplace(std::pair(copy, block), arrival);
      if (!asked) return found->second;
    }
    const std::uint64_t at = block * CopiedData::kBlockBytes, wanted = std::min(CopiedData::kBlockBytes, ticket.holder.bytes - std::min(ticket.holder.bytes, at));
    options_.read(ticket.asker, ticket.dataset, at, CopiedData::kBlockBytes,
                  [arrival, copy, block, wanted, blocks = blocks_, shared = shared_, device = ticket.holder.device.name, begin = Clock::now()](Result<Bytes> bytes) {
                    Result<std::shared_ptr<const Bytes>> came = bytes.ok() ? Result(std::make_shared<const Bytes>(std::move(*bytes))) : bytes.error();
                    // One that was cut short is of another version: no copy of this one.
                    if (came.ok() && (*came)->size() == wanted) blocks->copies.Put(copy, block, *came);
                    double us = 0;
                    {
                      const std::lock_guard lock(blocks->mutex);
                      blocks->asked.erase({copy, block});
                      Clock::time_point& last = blocks->arrived[device];
                      us = MicrosecondsSince(std::max(begin, last));  // Behind one that was on its way the link is the other's.
                      last = Clock::now();
                    }
                    if (came.ok()) shared->LearnLink(device, (*came)->size(), us);
                    const std::lock_guard lock(arrival->mutex);
                    arrival->block.emplace(std::move(came));
                    arrival->changed.notify_all();
                  });
    return arrival;
  }

  const Options& options_;
  const std::shared_ptr<Shared> shared_;
  std::mutex mutex_;
  std::map<std::string, std::shared_ptr<Ticket>> tickets_;
  const std::shared_ptr<Blocks> blocks_;
};

namespace {

// Ends a request under way.
class PendingRequest final : public Pending {
 public:
  PendingRequest(std::shared_ptr<device::Device> device, std::string tenant, std::uint64_t id)
      : device_(std::move(device)), tenant_(std::move(tenant)), id_(id) {}
  void Cancel() override {
    device::Request abort;
    abort.opcode = device::Opcode::kAbort;
    abort.tenant = tenant_;
    abort.value = id_;
    device_->Submit(std::move(abort), [](device::Completion) {});
  }

 private:
  const std::shared_ptr<device::Device> device_;
  const std::string tenant_;
  const std::uint64_t id_;
};

// Without an owner: the engine lives as long as its user.
std::shared_ptr<device::Device> Unowned(device::Device* device) { return std::shared_ptr<device::Device>(device, [](device::Device*) {}); }

}  // namespace

Offloads::Offloads(Options options, Datasets& datasets)
    : options_(std::move(options)), shared_(std::make_shared<Shared>()), links_(options_.rings, options_.channel_security, options_.connect) {
  fetched_ = std::make_shared<FetchedStorage>(options_, shared_);
  engine_ = std::make_unique<device::Engine>(device::Engine::Options{options_.profile, std::make_shared<LocalStorage>(options_, datasets),
                                                                     options_.programs, device::BuiltInFunctions(), options_.foreground});
  home_ = std::make_unique<device::Engine>(device::Engine::Options{options_.profile, fetched_, options_.programs, device::BuiltInFunctions(), nullptr});
}

Offloads::~Offloads() { shared_->ending = true; }

void Offloads::Submit(const std::shared_ptr<device::Device>& device, const std::string& device_key, const std::string& export_name,
                      device::Request request, device::Device::Done done) {
  if (export_name.empty()) return device->Submit(std::move(request), std::move(done));
  const std::string package = options_.package_of(request.tenant), key = device_key + " " + package + " " + export_name;
  {
    const std::lock_guard lock(mutex_);
    const auto found = loaded_.find(key);
    request.function = found != loaded_.end() ? found->second : 0;
  }
  if (request.function != 0) {
    return device->Submit(request, [this, device, device_key, export_name, key, request, done = std::move(done)](device::Completion completion) {
      // The device was started anew, or the dataset is not there, which the next try says again.
      bool again = !completion.status.ok() && completion.status.error().code == ErrorCode::kNotFound;
      if (again) {
        const std::lock_guard lock(mutex_);
        const auto found = loaded_.find(key);
        again = found != loaded_.end() && found->second == request.function;
        if (again) loaded_.erase(found);
      }
      if (!again) return done(std::move(completion));
      Submit(device, device_key, export_name, request, done);
    });
  }
  device::Request load;
  load.id = next_++;
  load.opcode = device::Opcode::kLoad;
  load.tenant = request.tenant;
  load.name = export_name;
  load.data.assign(package.begin(), package.end());
  device->Submit(std::move(load), [this, device, key, request = std::move(request), done = std::move(done)](device::Completion loaded) mutable {
    if (!loaded.status.ok()) return done(std::move(loaded));
    device::Request activate;
    activate.id = next_++;
    activate.opcode = device::Opcode::kActivate;
    activate.tenant = request.tenant;
    activate.function = request.function = static_cast<std::uint32_t>(loaded.value);
    device->Submit(std::move(activate), [this, device, key, request = std::move(request), done = std::move(done)](device::Completion active) mutable {
      if (!active.status.ok()) return done(std::move(active));
      {
        const std::lock_guard lock(mutex_);
        loaded_[key] = request.function;
      }
      device->Submit(std::move(request), std::move(done));
    });
  });
}

std::shared_ptr<Pending> Offloads::Run(const Asker& asker, const model::DatasetName& dataset, const std::optional<Holder>& holder,
                                       const std::string& export_name, device::Request request, std::function<void(Result<device::Completion>)> done) {
  request.opcode = device::Opcode::kExecute;
  request.tenant = asker.service.value;
  request.name = dataset.value;
  request.id = next_++;
  request.slice = kOffloadSlice;
  const std::uint64_t id = request.id;
  const std::string tenant = request.tenant, function = (export_name.empty() ? NameOf(request.function) : tenant + "/" + export_name) + "#" + HashOf(request.data);
  const auto count = [shared = shared_](const std::string& device_class, const device::Completion& completion) {
    const std::lock_guard lock(shared->mutex);
    ++shared->counts[{device_class, completion.pushed_back ? "pushed_back" : completion.status.ok() ? "ok" : "failed"}];
  };
  if (!holder) {
    auto device = Unowned(engine_.get());
    Submit(device, "engine", export_name, std::move(request), [count, own = options_.info.device_class, done = std::move(done)](device::Completion completion) {
      count(own, completion);
      done(std::move(completion));
    });
    return std::make_shared<PendingRequest>(std::move(device), tenant, id);
  }

  // Speeds before anything is measured: a device near the data is taken for a small one.
  const double near_speed = holder->device.device_class == "host" ? 1.0 : 0.3;
  std::vector<placement::OffloadSite> sites = {{holder->device.name, true, near_speed, 0}, {options_.info.name, false, options_.profile.speed, 0}};
  placement::OffloadLink link;
  placement::OffloadChoice choice;
  {
    const std::lock_guard lock(shared_->mutex);
    for (auto& site : sites) {
      const auto known = shared_->chooser.known().find({function.substr(0, function.find('#')), site.device});
      if (known != shared_->chooser.known().end()) site.queue_us = known->second.queue_us;
    }
    link = shared_->links[holder->device.name];
    const std::uint64_t begin = std::min(holder->bytes, request.offset), left = holder->bytes - begin, bytes = request.bytes != 0 ? std::min(left, request.bytes) : left;
    if (options_.copies_bytes_max > 0 && bytes > 0) {
      const std::string copy = FetchedStorage::KeyOf(asker.service, dataset, *holder);
      sites[1].here = static_cast<double>(fetched_->copies().Here(copy, begin, begin + bytes)) / static_cast<double>(bytes);
      if (holder->bytes <= options_.copies_bytes_max) {
        sites[1].copy = copy;
        sites[1].to_copy = holder->bytes - fetched_->copies().Here(copy, 0, holder->bytes);
      }
    }
    choice = shared_->chooser.Choose(function, sites, link, bytes, MicrosecondsSince({}));
  }
  const bool near = choice.site == 0;
  const placement::OffloadSite site = sites[choice.site];
  const auto begin = Clock::now();
  const auto learn = [shared = shared_, function, site, link, begin](const device::Completion& completion, double waited_us) {
    if (!completion.status.ok()) return;
    const std::lock_guard lock(shared->mutex);
    const placement::OffloadMeasurement measured{completion.read_bytes, completion.data.size(), static_cast<double>(completion.busy_us) - waited_us,
                                                 static_cast<double>(completion.queued_us), MicrosecondsSince(begin), static_cast<double>(completion.cpu_us)};
    shared->chooser.Learn(function, site.device, measured, shared->chooser.Predict(function, site, link, completion.read_bytes).total_us(), MicrosecondsSince({}));
  };
  if (near) {
    auto device = links_.To(holder->address, holder->boot);
    Submit(device, holder->address, export_name, request, [this, asker, dataset, holder = *holder, export_name, request, count, learn, function, away = sites[1], link, begin, done = std::move(done)](device::Completion completion) mutable {
      count(holder.device.device_class, completion);
      learn(completion, 0);
      if (completion.status.ok()) {
        moved_bytes_ += completion.data.size() + completion.state.size();
        const std::lock_guard lock(shared_->mutex);
        shared_->chooser.LearnOfCopy(function, away, link, completion.read_bytes, MicrosecondsSince(begin));
      }
      if (completion.pushed_back) return static_cast<void>(RunAtHome(asker, dataset, holder, export_name, std::move(request), count, nullptr, std::move(done)));
      done(std::move(completion));
    });
    return std::make_shared<PendingRequest>(std::move(device), tenant, id);
  }
  return RunAtHome(asker, dataset, *holder, export_name, std::move(request), count, learn, std::move(done));
}

std::shared_ptr<Pending> Offloads::Keep(const Asker& asker, const model::DatasetName& dataset, const std::optional<Holder>& holder, const std::string& export_name,
                                        device::Request request, const model::DatasetName& result, std::function<void(Result<std::uint64_t>)> done) {
  request.opcode = device::Opcode::kExecute;
  request.tenant = asker.service.value;
  request.name = dataset.value;
  request.id = next_++;
  request.slice = kOffloadSlice;
  const auto device = holder ? links_.To(holder->address, holder->boot) : Unowned(engine_.get());
  const std::string key = holder ? holder->address : "engine";
  return KeepResult(device, [this, device, key, export_name](device::Request piece, device::Device::Done then) {
    Submit(device, key, export_name, std::move(piece), std::move(then));
  }, std::move(request), result.value, std::move(done));
}

std::shared_ptr<Pending> Offloads::RunAtHome(const Asker& asker, const model::DatasetName& dataset, const Holder& holder, const std::string& export_name,
                                             device::Request request, const Count& count, const Learn& learn, std::function<void(Result<device::Completion>)> done) {
  const auto ticket = std::make_shared<FetchedStorage::Ticket>();
  ticket->asker = asker;
  ticket->dataset = dataset;
  ticket->holder = holder;
  if (request.bytes != 0) ticket->end = request.offset + std::min(request.bytes, ~request.offset);
  const std::string number = std::to_string(request.id), tenant = request.tenant;
  const std::uint64_t id = request.id;
  request.name = number;
  fetched_->Put(number, ticket);
  auto device = Unowned(home_.get());
  Submit(device, "home", export_name, std::move(request), [fetched = fetched_, number, ticket, count, learn, own = options_.info.device_class,
                                      done = std::move(done)](device::Completion completion) {
    fetched->Drop(number);
    count(own, completion);
    if (learn) learn(completion, ticket->waited_us.load());
    done(std::move(completion));
  });
  return std::make_shared<PendingRequest>(std::move(device), tenant, id);
}

std::string Offloads::Describe() const {
  const std::lock_guard lock(shared_->mutex);
  nlohmann::json functions = nlohmann::json::array(), links = nlohmann::json::array();
  for (const auto& [key, known] : shared_->chooser.known()) {
    if (key.first.find('#') != key.first.npos) continue;  // One of the arguments that it had.
    nlohmann::json entry = {{"function", key.first}, {"device", key.second}, {"pieces", known.pieces}, {"ns_per_byte", known.ns_per_byte}, {"cpu_ns_per_byte", known.cpu_ns_per_byte},
                            {"queue_us", known.queue_us}, {"selectivity", shared_->chooser.selectivity(key.first)}};
    if (const auto error = known.median_error()) entry["median_prediction_error"] = *error;
    functions.push_back(std::move(entry));
  }
  const std::uint64_t copied = fetched_->copies().bytes();
  for (const auto& [device, link] : shared_->links) links.push_back({{"device", device}, {"bytes_per_second", link.bytes_per_second}, {"latency_us", link.latency_us}});
  return nlohmann::json{{"functions", std::move(functions)}, {"links", std::move(links)}, {"copied_bytes", copied}}.dump();
}

std::string Offloads::MetricsText() const {
  const std::lock_guard lock(shared_->mutex);
  std::string text = "# TYPE godwit_offloads counter\n";
  for (const auto& [key, count] : shared_->counts) {
    text += fmt::format("godwit_offloads_total{{target_class=\"{}\",result=\"{}\"}} {}\n", key.first, key.second, count);
  }
  return text + links_.MetricsText();
}

}  // namespace godwit::agent
