#include "wasm/element_globals.h"

#include <wabt/cast.h>

#include <string>

namespace godwit::wasm {
namespace {

constexpr std::size_t kPreambleBytes = 8;
constexpr std::uint8_t kElementSection = 9;
constexpr std::uint8_t kEnd = 0x0b, kGlobalGet = 0x23, kRefNull = 0xd0, kFuncref = 0x70;
// Bits of a segment's flags.
constexpr std::uint32_t kPassiveOrDeclared = 1, kExplicit = 2, kExpressions = 4;

// Walks an element section; `failed` where it is not as it should be.
struct Walk {
  Bytes& bytes;
  std::size_t at, end;
  bool failed = false;

  std::uint8_t Byte() {
    if (at >= end) failed = true;
    return failed ? kEnd : bytes[at++];
  }
  std::uint64_t Leb() {
    std::uint64_t value = 0;
    for (int shift = 0; shift < 64; shift += 7) {
      const std::uint8_t byte = Byte();
      value |= std::uint64_t(byte & 0x7f) << shift;
      if (!(byte & 0x80)) return value;
    }
    failed = true;
    return 0;
  }
  void Skip(std::size_t count) {
    if (count > end - at) failed = true;
    if (!failed) at += count;
  }
  // Past a constant expression.
  void Expression() {
    while (!failed) {
      switch (Byte()) {
        case kEnd: return;
        case 0x41: case 0x42: case kGlobalGet: case 0xd2: Leb(); break;  // i32.const, i64.const, ref.func
        case 0x43: Skip(4); break;                                       // f32.const
        case 0x44: Skip(8); break;                                       // f64.const
        case kRefNull: Skip(1); break;
        case 0xfd: Leb(); Skip(16); break;                               // v128.const
        case 0x6a: case 0x6b: case 0x6c: case 0x7c: case 0x7d: case 0x7e: break;  // Extended constants.
        default: failed = true;
      }
    }
  }
};

Status TakeFromSection(Walk& walk, std::vector<ElementGlobal>& taken) {
  const std::uint64_t segments = walk.Leb();
  for (std::size_t segment = 0; segment < segments && !walk.failed; ++segment) {
    const auto flags = static_cast<std::uint32_t>(walk.Leb());
    if (!(flags & kPassiveOrDeclared)) {
      if (flags & kExplicit) walk.Leb();
      walk.Expression();
    }
    std::uint8_t type = kFuncref;
    if (flags & (kPassiveOrDeclared | kExplicit)) type = walk.Byte();
    const std::uint64_t items = walk.Leb();
    for (std::size_t item = 0; item < items && !walk.failed; ++item) {
      if (!(flags & kExpressions)) {
        walk.Leb();
        continue;
      }
      const std::size_t begin = walk.at;
      const bool global = walk.Byte() == kGlobalGet;
      const std::uint64_t index = global ? walk.Leb() : 0;
      if (!global || walk.Byte() != kEnd) {
        walk.at = begin;
        walk.Expression();
        continue;
      }
      if (walk.failed) break;
      if (walk.at - begin != 3) return Unsupported("global.get of a global past 127 in an element segment");
      taken.push_back({segment, item, wabt::Var(static_cast<wabt::Index>(index), wabt::Location())});
      walk.bytes[begin] = kRefNull;
      walk.bytes[begin + 1] = type;
    }
  }
  return {};
}

}  // namespace

Result<std::vector<ElementGlobal>> TakeElementGlobals(Bytes& binary) {
  std::vector<ElementGlobal> taken;
  Walk walk{binary, kPreambleBytes, binary.size()};
  while (walk.at < binary.size() && !walk.failed) {
    const std::uint8_t id = walk.Byte();
    const std::uint64_t size = walk.Leb();
    if (walk.failed || size > binary.size() - walk.at) break;
    if (id == kElementSection) {
      Walk section{binary, walk.at, walk.at + static_cast<std::size_t>(size)};
      GODWIT_TRY(TakeFromSection(section, taken));
    }
    walk.at += static_cast<std::size_t>(size);
  }
  return taken;
}

std::vector<ElementGlobal> TakeElementGlobals(wabt::Module& module) {
  std::vector<ElementGlobal> taken;
  for (std::size_t segment = 0; segment < module.elem_segments.size(); ++segment) {
    wabt::ElemSegment& elements = *module.elem_segments[segment];
    for (std::size_t item = 0; item < elements.elem_exprs.size(); ++item) {
      wabt::ExprList& exprs = elements.elem_exprs[item];
      if (exprs.size() != 1 || exprs.front().type() != wabt::ExprType::GlobalGet) continue;
      taken.push_back({segment, item, wabt::cast<wabt::GlobalGetExpr>(&exprs.front())->var});
      exprs.clear();
      exprs.push_back(std::make_unique<wabt::RefNullExpr>(elements.elem_type));
    }
  }
  return taken;
}

Status PutElementGlobals(const std::vector<ElementGlobal>& taken, wabt::Module& module) {
  for (const ElementGlobal& one : taken) {
    const auto error = [&](const char* what) {
      return InvalidArgument("item " + std::to_string(one.item) + " of element segment " + std::to_string(one.segment) + ": " + what);
    };
    if (one.segment >= module.elem_segments.size() || one.item >= module.elem_segments[one.segment]->elem_exprs.size()) {
      return error("is not there");
    }
    wabt::ElemSegment& elements = *module.elem_segments[one.segment];
    const wabt::Index index = module.GetGlobalIndex(one.global);
    if (index >= module.globals.size()) return error("unknown global");
    if (index >= module.num_global_imports || module.globals[index]->mutable_) {
      return error("constant expression required: the global is not an imported, immutable one");
    }
    if (module.globals[index]->type != elements.elem_type) return error("type mismatch");
    wabt::ExprList& exprs = elements.elem_exprs[one.item];
    exprs.clear();
    exprs.push_back(std::make_unique<wabt::GlobalGetExpr>(wabt::Var(index, wabt::Location())));
  }
  return {};
}

}  // namespace godwit::wasm
