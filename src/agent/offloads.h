// Offloads: functions that run over datasets for this device's instances, where the data lies or here, as placement says; and
// the engine that runs what others send to the data here.
#pragma once

#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>

#include "agent/copied_data.h"
#include "agent/datasets.h"
#include "agent/environment.h"
#include "agent/kept_result.h"
#include "agent/links.h"
#include "device/engine.h"
#include "device/profile.h"
#include "placement/offload.h"

namespace godwit::agent {

// How long one piece of an offload runs before it is looked at again: where it goes on, and whether anybody still wants it.
inline constexpr std::chrono::milliseconds kOffloadSlice{250};
// Of all results that a service keeps on one device.
inline constexpr std::uint64_t kResultsBytesMax = 256 << 20;


// Self-synchronised.
class Offloads {
 public:
  struct Options {
    DeviceInfo info;
    device::Profile profile;
    std::shared_ptr<device::Foreground> foreground;  // The reads of the datasets here, which go before what runs over them.
    // May `service` read (write) it? Any thread.
    std::function<Status(const std::string& service, const model::DatasetName& dataset, bool write)> may;
    // Ranged reads of a dataset that is elsewhere, as Environment::DataRead has them.
    std::function<void(const Asker&, const model::DatasetName&, std::uint64_t offset, std::uint32_t length, std::function<void(Result<Bytes>)>)> read;
    Links::Connect connect;         // A channel to the agent at that address.
    bool rings = true;              // As Links has it.
    std::string channel_security;
    // Services' own functions.
    std::shared_ptr<device::Programs> programs;
    // The digest of a service's package; empty: not known.
    std::function<std::string(const std::string& service)> package_of;
    std::uint64_t results_bytes_max = kResultsBytesMax;
    std::uint64_t copies_bytes_max = 0;  // Of the data of other devices that is kept here for later work over it; 0: none is.
    // A dataset was made here.
    std::function<void(const DatasetInfo&)> made;
  };
  // `datasets` outlives it.
  Offloads(Options options, Datasets& datasets);
  ~Offloads();

  // Runs what peers and the command line ask for, over the datasets that are here.
  device::Engine& engine() { return *engine_; }

  // Where a dataset lies that is not here.
  struct Holder {
    DeviceInfo device;
    std::string address;
    model::BootId boot;
    std::uint64_t bytes = 0;  // Of the dataset.
    std::string digest;
  };
  // As Environment::Offload. nullopt: the dataset is here.
  std::shared_ptr<Pending> Run(const Asker& asker, const model::DatasetName& dataset, const std::optional<Holder>& holder,
                               const std::string& export_name, device::Request request, std::function<void(Result<device::Completion>)> done);

  // To the devices whose datasets functions run over.
  Links& links() { return links_; }

  // As Environment::Keep; always where the data lies.
  std::shared_ptr<Pending> Keep(const Asker& asker, const model::DatasetName& dataset, const std::optional<Holder>& holder, const std::string& export_name,
                                device::Request request, const model::DatasetName& result, std::function<void(Result<std::uint64_t>)> done);

  // Functions that run over the datasets here now.
  std::size_t running() const { return engine_->running(); }
  // Results, and states to go on from, that came from other devices.
  std::uint64_t moved_bytes() const { return moved_bytes_.load(); }
  // What was learned, and how good the predictions are: JSON.
  std::string Describe() const;
  // OpenMetrics text.
  std::string MetricsText() const;

 private:
  class LocalStorage;
  class FetchedStorage;
  struct Shared;
  using Count = std::function<void(const std::string& device_class, const device::Completion&)>;
  using Learn = std::function<void(const device::Completion&, double waited_us)>;  // Null: nothing to be learned.
  std::shared_ptr<Pending> RunAtHome(const Asker& asker, const model::DatasetName& dataset, const Holder& holder, const std::string& export_name,
                                     device::Request request, const Count& count, const Learn& learn, std::function<void(Result<device::Completion>)> done);
  // Submits `request`, whose function is `export_name`'s if that is not empty: it is loaded first where it is not there (any more).
  void Submit(const std::shared_ptr<device::Device>& device, const std::string& device_key, const std::string& export_name,
              device::Request request, device::Device::Done done);

  const Options options_;
  const std::shared_ptr<Shared> shared_;
  std::atomic<std::uint64_t> next_{1}, moved_bytes_{0};
  std::shared_ptr<FetchedStorage> fetched_;
  std::mutex mutex_;
  std::map<std::string, std::uint32_t> loaded_;  // Numbers of services' functions, by device, package and export.
  // Last: their completions use the rest.
  std::unique_ptr<device::Engine> engine_;  // Over the datasets here.
  std::unique_ptr<device::Engine> home_;    // Over fetched data.
  Links links_;
};

}  // namespace godwit::agent
