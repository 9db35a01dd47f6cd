#include "device/expression.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <functional>
#include <optional>

#include <fmt/format.h>

namespace godwit::device {
namespace {

constexpr int kScaleMax = 12;
constexpr int kPartsMax = 256;
constexpr int kDepthMax = 64;
constexpr std::size_t kTextMax = 16 << 10;

using Pointer = std::shared_ptr<const Expression>;

std::int64_t PowerOfTen(int exponent) {
  std::int64_t power = 1;
  while (exponent-- > 0) power *= 10;
  return power;
}

Error Overflow() { return InvalidArgument("a number became larger than 63 bits hold"); }

bool IsNumeric(const Type& type) { return type.kind == TypeKind::kNumber || type.kind == TypeKind::kReal || type.kind == TypeKind::kCondition; }

// Null where one of them is.
void AddNulls(const Column& other, Column* to) {
  if (other.nulls.empty()) return;
  to->nulls.resize(other.nulls.size());
  for (std::size_t i = 0; i < other.nulls.size(); ++i) to->nulls[i] |= other.nulls[i];
}

// --- Parts of expressions

class ColumnReference final : public Expression {
 public:
  ColumnReference(std::size_t index, Type type) : index_(index), type_(type) {}
  Type type() const override { return type_; }
  Status Evaluate(const Batch& batch, Column* to) const override {
    *to = batch.columns[index_];
    return {};
  }
  void MarkColumns(std::vector<bool>& needed) const override { needed[index_] = true; }

 private:
  const std::size_t index_;
  const Type type_;
};

class Literal final : public Expression {
 public:
  Literal(Type type, std::int64_t number, double real, std::string text) : type_(type), number_(number), real_(real), text_(std::move(text)) {}
  Type type() const override { return type_; }
  Status Evaluate(const Batch& batch, Column* to) const override {
    to->nulls.clear();
    if (type_.kind == TypeKind::kText) to->texts.assign(batch.rows, text_);
    else if (type_.kind == TypeKind::kReal) to->reals.assign(batch.rows, real_);
    else to->numbers.assign(batch.rows, number_);
    return {};
  }
  void MarkColumns(std::vector<bool>&) const override {}
  const std::string& text() const { return text_; }

 private:
  const Type type_;
  const std::int64_t number_;
  const double real_;
  const std::string text_;
};

// As another numeric type: a larger scale, or real.
class Conversion final : public Expression {
 public:
  Conversion(Pointer of, Type to) : of_(std::move(of)), type_(to) {}
  Type type() const override { return type_; }
  Status Evaluate(const Batch& batch, Column* to) const override {
    Column from;
    GODWIT_TRY(of_->Evaluate(batch, &from));
    to->nulls = std::move(from.nulls);
    if (type_.kind == TypeKind::kReal) {
      const double divisor = static_cast<double>(PowerOfTen(of_->type().scale));
      to->reals.resize(batch.rows);
      for (std::size_t i = 0; i < batch.rows; ++i) to->reals[i] = static_cast<double>(from.numbers[i]) / divisor;
      return {};
    }
    const std::int64_t factor = PowerOfTen(type_.scale - of_->type().scale);
    bool over = false;
    to->numbers.resize(batch.rows);
    for (std::size_t i = 0; i < batch.rows; ++i) over |= __builtin_mul_overflow(from.numbers[i], factor, &to->numbers[i]);
    return over ? Status(Overflow()) : Status();
  }
  void MarkColumns(std::vector<bool>& needed) const override { of_->MarkColumns(needed); }

 private:
  const Pointer of_;
  const Type type_;
};

Pointer Convert(Pointer of, Type to) { return of->type() == to ? of : std::make_shared<Conversion>(std::move(of), to); }

// Both as one type; false if they have none.
bool Unify(Pointer* left, Pointer* right) {
  const Type a = (*left)->type(), b = (*right)->type();
  if (a == b && a.kind != TypeKind::kCondition) return true;
  if (!IsNumeric(a) || !IsNumeric(b)) return false;
  Type common{TypeKind::kNumber, std::max(a.scale, b.scale)};
  if (a.kind == TypeKind::kReal || b.kind == TypeKind::kReal) common = {TypeKind::kReal, 0};
  *left = a.kind == TypeKind::kReal ? *left : Convert(*left, common);
  *right = b.kind == TypeKind::kReal ? *right : Convert(*right, common);
  return true;
}

enum class Comparator { kEqual, kNotEqual, kLess, kLessEqual, kGreater, kGreaterEqual };

template <typename T>
void CompareAll(Comparator comparator, const std::vector<T>& a, const std::vector<T>& b, std::vector<std::int64_t>& to) {
  const auto all = [&](auto compare) {
    for (std::size_t i = 0; i < to.size(); ++i) to[i] = compare(a[i], b[i]);
  };
  switch (comparator) {
    case Comparator::kEqual: return all(std::equal_to<>());
    case Comparator::kNotEqual: return all(std::not_equal_to<>());
    case Comparator::kLess: return all(std::less<>());
    case Comparator::kLessEqual: return all(std::less_equal<>());
    case Comparator::kGreater: return all(std::greater<>());
    case Comparator::kGreaterEqual: return all(std::greater_equal<>());
  }
}

class Comparison final : public Expression {
 public:
  Comparison(Comparator comparator, Pointer left, Pointer right) : comparator_(comparator), left_(std::move(left)), right_(std::move(right)) {}
  Type type() const override { return {TypeKind::kCondition, 0}; }
  Status Evaluate(const Batch& batch, Column* to) const override {
    Column a, b;
    GODWIT_TRY(left_->Evaluate(batch, &a));
    GODWIT_TRY(right_->Evaluate(batch, &b));
    to->numbers.resize(batch.rows);
    to->nulls = std::move(a.nulls);
    AddNulls(b, to);
    const TypeKind kind = left_->type().kind;
    if (kind == TypeKind::kText) CompareAll(comparator_, a.texts, b.texts, to->numbers);
    else if (kind == TypeKind::kReal) CompareAll(comparator_, a.reals, b.reals, to->numbers);
    else CompareAll(comparator_, a.numbers, b.numbers, to->numbers);
    return {};
  }
  void MarkColumns(std::vector<bool>& needed) const override {
    left_->MarkColumns(needed);
    right_->MarkColumns(needed);
  }

 private:
  const Comparator comparator_;
  const Pointer left_, right_;
};

class Logic final : public Expression {
 public:
  // `right` null: not.
  Logic(bool both, Pointer left, Pointer right) : both_(both), left_(std::move(left)), right_(std::move(right)) {}
  Type type() const override { return {TypeKind::kCondition, 0}; }
  Status Evaluate(const Batch& batch, Column* to) const override {
    GODWIT_TRY(left_->Evaluate(batch, to));
    if (!right_) {
      for (std::int64_t& value : to->numbers) value = !value;
      return {};
    }
    Column other;
    GODWIT_TRY(right_->Evaluate(batch, &other));
    if (!to->nulls.empty() || !other.nulls.empty()) {
      // Null, unless a side that is not decides: false of 'and', true of 'or'.
      std::vector<std::uint8_t> nulls(batch.rows);
      for (std::size_t i = 0; i < batch.rows; ++i) {
        const bool a = to->IsNull(i), b = other.IsNull(i);
        nulls[i] = (a && (b || (other.numbers[i] != 0) == both_)) || (b && (to->numbers[i] != 0) == both_);
        if (a) to->numbers[i] = both_;
        if (b) other.numbers[i] = both_;
      }
      to->nulls = std::move(nulls);
    }
    for (std::size_t i = 0; i < batch.rows; ++i) {
      to->numbers[i] = both_ ? to->numbers[i] & other.numbers[i] : to->numbers[i] | other.numbers[i];
    }
    return {};
  }
  void MarkColumns(std::vector<bool>& needed) const override {
    left_->MarkColumns(needed);
    if (right_) right_->MarkColumns(needed);
  }

 private:
  const bool both_;
  const Pointer left_, right_;
};

class Arithmetic final : public Expression {
 public:
  Arithmetic(char operation, Pointer left, Pointer right, Type type)
      : operation_(operation), left_(std::move(left)), right_(std::move(right)), type_(type) {}
  Type type() const override { return type_; }
  Status Evaluate(const Batch& batch, Column* to) const override {
    Column b;
    GODWIT_TRY(left_->Evaluate(batch, to));
    GODWIT_TRY(right_->Evaluate(batch, &b));
    AddNulls(b, to);
    if (type_.kind == TypeKind::kReal) {
      for (std::size_t i = 0; i < batch.rows; ++i) {
        double& value = to->reals[i];
        switch (operation_) {
          case '+': value += b.reals[i]; break;
          case '-': value -= b.reals[i]; break;
          case '*': value *= b.reals[i]; break;
          default: value /= b.reals[i];
        }
      }
      return {};
    }
    bool over = false;
    const auto all = [&](auto operate) {
      for (std::size_t i = 0; i < batch.rows; ++i) over |= operate(to->numbers[i], b.numbers[i], &to->numbers[i]);
    };
    if (operation_ == '+') all([](std::int64_t x, std::int64_t y, std::int64_t* z) { return __builtin_add_overflow(x, y, z); });
    else if (operation_ == '-') all([](std::int64_t x, std::int64_t y, std::int64_t* z) { return __builtin_sub_overflow(x, y, z); });
    else all([](std::int64_t x, std::int64_t y, std::int64_t* z) { return __builtin_mul_overflow(x, y, z); });
    return over ? Status(Overflow()) : Status();
  }
  void MarkColumns(std::vector<bool>& needed) const override {
    left_->MarkColumns(needed);
    right_->MarkColumns(needed);
  }

 private:
  const char operation_;
  const Pointer left_, right_;
  const Type type_;
};

// % is any text, _ any byte. Linear: after a mismatch it goes back to the last %.
bool Like(std::string_view text, std::string_view pattern) {
  std::size_t t = 0, p = 0, star = std::string_view::npos, resume = 0;
  while (t < text.size()) {
    if (p < pattern.size() && pattern[p] == '%') {
      star = p++;
      resume = t;
    } else if (p < pattern.size() && (pattern[p] == '_' || pattern[p] == text[t])) {
      ++p;
      ++t;
    } else if (star != std::string_view::npos) {
      p = star + 1;
      t = ++resume;
    } else {
      return false;
    }
  }
  while (p < pattern.size() && pattern[p] == '%') ++p;
  return p == pattern.size();
}

class LikeTest final : public Expression {
 public:
  LikeTest(Pointer of, std::string pattern) : of_(std::move(of)), pattern_(std::move(pattern)) {}
  Type type() const override { return {TypeKind::kCondition, 0}; }
  Status Evaluate(const Batch& batch, Column* to) const override {
    Column from;
    GODWIT_TRY(of_->Evaluate(batch, &from));
    to->numbers.resize(batch.rows);
    for (std::size_t i = 0; i < batch.rows; ++i) to->numbers[i] = Like(from.texts[i], pattern_);
    to->nulls = std::move(from.nulls);
    return {};
  }
  void MarkColumns(std::vector<bool>& needed) const override { of_->MarkColumns(needed); }

 private:
  const Pointer of_;
  const std::string pattern_;
};

class NullTest final : public Expression {
 public:
  NullTest(Pointer of, bool wanted) : of_(std::move(of)), wanted_(wanted) {}
  Type type() const override { return {TypeKind::kCondition, 0}; }
  Status Evaluate(const Batch& batch, Column* to) const override {
    Column from;
    GODWIT_TRY(of_->Evaluate(batch, &from));
    to->nulls.clear();
    to->numbers.resize(batch.rows);
    for (std::size_t i = 0; i < batch.rows; ++i) to->numbers[i] = from.IsNull(i) == wanted_;
    return {};
  }
  void MarkColumns(std::vector<bool>& needed) const override { of_->MarkColumns(needed); }

 private:
  const Pointer of_;
  const bool wanted_;
};

// --- The parser: recursive descent, one function a level

class Parser {
 public:
  Parser(std::string_view text, const std::vector<ColumnDescription>& columns) : text_(text), columns_(columns) {}

  Result<Pointer> Whole() {
    if (text_.size() > kTextMax) return InvalidArgument(fmt::format("an expression has at most {} characters", kTextMax));
    GODWIT_ASSIGN(auto expression, Or());
    Space();
    if (at_ < text_.size()) return Bad("what follows is not understood");
    return expression;
  }

 private:
  Error Bad(std::string_view what) const {
    const std::string_view rest = text_.substr(std::min(at_, text_.size()), 20);
    return InvalidArgument(fmt::format("expression, character {}: {} (at '{}')", at_ + 1, what, rest));
  }
  void Space() {
    while (at_ < text_.size() && (text_[at_] == ' ' || text_[at_] == '\t' || text_[at_] == '\n' || text_[at_] == '\r')) ++at_;
  }
  static bool InWord(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' || c == '.'; }
  bool Symbol(std::string_view symbol) {
    Space();
    if (text_.substr(at_, symbol.size()) != symbol) return false;
    at_ += symbol.size();
    return true;
  }
  bool Word(std::string_view word) {
    Space();
    if (text_.size() - at_ < word.size() || (text_.size() - at_ > word.size() && InWord(text_[at_ + word.size()]))) return false;
    for (std::size_t i = 0; i < word.size(); ++i) {
      if ((text_[at_ + i] | 0x20) != word[i]) return false;
    }
    at_ += word.size();
    return true;
  }
  Status Part() { return ++parts_ <= kPartsMax ? Status() : Status(Bad(fmt::format("more than {} parts", kPartsMax))); }
  Result<Pointer> Condition(Pointer of) {
    if (of->type().kind != TypeKind::kCondition) return Bad("a condition is expected before here");
    return of;
  }

  Result<Pointer> Or() {
    if (++depth_ > kDepthMax) return Bad("nested too deeply");
    GODWIT_ASSIGN(auto left, And());
    while (Word("or")) {
      GODWIT_TRY(Part());
      GODWIT_ASSIGN(auto a, Condition(std::move(left)));
      GODWIT_ASSIGN(auto right, And());
      GODWIT_ASSIGN(auto b, Condition(std::move(right)));
      left = std::make_shared<Logic>(false, std::move(a), std::move(b));
    }
    --depth_;
    return left;
  }
  Result<Pointer> And() {
    GODWIT_ASSIGN(auto left, Not());
    while (Word("and")) {
      GODWIT_TRY(Part());
      GODWIT_ASSIGN(auto a, Condition(std::move(left)));
      GODWIT_ASSIGN(auto right, Not());
      GODWIT_ASSIGN(auto b, Condition(std::move(right)));
      left = std::make_shared<Logic>(true, std::move(a), std::move(b));
    }
    return left;
  }
  Result<Pointer> Not() {
    bool negated = false;
    while (Word("not")) {
      GODWIT_TRY(Part());
      negated = !negated;
    }
    GODWIT_ASSIGN(auto of, Compared());
    if (!negated) return of;
    GODWIT_ASSIGN(auto condition, Condition(std::move(of)));
    return Pointer(std::make_shared<Logic>(false, std::move(condition), nullptr));
  }
  Result<Pointer> Compare(Comparator comparator, Pointer left, Pointer right) {
    GODWIT_TRY(Part());
    if (!Unify(&left, &right)) {
      return Bad(fmt::format("{} and {} cannot be compared", ToString(left->type()), ToString(right->type())));
    }
    return Pointer(std::make_shared<Comparison>(comparator, std::move(left), std::move(right)));
  }
  Result<Pointer> Compared() {
    GODWIT_ASSIGN(auto left, Sum());
    static constexpr std::pair<std::string_view, Comparator> kComparators[] = {
        {"!=", Comparator::kNotEqual}, {"<>", Comparator::kNotEqual}, {"<=", Comparator::kLessEqual}, {">=", Comparator::kGreaterEqual},
        {"=", Comparator::kEqual},     {"<", Comparator::kLess},      {">", Comparator::kGreater}};
    for (const auto& [symbol, comparator] : kComparators) {
      if (!Symbol(symbol)) continue;
      GODWIT_ASSIGN(auto right, Sum());
      return Compare(comparator, std::move(left), std::move(right));
    }
    if (Word("between")) {
      GODWIT_ASSIGN(auto least, Sum());
      if (!Word("and")) return Bad("'between' needs 'and'");
      GODWIT_ASSIGN(auto most, Sum());
      GODWIT_ASSIGN(auto above, Compare(Comparator::kGreaterEqual, left, std::move(least)));
      GODWIT_ASSIGN(auto below, Compare(Comparator::kLessEqual, left, std::move(most)));
      return Pointer(std::make_shared<Logic>(true, std::move(above), std::move(below)));
    }
    if (Word("in")) {
      if (!Symbol("(")) return Bad("'in' needs a list in parentheses");
      Pointer any;
      do {
        GODWIT_ASSIGN(auto one, Sum());
        GODWIT_ASSIGN(auto equal, Compare(Comparator::kEqual, left, std::move(one)));
        any = any ? std::make_shared<Logic>(false, std::move(any), std::move(equal)) : std::move(equal);
      } while (Symbol(","));
      if (!Symbol(")")) return Bad("the list of 'in' does not end");
      return any;
    }
    if (Word("is")) {
      GODWIT_TRY(Part());
      const bool wanted = !Word("not");
      if (!Word("null")) return Bad("'is' needs 'null' or 'not null'");
      return Pointer(std::make_shared<NullTest>(std::move(left), wanted));
    }
    if (Word("like")) {
      GODWIT_TRY(Part());
      GODWIT_ASSIGN(const auto pattern, Factor());
      const auto* literal = dynamic_cast<const Literal*>(pattern.get());
      if (literal == nullptr || literal->type().kind != TypeKind::kText || left->type().kind != TypeKind::kText) {
        return Bad("'like' compares a text with a pattern in quotes");
      }
      return Pointer(std::make_shared<LikeTest>(std::move(left), literal->text()));
    }
    return left;
  }
  Result<Pointer> Operate(char operation, Pointer left, Pointer right) {
    GODWIT_TRY(Part());
    if (!IsNumeric(left->type()) || !IsNumeric(right->type())) {
      return Bad(fmt::format("'{}' needs numbers, not {} and {}", operation, ToString(left->type()), ToString(right->type())));
    }
    if (operation == '/') {
      left = left->type().kind == TypeKind::kReal ? left : Convert(std::move(left), {TypeKind::kReal, 0});
      right = right->type().kind == TypeKind::kReal ? right : Convert(std::move(right), {TypeKind::kReal, 0});
    }
    Type type;
    if (operation == '*' && left->type().kind != TypeKind::kReal && right->type().kind != TypeKind::kReal) {
      type = {TypeKind::kNumber, left->type().scale + right->type().scale};
      if (type.scale > kScaleMax) return Bad(fmt::format("the product has more than {} digits after the point", kScaleMax));
    } else {
      Unify(&left, &right);
      type = left->type();
      if (type.kind == TypeKind::kCondition) type.kind = TypeKind::kNumber;
    }
    return Pointer(std::make_shared<Arithmetic>(operation, std::move(left), std::move(right), type));
  }
  Result<Pointer> Sum() {
    GODWIT_ASSIGN(auto left, Product());
    for (;;) {
      const char operation = Symbol("+") ? '+' : Symbol("-") ? '-' : 0;
      if (operation == 0) return left;
      GODWIT_ASSIGN(auto right, Product());
      GODWIT_ASSIGN(left, Operate(operation, std::move(left), std::move(right)));
    }
  }
  Result<Pointer> Product() {
    GODWIT_ASSIGN(auto left, Factor());
    for (;;) {
      const char operation = Symbol("*") ? '*' : Symbol("/") ? '/' : 0;
      if (operation == 0) return left;
      GODWIT_ASSIGN(auto right, Factor());
      GODWIT_ASSIGN(left, Operate(operation, std::move(left), std::move(right)));
    }
  }
  Result<std::string> Quoted() {
    std::string text;
    for (++at_; at_ < text_.size(); ++at_) {
      if (text_[at_] != '\'') {
        text += text_[at_];
      } else if (text_.substr(at_, 2) == "''") {
        text += text_[at_++];
      } else {
        ++at_;
        return text;
      }
    }
    return Bad("a text in quotes does not end");
  }
  Result<Pointer> NumberLiteral() {
    const std::size_t begin = at_;
    while (at_ < text_.size() && (InWord(text_[at_]) || ((text_[at_] == '-' || text_[at_] == '+') && (text_[at_ - 1] | 0x20) == 'e'))) ++at_;
    const std::string_view digits = text_.substr(begin, at_ - begin);
    if (digits.find_first_of("eE") != digits.npos) {
      double real = 0;
      const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), real);
      if (error != std::errc() || end != digits.data() + digits.size()) return Bad("not a number before here");
      return Pointer(std::make_shared<Literal>(Type{TypeKind::kReal, 0}, 0, real, ""));
    }
    const std::size_t point = digits.find('.');
    const int scale = point == digits.npos ? 0 : static_cast<int>(digits.size() - point - 1);
    if (scale > kScaleMax) return Bad(fmt::format("a number has at most {} digits after the point", kScaleMax));
    const auto number = ParseNumber(digits, scale);
    if (!number.ok()) return Bad(number.error().message);
    return Pointer(std::make_shared<Literal>(Type{TypeKind::kNumber, scale}, *number, 0, ""));
  }
  Result<Pointer> Factor() {
    GODWIT_TRY(Part());
    Space();
    if (at_ >= text_.size()) return Bad("the expression ends too soon");
    if (Symbol("(")) {
      GODWIT_ASSIGN(auto inner, Or());
      if (!Symbol(")")) return Bad("')' is missing");
      return inner;
    }
    if (Symbol("-")) {
      if (++depth_ > kDepthMax) return Bad("nested too deeply");
      GODWIT_ASSIGN(auto of, Factor());
      --depth_;
      return Operate('-', std::make_shared<Literal>(Type{TypeKind::kNumber, 0}, 0, 0, ""), std::move(of));
    }
    if (text_[at_] == '\'') {
      GODWIT_ASSIGN(auto text, Quoted());
      return Pointer(std::make_shared<Literal>(Type{TypeKind::kText, 0}, 0, 0, std::move(text)));
    }
    if (text_[at_] >= '0' && text_[at_] <= '9') return NumberLiteral();
    const std::size_t begin = at_;
    if (Word("date")) {
      Space();
      if (at_ < text_.size() && text_[at_] == '\'') {
        GODWIT_ASSIGN(const auto text, Quoted());
        const auto days = ParseDate(text);
        if (!days.ok()) return Bad(days.error().message);
        return Pointer(std::make_shared<Literal>(Type{TypeKind::kDate, 0}, *days, 0, ""));
      }
      at_ = begin;  // A column of that name.
    }
    while (at_ < text_.size() && InWord(text_[at_])) ++at_;
    const std::string_view name = text_.substr(begin, at_ - begin);
    if (name.empty()) return Bad("a column, a number or a text is expected");
    for (std::size_t i = 0; i < columns_.size(); ++i) {
      if (columns_[i].name == name) return Pointer(std::make_shared<ColumnReference>(i, columns_[i].type));
    }
    at_ = begin;
    return Bad(fmt::format("no column is called '{}'", name));
  }

  const std::string_view text_;
  const std::vector<ColumnDescription>& columns_;
  std::size_t at_ = 0;
  int parts_ = 0, depth_ = 0;
};

}  // namespace

Result<std::shared_ptr<const Expression>> Expression::Parse(std::string_view text, const std::vector<ColumnDescription>& columns) {
  return Parser(text, columns).Whole();
}

Result<Type> ParseType(std::string_view text) {
  if (text == "int") return Type{TypeKind::kNumber, 0};
  if (text == "real") return Type{TypeKind::kReal, 0};
  if (text == "text") return Type{TypeKind::kText, 0};
  if (text == "date") return Type{TypeKind::kDate, 0};
  constexpr std::string_view kDecimal = "decimal(";
  if (text.substr(0, kDecimal.size()) == kDecimal && text.back() == ')') {
    int scale = -1;
    const char* end = text.data() + text.size() - 1;
    const auto [stopped, error] = std::from_chars(text.data() + kDecimal.size(), end, scale);
    if (error == std::errc() && stopped == end && scale >= 0 && scale <= kScaleMax) return Type{TypeKind::kNumber, scale};
  }
  return InvalidArgument(fmt::format("'{}' is no type: int, decimal(0..{}), real, text, date", text, kScaleMax));
}

std::string ToString(const Type& type) {
  switch (type.kind) {
    case TypeKind::kNumber: return type.scale == 0 ? "int" : fmt::format("decimal({})", type.scale);
    case TypeKind::kReal: return "real";
    case TypeKind::kText: return "text";
    case TypeKind::kDate: return "date";
    case TypeKind::kCondition: return "condition";
  }
  return "";
}

Result<std::int64_t> ParseNumber(std::string_view text, int scale) {
  const auto bad = [&] { return InvalidArgument(fmt::format("'{}' is no number with at most {} digits after the point", text.substr(0, 40), scale)); };
  std::size_t at = 0;
  const bool negative = !text.empty() && text[0] == '-';
  if (negative || (!text.empty() && text[0] == '+')) ++at;
  if (at == text.size()) return bad();
  std::uint64_t value = 0;
  int after = -1;  // Digits after the point.
  for (; at < text.size(); ++at) {
    if (text[at] == '.' && after < 0) {
      after = 0;
      continue;
    }
    const auto digit = static_cast<unsigned>(text[at] - '0');
    if (digit > 9 || (after >= 0 && ++after > scale) || value > (~0ull >> 1) / 10) return bad();
    value = value * 10 + digit;
  }
  for (after = std::max(after, 0); after < scale; ++after) {
    if (value > (~0ull >> 1) / 10) return bad();
    value *= 10;
  }
  if (value > ~0ull >> 1) return bad();
  return negative ? -static_cast<std::int64_t>(value) : static_cast<std::int64_t>(value);
}

// Days since 1970 of a proleptic Gregorian date, by counting from March, so that leap days come last (Howard Hinnant,
// "chrono-Compatible Low-Level Date Algorithms").
Result<std::int64_t> ParseDate(std::string_view text) {
  const auto number = [&](std::size_t at, std::size_t count) {
    int value = 0;
    for (std::size_t i = at; i < at + count; ++i) {
      if (text[i] < '0' || text[i] > '9') return -1;
      value = value * 10 + (text[i] - '0');
    }
    return value;
  };
  const bool shaped = text.size() == 10 && text[4] == '-' && text[7] == '-';
  const int year = shaped ? number(0, 4) : -1, month = shaped ? number(5, 2) : -1, day = shaped ? number(8, 2) : -1;
  static constexpr int kDays[] = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
  const bool leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
  if (year < 0 || month < 1 || month > 12 || day < 1 || day > kDays[month - 1] + (month == 2 && leap ? 1 : 0)) {
    return InvalidArgument(fmt::format("'{}' is no date YYYY-MM-DD", text.substr(0, 40)));
  }
  const int y = month <= 2 ? year - 1 : year;
  const int era = (y >= 0 ? y : y - 399) / 400, of_era = y - era * 400;
  const int of_year = (153 * (month + (month > 2 ? -3 : 9)) + 2) / 5 + day - 1;
  return static_cast<std::int64_t>(era) * 146097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719468;
}

void AppendNumber(__int128 value, int scale, std::string& to) {
  char digits[48];
  int count = 0;
  const bool negative = value < 0;
  unsigned __int128 rest = negative ? -static_cast<unsigned __int128>(value) : static_cast<unsigned __int128>(value);
  while (rest > 0 || count <= scale) {
    digits[count++] = static_cast<char>('0' + static_cast<int>(rest % 10));
    rest /= 10;
  }
  if (negative) to += '-';
  while (count > 0) {
    to += digits[--count];
    if (count == scale && scale > 0) to += '.';
  }
}

void AppendDate(std::int64_t days, std::string& to) {
  const std::int64_t z = days + 719468, era = (z >= 0 ? z : z - 146096) / 146097, of_era = z - era * 146097;
  const std::int64_t year_of_era = (of_era - of_era / 1460 + of_era / 36524 - of_era / 146096) / 365;
  const std::int64_t of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100), month_from_march = (5 * of_year + 2) / 153;
  const std::int64_t day = of_year - (153 * month_from_march + 2) / 5 + 1, month = month_from_march + (month_from_march < 10 ? 3 : -9);
  fmt::format_to(std::back_inserter(to), "{:04}-{:02}-{:02}", year_of_era + era * 400 + (month <= 2 ? 1 : 0), month, day);
}

}  // namespace godwit::device
