// The built-in functions: results, errors, and that they go on after each small step as if they had not been stopped.
#include "device/built_in.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <cstring>
#include <fstream>
#include <random>

#include <fmt/format.h>
#include <lz4frame.h>
#include <nlohmann/json.hpp>
#include <sqlite3.h>
#include <zstd.h>

#include "device/arrow_generated.h"
#include "device/conformance.h"
#include "device/expression.h"
#include "device/lines.h"

namespace godwit::device {
namespace {

using nlohmann::json;

class Endless final : public Pace {
 public:
  bool Over(std::size_t) const override { return false; }
};
class OneStep final : public Pace {
 public:
  bool Over(std::size_t) const override { return true; }
};

std::string ResultOf(const Function& function, const std::string& arguments, const Source& source, const Pace& pace, Part part, int* steps = nullptr) {
  Bytes state;
  std::string output;
  for (;;) {
    auto work = function.Begin(AsBytes(arguments), state, part);
    if (!work.ok()) return "error: " + work.error().message;
    Bytes bytes;
    const auto finished = (*work)->Run(source, pace, &bytes);
    if (!finished.ok()) return "error: " + finished.error().message;
    output += AsText(bytes);
    if (steps != nullptr) ++*steps;
    if (*finished) return output;
    auto saved = (*work)->Save();
    if (!saved.ok()) return "error: " + saved.error().message;
    if (*saved == state) return "error: it did not go on";
    state = std::move(saved).value();
  }
}

std::string ResultOf(const Function& function, const std::string& arguments, const std::string& text) {
  const BytesSource source(AsBytes(text));
  return ResultOf(function, arguments, source, Endless(), {0, text.size()});
}

// Stopped after each step: the same.
void ExpectSameInSteps(const Function& function, const std::string& arguments, const std::string& text, int steps_min) {
  const BytesSource source(AsBytes(text));
  int steps = 0;
  EXPECT_EQ(ResultOf(function, arguments, source, OneStep(), {0, text.size()}, &steps), ResultOf(function, arguments, text)) << arguments;
  EXPECT_GE(steps, steps_min);
}

const std::string kColumns = R"J("columns": ["id int", "name text", "price decimal(2)", "day date", "weight real"])J";
const std::string kItems =
    "1,apple,1.50,2024-02-29,0.5\n"
    "2,\"pear, green\",2.25,2024-03-01,1.25\n"
    "3,\"say \"\"fig\"\"\",-0.75,2023-12-31,2\n"
    "4,apple,10,2024-02-29,1e3\n";

std::string Scan(const std::string& rest, const std::string& text = kItems) { return ResultOf(*MakeScan(), "{" + kColumns + ", " + rest + "}", text); }

TEST(ScanTest, GivesTheExpressionsOfTheRowsThatTheConditionHoldsFor) {
  EXPECT_EQ(Scan(R"J("where": "price > 1.5 and day >= date '2024-02-29'", "select": ["name", "price * 2", "day", "weight"])J"),
            "\"pear, green\",4.50,2024-03-01,1.25\napple,20.00,2024-02-29,1000\n");
  EXPECT_EQ(Scan(R"J("select": ["id - 5", "-price"], "limit": 2)J"), "-4,-1.50\n-3,-2.25\n");
  EXPECT_EQ(Scan(R"J("where": "name in ('apple', 'fig') or not id < 3 and name like '%\"fi_\"'", "select": ["id"])J"), "1\n3\n4\n");
  EXPECT_EQ(Scan(R"J("where": "day between date '2024-01-01' and date '2024-02-29'", "select": ["id"])J"), "1\n4\n");
  EXPECT_EQ(Scan(R"J("header": true, "select": ["id"])J", "id,name,price,day,weight\n" + kItems), "1\n2\n3\n4\n");
  EXPECT_EQ(Scan(R"J("select": ["id"])J", "7,x,1,2024-01-01,1"), "7\n") << "the last line without its end";
  EXPECT_EQ(Scan(R"J("select": ["weight"])J", "7,x,1,2024-01-01,1\r\n\r\n8,x,1,2024-01-01,2\r\n"), "1\n2\n");
}

TEST(ScanTest, CountsAndAddsUpInGroups) {
  EXPECT_EQ(Scan(R"J("aggregates": ["count", "sum(price)", "min(day)", "max(price)", "avg(price)", "sum(price * (1 - 0.1))", "sum(name = 'apple')"])J"),
            "4,13.00,2023-12-31,10.00,3.25,11.700,2\n");
  EXPECT_EQ(Scan(R"J("group": ["name"], "aggregates": ["count", "sum(weight)"])J"),
            "\"pear, green\",1,1.25\n\"say \"\"fig\"\"\",1,2\napple,2,1000.5\n");
  EXPECT_EQ(Scan(R"J("where": "id > 9", "aggregates": ["count", "sum(price)"])J"), "0,\n");
  EXPECT_EQ(Scan(R"J("where": "id > 9", "group": ["id"], "aggregates": ["count"])J"), "");
  EXPECT_EQ(Scan(R"J("group": ["day"])J"), "2023-12-31\n2024-02-29\n2024-03-01\n");
}

TEST(ScanTest, NamesWhatIsWrong) {
  const std::pair<std::string, std::string> cases[] = {
      {R"J("select": ["id"], "colour": 1)J", "'colour' is not known"},
      {R"J("where": "id")J", "'where' is no condition"},
      {R"J("where": "id > ", "select": ["id"])J", "character 6: the expression ends too soon"},
      {R"J("where": "id > 'a'", "select": ["id"])J", "int and text cannot be compared"},
      {R"J("where": "size > 1", "select": ["id"])J", "no column is called 'size'"},
      {R"J("where": "(id > 1", "select": ["id"])J", "')' is missing"},
      {R"J("where": "day > date '2023-02-29'", "select": ["id"])J", "'2023-02-29' is no date"},
      {R"J("select": ["name + 1"])J", "'+' needs numbers"},
      {R"J("select": ["price * price * price * price * price * price * price"])J", "more than 12 digits"},
      {R"J("aggregates": ["sum(name)"])J", "not possible for values of type text"},
      {R"J("aggregates": ["median(id)"])J", "it is count, or count, sum, min, max or avg"},
      {R"J("select": ["id"], "aggregates": ["count"])J", "does not go with groups"},
      {R"J("header": 1, "select": ["id"])J", "'header' must be true or false"},
      {R"J("delimiter": "", "select": ["id"])J", "'delimiter' must be one character"},
      {R"J("limit": -1, "select": ["id"])J", "'limit' must be a number"},
  };
  for (const auto& [arguments, message] : cases) {
    const std::string result = Scan(arguments);
    EXPECT_NE(result.find(message), std::string::npos) << arguments << ": " << result;
  }
  EXPECT_EQ(ResultOf(*MakeScan(), R"J({"columns": ["a int", "b real", "c text"], "where": "a is not null or b is null", "select": ["a", "b", "c"]})J", "1,2.5,\n,,x\n,1,\n"),
            "1,2.5,\n,,x\n") << "an empty field of a number is null";
  EXPECT_EQ(ResultOf(*MakeScan(), "[]", ""), "error: arguments of scan: not a JSON object");
  EXPECT_NE(ResultOf(*MakeScan(), R"J({"columns": ["id number"], "select": ["id"]})J", "").find("'number' is no type"), std::string::npos);
  EXPECT_NE(Scan(R"J("select": ["price"])J", kItems + "5,x,1.234,2024-01-01,1\n").find("from byte 0 on: line 4, column 'price': '1.234' is no number"),
            std::string::npos);
  EXPECT_NE(Scan(R"J("select": ["weight"])J", "5,x,1\n").find("line 0: it ends before column"), std::string::npos);
  EXPECT_NE(Scan(R"J("select": ["name"])J", "5,\"x,1\n").find("a quoted field does not end"), std::string::npos);
  EXPECT_NE(Scan(R"J("select": ["id * 9223372036854775807"])J").find("larger than 63 bits"), std::string::npos);
  std::string deep(200, '(');
  EXPECT_NE(Scan(fmt::format(R"J("where": "{}", "select": ["id"])J", deep)).find("nested too deeply"), std::string::npos);
  std::string many = "id = 1";
  for (int i = 0; i < 300; ++i) many += " or id = 1";
  EXPECT_NE(Scan(fmt::format(R"J("where": "{}", "select": ["id"])J", many)).find("more than 256 parts"), std::string::npos);
}

std::string ManyItems(int count) {
  std::mt19937 random(7);
  std::string text;
  for (int i = 0; i < count; ++i) {
    text += fmt::format("{},name {},{}.{:02},20{:02}-0{}-1{},{}\n", i, random() % 50, random() % 1000, random() % 100, random() % 30,
                        1 + random() % 9, random() % 10, (random() % 1000) / 8.0);
  }
  return text;
}

TEST(ScanTest, GoesOnWhereItWasAndEachRowBelongsToOnePart) {
  const std::string text = ManyItems(20'000);
  const std::string filter = "{" + kColumns + R"J(, "where": "price > 990 and weight < 60.5", "select": ["id", "name", "day"]})J";
  const std::string totals = "{" + kColumns + R"J(, "group": ["name"], "aggregates": ["count", "sum(price)", "min(price)", "max(weight)", "sum(weight)"]})J";
  ExpectSameInSteps(*MakeScan(), filter, text, 5);
  ExpectSameInSteps(*MakeScan(), totals, text, 5);
  const BytesSource source(AsBytes(text));
  const std::string whole = ResultOf(*MakeScan(), filter, text);
  std::mt19937 random(11);
  for (int trial = 0; trial < 20; ++trial) {
    std::vector<std::uint64_t> cuts = {0, text.size()};
    for (int i = 0; i < 5; ++i) cuts.push_back(random() % text.size());
    std::sort(cuts.begin(), cuts.end());
    std::string joined;
    for (std::size_t i = 0; i + 1 < cuts.size(); ++i) joined += ResultOf(*MakeScan(), filter, source, OneStep(), {cuts[i], cuts[i + 1]});
    ASSERT_EQ(joined, whole) << testing::PrintToString(cuts);
  }
}

TEST(LinesTest, EachByteBeginsInOnePart) {
  const std::string text = "a\n\nbb\nccc\nlast";
  const BytesSource source(AsBytes(text));
  for (std::uint64_t cut = 0; cut <= text.size(); ++cut) {
    std::string joined;
    for (const Part part : {Part{0, cut}, Part{cut, text.size()}}) {
      Lines lines(part, std::nullopt);
      for (;;) {
        const auto run = lines.Next(source);
        ASSERT_TRUE(run.ok());
        if (run->empty()) break;
        joined += *run;
      }
    }
    EXPECT_EQ(joined, text) << cut;
  }
  const std::string long_line = std::string(kLineBytesMax - 1, 'x') + "\ny\n", longer_line(kLineBytesMax + 1, 'x');
  const BytesSource one(AsBytes(long_line)), more(AsBytes(longer_line));
  Lines fits({0, one.size()}, std::nullopt), does_not({0, more.size()}, std::nullopt);
  EXPECT_EQ(fits.Next(one)->size(), kLineBytesMax);
  EXPECT_EQ(does_not.Next(more).error().code, ErrorCode::kInvalidArgument);
}

// JSON lines.

TEST(JsonLinesTest, MembersAreColumnsByName) {
  const std::string columns = R"J("format": "jsonl", "columns": ["price decimal(2)", "name text", "id int", "weight real", "day date", "missing int"])J";
  const std::string lines =
      R"({"id": 1, "name": "a \u00e9,\n", "price": 1.10, "deep": {"id": 7, "list": [1, {"price": 2}]}, "weight": 1, "day": "2024-02-29"})" "\n\n"
      R"({"price": "2.5", "id": true, "name": "", "day": "2024-03-01", "weight": -1.5e3, "more": null})" "\r\n";
  const auto scan = [&](const std::string& rest, const std::string& text) { return ResultOf(*MakeScan(), "{" + columns + ", " + rest + "}", text); };
  EXPECT_EQ(scan(R"J("select": ["id", "name", "price + 1", "weight", "day"])J", lines), "1,\"a \xc3\xa9,\n\",2.10,1,2024-02-29\n1,,3.50,-1500,2024-03-01\n");
  EXPECT_EQ(scan(R"J("where": "missing is null", "select": ["missing", "id"])J", lines), ",1\n,1\n");
  EXPECT_EQ(scan(R"J("aggregates": ["count", "count(id)", "sum(id)"])J", R"({"id": null})" "\n{}\n" R"({"id": 5})"), "3,1,5\n");
  EXPECT_EQ(scan(R"J("select": ["id"])J", "{\"id\": 1}\n{\"id\": [1]}"), "error: scan: counting lines from byte 10 on: line 0: member 'id' is no number or text");
  EXPECT_EQ(scan(R"J("select": ["id"])J", "{\"id\": 1"), "error: scan: counting lines from byte 0 on: line 0: is no JSON at character 9");
  for (const char* wrong : {"7", "[1]", "null", "{\"id\": 1.5}"}) EXPECT_THAT(scan(R"J("select": ["id"])J", wrong), ::testing::StartsWith("error: ")) << wrong;
  std::string many;
  for (int i = 0; i < 5000; ++i) many += fmt::format("{{\"name\": \"{}\", \"id\": {}, \"price\": 0.{:02}}}\n", i % 7, i, i % 100);
  ExpectSameInSteps(*MakeScan(), "{" + columns + R"J(, "group": ["name"], "aggregates": ["count", "sum(price * id)"]})J", many, 3);
}

// --- Arrow. The files were written by Arrow's own implementation for JavaScript (testdata/arrow_fixtures.mjs).

std::string Fixture(const std::string& name) {
  const char* folder = std::getenv("GODWIT_SOURCE_DIR");
  std::ifstream file(std::string(folder != nullptr ? folder : ".") + "/src/device/testdata/" + name, std::ios::binary);
  EXPECT_TRUE(file) << name;
  return {std::istreambuf_iterator<char>(file), {}};
}

const std::string kArrowColumns =
    R"J("format": "arrow", "columns": ["day date", "kind text", "name text", "id int", "big int", "weight real", "small real", "even int", "tiny int", "holes int"])J";

std::string ArrowScan(const std::string& rest, const std::string& bytes) { return ResultOf(*MakeScan(), "{" + kArrowColumns + ", " + rest + "}", bytes); }

TEST(ArrowTest, ColumnsOfAllKindsComeByName) {
  for (const char* name : {"items.arrow", "items.arrows"}) {
    EXPECT_EQ(ArrowScan(R"J("where": "id between 59 and 60", "select": ["id", "kind", "name", "big", "weight", "small", "day", "even", "tiny"])J", Fixture(name)),
              "59,\"say \"\"fig\"\"\",name 59,59000000413,14.75,7.375,2024-02-29,0,59\n60,apple,name 60,60000000420,15,7.5,2024-03-01,1,60\n");
  }
  EXPECT_EQ(ArrowScan(R"J("group": ["kind"], "aggregates": ["count", "min(id)", "max(name like '%9')", "avg(weight)"])J", Fixture("items.arrows")),
            "\"pear, green\",1000,1,1,374.875\n\"say \"\"fig\"\"\",1000,2,1,375.125\napple,1000,0,1,374.625\n");
  EXPECT_EQ(ArrowScan(R"J("where": "kind = 'apple'", "select": ["id"], "limit": 2)J", Fixture("items.arrows")), "0\n3\n");
}

TEST(ArrowTest, GoesOnAfterEachStepAndInParts) {
  const std::string bytes = Fixture("items.arrows");
  ExpectSameInSteps(*MakeScan(), "{" + kArrowColumns + R"J(, "where": "even = 1 and kind != 'apple'", "select": ["id", "kind"]})J", bytes, 3);
  ExpectSameInSteps(*MakeScan(), "{" + kArrowColumns + R"J(, "group": ["kind"], "aggregates": ["sum(big)"]})J", bytes, 3);
  const std::string arguments = "{" + kArrowColumns + R"J(, "select": ["id", "kind"]})J";
  const std::string whole = ResultOf(*MakeScan(), arguments, bytes);
  const BytesSource source(AsBytes(bytes));
  for (const std::uint64_t cut : {std::uint64_t{1}, std::uint64_t{bytes.size() / 2}, std::uint64_t{bytes.size() - 1}}) {
    EXPECT_EQ(ResultOf(*MakeScan(), arguments, source, Endless(), {0, cut}) + ResultOf(*MakeScan(), arguments, source, OneStep(), {cut, bytes.size()}), whole) << cut;
  }
}

TEST(ArrowTest, NullsAreEmptyFieldsAndCountForNothing) {
  for (const char* name : {"items.arrow", "items.arrows"}) {
    EXPECT_EQ(ArrowScan(R"J("where": "id between 6 and 8", "select": ["id", "holes", "holes + 1", "holes is null"])J", Fixture(name)), "6,6,7,0\n7,,,1\n8,8,9,0\n");
  }
  const std::string bytes = Fixture("items.arrows");
  // Of 0 to 2999, 429 are multiples of 7.
  EXPECT_EQ(ArrowScan(R"J("aggregates": ["count", "count(holes)", "sum(id - holes)", "min(holes)", "avg(holes * 0 + 1)"])J", bytes), "3000,2571,0,1,1\n");
  EXPECT_EQ(ArrowScan(R"J("where": "holes != 1 and id < 4", "select": ["id"])J", bytes), "2\n3\n");
  EXPECT_EQ(ArrowScan(R"J("where": "not (holes = 1) and id < 4", "select": ["id"])J", bytes), "2\n3\n") << "what is not known is not otherwise either";
  EXPECT_EQ(ArrowScan(R"J("where": "(holes = 1 or id = 0) and id < 4", "select": ["id"])J", bytes), "0\n1\n");
  EXPECT_EQ(ArrowScan(R"J("where": "id < 9", "group": ["holes > 5"], "aggregates": ["count", "sum(id)"])J", bytes), ",2,7\n0,5,15\n1,2,14\n");
  ExpectSameInSteps(*MakeScan(), "{" + kArrowColumns + R"J(, "where": "holes is not null and even = 0", "select": ["id", "holes"]})J", bytes, 3);
}

TEST(ArrowTest, WhatDoesNotFitIsNamed) {
  const std::string bytes = Fixture("items.arrow");
  const auto with = [&](const std::string& column) { return ResultOf(*MakeScan(), R"J({"format": "arrow", "columns": [")J" + column + R"J("], "select": [")J" + column.substr(0, column.find(' ')) + "\"]}", bytes); };
  EXPECT_EQ(with("nothing int"), "error: scan: the Arrow schema has no column 'nothing'");
  EXPECT_EQ(with("id text"), "error: scan: column 'id' of type text is Int in the Arrow schema");
  EXPECT_EQ(with("nested int"), "error: scan: column 'nested' of type int is List in the Arrow schema");
  EXPECT_EQ(with("kind int"), "error: scan: column 'kind' of type int is Utf8 with a dictionary in the Arrow schema");
  EXPECT_EQ(with("weight int"), "error: scan: column 'weight' of type int is FloatingPoint in the Arrow schema");
  EXPECT_THAT(ResultOf(*MakeScan(), "{" + kArrowColumns + R"J(, "select": ["id"]})J", "1,2,3\n"), ::testing::HasSubstr("at byte 0: it is cut short"));
  EXPECT_THAT(ResultOf(*MakeScan(), "{" + kArrowColumns + R"J(, "select": ["id"]})J", "id,name\n1,2\n"), ::testing::HasSubstr("no Arrow IPC message begins here"));
}

TEST(ArrowTest, DamagedBytesAreAnErrorOrOtherValuesAndNothingElse) {
  const std::string bytes = Fixture("items.arrows");
  const std::string arguments = "{" + kArrowColumns + R"J(, "where": "id >= 0 and tiny < 300", "select": ["kind", "name", "big", "weight", "even"]})J";
  std::mt19937 random(1);
  for (int i = 0; i < 2000; ++i) {
    std::string damaged = bytes;
    // Where metadata is: at the begin of the messages.
    const std::size_t at = i % 2 == 0 ? random() % 4096 : random() % damaged.size();
    damaged[at] = static_cast<char>(random());
    const std::string result = ResultOf(*MakeScan(), arguments, damaged);
    EXPECT_LT(result.size(), 10u << 20);
  }
  for (std::size_t cut = 0; cut < bytes.size(); cut += 997) ResultOf(*MakeScan(), arguments, bytes.substr(0, cut));
}

// --- Compressed Arrow. The files were written by Polars (testdata/arrow_compressed_fixtures.mjs).

const std::string kCompressedColumns = R"J("format": "arrow", "columns": ["id int", "name text", "weight real", "holes int"])J";
constexpr const char* kCompressed[] = {"items-lz4.arrow", "items-zstd.arrow", "items-views.arrow"};

TEST(CompressedArrowTest, ReadsWhatPolarsWroteWithOffsetsAndViews) {
  for (const char* name : kCompressed) {
    const std::string bytes = Fixture(name);
    const auto scan = [&](const std::string& rest) { return ResultOf(*MakeScan(), "{" + kCompressedColumns + ", " + rest + "}", bytes); };
    EXPECT_EQ(scan(R"J("where": "id between 2799 and 2801", "select": ["id", "name", "weight", "holes"])J"), "2799,name 49,87.25,19\n2800,a name of more than twelve bytes: 0,87.5,\n2801,name 1,87.5,1\n") << name;
    EXPECT_EQ(scan(R"J("aggregates": ["count", "sum(id)", "count(holes)", "sum(weight)"])J"), "3000,4498500,2571,140250\n") << name;
    ExpectSameInSteps(*MakeScan(), "{" + kCompressedColumns + R"J(, "where": "holes > 3", "select": ["id", "name"]})J", bytes, 3);
  }
}

TEST(CompressedArrowTest, DamagedBytesAreAnErrorOrOtherValuesAndNothingElse) {
  std::mt19937 random(1);
  for (const char* name : kCompressed) {
    const std::string bytes = Fixture(name), arguments = "{" + kCompressedColumns + R"J(, "select": ["id", "name", "weight", "holes"]})J";
    const std::string whole = ResultOf(*MakeScan(), arguments, bytes);
    ASSERT_EQ(std::ranges::count(whole, '\n'), 3000) << whole.substr(0, 1000);
    int errors = 0;
    for (int i = 0; i < 1000; ++i) {
      std::string damaged = bytes;
      // Where metadata is, and anywhere.
      const std::size_t at = i % 2 == 0 ? random() % 2048 : random() % damaged.size();
      damaged[at] ^= static_cast<char>(1 + random() % 255);
      const std::string result = ResultOf(*MakeScan(), arguments, damaged);
      EXPECT_LT(result.size(), 10u << 20);
      if (result.starts_with("error: ")) ++errors;
    }
    EXPECT_GT(errors, 100) << name;
  }
}

// A stream of one column 'id' of 32-bit numbers and one record batch of two rows, whose values are the buffer `values`.
std::string OneColumn(const std::string& values, std::int8_t codec) {
  flatbuffers::FlatBufferBuilder schema;
  const std::vector<flatbuffers::Offset<arrow::Field>> fields = {arrow::CreateField(schema, schema.CreateString("id"), true, arrow::Type::Int, arrow::CreateInt(schema, 32, true).Union())};
  const auto described = arrow::CreateSchema(schema, arrow::Endianness::Little, schema.CreateVector(fields));
  schema.Finish(arrow::CreateMessage(schema, arrow::MetadataVersion::V5, arrow::MessageHeader::Schema, described.Union(), 0));
  flatbuffers::FlatBufferBuilder batch;
  const arrow::FieldNode node(2, 0);
  const arrow::Buffer buffers[] = {{0, 0}, {0, static_cast<std::int64_t>(values.size())}};
  const auto nodes = batch.CreateVectorOfStructs(&node, 1);
  const auto places = batch.CreateVectorOfStructs(buffers, 2);
  const auto compression = arrow::CreateBodyCompression(batch, static_cast<arrow::CompressionType>(codec));
  const auto rows = arrow::CreateRecordBatch(batch, 2, nodes, places, compression);
  batch.Finish(arrow::CreateMessage(batch, arrow::MetadataVersion::V5, arrow::MessageHeader::RecordBatch, rows.Union(), static_cast<std::int64_t>((values.size() + 7) / 8 * 8)));
  std::string stream;
  for (const auto* part : {&schema, &batch}) {
    const std::uint32_t size = (part->GetSize() + 7) / 8 * 8, head[] = {0xffffffff, size};
    stream.append(reinterpret_cast<const char*>(head), sizeof head);
    stream.append(reinterpret_cast<const char*>(part->GetBufferPointer()), part->GetSize());
    stream.resize((stream.size() + 7) / 8 * 8);
  }
  return stream + values + std::string((8 - values.size() % 8) % 8, '\0');
}

TEST(CompressedArrowTest, OfABufferItsLengthIsBelievedOnlyIfItIsSo) {
  const auto with = [](std::int64_t length, const std::string& bytes, std::int8_t codec) {
    std::string values(reinterpret_cast<const char*>(&length), sizeof length);
    return ResultOf(*MakeScan(), R"J({"format": "arrow", "columns": ["id int"], "select": ["id"]})J", OneColumn(values + bytes, codec));
  };
  const std::string plain("\7\0\0\0\x8\0\0\0", 8);
  std::string zstd(64, '\0'), lz4(64, '\0');
  zstd.resize(ZSTD_compress(zstd.data(), zstd.size(), plain.data(), plain.size(), 1));
  lz4.resize(LZ4F_compressFrame(lz4.data(), lz4.size(), plain.data(), plain.size(), nullptr));
  EXPECT_EQ(with(-1, plain, 0), "7\n8\n") << "it is not compressed";
  EXPECT_EQ(with(8, lz4, 0), "7\n8\n");
  EXPECT_EQ(with(8, zstd, 1), "7\n8\n");
  for (const std::int8_t codec : {std::int8_t{0}, std::int8_t{1}}) {
    const std::string& bytes = codec == 0 ? lz4 : zstd;
    for (const std::int64_t wrong : {4, 7, 9, 4096}) EXPECT_THAT(with(wrong, bytes, codec), ::testing::HasSubstr("column 'id': a compressed buffer is damaged")) << wrong;
    EXPECT_THAT(with(8, bytes.substr(0, bytes.size() - 1), codec), ::testing::HasSubstr("a compressed buffer is damaged"));
    EXPECT_THAT(with(8, bytes + bytes[0], codec), ::testing::HasSubstr("a compressed buffer is damaged"));
    EXPECT_THAT(with(-2, bytes, codec), ::testing::HasSubstr("a compressed buffer has no length"));
    EXPECT_THAT(with(std::int64_t{1} << 40, bytes, codec), ::testing::HasSubstr("more than 67108864 bytes of the columns needed are in one record batch"));
    EXPECT_THAT(with(-1, plain.substr(0, 7), codec), ::testing::HasSubstr("too short for its rows"));
  }
  EXPECT_THAT(with(8, lz4, 1), ::testing::HasSubstr("a compressed buffer is damaged"));
  EXPECT_THAT(with(8, lz4, 2), ::testing::HasSubstr("compressed in a way that is not known"));
}

TEST(MatchTest, GivesMatchingLinesOrTheirCount) {
  const std::string text = "one fish\ntwo fish\n\nred\nblue fish";
  EXPECT_EQ(ResultOf(*MakeMatch(), R"J({"pattern": "fish$"})J", text), "one fish\ntwo fish\nblue fish");
  EXPECT_EQ(ResultOf(*MakeMatch(), R"J({"pattern": "FISH", "ignore_case": true, "count": true})J", text), "3\n");
  EXPECT_EQ(ResultOf(*MakeMatch(), R"J({"pattern": "fish", "invert": true})J", text), "\nred\n");
  EXPECT_EQ(ResultOf(*MakeMatch(), R"J({"pattern": "^$"})J", text), "\n");
  EXPECT_EQ(ResultOf(*MakeMatch(), R"J({"pattern": "^", "count": true})J", text), "5\n");
  EXPECT_EQ(ResultOf(*MakeMatch(), R"J({"pattern": "e[^x]*t"})J", text), "") << "a match lies in one line";
  EXPECT_NE(ResultOf(*MakeMatch(), R"J({"pattern": "("})J", text).find("missing )"), std::string::npos);
  EXPECT_NE(ResultOf(*MakeMatch(), R"J({})J", text).find("'pattern' must have"), std::string::npos);
  const std::string many = ManyItems(20'000);
  ExpectSameInSteps(*MakeMatch(), R"J({"pattern": "name 7,.*5$"})J", many, 5);
  ExpectSameInSteps(*MakeMatch(), R"J({"pattern": "name 7,", "invert": true, "count": true})J", many, 5);
}

TEST(ChecksumTest, IsCastagnolisAndGoesOn) {
  EXPECT_EQ(ResultOf(*MakeChecksum(), "", "123456789"), "e3069283");
  EXPECT_EQ(ResultOf(*MakeChecksum(), "{}", std::string(32, 0)), "8a9136aa") << "RFC 3720, B.4";
  EXPECT_EQ(ResultOf(*MakeChecksum(), "{}", std::string(32, '\xff')), "62a8ab43");
  ExpectSameInSteps(*MakeChecksum(), "{}", ManyItems(20'000), 5);
}

TEST(GatherTest, AddsRowsUp) {
  const float rows[3][2] = {{1, 2}, {10, 20}, {100, 200}};
  const std::string text(reinterpret_cast<const char*>(rows), sizeof rows);
  const std::string output = ResultOf(*MakeGather(), R"J({"dimension": 2, "lists": [[0, 2], [], [1, 1, 0]]})J", text);
  float got[6];
  ASSERT_EQ(output.size(), sizeof got);
  std::memcpy(got, output.data(), sizeof got);
  EXPECT_EQ(std::vector<float>(got, got + 6), (std::vector<float>{101, 202, 0, 0, 21, 42}));
  const std::string mean = ResultOf(*MakeGather(), R"J({"dimension": 2, "reduce": "mean", "lists": [[0, 2]]})J", text);
  std::memcpy(got, mean.data(), 8);
  EXPECT_EQ(got[0], 50.5f);
  EXPECT_EQ(ResultOf(*MakeGather(), R"J({"dimension": 2, "lists": [[3]]})J", text), "error: gather: there is no row 3; the part has 3");
  EXPECT_NE(ResultOf(*MakeGather(), R"J({"lists": [[0]]})J", text).find("'dimension' is missing"), std::string::npos);
  ExpectSameInSteps(*MakeGather(), R"J({"dimension": 2, "lists": [[0], [1], [2, 1]]})J", text, 1);
}

TEST(ChaseTest, FollowsPointers) {
  std::string text(4 * 16, '.');
  const std::uint64_t following[] = {2, 99, 3, 1};
  for (std::size_t i = 0; i < 4; ++i) std::memcpy(text.data() + i * 16 + 8, &following[i], 8);
  for (std::size_t i = 0; i < 4; ++i) text[i * 16] = static_cast<char>('A' + i);
  const auto heads = [&](const std::string& output) {
    std::string names;
    for (std::size_t i = 0; i < output.size(); i += 16) names += output[i];
    return names;
  };
  const std::string shape = R"J("record_bytes": 16, "pointer": 8)J";
  EXPECT_EQ(heads(ResultOf(*MakeChase(), "{" + shape + R"J(, "start": [0, 1], "depth": 2})J", text)), "DB") << "B names none";
  EXPECT_EQ(heads(ResultOf(*MakeChase(), "{" + shape + R"J(, "start": [0], "depth": 16, "path": true})J", text)), "ACDB");
  EXPECT_NE(ResultOf(*MakeChase(), R"J({"record_bytes": 16, "pointer": 9, "start": [0]})J", text).find("not inside of a record"), std::string::npos);
  EXPECT_NE(ResultOf(*MakeChase(), "{" + shape + R"J(, "start": [4]})J", text).find("no record 4"), std::string::npos);
}

// The file of a database in which these statements were run.
std::string Database(const std::string& sql) {
  sqlite3* database = nullptr;
  EXPECT_EQ(sqlite3_open(":memory:", &database), SQLITE_OK);
  char* problem = nullptr;
  EXPECT_EQ(sqlite3_exec(database, sql.c_str(), nullptr, nullptr, &problem), SQLITE_OK) << problem;
  sqlite3_int64 size = 0;
  unsigned char* bytes = sqlite3_serialize(database, "main", &size, 0);
  std::string file(reinterpret_cast<char*>(bytes), static_cast<std::size_t>(size));
  sqlite3_free(bytes);
  sqlite3_close(database);
  return file;
}
constexpr char kPairsTable[] = "CREATE TABLE pairs(key TEXT PRIMARY KEY, value) WITHOUT ROWID;";

TEST(PairsTest, LooksUpKeysAndWalksThemInOrder) {
  const std::string file = Database(std::string(kPairsTable) + "INSERT INTO pairs VALUES ('b', 'two'), ('a', 'one'), ('ab', x'09410a'), ('c', 3), ('\xc3\xbf', '')");
  EXPECT_EQ(ResultOf(*MakeLookup(), R"J({"keys": ["c", "none", "ab"]})J", file), "c\t3\nab\t\\tA\\n\n");
  EXPECT_EQ(ResultOf(*MakePairs(), "{}", file), "a\tone\nab\t\\tA\\n\nb\ttwo\nc\t3\n\xc3\xbf\t\n");
  EXPECT_EQ(ResultOf(*MakePairs(), R"J({"prefix": "a"})J", file), "a\tone\nab\t\\tA\\n\n");
  EXPECT_EQ(ResultOf(*MakePairs(), R"J({"from": "ab", "to": "c", "limit": 9})J", file), "ab\t\\tA\\n\nb\ttwo\n");
  EXPECT_EQ(ResultOf(*MakePairs(), R"J({"limit": 1})J", file), "a\tone\n");
  EXPECT_NE(ResultOf(*MakePairs(), R"J({"prefix": "a", "to": "c"})J", file).find("prefix"), std::string::npos);
}

TEST(PairsTest, GoesOnWhereItWasStopped) {
  std::string sql = kPairsTable, wanted;
  for (int i = 0; i < 3000; ++i) {
    sql += fmt::format("INSERT INTO pairs VALUES ('{:05}', '{}');", i, std::string(50, static_cast<char>('a' + i % 26)));
    wanted += fmt::format("{:05}\t{}\n", i, std::string(50, static_cast<char>('a' + i % 26)));
  }
  const std::string file = Database(sql);
  EXPECT_EQ(ResultOf(*MakePairs(), "{}", file), wanted);
  ExpectSameInSteps(*MakePairs(), "{}", file, 10);
  ExpectSameInSteps(*MakePairs(), R"J({"limit": 1000})J", file, 3);
  ExpectSameInSteps(*MakeLookup(), R"J({"keys": ["00001", "02999", "x", "00500"]})J", file, 4);
  EXPECT_EQ(ResultOf(*MakePairs(), R"J({"from": "02998"})J", file).size(), 2u * 57);
}

TEST(PairsTest, FollowsKeys) {
  const std::string file = Database(std::string(kPairsTable) + R"J(INSERT INTO pairs VALUES ('a', 'b'), ('b', 'c'), ('c', 'gone'),
    ('x', '{"next": {"key": "y"}}'), ('y', '{"next": {"key": 5}}'), ('5', 'no JSON'), ('z', '{"next": [1]}'))J");
  EXPECT_EQ(ResultOf(*MakeFollow(), R"J({"start": ["z"], "pointer": "/next/99999999999999999999999"})J", file), "z\t{\"next\": [1]}\n");
  EXPECT_EQ(ResultOf(*MakeFollow(), R"J({"start": ["a", "none"], "depth": 1})J", file), "b\tc\n");
  EXPECT_EQ(ResultOf(*MakeFollow(), R"J({"start": ["a"], "depth": 16})J", file), "c\tgone\n");
  EXPECT_EQ(ResultOf(*MakeFollow(), R"J({"start": ["x"], "depth": 9, "pointer": "/next/key", "path": true})J", file),
            "x\t{\"next\": {\"key\": \"y\"}}\ny\t{\"next\": {\"key\": 5}}\n5\tno JSON\n");
  EXPECT_NE(ResultOf(*MakeFollow(), R"J({"start": ["x"], "pointer": "next"})J", file).find("JSON pointer"), std::string::npos);
}

TEST(PairsTest, DatabasesThatAreNoTableOfPairsAreRefused) {
  for (const std::string sql : {"CREATE TABLE other(key PRIMARY KEY, value)", "CREATE TABLE pairs(key, value)", "CREATE TABLE pairs(value PRIMARY KEY, key)",
                                "CREATE TABLE t(key PRIMARY KEY, value); CREATE VIEW pairs AS SELECT key, value FROM t",
                                "CREATE TABLE pairs(key PRIMARY KEY, raw, value GENERATED ALWAYS AS (hex(raw)))"}) {
    EXPECT_NE(ResultOf(*MakeLookup(), R"J({"keys": ["a"]})J", Database(sql)).find("no table pairs(key PRIMARY KEY, value)"), std::string::npos) << sql;
  }
  EXPECT_NE(ResultOf(*MakeLookup(), R"J({"keys": ["a"]})J", "some text that is long enough").find("godwit data import"), std::string::npos);
  EXPECT_NE(ResultOf(*MakeLookup(), R"J({"keys": ["a"]})J", "").find("godwit data import"), std::string::npos);
  const std::string large = Database(std::string(kPairsTable) + "INSERT INTO pairs VALUES ('a', zeroblob(200000))");
  EXPECT_NE(ResultOf(*MakeLookup(), R"J({"keys": ["a"]})J", large).find("more than"), std::string::npos);
  // Small pairs, and then one as large as a pair may be, all escaped to twice their size: what one answer holds is enough.
  std::string sql = kPairsTable;
  for (int i = 0; i < 79; ++i) sql += fmt::format("INSERT INTO pairs VALUES ('{:04}', replace(hex(zeroblob(500)), '0', char(10)));", i);
  const std::string most = Database(sql + "INSERT INTO pairs VALUES ('z', replace(hex(zeroblob(32000)), '0', char(9)))");
  struct AsMuchAsAnAnswer final : Pace {
    bool Over(std::size_t bytes) const override { return bytes >= kOutputBytes; }
  };
  Bytes state, bytes;
  auto work = MakePairs()->Begin({}, state, {0, most.size()});
  ASSERT_TRUE(work.ok());
  EXPECT_TRUE((*work)->Run(BytesSource(AsBytes(most)), AsMuchAsAnAnswer(), &bytes).ok());
  EXPECT_GT(bytes.size(), 2u * 60'000);
  EXPECT_LE(bytes.size(), kDataBytesMax);
  const std::string circle = Database(std::string(kPairsTable) + "INSERT INTO pairs VALUES ('a', '{\"n\": \"a\", \"fill\": \"' || hex(zeroblob(15000)) || '\"}')");
  EXPECT_NE(ResultOf(*MakeFollow(), R"J({"start": ["a"], "depth": 9, "pointer": "/n", "path": true})J", circle).find("have more than 131072 bytes"), std::string::npos);
  // Damage is named, and never a crash.
  const std::string good = Database(std::string(kPairsTable) + "INSERT INTO pairs VALUES ('a', 'one'), ('b', 'two')");
  std::mt19937 random(3);
  for (int i = 0; i < 500; ++i) {
    std::string damaged = good;
    for (int k = 0; k < 4; ++k) damaged[random() % damaged.size()] = static_cast<char>(random());
    if (i % 3 == 0) damaged.resize(random() % damaged.size());
    ResultOf(*MakePairs(), "{}", damaged);
    ResultOf(*MakeLookup(), R"J({"keys": ["a", "b"]})J", damaged);
  }
}

TEST(FunctionStateTest, ForgedStatesAreRefusedByName) {
  const std::string scan = "{" + kColumns + R"J(, "group": ["name"], "aggregates": ["count"]})J";
  const std::tuple<std::shared_ptr<const Function>, std::string, std::string> cases[] = {
      {MakeScan(), scan, "{"},
      {MakeScan(), scan, R"J({"position": 0, "header_done": true, "rows": 0, "groups": [["zz", [[1, "0", "0x0p+0"]]]]})J"},
      {MakeScan(), scan, R"J({"position": 0, "header_done": true, "rows": 0, "groups": [["61", []]]})J"},
      {MakeScan(), scan, R"J({"position": 0, "header_done": true, "rows": 0, "groups": [["61", [[1, "x", "0"]]]]})J"},
      {MakeMatch(), R"J({"pattern": "a"})J", R"J({"position": -1})J"},
      {MakeChecksum(), "{}", R"J({"position": 99, "crc": 0})J"},
      {MakePairs(), "{}", "{}"},
      {MakeLookup(), R"J({"keys": ["a"]})J", R"J({"next": 2})J"},
      {MakeGather(), R"J({"dimension": 2, "lists": [[0]]})J", R"J({"next": 2})J"},
      {MakeChase(), R"J({"record_bytes": 8, "start": [0]})J", R"J({"next": 2})J"},
  };
  for (const auto& [function, arguments, state] : cases) {
    const auto work = function->Begin(AsBytes(arguments), AsBytes(state), {0, 10});
    ASSERT_FALSE(work.ok()) << state;
    EXPECT_EQ(work.error().code, ErrorCode::kCorrupt) << state << ": " << work.error().message;
  }
}

TEST(ExpressionTest, NumbersAndDatesAreExactBothWays) {
  for (const char* text : {"1970-01-01", "2000-02-29", "1900-03-01", "0000-01-01", "9999-12-31"}) {
    std::string back;
    AppendDate(ParseDate(text).value(), back);
    EXPECT_EQ(back, text);
  }
  EXPECT_EQ(ParseDate("1970-01-02").value(), 1);
  EXPECT_EQ(ParseDate("1969-12-31").value(), -1);
  EXPECT_FALSE(ParseDate("1900-02-29").ok());
  EXPECT_FALSE(ParseDate("2024-1-01").ok());
  EXPECT_EQ(ParseNumber("-12.5", 2).value(), -1250);
  EXPECT_EQ(ParseNumber("9223372036854775807", 0).value(), 9223372036854775807);
  for (const char* text : {"", "-", "1.2.3", "1,5", "9223372036854775808", "1.234"}) EXPECT_FALSE(ParseNumber(text, 2).ok()) << text;
  std::string text;
  AppendNumber(-5, 2, text);
  AppendNumber(__int128{1} << 100, 0, text);
  EXPECT_EQ(text, "-0.051267650600228229401496703205376");
}

}  // namespace
}  // namespace godwit::device
