#include "wasm/module.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace godwit::wasm {
namespace {

using testing::HasSubstr;

// A module of these sections.
Bytes Binary(std::initializer_list<Bytes> sections) {
  Bytes binary{0, 'a', 's', 'm', 1, 0, 0, 0};
  for (const Bytes& section : sections) binary.insert(binary.end(), section.begin(), section.end());
  return binary;
}

std::string Refusal(ByteView source) {
  auto module = Read(source, "m");
  if (module.ok()) return "accepted";
  EXPECT_EQ(module.error().code, ErrorCode::kInvalidArgument);
  return module.error().message;
}

const Bytes kTypes{1, 4, 1, 0x60, 0, 0}, kFunctions{3, 2, 1, 0};

TEST(ModuleTest, ReadsBinaryAndText) {
  EXPECT_EQ(Refusal(Binary({kTypes, kFunctions, {10, 4, 1, 2, 0, 0x0b}})), "accepted");
  EXPECT_EQ(Refusal(AsBytes("(module (func))")), "accepted");
}

TEST(ModuleTest, ACarriageReturnEndsAComment) {
  EXPECT_EQ(Refusal(AsBytes("(module (func (result i32) ;; comment\ri32.const 1))")), "accepted");
}

TEST(ModuleTest, CustomSectionsAreNamedInUtf8) {
  EXPECT_EQ(Refusal(Binary({{0, 3, 2, 0xc3, 0xa9}})), "accepted");
  EXPECT_THAT(Refusal(Binary({{0, 3, 2, 0xc3, 0x28}})), HasSubstr("malformed UTF-8"));
}

TEST(ModuleTest, CustomSectionsHaveANameInsideThem) {
  EXPECT_THAT(Refusal(Binary({{0, 0}})), HasSubstr("unexpected end"));
  EXPECT_THAT(Refusal(Binary({{0, 2, 5, 'a'}})), HasSubstr("longer than its section"));
}

TEST(ModuleTest, SectionSizesAreShortNumbersInsideTheModule) {
  EXPECT_THAT(Refusal(Binary({{0, 0x83, 0x80, 0x80, 0x80, 0x80, 0, 1, 'a', 'b'}})), HasSubstr("representation too long"));
  EXPECT_THAT(Refusal(Binary({{0, 0x83, 0x80, 0x80, 0x80, 0x10, 1, 'a', 'b'}})), HasSubstr("integer too large"));
  EXPECT_THAT(Refusal(Binary({{0, 9, 1, 'a'}})), HasSubstr("longer than the module"));
}

TEST(ModuleTest, ConstructsAreClosed) {
  // block ... end, and no end of the body.
  EXPECT_THAT(Refusal(Binary({kTypes, kFunctions, {10, 6, 1, 4, 0, 0x02, 0x40, 0x0b}})), HasSubstr("not closed"));
  // A global's initialiser without an end.
  EXPECT_THAT(Refusal(Binary({kTypes, kFunctions, {6, 5, 1, 0x7f, 0, 0x41, 0}, {10, 4, 1, 2, 0, 0x0b}})), HasSubstr("not closed"));
}

TEST(ModuleTest, AnOffsetIsNotEmpty) {
  EXPECT_THAT(Refusal(Binary({{5, 3, 1, 0, 1}, {11, 4, 1, 0, 0x0b, 0}})), HasSubstr("empty constant expression"));
}

TEST(ModuleTest, AsManyDataSegmentsComeAsWereAnnounced) {
  EXPECT_EQ(Refusal(Binary({{12, 1, 0}})), "accepted");
  EXPECT_THAT(Refusal(Binary({{12, 1, 1}})), HasSubstr("inconsistent lengths"));
}

TEST(ModuleTest, ElementSegmentsMayReadImportedGlobals) {
  const auto text = [](std::string_view global) {
    return fmt::format("(module (global $g {}) (table 1 funcref) (elem (i32.const 0) funcref (ref.null func) (global.get $g)))", global);
  };
  auto module = Read(AsBytes(text("(import \"m\" \"g\") funcref")), "m");
  ASSERT_TRUE(module.ok()) << module.error().message;
  const wabt::ExprList& item = module->ir->elem_segments[0]->elem_exprs[1];
  ASSERT_EQ(item.front().type(), wabt::ExprType::GlobalGet);
  EXPECT_THAT(Refusal(AsBytes(text("(import \"m\" \"g\") externref"))), HasSubstr("type mismatch"));
  EXPECT_THAT(Refusal(AsBytes(text("(import \"m\" \"g\") (mut funcref)"))), HasSubstr("immutable"));
  EXPECT_THAT(Refusal(AsBytes(text("funcref (ref.null func)"))), HasSubstr("imported"));
}

TEST(ModuleTest, CallsLeadThroughTablesOfFunctions) {
  const std::string text = "(module (type (func)) (table 1 externref) (func (call_indirect (type 0) (i32.const 0))))";
  EXPECT_THAT(Refusal(AsBytes(text)), HasSubstr("not of functions"));
}

Bytes Leb(std::size_t value) {
  Bytes bytes;
  for (; value >= 0x80; value >>= 7) bytes.push_back(static_cast<std::uint8_t>(value | 0x80));
  bytes.push_back(static_cast<std::uint8_t>(value));
  return bytes;
}

Bytes operator+(Bytes a, const Bytes& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

Bytes Section(std::uint8_t id, const Bytes& content) { return Bytes{id} + Leb(content.size()) + content; }

Bytes Times(std::size_t count, const Bytes& bytes) {
  Bytes all;
  for (std::size_t i = 0; i < count; ++i) all.insert(all.end(), bytes.begin(), bytes.end());
  return all;
}

// "" if accepted.
std::string TooMuch(const Bytes& binary) {
  auto module = Read(binary, "m");
  if (module.ok()) return "";
  EXPECT_EQ(module.error().code, ErrorCode::kResourceExhausted);
  return module.error().message;
}

TEST(ModuleLimitsTest, TypesAreCountedBeforeTheyAreRead) {
  const auto types = [](std::size_t count) { return Binary({Section(1, Leb(count) + Times(count, {0x60, 0, 0}))}); };
  EXPECT_EQ(TooMuch(types(kTypesMax)), "");
  EXPECT_EQ(TooMuch(types(kTypesMax + 1)), "m: more than 20000 types");
}

TEST(ModuleLimitsTest, ConstructsNestSoDeepAndNoDeeper) {
  const auto nested = [](std::size_t depth, std::uint8_t construct = 0x02) {
    const Bytes body = Bytes{0} + Times(depth, {construct, 0x40}) + Times(depth + 1, {0x0b});
    return Binary({kTypes, kFunctions, Section(10, Bytes{1} + Leb(body.size()) + body)});
  };
  EXPECT_EQ(TooMuch(nested(kNestingMax)), "");
  EXPECT_EQ(TooMuch(nested(kNestingMax + 1)), "m: more than 50000 constructs in each other");
  constexpr std::uint8_t kLoop = 0x03;
  EXPECT_EQ(TooMuch(nested(kLoopNestingMax, kLoop)), "");
  EXPECT_EQ(TooMuch(nested(kLoopNestingMax + 1, kLoop)), "m: more than 2000 loops in each other");
}

TEST(ModuleLimitsTest, LocalsAndParametersAreCounted) {
  const auto locals = [](std::size_t count) {
    const Bytes body = Bytes{1} + Leb(count) + Bytes{0x7e, 0x0b};
    return Binary({kTypes, kFunctions, Section(10, Bytes{1} + Leb(body.size()) + body)});
  };
  EXPECT_EQ(TooMuch(locals(kLocalsMax)), "");
  EXPECT_EQ(TooMuch(locals(kLocalsMax + 1)), "m: func[0] has more than 50000 locals");
  const auto parameters = [](std::size_t count) {
    return Binary({Section(1, Bytes{1, 0x60} + Leb(count) + Times(count, {0x7f}) + Bytes{0}), kFunctions, {10, 4, 1, 2, 0, 0x0b}});
  };
  EXPECT_EQ(TooMuch(parameters(kParametersMax)), "");
  EXPECT_EQ(TooMuch(parameters(kParametersMax + 1)), "m: func[0] has more than 1000 parameters or results");
}

}  // namespace
}  // namespace godwit::wasm
