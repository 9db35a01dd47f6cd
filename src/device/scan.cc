// scan: the rows of a table that a condition holds for, some expressions of each; or counts, sums, least, most, means of them,
// in groups. Output: comma-separated values, groups in the order of their keys. A null is an empty field, in a group's key too; a condition that is null
// does not hold; aggregates of expressions pass nulls over.
#include <algorithm>
#include <map>
#include <optional>

#include <fmt/format.h>

#include "device/arguments.h"
#include "device/built_in.h"
#include "device/expression.h"
#include "device/rows.h"

namespace godwit::device {
namespace {

constexpr std::size_t kColumnsMax = 1024, kOutputsMax = 256, kGroupsMax = 65536, kKeyBytesMax = 4096;

enum class Operation { kCount, kSum, kLeast, kMost, kMean };

struct Aggregate {
  Operation operation = Operation::kCount;
  std::shared_ptr<const Expression> of;  // None: count of rows.
};

enum class Format { kCsv, kJsonLines, kArrow };

struct Plan {
  Format kind = Format::kCsv;
  TableFormat format;
  bool header = false;
  std::shared_ptr<const Expression> where;  // Null: all rows.
  std::vector<std::shared_ptr<const Expression>> select, group;
  std::vector<Aggregate> aggregates;
  std::uint64_t limit = ~0ull;

  bool grouped() const { return !aggregates.empty() || !group.empty(); }
  std::vector<bool> Needed() const {
    std::vector<bool> needed(format.columns.size());
    if (where) where->MarkColumns(needed);
    for (const auto& one : select) one->MarkColumns(needed);
    for (const auto& one : group) one->MarkColumns(needed);
    for (const auto& one : aggregates) {
      if (one.of) one.of->MarkColumns(needed);
    }
    return needed;
  }
};

struct Total {
  std::uint64_t count = 0;
  __int128 number = 0;  // Sum, least or most.
  double real = 0;
};

using Groups = std::map<std::string, std::vector<Total>, std::less<>>;

// Quoted where RFC 4180 wants it.
void AppendField(std::string_view text, std::string& to) {
  if (text.find_first_of(",\"\r\n") == text.npos) {
    to += text;
    return;
  }
  to += '"';
  for (const char c : text) {
    if (c == '"') to += '"';
    to += c;
  }
  to += '"';
}

void AppendValue(const Type& type, const Column& column, std::size_t row, std::string& to) {
  if (column.IsNull(row)) return;
  switch (type.kind) {
    case TypeKind::kText: AppendField(column.texts[row], to); break;
    case TypeKind::kReal: fmt::format_to(std::back_inserter(to), "{}", column.reals[row]); break;
    case TypeKind::kDate: AppendDate(column.numbers[row], to); break;
    default: AppendNumber(column.numbers[row], type.scale, to);
  }
}

class ScanWork final : public Work {
 public:
  ScanWork(std::shared_ptr<const Plan> plan, std::unique_ptr<Rows> table, std::uint64_t rows, Groups groups)
      : plan_(std::move(plan)), table_(std::move(table)), rows_(rows), groups_(std::move(groups)) {
    for (const auto& [key, totals] : groups_) group_bytes_ += key.size();
  }

  Result<bool> Run(const Source& source, const Pace& pace, Bytes* output) override {
    while (rows_ < plan_->limit) {
      const auto more = table_->Next(source, &batch_);
      if (!more.ok()) return more.error().Within("scan");
      if (!*more) break;
      GODWIT_TRY(plan_->grouped() ? Gather() : Project());
      if (!table_->between()) continue;
      output->insert(output->end(), text_.begin(), text_.end());
      text_.clear();
      if (pace.Over(output->size())) return false;
    }
    if (plan_->grouped()) WriteGroups();
    output->insert(output->end(), text_.begin(), text_.end());
    text_.clear();
    return true;
  }

  Result<Bytes> Save() override {
    nlohmann::json groups = nlohmann::json::array();
    for (const auto& [key, totals] : groups_) {
      nlohmann::json list = nlohmann::json::array();
      for (const Total& total : totals) {
        std::string number;
        AppendNumber(total.number, 0, number);
        list.push_back({total.count, number, fmt::format("{:a}", total.real)});
      }
      std::string hex;
      for (const char c : key) fmt::format_to(std::back_inserter(hex), "{:02x}", static_cast<std::uint8_t>(c));
      groups.push_back({hex, std::move(list)});
    }
    nlohmann::json state = table_->Save();
    state["rows"] = rows_;
    state["groups"] = std::move(groups);
    const std::string text = state.dump();
    if (text.size() > 256 << 10) {
      return ResourceExhausted(fmt::format("scan: {} groups of {} bytes of keys are too many to go on elsewhere with", groups_.size(), group_bytes_));
    }
    return Bytes(text.begin(), text.end());
  }
  std::uint64_t read_bytes() const override { return table_->read_bytes(); }

 private:
  // chosen_: the rows that the condition holds for.
  Status Choose() {
    chosen_.clear();
    if (!plan_->where) {
      for (std::size_t row = 0; row < batch_.rows; ++row) chosen_.push_back(row);
      return {};
    }
    GODWIT_TRY(plan_->where->Evaluate(batch_, &condition_));
    chosen_.resize(batch_.rows);
    std::size_t count = 0;
    for (std::size_t row = 0; row < batch_.rows; ++row) {
      chosen_[count] = row;
      count += condition_.numbers[row] != 0 && !condition_.IsNull(row);
    }
    chosen_.resize(count);
    return {};
  }
  Status Values(const std::vector<std::shared_ptr<const Expression>>& expressions) {
    values_.resize(expressions.size());
    for (std::size_t i = 0; i < expressions.size(); ++i) GODWIT_TRY(expressions[i]->Evaluate(batch_, &values_[i]));
    return {};
  }
  Status Project() {
    GODWIT_TRY(Choose());
    if (chosen_.empty()) return {};
    GODWIT_TRY(Values(plan_->select));
    for (const std::size_t row : chosen_) {
      if (rows_ == plan_->limit) break;
      ++rows_;
      for (std::size_t i = 0; i < values_.size(); ++i) {
        if (i > 0) text_ += ',';
        AppendValue(plan_->select[i]->type(), values_[i], row, text_);
      }
      text_ += '\n';
    }
    return {};
  }
  Status Gather() {
    GODWIT_TRY(Choose());
    if (chosen_.empty()) return {};
    GODWIT_TRY(Values(plan_->group));
    std::vector<Column> operands(plan_->aggregates.size());
    for (std::size_t i = 0; i < operands.size(); ++i) {
      if (plan_->aggregates[i].of) GODWIT_TRY(plan_->aggregates[i].of->Evaluate(batch_, &operands[i]));
    }
    std::vector<Total>* totals = nullptr;
    for (const std::size_t row : chosen_) {
      if (totals == nullptr || !plan_->group.empty()) {
        key_.clear();
        for (std::size_t i = 0; i < values_.size(); ++i) {
          if (i > 0) key_ += ',';
          AppendValue(plan_->group[i]->type(), values_[i], row, key_);
        }
        GODWIT_ASSIGN(totals, Find(key_));
      }
      for (std::size_t i = 0; i < operands.size(); ++i) Add(plan_->aggregates[i], operands[i], row, &(*totals)[i]);
    }
    return {};
  }
  Result<std::vector<Total>*> Find(const std::string& key) {
    const auto found = groups_.find(key);
    if (found != groups_.end()) return &found->second;
    group_bytes_ += key.size();
    if (groups_.size() >= kGroupsMax || key.size() > kKeyBytesMax || group_bytes_ > kGroupsMax * 64) {
      return ResourceExhausted(fmt::format("scan: more than {} groups, or keys of more than {} bytes", kGroupsMax, kKeyBytesMax));
    }
    return &groups_.emplace(key, std::vector<Total>(plan_->aggregates.size())).first->second;
  }
  static void Add(const Aggregate& aggregate, const Column& operand, std::size_t row, Total* total) {
    if (operand.IsNull(row)) return;
    ++total->count;
    if (!aggregate.of || aggregate.operation == Operation::kCount) return;
    const auto add = [&](auto value, auto& to) {
      const bool first = total->count == 1;
      switch (aggregate.operation) {
        case Operation::kLeast: to = first || value < to ? value : to; break;
        case Operation::kMost: to = first || value > to ? value : to; break;
        case Operation::kCount: break;
        default: to += value;
      }
    };
    if (aggregate.of->type().kind == TypeKind::kReal) add(operand.reals[row], total->real);
    else add(operand.numbers[row], total->number);
  }
  void WriteGroups() {
    if (plan_->group.empty() && groups_.empty()) groups_.emplace("", std::vector<Total>(plan_->aggregates.size()));
    for (const auto& [key, totals] : groups_) {
      text_ += key;
      for (std::size_t i = 0; i < totals.size(); ++i) {
        if (i > 0 || !plan_->group.empty()) text_ += ',';
        Write(plan_->aggregates[i], totals[i]);
      }
      text_ += '\n';
    }
  }
  // Of no values, all but a count is an empty field.
  void Write(const Aggregate& aggregate, const Total& total) {
    if (aggregate.operation == Operation::kCount) return AppendNumber(static_cast<__int128>(total.count), 0, text_);
    if (total.count == 0) return;
    const Type type = aggregate.of->type();
    const bool real = type.kind == TypeKind::kReal;
    if (aggregate.operation == Operation::kMean) {
      double value = real ? total.real : static_cast<double>(total.number);
      for (int i = 0; i < type.scale; ++i) value /= 10;
      fmt::format_to(std::back_inserter(text_), "{}", value / static_cast<double>(total.count));
    } else if (real) {
      fmt::format_to(std::back_inserter(text_), "{}", total.real);
    } else if (type.kind == TypeKind::kDate) {
      AppendDate(static_cast<std::int64_t>(total.number), text_);
    } else {
      AppendNumber(total.number, type.scale, text_);
    }
  }

  const std::shared_ptr<const Plan> plan_;
  const std::unique_ptr<Rows> table_;
  std::uint64_t rows_;  // Given out.
  Groups groups_;
  std::size_t group_bytes_ = 0;
  Batch batch_;
  Column condition_;
  std::vector<std::size_t> chosen_;
  std::vector<Column> values_;
  std::string key_, text_;
};

class ScanArguments {
 public:
  explicit ScanArguments(ByteView text) : arguments_("arguments of scan", text) {}

  Result<std::shared_ptr<const Plan>> Read() {
    auto plan = std::make_shared<Plan>();
    const std::string format = arguments_.Text("format", "csv");
    if (format == "jsonl") plan->kind = Format::kJsonLines;
    else if (format == "arrow") plan->kind = Format::kArrow;
    else if (format != "csv") arguments_.Fail("format", "must be csv, jsonl or arrow");
    const std::string delimiter = arguments_.Text("delimiter", ",");
    if (delimiter.size() != 1 || delimiter == "\n" || delimiter == "\"") arguments_.Fail("delimiter", "must be one character, no quote");
    else plan->format.delimiter = delimiter[0];
    plan->header = arguments_.Flag("header", false);
    plan->limit = arguments_.Number("limit", ~0ull, 0, ~0ull);
    for (const auto& column : arguments_.List("columns", kColumnsMax)) {
      // "name type"
      const std::string text = column.is_string() ? column.get<std::string>() : "";
      const std::size_t space = text.rfind(' ');
      const auto type = space != text.npos ? ParseType(text.substr(space + 1)) : Result<Type>(InvalidArgument("is \"name type\""));
      if (!type.ok()) arguments_.Fail("columns", "has '" + text + "': " + type.error().message);
      else plan->format.columns.push_back({text.substr(0, space), *type});
    }
    if (plan->format.columns.empty()) arguments_.Fail("columns", "is missing: a list of \"name type\"");
    if (arguments_.Has("where")) {
      plan->where = Parse("where", arguments_.Text("where", ""), *plan);
      if (plan->where && plan->where->type().kind != TypeKind::kCondition) arguments_.Fail("where", "is no condition");
    }
    plan->select = ParseList("select", *plan);
    plan->group = ParseList("group", *plan);
    ReadAggregates(*plan);
    if (plan->grouped() && !plan->select.empty()) arguments_.Fail("select", "does not go with groups and aggregates");
    if (!plan->grouped() && plan->select.empty()) arguments_.Fail("select", "is missing, or else 'aggregates'");
    GODWIT_TRY(arguments_.Finish());
    return std::shared_ptr<const Plan>(std::move(plan));
  }

 private:
  std::shared_ptr<const Expression> Parse(const char* name, const std::string& text, const Plan& plan) {
    auto expression = Expression::Parse(text, plan.format.columns);
    if (expression.ok()) return std::move(expression).value();
    arguments_.Fail(name, "has '" + text.substr(0, 80) + "': " + expression.error().message);
    return nullptr;
  }
  std::vector<std::shared_ptr<const Expression>> ParseList(const char* name, const Plan& plan) {
    std::vector<std::shared_ptr<const Expression>> list;
    for (const auto& one : arguments_.List(name, kOutputsMax)) {
      if (!one.is_string()) arguments_.Fail(name, "must be a list of expressions");
      else if (auto expression = Parse(name, one.get<std::string>(), plan)) list.push_back(std::move(expression));
    }
    return list;
  }
  // "count", "count(expression)", "sum(expression)", ...
  void ReadAggregates(Plan& plan) {
    static constexpr std::pair<std::string_view, Operation> kOperations[] = {
        {"count", Operation::kCount}, {"sum", Operation::kSum}, {"min", Operation::kLeast}, {"max", Operation::kMost}, {"avg", Operation::kMean}};
    for (const auto& one : arguments_.List("aggregates", kOutputsMax)) {
      const std::string text = one.is_string() ? one.get<std::string>() : "";
      const std::size_t open = std::min(text.find('('), text.size());
      const auto* operation = std::find_if(std::begin(kOperations), std::end(kOperations), [&](const auto& o) { return o.first == text.substr(0, open); });
      const bool closed = open < text.size() && text.back() == ')';
      if (operation == std::end(kOperations) || (!closed && text != "count")) {
        arguments_.Fail("aggregates", "has '" + text + "': it is count, or count, sum, min, max or avg of (an expression)");
        continue;
      }
      Aggregate aggregate{operation->second, nullptr};
      if (closed) {
        aggregate.of = Parse("aggregates", text.substr(open + 1, text.size() - open - 2), plan);
        if (!aggregate.of) continue;
        const TypeKind kind = aggregate.of->type().kind;
        const bool order = aggregate.operation == Operation::kLeast || aggregate.operation == Operation::kMost;
        if (aggregate.operation != Operation::kCount && (kind == TypeKind::kText || (kind == TypeKind::kDate && !order))) {
          arguments_.Fail("aggregates", "has '" + text + "', which is not possible for values of type " + ToString(aggregate.of->type()));
        }
      }
      plan.aggregates.push_back(std::move(aggregate));
    }
  }

  Arguments arguments_;
};

Result<Groups> ReadGroups(const nlohmann::json& list, std::size_t aggregates) {
  const auto bad = [] { return Corrupt("state of scan: its groups are malformed"); };
  Groups groups;
  for (const auto& entry : list) {
    if (!entry.is_array() || entry.size() != 2 || !entry[0].is_string() || !entry[1].is_array() || entry[1].size() != aggregates) return bad();
    const std::string hex = entry[0].get<std::string>();
    std::string key;
    for (std::size_t i = 0; i + 1 < hex.size(); i += 2) {
      const auto digit = [&](char c) { return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1; };
      if (digit(hex[i]) < 0 || digit(hex[i + 1]) < 0) return bad();
      key += static_cast<char>(digit(hex[i]) * 16 + digit(hex[i + 1]));
    }
    std::vector<Total>& totals = groups[key];
    for (const auto& one : entry[1]) {
      if (!one.is_array() || one.size() != 3 || !one[0].is_number_unsigned() || !one[1].is_string() || !one[2].is_string()) return bad();
      Total total;
      total.count = one[0].get<std::uint64_t>();
      const std::string number = one[1].get<std::string>(), real = one[2].get<std::string>();
      if (number.size() > 40) return bad();
      unsigned __int128 magnitude = 0;
      for (const char c : number) {
        if (c == '-' && &c == number.data()) continue;
        if (c < '0' || c > '9') return bad();
        magnitude = magnitude * 10 + static_cast<unsigned>(c - '0');
      }
      total.number = static_cast<__int128>(number[0] == '-' ? -magnitude : magnitude);
      char* end = nullptr;
      total.real = std::strtod(real.c_str(), &end);
      if (end != real.c_str() + real.size()) return bad();
      totals.push_back(total);
    }
    if (totals.size() != aggregates) return bad();
  }
  return groups;
}

class Scan final : public Function {
 public:
  std::string_view name() const override { return "scan"; }
  Result<std::unique_ptr<Work>> Begin(ByteView text, ByteView state, Part part) const override {
    GODWIT_ASSIGN(auto plan, ScanArguments(text).Read());
    const auto make = plan->kind == Format::kCsv ? MakeTextRows : plan->kind == Format::kArrow ? MakeArrowRows : MakeJsonRows;
    RowsOptions options{plan->format, plan->Needed(), part, plan->header};
    if (state.empty()) return std::unique_ptr<Work>(std::make_unique<ScanWork>(std::move(plan), make(std::move(options), nullptr), 0, Groups()));
    Arguments saved("state of scan", state);
    auto table = make(std::move(options), &saved);
    const std::uint64_t rows = saved.Number("rows", 0, 0, ~0ull);
    GODWIT_ASSIGN(Groups groups, ReadGroups(saved.List("groups", kGroupsMax), plan->aggregates.size()));
    if (const Status status = saved.Finish(); !status.ok()) return Corrupt(status.error().message);
    return std::unique_ptr<Work>(std::make_unique<ScanWork>(std::move(plan), std::move(table), rows, std::move(groups)));
  }
  bool brief(ByteView, Part) const override { return false; }
};

}  // namespace

std::shared_ptr<const Function> MakeScan() { return std::make_shared<Scan>(); }

}  // namespace godwit::device
