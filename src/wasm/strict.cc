#include "wasm/strict.h"

#include <wabt/binary-reader-nop.h>
#include <wabt/binary-reader.h>
#include <wabt/utf8.h>

#include <optional>
#include <string>
#include <vector>

#include "wasm/features.h"
#include "wasm/module.h"

namespace godwit::wasm {
namespace {

constexpr std::size_t kPreambleBytes = 8;
constexpr std::uint8_t kCustomSection = 0;

Error At(std::size_t offset, std::string what) {
  return InvalidArgument("offset " + std::to_string(offset) + ": " + std::move(what));
}

// An unsigned LEB128 number as the specification has it: at most five bytes, no unused bits.
Result<std::uint32_t> ReadU32(ByteView bytes, std::size_t& at, std::size_t end) {
  std::uint64_t value = 0;
  for (int shift = 0; shift < 35; shift += 7) {
    if (at == end) return At(at, "unexpected end");
    const std::uint8_t byte = bytes[at++];
    value |= std::uint64_t(byte & 0x7f) << shift;
    if (byte & 0x80) continue;
    if (value > 0xffffffff) return At(at, "integer too large");
    return static_cast<std::uint32_t>(value);
  }
  return At(at, "integer representation too long");
}

// Counts what comes, and ends the reading at what is too much.
class SizeReader final : public wabt::BinaryReaderNop {
 public:
  std::optional<Error> error;

  bool OnError(const wabt::Error&) override { return true; }  // Not to be printed.

  wabt::Result OnTypeCount(wabt::Index count) override { return AtMost(count, kTypesMax, "types"); }
  wabt::Result OnFunctionCount(wabt::Index count) override { return AtMost(count, kFunctionsMax, "functions"); }
  wabt::Result BeginFunctionBody(wabt::Index, wabt::Offset) override {
    is_loop_.clear();
    loops_ = 0;
    return wabt::Result::Ok;
  }
  wabt::Result OnOpcode(wabt::Opcode opcode) override {
    switch (opcode) {
      case wabt::Opcode::Block: case wabt::Opcode::Loop: case wabt::Opcode::If: case wabt::Opcode::Try:
        is_loop_.push_back(opcode == wabt::Opcode::Loop);
        loops_ += is_loop_.back();
        if (wabt::Failed(AtMost(loops_, kLoopNestingMax, "loops in each other"))) return wabt::Result::Error;
        return AtMost(static_cast<std::uint32_t>(is_loop_.size()), kNestingMax, "constructs in each other");
      case wabt::Opcode::End: case wabt::Opcode::Delegate:
        if (is_loop_.empty()) return wabt::Result::Ok;
        loops_ -= is_loop_.back();
        is_loop_.pop_back();
        return wabt::Result::Ok;
      default: return wabt::Result::Ok;
    }
  }

 private:
  wabt::Result AtMost(std::uint32_t count, std::uint32_t most, const char* what) {
    if (count <= most) return wabt::Result::Ok;
    if (!error) error = ResourceExhausted("more than " + std::to_string(most) + " " + what);
    return wabt::Result::Error;
  }
  std::vector<bool> is_loop_;  // Of the constructs around.
  std::uint32_t loops_ = 0;    // Of them.
};

// Follows the nesting of constructs, in bodies and in constant expressions.
class NestingReader final : public wabt::BinaryReaderNop {
 public:
  std::optional<Error> error;

  bool OnError(const wabt::Error&) override { return true; }  // Not to be printed.

  wabt::Result OnImportTable(wabt::Index, std::string_view, std::string_view, wabt::Index, wabt::Type type,
                             const wabt::Limits*) override {
    tables_.push_back(type);
    return wabt::Result::Ok;
  }
  wabt::Result OnTable(wabt::Index, wabt::Type type, const wabt::Limits*) override {
    tables_.push_back(type);
    return wabt::Result::Ok;
  }

  wabt::Result BeginFunctionBody(wabt::Index, wabt::Offset) override { return Begin(); }
  wabt::Result EndFunctionBody(wabt::Index) override { return End(); }
  wabt::Result BeginGlobalInitExpr(wabt::Index) override { return Begin(); }
  wabt::Result EndGlobalInitExpr(wabt::Index) override { return EndConstant(); }
  wabt::Result BeginElemSegmentInitExpr(wabt::Index) override { return Begin(); }
  wabt::Result EndElemSegmentInitExpr(wabt::Index) override { return EndConstant(); }
  wabt::Result BeginDataSegmentInitExpr(wabt::Index) override { return Begin(); }
  wabt::Result EndDataSegmentInitExpr(wabt::Index) override { return EndConstant(); }

  wabt::Result OnOpcode(wabt::Opcode opcode) override {
    if (depth_ == 0) return Fail("instructions after the end");
    ++instructions_;
    switch (opcode) {
      case wabt::Opcode::Block: case wabt::Opcode::Loop: case wabt::Opcode::If: case wabt::Opcode::Try: ++depth_; break;
      case wabt::Opcode::End: case wabt::Opcode::Delegate: --depth_; break;
      default: break;
    }
    return wabt::Result::Ok;
  }
  wabt::Result OnCallIndirectExpr(wabt::Index, wabt::Index table) override { return CheckTable(table); }
  wabt::Result OnReturnCallIndirectExpr(wabt::Index, wabt::Index table) override { return CheckTable(table); }

  wabt::Result OnDataCount(wabt::Index count) override {
    announced_ = count;
    return wabt::Result::Ok;
  }
  wabt::Result OnDataSegmentCount(wabt::Index count) override {
    segments_ = count;
    return wabt::Result::Ok;
  }
  wabt::Result EndModule() override {
    if (announced_ && *announced_ != segments_) return Fail("data count and data section have inconsistent lengths");
    return wabt::Result::Ok;
  }

 private:
  wabt::Result Fail(std::string what) {
    if (!error) error = At(state->offset, std::move(what));
    return wabt::Result::Error;
  }
  wabt::Result Begin() {
    depth_ = 1;
    instructions_ = 0;
    return wabt::Result::Ok;
  }
  wabt::Result End() { return depth_ == 0 ? wabt::Result(wabt::Result::Ok) : Fail("unexpected end: a construct is not closed"); }
  wabt::Result EndConstant() {
    return instructions_ == 1 && depth_ == 0 ? Fail("type mismatch: an empty constant expression") : End();
  }
  wabt::Result CheckTable(wabt::Index table) {
    if (table < tables_.size() && tables_[table] == wabt::Type::FuncRef) return wabt::Result::Ok;
    return Fail("type mismatch: call_indirect through a table that is not of functions");
  }

  std::vector<wabt::Type> tables_;
  std::uint64_t depth_ = 0, instructions_ = 0;
  std::optional<wabt::Index> announced_;
  wabt::Index segments_ = 0;
};

}  // namespace

Status CheckSections(ByteView binary) {
  std::size_t at = kPreambleBytes;
  while (at < binary.size()) {
    const std::uint8_t id = binary[at++];
    GODWIT_ASSIGN(const std::uint32_t size, ReadU32(binary, at, binary.size()));
    if (size > binary.size() - at) return At(at, "unexpected end: a section is longer than the module");
    const std::size_t end = at + size;
    if (id == kCustomSection) {
      GODWIT_ASSIGN(const std::uint32_t name, ReadU32(binary, at, end));
      if (name > end - at) return At(at, "unexpected end: a name is longer than its section");
      if (!wabt::IsValidUtf8(reinterpret_cast<const char*>(binary.data() + at), name)) {
        return At(at, "malformed UTF-8 encoding of a custom section's name");
      }
    }
    at = end;
  }
  return {};
}

Status CheckSize(ByteView binary) {
  SizeReader reader;
  const wabt::ReadBinaryOptions options(SupportedFeatures(), nullptr, /*read_debug_names=*/false,
                                        /*stop_on_first_error=*/true, /*fail_on_custom_section_error=*/false);
  (void)wabt::ReadBinary(binary.data(), binary.size(), &reader, options);
  return reader.error ? Status(*reader.error) : Status();
}

Status CheckInstructions(ByteView binary) {
  NestingReader reader;
  const wabt::ReadBinaryOptions options(SupportedFeatures(), nullptr, /*read_debug_names=*/false,
                                        /*stop_on_first_error=*/true, /*fail_on_custom_section_error=*/false);
  const auto read = wabt::ReadBinary(binary.data(), binary.size(), &reader, options);
  if (reader.error) return *reader.error;
  if (wabt::Failed(read)) return InvalidArgument("does not decode");
  return {};
}

}  // namespace godwit::wasm
