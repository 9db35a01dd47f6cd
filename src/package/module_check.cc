#include "package/module_check.h"

#include <string>

#include "base/flatbuffer.h"
#include "package/native_abi.h"

namespace godwit::package {
namespace {

Error Bad(std::string what) { return Corrupt("module description: " + std::move(what)); }

// How many of a kind the module has: imported ones, then its own.
struct Counts {
  std::uint32_t types = 0, functions = 0, tables = 0, memories = 0, globals = 0, imported_globals = 0, tags = 0;

  std::uint32_t Of(fbs::ExternKind kind) const {
    switch (kind) {
      case fbs::ExternKind::function: return functions;
      case fbs::ExternKind::table: return tables;
      case fbs::ExternKind::memory: return memories;
      case fbs::ExternKind::global: return globals;
      case fbs::ExternKind::tag: return tags;
    }
    return 0;
  }
};

bool Known(fbs::ValueType type) { return type <= fbs::ValueType::MAX; }
bool Known(fbs::ExternKind kind) { return kind <= fbs::ExternKind::MAX; }
bool Known(fbs::SegmentMode mode) { return mode <= fbs::SegmentMode::MAX; }
bool IsReference(fbs::ValueType type) {
  return type == fbs::ValueType::funcref || type == fbs::ValueType::externref;
}

Status CheckShape(const fbs::Module& m) {
  if (!m.ir_hash() || m.ir_hash()->size() != 32) return Bad("ir_hash is not 32 bytes");
  if (!m.wasm_digest()) return Bad("no wasm_digest");
  if (!m.types() || !m.imports() || !m.functions() || !m.function_names() || !m.safepoints() ||
      !m.pointer_offsets() || !m.tables() || !m.memories() || !m.globals() || !m.exports() || !m.data() ||
      !m.elements() || !m.expressions() || !m.tags()) {
    return Bad("a list is missing");
  }
  return {};
}

Status CheckTypes(const fbs::Module& m) {
  for (const fbs::FunctionType* type : *m.types()) {
    if (!type->params() || !type->results()) return Bad("a type without parameter or result list");
    // The scoped enum's vector is read as bytes: a value out of range is not a fbs::ValueType yet.
    for (const auto* list : {type->params(), type->results()}) {
      for (flatbuffers::uoffset_t i = 0; i < list->size(); ++i) {
        if (list->Data()[i] > static_cast<std::uint8_t>(fbs::ValueType::MAX)) return Bad("an unknown value type");
      }
    }
  }
  return {};
}

Status CheckLimits(std::uint64_t minimum, std::uint64_t maximum, bool has_maximum, std::uint64_t limit,
                   std::string_view what) {
  if (minimum > limit || (has_maximum && (maximum < minimum || maximum > limit))) {
    return Bad(std::string(what) + " limits are not ordered or too large");
  }
  return {};
}

constexpr std::uint64_t kMemoryPagesMax = 65536;
constexpr std::uint64_t kTableElementsMax = 0xffffffff;

Status CheckTag(const fbs::Module& m, std::uint32_t type) {
  if (type >= m.types()->size()) return Bad("a tag's type is out of range");
  if (m.types()->Get(type)->params()->size() > kTagParametersMax) return Bad("a tag with too many parameters");
  return {};
}

// Checks the imports and counts what they and the module itself define.
Result<Counts> CheckImports(const fbs::Module& m) {
  Counts counts;
  counts.types = m.types()->size();
  for (const fbs::Import* import : *m.imports()) {
    if (!import->module_() || !import->name()) return Bad("an import without a name");
    if (!Known(import->kind()) || !Known(import->value_type())) return Bad("an import of an unknown kind");
    switch (import->kind()) {
      case fbs::ExternKind::function:
        if (import->type() >= counts.types) return Bad("an import's type is out of range");
        ++counts.functions;
        break;
      case fbs::ExternKind::table:
        if (!IsReference(import->value_type())) return Bad("an imported table of numbers");
        GODWIT_TRY(CheckLimits(import->minimum(), import->maximum(), import->has_maximum(), kTableElementsMax,
                               "an imported table's"));
        ++counts.tables;
        break;
      case fbs::ExternKind::memory:
        GODWIT_TRY(CheckLimits(import->minimum(), import->maximum(), import->has_maximum(), kMemoryPagesMax,
                               "an imported memory's"));
        ++counts.memories;
        break;
      case fbs::ExternKind::global:
        ++counts.globals;
        break;
      case fbs::ExternKind::tag:
        GODWIT_TRY(CheckTag(m, import->type()));
        ++counts.tags;
        break;
    }
  }
  if (counts.functions != m.imported_functions()) return Bad("imported_functions does not fit the imports");
  counts.imported_globals = counts.globals;
  if (m.functions()->size() == 0) return Bad("functions has no closing entry");
  counts.functions = m.functions()->size() - 1;
  if (counts.functions < m.imported_functions()) return Bad("fewer functions than imported ones");
  counts.tables += m.tables()->size();
  counts.memories += m.memories()->size();
  counts.globals += m.globals()->size();
  counts.tags += m.tags()->size();
  if (counts.memories > 1) return Bad("more than one memory");
  return counts;
}

Status CheckFunctions(const fbs::Module& m, const Counts& counts) {
  if (m.function_names()->size() != counts.functions) return Bad("function_names does not fit functions");
  const std::uint32_t safepoints = m.safepoints()->size();
  std::uint32_t begin = 0;
  for (std::uint32_t i = 0; i <= counts.functions; ++i) {
    const fbs::Function* function = m.functions()->Get(i);
    if (i < counts.functions && function->type() >= counts.types) return Bad("a function's type is out of range");
    if (function->safepoints_begin() < begin || function->safepoints_begin() > safepoints ||
        (i == 0 && function->safepoints_begin() != 0)) {
      return Bad("safepoints of function " + std::to_string(i) + " are out of order");
    }
    begin = function->safepoints_begin();
  }
  if (begin != safepoints) return Bad("safepoints that belong to no function");
  for (const fbs::Safepoint* safepoint : *m.safepoints()) {
    if (safepoint->payload_bytes() > kSafepointPayloadMax) return Bad("a frame larger than 16 MiB");
    if (safepoint->pointers_begin() > safepoint->pointers_end() ||
        safepoint->pointers_end() > m.pointer_offsets()->size()) {
      return Bad("a safepoint's pointers are out of range");
    }
    for (std::uint32_t i = safepoint->pointers_begin(); i < safepoint->pointers_end(); ++i) {
      const std::uint64_t offset = m.pointer_offsets()->Get(i);
      if (offset + 8 > safepoint->payload_bytes()) return Bad("a pointer outside its frame");
    }
  }
  return {};
}

// `globals` is how many globals the initialiser may read.
Status CheckInit(const fbs::Module& m, const fbs::Init* init, const Counts& counts, std::uint32_t globals);

// The steps must leave one value, with operands for each operation.
Status CheckExpression(const fbs::Module& m, const fbs::Init& init, const Counts& counts, std::uint32_t globals) {
  const std::uint64_t size = m.expressions()->size();
  if (init.lo() > kExpressionStepsMax || init.index() > size || init.lo() > size - init.index()) {
    return Bad("an initialiser's expression is out of range");
  }
  std::uint64_t values = 0;
  for (std::uint64_t i = 0; i < init.lo(); ++i) {
    const fbs::Init* step = m.expressions()->Get(static_cast<std::uint32_t>(init.index() + i));
    if (step->kind() == fbs::InitKind::expression) return Bad("an expression inside an expression");
    if (step->kind() < fbs::InitKind::expression) {
      GODWIT_TRY(CheckInit(m, step, counts, globals));
      ++values;
    } else if (step->kind() > fbs::InitKind::MAX || values < 2) {
      return Bad("an expression's step is unknown or lacks operands");
    } else {
      --values;
    }
  }
  return values == 1 ? Status() : Bad("an expression that does not leave one value");
}

Status CheckInit(const fbs::Module& m, const fbs::Init* init, const Counts& counts, std::uint32_t globals) {
  if (!init) return Bad("an initialiser is missing");
  switch (init->kind()) {
    case fbs::InitKind::constant:
    case fbs::InitKind::ref_null: return {};
    case fbs::InitKind::global_get:
      if (init->index() >= globals) return Bad("an initialiser's global is out of range");
      return {};
    case fbs::InitKind::ref_func:
      if (init->index() >= counts.functions) return Bad("an initialiser's function is out of range");
      return {};
    case fbs::InitKind::expression: return CheckExpression(m, *init, counts, globals);
    default: break;
  }
  return Bad("an initialiser of an unknown kind");
}

Status CheckDefinitions(const fbs::Module& m, const Counts& counts) {
  for (const fbs::TableType* table : *m.tables()) {
    if (!IsReference(table->element())) return Bad("a table of numbers");
    GODWIT_TRY(CheckLimits(table->minimum(), table->maximum(), table->has_maximum(), kTableElementsMax, "a table's"));
  }
  for (const fbs::Memory* memory : *m.memories()) {
    GODWIT_TRY(CheckLimits(memory->minimum(), memory->maximum(), memory->has_maximum(), kMemoryPagesMax, "a memory's"));
  }
  std::uint32_t readable = counts.imported_globals;
  for (const fbs::Global* global : *m.globals()) {
    if (!Known(global->type())) return Bad("a global of an unknown type");
    GODWIT_TRY(CheckInit(m, global->init(), counts, readable));
    ++readable;
  }
  for (const fbs::Tag* tag : *m.tags()) GODWIT_TRY(CheckTag(m, tag->type()));
  for (const fbs::Export* item : *m.exports()) {
    if (!item->name()) return Bad("an export without a name");
    if (!Known(item->kind()) || item->index() >= counts.Of(item->kind())) {
      return Bad("export '" + item->name()->str() + "' is out of range");
    }
  }
  if (m.has_start() && m.start() >= counts.functions) return Bad("the start function is out of range");
  return {};
}

Status CheckSegments(const fbs::Module& m, const Counts& counts) {
  for (const fbs::DataSegment* segment : *m.data()) {
    if (!segment->bytes()) return Bad("a data segment without bytes");
    if (!Known(segment->mode())) return Bad("a data segment of an unknown mode");
    if (segment->mode() == fbs::SegmentMode::active) {
      if (segment->memory() >= counts.memories) return Bad("a data segment's memory is out of range");
      GODWIT_TRY(CheckInit(m, segment->offset(), counts, counts.globals));
    }
  }
  for (const fbs::ElementSegment* segment : *m.elements()) {
    if (!segment->items()) return Bad("an element segment without items");
    if (!IsAligned(*segment->items())) return Bad("an element segment's items are not aligned");
    if (!Known(segment->mode())) return Bad("an element segment of an unknown mode");
    if (segment->mode() == fbs::SegmentMode::active) {
      if (segment->table_index() >= counts.tables) return Bad("an element segment's table is out of range");
      GODWIT_TRY(CheckInit(m, segment->offset(), counts, counts.globals));
    }
    for (const fbs::Init* item : *segment->items()) GODWIT_TRY(CheckInit(m, item, counts, counts.globals));
  }
  return {};
}

}  // namespace

Result<const fbs::Module*> CheckModule(ByteView bytes) {
  if (bytes.size() >= FLATBUFFERS_MAX_BUFFER_SIZE) return Bad("larger than 2 GiB");
  if (bytes.size() < 8) return Bad("too short");
  flatbuffers::Verifier verifier(bytes.data(), bytes.size(), 64, kDescriptionTablesMax);
  if (!fbs::VerifyModuleBuffer(verifier)) return Bad("not a valid FlatBuffer");
  const fbs::Module& m = *fbs::GetModule(bytes.data());
  if (m.abi_version() != abi::kAbiVersion) {
    return Unsupported("the package was built for ABI version " + std::to_string(m.abi_version()) +
                       ", this is version " + std::to_string(abi::kAbiVersion) + "; build it again");
  }
  GODWIT_TRY(CheckShape(m));
  if (!IsAligned(*m.expressions())) return Bad("the expressions are not aligned");
  GODWIT_TRY(CheckTypes(m));
  GODWIT_ASSIGN(const Counts counts, CheckImports(m));
  GODWIT_TRY(CheckFunctions(m, counts));
  GODWIT_TRY(CheckDefinitions(m, counts));
  GODWIT_TRY(CheckSegments(m, counts));
  return &m;
}

}  // namespace godwit::package
