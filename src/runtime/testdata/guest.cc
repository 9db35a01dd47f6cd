// A guest module written by hand against package/native_abi.h, as the compiler would emit it: polls, spills,
// resume clones, entry thunks and the image header. Tests compile it to an image (test_guest.cc).
#include <cstdint>

#include "package/native_abi.h"

using godwit::abi::Code;
using godwit::abi::Context;
using godwit::abi::TrapCode;
using u8 = std::uint8_t;
using u32 = std::uint32_t;
using i32 = std::int32_t;
using i64 = std::int64_t;

#if defined(__clang__)
#define PRESERVE_ALL __attribute__((preserve_all))
#else
#define PRESERVE_ALL
#endif
using Poll = void (PRESERVE_ALL *)(Context*);

namespace {

// Whether the function must append its frame and return.
inline bool Stopping(Context* c) {
  if (c->state.load(std::memory_order_relaxed) == 0) [[likely]] return false;
  reinterpret_cast<Poll>(c->builtins->poll)(c);
  return (c->state.load(std::memory_order_relaxed) & godwit::abi::kUnwinding) != 0;
}

template <typename T>
void Push(Context* c, const T& payload, u32 function, u32 safepoint) {
  constexpr u32 padded = (sizeof(T) + 7) / 8 * 8;
  __builtin_memcpy(c->capture_top, &payload, sizeof(T));
  __builtin_memcpy(c->capture_top + padded, &function, 4);
  __builtin_memcpy(c->capture_top + padded + 4, &safepoint, 4);
  c->capture_top += padded + 8;
}

u32 SafepointOf(Context* c) {
  u32 safepoint;
  __builtin_memcpy(&safepoint, c->resume_top - 4, 4);
  return safepoint;
}

template <typename T>
T Pop(Context* c) {
  constexpr u32 padded = (sizeof(T) + 7) / 8 * 8;
  T payload;
  c->resume_top -= padded + 8;
  __builtin_memcpy(&payload, c->resume_top, sizeof(T));
  return payload;
}

template <typename R>
R ResumeCallee(Context* c, u8*) {
  const auto code = reinterpret_cast<R (*)(Context*, u8*)>(c->builtins->next_resume(c));
  return code(c->resume_context, c->resume_memory);
}

void Trap(Context* c, TrapCode code) { c->builtins->trap(c, static_cast<u32>(code)); }

struct SumFrame { i64 i, acc; i32 n; };
struct CallFrame { i64 kept, result; };
struct FillFrame { i64 pointer; u32 left, value; };

}  // namespace

extern "C" {

// --- 0..4: wrappers of imports ---
i32 f0(Context* c, u8* m, i32 x) { return reinterpret_cast<i32 (*)(Context*, u8*, i32)>(c->imports[0].code)(c, m, x); }
i32 f1(Context* c, u8* m, i32 x) {
  const i32 result = reinterpret_cast<i32 (*)(Context*, u8*, i32)>(c->imports[1].code)(c, m, x);
  if (Stopping(c)) {
    const bool again = (c->state.load() & godwit::abi::kRestart) != 0;
    Push(c, again ? x : result, 1, again ? 0 : 1);
    return 0;
  }
  return result;
}
i32 r1(Context* c, u8* m) {
  const bool again = SafepointOf(c) == 0;
  const i32 value = Pop<i32>(c);
  return again ? f1(c, m, value) : value;
}
void f2(Context* c, u8* m) { reinterpret_cast<void (*)(Context*, u8*)>(c->imports[2].code)(c, m); }
void f3(Context* c, u8* m, i32 x) { reinterpret_cast<void (*)(Context*, u8*, i32)>(c->imports[3].code)(c, m, x); }
void f4(Context* c, u8* m, i32 x) {
  reinterpret_cast<void (*)(Context*, u8*, i32)>(c->imports[4].code)(c, m, x);
  Stopping(c);
}

// --- 5: sum(n): 0 + 1 + ... + n - 1 ---
static i64 SumFrom(Context* c, i64 i, i64 acc, i64 n) {
  while (i < n) {
    acc += i++;
    if (Stopping(c)) {
      Push(c, SumFrame{i, acc, static_cast<i32>(n)}, 5, 0);
      return 0;
    }
  }
  return acc;
}
i64 f5(Context* c, u8*, i64 n) { return SumFrom(c, 0, 0, n); }
i64 r5(Context* c, u8*) {
  const SumFrame frame = Pop<SumFrame>(c);
  return SumFrom(c, frame.i, frame.acc, frame.n);
}

// --- 6: sum_twice(n): sum(n) + sum(n / 2) ---
static i64 AfterSecond(Context* c, i64 first, i64 second) {
  if (Stopping(c)) {
    Push(c, CallFrame{first, second}, 6, 1);
    return 0;
  }
  return first + second;
}
static i64 AfterFirst(Context* c, u8* m, i64 n, i64 first) {
  if (Stopping(c)) {
    Push(c, CallFrame{n, first}, 6, 0);
    return 0;
  }
  return AfterSecond(c, first, f5(c, m, n / 2));
}
i64 f6(Context* c, u8* m, i64 n) { return AfterFirst(c, m, n, f5(c, m, n)); }
i64 r6(Context* c, u8* m) {
  const u32 safepoint = SafepointOf(c);
  CallFrame frame = Pop<CallFrame>(c);
  const bool inner = c->resume_top != c->frames_base;
  if (inner) frame.result = ResumeCallee<i64>(c, m);
  // Without an inner frame the call had finished: go on behind its check.
  if (safepoint == 0) {
    return inner ? AfterFirst(c, m, frame.kept, frame.result) : AfterSecond(c, frame.result, f5(c, m, frame.kept / 2));
  }
  return inner ? AfterSecond(c, frame.kept, frame.result) : frame.kept + frame.result;
}

// --- 7: load(address) ---
i32 f7(Context*, u8* m, i32 address) { return *reinterpret_cast<volatile i32*>(m + static_cast<u32>(address)); }

// --- 8: recurse without end ---
__attribute__((noinline)) i32 f8(Context* c, u8* m, i32 x) {
  volatile i32 keep[16] = {x};
  return f8(c, m, x + 1) + keep[x & 15];
}

// --- 9: divide(a, b) ---
i32 f9(Context* c, u8*, i32 a, i32 b) {
  if (b == 0) Trap(c, TrapCode::kIntegerDivideByZero);
  return a / b;
}

// --- 10: wait_sum(x): wait(x) + wait(x + 1) ---
static i32 WaitSecond(Context* c, i32 first, i32 second) {
  if (Stopping(c)) {
    Push(c, CallFrame{first, second}, 10, 1);
    return 0;
  }
  return first + second;
}
static i32 WaitFirst(Context* c, u8* m, i32 x, i32 first) {
  if (Stopping(c)) {
    Push(c, CallFrame{x, first}, 10, 0);
    return 0;
  }
  return WaitSecond(c, first, f1(c, m, x + 1));
}
i32 f10(Context* c, u8* m, i32 x) { return WaitFirst(c, m, x, f1(c, m, x)); }
i32 r10(Context* c, u8* m) {
  const u32 safepoint = SafepointOf(c);
  CallFrame frame = Pop<CallFrame>(c);
  const bool inner = c->resume_top != c->frames_base;
  if (inner) frame.result = ResumeCallee<i32>(c, m);
  const i32 kept = static_cast<i32>(frame.kept), result = static_cast<i32>(frame.result);
  if (safepoint == 0) return inner ? WaitFirst(c, m, kept, result) : WaitSecond(c, result, f1(c, m, kept + 1));
  return inner ? WaitSecond(c, kept, result) : kept + result;
}

// --- 11: fill(address, count): bytes of value address & 0xff | 1; returns the sum of them ---
static i32 FillFrom(Context* c, u8* m, u8* p, u32 left, u32 value) {
  while (left != 0) {
    *reinterpret_cast<volatile u8*>(p++) = static_cast<u8>(value);
    --left;
    if (Stopping(c)) {
      Push(c, FillFrame{p - m, left, value}, 11, 0);
      return 0;
    }
  }
  return static_cast<i32>(value);
}
i32 f11(Context* c, u8* m, i32 address, i32 count) {
  return FillFrom(c, m, m + static_cast<u32>(address), static_cast<u32>(count), (static_cast<u32>(address) & 0xff) | 1);
}
i32 r11(Context* c, u8* m) {
  const FillFrame frame = Pop<FillFrame>(c);
  return FillFrom(c, m, m + frame.pointer, frame.left, frame.value);
}

void f12(Context* c, u8*) { Trap(c, TrapCode::kUnreachable); }
i32 f13(Context* c, u8*, i32 delta) { return static_cast<i32>(c->builtins->memory_grow(c, 0, static_cast<u32>(delta))); }
void f14(Context* c, u8* m) { f2(c, m); }
void f15(Context* c, u8* m, i32 x) { f3(c, m, x); }

// --- 16: call_indirect(index, x) of type (i32) -> i32 in table 0 ---
i32 f16(Context* c, u8*, i32 index, i32 x) {
  const godwit::abi::Table& table = c->tables[0];
  if (static_cast<u32>(index) >= table.size) Trap(c, TrapCode::kUndefinedElement);
  const godwit::abi::FunctionEntry& entry = c->functions[table.elements[index]];
  if (entry.signature == 0) Trap(c, TrapCode::kIndirectCallToNull);
  if (entry.signature != c->signatures[0]) Trap(c, TrapCode::kIndirectCallTypeMismatch);
  return reinterpret_cast<i32 (*)(Context*, u8*, i32)>(entry.code)(entry.context, entry.memory, x);
}

// --- 17: on_stack(x): keeps x on the C shadow stack (global 0) while it waits ---
static i32 OnStackEnd(Context* c, u8* m) {
  u32* sp = reinterpret_cast<u32*>(reinterpret_cast<u8*>(c) + godwit::abi::kGlobalsOffset);
  const i32 kept = *reinterpret_cast<volatile i32*>(m + *sp);
  *sp += 16;
  return kept;
}
i32 f17(Context* c, u8* m, i32 x) {
  u32* sp = reinterpret_cast<u32*>(reinterpret_cast<u8*>(c) + godwit::abi::kGlobalsOffset);
  *sp -= 16;
  *reinterpret_cast<volatile i32*>(m + *sp) = x;
  f1(c, m, x);
  if (Stopping(c)) {
    Push(c, i32{0}, 17, 0);
    return 0;
  }
  return OnStackEnd(c, m);
}
i32 r17(Context* c, u8* m) {
  Pop<i32>(c);
  if (c->resume_top != c->frames_base) {
    ResumeCallee<i32>(c, m);
    if (Stopping(c)) {
      Push(c, i32{0}, 17, 0);
      return 0;
    }
  }
  return OnStackEnd(c, m);
}

// --- 18: recurses without end, calling a host function that needs much stack at each level ---
__attribute__((noinline)) void f18(Context* c, u8* m) {
  volatile i32 keep[16] = {1};
  f4(c, m, keep[0]);
  f18(c, m);
  keep[1] = 0;
}

// --- 19: init(segment 1: to, from, bytes) ---
void f19(Context* c, u8*, i32 to, i32 from, i32 bytes) {
  c->builtins->memory_init(c, 1, static_cast<u32>(to), static_cast<u32>(from), static_cast<u32>(bytes));
}

// --- 20: table_ops(index, delta): grows table 0 and reads an element ---
i32 f20(Context* c, u8*, i32 index, i32 delta) {
  c->builtins->table_grow(c, 0, 0, static_cast<u32>(delta));
  return static_cast<i32>(c->builtins->table_get(c, 0, static_cast<u32>(index)));
}

// --- 21: spins for ever ---
void f21(Context* c, u8*) {
  for (;;) {
    if (Stopping(c)) {
      Push(c, i64{21}, 21, 0);
      return;
    }
  }
}
void r21(Context* c, u8* m) {
  Pop<i64>(c);
  f21(c, m);
}

// --- 22: registers(n): keeps many values live across polls that do not stop ---
i64 f22(Context* c, u8*, i64 n) {
  i64 a = n, b = n * 3, d = n * 5, e = n * 7, f = n * 11, g = n * 13, h = n * 17, k = n * 19, l = n * 23, o = n * 29;
  double p = 1, q = 2, r = 3, s = 4, t = 5, u = 6, v = 7, w = 8, x = 9, y = 10, z = 11;
  for (i64 i = 0; i < n; ++i) {
    a += b ^ i; b += d; d ^= e; e += f; f ^= g; g += h; h ^= k; k += l; l ^= o; o += a;
    p += q; q += r * 0.5; r += s; s -= t * 0.25; t += u; u -= v * 0.125; v += w; w -= x * 0.5; x += y; y -= z; z += p * 0.0625;
    if (Stopping(c)) return -1;
  }
  const double sum = p + q + r + s + t + u + v + w + x + y + z;
  i64 bits;
  __builtin_memcpy(&bits, &sum, 8);
  return a ^ b ^ d ^ e ^ f ^ g ^ h ^ k ^ l ^ o ^ bits;
}

// --- 23: depth(n): n nested calls, stoppable at the bottom and after each ---
static i32 DepthAfter(Context* c, i32 below) {
  if (Stopping(c)) {
    Push(c, CallFrame{0, below}, 23, 1);
    return 0;
  }
  return below + 1;
}
__attribute__((noinline)) i32 f23(Context* c, u8* m, i32 n) {
  if (n == 0) {
    if (Stopping(c)) Push(c, CallFrame{0, 0}, 23, 0);
    return 0;
  }
  return DepthAfter(c, f23(c, m, n - 1));
}
i32 r23(Context* c, u8* m) {
  const u32 safepoint = SafepointOf(c);
  const CallFrame frame = Pop<CallFrame>(c);
  if (safepoint == 0) return 0;
  if (c->resume_top != c->frames_base) return DepthAfter(c, ResumeCallee<i32>(c, m));
  return static_cast<i32>(frame.result) + 1;
}

// --- Thunks by type: 0 (i32)->i32, 1 ()->(), 2 (i32)->(), 3 (i64)->i64, 4 (i32,i32)->i32, 5 (i32,i32,i32)->() ---
#define CELL(T, i) (*reinterpret_cast<T*>(cells + 16 * (i)))
void e0(Context* c, u8* m, Code f, u8* cells) { CELL(i32, 0) = reinterpret_cast<i32 (*)(Context*, u8*, i32)>(f)(c, m, CELL(i32, 0)); }
void e1(Context* c, u8* m, Code f, u8*) { reinterpret_cast<void (*)(Context*, u8*)>(f)(c, m); }
void e2(Context* c, u8* m, Code f, u8* cells) { reinterpret_cast<void (*)(Context*, u8*, i32)>(f)(c, m, CELL(i32, 0)); }
void e3(Context* c, u8* m, Code f, u8* cells) { CELL(i64, 0) = reinterpret_cast<i64 (*)(Context*, u8*, i64)>(f)(c, m, CELL(i64, 0)); }
void e4(Context* c, u8* m, Code f, u8* cells) { CELL(i32, 0) = reinterpret_cast<i32 (*)(Context*, u8*, i32, i32)>(f)(c, m, CELL(i32, 0), CELL(i32, 1)); }
void e5(Context* c, u8* m, Code f, u8* cells) { reinterpret_cast<void (*)(Context*, u8*, i32, i32, i32)>(f)(c, m, CELL(i32, 0), CELL(i32, 1), CELL(i32, 2)); }
void t0(Context* c, u8* m, Code f, u8* cells) { CELL(i32, 0) = reinterpret_cast<i32 (*)(Context*, u8*)>(f)(c, m); }
void t1(Context* c, u8* m, Code f, u8*) { reinterpret_cast<void (*)(Context*, u8*)>(f)(c, m); }
void t3(Context* c, u8* m, Code f, u8* cells) { CELL(i64, 0) = reinterpret_cast<i64 (*)(Context*, u8*)>(f)(c, m); }
}

asm(R"(
        .section .rodata,"a"
        .balign 64
        .globl godwit_image
        .hidden godwit_image
godwit_image:
        .long 0x49575747, 6
        .fill 32, 1, 0xab
        .long 24, 6
        .long functions - godwit_image, resumes - godwit_image, entries - godwit_image, reentries - godwit_image
        .long lines - godwit_image, tails - godwit_image
functions:
        .long f0 - godwit_image, f1 - godwit_image, f2 - godwit_image, f3 - godwit_image
        .long f4 - godwit_image, f5 - godwit_image, f6 - godwit_image, f7 - godwit_image
        .long f8 - godwit_image, f9 - godwit_image, f10 - godwit_image, f11 - godwit_image
        .long f12 - godwit_image, f13 - godwit_image, f14 - godwit_image, f15 - godwit_image
        .long f16 - godwit_image, f17 - godwit_image, f18 - godwit_image, f19 - godwit_image
        .long f20 - godwit_image, f21 - godwit_image, f22 - godwit_image, f23 - godwit_image
resumes:
        .long 0, r1 - godwit_image, 0, 0
        .long 0, r5 - godwit_image, r6 - godwit_image, 0
        .long 0, 0, r10 - godwit_image, r11 - godwit_image
        .long 0, 0, 0, 0
        .long 0, r17 - godwit_image, 0, 0
        .long 0, r21 - godwit_image, 0, r23 - godwit_image
entries:
        .long e0 - godwit_image, e1 - godwit_image, e2 - godwit_image
        .long e3 - godwit_image, e4 - godwit_image, e5 - godwit_image
reentries:
        .long t0 - godwit_image, t1 - godwit_image, t1 - godwit_image
        .long t3 - godwit_image, t0 - godwit_image, t1 - godwit_image
tails:
        .fill 24, 4, 0
lines:
        .long 3, line_names - lines, line_names_end - line_names
        .long apart - lines, 3, 0
        .long f3 - lines, 3, 1
        .long 0, 0, 33
        .long f5 - lines, 5, 3
        .long 0, 0, 11
        .long 2, line_names_second - line_names, 12
        .long 4, 0, 0
line_names:
        .asciz "guest.c"
line_names_second:
        .asciz "sum.h"
line_names_end:
        .text
apart:
        .fill 16, 1, 0
)");
