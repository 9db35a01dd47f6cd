// gather: for each list of row numbers, those rows of a matrix of 32-bit IEEE 754 numbers (little-endian, row after row from the
// part's begin), added up, or their mean. Output: one row per list. What RecSSD (ASPLOS 2021) does for recommendation models:
// megabytes of rows are read and only their sums leave the device.
#include <cstring>

#include <fmt/format.h>

#include "device/built_in.h"
#include "device/items.h"

namespace godwit::device {
namespace {

constexpr std::uint64_t kDimensionMax = 8192;
constexpr std::size_t kListsMax = 65536, kRowsMax = 1 << 20;

struct Plan {
  std::size_t dimension = 0;
  bool mean = false;
  std::vector<std::vector<std::uint64_t>> lists;
};

class GatherWork final : public ItemWork {
 public:
  GatherWork(Plan plan, Part part, std::size_t next)
      : ItemWork(plan.lists.size(), next), plan_(std::move(plan)), part_(part), sum_(plan_.dimension), row_(plan_.dimension) {}

 private:
  Status Item(const Source& source, std::size_t number, Bytes* output) override {
    const std::size_t row_bytes = plan_.dimension * sizeof(float);
    const std::uint64_t rows = (part_.end - part_.begin) / row_bytes;
    std::fill(sum_.begin(), sum_.end(), 0.0f);
    for (const std::uint64_t row : plan_.lists[number]) {
      if (row >= rows) return InvalidArgument(fmt::format("gather: there is no row {}; the part has {}", row, rows));
      GODWIT_ASSIGN(const ByteView window, Read(source, part_.begin + row * row_bytes, row_bytes, "gather: row", row));
      std::memcpy(row_.data(), window.data(), row_bytes);
      for (std::size_t i = 0; i < plan_.dimension; ++i) sum_[i] += row_[i];
    }
    if (plan_.mean && !plan_.lists[number].empty()) {
      for (float& value : sum_) value /= static_cast<float>(plan_.lists[number].size());
    }
    const auto* bytes = reinterpret_cast<const std::uint8_t*>(sum_.data());
    output->insert(output->end(), bytes, bytes + row_bytes);
    return {};
  }

  const Plan plan_;
  const Part part_;
  std::vector<float> sum_, row_;
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
    GODWIT_ASSIGN(const std::size_t next, ItemWork::Next("gather", state, plan.lists.size()));
    return std::unique_ptr<Work>(std::make_unique<GatherWork>(std::move(plan), part, next));
  }
  bool brief(ByteView arguments, Part) const override { return arguments.size() <= 1024; }
};

}  // namespace

std::shared_ptr<const Function> MakeGather() { return std::make_shared<Gather>(); }

}  // namespace godwit::device
