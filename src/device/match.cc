// match: the lines of a part in which a regular expression (RE2's syntax) matches, as they are; or only how many.
#include <algorithm>

#include <fmt/format.h>
#include <re2/re2.h>

#include "device/arguments.h"
#include "device/built_in.h"
#include "device/lines.h"

namespace godwit::device {
namespace {

constexpr std::size_t kPatternMax = 4096;
constexpr std::int64_t kPatternMemory = 8 << 20;  // Of the compiled pattern and its automata.

struct Pattern {
  std::unique_ptr<re2::RE2> expression;
  bool count = false, invert = false;
};

class MatchWork final : public Work {
 public:
  MatchWork(Pattern pattern, Part part, std::optional<std::uint64_t> position, std::uint64_t count)
      : pattern_(std::move(pattern)), lines_(part, position), count_(count) {}

  Result<bool> Run(const Source& source, const Pace& pace, Bytes* output) override {
    for (;;) {
      GODWIT_ASSIGN(std::string_view run, lines_.Next(source));
      if (run.empty()) break;
      Search(run, output);
      if (pace.Over(output->size())) return false;
    }
    if (pattern_.count) {
      const std::string text = fmt::format("{}\n", count_);
      output->insert(output->end(), text.begin(), text.end());
    }
    return true;
  }
  Result<Bytes> Save() override {
    const std::string text = nlohmann::json{{"position", lines_.position()}, {"count", count_}}.dump();
    return Bytes(text.begin(), text.end());
  }
  std::uint64_t read_bytes() const override { return lines_.read_bytes(); }

 private:
  void Search(std::string_view run, Bytes* output) {
    const auto take = [&](std::string_view lines) {
      count_ += static_cast<std::uint64_t>(std::count(lines.begin(), lines.end(), '\n')) + (lines.empty() || lines.back() == '\n' ? 0 : 1);
      if (!pattern_.count) output->insert(output->end(), lines.begin(), lines.end());
    };
    // The whole run is searched at once, so that lines without a match cost nothing each.
    std::size_t done = 0;
    re2::StringPiece found;
    while (done < run.size() && pattern_.expression->Match(re2::StringPiece(run.data(), run.size()), done, run.size(), re2::RE2::UNANCHORED, &found, 1)) {
      const auto at = static_cast<std::size_t>(found.data() - run.data());
      if (at >= run.size()) break;  // The empty match after the last line's end.
      const std::size_t before = at == 0 ? std::string_view::npos : run.rfind('\n', at - 1);
      const std::size_t begin = std::max(done, before == std::string_view::npos ? 0 : before + 1);
      const std::size_t end = std::min(run.size(), run.find('\n', at) == std::string_view::npos ? run.size() : run.find('\n', at) + 1);
      take(pattern_.invert ? run.substr(done, begin - done) : run.substr(begin, end - begin));
      done = end;
    }
    if (pattern_.invert) take(run.substr(done));
  }

  const Pattern pattern_;
  Lines lines_;
  std::uint64_t count_;
};

class Match final : public Function {
 public:
  std::string_view name() const override { return "match"; }
  Result<std::unique_ptr<Work>> Begin(ByteView text, ByteView state, Part part) const override {
    Arguments arguments("arguments of match", text);
    const std::string expression = arguments.Text("pattern", "");
    Pattern pattern;
    pattern.count = arguments.Flag("count", false);
    pattern.invert = arguments.Flag("invert", false);
    re2::RE2::Options options;
    options.set_log_errors(false);
    options.set_max_mem(kPatternMemory);
    options.set_case_sensitive(!arguments.Flag("ignore_case", false));
    options.set_encoding(re2::RE2::Options::EncodingLatin1);  // Bytes: data need not be UTF-8.
    options.set_never_nl(true);  // A match lies in one line.
    options.set_posix_syntax(false);
    if (expression.empty() || expression.size() > kPatternMax) arguments.Fail("pattern", fmt::format("must have 1 to {} characters", kPatternMax));
    GODWIT_TRY(arguments.Finish());
    // ^ and $ are a line's ends.
    pattern.expression = std::make_unique<re2::RE2>("(?m)" + expression, options);
    if (!pattern.expression->ok()) return InvalidArgument("arguments of match: 'pattern': " + pattern.expression->error());
    std::optional<std::uint64_t> position;
    std::uint64_t count = 0;
    if (!state.empty()) {
      Arguments saved("state of match", state);
      position = saved.Number("position", part.begin, part.begin, ~0ull);
      count = saved.Number("count", 0, 0, ~0ull);
      if (const Status status = saved.Finish(); !status.ok()) return Corrupt(status.error().message);
    }
    return std::unique_ptr<Work>(std::make_unique<MatchWork>(std::move(pattern), part, position, count));
  }
  bool brief(ByteView, Part) const override { return false; }  // Compiling the pattern is not.
};

}  // namespace

std::shared_ptr<const Function> MakeMatch() { return std::make_shared<Match>(); }

}  // namespace godwit::device
