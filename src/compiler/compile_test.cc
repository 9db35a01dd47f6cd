#include "compiler/compile.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>

#include "package/module_generated.h"
#include "package/native_abi.h"

namespace godwit::compiler {
namespace {

using package::Isa;
using testing::HasSubstr;

Options For(std::vector<Isa> targets) {
  Options options;
  options.targets = std::move(targets);
  return options;
}

Output MustCompile(std::string_view text, const Options& options) {
  auto output = Compile(AsBytes(text), "test.wat", options);
  if (!output.ok()) {
    ADD_FAILURE() << output.error().message;
    return {};
  }
  return std::move(output).value();
}

Error MustFail(std::string_view text) {
  auto output = Compile(AsBytes(text), "test.wat", For({Isa::kX86_64}));
  EXPECT_FALSE(output.ok());
  return output.ok() ? Error{} : output.error();
}

const fbs::Module& Description(const Output& output) {
  flatbuffers::Verifier verifier(output.module.data(), output.module.size());
  EXPECT_TRUE(fbs::VerifyModuleBuffer(verifier));
  return *fbs::GetModule(output.module.data());
}

std::uint32_t SafepointsOf(const fbs::Module& module, std::uint32_t function) {
  return module.functions()->Get(function + 1)->safepoints_begin() - module.functions()->Get(function)->safepoints_begin();
}

// A loop whose trip count is not known, so it must be polled.
constexpr std::string_view kLoop = R"((module (memory 1)
  (func (export "sum") (param $p i32) (param $n i32) (result i32) (local $s i32)
    (loop $l
      (local.set $s (i32.mul (i32.const 31) (i32.add (local.get $s) (i32.load (local.get $p)))))
      (local.set $p (i32.add (local.get $p) (i32.const 4)))
      (br_if $l (local.tee $n (i32.sub (local.get $n) (i32.const 1)))))
    (local.get $s))))";

TEST(CompileTest, SameInputGivesTheSameBytesOnAnyNumberOfThreads) {
  Options one = For({Isa::kX86_64, Isa::kAarch64}), two = one;
  one.threads = 1;
  two.threads = 2;
  const Output a = MustCompile(kLoop, one), b = MustCompile(kLoop, two);
  EXPECT_EQ(a.images, b.images);
  EXPECT_EQ(a.module, b.module);
}

TEST(CompileTest, ImagesOfAllIsasCarryTheSameIrHash) {
  const Output output = MustCompile(kLoop, For({Isa::kX86_64, Isa::kAarch64}));
  const auto* hash = Description(output).ir_hash();
  for (const auto& [isa, image] : output.images) {
    const std::string_view all(reinterpret_cast<const char*>(image.data()), image.size());
    EXPECT_NE(all.find(std::string_view(reinterpret_cast<const char*>(hash->data()), 32)), std::string_view::npos);
  }
}

TEST(CompileTest, AnUnboundedLoopIsPolledOnceAndAShortOneIsNot) {
  const Output unbounded = MustCompile(kLoop, For({Isa::kX86_64}));
  EXPECT_GE(SafepointsOf(Description(unbounded), 0), 1u);
  const Output bounded = MustCompile(R"((module (memory 1)
    (func (export "f") (param $x i32) (result i32) (local $i i32)
      (loop $l
        (local.set $x (i32.mul (local.get $x) (i32.add (local.get $x) (i32.const 7))))
        (i32.store (local.get $i) (local.get $x))
        (br_if $l (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (i32.const 100))))
      (local.get $x))))", For({Isa::kX86_64}));
  EXPECT_EQ(SafepointsOf(Description(bounded), 0), 0u);
}

TEST(CompileTest, CallsOfWhatCannotStopAreNotChecked) {
  const Output output = MustCompile(R"((module
    (import "m" "host" (func $host))
    (func $leaf (export "leaf") (param i32) (result i32) (i32.mul (local.get 0) (i32.const 3)))
    (func (export "quiet") (param i32) (result i32) (i32.add (call $leaf (local.get 0)) (i32.const 1)))
    (func (export "loud") (param i32) (result i32) (call $host) (local.get 0))))", For({Isa::kX86_64}));
  const fbs::Module& module = Description(output);
  EXPECT_EQ(SafepointsOf(module, 2), 0u);
  EXPECT_EQ(SafepointsOf(module, 3), 1u);
}

TEST(CompileTest, RecursionWithoutLoopsCanStop) {
  const Output output = MustCompile(R"((module
    (func $fib (export "fib") (param i32) (result i32)
      (if (result i32) (i32.lt_u (local.get 0) (i32.const 2))
        (then (local.get 0))
        (else (i32.add (call $fib (i32.sub (local.get 0) (i32.const 1)))
                       (call $fib (i32.sub (local.get 0) (i32.const 2)))))))))", For({Isa::kX86_64}));
  EXPECT_GE(SafepointsOf(Description(output), 0), 1u);
}

TEST(CompileTest, ACallThatNeverReturnsIsStillChecked) {
  const Output output = MustCompile(R"((module (memory 1)
    (func $spin (loop $l (i32.store (i32.const 0) (i32.add (i32.load (i32.const 0)) (i32.const 1))) (br $l)))
    (func (export "f") (result i32)
      (i32.store (i32.const 4) (i32.const 1)) (call $spin) (i32.load (i32.const 4)))))", For({Isa::kX86_64}));
  EXPECT_GE(SafepointsOf(Description(output), 1), 1u);
}

TEST(CompileTest, WithoutSafepointsThereAreNone) {
  Options options = For({Isa::kX86_64});
  options.safepoints = false;
  const Output output = MustCompile(kLoop, options);
  EXPECT_EQ(Description(output).safepoints()->size(), 0u);
  EXPECT_FALSE(Description(output).safepoints_enabled());
}

TEST(CompileTest, StopsAndClonesLieApartFromWhatRuns) {
  const auto has = [](const Output& output, std::string_view section) {
    for (const auto& [isa, image] : output.images) {
      if (std::string_view(reinterpret_cast<const char*>(image.data()), image.size()).find(section) == std::string_view::npos) return false;
    }
    return !output.images.empty();
  };
  Options options = For({Isa::kX86_64, Isa::kAarch64});
  const Output optimised = MustCompile(kLoop, options);
  EXPECT_TRUE(has(optimised, ".text.split"));
  EXPECT_TRUE(has(optimised, ".text.unlikely"));
  options.optimisation_level = 0;
  EXPECT_FALSE(has(MustCompile(kLoop, options), ".text.split")) << "the fast level does not take the time";
}

TEST(CompileTest, ImagesHaveNoDynamicRelocations) {
  const Output output = MustCompile(kLoop, For({Isa::kX86_64, Isa::kAarch64}));
  for (const auto& [isa, image] : output.images) {
    // Section headers are not needed to run; the names tell whether the linker made a relocation section.
    const std::string_view all(reinterpret_cast<const char*>(image.data()), image.size());
    EXPECT_EQ(all.find(".rela"), std::string_view::npos);
    EXPECT_EQ(std::memcmp(image.data(), "\177ELF", 4), 0);
  }
}

TEST(CompileTest, WhatIsNotSupportedIsRefusedByName) {
  const auto refused = [](std::string_view text, std::string_view feature) {
    const Error error = MustFail(text);
    EXPECT_THAT(error.message, HasSubstr(feature));
    EXPECT_EQ(error.code, ErrorCode::kUnsupported);
  };
  // Results that not every ISA returns in registers.
  refused("(module (func $f (result i32 i64 i32 i32) (return_call $f)))", "tail calls in a function with more than 3 integer");
  refused("(module (func $f (result f32 f64 f32) (return_call $f)))", "2 floating-point");
  refused("(module (func $f (result v128 v128 v128 f32 f32) (return_call $f)))", "4 floating-point and vector");
}

TEST(CompileTest, TailCallsAreRefusedForIsasThatCannotMakeThem) {
  constexpr std::string_view kTail = "(module (func $f (result i32 i64 i32 f64 f32) (return_call $f)))";
  const auto output = Compile(AsBytes(kTail), "test.wat", For({Isa::kX86_64, Isa::kRiscv64}));
  ASSERT_FALSE(output.ok());
  EXPECT_EQ(output.error().code, ErrorCode::kUnsupported);
  MustCompile(kTail, For({Isa::kX86_64, Isa::kAarch64}));
}

TEST(CompileTest, ATailCallInALoopOfThemIsPolledAndTheWrapperIsNot) {
  // The optimiser knows that it always gives 0.
  const Output output = MustCompile(R"((module
    (func $count (export "count") (param i64) (result i64)
      (if (result i64) (i64.eqz (local.get 0)) (then (local.get 0))
        (else (return_call $count (i64.sub (local.get 0) (i64.const 1))))))))", For({Isa::kX86_64}));
  EXPECT_EQ(SafepointsOf(Description(output), 0), 1u);
}

TEST(CompileTest, ExceptionsNeedNoCheckBeyondTheSafepoints) {
  // `f` calls one function that may throw and stop: one safepoint, and it keeps no value of the landing's.
  const Output output = MustCompile(R"((module (import "m" "host" (func $host)) (tag $e (param i32))
    (func $throws (param i32) (call $host) (throw $e (local.get 0)))
    (func (export "f") (param i32) (result i32)
      (try (result i32) (do (call $throws (local.get 0)) (i32.const 0)) (catch $e)))))", For({Isa::kX86_64, Isa::kAarch64}));
  const fbs::Module& module = Description(output);
  EXPECT_TRUE(module.catches_exceptions());
  EXPECT_EQ(module.tags()->size(), 1u);
  EXPECT_LE(SafepointsOf(module, 2), 1u);
}

TEST(CompileTest, ConstantExpressionsOfLiteralsAreLiterals) {
  const Output output = MustCompile(R"((module (import "m" "g" (global i32))
    (global i32 (i32.sub (i32.const 2) (i32.mul (i32.const 3) (i32.const 4))))
    (global i64 (i64.add (i64.const 0x100000000) (i64.const -1)))
    (global i32 (i32.add (global.get 0) (i32.const 1)))))", For({Isa::kX86_64}));
  const auto* globals = Description(output).globals();
  EXPECT_EQ(globals->Get(0)->init()->kind(), fbs::InitKind::constant);
  EXPECT_EQ(globals->Get(0)->init()->lo(), 0xfffffff6u);
  EXPECT_EQ(globals->Get(1)->init()->lo(), 0xffffffffu);
  EXPECT_EQ(globals->Get(2)->init()->kind(), fbs::InitKind::expression);
  EXPECT_EQ(Description(output).expressions()->size(), 3u);
}

TEST(CompileTest, WhatDoesNotDecodeOrValidateIsRefusedWithItsPlace) {
  EXPECT_THAT(MustFail("(module\n (func (result i32) (i64.const 1)))").message, HasSubstr("test.wat:2"));
  EXPECT_THAT(MustFail("(modul)").message, HasSubstr("test.wat:1"));
  const Bytes broken{0, 'a', 's', 'm', 1, 0, 0, 0, 99, 1, 0};
  auto output = Compile(broken, "broken.wasm", For({Isa::kX86_64}));
  ASSERT_FALSE(output.ok());
  EXPECT_EQ(output.error().code, ErrorCode::kInvalidArgument);
}

TEST(CompileTest, SafepointRecordsSayHowLargeTheFrameIs) {
  const Output output = MustCompile(kLoop, For({Isa::kX86_64}));
  const fbs::Module& module = Description(output);
  const fbs::Safepoint* safepoint = module.safepoints()->Get(module.functions()->Get(0)->safepoints_begin());
  // The pointer (or index), the count and the sum: three words, of which pointers take eight bytes.
  EXPECT_GE(safepoint->payload_bytes(), 12u);
  EXPECT_LE(safepoint->payload_bytes(), 32u);
}

}  // namespace
}  // namespace godwit::compiler
