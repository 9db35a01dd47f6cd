// What a guest can call: host modules and their functions.
//
// A host function is a plain C function of the shape R f(abi::Context*, std::uint8_t* memory, parameters...)
// that runs on the guest's stack. It must check every guest address against context->memory_bytes (use
// GuestMemory), never call back into the guest, and hold nothing that needs a destructor when it traps,
// exits or blocks past a cancellation (those abandon the stack).
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string_view>

#include "base/bytes.h"
#include "base/result.h"
#include "package/native_abi.h"

namespace godwit::runtime {

struct HostFunction {
  abi::Code code;
  std::string_view signature;  // Parameters then ':' then result: i=i32 I=i64 f=f32 F=f64, as in "iiii:i" or "I:".
};

// Functions of one import module name, and their state within one instance. Used by the instance's thread only.
class HostModule {
 public:
  virtual ~HostModule() = default;
  virtual std::string_view name() const = 0;
  virtual std::optional<HostFunction> Find(std::string_view function) const = 0;
  // State that travels in a snapshot. Save fails with kFailedPrecondition if the state cannot move, saying why.
  virtual Result<Bytes> Save() const = 0;
  virtual Status Load(ByteView state) = 0;
};

// Checked access to linear memory 0. A range that is not inside the memory's present size gives nullptr.
class GuestMemory {
 public:
  explicit GuestMemory(const abi::Context* context) : base_(context->memory), size_(context->memory_bytes) {}
  std::uint8_t* Range(std::uint64_t address, std::uint64_t bytes) const {
    return address <= size_ && bytes <= size_ - address ? base_ + address : nullptr;
  }
  std::uint64_t size() const { return size_; }

 private:
  std::uint8_t* base_;
  std::uint64_t size_;
};

}  // namespace godwit::runtime
