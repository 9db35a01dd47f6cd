// lookup, pairs and follow: look-ups in a table of key-value pairs (pairs.h). Output: a line for each pair, key, tab, value, with backslashes, tabs, line
// feeds and carriage returns written as \\, \t, \n and \r (as PostgreSQL's COPY does).
//
// follow makes dependent look-ups in one command: a value, or what its JSON has at `pointer`, is the next key.
#include <cstring>

#include <fmt/format.h>

#include "device/built_in.h"
#include "device/items.h"
#include "device/pairs.h"

namespace godwit::device {
namespace {

constexpr std::size_t kKeysMax = 65536;
constexpr std::uint64_t kDepthMax = 16;
constexpr std::size_t kOutputStep = 64 << 10;

void AppendEscaped(std::string_view text, Bytes* output) {
  for (const char c : text) {
    const char* escaped = c == '\\' ? "\\\\" : c == '\t' ? "\\t" : c == '\n' ? "\\n" : c == '\r' ? "\\r" : nullptr;
    if (escaped != nullptr) output->insert(output->end(), escaped, escaped + 2);
    else output->push_back(static_cast<std::uint8_t>(c));
  }
}

void AppendPair(std::string_view key, std::string_view value, Bytes* output) {
  AppendEscaped(key, output);
  output->push_back('\t');
  AppendEscaped(value, output);
  output->push_back('\n');
}

std::vector<std::string> Keys(Arguments& arguments, const char* name) {
  std::vector<std::string> keys;
  for (const auto& key : arguments.List(name, kKeysMax)) {
    if (!key.is_string()) {
      arguments.Fail(name, "must be a list of keys");
      break;
    }
    keys.push_back(key.get<std::string>());
  }
  return keys;
}

Status CheckWhole(const std::string& function, Part part) {
  return part.begin == 0 ? Status() : InvalidArgument(fmt::format("{}: a table of pairs has no parts", function));
}

// One list of keys, each with a chain of look-ups: of one for lookup.
class ChainWork final : public ItemWork {
 public:
  struct Plan {
    std::vector<std::string> keys;
    std::uint64_t depth = 0;
    bool path = false;
    std::optional<nlohmann::json::json_pointer> pointer;
  };
  ChainWork(Plan plan, std::size_t next) : ItemWork(plan.keys.size(), next), plan_(std::move(plan)) {}

 private:
  Status Item(const Source& source, std::size_t number, Bytes* output) override {
    if (&source != source_) {
      GODWIT_ASSIGN(table_, PairTable::Open(source));
      source_ = &source;
    }
    const std::uint64_t before = table_->read_bytes();
    const std::size_t begin = output->size();
    std::string key = plan_.keys[number], last_key, last_value;  // Of the last pair that was there.
    bool there = false;
    for (std::uint64_t hop = 0;; ++hop) {
      GODWIT_ASSIGN(const auto found, table_->Get(key));
      if (!found) break;
      there = true;
      last_key = key;
      last_value = *found;
      if (plan_.path) AppendPair(last_key, last_value, output);
      if (output->size() - begin > 2 * kPairBytesMax) return ResourceExhausted(fmt::format("follow: the pairs from '{}' on have more than {} bytes", plan_.keys[number], 2 * kPairBytesMax));
      std::optional<std::string> following = hop < plan_.depth ? Following(last_value) : std::nullopt;
      if (!following) break;
      key = std::move(*following);
    }
    if (!plan_.path && there) AppendPair(last_key, last_value, output);
    CountRead(table_->read_bytes() - before);
    return {};
  }
  std::optional<std::string> Following(const std::string& value) const {
    if (!plan_.pointer) return value;
    const auto document = nlohmann::json::parse(value, nullptr, false);
    if (document.is_discarded()) return std::nullopt;
    try {
      const auto& at = document.at(*plan_.pointer);
      if (at.is_string()) return at.get<std::string>();
      return at.is_number() ? std::optional(at.dump()) : std::nullopt;
    } catch (const nlohmann::json::exception&) {  // It is not there, or no array has such an index.
      return std::nullopt;
    }
  }

  const Plan plan_;
  const Source* source_ = nullptr;
  std::unique_ptr<PairTable> table_;
};

// lookup is follow that goes no step further.
class Chains final : public Function {
 public:
  explicit Chains(bool follows) : follows_(follows) {}
  std::string_view name() const override { return follows_ ? "follow" : "lookup"; }
  Result<std::unique_ptr<Work>> Begin(ByteView text, ByteView state, Part part) const override {
    const std::string name(this->name());
    GODWIT_TRY(CheckWhole(name, part));
    Arguments arguments("arguments of " + name, text);
    ChainWork::Plan plan;
    plan.keys = Keys(arguments, follows_ ? "start" : "keys");
    if (follows_) {
      plan.depth = arguments.Number("depth", 1, 0, kDepthMax);
      plan.path = arguments.Flag("path", false);
      const std::string pointer = arguments.Text("pointer", "");
      try {
        if (!pointer.empty()) plan.pointer.emplace(pointer);
      } catch (const nlohmann::json::exception&) {
        arguments.Fail("pointer", "must be a JSON pointer, as /next");
      }
    }
    GODWIT_TRY(arguments.Finish());
    GODWIT_ASSIGN(const std::size_t next, ItemWork::Next(name, state, plan.keys.size()));
    return std::unique_ptr<Work>(std::make_unique<ChainWork>(std::move(plan), next));
  }
  bool brief(ByteView arguments, Part) const override { return arguments.size() <= 256; }

 private:
  const bool follows_;
};

// Its state: pairs left (u64, little-endian), 1 if a key follows, the last key.
class PairsWork final : public Work {
 public:
  PairsWork(PairTable::Range range, std::uint64_t left) : range_(std::move(range)), left_(left) {}

  Result<bool> Run(const Source& source, const Pace& pace, Bytes* output) override {
    if (left_ == 0) return true;
    GODWIT_ASSIGN(const auto table, PairTable::Open(source));
    std::size_t step = 0;  // Bytes of output since the pace was asked.
    GODWIT_ASSIGN(const bool ended, table->Walk(range_, [&](std::string_view key, std::string_view value) {
      AppendPair(key, value, output);
      range_.from = key;
      range_.behind = true;
      if (--left_ == 0) return false;
      step += key.size() + value.size() + 32;
      // One more pair, escaped, always fits an answer that is not over.
      if (step < (16 << 10) && output->size() < kOutputStep) return true;
      step = 0;
      return !pace.Over(output->size());
    }));
    read_bytes_ += table->read_bytes();
    return ended || left_ == 0;
  }
  Result<Bytes> Save() override {
    Bytes state(sizeof left_);
    std::memcpy(state.data(), &left_, sizeof left_);
    state.push_back(range_.behind);
    if (range_.behind) state.insert(state.end(), range_.from.begin(), range_.from.end());
    return state;
  }
  std::uint64_t read_bytes() const override { return read_bytes_; }

 private:
  PairTable::Range range_;
  std::uint64_t left_, read_bytes_ = 0;
};

class Pairs final : public Function {
 public:
  std::string_view name() const override { return "pairs"; }
  Result<std::unique_ptr<Work>> Begin(ByteView text, ByteView state, Part part) const override {
    GODWIT_TRY(CheckWhole("pairs", part));
    Arguments arguments("arguments of pairs", text);
    PairTable::Range range;
    range.from = arguments.Text("from", "");
    if (arguments.Has("to")) range.to = arguments.Text("to", "");
    const std::string prefix = arguments.Text("prefix", "");
    if (!prefix.empty()) {
      if (!range.from.empty() || range.to) arguments.Fail("prefix", "cannot stand beside from and to");
      range.from = prefix;
      std::string after = prefix;  // The first text behind all that begin with it.
      while (!after.empty() && static_cast<std::uint8_t>(after.back()) == 0xff) after.pop_back();
      if (!after.empty()) range.to = after.substr(0, after.size() - 1) + static_cast<char>(after.back() + 1);
    }
    std::uint64_t left = arguments.Number("limit", ~0ull, 1, ~0ull);
    GODWIT_TRY(arguments.Finish());
    if (!state.empty()) {
      std::uint64_t saved;
      if (state.size() <= sizeof saved || state[sizeof saved] > 1) return Corrupt("state of pairs: it is none");
      std::memcpy(&saved, state.data(), sizeof saved);
      left = std::min(left, saved);
      if (state[sizeof saved] == 1) {
        range.from = AsText(state.subspan(sizeof saved + 1));
        range.behind = true;
      }
    }
    return std::unique_ptr<Work>(std::make_unique<PairsWork>(std::move(range), left));
  }
  bool brief(ByteView, Part) const override { return false; }
};

}  // namespace

std::shared_ptr<const Function> MakeLookup() { return std::make_shared<Chains>(false); }
std::shared_ptr<const Function> MakePairs() { return std::make_shared<Pairs>(); }
std::shared_ptr<const Function> MakeFollow() { return std::make_shared<Chains>(true); }

}  // namespace godwit::device
