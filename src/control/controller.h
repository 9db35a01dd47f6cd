// Controller: one process that serves the /v1 API (control/api.h) over the metadata store and keeps instances where
// the records say they should be (control/reconcile.h). It holds no state of its own but blobs and recent log lines.
#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>

#include "base/result.h"

namespace godwit::control {

class Controller {
 public:
  struct Options {
    std::string address = "127.0.0.1";
    std::uint16_t port = 0;             // 0: any free one.
    std::filesystem::path data;         // Folder for blobs and the embedded metadata store; made if absent.
    std::string metadata = "sqlite:";   // See store::OpenMetadata.
    std::string token;                  // Empty: none is asked for.
    std::chrono::seconds lease_ttl{20};
  };
  // Serves when it returns. kPermissionDenied: beyond loopback without a token. Errors of the store and of listening.
  static Result<std::unique_ptr<Controller>> Start(Options options);
  // Ends streams and requests under way.
  virtual ~Controller() = default;

  virtual std::uint16_t port() const = 0;
  // "http://ADDRESS:PORT".
  virtual std::string url() const = 0;
};

}  // namespace godwit::control
