// Two devices and a controller on this machine, for benchmarks of what happens between devices.
#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "cluster_client.h"

namespace godwit::cli {

// Compiles the sample services to `to`. `source`: the source tree's bench folder.
Status BuildServices(const std::filesystem::path& source, const std::filesystem::path& to);

class BenchCluster {
 public:
  // Devices "here" and "there".
  struct Plan {
    std::uint64_t mbps = 0;   // 0: both on the loopback interface; else "there" is in a network namespace behind a veth pair of that speed (`godwit up`; needs root).
    ByteCount memory;         // Of each, for instances.
    double there_cores = 64;  // Of the processor; only with a link.
    ByteCount data_cache;     // Of "here"; only with a link.
    bool there_apart = false;    // With a link and at most one core: on a processor of its own, where the machine has two; this process, too, leaves it alone.
    bool there_aarch64 = false;  // The AArch64 build, under qemu-user.
  };
  // `folder` exists and is empty.
  static Result<std::unique_ptr<BenchCluster>> Start(const std::filesystem::path& folder, const Plan& plan);
  virtual ~BenchCluster() = default;  // Ends everything that Start began.

  ClusterClient& client() { return *client_; }
  const Session& session() const { return session_; }
  // The gateway of "here".
  const std::string& gateway() const { return gateway_; }
  // What of it is emulated, for people.
  const std::vector<std::string>& emulated() const { return emulated_; }
  // Deploys a service of `services/` that may read the dataset "table" to `device`. `wasm`: where BuildServices put it; its manifest goes to `folder`.
  Status ApplyReader(const std::string& service, const std::filesystem::path& wasm, const std::filesystem::path& folder, const std::string& device = "here") const;
  // Runs `godwit WORDS` on it.
  Status Godwit(std::vector<std::string> words) const;

 protected:
  // Connects to the controller of `context` (a context file or an URL), and waits until both devices are ready.
  Status Connect(const std::string& context);

  Session session_;
  std::unique_ptr<ClusterClient> client_;
  std::string gateway_;
  std::vector<std::string> emulated_;
};

}  // namespace godwit::cli
