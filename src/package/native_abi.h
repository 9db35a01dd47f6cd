// The contract between generated native code and the runtime: what lies where in a running instance's
// context, what an image's header holds, and what a stop and a resume look like to both sides.
//
// The compiler emits loads and stores at these offsets; the runtime fills them. Both include this file and
// nothing else of each other. Any change here changes kAbiVersion: images of another version are refused.
//
// Generated functions have the C calling convention of their ISA and the shape
//     R f(Context* context, uint8_t* memory, parameters...)
// where `memory` is the base of linear memory 0 (null where the module has none). i32/f32/i64/f64 are passed
// as such, funcref/externref as uint32_t ids (0 is null), several results as an LLVM struct of them.
//
// How a stop works. Others set bits of Context::state. A poll in the code sees state != 0 and calls
// Builtins::poll (which preserves all registers); the runtime decides there, and sets kUnwinding if the
// instance is to stop now. The code then appends a frame to the capture buffer (at capture_top) and returns;
// each caller sees kUnwinding after its call, appends its own frame and returns. The frame nearest to the
// bottom of the buffer is the innermost one. A frame is
//     payload (live values, packed, little-endian, layout from the module's safepoint records), padded to 8
//     u32 function index, u32 safepoint number within the function
// so it is read from its end.
//
// How a resume works. The runtime copies the frames into the buffer, sets resume_top to their end and
// capture_top and frames_base to their start, clears state, and calls the resume code of the outermost frame
// through the module's reentry thunk of the type of the function that was called first. A resume clone pops
// its own frame (lowers resume_top), and if resume_top != frames_base asks Builtins::next_resume for the next
// one's code and calls it, with resume_context and resume_memory, in place of the callee; else it goes on after its
// safepoint. Code of the fast level has no clones: its resume code sets `resuming` and calls the function itself, which
// clears it and does the same.
//
// How an exception works. Who throws puts its values into the context's exception cells and calls
// Builtins::throw_exception, which sets kException; it returns, and so does each caller that sees kException after
// its call, up to one that has a handler: that calls Builtins::catch_exception, which clears the bit, says the tag and
// puts the values into the cells of the handler's context. Nothing is captured meanwhile.
//
// How a tail call works. A function whose body makes tail calls has a second entry, of LLVM's calling convention
// tailcc, with the same shape; FunctionEntry::tail leads to it. Tail calls jump there; what has none is called and its
// result returned.
//
// A host function that was interrupted before it took effect sets kRestart and returns: the import's wrapper
// is then captured such that resuming calls the host function again with the same arguments.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

namespace godwit::abi {

inline constexpr std::uint32_t kAbiVersion = 6;
inline constexpr std::uint32_t kImageMagic = 0x49575747;  // "GWWI"

inline constexpr std::uint64_t kWasmPageBytes = 65536;
// Address space reserved for a 32-bit memory: a 32-bit index plus a 32-bit static offset plus the widest
// access always falls inside it.
inline constexpr std::uint64_t kMemoryReservation = (8ull << 30) + kWasmPageBytes;

// Bits of Context::state. Any thread may set kStop, kCancel and kSlow; only the instance's own thread clears
// bits, and only it sets the others.
enum StateBit : std::uint32_t {
  kStop = 1,        // Stop at the next safepoint and capture the stack.
  kCancel = 2,      // End the call with TrapCode::kCancelled.
  kSlow = 4,        // Come to the runtime at every safepoint (counting, throttling, time limits).
  kRestart = 8,     // The host function did not take effect: capture so that it is called again.
  kUnwinding = 16,  // The callee was captured; append a frame and return.
  kException = 32,  // The callee threw an exception; handle it or return.
};

// Why a call ended without a result. Append only: in snapshots, logs and problems.
enum class TrapCode : std::uint32_t {
  kNone = 0,
  kUnreachable = 1,
  kMemoryOutOfBounds = 2,
  kTableOutOfBounds = 3,
  kIndirectCallToNull = 4,
  kIndirectCallTypeMismatch = 5,
  kIntegerOverflow = 6,
  kIntegerDivideByZero = 7,
  kInvalidConversionToInteger = 8,
  kStackOverflow = 9,
  kCancelled = 10,       // Cancelled from outside, for example a request's deadline.
  kMemoryLimit = 11,     // Reserved: growth past the manifest's limit fails in the guest, it does not trap.
  kHostFailure = 12,     // A host function could not go on; the runtime holds the reason.
  kUndefinedElement = 13,  // call_indirect index past the table's end.
  kUncaughtException = 14,
};

struct Context;
using Code = void (*)();

// What a function reference or an import leads to; references are indices into Context::functions, 0 is null.
// A call passes the entry's context and memory, which are another instance's where instances are linked.
struct FunctionEntry {
  Code code;
  Context* context;
  std::uint8_t* memory;
  std::uint32_t signature;  // Equal numbers mean equal types, across all modules of the process. Never 0 but for null.
  std::int32_t tail;  // Distance in bytes from `code` to the entry for tail calls; 0: there is none.
};
static_assert(sizeof(FunctionEntry) == 32 && offsetof(FunctionEntry, tail) == 28);

struct Table {
  std::uint32_t* elements;  // References.
  std::uint32_t size;
  std::uint32_t maximum;
};
static_assert(sizeof(Table) == 16);

// Functions of the runtime that generated code calls. Offsets are part of the ABI: append only.
// They run on the guest's stack. `memory_index`, `table`, `segment` are the module's indices.
struct Builtins {
  void (*trap)(Context*, std::uint32_t trap_code);  // Does not return.
  // Preserves every register (LLVM's preserve_all convention). Sets kUnwinding if the instance is to stop here.
  void (*poll)(Context*);
  Code (*next_resume)(Context*);  // Resume code of the frame that ends at resume_top.
  std::uint32_t (*memory_grow)(Context*, std::uint32_t memory_index, std::uint32_t delta_pages);  // Old size in pages, or ~0u.
  // One chunk of a bulk operation, at most 16 KiB; already bounds-checked by the caller except where it says
  // otherwise. Addresses are offsets into memory 0.
  void (*memory_fill)(Context*, std::uint32_t to, std::uint32_t value, std::uint32_t bytes);
  void (*memory_copy)(Context*, std::uint32_t to, std::uint32_t from, std::uint32_t bytes);  // memmove
  void (*memory_init)(Context*, std::uint32_t segment, std::uint32_t to, std::uint32_t from, std::uint32_t bytes);  // Checks and traps.
  void (*data_drop)(Context*, std::uint32_t segment);
  // Tables: all check and trap.
  std::uint32_t (*table_get)(Context*, std::uint32_t table, std::uint32_t index);
  void (*table_set)(Context*, std::uint32_t table, std::uint32_t index, std::uint32_t reference);
  std::uint32_t (*table_grow)(Context*, std::uint32_t table, std::uint32_t reference, std::uint32_t delta);
  void (*table_fill)(Context*, std::uint32_t table, std::uint32_t to, std::uint32_t reference, std::uint32_t count);
  void (*table_copy)(Context*, std::uint32_t to_table, std::uint32_t from_table, std::uint32_t to, std::uint32_t from, std::uint32_t count);
  void (*table_init)(Context*, std::uint32_t segment, std::uint32_t table, std::uint32_t to, std::uint32_t from, std::uint32_t count);
  void (*elem_drop)(Context*, std::uint32_t segment);
  // Tags are numbers as Context::tags has them. Both return.
  void (*throw_exception)(Context*, std::uint32_t tag);
  std::uint32_t (*catch_exception)(Context*);
};

inline constexpr std::uint32_t kBulkChunkBytes = 16384;

// Global i lives at kGlobalsOffset + 16 * i, in the type's own representation. An imported mutable one lives in the
// exporting instance: its place here holds the address. The exception cells follow the last global, likewise of 16 bytes
// each: as many as the module's tag with the most parameters has.
struct Context {
  std::atomic<std::uint32_t> state;
  std::uint32_t function_base;      // The reference of module function i is function_base + i; at least 1.
  std::uint8_t* capture_top;        // 8
  std::uint8_t* resume_top;         // 16
  std::uint8_t* frames_base;        // 24
  const FunctionEntry* functions;   // 32: indexed by reference.
  const Builtins* builtins;         // 40
  const FunctionEntry* imports;     // 48: imported functions, indexed by import number.
  Table* tables;                    // 56: indexed by table index.
  std::uint64_t memory_bytes;       // 64: current size of memory 0.
  std::uint8_t* memory;             // 72: base of memory 0.
  const std::uint32_t* signatures;  // 80: process-wide signature of the module's type index.
  void* owner;                      // 88: the runtime's instance; generated code never reads it.
  const std::uint32_t* tags;        // 96: number of the module's tag index. Equal numbers are equal tags.
  Context* resume_context;          // 104: of the code that next_resume last gave.
  std::uint8_t* resume_memory;      // 112
  std::uint64_t resuming;           // 120: 1 while resume code calls a function that goes on in itself.
};
static_assert(offsetof(Context, capture_top) == 8 && offsetof(Context, functions) == 32 &&
              offsetof(Context, imports) == 48 && offsetof(Context, memory_bytes) == 64 &&
              offsetof(Context, signatures) == 80 && offsetof(Context, tags) == 96 && sizeof(Context) == 128);
inline constexpr std::uint32_t kGlobalsOffset = sizeof(Context);
inline constexpr std::uint32_t kGlobalBytes = 16;

// At an image's ELF entry address (e_entry), read-only. Offsets are in bytes from the header's own address
// and lead to arrays of int32 offsets of code, again from the header's address; 0 means none.
struct ImageHeader {
  std::uint32_t magic;
  std::uint32_t abi_version;
  std::uint8_t ir_hash[32];        // Of the instrumented IR: equal in all images of one package.
  std::uint32_t function_count;    // Defined functions and imports: indexed by the module's function index.
  std::uint32_t type_count;
  std::int32_t functions;          // [function_count] normal entry of each function (imports: their wrapper).
  std::int32_t resumes;            // [function_count] resume clone, or 0 where the function has no safepoint.
  // [type_count] void entry(Context*, uint8_t* memory, Code function, void* cells): calls a function of that
  // type with its parameters from `cells` (16 bytes each) and leaves its results there.
  std::int32_t entries;
  // [type_count] void reentry(Context*, uint8_t* memory, Code resume_code, void* cells): calls a resume
  // clone whose function has that type and leaves its results in `cells`.
  std::int32_t reentries;
  std::int32_t lines;      // LineTable, or 0 where there is nothing to say.
  std::int32_t tails;      // [function_count] entry for tail calls, or 0 where the function has none.
};
static_assert(sizeof(ImageHeader) == 72);

// Where native code comes from, for messages: functions whose lines the module's DWARF gives, and the parts of functions
// that lie apart from their entries, since they hardly ever run. It is followed by `parts` entries of
//     i32 code, from the table's own address; u32 function; u32 rows; rows x { u32 offset in the code; u32 file; u32 line }
// whose rows are in order of offset and reach up to the next (`file` is an offset into the strings; line 0: unknown), and at
// `strings` bytes from its beginning by `string_bytes` of file names, each ended by a zero.
struct LineTable {
  std::uint32_t parts;
  std::uint32_t strings;
  std::uint32_t string_bytes;
};

}  // namespace godwit::abi
