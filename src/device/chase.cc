// chase: dependent look-ups in one command. The part is a table of records of one size; each names the next one by its number,
// a 64-bit little-endian integer at `pointer` in the record. From each of `start`, `depth` pointers are followed; output: the
// records where they end, or all on the way (`path`). A number past the table ends a chase there.
#include <cstring>

#include <fmt/format.h>

#include "device/built_in.h"
#include "device/items.h"

namespace godwit::device {
namespace {

struct Plan {
  std::uint64_t record_bytes = 0, pointer = 0, depth = 0;
  bool path = false;
  std::vector<std::uint64_t> start;
};

class ChaseWork final : public ItemWork {
 public:
  ChaseWork(Plan plan, Part part, std::size_t next) : ItemWork(plan.start.size(), next), plan_(std::move(plan)), part_(part) {}

 private:
  Status Item(const Source& source, std::size_t number, Bytes* output) override {
    const std::uint64_t records = (part_.end - part_.begin) / plan_.record_bytes;
    std::uint64_t at = plan_.start[number];
    if (at >= records) return InvalidArgument(fmt::format("chase: there is no record {}; the part has {}", at, records));
    for (std::uint64_t hop = 0;; ++hop) {
      GODWIT_ASSIGN(const ByteView record, Read(source, part_.begin + at * plan_.record_bytes, plan_.record_bytes, "chase: record", at));
      std::uint64_t following;
      std::memcpy(&following, record.data() + plan_.pointer, sizeof following);
      const bool last = hop == plan_.depth || following >= records;
      if (plan_.path || last) output->insert(output->end(), record.begin(), record.end());
      if (last) return {};
      at = following;
    }
  }

  const Plan plan_;
  const Part part_;
};

class Chase final : public Function {
 public:
  std::string_view name() const override { return "chase"; }
  Result<std::unique_ptr<Work>> Begin(ByteView text, ByteView state, Part part) const override {
    constexpr std::uint64_t kRecordMax = 4096, kDepthMax = 16;  // All of one path fits one small step's output.
    Arguments arguments("arguments of chase", text);
    Plan plan;
    plan.record_bytes = arguments.Number("record_bytes", 0, 8, kRecordMax);
    plan.pointer = arguments.Number("pointer", 0, 0, kRecordMax);
    plan.depth = arguments.Number("depth", 1, 0, kDepthMax);
    plan.path = arguments.Flag("path", false);
    if (plan.record_bytes == 0) arguments.Fail("record_bytes", "is missing");
    else if (plan.pointer + 8 > plan.record_bytes) arguments.Fail("pointer", "is not inside of a record");
    for (const auto& number : arguments.List("start", 65536)) {
      if (!number.is_number_unsigned()) arguments.Fail("start", "must be a list of record numbers");
      else plan.start.push_back(number.get<std::uint64_t>());
    }
    GODWIT_TRY(arguments.Finish());
    GODWIT_ASSIGN(const std::size_t next, ItemWork::Next("chase", state, plan.start.size()));
    return std::unique_ptr<Work>(std::make_unique<ChaseWork>(std::move(plan), part, next));
  }
  bool brief(ByteView arguments, Part) const override { return arguments.size() <= 256; }
};

}  // namespace

std::shared_ptr<const Function> MakeChase() { return std::make_shared<Chase>(); }

}  // namespace godwit::device
