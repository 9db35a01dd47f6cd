#include "runtime/builtins.h"

#include <algorithm>
#include <cstring>

#include "runtime/guest_instance.h"

// A place inside the guest's call: what follows it may belong to another function, since the builtin may not return.
#define GODWIT_GUEST_PC() (reinterpret_cast<std::uintptr_t>(__builtin_return_address(0)) - 1)

extern "C" void godwit_poll(godwit::abi::Context*);
// Called by godwit_poll, which saved every register.
extern "C" __attribute__((visibility("hidden"))) void godwit_poll_slow(godwit::abi::Context* context, std::uintptr_t pc) {
  godwit::runtime::GuestInstance::From(context).Poll(pc);
}

namespace godwit::runtime {
namespace {

using abi::Context;
using abi::TrapCode;

bool Inside(std::uint64_t offset, std::uint64_t count, std::uint64_t whole) {
  return offset <= whole && count <= whole - offset;
}

void Trap(Context* context, std::uint32_t code) {
  GuestInstance::From(context).TrapAt(static_cast<TrapCode>(code), GODWIT_GUEST_PC());
}

abi::Code NextResume(Context* context) { return GuestInstance::From(context).NextResume(); }

std::uint32_t MemoryGrow(Context* context, std::uint32_t memory_index, std::uint32_t delta_pages) {
  return GuestInstance::From(context).GrowMemory(memory_index, delta_pages);
}

// The caller has checked the bounds of the whole operation; checked again, since a fault here would not be
// the guest's.
void MemoryFill(Context* context, std::uint32_t to, std::uint32_t value, std::uint32_t bytes) {
  if (!Inside(to, bytes, context->memory_bytes)) {
    GuestInstance::From(context).TrapAt(TrapCode::kMemoryOutOfBounds, GODWIT_GUEST_PC());
  }
  if (bytes != 0) std::memset(context->memory + to, static_cast<int>(value & 0xff), bytes);
}

void MemoryCopy(Context* context, std::uint32_t to, std::uint32_t from, std::uint32_t bytes) {
  if (!Inside(to, bytes, context->memory_bytes) || !Inside(from, bytes, context->memory_bytes)) {
    GuestInstance::From(context).TrapAt(TrapCode::kMemoryOutOfBounds, GODWIT_GUEST_PC());
  }
  if (bytes != 0) std::memmove(context->memory + to, context->memory + from, bytes);
}

void MemoryInit(Context* context, std::uint32_t segment, std::uint32_t to, std::uint32_t from, std::uint32_t bytes) {
  GuestInstance& instance = GuestInstance::From(context);
  const ByteView source = instance.DataSegment(segment);
  if (!Inside(from, bytes, source.size()) || !Inside(to, bytes, context->memory_bytes)) {
    instance.TrapAt(TrapCode::kMemoryOutOfBounds, GODWIT_GUEST_PC());
  }
  if (bytes != 0) std::memcpy(context->memory + to, source.data() + from, bytes);
}

void DataDrop(Context* context, std::uint32_t segment) { GuestInstance::From(context).DropData(segment); }

std::uint32_t TableGet(Context* context, std::uint32_t table_index, std::uint32_t index) {
  const abi::Table* table = GuestInstance::From(context).table(table_index);
  if (table == nullptr || index >= table->size) {
    GuestInstance::From(context).TrapAt(TrapCode::kTableOutOfBounds, GODWIT_GUEST_PC());
  }
  return table->elements[index];
}

void TableSet(Context* context, std::uint32_t table_index, std::uint32_t index, std::uint32_t reference) {
  abi::Table* table = GuestInstance::From(context).table(table_index);
  if (table == nullptr || index >= table->size) {
    GuestInstance::From(context).TrapAt(TrapCode::kTableOutOfBounds, GODWIT_GUEST_PC());
  }
  table->elements[index] = reference;
}

std::uint32_t TableGrow(Context* context, std::uint32_t table_index, std::uint32_t reference, std::uint32_t delta) {
  return GuestInstance::From(context).GrowTable(table_index, reference, delta);
}

void TableFill(Context* context, std::uint32_t table_index, std::uint32_t to, std::uint32_t reference, std::uint32_t count) {
  abi::Table* table = GuestInstance::From(context).table(table_index);
  if (table == nullptr || !Inside(to, count, table->size)) {
    GuestInstance::From(context).TrapAt(TrapCode::kTableOutOfBounds, GODWIT_GUEST_PC());
  }
  std::fill_n(table->elements + to, count, reference);
}

void TableCopy(Context* context, std::uint32_t to_table, std::uint32_t from_table, std::uint32_t to, std::uint32_t from,
               std::uint32_t count) {
  GuestInstance& instance = GuestInstance::From(context);
  abi::Table* target = instance.table(to_table);
  const abi::Table* source = instance.table(from_table);
  if (target == nullptr || source == nullptr || !Inside(to, count, target->size) || !Inside(from, count, source->size)) {
    instance.TrapAt(TrapCode::kTableOutOfBounds, GODWIT_GUEST_PC());
  }
  if (count != 0) std::memmove(target->elements + to, source->elements + from, std::uint64_t{count} * sizeof(std::uint32_t));
}

void TableInit(Context* context, std::uint32_t segment, std::uint32_t table, std::uint32_t to, std::uint32_t from,
               std::uint32_t count) {
  GuestInstance& instance = GuestInstance::From(context);
  if (!instance.CopyElements(segment, table, to, from, count)) {
    instance.TrapAt(TrapCode::kTableOutOfBounds, GODWIT_GUEST_PC());
  }
}

void ElemDrop(Context* context, std::uint32_t segment) { GuestInstance::From(context).DropElements(segment); }

void ThrowException(Context* context, std::uint32_t tag) { GuestInstance::From(context).Throw(tag); }

std::uint32_t CatchException(Context* context) { return GuestInstance::From(context).Catch(); }

constexpr abi::Builtins kBuiltins = {
    .trap = Trap,
    .poll = godwit_poll,
    .next_resume = NextResume,
    .memory_grow = MemoryGrow,
    .memory_fill = MemoryFill,
    .memory_copy = MemoryCopy,
    .memory_init = MemoryInit,
    .data_drop = DataDrop,
    .table_get = TableGet,
    .table_set = TableSet,
    .table_grow = TableGrow,
    .table_fill = TableFill,
    .table_copy = TableCopy,
    .table_init = TableInit,
    .elem_drop = ElemDrop,
    .throw_exception = ThrowException,
    .catch_exception = CatchException,
};

}  // namespace

const abi::Builtins& BuiltinTable() { return kBuiltins; }

}  // namespace godwit::runtime
