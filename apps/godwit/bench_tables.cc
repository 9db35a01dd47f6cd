#include "bench_tables.h"

#include <fmt/chrono.h>
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <nlohmann/json.hpp>
#include <random>

namespace godwit::cli {
namespace {

using std::chrono::sys_days;
using std::chrono::year;

constexpr sys_days kStart = year(1992) / 1 / 1, kCurrent = year(1995) / 6 / 17, kLastOrder = year(1998) / 8 / 2;  // ENDDATE less 151 days.
constexpr std::string_view kInstructions[] = {"DELIVER IN PERSON", "COLLECT COD", "NONE", "TAKE BACK RETURN"};
constexpr std::string_view kModes[] = {"REG AIR", "AIR", "RAIL", "SHIP", "TRUCK", "MAIL", "FOB"};
constexpr std::string_view kWords[] = {"furiously", "carefully", "slyly", "final", "pending", "regular", "express", "deposits", "requests", "accounts",
                                       "packages", "theodolites", "sleep", "haggle", "nag", "among", "the", "ironic", "bold", "quickly"};

constexpr std::size_t kFilterTableBytes = 64 << 20;

std::string Date(sys_days day) { return fmt::format("{:%Y-%m-%d}", day); }

class Generator {
 public:
  explicit Generator(double scale)
      : orders_(static_cast<std::int64_t>(1'500'000 * scale)), parts_(std::max<std::int64_t>(1, static_cast<std::int64_t>(200'000 * scale))),
        suppliers_(std::max<std::int64_t>(4, static_cast<std::int64_t>(10'000 * scale))) {
    for (sys_days day = kStart; day <= kLastOrder + std::chrono::days(152); day += std::chrono::days(1)) dates_.push_back(Date(day));
  }

  void Write(const std::function<void(std::string_view)>& sink) {
    std::string text;
    for (std::int64_t i = 0; i < orders_; ++i) {
      Order(i, text);
      if (text.size() < (1 << 20)) continue;
      sink(text);
      text.clear();
    }
    sink(text);
  }

 private:
  std::int64_t Random(std::int64_t least, std::int64_t most) {  // As std::uniform_int_distribution, but the same with every library.
    return least + static_cast<std::int64_t>(random_() % static_cast<std::uint64_t>(most - least + 1));
  }
  const std::string& DateAt(std::int64_t day) const { return dates_[static_cast<std::size_t>(day)]; }

  void Order(std::int64_t number, std::string& text) {
    const std::int64_t key = number / 8 * 32 + number % 8 + 1;  // The first 8 of every 32 keys are used.
    const std::int64_t ordered = Random(0, (kLastOrder - kStart).count());
    const std::int64_t today = (kCurrent - kStart).count();
    for (std::int64_t line = 1, lines = Random(1, 7); line <= lines; ++line) {
      const std::int64_t part = Random(1, parts_);
      const std::int64_t supplier = (part + Random(0, 3) * (suppliers_ / 4 + (part - 1) / suppliers_)) % suppliers_ + 1;
      const std::int64_t quantity = Random(1, 50);
      const std::int64_t cents = quantity * (90'000 + part / 10 % 20'001 + 100 * (part % 1'000));  // By the part's retail price.
      const std::int64_t discount = Random(0, 10), tax = Random(0, 8);
      const std::int64_t shipped = ordered + Random(1, 121), committed = ordered + Random(30, 90), received = shipped + Random(1, 30);
      const char returned = received > today ? 'N' : Random(0, 1) != 0 ? 'R' : 'A';
      fmt::format_to(std::back_inserter(text), "{},{},{},{},{},{}.{:02},0.{:02},0.{:02},{},{},{},{},{},{},{},", key, part, supplier, line, quantity, cents / 100, cents % 100,
                     discount, tax, returned, shipped > today ? 'O' : 'F', DateAt(shipped), DateAt(committed), DateAt(received),
                     kInstructions[Random(0, 3)], kModes[Random(0, 6)]);
      const std::size_t begin = text.size(), length = static_cast<std::size_t>(Random(10, 43));
      while (text.size() - begin < length) text.append(kWords[Random(0, std::size(kWords) - 1)]).append(" ");
      text.resize(begin + length);
      text += '\n';
    }
  }

  const std::int64_t orders_, parts_, suppliers_;
  std::vector<std::string> dates_;
  std::mt19937_64 random_{19'920'101};
};

}  // namespace

void WriteLineitem(double scale, const std::function<void(std::string_view)>& sink) { Generator(scale).Write(sink); }

std::string FilterTable() {
  std::mt19937 random(7);
  std::string text;
  for (int row = 0; text.size() < kFilterTableBytes; ++row) {
    fmt::format_to(std::back_inserter(text), "{},{},{},{}.{:02},{}-{:02}-{:02},carefully final deposits detect slyly against {}\n", row, random() % 10000,
                   1 + random() % 50, 900 + random() % 100000, random() % 100, 1992 + random() % 7, 1 + random() % 12, 1 + random() % 28, random() % 100000);
  }
  return text;
}

std::vector<LineitemQuestion> LineitemQuestions() {
  using nlohmann::json;
  const json columns = {"orderkey int", "partkey int", "suppkey int", "linenumber int", "quantity int", "extendedprice decimal(2)", "discount decimal(2)", "tax decimal(2)",
                        "returnflag text", "linestatus text", "shipdate date", "commitdate date", "receiptdate date", "shipinstruct text", "shipmode text", "comment text"};
  const auto question = [&](const char* name, const char* where, const json& group, const json& aggregates) {
    json arguments = {{"columns", columns}, {"where", where}, {"aggregates", aggregates}};
    if (!group.empty()) arguments["group"] = group;
    return LineitemQuestion{name, arguments.dump()};
  };
  return {
      question("after Q1", "shipdate <= date '1998-09-02'", {"returnflag", "linestatus"},
               {"sum(quantity)", "sum(extendedprice)", "sum(extendedprice * (1 - discount))", "sum(extendedprice * (1 - discount) * (1 + tax))", "avg(quantity)", "avg(extendedprice)",
                "avg(discount)", "count"}),
      question("after Q6", "shipdate >= date '1994-01-01' and shipdate < date '1995-01-01' and discount between 0.05 and 0.07 and quantity < 24", json::array(),
               {"sum(extendedprice * discount)"}),
      question("after Q12", "shipmode in ('MAIL', 'SHIP') and commitdate < receiptdate and shipdate < commitdate and receiptdate >= date '1994-01-01' and receiptdate < date '1995-01-01'",
               {"shipmode"}, {"count"}),
      question("after Q14", "shipdate >= date '1995-09-01' and shipdate < date '1995-10-01'", json::array(), {"sum(extendedprice * (1 - discount))", "count"}),
  };
}

}  // namespace godwit::cli
