// godwit bench device: what a small request to a device of this machine takes, what one command saves over many, and how fast
// the built-in functions go through data in memory, beside code written for the one question.
#include <fmt/format.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <numeric>
#include <random>

#include "bench.h"
#include "bench_samples.h"
#include "device/arrow_generated.h"
#include "device/built_in.h"
#include "device/engine.h"
#include "device/expression.h"
#include "device/ring.h"

namespace godwit::cli {
namespace {

namespace arrow = device::arrow;
using nlohmann::json;
using Clock = std::chrono::steady_clock;

constexpr int kRoundsMax = 1000, kRoundTrips = 2000;
constexpr std::size_t kTableBytes = 64 << 20;

double SinceUs(Clock::time_point begin) { return std::chrono::duration<double, std::micro>(Clock::now() - begin).count(); }

// A process of its own; it ends with this object.
class Child {
 public:
  template <typename F>
  explicit Child(F work) : pid_(fork()) {
    if (pid_ == 0) {
      work();
      _exit(0);
    }
  }
  ~Child() {
    kill(pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
  }
  Child(const Child&) = delete;

 private:
  const pid_t pid_;
};

device::Engine::Options EngineOptions() {
  device::Engine::Options options;
  options.profile.name = "bench";
  options.profile.memory = options.profile.tenant_memory = {256 << 20};
  options.built_in = device::BuiltInFunctions();
  return options;
}

device::Request Execute(device::BuiltIn function, const std::string& arguments) {
  static std::uint64_t next = 1;
  device::Request request;
  request.id = next++;
  request.opcode = device::Opcode::kExecute;
  request.function = static_cast<std::uint32_t>(function);
  request.data.assign(arguments.begin(), arguments.end());
  return request;
}

Result<device::Capability> Store(device::Device& device, ByteView bytes) {
  device::Request allocate;
  allocate.opcode = device::Opcode::kAllocate;
  allocate.bytes = bytes.size();
  const device::Completion allocated = device.Call(allocate);
  GODWIT_TRY(allocated.status);
  for (std::size_t at = 0; at < bytes.size(); at += device::kDataBytesMax) {
    device::Request write;
    write.opcode = device::Opcode::kWrite;
    const ByteView part = bytes.subspan(at, std::min(device::kDataBytesMax, bytes.size() - at));
    write.data.assign(part.begin(), part.end());
    write.ranges = {{allocated.capability, at, part.size()}};
    GODWIT_TRY(device.Call(write).status);
  }
  return allocated.capability;
}

// Runs to the end; its output.
Result<std::string> RunAll(device::Device& device, device::Request request) {
  std::string output;
  for (;;) {
    device::Completion completion = device.Call(request);
    GODWIT_TRY(completion.status);
    output += AsText(completion.data);
    if (!completion.more) return output;
    request.state = std::move(completion.state);
  }
}

// --- Small requests

class Small {
 public:
  static Result<std::unique_ptr<Small>> Create() {
    auto small = std::unique_ptr<Small>(new Small);
    int ends[2];
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, ends) != 0) return ErrnoError("making a socket pair");
    small->socket_ = ends[0];
    small->echo_ = std::make_unique<Child>([&] {
      char message[64];
      while (recv(ends[1], message, sizeof message, MSG_WAITALL) == sizeof message && send(ends[1], message, sizeof message, 0) > 0) {
      }
    });
    close(ends[1]);
    small->path_ = std::filesystem::temp_directory_path() / fmt::format("godwit-bench-{}", getpid());
    small->server_ = std::make_unique<Child>([&] {
      device::Engine engine(EngineOptions());
      const auto server = device::RingServer::Listen(small->path_, engine);
      for (;;) pause();
    });
    Result<std::unique_ptr<device::Device>> device = Error{Unavailable("not connected")};
    for (int i = 0; i < 500 && !device.ok(); ++i) {
      device = device::ConnectRing(small->path_);
      if (!device.ok()) usleep(10'000);
    }
    if (!device.ok()) return device.error();
    small->device_ = std::move(*device);
    GODWIT_ASSIGN(small->memory_, Store(*small->device_, Bytes(64, 7)));
    // A random cycle through 4096 records of 64 bytes.
    std::vector<std::uint64_t> order(4096);
    std::iota(order.begin(), order.end(), 0);
    std::shuffle(order.begin(), order.end(), std::mt19937(3));
    Bytes table(order.size() * 64);
    for (std::size_t i = 0; i < order.size(); ++i) std::memcpy(table.data() + order[i] * 64, &order[(i + 1) % order.size()], 8);
    GODWIT_ASSIGN(small->table_, Store(*small->device_, table));
    return small;
  }
  ~Small() {
    if (socket_ >= 0) close(socket_);
    device_.reset();
    std::error_code ignored;
    std::filesystem::remove(path_, ignored);
  }
  Status Checksum(Samples& us) {
    for (int i = 0; i < kRoundTrips; ++i) {
      device::Request request = Execute(device::BuiltIn::kChecksum, "");
      request.ranges = {{memory_, 0, 64}};
      const auto begin = Clock::now();
      const device::Completion completion = device_->Call(std::move(request));
      us.values.push_back(SinceUs(begin));
      GODWIT_TRY(completion.status);
    }
    return {};
  }
  Status Echo(Samples& us) {
    char message[64] = {};
    for (int i = 0; i < kRoundTrips; ++i) {
      const auto begin = Clock::now();
      if (send(socket_, message, sizeof message, 0) != sizeof message || recv(socket_, message, sizeof message, MSG_WAITALL) != sizeof message) {
        return ErrnoError("the echo process");
      }
      us.values.push_back(SinceUs(begin));
    }
    return {};
  }
  // `hops` dependent look-ups, in one command or one command each.
  Status Chase(bool one_command, Samples& us) {
    constexpr int kHops = 8;
    for (int i = 0; i < kRoundTrips / 4; ++i) {
      std::uint64_t at = static_cast<std::uint64_t>(i) * 7 % 4096;
      const auto begin = Clock::now();
      for (int hop = 0; hop < (one_command ? 1 : kHops); ++hop) {
        device::Request request = Execute(device::BuiltIn::kChase, fmt::format("{{\"record_bytes\":64,\"start\":[{}],\"depth\":{}}}", at, one_command ? kHops - 1 : 0));
        request.ranges = {{table_, 0, table_.bytes}};
        const device::Completion completion = device_->Call(std::move(request));
        GODWIT_TRY(completion.status);
        std::memcpy(&at, completion.data.data(), 8);
      }
      us.values.push_back(SinceUs(begin));
    }
    return {};
  }

 private:
  Small() = default;
  std::filesystem::path path_;
  int socket_ = -1;
  std::unique_ptr<Child> server_, echo_;
  std::unique_ptr<device::Device> device_;
  device::Capability memory_, table_;
};

// --- Built-in functions over a table in memory, shaped as TPC-H's lineitem (own values, not the specification's generator)

std::string Table() {
  std::mt19937 random(42);
  std::string text;
  text.reserve(kTableBytes + 256);
  static constexpr const char* kModes[] = {"MAIL", "SHIP", "RAIL", "AIR", "TRUCK", "FOB", "REG AIR"};
  for (int row = 1; text.size() < kTableBytes; ++row) {
    fmt::format_to(std::back_inserter(text), "{}|{}|{}|{}|{}|{}.{:02}|0.{:02}|0.{:02}|{}|{}|{}-{:02}-{:02}|{}-{:02}-{:02}|1996-03-22|DELIVER IN PERSON|{}|carefully final deposits {}|\n",
                   row / 4 + 1, random() % 200000, random() % 10000, row % 4 + 1, 1 + random() % 50, 900 + random() % 100000, random() % 100,
                   random() % 11, random() % 9, "ANR"[random() % 3], "OF"[random() % 2], 1992 + random() % 7, 1 + random() % 12,
                   1 + random() % 28, 1992 + random() % 7, 1 + random() % 12, 1 + random() % 28, kModes[random() % 7], random() % 1000);
  }
  return text;
}

constexpr const char* kRevenue =
    R"J({"delimiter": "|", "columns": ["okey int", "pkey int", "skey int", "line int", "quantity int", "price decimal(2)", "discount decimal(2)", "tax decimal(2)", "flag text", "status text", "shipped date"],
"where": "shipped >= date '1994-01-01' and shipped < date '1995-01-01' and discount between 0.05 and 0.07 and quantity < 24",
"aggregates": ["sum(price * discount)"]})J";

constexpr const char* kArrowRevenue =
    R"J({"format": "arrow", "columns": ["quantity int", "price decimal(2)", "discount decimal(2)", "shipped date"],
"where": "shipped >= date '1994-01-01' and shipped < date '1995-01-01' and discount between 0.05 and 0.07 and quantity < 24",
"aggregates": ["sum(price * discount)"]})J";

// The table's columns up to its comment as an Arrow stream, in record batches of 64 Ki rows.
class ArrowTable {
 public:
  explicit ArrowTable(std::string_view text) {
    WriteSchema();
    for (std::size_t at = 0; at < text.size();) {
      Row(text.substr(at, text.find('\n', at) - at));
      at = text.find('\n', at) + 1;
      if (++rows_ == kBatch || at >= text.size()) WriteBatch();
    }
    bytes_.append("\xff\xff\xff\xff\0\0\0\0", 8);
  }
  const std::string& bytes() const { return bytes_; }
  // Of the columns that kArrowRevenue reads.
  std::size_t read_bytes() const { return read_bytes_; }

 private:
  enum class Kind { kInt, kDecimal, kText, kDate };
  struct Column {
    const char* name;
    Kind kind;
    std::string data, offsets = std::string(4, '\0');
  };
  static constexpr std::uint32_t kBatch = 64 << 10;

  void Row(std::string_view line) {
    for (Column& column : columns_) {
      const std::size_t end = line.find('|');
      const std::string_view field = line.substr(0, end);
      line.remove_prefix(end + 1);
      switch (column.kind) {
        case Kind::kText: {
          column.data += field;
          const auto size = static_cast<std::uint32_t>(column.data.size());
          column.offsets.append(reinterpret_cast<const char*>(&size), 4);
          break;
        }
        case Kind::kDecimal: {
          const std::int64_t words[] = {device::ParseNumber(field, 2).value(), 0};
          column.data.append(reinterpret_cast<const char*>(words), sizeof words);
          break;
        }
        default: {
          const auto value = static_cast<std::int32_t>(column.kind == Kind::kDate ? device::ParseDate(field).value() : device::ParseNumber(field, 0).value());
          column.data.append(reinterpret_cast<const char*>(&value), 4);
        }
      }
    }
  }
  template <typename Header>
  void WriteMessage(flatbuffers::FlatBufferBuilder& builder, arrow::MessageHeader kind, flatbuffers::Offset<Header> header, const std::string& body) {
    builder.Finish(arrow::CreateMessage(builder, arrow::MetadataVersion::V5, kind, header.Union(), static_cast<std::int64_t>(body.size())));
    const std::uint32_t size = (builder.GetSize() + 7) / 8 * 8;
    bytes_.append("\xff\xff\xff\xff", 4).append(reinterpret_cast<const char*>(&size), 4);
    bytes_.append(reinterpret_cast<const char*>(builder.GetBufferPointer()), builder.GetSize()).append(size - builder.GetSize(), '\0');
    bytes_ += body;
  }
  void WriteSchema() {
    flatbuffers::FlatBufferBuilder builder;
    std::vector<flatbuffers::Offset<arrow::Field>> fields;
    for (const Column& column : columns_) {
      flatbuffers::Offset<void> type;
      arrow::Type kind = arrow::Type::Int;
      switch (column.kind) {
        case Kind::kInt: type = arrow::CreateInt(builder, 32, true).Union(); break;
        case Kind::kDecimal: kind = arrow::Type::Decimal, type = arrow::CreateDecimal(builder, 15, 2).Union(); break;
        case Kind::kText: kind = arrow::Type::Utf8, type = arrow::CreateUtf8(builder).Union(); break;
        case Kind::kDate: kind = arrow::Type::Date, type = arrow::CreateDate(builder, arrow::DateUnit::DAY).Union(); break;
      }
      fields.push_back(arrow::CreateFieldDirect(builder, column.name, false, kind, type));
    }
    WriteMessage(builder, arrow::MessageHeader::Schema, arrow::CreateSchemaDirect(builder, arrow::Endianness::Little, &fields), "");
  }
  void WriteBatch() {
    std::string body;
    std::vector<arrow::FieldNode> nodes;
    std::vector<arrow::Buffer> buffers;
    const auto put = [&](const std::string& bytes) {
      buffers.emplace_back(static_cast<std::int64_t>(body.size()), static_cast<std::int64_t>(bytes.size()));
      body.append(bytes).append((64 - bytes.size() % 64) % 64, '\0');
    };
    for (Column& column : columns_) {
      nodes.emplace_back(rows_, 0);
      put("");  // No validity bits.
      if (column.kind == Kind::kText) put(column.offsets);
      put(column.data);
      if (std::string_view(kArrowRevenue).find(fmt::format("\"{} ", column.name)) != std::string_view::npos) read_bytes_ += column.data.size();
      column.data.clear();
      column.offsets.resize(4);
    }
    flatbuffers::FlatBufferBuilder builder;
    WriteMessage(builder, arrow::MessageHeader::RecordBatch, arrow::CreateRecordBatchDirect(builder, rows_, &nodes, &buffers), body);
    rows_ = 0;
  }

  std::vector<Column> columns_{{"okey", Kind::kInt},         {"pkey", Kind::kInt},        {"skey", Kind::kInt},     {"line", Kind::kInt},
                               {"quantity", Kind::kInt},     {"price", Kind::kDecimal},   {"discount", Kind::kDecimal}, {"tax", Kind::kDecimal},
                               {"flag", Kind::kText},        {"status", Kind::kText},     {"shipped", Kind::kDate}};
  std::uint32_t rows_ = 0;
  std::string bytes_;
  std::size_t read_bytes_ = 0;
};

// Over one column after the other, as an engine for that question alone would.
std::string ArrowRevenueByHand(const std::vector<std::int32_t>& quantity, const std::vector<std::int64_t>& price,
                               const std::vector<std::int64_t>& discount, const std::vector<std::int32_t>& shipped) {
  const std::int64_t from = device::ParseDate("1994-01-01").value(), to = device::ParseDate("1995-01-01").value();
  std::int64_t sum = 0;
  for (std::size_t i = 0; i < quantity.size(); ++i) {
    const bool counts = shipped[i] >= from && shipped[i] < to && discount[2 * i] >= 5 && discount[2 * i] <= 7 && quantity[i] < 24;
    sum += counts ? price[2 * i] * discount[2 * i] : 0;
  }
  return fmt::format("{}.{:04}\n", sum / 10000, sum % 10000);
}

// The same question as a program for it alone would answer it.
std::string RevenueByHand(std::string_view text) {
  std::int64_t sum = 0;
  const char* at = text.data();
  const char* end = at + text.size();
  while (at < end) {
    const char* fields[12];
    int field = 0;
    fields[0] = at;
    const char* scan = at;
    for (; field < 11; ++scan) {
      if (*scan == '|') fields[++field] = scan + 1;
    }
    const char* line_end = static_cast<const char*>(std::memchr(scan, '\n', static_cast<std::size_t>(end - scan)));
    const auto number = [](const char* from) {
      std::int64_t value = 0;
      for (; *from != '|'; ++from) {
        if (*from != '.') value = value * 10 + (*from - '0');
      }
      return value;
    };
    const std::int64_t discount = number(fields[6]);
    if (std::memcmp(fields[10], "1994", 4) == 0 && discount >= 5 && discount <= 7 && number(fields[4]) < 24) sum += number(fields[5]) * discount;
    at = line_end != nullptr ? line_end + 1 : end;
  }
  return fmt::format("{}.{:04}\n", sum / 10000, sum % 10000);
}

std::string LinesWith(std::string_view text, std::string_view word) {
  std::string output;
  for (std::size_t at = 0; at < text.size();) {
    const void* found = memmem(text.data() + at, text.size() - at, word.data(), word.size());
    if (found == nullptr) break;
    const auto position = static_cast<std::size_t>(static_cast<const char*>(found) - text.data());
    const std::size_t before = text.rfind('\n', position), begin = before == text.npos ? 0 : before + 1, after = text.find('\n', position) + 1;
    output += text.substr(begin, after - begin);
    at = after;
  }
  return output;
}

}  // namespace

Result<int> BenchDevice(const BenchOptions& options) {
  if (options.rounds < 1 || options.rounds > kRoundsMax) return InvalidArgument("--rounds must be between 1 and 1000");
  // Before there are threads: both fork.
  GODWIT_ASSIGN(const auto small, Small::Create());
  struct Case {
    const char *name, *metric, *unit, *better, *baseline;
    Samples ours, theirs;
  };
  Case cases[] = {{"64 B in, 8 B out, another process", "round trip", "us", "lower", "64 B over a Unix socket", {}, {}},
                  {"8 dependent look-ups, another process", "all of them", "us", "lower", "one command each", {}, {}},
                  {"scan (sum of products, 4 conditions)", "throughput", "MB/s", "higher", "C++ for this question", {}, {}},
                  {"match (a word in few lines)", "throughput", "MB/s", "higher", "memmem", {}, {}},
                  {"checksum (CRC-32C)", "throughput", "MB/s", "higher", "adding up words", {}, {}},
                  {"scan of Arrow, the four columns read", "throughput", "MB/s", "higher", "C++ for this question", {}, {}},
                  {"scan of Arrow, all of the batches", "throughput", "MB/s", "higher", "C++ for this question", {}, {}}};
  device::Engine engine(EngineOptions());
  const std::string text = Table();
  GODWIT_ASSIGN(const device::Capability table, Store(engine, AsBytes(text)));
  const ArrowTable arrow_table(text);
  GODWIT_ASSIGN(const device::Capability arrow_memory, Store(engine, AsBytes(arrow_table.bytes())));
  const auto over = [&](const device::Capability& of, device::BuiltIn function, const std::string& arguments) {
    device::Request request = Execute(function, arguments);
    request.ranges = {{of, 0, of.bytes}};
    return RunAll(engine, std::move(request));
  };
  const auto over_table = [&](device::BuiltIn function, const std::string& arguments) { return over(table, function, arguments); };
  std::vector<std::int32_t> quantity, shipped;
  std::vector<std::int64_t> price, discount;
  for (std::size_t at = 0; at < text.size(); at = text.find('\n', at) + 1) {
    std::string_view fields[11], line = std::string_view(text).substr(at);
    for (std::string_view& field : fields) {
      field = line.substr(0, line.find('|'));
      line.remove_prefix(field.size() + 1);
    }
    quantity.push_back(static_cast<std::int32_t>(device::ParseNumber(fields[4], 0).value()));
    price.insert(price.end(), {device::ParseNumber(fields[5], 2).value(), 0});
    discount.insert(discount.end(), {device::ParseNumber(fields[6], 2).value(), 0});
    shipped.push_back(static_cast<std::int32_t>(device::ParseDate(fields[10]).value()));
  }
  const auto speed = [&](Clock::time_point begin) { return static_cast<double>(text.size()) / SinceUs(begin); };
  for (int round = 0; round < options.rounds; ++round) {
    if (options.progress) std::fprintf(stderr, "\r  round %d of %d", round + 1, options.rounds);
    GODWIT_TRY(small->Checksum(cases[0].ours));
    GODWIT_TRY(small->Echo(cases[0].theirs));
    GODWIT_TRY(small->Chase(true, cases[1].ours));
    GODWIT_TRY(small->Chase(false, cases[1].theirs));
    auto begin = Clock::now();
    GODWIT_ASSIGN(const std::string revenue, over_table(device::BuiltIn::kScan, kRevenue));
    cases[2].ours.values.push_back(speed(begin));
    begin = Clock::now();
    const std::string by_hand = RevenueByHand(text);
    cases[2].theirs.values.push_back(speed(begin));
    if (revenue != by_hand) return Internal("scan gives " + revenue + ", not " + by_hand);
    begin = Clock::now();
    GODWIT_ASSIGN(const std::string lines, over_table(device::BuiltIn::kMatch, R"({"pattern": "deposits 777"})"));
    cases[3].ours.values.push_back(speed(begin));
    begin = Clock::now();
    const std::string found = LinesWith(text, "deposits 777");
    cases[3].theirs.values.push_back(speed(begin));
    if (lines != found) return Internal("match and memmem differ");
    begin = Clock::now();
    GODWIT_TRY(over_table(device::BuiltIn::kChecksum, ""));
    cases[4].ours.values.push_back(speed(begin));
    begin = Clock::now();
    std::uint64_t sum = 0;
    for (std::size_t at = 0; at + 8 <= text.size(); at += 8) {
      std::uint64_t word;
      std::memcpy(&word, text.data() + at, 8);
      sum += word;
    }
    cases[4].theirs.values.push_back(speed(begin));
    if (sum == 0) return Internal("the table is empty");
    const auto arrow_speeds = [&](double us, bool ours) {
      for (const auto& [one, bytes] : {std::pair(&cases[5], arrow_table.read_bytes()), std::pair(&cases[6], arrow_table.bytes().size())}) {
        (ours ? one->ours : one->theirs).values.push_back(static_cast<double>(bytes) / us);
      }
    };
    begin = Clock::now();
    GODWIT_ASSIGN(const std::string of_arrow, over(arrow_memory, device::BuiltIn::kScan, kArrowRevenue));
    arrow_speeds(SinceUs(begin), true);
    begin = Clock::now();
    const std::string arrow_by_hand = ArrowRevenueByHand(quantity, price, discount, shipped);
    arrow_speeds(SinceUs(begin), false);
    if (of_arrow != by_hand || arrow_by_hand != by_hand) return Internal("the scan of Arrow gives " + of_arrow + ", not " + by_hand);
  }
  if (options.progress) std::fprintf(stderr, "\n");
  json results = json::array();
  if (!options.json) fmt::print("{:<38} {:<24} {:>5} {:>9} {:>9} {:>9} {:>9}\n", "CASE", "OF", "UNIT", "MEDIAN", "MIN", "MAX", "P99");
  for (const Case& one : cases) {
    results.push_back({{"case", {{"device", one.name}}}, {"metric", one.metric}, {"unit", one.unit}, {"better", one.better},
                       {"ours", one.ours.ToJson()}, {"baselines", {{one.baseline, one.theirs.ToJson()}}}, {"emulated", json::array()}});
    if (options.json) continue;
    for (const auto& [name, of] : {std::pair("godwit", &one.ours), std::pair(one.baseline, &one.theirs)}) {
      fmt::print("{:<38} {:<24} {:>5} {:>9.1f} {:>9.1f} {:>9.1f} {:>9.1f}\n", one.name, name, one.unit, of->Median(), of->Min(), of->Max(), of->At(0.99));
    }
  }
  if (options.json) std::printf("%s\n", BenchDocument("device", options.source, results).c_str());
  if (!options.html.empty()) GODWIT_TRY(WriteBenchPage("device", options.source, results, options.html));
  return kExitDone;
}

}  // namespace godwit::cli
