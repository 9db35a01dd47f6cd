#include "compiler/describe.h"

#include <wabt/cast.h>

#include "compiler/translate.h"
#include "package/module_generated.h"

namespace godwit::compiler {
namespace {

fbs::ValueType Convert(wabt::Type type) {
  switch (type) {
    case wabt::Type::I32: return fbs::ValueType::i32;
    case wabt::Type::I64: return fbs::ValueType::i64;
    case wabt::Type::F32: return fbs::ValueType::f32;
    case wabt::Type::F64: return fbs::ValueType::f64;
    case wabt::Type::V128: return fbs::ValueType::v128;
    case wabt::Type::ExternRef: return fbs::ValueType::externref;
    default: return fbs::ValueType::funcref;
  }
}

fbs::ExternKind Convert(wabt::ExternalKind kind) {
  switch (kind) {
    case wabt::ExternalKind::Table: return fbs::ExternKind::table;
    case wabt::ExternalKind::Memory: return fbs::ExternKind::memory;
    case wabt::ExternalKind::Global: return fbs::ExternKind::global;
    case wabt::ExternalKind::Tag: return fbs::ExternKind::tag;
    default: return fbs::ExternKind::function;
  }
}

fbs::SegmentMode Convert(wabt::SegmentKind kind) {
  switch (kind) {
    case wabt::SegmentKind::Active: return fbs::SegmentMode::active;
    case wabt::SegmentKind::Passive: return fbs::SegmentMode::passive;
    default: return fbs::SegmentMode::declared;
  }
}

fbs::InitKind ArithmeticOf(wabt::Opcode opcode) {
  switch (opcode) {
    case wabt::Opcode::I32Add: return fbs::InitKind::i32_add;
    case wabt::Opcode::I32Sub: return fbs::InitKind::i32_sub;
    case wabt::Opcode::I32Mul: return fbs::InitKind::i32_mul;
    case wabt::Opcode::I64Add: return fbs::InitKind::i64_add;
    case wabt::Opcode::I64Sub: return fbs::InitKind::i64_sub;
    case wabt::Opcode::I64Mul: return fbs::InitKind::i64_mul;
    default: GODWIT_CHECK(false, "an instruction that is not constant");
  }
}

// One instruction of a validated constant expression.
fbs::Init ConvertStep(const wabt::Expr& expr) {
  switch (expr.type()) {
    case wabt::ExprType::Const: {
      const wabt::Const& c = wabt::cast<wabt::ConstExpr>(&expr)->const_;
      if (c.type() == wabt::Type::V128) return fbs::Init(fbs::InitKind::constant, 0, c.vec128().u64(0), c.vec128().u64(1));
      const std::uint64_t lo = c.type() == wabt::Type::I64 || c.type() == wabt::Type::F64 ? c.u64() : c.u32();
      return fbs::Init(fbs::InitKind::constant, 0, lo, 0);
    }
    case wabt::ExprType::GlobalGet:
      return fbs::Init(fbs::InitKind::global_get, wabt::cast<wabt::GlobalGetExpr>(&expr)->var.index(), 0, 0);
    case wabt::ExprType::RefFunc:
      return fbs::Init(fbs::InitKind::ref_func, wabt::cast<wabt::RefFuncExpr>(&expr)->var.index(), 0, 0);
    case wabt::ExprType::Binary:
      return fbs::Init(ArithmeticOf(wabt::cast<wabt::BinaryExpr>(&expr)->opcode), 0, 0, 0);
    default: return fbs::Init(fbs::InitKind::ref_null, 0, 0, 0);
  }
}

// What two literals make.
std::uint64_t Fold(fbs::InitKind operation, std::uint64_t x, std::uint64_t y) {
  switch (operation) {
    case fbs::InitKind::i32_add: return static_cast<std::uint32_t>(x + y);
    case fbs::InitKind::i32_sub: return static_cast<std::uint32_t>(x - y);
    case fbs::InitKind::i32_mul: return static_cast<std::uint32_t>(x * y);
    case fbs::InitKind::i64_add: return x + y;
    case fbs::InitKind::i64_sub: return x - y;
    default: return x * y;
  }
}

// `expressions` receives the steps of what is more than literals or one instruction.
fbs::Init ConvertInit(const wabt::ExprList& exprs, std::vector<fbs::Init>& expressions) {
  if (exprs.empty()) return fbs::Init(fbs::InitKind::constant, 0, 0, 0);
  if (exprs.size() == 1) return ConvertStep(exprs.front());
  std::vector<fbs::Init> steps;
  for (const wabt::Expr& expr : exprs) {
    const fbs::Init step = ConvertStep(expr);
    const std::size_t n = steps.size();
    if (step.kind() > fbs::InitKind::expression && steps[n - 1].kind() == fbs::InitKind::constant &&
        steps[n - 2].kind() == fbs::InitKind::constant) {
      steps[n - 2] = fbs::Init(fbs::InitKind::constant, 0, Fold(step.kind(), steps[n - 2].lo(), steps[n - 1].lo()), 0);
      steps.pop_back();
    } else {
      steps.push_back(step);
    }
  }
  if (steps.size() == 1) return steps[0];
  const auto begin = static_cast<std::uint32_t>(expressions.size());
  expressions.insert(expressions.end(), steps.begin(), steps.end());
  return fbs::Init(fbs::InitKind::expression, begin, steps.size(), 0);
}

constexpr const char* kSyntheticNames[kSyntheticFunctions] = {"memory.fill", "memory.copy", "memory.init"};

std::vector<fbs::ValueType> Convert(const wabt::TypeVector& types) {
  std::vector<fbs::ValueType> result;
  for (wabt::Type type : types) result.push_back(Convert(type));
  return result;
}

}  // namespace

TypeTable MakeTypeTable(const wasm::Module& module) {
  TypeTable table;
  for (const wabt::TypeEntry* type : module.ir->types) {
    table.signatures.push_back(wabt::cast<wabt::FuncType>(type)->sig);
  }
  table.synthetic_types = static_cast<std::uint32_t>(table.signatures.size());
  for (unsigned i = 0; i < kSyntheticFunctions; ++i) table.signatures.push_back(SyntheticSignature(static_cast<Synthetic>(i)));
  return table;
}

Bytes DescribeModule(const wasm::Module& module, const TypeTable& types, std::vector<FunctionSafepoints> safepoints,
                     ByteView ir_hash, std::string_view wasm_digest, bool safepoints_enabled) {
  const wabt::Module& ir = *module.ir;
  flatbuffers::FlatBufferBuilder b(1 << 16);
  std::vector<fbs::Init> expressions;

  std::vector<flatbuffers::Offset<fbs::FunctionType>> type_offsets;
  for (const wabt::FuncSignature& sig : types.signatures) {
    type_offsets.push_back(fbs::CreateFunctionTypeDirect(b, std::make_unique<std::vector<fbs::ValueType>>(Convert(sig.param_types)).get(),
                                                         std::make_unique<std::vector<fbs::ValueType>>(Convert(sig.result_types)).get()));
  }
  std::vector<flatbuffers::Offset<fbs::Import>> imports;
  for (const wabt::Import* import : ir.imports) {
    std::uint32_t type = 0;
    fbs::ValueType value_type = fbs::ValueType::i32;
    bool is_mutable = false;
    wabt::Limits limits;
    if (auto* func = wabt::dyn_cast<wabt::FuncImport>(import)) {
      type = ir.GetFuncTypeIndex(func->func.decl);
    } else if (auto* tag = wabt::dyn_cast<wabt::TagImport>(import)) {
      type = ir.GetFuncTypeIndex(tag->tag.decl);
    } else if (auto* global = wabt::dyn_cast<wabt::GlobalImport>(import)) {
      value_type = Convert(global->global.type);
      is_mutable = global->global.mutable_;
    } else if (auto* memory = wabt::dyn_cast<wabt::MemoryImport>(import)) {
      limits = memory->memory.page_limits;
    } else if (auto* table = wabt::dyn_cast<wabt::TableImport>(import)) {
      limits = table->table.elem_limits;
      value_type = Convert(table->table.elem_type);
    }
    const auto module_name = b.CreateString(import->module_name), name = b.CreateString(import->field_name);
    imports.push_back(fbs::CreateImport(b, module_name, name, Convert(import->kind()), type, value_type, is_mutable,
                                        limits.initial, limits.max, limits.has_max));
  }

  std::sort(safepoints.begin(), safepoints.end(), [](const auto& x, const auto& y) { return x.function < y.function; });
  std::vector<fbs::Function> functions;
  std::vector<fbs::Safepoint> records;
  std::vector<std::uint32_t> pointers;
  std::vector<std::string> names;
  std::size_t next = 0;
  const std::uint32_t count = static_cast<std::uint32_t>(ir.funcs.size()) + kSyntheticFunctions;
  for (std::uint32_t i = 0; i < count; ++i) {
    const bool own = i < ir.funcs.size();
    const std::uint32_t type = own ? ir.GetFuncTypeIndex(ir.funcs[i]->decl) : types.synthetic_types + i - static_cast<std::uint32_t>(ir.funcs.size());
    functions.emplace_back(type, static_cast<std::uint32_t>(records.size()));
    names.push_back(own ? module.FunctionName(i) : kSyntheticNames[i - ir.funcs.size()]);
    if (next < safepoints.size() && safepoints[next].function == i) {
      for (const SafepointRecord& record : safepoints[next].safepoints) {
        const auto begin = static_cast<std::uint32_t>(pointers.size());
        pointers.insert(pointers.end(), record.memory_pointers.begin(), record.memory_pointers.end());
        records.emplace_back(record.payload_bytes, static_cast<std::uint8_t>(record.kind), begin,
                             static_cast<std::uint32_t>(pointers.size()));
      }
      ++next;
    }
  }
  functions.emplace_back(0, static_cast<std::uint32_t>(records.size()));

  std::vector<flatbuffers::Offset<fbs::TableType>> tables;
  for (std::size_t i = ir.num_table_imports; i < ir.tables.size(); ++i) {
    const wabt::Limits& limits = ir.tables[i]->elem_limits;
    tables.push_back(fbs::CreateTableType(b, Convert(ir.tables[i]->elem_type), limits.initial, limits.max, limits.has_max));
  }
  std::vector<flatbuffers::Offset<fbs::Memory>> memories;
  for (std::size_t i = ir.num_memory_imports; i < ir.memories.size(); ++i) {
    const wabt::Limits& limits = ir.memories[i]->page_limits;
    memories.push_back(fbs::CreateMemory(b, limits.initial, limits.max, limits.has_max));
  }
  std::vector<flatbuffers::Offset<fbs::Global>> globals;
  for (std::size_t i = ir.num_global_imports; i < ir.globals.size(); ++i) {
    const fbs::Init init = ConvertInit(ir.globals[i]->init_expr, expressions);
    globals.push_back(fbs::CreateGlobal(b, Convert(ir.globals[i]->type), ir.globals[i]->mutable_, &init));
  }
  std::vector<flatbuffers::Offset<fbs::Tag>> tags;
  for (std::size_t i = ir.num_tag_imports; i < ir.tags.size(); ++i) {
    tags.push_back(fbs::CreateTag(b, ir.GetFuncTypeIndex(ir.tags[i]->decl)));
  }
  std::vector<flatbuffers::Offset<fbs::Export>> exports;
  for (const wabt::Export* e : ir.exports) {
    // Names are any bytes, zero among them.
    exports.push_back(fbs::CreateExport(b, b.CreateString(e->name), Convert(e->kind), e->var.index()));
  }
  std::vector<flatbuffers::Offset<fbs::DataSegment>> data;
  for (const wabt::DataSegment* segment : ir.data_segments) {
    const fbs::Init offset = ConvertInit(segment->offset, expressions);
    data.push_back(fbs::CreateDataSegmentDirect(b, Convert(segment->kind), 0, &offset, &segment->data));
  }
  std::vector<flatbuffers::Offset<fbs::ElementSegment>> elements;
  for (const wabt::ElemSegment* segment : ir.elem_segments) {
    const fbs::Init offset = ConvertInit(segment->offset, expressions);
    std::vector<fbs::Init> items;
    for (const wabt::ExprList& item : segment->elem_exprs) items.push_back(ConvertInit(item, expressions));
    const std::uint32_t table = segment->kind == wabt::SegmentKind::Active ? segment->table_var.index() : 0;
    elements.push_back(fbs::CreateElementSegmentDirect(b, Convert(segment->kind), table, &offset, &items));
  }
  const Bytes hash(ir_hash.begin(), ir_hash.end());
  const std::string digest(wasm_digest);
  const auto root = fbs::CreateModule(
      b, abi::kAbiVersion, b.CreateVector(hash), b.CreateString(digest), b.CreateString(ir.name), safepoints_enabled,
      b.CreateVector(type_offsets), b.CreateVector(imports), ir.num_func_imports, b.CreateVectorOfStructs(functions),
      b.CreateVectorOfStrings(names), b.CreateVectorOfStructs(records), b.CreateVector(pointers), b.CreateVector(tables),
      b.CreateVector(memories), b.CreateVector(globals), b.CreateVector(exports), !ir.starts.empty(),
      ir.starts.empty() ? 0 : ir.starts[0]->index(), b.CreateVector(data), b.CreateVector(elements),
      b.CreateVectorOfStructs(expressions), b.CreateVector(tags), module.uses.exceptions);
  fbs::FinishModuleBuffer(b, root);
  return Bytes(b.GetBufferPointer(), b.GetBufferPointer() + b.GetSize());
}

}  // namespace godwit::compiler
