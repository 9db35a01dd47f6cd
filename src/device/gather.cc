// gather: for each list of row numbers, those rows of a matrix of 32-bit IEEE 754 numbers (little-endian, row after row from the
// part's begin), added up, or their mean. Output: one row per list. What RecSSD (ASPLOS 2021) does for recommendation models:
// megabytes of rows are read and only their sums leave the device.
#include <cstring>

#include <fmt/format.h>

#include "device/arguments.h"
#include "device/built_in.h"

namespace godwit::device {
namespace {

constexpr std::uint64_t kDimensionMax = 8192;
constexpr std::size_t kListsMax = 65536, kRowsMax = 1 << 20;

struct Plan {
  std::size_t dimension = 0;
  bool mean = false;
  std::vector<std::vector<std::uint64_t>> lists;
};

class GatherWork final : public Work {
 public:
  GatherWork(Plan plan, Part part, std::size_t next) : plan_(std::move(plan)), part_(part), next_(next) {}

  Result<bool> Run(const Source& source, const Pace& pace, Bytes* output) override {
    const std::size_t row_bytes = plan_.dimension * sizeof(float);
    const std::uint64_t rows = (part_.end - part_.begin) / row_bytes;
    std::vector<float> sum(plan_.dimension), row(plan_.dimension);
    while (next_ < plan_.lists.size()) {
      std::fill(sum.begin(), sum.end(), 0.0f);
      for (const std::uint64_t number : plan_.lists[next_]) {
        if (number >= rows) return InvalidArgument(fmt::format("gather: there is no row {}; the part has {}", number, rows));
        GODWIT_ASSIGN(const ByteView window, source.Window(part_.begin + number * row_bytes, row_bytes, scratch_));
        if (window.size() != row_bytes) return Corrupt(fmt::format("gather: row {} ends too soon", number));
        std::memcpy(row.data(), window.data(), row_bytes);
        for (std::size_t i = 0; i < plan_.dimension; ++i) sum[i] += row[i];
        read_bytes_ += row_bytes;
      }
      if (plan_.mean && !plan_.lists[next_].empty()) {
        for (float& value : sum) value /= static_cast<float>(plan_.lists[next_].size());
      }
      const auto* bytes = reinterpret_cast<const std::uint8_t*>(sum.data());
      output->insert(output->end(), bytes, bytes + row_bytes);
      if (++next_ < plan_.lists.size() && pace.Over(output->size())) return false;
    }
    return true;
  }
  Result<Bytes> Save() override {
    const std::string text = nlohmann::json{{"next", next_}}.dump();
    return Bytes(text.begin(), text.end());
  }
  std::uint64_t read_bytes() const override { return read_bytes_; }

 private:
  const Plan plan_;
  const Part part_;
  std::size_t next_;
  std::uint64_t read_bytes_ = 0;
  Bytes scratch_;
};

class Gather final : public Function {
 public:
  std::string_view name() const override { return "gather"; }
  Result<std::unique_ptr<Work>> Begin(ByteView text, ByteView state, Part part) const override {
    Arguments arguments("arguments of gather", text);
    Plan plan;
    plan.dimension = arguments.Number("dimension", 0, 1, kDimensionMax);
    const std::string reduce = arguments.Text("reduce", "sum");
    plan.mean = reduce == "mean";
    if (reduce != "sum" && reduce != "mean") arguments.Fail("reduce", "must be sum or mean");
    std::size_t rows = 0;
    for (const auto& list : arguments.List("lists", kListsMax)) {
      auto& numbers = plan.lists.emplace_back();
      for (const auto& number : list) {
        if (!list.is_array() || !number.is_number_unsigned() || ++rows > kRowsMax) {
          arguments.Fail("lists", fmt::format("must be lists of row numbers, at most {} in all", kRowsMax));
          break;
        }
        numbers.push_back(number.get<std::uint64_t>());
      }
    }
    if (plan.dimension == 0) arguments.Fail("dimension", "is missing");
    GODWIT_TRY(arguments.Finish());
    std::size_t next = 0;
    if (!state.empty()) {
      Arguments saved("state of gather", state);
      next = saved.Number("next", 0, 0, plan.lists.size());
      if (const Status status = saved.Finish(); !status.ok()) return Corrupt(status.error().message);
    }
    return std::unique_ptr<Work>(std::make_unique<GatherWork>(std::move(plan), part, next));
  }
  bool brief(ByteView arguments, Part) const override { return arguments.size() <= 1024; }
};

}  // namespace

std::shared_ptr<const Function> MakeGather() { return std::make_shared<Gather>(); }

}  // namespace godwit::device
