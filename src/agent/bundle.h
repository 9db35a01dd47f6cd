// Bundle: the encoding of a paused host (docs/formats/bundle.md): the snapshots of its running instances, one after
// the other, then a FlatBuffers description of its requests, then a footer that says where that is. Snapshots come
// first so that everything is written in one pass.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "agent/exchange.h"
#include "base/bytes.h"
#include "base/result.h"
#include "snapshot/snapshot.h"

namespace godwit::agent {

inline constexpr std::uint32_t kBundleVersion = 1;

struct BundledRequest {
  std::shared_ptr<Exchange> exchange;
  std::optional<std::uint32_t> instance;  // Index of the snapshot that serves it; nothing if it waits or is answered.
};

struct Bundle {
  std::string service, instance, package;
  std::uint32_t next_handle = 1;
  std::vector<BundledRequest> requests;  // In order.
  std::vector<snapshot::Snapshot> snapshots;
  // Of each snapshot: which of the memories that were sent on page streams is its own. Short: the others hold theirs.
  std::vector<std::optional<std::uint32_t>> memories;
};

Status EncodeBundle(const Bundle& bundle, const std::function<Status(ByteView)>& sink);
// The snapshots' views point into `bytes`. kCorrupt says what is wrong; kUnsupported for another version.
Result<Bundle> DecodeBundle(ByteView bytes);

}  // namespace godwit::agent
